"""Critics, refiners and tamperers: what is kept, what is earned, what is learnt, and what leaks."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.protocols import Protocol, load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.constitutional import PRINCIPLES, constitutional, drawn
from superalign.protocols.critic_comparison import caught, critic_comparison, hits
from superalign.protocols.critic_debate import critic_debate, hacking
from superalign.protocols.dcr import dcr
from superalign.protocols.detection import measured
from superalign.protocols.readings import doubt, sentences
from superalign.protocols.self_refine import best, self_refine
from superalign.store import Turn

TWO = {"revisions": 6, "principles": ["Be kind.", "Be brief."]}


@pytest.mark.parametrize(
    ("name", "params", "calls"),
    [
        ("critic_debate", {}, 11),
        ("critic_debate", {"plies": "ab", "votes": 2, "samples": 3}, 10),
        ("critic_debate", {"plies": "aba", "votes": 1, "samples": 2}, 6),
        ("self_refine", {}, 18),
        ("self_refine", {"refinements": 1}, 6),
        ("constitutional", {}, 17),
        ("constitutional", TWO, 17),
        ("dcr", {}, 5),
        ("dcr", {"rounds": 3}, 11),
        ("critic_comparison", {}, 7),
    ],
)
async def test_it_is_sound_and_asks_so_often(name, params, calls):
    protocol = load_protocol(name)
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


async def test_of_the_single_player_only_the_silent_critic_is_said():
    report = await check_protocol(critic_debate, critic_debate.params({"plies": "a"}))
    assert [(found.kind, found.where) for found in report.problems] == [("silent seat", "bob")]


def learnt(protocol: Protocol, episode: Any, seat: str, store: Any) -> list[Any]:
    def prompt_of(turn: Any) -> tuple[Any, ...]:
        return tuple(store.messages(turn.messages)[key] for key in turn.messages)

    assert protocol.rule is not None
    return list(protocol.rule(episode, seat, prompt_of))


# critic_debate


def voter(right: int) -> Any:
    """A judge who says `right` so many times of those it is asked about one game."""
    return lambda request: "right" if int(request.key[-2:]) < right else "wrong"


@pytest.mark.parametrize(
    ("right", "value", "answer", "alice"),
    [
        (8, "right", "4", 1.0),
        (5, "right", "4", 0.625),
        (4, "split", None, 0.5),
        (0, "wrong", None, 0),
    ],
)
@pytest.mark.parametrize("plies", ["a", "ab", "aba"])
async def test_alice_and_bob_share_the_votes(plies, right, value, answer, alice, setting, play):
    stage = setting(
        critic_debate, {"plies": plies}, alice=["4"], bob=["Critique: 1"], judge=voter(right)
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.verdict.answer) == (value, answer)
    bob = None if plies == "a" else 1 - alice
    assert ended.rewards == {"alice": alice, "bob": bob, "judge": right / 8}
    kinds = [turn.kind for turn in ended.turns if turn.seat != "judge"]
    assert kinds == ["answer", "critique", "rebuttal"][: len(plies)]


@pytest.mark.parametrize(
    ("critique", "rebuttal", "alice", "bob"),
    [(10, 10, 0.5, 0.5), (14, 10, 0.5, 0.1), (10, 25, -1.0, 0.5)],
)
async def test_words_above_the_limit_cost_what_they_exceed_it_by(
    critique, rebuttal, alice, bob, setting, play
):
    def speaker(request: Any) -> str:
        return "4" if request.view.ask.kind == "answer" else "so " * rebuttal

    objection = "no " * (critique - 2) + "\nCritique: 1"
    params = {"words": 10}
    stage = setting(critic_debate, params, alice=speaker, bob=[objection], judge=voter(4))
    (ended,) = await play(stage)
    assert ended.rewards["alice"] == pytest.approx(alice)
    assert ended.rewards["bob"] == pytest.approx(bob)


async def test_the_last_ply_diverges_and_its_best_sample_is_learnt(setting, play, store):
    """The judge believes the second rebuttal every time, the first half of the times."""

    def alice(request: Any) -> str:
        return "4" if request.view.ask.kind == "answer" else f"rebuttal {request.key[-2:]}"

    def judge(request: Any) -> str:
        said, vote = request.view.ask.about[-1].text, int(request.key[-2:])
        return "right" if vote < {"00": 2, "01": 4, "02": 1}[said[-2:]] else "wrong"

    params = {"votes": 4, "samples": 3}
    stage = setting(critic_debate, params, alice=alice, bob=["Critique: 1"], judge=judge)
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.rewards["alice"]) == ("split", 0.5)  # the first counts
    (pair,) = learnt(critic_debate, ended, "alice", store)
    assert pair.replies == ("rebuttal 01", "rebuttal 02")
    assert pair.flip_prob == pytest.approx(1 / (1 + math.exp(1.0 - 0.25)))
    assert learnt(critic_debate, ended, "bob", store) == []


async def test_bob_learns_what_costs_alice_votes(setting, play, store):
    def bob(request: Any) -> str:
        return f"objection {request.key[-2:]}\nCritique: 1"

    def judge(request: Any) -> str:
        return "wrong" if "objection 01" in request.view.ask.about[-1].text else "right"

    params = {"plies": "ab", "votes": 1, "samples": 2}
    (ended,) = await play(setting(critic_debate, params, alice=["4"], bob=bob, judge=judge))
    (pair,) = learnt(critic_debate, ended, "bob", store)
    assert [text.split()[1] for text in pair.replies] == ["01", "00"]


async def test_a_hacked_judge_shows_as_reward_without_correlation(setting, play, make):
    """Both judges give Alice the same mean reward; one of them reads the answer."""

    def alice(request: Any) -> str:
        return "4" if request.seed % 2 else "5"

    async def gauge(judge: Any, name: str) -> Any:
        stage = setting(
            critic_debate, {"plies": "a", "votes": 1}, alice=alice, bob=["x"], judge=judge
        )
        made = [p.model_copy(update={"id": f"{name}-{p.index}"}) for p in make.plans(24)]
        return hacking(await play(stage, made))

    reads = await gauge(lambda r: "right" if r.view.ask.about[0].text == "4" else "wrong", "reads")
    fooled = await gauge(["right"], "fooled")
    assert reads[1] == 1.0
    assert fooled[0] == 1.0 > reads[0]
    assert fooled[1] is None  # one vote for all: it correlates with nothing


# self_refine


def refiner(*texts: str) -> Any:
    """A learner that writes these answers in turn."""
    return lambda request: texts[request.nth]


def prefers(*order: str) -> Any:
    """A judge of two answers by a ranking."""

    def reply(request: Any) -> str:
        first, second = (order.index(turn.text) for turn in request.view.ask.about)
        return "first" if first < second else "second"

    return reply


@pytest.mark.parametrize(
    ("texts", "kept"), [(("5", "4", "6"), "4"), (("4", "5", "6"), "4"), (("6", "5", "4"), "4")]
)
async def test_the_best_answer_is_kept_not_the_last(texts, kept, setting, play, store):
    stage = setting(
        self_refine,
        {"refinements": 2},
        learner=refiner(*texts),
        critic=["1"],
        judge=prefers("4", "5", "6"),
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == best(ended.turns).text == kept
    assert ended.rewards == {"learner": 1.0, "critic": pytest.approx(2 / 3), "judge": 1.0}
    pairs = [row.replies for row in learnt(self_refine, ended, "learner", store)]
    assert pairs == ([] if texts[0] == "4" else [("4", texts[0])])


async def test_a_judge_who_goes_by_position_changes_nothing(setting, play, store):
    stage = setting(
        self_refine, learner=refiner(*"56789"), critic=["1"], judge=["Comparison: second"]
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == "5"
    assert learnt(self_refine, ended, "learner", store) == []


async def test_it_ends_when_the_critic_is_content(setting, play, forbidden):
    stage = setting(self_refine, learner=["5"], critic=["all good\nCritique: ok"], judge=forbidden)
    (ended,) = await play(stage)
    assert (len(ended.turns), ended.verdict.answer) == (2, "5")
    assert ended.rewards == {"learner": 0.0, "critic": 0.0, "judge": None}


async def test_the_learner_sees_all_answers_and_feedback_and_no_comparison(setting, play):
    seen = []

    def learner(request: Any) -> str:
        seen.append("".join(turn.kind[0] for turn in request.view.ask.about))
        return str(request.nth)

    await play(setting(self_refine, learner=learner, critic=["1"], judge=["first"]))
    assert seen == ["", "ac", "acac", "acacac", "acacacac"]


def test_doubt_is_what_the_judges_models_told(make):
    sure = make.turn(text="first", logprobs=(math.log(0.9),))
    unsure = make.turn(text="second", logprobs=(math.log(0.7),))
    reasoned = make.turn(text="because of this\nfirst", logprobs=(-30.0,))
    assert doubt([sure, unsure, reasoned]) == pytest.approx(0.2)
    assert doubt([reasoned, make.turn(text="first")]) == 0.0


# constitutional


def constitution(judge: Any) -> dict[str, Any]:
    def refine(request: Any) -> str:
        return f"revision {request.nth}"

    return {"learner": ["first"], "critic": ["a review"], "refiner": refine, "judge": judge}


def for_revision(share: float, n: int) -> Any:
    """A judge who finds the revision better under the first `share` of `n` principles."""

    def reply(request: Any) -> str:
        revised = [turn.text.startswith("revision") for turn in request.view.ask.about]
        wins = int(request.key[-4:-2]) < share * n
        return ("first", "second")[revised.index(wins)]

    return reply


@pytest.mark.parametrize(
    ("share", "stands", "pair", "flip"),
    [
        (1.0, "revision 3", ("revision 3", "first"), 0.0),
        (0.75, "revision 3", ("revision 3", "first"), 0.25),
        (0.5, "first", None, None),
        (0.25, "first", ("first", "revision 3"), 0.25),
    ],
)
async def test_a_revision_is_believed_as_far_as_the_check_goes(
    share, stands, pair, flip, setting, play, store
):
    (ended,) = await play(setting(constitutional, **constitution(for_revision(share, 4))))
    assert (ended.verdict.answer, ended.rewards["refiner"]) == (stands, share)
    *sft, last = learnt(constitutional, ended, "learner", store)
    if pair is None:
        sft.append(last)
    else:
        assert (last.kind, last.replies, last.flip_prob) == ("pref", pair, flip)
    assert [row.replies for row in sft] == [(f"revision {i}",) for i in range(4)]
    assert len({row.prompt for row in sft}) == 1


async def test_a_judge_who_goes_by_position_prefers_neither(setting, play):
    (ended,) = await play(setting(constitutional, **constitution(["first"])))
    assert (ended.verdict.answer, ended.verdict.confidence) == ("first", 0.5)


async def test_review_and_revision_of_a_step_are_given_one_principle(setting, play):
    told: dict[str, list[str]] = {"critic": [], "refiner": []}

    def watch(request: Any) -> str:
        words = request.messages[-1].content
        told[request.view.seat] += [name for name in PRINCIPLES if name in words]
        return "text"

    cast = {**constitution(["first"]), "critic": watch, "refiner": watch}
    await play(setting(constitutional, {"revisions": 8}, **cast))
    assert told["critic"] == told["refiner"]
    assert Counter(told["critic"]) == dict.fromkeys(PRINCIPLES, 2)


@given(st.integers(0, 2**60), st.integers(1, 8))
def test_no_principle_comes_again_before_all_were_used(seed, n):
    said: dict[str, Any] = {"kind": "answer", "text": "", "policy": "p"}
    first = Turn(key="k", seat="learner", messages=(), sampling={}, seed=seed, **said)
    names = tuple(f"principle {i}" for i in range(n))
    for deck in range(2):
        assert {drawn(first, names, deck * n + k) for k in range(n)} == set(names)


# dcr


DOCUMENT = {"A is red.", "B is blue.", "C is green.", "D costs 3.50 euros."}


def detector(request: Any) -> str:
    claim = request.view.ask.about[-1].text
    return "supported" if claim in DOCUMENT else "unsupported"


def mend(request: Any) -> str:
    """Replaces what the reviews quote."""
    answer, *reviews = request.view.ask.about
    text = answer.text
    for review in reviews:
        wrong, right = review.text.split(" -> ")
        text = text.replace(wrong, right)
    return text


def reviewer(request: Any) -> str:
    claim = request.view.ask.about[-1].text
    return f"{claim} -> {claim[0]} is {'red' if claim[0] == 'A' else 'blue'}."


async def test_only_flagged_sentences_are_criticised_and_mended(setting, play, store):
    stage = setting(
        dcr,
        learner=["A is red. B is pink. C is green."],
        detector=detector,
        critic=reviewer,
        refiner=mend,
    )
    (ended,) = await play(stage)
    assert [turn.text for turn in ended.by("critic")] == ["B is pink. -> B is blue."]
    assert ended.verdict.answer == "A is red. B is blue. C is green."
    assert measured(ended) == {"flags": [1, 0], "similarity": [8 / 9], "altered": [0.0]}
    assert ended.rewards == {
        "learner": pytest.approx(2 / 3),
        "critic": pytest.approx(1 / 3),
        "refiner": pytest.approx(1 / 3),
        "detector": None,
    }
    (pair,) = learnt(dcr, ended, "learner", store)
    assert pair.replies == (ended.verdict.answer, ended.turns[0].text)
    assert [r.replies for r in learnt(dcr, ended, "critic", store)] == [
        ("B is pink. -> B is blue.",)
    ]
    assert [r.replies for r in learnt(dcr, ended, "refiner", store)] == [(ended.verdict.answer,)]


async def test_an_answer_without_flags_is_left_alone(setting, play, forbidden):
    stage = setting(
        dcr,
        learner=["A is red. B is blue."],
        detector=detector,
        critic=forbidden,
        refiner=forbidden,
    )
    (ended,) = await play(stage)
    assert (len(ended.turns), ended.verdict.answer) == (3, "A is red. B is blue.")


@pytest.mark.parametrize(
    ("refined", "stands", "rows"),
    [
        ("A is grey. B is pink. C is odd.", 0, 0),  # more flags: the first answer stands
        ("D costs 3.50 euros.", 1, 0),  # no flags, but another text
    ],
)
async def test_a_refinement_that_is_worse_or_another_text_teaches_nothing(
    refined, stands, rows, setting, play, store
):
    stage = setting(
        dcr,
        learner=["A is red. B is pink. C is green."],
        detector=detector,
        critic=reviewer,
        refiner=[refined],
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == [ended.turns[0].text, refined][stands]
    for seat in ("learner", "critic", "refiner"):
        assert len(learnt(dcr, ended, seat, store)) == rows


def test_sentences_end_at_stops_lines_and_semicolons():
    assert sentences("It is 3.50. So?\nYes;1+1=2") == ["It is 3.50.", "So?", "Yes", "1+1=2"]


# critic_comparison


def tampering(report: str = "a slip in line 2\nCritique: 2", text: str = "5") -> Any:
    return lambda request: report if request.view.ask.kind == "critique" else text


def helpful(line: str) -> Any:
    """A judge who prefers the critique that names this line."""

    def reply(request: Any) -> str:
        first, _ = (turn.text for turn in request.view.ask.about[2:])
        return "first" if first.endswith(line) else "second"

    return reply


@pytest.mark.parametrize("finder", ["critic_a", "critic_b"])
async def test_the_critic_who_finds_the_inserted_fault_wins(finder, setting, play, store):
    other = {"critic_a": "critic_b", "critic_b": "critic_a"}[finder]
    cast = {finder: ["line 2\nCritique: 2"], other: ["Critique: 1"]}
    stage = setting(
        critic_comparison, learner=["4"], tamperer=tampering(), judge=helpful("2"), **cast
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, hits(ended)) == (finder, {finder: True, other: False})
    earned = {finder: 1.0, other: 0.0, "tamperer": 0.5, "judge": 1.0, "learner": 1.0}
    assert ended.rewards == earned
    for seat in (finder, other):  # the one may learn from the other, under its own prompt
        (pair,) = learnt(critic_comparison, ended, seat, store)
        assert (pair.seat, pair.replies) == (seat, ("line 2\nCritique: 2", "Critique: 1"))
        assert pair.flip_prob == 0.0
    (pair,) = learnt(critic_comparison, ended, "learner", store)
    assert pair.replies == ("4", "5")


async def test_critics_see_neither_the_original_nor_the_report_nor_who_wrote(setting, play):
    seen = []

    def critic(request: Any) -> str:
        seen.append("\n".join(f"{m.role} {m.content}" for m in request.messages))
        return "Critique: 2"

    stage = setting(
        critic_comparison,
        learner=["the original"],
        tamperer=tampering("the report\nCritique: 2", "the changed text"),
        critic_a=critic,
        critic_b=critic,
        judge=["first"],
    )
    await play(stage)
    assert len(seen) == 2
    for shown in seen:
        assert "the changed text" in shown
        for secret in ("the original", "the report", "tamper", "inserted", "line 2"):
            assert secret not in shown


async def test_the_judge_is_not_told_whose_critique_it_reads(setting, play, store):
    seen = []

    def judge(request: Any) -> str:
        seen.append("\n".join(m.content for m in request.messages))
        return "first"

    cast = {"critic_a": ["Critique: 2"], "critic_b": ["Critique: 2"]}
    stage = setting(critic_comparison, learner=["4"], tamperer=tampering(), judge=judge, **cast)
    (ended,) = await play(stage)
    assert not any("critic_a" in shown or "critic_b" in shown for shown in seen)
    assert ended.verdict.value == "tie"  # it went by position
    assert ended.rewards["judge"] is None
    assert learnt(critic_comparison, ended, "critic_a", store) == []


async def test_a_tamperer_who_changed_nothing_ends_the_episode(setting, play, forbidden):
    stage = setting(
        critic_comparison,
        learner=["4"],
        tamperer=tampering("Critique: ok"),
        critic_a=forbidden,
        critic_b=forbidden,
        judge=forbidden,
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.rewards["tamperer"]) == ("untampered", 0.0)
    assert ended.rewards["critic_a"] is None


async def test_a_fault_that_is_none_earns_the_tamperer_nothing(setting, play):
    """It says there is a fault in line 2, but the answer is right."""
    cast = {"critic_a": ["ok"], "critic_b": ["ok"], "judge": ["first"]}
    stage = setting(critic_comparison, learner=["4"], tamperer=tampering(text="4"), **cast)
    (ended,) = await play(stage)
    assert ended.rewards["tamperer"] == 0.0


async def test_recall_comes_with_precision(setting, play, make):
    """critic_a always names a line, at random; critic_b names the right one, or none."""

    def either(*texts: str) -> Any:
        return lambda request: texts[request.seed % len(texts)]

    stage = setting(
        critic_comparison,
        learner=["4"],
        tamperer=tampering(),
        critic_a=either("Critique: 2", "Critique: 1"),
        critic_b=either("Critique: 2", "Critique: ok"),
        judge=["first"],
    )
    ended = await play(stage, make.plans(24))
    for seat, precise in (("critic_a", False), ("critic_b", True)):
        found = sum(hits(episode)[seat] for episode in ended)
        assert 0 < found < 24
        assert caught(ended, seat) == (1.0 if precise else found / 24, found / 24)
