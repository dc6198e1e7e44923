"""Recursive reward modelling and assistive decomposition: who hears what, what is measured,
which rows follow."""

from typing import Any

import pytest

from superalign.protocols import load_protocol
from superalign.protocols.assistive import parse_pick, values
from superalign.protocols.check import check_protocol
from superalign.protocols.recursive_reward import judgements, parse_parts
from superalign.protocols.replay import replay
from superalign.store import Question, Unreadable

RECURSIVE = load_protocol("recursive_reward")
DECOMPOSITION = load_protocol("task_decomposition")
TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
SUM = {"question": TWO, "target": "4"}
TWO_PARTS = "1. Is each line right?\n2. Does it end in the result?"


@pytest.mark.parametrize(
    ("protocol", "params", "calls"),
    [
        (RECURSIVE, {}, 7),
        (DECOMPOSITION, {}, 23),
        (DECOMPOSITION, {"samples": 2, "attempts": 3}, 29),
    ],
)
async def test_each_passes_the_check_and_makes_so_many_calls(protocol, params, calls):
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


# Recursive reward modelling.


def judge(alone: str, helped: str, parts: str = TWO_PARTS) -> Any:
    """Splits the evaluation, and judges without and with evidence."""

    def reply(request: Any) -> str:
        if request.view.ask.kind == "part":
            return parts
        found = any(turn.kind == "evidence" for turn in request.view.ask.about)
        return helped if found else alone

    return reply


def behaves(first: str, second: str) -> Any:
    return lambda request: first if request.key.endswith(":0") else second


@pytest.mark.parametrize(
    ("answers", "alone", "helped", "told", "rewards"),
    [
        (("4", "5"), "1", "0", (False, True), {"learner": 0.5, "human": 1.0, "assistant": 1.0}),
        (("4", "5"), "0", "1", (True, False), {"learner": 0.5, "human": 0.0, "assistant": -1.0}),
        (("5", "4"), "1", "1", (True, True), {"learner": 0.5, "human": 1.0, "assistant": 0.0}),
        (("4", "4"), "0", "1", None, {"learner": 1.0, "human": None, "assistant": None}),
        (("5", "6"), "0", "1", None, {"learner": 0.0, "human": None, "assistant": None}),
    ],
)
async def test_help_is_worth_what_it_changes(
    answers, alone, helped, told, rewards, setting, play, make
):
    stage = setting(
        RECURSIVE, learner=behaves(*answers), human=judge(alone, helped), assistant=["Line 1 is."]
    )
    (ended,) = await play(stage, make.plans(1, **SUM))
    assert (judgements(ended), ended.rewards) == (told, rewards)
    assert ended.verdict.answer == answers[int(helped)]
    assert ended.facts["settled"] == (answers[int(helped)] == "4")


async def test_the_audit_is_untouched_and_the_assistant_unprompted(setting, play, make):
    seen = make.Watched(
        learner=behaves("4", "5"),
        human=judge("1", "0"),
        assistant=lambda request: f"evidence {request.key[-2:]}",
    )
    stage = setting(RECURSIVE, **seen.cast())
    (ended,) = await play(stage, make.plans(1, **SUM))
    assert [r.view.ask.kind for r in seen.asked["human"]] == ["verdict", "part", "verdict"]
    assert not seen.asked["human"][0].view.ask.about[2:]
    assert [t.text for t in seen.asked["human"][2].view.ask.about[2:]] == [
        TWO_PARTS,
        "evidence 00",
        "evidence 01",
    ]
    for request in seen.asked["assistant"]:
        assert [t.kind for t in request.view.ask.about] == ["answer", "answer", "part"]
    assert await replay(stage, ended) is None


async def test_a_planted_error_of_the_assistant_moves_a_human_that_believes_it(setting, play, make):
    """An error of level k - 1 becomes one of level k, and the audit shows it."""

    def believes(request: Any) -> str:
        if request.view.ask.kind == "part":
            return TWO_PARTS
        evidence = [t.text for t in request.view.ask.about if t.kind == "evidence"]
        return evidence[0] if evidence else "0"

    for planted, told in (("0", (True, True)), ("1", (True, False))):
        stage = setting(RECURSIVE, learner=behaves("4", "5"), human=believes, assistant=[planted])
        (ended,) = await play(stage, make.plans(4, **SUM)[int(planted) :: 2][:1])
        assert judgements(ended) == told


async def test_rows_prefer_the_better_answer_and_keep_the_help_beside_the_judgement(
    setting, play, taught, make
):
    stage = setting(
        RECURSIVE, learner=behaves("5", "4"), human=judge("0", "1"), assistant=["Line 1 is wrong."]
    )
    (ended,) = await play(stage, make.plans(1, **SUM))
    (pref,) = taught(ended, "learner")
    assert (pref.kind, pref.replies) == ("pref", ("4", "5"))
    (sft,) = taught(ended, "human")
    assert sft.replies == ("1",) and "Line 1 is wrong." in sft.prompt[-1].content
    assert taught(ended, "assistant") == []


async def test_equal_answers_are_no_pair(setting, play, taught, make):
    stage = setting(RECURSIVE, learner=["4"], human=judge("0", "1"), assistant=["-"])
    (ended,) = await play(stage, make.plans(1, **SUM))
    assert taught(ended, "learner") == []


def test_parts_read_back():
    assert parse_parts(TWO_PARTS, 2) == ["Is each line right?", "Does it end in the result?"]


@pytest.mark.parametrize("text", ["", "1. a", "1. a\n3. b", "1. a\n2.", "1. a\n2. b\n3. c", "a\nb"])
def test_parts_that_cannot_be_read_are_none(text):
    with pytest.raises(Unreadable, match=r"expected 2 lines, `1\. …` to `2\. …`"):
        parse_parts(text, 2)


# Task decomposition: 4 is right. What a decomposition says, its repairer writes down.


def passes(request: Any) -> str:
    """A tester that knows what is right: the text must end in 4."""
    return "ok" if request.view.ask.about[0].text.endswith("4") else "1"


def workshop(refined: tuple[str, ...], without: str = "5", **more: Any) -> dict[str, Any]:
    """A solver that is wrong; decomposition i is refined to `refined[i]`, and a repairer who is
    shown one writes what follows its colon."""

    def number(request: Any) -> int:
        return int(request.key.rpartition(":")[2])

    def repair(request: Any) -> str:
        shown = request.view.ask.about[1:]
        return shown[0].text.partition(":")[2].partition(" ")[0] if shown else without

    return {
        "learner": ["5"],
        "decomposer": lambda request: f"parts {number(request)}",
        "critic": lambda request: f"remark {number(request)}",
        "refiner": lambda request: refined[number(request)],
        "tester": passes,
        "ranker": ["Best: 0"],
        "repairer": repair,
        **more,
    }


HELPFUL, USELESS, CHANGED = "mend:4 as 5", "leave:5 as 5", "changed:4 as 4"


async def test_a_decomposition_is_worth_the_repairs_it_adds(setting, play, make):
    seats = workshop((USELESS, HELPFUL), ranker=["Best: 1"])
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), make.plans(1, **SUM))
    assert {name: value.lift for name, value in values(ended).items()} == {"00": 0.0, "01": 1.0}
    assert (ended.verdict.value, ended.verdict.answer) == ("01", "4")
    assert ended.rewards == {
        "learner": 0.0,
        "repairer": 1.0,
        "decomposer": 0.5,
        "refiner": 0.5,
        "ranker": 0.5,
        "critic": None,
        "tester": None,
    }


async def test_one_that_changes_what_the_solution_does_counts_for_nothing(setting, play, make):
    seen = make.Watched(**workshop((CHANGED, HELPFUL), ranker="Best: 0", learner="5"))
    stage = setting(DECOMPOSITION, {"samples": 2}, **seen.cast())
    (ended,) = await play(stage, make.plans(1, **SUM))
    assert list(values(ended)) == ["01"]
    assert ended.verdict.value == "01"
    assert [t.text for t in seen.asked["ranker"][0].view.ask.about] == ["5", HELPFUL]
    assert not any(t.key.endswith("00.00") for t in ended.by("repairer"))
    assert ended.rewards["decomposer"] == 0.5  # one of two


async def test_where_none_counts_nobody_ranks_and_the_bare_repair_stands(
    setting, play, forbidden, make
):
    seats = workshop((CHANGED, CHANGED), ranker=forbidden)
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), make.plans(1, **SUM))
    assert (ended.verdict.value, ended.verdict.answer) == ("none", "5")
    assert (ended.rewards["ranker"], ended.rewards["decomposer"]) == (None, 0.0)


async def test_one_that_misleads_is_worth_less_than_none(setting, play, make):
    seats = workshop((USELESS, HELPFUL), without="4")
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), make.plans(1, **SUM))
    assert {name: value.lift for name, value in values(ended).items()} == {"00": -1.0, "01": 0.0}
    assert ended.rewards["ranker"] == -0.5


async def test_value_is_a_share_of_attempts(setting, play, make):
    def lucky(request: Any) -> str:
        shown, attempt = request.view.ask.about[1:], int(request.key[-2:])
        return "4" if attempt < (3 if shown else 1) else "5"

    seats = workshop((USELESS, USELESS), repairer=lucky)
    params = {"samples": 2, "attempts": 4}
    (ended,) = await play(setting(DECOMPOSITION, params, **seats), make.plans(1, **SUM))
    assert {value.lift for value in values(ended).values()} == {0.5}


async def test_each_call_hears_only_what_its_work_is_about(setting, play, make):
    seen = make.Watched(**workshop((USELESS, HELPFUL), ranker="Best: 0", learner="5"))
    stage = setting(DECOMPOSITION, {"samples": 2}, **seen.cast())
    (ended,) = await play(stage, make.plans(1, **SUM))

    def heard(seat: str) -> list[list[str]]:
        return [[t.text for t in r.view.ask.about] for r in seen.asked[seat]]

    assert heard("decomposer") == [["5"], ["5"]]
    assert heard("critic") == [["5", "parts 0"], ["5", "parts 1"]]
    assert heard("refiner") == [["5", "parts 0", "remark 0"], ["5", "parts 1", "remark 1"]]
    assert heard("repairer") == [["5"], ["5", USELESS], ["5", HELPFUL]]
    assert all(len(about) == 1 for about in heard("tester"))
    assert await replay(stage, ended) is None


async def test_rows_follow_measured_value(setting, play, taught, make):
    seats = workshop((USELESS, HELPFUL, CHANGED))
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 3}, **seats), make.plans(1, **SUM))
    (pref,) = taught(ended, "decomposer")
    assert (pref.kind, pref.replies) == ("pref", (HELPFUL, USELESS))
    (crit,) = taught(ended, "critic")
    assert (crit.kind, crit.replies) == ("sft", ("remark 1",))
    (refined,) = taught(ended, "refiner")
    assert refined.replies == (HELPFUL,) and "remark 1" in refined.prompt[-1].content
    assert taught(ended, "learner") == []
    tests = {f"{ended.ref}/{turn.key}" for turn in ended.by("tester")}
    assert tests <= set(pref.turns)  # the label follows from them


@pytest.mark.parametrize("text", ["", "0", "Best: 2", "Best: -1", "Best: 0 or 1", "Best: 0\nwell"])
def test_a_pick_that_cannot_be_read_is_none(text):
    with pytest.raises(Unreadable, match="a number from 0 to 1"):
        parse_pick(text, 2)
