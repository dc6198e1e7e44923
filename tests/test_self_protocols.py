"""Protocols whose rows the learner makes of its own answers: rationalisation, and own judgement."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Agent, Completion, Sampling, Scripted
from superalign.learners.self_rewarding import extremes
from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.replay import replay
from superalign.protocols.self_rewarding import earned, parse_points
from superalign.protocols.setting import Plan
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.resolve import oracle
from superalign.store import Question, Task, Turn

STAR, SELF = load_protocol("star"), load_protocol("self_rewarding")


def plan(question: Question) -> list[Plan]:
    return [Plan(run="run", scenario="s", index=0, task=Task(question=question), seed=0)]


OPEN = plan(Question(topic="easy", text="2+2"))
OTHER = plan(Question(topic="easy", text="1+3"))
TWO = plan(Question(topic="easy", text="2+2", choices=("4", "5")))


@pytest.mark.parametrize(
    ("protocol", "params", "calls"),
    [
        (STAR, {}, 3),
        (SELF, {}, 16),
        (SELF, {"samples": 2, "judgements": 1}, 4),
        (SELF, {"by": "critique"}, 16),
    ],
)
async def test_it_is_sound_and_asks_so_often(protocol, params, calls):
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


# STaR.


def pupil(first: str, again: str) -> Any:
    """A learner who writes one answer alone, and another when it is told the result."""
    return lambda request: again if request.view.ask.about else first


@pytest.mark.parametrize(
    ("first", "again", "value", "learnt"),
    [
        ("1+1+2;4", "never", "solved", "1+1+2;4"),
        ("2+3;5", "2+2;4", "rationalised", "2+2;4"),
        ("2+3;5", "2+4;6", "failed", None),
        ("", "so\nAnswer: 4", "rationalised", "so\nAnswer: 4"),
    ],
)
async def test_what_ends_in_the_right_result_is_kept(
    first, again, value, learnt, setting, play, taught
):
    (ended,) = await play(setting(STAR, learner=pupil(first, again), teacher=["4"]), OPEN)
    assert (ended.verdict.value, ended.rewards["learner"]) == (value, float(value == "solved"))
    assert ended.facts["settled"] == (first == "4")  # of the first answer, whatever came after
    found = taught(ended, "learner")
    assert [row.replies for row in found] == ([(learnt,)] if learnt else [])
    for row in found:
        assert (row.kind, row.source) == ("sft", "ai")
        kept, told = (ended.turn(ref.split("/", 2)[2]) for ref in row.turns)
        assert (kept.text, told.seat) == (learnt, "teacher")


async def test_no_hint_stands_in_a_row_s_prompt(setting, play, taught, store):
    secret = "31337"
    (ended,) = await play(setting(STAR, learner=pupil("5", secret), teacher=[secret]), OPEN)
    first, _, again = ended.turns
    shown = store.messages([*first.messages, *again.messages])
    assert any(secret in shown[key].content for key in again.messages)
    (row,) = taught(ended, "learner")
    assert row.prompt == tuple(shown[key] for key in first.messages)
    assert not any(secret in message.content for message in row.prompt)


async def test_the_teacher_does_not_see_the_answer(setting, play, make):
    seats = make.Watched(learner="5", teacher="4")
    await play(setting(STAR, **seats.cast("learner", "teacher")), OPEN)
    (asked,) = seats.of("teacher", "choice")
    assert seats.heard(asked) == []


@pytest.mark.parametrize(("said", "value"), [("Answer: 0", "solved"), ("Answer: 1", "failed")])
async def test_the_oracle_tells_a_choice_and_its_rows_say_so(said, value, setting, play, taught):
    world = Arithmetic(choices=2)
    teacher = Agent(Scripted(oracle(world)), "oracle", Sampling(), source="oracle")
    tasks = list(world.tasks(40, seed=0))
    first = [task for task in tasks if task.question.choices[0] == task.target]
    stage = setting(STAR, world=world, learner=[said], teacher=teacher)
    (ended,) = await play(stage, plan(first[0].question))
    assert (ended.verdict.value, ended.facts["settled"]) == (value, value == "solved")
    assert {row.source for row in taught(ended, "learner")} <= {"oracle"}
    assert len(taught(ended, "learner")) == (value == "solved")


async def test_the_oracle_tells_the_result_of_an_open_question(setting, play, taught):
    world = Arithmetic()
    teacher = Agent(Scripted(oracle(world)), "oracle", Sampling(), source="oracle")
    stage = setting(STAR, world=world, learner=pupil("5", "7+5=12;3+2+1=6;62"), teacher=teacher)
    (ended,) = await play(stage, plan(Question(topic="carries", text="37+25")))
    assert (ended.verdict.value, ended.turns[1].text) == ("rationalised", "62")
    assert [row.source for row in taught(ended, "learner")] == ["oracle"]


async def test_what_was_cut_off_teaches_nothing(setting, play, taught):
    def cut(request):
        return Completion(text="2+2;4", finish="length")

    (ended,) = await play(setting(STAR, learner=cut, teacher=["4"]), OPEN)
    assert ended.verdict.value == "solved"
    assert taught(ended, "learner") == []
    assert taught(ended, "teacher") == []


async def test_a_teacher_who_cannot_be_read_fails_the_episode(setting, play):
    (ended,) = await play(setting(STAR, learner=["Answer: 0"], teacher=["who knows"]), TWO)
    assert (ended.status, "expected a number" in ended.error) == ("failed", True)


# Self-rewarding.


def judging(points: dict[str, list[str]], answers: list[str]) -> Any:
    """A learner that writes these answers, and says of each text these judgements in turn."""

    def reply(request: Any) -> str:
        if request.view.ask.kind == "answer":
            return answers[int(request.key[-2:])]
        said = points[request.view.ask.about[0].text]
        return said[int(request.key[-2:]) % len(said)]

    return reply


async def test_answers_are_ranked_by_the_mean_of_their_own_judgements(setting, play, taught):
    said = {
        "5": ["Score: 1", "well\nscore: 3/5", "Score: 2"],
        "4": ["Score: 5", "Score: 4", "Score: 4.5"],
        "6": ["Score: 0"],
    }
    stage = setting(SELF, {"samples": 3}, learner=judging(said, ["5", "4", "6"]))
    (ended,) = await play(stage, OPEN)
    assert (ended.verdict.answer, ended.rewards) == ("4", {"learner": 1.0})
    (row,) = taught(ended, "learner")
    assert (row.kind, row.replies) == ("rank", ("4", "5", "6"))
    assert row.rewards == pytest.approx((4.5, 2.0, 0.0))
    assert (row.source, row.judge, len(row.turns)) == ("ai", "scripted", 12)
    pair = extremes(row)
    assert pair is not None and pair.replies == ("4", "6")  # as the learner of that name takes it


async def test_judgements_that_cannot_be_read_count_for_nothing(setting, play, taught):
    said = {"4": ["Score: 4", "fine!", "Score: 6"], "5": ["none"], "6": ["Score: 1"]}
    stage = setting(SELF, {"samples": 3}, learner=judging(said, ["4", "5", "6"]))
    (ended,) = await play(stage, OPEN)
    (row,) = taught(ended, "learner")
    assert (row.replies, row.rewards) == (("4", "6"), (4.0, 1.0))
    lost = setting(SELF, learner=judging({"4": ["?"]}, ["4"] * 4))
    (ended,) = await play(lost, OTHER)
    assert (ended.status, "none of 12 can be read" in ended.error) == ("failed", True)


async def test_equal_answers_are_one_and_judged_so_much_more_often(setting, play, taught):
    def reply(request: Any) -> str:
        if request.view.ask.kind == "answer":
            return ("4", "4", "5")[int(request.key[-2:])]
        return f"Score: {int(request.key[-5:-3]) + 1}"  # by place: 1, 2, 3

    (ended,) = await play(setting(SELF, {"samples": 3, "judgements": 1}, learner=reply), OPEN)
    (row,) = taught(ended, "learner")
    assert (row.replies, row.rewards) == (("5", "4"), (3.0, 1.5))
    assert len(row.turns) == 5  # one of the equal answers, and all three judgements


async def test_a_critic_gives_one_point_for_no_fault(setting, play, taught):
    said = {"4": ["ok", "ok", "Critique: 1", "well"], "5": ["1"]}
    params = {"samples": 2, "judgements": 4, "by": "critique"}
    (ended,) = await play(setting(SELF, params, learner=judging(said, ["5", "4"])), OPEN)
    (row,) = taught(ended, "learner")
    assert (row.replies, row.rewards) == (("4", "5"), (pytest.approx(2 / 3), 0.0))
    assert len(ended.critiques) == 7  # what cannot be read is none
    assert {c.fault for c in ended.critiques if c.about.endswith("00")} == {1}


async def test_one_answer_ranks_nothing_and_ties_are_told(setting, play, taught):
    (same,) = await play(setting(SELF, learner=judging({"4": ["Score: 3"]}, ["4"] * 4)), OPEN)
    assert taught(same, "learner") == []
    tied = judging({"4": ["Score: 3"], "5": ["Score: 3"]}, ["4", "5", "4", "5"])
    (ended,) = await play(setting(SELF, {"judgements": 2}, learner=tied), OPEN)
    (row,) = taught(ended, "learner")
    assert row.rewards == (3.0, 3.0)
    assert extremes(row) is None


def turn(key: str, kind: str, text: str) -> Turn:
    told: Any = {"messages": (), "sampling": {}, "seed": 0, "policy": "scripted"}
    return Turn(key=key, seat="learner", kind=kind, text=text, **told)


@given(
    texts=st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    points=st.lists(st.sampled_from(["Score: 0", "Score: 2", "Score: 5", "?"]), min_size=18),
)
def test_points_of_a_text_are_the_mean_of_what_was_read_of_it(texts, points):
    turns, read = [], {}
    for i, text in enumerate(texts):
        turns.append(turn(f"0001:answer:0000/learner:{i:02}", "answer", text))
        for nth in range(3):
            key = f"0002:judge:0000/learner:{i:02}.{nth:02}"
            turns.append(turn(key, "score", points[3 * i + nth]))
            if (found := parse_points(turns[-1])) is not None:
                read.setdefault(text, []).append(found)
    random.Random(len(texts)).shuffle(turns)  # order tells nothing
    wanted = {t: sum(p) / len(p) for t, p in read.items()}
    assert {k: round(v, 9) for k, v in earned(turns).items()} == {
        f"0001:answer:0000/learner:{i:02}": round(wanted[text], 9)
        for i, text in enumerate(texts)
        if text in wanted
    }


# Both.


async def test_what_is_stored_replays_without_a_model(setting, play, forbidden, make):
    spoken = {
        "star": {"learner": make.chance("4", "5"), "teacher": ["4"]},
        "self_rewarding": {"learner": make.chance("4", "5", "Score: 3", "Score: 4")},
    }
    for name, seats in spoken.items():
        protocol = load_protocol(name)
        ended = await play(setting(protocol, **seats), 8)
        mute = setting(protocol, **dict.fromkeys(seats, forbidden))
        assert [await replay(mute, one) for one in ended] == [None] * 8
