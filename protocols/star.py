"""star: who answers wrongly is told the right result, and works it out again.

The self-taught reasoner (Zelikman et al. 2022, arXiv 2203.14465): answers that end in the right
result are kept, and rationalised ones as if there had been no hint.

    answer -> tell -> rationalise
                |
                +-> END   (when the answer ends as it should)

The teacher says the right result without seeing the answer; results are compared, workings are
not. What it says is shown to nobody but a learner that was wrong. Let a person who knows sit there,
or the oracle, `{engine: scripted, play: oracle}`, which makes the run a control: then the truth
itself chooses what is copied.
"""

from collections.abc import Iterable
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.store.errors import Unreadable
from superalign.store.records import Question, Row

from . import Ask, Context, Episode, State, Turn, Update, Verdict, protocol
from .protocol import PromptOf
from .readings import SOLVE, result, row, standing, whole

TELL = "What is the right result? Reply with it alone; where there are choices, with its number."
RATIONALISE = f"You are told the right result. Show how one comes to it, as if nobody had. {SOLVE}"


@protocol(seats=("learner", "teacher"), replies={"answer": ("Answer: 0",), "choice": ("0", "1")})
def star() -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=SOLVE)
        return {"turns": [await runtime.context.cast["learner"].act(state, ask)]}

    async def tell(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("choice", instruction=TELL)
        told = await runtime.context.cast["teacher"].act(state, ask)
        (first,) = state["turns"]
        return {"turns": [told], "verdict": decided(state["question"], first, told)}

    async def wrong(state: State) -> Literal["rationalise", "__end__"]:
        first, told = state["turns"]
        return "__end__" if right(state["question"], first, told) else "rationalise"

    async def rationalise(state: State, runtime: Runtime[Context]) -> Update:
        first, told = state["turns"]
        ask = Ask("answer", (told,), RATIONALISE)
        turn = await runtime.context.cast["learner"].act(state, ask)
        return {"turns": [turn], "verdict": decided(state["question"], first, told, turn)}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("tell", tell).add_node("rationalise", rationalise)
    graph.add_edge(START, "answer").add_edge("answer", "tell")
    return graph.add_conditional_edges("tell", wrong).add_edge("rationalise", END)


def right(question: Question, turn: Turn, told: Turn) -> bool:
    """Whether an answer ends in the result that the teacher told. What cannot be read does not."""
    wanted = result(question, told.text)
    try:
        return result(question, turn.text) == wanted
    except Unreadable:
        return False


def decided(question: Question, first: Turn, told: Turn, again: Turn | None = None) -> Verdict:
    """What came of it. The first answer stands: what was told before must not count as solved."""
    solved = [right(question, turn, told) for turn in (first, again) if turn]
    value = "solved" if solved[0] else "rationalised" if solved[-1] else "failed"
    try:
        stands = standing(question, first).answer
    except Unreadable:
        stands = None
    return Verdict(value=value, seat="teacher", turn=told.key, answer=stands)


@star.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Learner: its first answer ends in the result that the teacher told."""
    assert episode.verdict is not None  # a failed episode is never scored
    return {"learner": float(episode.verdict.value == "solved"), "teacher": None}


@star.rows
def kept(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """`sft` of the answer that ends in the right result under the first prompt, in which no hint
    stands. Its source is the teacher's."""
    if episode.status != "done" or seat != "learner":
        return
    assert episode.verdict is not None  # finished episodes have one
    said = episode.by(seat)
    if episode.verdict.value != "failed" and whole(said[-1]):
        yield row(episode, seat, prompt_of(said[0]), said[-1:], episode.by("teacher"))
