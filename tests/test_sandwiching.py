"""Sandwiching: who hears whom, how far an overseer relies on help, and which rows follow."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.reliance import arms, estimate, measure
from superalign.protocols.replay import replay
from superalign.store import Question, Unreadable

SANDWICHING = load_protocol("sandwiching")
TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
SUM = {"question": TWO, "target": "4"}


def sure(confidence: float, choice: int) -> str:
    return f"Let me see.\nConfidence: {confidence}\nVerdict: {choice}"


@pytest.mark.parametrize(
    ("protocol", "params", "calls"),
    [
        (SANDWICHING, {}, 10),
        (SANDWICHING, {"rounds": 1}, 6),
    ],
)
async def test_each_passes_the_check_and_makes_so_many_calls(protocol, params, calls):
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


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


async def test_nobody_hears_the_expert_nor_the_overseer_s_first_answer(setting, play, make):
    seen = make.Watched(
        human=overseer("mine alone\n" + sure(0.6, 1), sure(0.8, 0)),
        learner=assistant("a first answer\n" + sure(0.7, 0)),
        expert="the expert's word\n" + sure(0.9, 0),
    )
    stage = setting(SANDWICHING, {"rounds": 2}, **seen.cast())
    (ended,) = await play(stage, make.plans(1, **SUM))
    assert ended.error is None
    human, learner = (
        ["\n".join(m.content for m in request.messages) for request in seen.asked[seat]]
        for seat in ("human", "learner")
    )
    kinds = [request.view.ask.kind for request in seen.asked["human"]]
    assert kinds == ["estimate", "inquiry", "inquiry", "estimate"]
    assert not any("expert's word" in shown for shown in human)
    assert not any("mine alone" in shown for shown in learner)
    assert (len(learner), len(human)) == (3, 4)
    assert "mine alone" in human[3] and "a first answer" in human[3]
    assert human[3].count("Are you certain?") == human[3].count("Quite.") == 2
    assert "a first answer" not in human[0]
    assert await replay(stage, ended) is None


async def test_the_arms_and_the_rewards_are_those_of_each_alone_and_of_both(setting, play, make):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 1), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), make.plans(1, **SUM))
    assert arms(ended) == {"human": "5", "learner": "5", "expert": "4", "together": "4"}
    assert ended.rewards == {"human": 1.0, "learner": 0.0, "expert": 1.0}
    assert (ended.verdict.answer, ended.verdict.confidence) == ("4", 0.8)


async def test_reliance_lift_and_calibration_have_known_values(setting, play, make):
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
        ended += await play(setting(SANDWICHING, **seats), make.plans(4, **SUM)[i : i + 1])
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
    setting, play, taught, make
):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 1), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), make.plans(1, **SUM))
    sft, pref = taught(ended, "learner")
    assert sft.replies == ("Confidence: 0.8\nVerdict: 0",)
    assert pref.replies == (sft.replies[0], sure(0.7, 1))
    assert (sft.flip_prob, pref.flip_prob) == (0.2, 0.2)
    assert "Quite." not in str(sft.prompt)
    assert taught(ended, "human") == []


async def test_there_is_no_pair_where_overseer_and_assistant_agree(setting, play, taught, make):
    seats = cast(human=sure(0.6, 1), learner=sure(0.7, 0), together=sure(0.8, 0))
    (ended,) = await play(setting(SANDWICHING, **seats), make.plans(1, **SUM))
    assert [row.kind for row in taught(ended, "learner")] == ["sft"]


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
