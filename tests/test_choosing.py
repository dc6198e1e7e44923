"""Which answers a person is asked about: the policies on hand-made cases."""

import random

import pytest

from superalign.learners import FlipRates
from superalign.scenarios.choosing import (
    Candidate,
    choose,
    contradicted,
    expected_gain,
    p_wrong,
    rank,
    simulate,
)
from superalign.scenarios.labelling import label_case
from superalign.scenarios.scenario import HumanLabels
from superalign.store import Critique, Question

FLIPS = FlipRates(accepted=0.2, rejected=0.1)


@pytest.fixture
def judged(make):
    """`judged((text, fault, confidence)…)`: an episode whose answers a critic judged."""

    def build(*answers, id="e", source="ai"):
        turns, critiques = [], []
        for i, (text, fault, confidence) in enumerate(answers):
            said = make.turn(key=f"1:n:0/learner:{i}", text=text)
            found = make.turn(key=f"2:n:0/critic:{i}", kind="critique", source=source)
            turns += [said, found]
            critiques.append(
                Critique(turn=found.key, about=said.key, fault=fault, confidence=confidence)
            )
        facts = {"fault": {c.about: c.fault for c in critiques}}
        return make.episode(*turns, id=id, critiques=tuple(critiques), facts=facts)

    return build


def candidates(episode):
    return [Candidate(episode, critique) for critique in episode.critiques]


def texts(found):
    return [candidate.answer.text for candidate in found]


def test_random_takes_them_as_they_come(judged):
    found = candidates(judged(("a", None, 0.9), ("b", 1, 0.1)))
    assert rank(found, "random", FLIPS) == found


def test_the_least_confident_come_first(judged):
    said = judged(("a", None, 0.9), ("b", 1, 0.6), ("sure", 1, None), ("c", None, 0.6))
    assert texts(rank(candidates(said), "least_confident", FLIPS)) == ["b", "c", "a", "sure"]


def test_escalated_is_only_what_calls_for_a_person(judged):
    said = judged(
        ("sure", None, 0.9), ("b", 1, 0.6), ("torn", 1, 1.0), ("torn", None, 0.95), ("c", 1, 0.2)
    )
    found = candidates(said)
    assert [contradicted(c) for c in found] == [False, False, True, True, False]
    ranked = rank(found, "escalate", FLIPS)
    assert texts(ranked) == ["torn", "torn", "c", "b"]
    assert [c.confidence for c in ranked] == [0.95, 1.0, 0.2, 0.6]
    assert rank(candidates(judged(("a", None, None))), "escalate", FLIPS) == []


def test_the_same_words_in_another_episode_contradict_nothing(judged):
    one, other = judged(("a", None, 1.0)), judged(("a", 1, 1.0), id="f")
    assert not any(map(contradicted, candidates(one) + candidates(other)))


@pytest.mark.parametrize(
    ("fault", "confidence", "source", "p"),
    [
        (None, 1.0, "ai", 0.2),
        (1, 1.0, "ai", 0.1),
        (None, None, "ai", 0.2),
        (None, 0.5, "ai", 0.6),
        (1, 0.5, "ai", 0.55),
        (1, 1.0, "human", 0.0),
        (1, 1.0, "oracle", 0.0),
    ],
)
def test_how_likely_the_critic_is_wrong(fault, confidence, source, p, judged):
    (found,) = candidates(judged(("a", fault, confidence), source=source))
    assert p_wrong(found, FLIPS) == pytest.approx(p)


def test_expected_gain_is_p_wrong_times_rows(judged):
    said = judged(("good", None, 1.0), ("bad", 1, 1.0), ("worse", 1, 0.9), ("torn", 1, 0.5),
                  ("torn", None, 0.5))  # fmt: skip
    gain = expected_gain(FLIPS, "learner")
    # rows: sft(good), pref(good, bad), pref(good, worse); a torn text takes part in none
    gains = [0.2 * 3, 0.1 * 1, (1 - 0.9 * 0.9) * 1, 0.0, 0.0]
    found = candidates(said)
    assert [gain(c) for c in found] == pytest.approx(gains)
    assert texts(rank(found, "expected_gain", FLIPS))[:3] == ["good", "worse", "bad"]


def chosen(episodes, quota, seed=0, **human):
    return choose(episodes, HumanLabels(**human), quota, random.Random(seed), FLIPS)


@pytest.fixture
def many(judged):
    return [
        judged(*((f"{i}{j}", j or None, (i + 1) / (j + 11)) for j in range(4)), id=f"e{i}")
        for i in range(10)
    ]


@pytest.mark.parametrize("policy", ["random", "least_confident", "expected_gain"])
@pytest.mark.parametrize("quota", [0, 1, 2, 7, 40, 99])
def test_half_is_an_audit_and_the_budget_is_kept(policy, quota, many):
    found = chosen(many, quota, policy=policy)
    assert len(found) == min(quota, 40)
    audits = [c for c in found if c.why == "audit"]
    assert len(audits) == min((quota + 1) // 2, 40)
    assert {c.why for c in found} <= {"audit", policy}
    places = {(c.candidate.episode.id, c.candidate.critique.about) for c in found}
    assert len(places) == len(found)


def test_the_audit_does_not_depend_on_the_policy(many):
    audits = [
        [c for c in chosen(many, 9, policy=policy) if c.why == "audit"]
        for policy in ("random", "least_confident", "escalate", "expected_gain")
    ]
    assert all(audit == audits[0] for audit in audits)
    assert [c for c in chosen(many, 9, seed=1) if c.why == "audit"] != audits[0]


def test_escalation_may_leave_budget_unspent(judged):
    calm = [judged(("a", None, 1.0), ("b", 1, 1.0), id=str(i)) for i in range(5)]
    assert [c.why for c in chosen(calm, 8, policy="escalate")] == ["audit"] * 4


@pytest.mark.parametrize(("double", "twice"), [(0.0, 0), (0.25, 2), (0.3, 2), (0.01, 1), (1.0, 5)])
def test_two_people_see_a_share_of_the_audit(double, twice, many):
    found = chosen(many, 10, double=double)
    assert [c.raters for c in found] == [2] * twice + [1] * (10 - twice)
    assert all(c.why == "audit" for c in found if c.raters == 2)


def test_a_turn_that_was_judged_twice_is_one_case(judged):
    said = judged(("a", None, 1.0))
    (first,) = said.critiques
    again = first.model_copy(update={"turn": said.turns[1].key, "fault": 1})
    twice = said.model_copy(update={"critiques": (first, again)})
    (only,) = chosen([twice], 4)
    assert only.candidate.critique == again


def test_a_simulated_human_knows_the_truth_but_for_the_noise(many):
    found = chosen(many, 40)
    right = list(simulate(found, 0.0, random.Random(0)))
    assert all(x.correct == (c.candidate.critique.fault is None) for x, c in zip(right, found))  # noqa: B905
    noisy = list(simulate(found, 0.4, random.Random(0)))
    assert 5 < sum(a.correct != b.correct for a, b in zip(right, noisy, strict=True)) < 27
    assert {x.author for x in noisy} == {"simulated human"}


def test_a_label_s_case_shows_neither_who_nor_why(make):
    said = make.turn(key="1:n:0/learner:00", text="2+2=4", policy="learner-3")
    topic = Question(topic="carries", text="2+2")
    case, shown = label_case(make.episode(said, question=topic), said, "least_confident", 2)
    assert [(m.role, m.content) for m in shown] == [
        ("question", "2+2"),
        ("answer", "2+2=4"),
        ("label", "Is this answer right?"),
    ]
    assert case.messages == tuple(m.hash for m in shown)
    assert (case.turn, case.kind, case.why, case.raters) == (
        said.key,
        "label",
        "least_confident",
        2,
    )
