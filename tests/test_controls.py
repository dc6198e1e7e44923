"""The ends of the scale: one answer, most of several, and a judge whom the oracle tells."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Agent, Sampling, Scripted
from superalign.protocols import load_protocol
from superalign.protocols.answering import ending
from superalign.protocols.setting import Plan, Setting
from superalign.protocols.stage import Stage
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.resolve import oracle
from superalign.store import Question, Store, Task, Unreadable

TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
OPEN = Question(topic="easy", text="2+2?")


def plans(*tasks: Task) -> list[Plan]:
    return [Plan(run="run", scenario="s", index=i, task=t, seed=i) for i, t in enumerate(tasks)]


# Direct answers and votes.


async def test_an_open_answer_settles_on_its_whole_text(setting, play):
    stage = setting(load_protocol("direct"), learner=["4"])
    (ended,) = await play(stage, plans(Task(question=OPEN)))
    assert (ended.verdict.value, ended.verdict.answer) == ("4", "4")
    assert (ended.by("learner")[0].kind, ended.rewards) == ("answer", {"learner": 1.0})


@pytest.mark.parametrize(
    ("text", "end"),
    [("4", "4"), ("2+2\n= 4\n\n", "= 4"), ("7+5=12;3+1=4;42", "42"), (" a ;\n; ", "a")],
)
def test_an_answer_ends_in_its_last_working_line(text, end):
    assert ending(text) == end


@pytest.mark.parametrize("text", ["", " \n;; \n"])
def test_an_empty_answer_settles_on_nothing(text):
    with pytest.raises(Unreadable, match="expected at least one line"):
        ending(text)


@pytest.mark.parametrize(
    ("votes", "value", "share"),
    [
        (["1", "0", "0"], "0", 2 / 3),
        (["1", "0", "0", "1"], "1", 0.5),
        (["0", "1", "1", "0"], "0", 0.5),
        (["1"], "1", 1.0),
    ],
)
async def test_most_votes_decide_and_of_equally_many_the_first(votes, value, share, setting, play):
    stage = setting(load_protocol("vote"), {"samples": len(votes)}, learner=votes)
    (ended,) = await play(stage, plans(Task(question=TWO)))
    assert (ended.verdict.value, ended.verdict.confidence) == (value, share)
    assert ended.verdict.turn == ended.turns[votes.index(value)].key
    assert ended.rewards == {"learner": float(value == "0")}


async def test_open_votes_are_counted_by_what_they_end_in(setting, play):
    votes = ["1+1\n5", "2+2\n4", "3+1;4"]
    stage = setting(load_protocol("vote"), {"samples": 3}, learner=votes)
    (ended,) = await play(stage, plans(Task(question=OPEN)))
    assert (ended.verdict.value, ended.verdict.answer) == ("4", "2+2\n4")


@given(st.lists(st.sampled_from("012"), min_size=1, max_size=9))
def test_the_share_of_a_vote_is_that_of_its_value(votes):
    found = load_protocol("vote")
    question = TWO.model_copy(update={"choices": ("4", "5", "6")})
    with Store.open("sqlite://", write=True) as store:
        cast = {"learner": Agent(Scripted(votes), "s", Sampling())}
        stage = Setting(found, {"samples": len(votes)}, cast, store, Arithmetic())
        (plan,) = plans(Task(question=question))
        ended = asyncio.run(Stage(stage, plan).play())
    assert ended.verdict is not None and ended.verdict.confidence is not None
    assert ended.verdict.confidence * len(votes) == pytest.approx(votes.count(ended.verdict.value))
    assert votes.count(ended.verdict.value) == max(map(votes.count, votes))


# The oracle's control.


async def test_a_judge_that_believes_the_oracle_is_always_right(setting, play):
    world = Arithmetic(choices=2)
    teller = Agent(Scripted(oracle(world)), "oracle", Sampling(), source="oracle")

    def believe(request: Any) -> str:
        return request.view.ask.about[0].text

    stage = setting(load_protocol("oracle_told"), world=world, teller=teller, judge=believe)
    ended = await play(stage, plans(*world.tasks(24, seed=1)))
    assert [e.rewards["judge"] for e in ended] == [1.0] * 24
    assert {e.verdict.value for e in ended} == {"0", "1"}


# What the documentation says of them.


ARMS = (
    "direct blind oracle_told propaganda consultancy open_consultancy debate open_debate vote"
).split()


@pytest.mark.parametrize("name", ARMS)
def test_the_page_of_an_arm_has_its_graph_and_its_parameters(name):
    found = load_protocol(name)
    page = (Path(__file__).parent.parent / "docs" / "protocols" / f"{name}.md").read_text()
    edge = re.compile(r"^\s*(\w+ -\.?-> \w+);?$", re.MULTILINE)
    variants = [{}, {"interactive": True}] if "interactive" in found.parameters else [{}]
    drawn = {e for given in variants for e in edge.findall(found.mermaid(found.params(given)))}
    assert set(edge.findall(page)) == drawn
    row = re.compile(r"^\| `(\w+)` \| (\w+) \|", re.MULTILINE)
    assert dict(row.findall(page)) == {k: str(v).lower() for k, v in found.params({}).items()}
