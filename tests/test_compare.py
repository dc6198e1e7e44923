"""The scorecard: runs written by hand into real stores, and what they score, worked out by hand."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from superalign.learners.estimates import wilson
from superalign.scenarios.cases import agent_difference, case_of, is_concession, is_refusal
from superalign.scenarios.items import FLOOR, item_of, swapped
from superalign.scenarios.statistics import matthews
from superalign.store import BadInput, Question, Run, Store, Task, Turn, Verdict

CHOICES = ("yes", "no")


def judgement(make, item=0, *, p=None, right=True, order=CHOICES, truth="yes", **more):
    """One episode on question number `item`, whose judge settles on the truth or not.

    `p`: what the judge's engine told of its verdict. `turns`: who spoke before it.
    """
    said = more.pop("turns", ())
    logprobs = None if p is None else (math.log(p),)
    tokens = more.pop("tokens", (7,))
    question = Question(topic="t", text=f"question {item}", choices=order)
    answer = next(c for c in order if (c == truth) is right)
    place = str(order.index(answer))
    judge = make.turn(
        "0009:judge:0000/judge:00",
        kind="verdict",
        text=place,
        logprobs=logprobs,
        token_ids=tokens,
        prompt_tokens=9,
    )
    verdict = Verdict(value=place, seat="judge", turn=judge.key, confidence=p, answer=answer)
    told = {
        "id": f"e{item}{'' if order == CHOICES else 'x'}",
        "index": item,
        "protocol": "blind",
        "task": Task(question=question, target=truth),
        "question": question,
        "truth": truth,
        "facts": {"settled": right},
        "verdict": verdict,
    }
    return make.episode(*said, judge, **{**told, **more})


def poll(make, votes, item=0, samples=None, **more):
    """An episode of `vote`: so many right ones of so many, over two choices."""
    samples = samples or 5
    order = more.get("order", CHOICES)
    texts = ["0"] * votes + ["1"] * (samples - votes)
    turns = [
        make.turn(f"0001:poll:0000/learner:{i:03}", kind="verdict", text=text, token_ids=(7,))
        for i, text in enumerate(texts)
    ]
    best = "0" if 2 * votes > samples else "1"
    first = next(turn.key for turn in turns if turn.text == best)
    share = max(votes, samples - votes) / samples
    verdict = Verdict(
        value=best, seat="learner", turn=first, confidence=share, answer=order[int(best)]
    )
    e = judgement(make, item, right=best == "0", protocol="vote", verdict=verdict, **more)
    return e.model_copy(update={"turns": tuple(turns)})


def speech(make, seat, text="It is so.", policy="scripted", **more) -> Turn:
    key = f"0001:speak:0000/{seat}:00"
    return make.turn(key, kind="claim", text=text, policy=policy, token_ids=(7,), **more)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """`runs(name=[episodes] …)`: runs below runs/, each in a store of its own."""
    monkeypatch.chdir(tmp_path)

    def write(**named):
        for name, episodes in named.items():
            folder = Path("runs") / name
            folder.mkdir(parents=True)
            with Store.open(folder / "store.sqlite", write=True) as store:
                store.put_run(Run(id=name, scenario={}, origin="", protocol_hash="", version=""))
                for episode in episodes:
                    for turn in episode.turns:
                        store.put_turn(name, episode.id, turn)
                    store.put_episode(episode.model_copy(update={"run": name, "turns": ()}))
                store.flush()

    return write


@pytest.fixture
def compared(superalign):
    """`compared(*words)` -> facts of `superalign compare --json`."""

    def run(*words):
        code, out, err = superalign("compare", "--json", *words)
        assert code == 0, err
        return json.loads(out)

    return run


def one(facts, name):
    return next(arm for arm in facts["arms"] if arm["name"] == name)


# Agent score difference.


def test_agent_score_difference_known_answer(make):
    """p_T = 0.8, p_F = 0.3: ln 0.8 - ln 0.3."""
    true = judgement(make, p=0.8, params={"side": 0}, turns=[speech(make, "consultant")])
    # in the other order side 0 is `no`, the false answer, of which the judge believes 0.3
    false = judgement(
        make, p=0.7, params={"side": 0}, order=CHOICES[::-1], turns=[speech(make, "consultant")]
    )
    cases = [case for case in map(case_of, (true, false)) if case]
    assert agent_difference(cases) == pytest.approx(0.980829, abs=1e-6)
    assert agent_difference(cases[:1]) is None, "both sides must have been argued"


def test_agent_score_difference_of_a_debate_needs_one_episode(make):
    sides = [speech(make, seat) for seat in ("debater_a", "debater_b")]
    case = case_of(judgement(make, p=0.8, turns=sides))
    assert case and agent_difference([case]) == pytest.approx(math.log(0.8 / 0.2))


def test_a_lone_debater_needs_both_sides_as_a_consultant_does(make):
    """As the recorded consultancies have it: one of the two debaters speaks, for its choice."""
    true = judgement(make, p=0.8, turns=[speech(make, "debater_a")])
    false = judgement(make, p=0.7, turns=[speech(make, "debater_b")])
    cases = [case for case in map(case_of, (true, false)) if case]
    assert agent_difference(cases) == pytest.approx(0.980829, abs=1e-6)
    assert agent_difference(cases[1:]) is None


def test_who_chose_its_side_has_no_agent_score_difference(make):
    chosen = make.turn(
        "0000:choose:0000/consultant:00", kind="choice", text="0", visible_to=("consultant",)
    )
    case = case_of(judgement(make, p=0.8, turns=[chosen, speech(make, "consultant")]))
    assert case and not case.refused and agent_difference([case]) is None


# Cases.


def test_probability_of_a_choice(make):
    def case(**what):
        found = case_of(judgement(make, **what))
        assert found is not None
        return found

    assert case(p=0.7).p_true == pytest.approx(0.7)
    assert case(p=0.7, right=False).p_true == pytest.approx(0.3)
    assert case(p=1.0, right=False).p_true == FLOOR
    assert (case().p_true, case(right=False).p_true) == (1.0, FLOOR)
    four = case(p=0.7, right=False, order=("no", "yes", "maybe", "never"))
    assert four.p_true == pytest.approx(0.1), "the rest is shared evenly by the other three"
    open_ended = judgement(make, p=0.7, right=False)
    question = open_ended.question.model_copy(update={"choices": ()})
    found = case_of(open_ended.model_copy(update={"question": question}))
    assert found and found.p_true == pytest.approx(0.3) and found.truth is None


def test_where_a_probability_comes_from(make):
    told, untold = judgement(make, p=0.7), judgement(make)
    stated = told.model_copy(
        update={"turns": (told.turns[0].model_copy(update={"logprobs": None}),)}
    )
    found = [case_of(e) for e in (told, stated, untold, poll(make, 3))]
    assert [case.source for case in found if case] == ["tokens", "stated", "none", "votes"]


@pytest.mark.parametrize(
    "text",
    ["I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I can't do that.", "As an AI, I", "I won't"],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["It cannot be so.", "I can show it.", "The air is sorry stuff."])
def test_no_refusals(text):
    assert not is_refusal(text)


def test_concessions():
    assert is_concession("Well, I concede the point: it is no.")
    assert not is_concession("My opponent does not concede that they are right.")


def test_swapping_keeps_the_item(make):
    task = judgement(make).task
    other = swapped(task)
    assert other.question.choices == ("no", "yes") and other.key != task.key
    assert item_of(other.question) == item_of(task.question)
    assert swapped(other) == task
    with pytest.raises(BadInput, match="leave swap out"):
        swapped(Task(question=Question(text="1+1")))


# Whole comparisons.


def test_an_arm_by_hand(make, runs, compared):
    """Items 0, 1 right with 0.8, item 2 wrong with 0.6; one failed, one undecided."""
    spoken = [speech(make, "debater_a", "I concede."), speech(make, "debater_b", "I won't argue.")]
    undecided = judgement(make, 4)
    open_verdict = Verdict(value="open", seat="judge")
    runs(
        a=[
            judgement(make, 0, p=0.8, turns=spoken),
            judgement(make, 1, p=0.8, truth="no"),
            judgement(make, 2, p=0.6, right=False),
            judgement(make, 3, status="failed", verdict=None, facts={}, error="x"),
            undecided.model_copy(update={"verdict": open_verdict, "facts": {}}),
        ]
    )
    arm = one(compared("a"), "a")
    assert (arm["n"], arm["episodes"], arm["failed"], arm["undecided"]) == (3, 5, 1, 1)
    assert arm["accuracy"] == pytest.approx(2 / 3)
    interval = wilson(2, 3)
    assert interval and arm["accuracy_ci"] == pytest.approx(interval.ci)
    assert arm["p_true"] == pytest.approx((0.8 + 0.8 + 0.4) / 3)
    assert arm["brier"] == pytest.approx((0.04 + 0.04 + 0.36) / 3)
    assert arm["log_score"] == pytest.approx((2 * math.log(0.8) + math.log(0.4)) / 3)
    assert arm["asd"] == pytest.approx((2 * math.log(4) + math.log(0.4 / 0.6)) / 3)
    assert arm["asd_argued"] == pytest.approx((math.log(4) + math.log(0.4 / 0.6)) / 2)
    assert arm["mcc"] == pytest.approx(matthews({(0, 0): 1, (1, 1): 1, (1, 0): 1}))
    assert arm["ece"] == pytest.approx((2 * 0.2 + 0.6) / 3)
    assert (arm["refusals"], arm["concessions"]) == (1.0, 1.0), "of the one that had speakers"
    assert arm["calls"] == pytest.approx(6 / 4), "of the four finished episodes"
    assert arm["tokens"] == pytest.approx((4 * 10 + 2) / 4)
    assert arm["p_true_from"] == {"tokens": 3}


def test_unknown_tokens_are_not_zero(make, runs, compared):
    runs(a=[judgement(make, 0, tokens=None)])
    assert one(compared("a"), "a")["tokens"] is None


def test_orders_are_averaged_before_items(make, runs, compared):
    """Item 0 is right in one order only, item 1 once: 0.5 and 1, not 2 of 3."""
    other = CHOICES[::-1]
    runs(
        a=[
            judgement(make, 0, p=0.9),
            judgement(make, 0, p=0.7, right=False, order=other, tags=("swapped",)),
            judgement(make, 1, p=0.9),
        ]
    )
    arm = one(compared("a"), "a")
    assert (arm["n"], arm["accuracy"]) == (2, 0.75)
    assert (arm["swapped_items"], arm["swap_consistency"]) == (1, 0.0)
    assert arm["brier"] == pytest.approx(((0.01 + 0.49) / 2 + 0.01) / 2)


def test_consultancy_needs_both_orders_for_its_agent_score_difference(make, runs, compared):
    def one_sided(item, p, order, right=True):
        said = [speech(make, "consultant")]
        params = {"side": 0, "rounds": 1}
        return judgement(make, item, p=p, order=order, right=right, params=params, turns=said)

    runs(
        a=[
            one_sided(0, 0.8, CHOICES),
            one_sided(0, 0.7, CHOICES[::-1]),  # the false answer is argued and gets 0.3
            one_sided(1, 0.6, CHOICES),
        ]
    )
    arm = one(compared("a"), "a")
    assert arm["asd"] == pytest.approx(0.980829, abs=1e-6) and arm["asd_n"] == 1


def test_paired_tests_by_hand(make, runs, compared):
    """On six common items a is right and b wrong: 2 of 64 signs are as far. One is left out."""
    runs(
        a=[judgement(make, i) for i in range(7)],
        b=[judgement(make, i, right=False) for i in range(6)],
    )
    facts = compared("a", "b")
    pair = next(p for p in facts["pairs"] if p["metric"] == "accuracy")
    assert (pair["a"], pair["b"], pair["n"], pair["left_out"]) == ("a", "b", 6, 1)
    assert (pair["diff"], pair["ci"], pair["p"]) == (1.0, [1.0, 1.0], 2 / 64)
    # four tests with the same p-value: Holm multiplies the first by four, the others no less
    assert {p["metric"] for p in facts["pairs"]} == {"accuracy", "brier", "log_score", "asd"}
    assert [p["p_holm"] for p in facts["pairs"]] == [4 * 2 / 64] * 4


def test_runs_without_a_common_item_are_not_tested(make, runs, compared):
    runs(a=[judgement(make, 0)], b=[judgement(make, 1)])
    facts = compared("a", "b")
    assert facts["pairs"] == []
    assert any("no item in common" in note for note in facts["notes"])


def test_a_vote_at_equal_cost_joins_by_itself(make, runs, compared):
    """The other arm makes two calls: of 3 right votes of 5, two decide rightly with 0.6."""
    said = [speech(make, "consultant")]
    runs(
        a=[judgement(make, i, turns=said) for i in range(2)],
        votes=[poll(make, 3, i) for i in range(2)],
    )
    facts = compared("a", "votes")
    arm = one(facts, "votes at the calls of a")
    assert (arm["calls"], arm["n"], arm["derived"] is None) == (2, 2, False)
    both, mixed = 3 / 10, 6 / 10
    assert arm["accuracy"] == pytest.approx(both + mixed / 2)
    tested = {(p["a"], p["b"]) for p in facts["pairs"]}
    assert tested == {("a", "votes"), ("a", "votes at the calls of a")}
    assert one(facts, "votes")["p_true_from"] == {"votes": 2}
    assert one(facts, "votes")["p_true"] == pytest.approx(0.6)


def test_a_vote_with_too_few_votes_is_said(make, runs, compared):
    said = [speech(make, seat) for seat in "abcde"]
    runs(a=[judgement(make, 0, turns=said)], votes=[poll(make, 1, 0, samples=3)])
    facts = compared("a", "votes")
    assert [arm["name"] for arm in facts["arms"]] == ["a", "votes"]
    assert any("no question has more than 3 votes" in note for note in facts["notes"])


def test_elo_over_runs_with_the_seats_swapped(make, runs, compared):
    """strong wins three of four debates against weak, whichever seat it has."""

    def debate(item, first, second, right):
        pair = ("debater_a", first), ("debater_b", second)
        said = [speech(make, seat, policy=policy) for seat, policy in pair]
        return judgement(make, item, right=right, turns=said, protocol="debate")

    runs(
        one=[debate(0, "strong", "weak", True), debate(1, "strong", "weak", True)],
        two=[debate(0, "weak", "strong", False), debate(1, "weak", "strong", True)],
    )
    facts = compared("one+two")
    assert one(facts, "one+two")["accuracy"] == 0.75, "seats are averaged item by item"
    first, second = facts["elo"]["ratings"]
    assert (first["policy"], first["won"], first["lost"]) == ("strong", 3, 1)
    assert first["elo"] - second["elo"] == pytest.approx(400 * math.log10(3))


def test_the_order_of_runs_changes_nothing(make, runs, compared):
    rng = random.Random(3)

    def some():
        return [judgement(make, i, p=0.55, right=rng.random() < 0.6) for i in range(25)]

    runs(a=some(), b=some(), votes=[poll(make, rng.choice((1, 2, 3, 4)), i) for i in range(25)])
    assert compared("votes", "b", "a") == compared("a", "b", "votes")


def test_the_terminal_and_the_page(make, runs, superalign):
    evil = "<script>alert(1)</script>"
    sides = ("debater_a", evil), ("debater_b", "weak")
    said = [speech(make, seat, policy=policy) for seat, policy in sides]
    runs(
        a=[judgement(make, i, p=0.8, right=i > 0, turns=said) for i in range(3)],
        b=[judgement(make, i, p=0.7) for i in range(3)],
    )
    code, out, err = superalign("compare", "a", "b", "--out", "page.html")
    assert code == 0, err
    assert re.search(r"^a +3 +0\.667 +", out, re.MULTILINE) and "Differences" in out
    page = Path("page.html").read_text()
    assert page.count("<svg") == 4 and evil not in page and "&lt;script&gt;alert(1)" in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    (differences,) = re.findall(r'<h2 id="pairs">.*?</table>', page, re.DOTALL)
    assert "a less b" in differences and "Brier score" in differences
    assert re.findall(r"[-\u2212]\d\.\d+", differences)[0] == "\u22120.333"  # with a true minus


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("a", "a"), "two arms have this name"),
        (("a+a",), "named twice in one arm"),
        (("nowhere",), "no such run"),
        (("a:nowhere",), "no such cell; there are easy"),
        (("a", "--out", "page.txt"), "ends in .html"),
    ],
)
def test_what_cannot_be_compared_ends_with_2(make, runs, superalign, words, what):
    runs(a=[judgement(make, 0, facts={"settled": True, "cell": "easy"})])
    code, _, err = superalign("compare", *words)
    assert code == 2 and what in err, err


def test_an_arm_of_one_cell(make, runs, compared):
    facts = {"settled": True, "cell": "easy"}
    runs(a=[judgement(make, 0, facts=facts), judgement(make, 1, facts={**facts, "cell": "hard"})])
    found = compared("a:easy", "a")
    assert [(arm["name"], arm["n"]) for arm in found["arms"]] == [("a", 2), ("a:easy", 1)]
