"""Sandwiching, recursive reward modelling and assistive decomposition: who hears what, what is
measured, which rows follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superalign.protocols import Protocol, load_protocol
from superalign.protocols.assistive import parse_pick, values
from superalign.protocols.check import check_protocol
from superalign.protocols.recursive_reward import judgements, parse_parts
from superalign.protocols.reliance import arms, estimate, measure
from superalign.protocols.replay import replay
from superalign.protocols.setting import Plan
from superalign.store import Question, Task, Unreadable

SANDWICHING = load_protocol("sandwiching")
RECURSIVE = load_protocol("recursive_reward")
DECOMPOSITION = load_protocol("task_decomposition")
TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
TWO_PARTS = "1. Is each line right?\n2. Does it end in the result?"


def plans(n: int = 1, question: Question = TWO) -> list[Plan]:
    task = Task(question=question, target="4")
    return [Plan(run="run", scenario="s", index=i, task=task, seed=i) for i in range(n)]


def sure(confidence: float, choice: int) -> str:
    return f"Let me see.\nConfidence: {confidence}\nVerdict: {choice}"


def rows(protocol: Protocol, ended: Any, seat: str, store: Any) -> list[Any]:
    """What an episode teaches a seat."""

    def prompt_of(turn: Any) -> Any:
        found = store.messages(turn.messages)
        return tuple(found[key] for key in turn.messages)

    assert protocol.rule is not None
    return list(protocol.rule(ended, seat, prompt_of))


class Watched:
    """Plays a script and keeps what it was asked."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.asked: list[Any] = []

    def __call__(self, request: Any) -> str:
        self.asked.append(request)
        return str(self.reply(request) if callable(self.reply) else self.reply)

    def shown(self, n: int) -> str:
        return "\n".join(message.content for message in self.asked[n].messages)


@pytest.mark.parametrize(
    ("protocol", "params", "calls"),
    [
        (SANDWICHING, {}, 10),
        (SANDWICHING, {"rounds": 1}, 6),
        (RECURSIVE, {}, 7),
        (DECOMPOSITION, {}, 23),
        (DECOMPOSITION, {"samples": 2, "attempts": 3}, 29),
    ],
)
async def test_each_passes_the_check_and_makes_so_many_calls(protocol, params, calls):
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


# Sandwiching.


def overseer(alone: str, together: str) -> Any:
    """Answers alone, asks, then concludes."""

    def reply(request: Any) -> str:
        if request.view.ask.kind == "inquiry":
            return "Are you certain?"
        return together if request.view.ask.about else alone

    return reply


def assistant(first: str) -> Any:
    return lambda request: "Quite." if request.view.ask.kind == "reply" else first


def cast(human: str, learner: str, together: str, expert: str = sure(0.9, 0)) -> dict[str, Any]:
    return {
        "human": overseer(human, together),
        "learner": assistant(learner),
        "expert": [expert],
    }


async def test_nobody_hears_the_expert_nor_the_overseer_s_first_answer(setting, play):
    human = Watched(overseer("mine alone\n" + sure(0.6, 1), sure(0.8, 0)))
    learner = Watched(assistant("a first answer\n" + sure(0.7, 0)))
    expert = Watched("the expert's word\n" + sure(0.9, 0))
    stage = setting(SANDWICHING, {"rounds": 2}, human=human, learner=learner, expert=expert)
    (ended,) = await play(stage, plans())
    assert ended.error is None
    assert [r.view.ask.kind for r in human.asked] == ["estimate", "inquiry", "inquiry", "estimate"]
    assert not any("expert's word" in human.shown(i) for i in range(4))
    assert not any("mine alone" in learner.shown(i) for i in range(3))
    assert "mine alone" in human.shown(3) and "a first answer" in human.shown(3)
    assert human.shown(3).count("Are you certain?") == human.shown(3).count("Quite.") == 2
    assert "a first answer" not in human.shown(0)
    assert await replay(stage, ended) is None


async def test_the_arms_and_the_rewards_are_those_of_each_alone_and_of_both(setting, play):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 1), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), plans())
    assert arms(ended) == {"human": "5", "learner": "5", "expert": "4", "together": "4"}
    assert ended.rewards == {"human": 1.0, "learner": 0.0, "expert": 1.0}
    assert (ended.verdict.answer, ended.verdict.confidence) == ("4", 0.8)


async def test_reliance_lift_and_calibration_have_known_values(setting, play):
    """Four questions: the assistant right on two; wrong advice taken once, right advice once."""
    told = [  # human, learner, together; 0 is right
        (1, 0, 0),
        (0, 0, 1),  # under-reliance
        (0, 1, 1),  # over-reliance
        (1, 1, 0),
    ]
    ended = []
    for i, (human, learner, together) in enumerate(told):
        seats = cast(sure(0.6, human), sure(0.7, learner), sure(0.8, together))
        ended += await play(setting(SANDWICHING, **seats), plans(i + 1)[i:])
    found = measure(ended)
    assert found.accuracy == {
        "human": (2, 4),
        "learner": (2, 4),
        "expert": (4, 4),
        "together": (2, 4),
    }
    assert found.lift == 0.0
    assert (found.over_reliance, found.under_reliance) == ((1, 2), (1, 2))
    assert found.calibration_error == pytest.approx(0.3)  # 0.8 sure, half of them right
    nothing = measure([])
    assert (nothing.lift, nothing.over_reliance.value, nothing.calibration_error) == (None,) * 3


async def test_the_learner_is_taught_the_overseer_s_answer_as_far_as_it_is_believed(
    setting, play, store
):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 1), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), plans())
    sft, pref = rows(SANDWICHING, ended, "learner", store)
    assert sft.replies == ("Confidence: 0.8\nVerdict: 0",)
    assert pref.replies == (sft.replies[0], sure(0.7, 1))
    assert (sft.flip_prob, pref.flip_prob) == (0.2, 0.2)
    assert "Quite." not in str(sft.prompt)
    assert rows(SANDWICHING, ended, "human", store) == []


async def test_there_is_no_pair_where_overseer_and_assistant_agree(setting, play, store):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 0), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), plans())
    assert [row.kind for row in rows(SANDWICHING, ended, "learner", store)] == ["sft"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Verdict: 0",
        "Confidence: 1.0\nVerdict: 0",
        "Confidence: 0.0\nVerdict: 0",
        "Confidence: 0.7\nVerdict: 2",
        "Confidence: 0.7\nVerdict: 0\nor rather not",
        "Verdict: 0\nConfidence: 0.7",
    ],
)
def test_an_estimate_that_cannot_be_read_is_none(text, make):
    with pytest.raises(Unreadable):
        estimate(make.turn(text=text), 2)


@given(percent=st.integers(1, 99), choice=st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_estimate_reads_back(percent, choice, make):
    text = f"Confidence: {percent / 100}\nVerdict: {choice}"
    assert estimate(make.turn(text=text), 4) == (choice, percent / 100)


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
async def test_help_is_worth_what_it_changes(answers, alone, helped, told, rewards, setting, play):
    stage = setting(
        RECURSIVE, learner=behaves(*answers), human=judge(alone, helped), assistant=["Line 1 is."]
    )
    (ended,) = await play(stage, plans())
    assert (judgements(ended), ended.rewards) == (told, rewards)
    assert ended.verdict.answer == answers[int(helped)]
    assert ended.facts["settled"] == (answers[int(helped)] == "4")


async def test_the_audit_is_untouched_and_the_assistant_unprompted(setting, play):
    human = Watched(judge("1", "0"))
    helper = Watched(lambda request: f"evidence {request.key[-2:]}")
    stage = setting(RECURSIVE, learner=behaves("4", "5"), human=human, assistant=helper)
    (ended,) = await play(stage, plans())
    assert [r.view.ask.kind for r in human.asked] == ["verdict", "part", "verdict"]
    assert not human.asked[0].view.ask.about[2:]
    assert [t.text for t in human.asked[2].view.ask.about[2:]] == [
        TWO_PARTS,
        "evidence 00",
        "evidence 01",
    ]
    for request in helper.asked:
        assert [t.kind for t in request.view.ask.about] == ["answer", "answer", "part"]
    assert await replay(stage, ended) is None


async def test_a_planted_error_of_the_assistant_moves_a_human_that_believes_it(setting, play):
    """An error of level k - 1 becomes one of level k, and the audit shows it."""

    def believes(request: Any) -> str:
        if request.view.ask.kind == "part":
            return TWO_PARTS
        evidence = [t.text for t in request.view.ask.about if t.kind == "evidence"]
        return evidence[0] if evidence else "0"

    for planted, told in (("0", (True, True)), ("1", (True, False))):
        stage = setting(RECURSIVE, learner=behaves("4", "5"), human=believes, assistant=[planted])
        (ended,) = await play(stage, plans(2 + int(planted))[-1:])
        assert judgements(ended) == told


async def test_rows_prefer_the_better_answer_and_keep_the_help_beside_the_judgement(
    setting, play, store
):
    stage = setting(
        RECURSIVE, learner=behaves("5", "4"), human=judge("0", "1"), assistant=["Line 1 is wrong."]
    )
    (ended,) = await play(stage, plans())
    (pref,) = rows(RECURSIVE, ended, "learner", store)
    assert (pref.kind, pref.replies) == ("pref", ("4", "5"))
    (sft,) = rows(RECURSIVE, ended, "human", store)
    assert sft.replies == ("1",) and "Line 1 is wrong." in sft.prompt[-1].content
    assert rows(RECURSIVE, ended, "assistant", store) == []


async def test_equal_answers_are_no_pair(setting, play, store):
    stage = setting(RECURSIVE, learner=["4"], human=judge("0", "1"), assistant=["-"])
    (ended,) = await play(stage, plans())
    assert rows(RECURSIVE, ended, "learner", store) == []


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


async def test_a_decomposition_is_worth_the_repairs_it_adds(setting, play):
    seats = workshop((USELESS, HELPFUL), ranker=["Best: 1"])
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), plans())
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


async def test_one_that_changes_what_the_solution_does_counts_for_nothing(setting, play):
    ranker = Watched("Best: 0")
    seats = workshop((CHANGED, HELPFUL), ranker=ranker)
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), plans())
    assert list(values(ended)) == ["01"]
    assert ended.verdict.value == "01"
    assert [t.text for t in ranker.asked[0].view.ask.about] == ["5", HELPFUL]
    assert not any(t.key.endswith("00.00") for t in ended.by("repairer"))
    assert ended.rewards["decomposer"] == 0.5  # one of two


async def test_where_none_counts_nobody_ranks_and_the_bare_repair_stands(setting, play, forbidden):
    seats = workshop((CHANGED, CHANGED), ranker=forbidden)
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), plans())
    assert (ended.verdict.value, ended.verdict.answer) == ("none", "5")
    assert (ended.rewards["ranker"], ended.rewards["decomposer"]) == (None, 0.0)


async def test_one_that_misleads_is_worth_less_than_none(setting, play):
    seats = workshop((USELESS, HELPFUL), without="4")
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 2}, **seats), plans())
    assert {name: value.lift for name, value in values(ended).items()} == {"00": -1.0, "01": 0.0}
    assert ended.rewards["ranker"] == -0.5


async def test_value_is_a_share_of_attempts(setting, play):
    def lucky(request: Any) -> str:
        shown, attempt = request.view.ask.about[1:], int(request.key[-2:])
        return "4" if attempt < (3 if shown else 1) else "5"

    seats = workshop((USELESS, USELESS), repairer=lucky)
    params = {"samples": 2, "attempts": 4}
    (ended,) = await play(setting(DECOMPOSITION, params, **seats), plans())
    assert {value.lift for value in values(ended).values()} == {0.5}


async def test_each_call_hears_only_what_its_work_is_about(setting, play):
    seats = {seat: Watched(say) for seat, say in workshop((USELESS, HELPFUL)).items()}
    seats["ranker"], seats["learner"] = Watched("Best: 0"), Watched("5")
    stage = setting(DECOMPOSITION, {"samples": 2}, **seats)
    (ended,) = await play(stage, plans())

    def heard(seat: str) -> list[list[str]]:
        return [[t.text for t in r.view.ask.about] for r in seats[seat].asked]

    assert heard("decomposer") == [["5"], ["5"]]
    assert heard("critic") == [["5", "parts 0"], ["5", "parts 1"]]
    assert heard("refiner") == [["5", "parts 0", "remark 0"], ["5", "parts 1", "remark 1"]]
    assert heard("repairer") == [["5"], ["5", USELESS], ["5", HELPFUL]]
    assert all(len(about) == 1 for about in heard("tester"))
    assert await replay(stage, ended) is None


async def test_rows_follow_measured_value(setting, play, store):
    seats = workshop((USELESS, HELPFUL, CHANGED))
    (ended,) = await play(setting(DECOMPOSITION, {"samples": 3}, **seats), plans())
    (pref,) = rows(DECOMPOSITION, ended, "decomposer", store)
    assert (pref.kind, pref.replies) == ("pref", (HELPFUL, USELESS))
    (crit,) = rows(DECOMPOSITION, ended, "critic", store)
    assert (crit.kind, crit.replies) == ("sft", ("remark 1",))
    (refined,) = rows(DECOMPOSITION, ended, "refiner", store)
    assert refined.replies == (HELPFUL,) and "remark 1" in refined.prompt[-1].content
    assert rows(DECOMPOSITION, ended, "learner", store) == []
    tests = {f"{ended.ref}/{turn.key}" for turn in ended.by("tester")}
    assert tests <= set(pref.turns)  # the label follows from them


@pytest.mark.parametrize("text", ["", "0", "Best: 2", "Best: -1", "Best: 0 or 1", "Best: 0\nwell"])
def test_a_pick_that_cannot_be_read_is_none(text):
    with pytest.raises(Unreadable, match="a number from 0 to 1"):
        parse_pick(text, 2)
