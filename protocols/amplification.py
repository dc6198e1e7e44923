"""amplification: a human answers a hard question with the help of many copies of a learner.

One amplification step of iterated amplification (Christiano et al. 2018, arXiv:1810.08575).

    alone -> step -> answer      (the learner answers what the human asks)
              |  ^______|
              +--+               (or, above `depth`, the human answers it, by asking on)
              +-> END            (the human answers the question)

At each step the human asks the next sub-question or answers. Copies of the learner are calls that
share nothing. What the learner says `alone` is shown to nobody: it is what training on the human's
answer is to change. `questions.question_tree` reads the tree of questions off the transcript.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import (
    Ask,
    Context,
    Episode,
    State,
    Turn,
    Update,
    Verdict,
    protocol,
    truthful,
)
from .protocol import PromptOf
from .questions import Frame, advance, answer_of

ALONE = "Answer the question. Reply with the answer and nothing else."
SUBANSWER = "Answer the sub-question. Reply with the answer and nothing else."
STEP = (
    "Ask an easier question that helps with the one that is open, or answer that one. Reply with"
    " one line: `Ask: ` and the question, or `Answer: ` and the answer."
)
CONCLUDE = "Ask no more: answer. Reply with one line: `Answer: ` and the answer."


class Tree(State):
    """`frames` holds the open questions, outermost first."""

    frames: list[Frame]


class Step(Update, total=False):
    frames: list[Frame]


@protocol(
    seats=("learner", "human"),
    replies={
        "step": ("Ask: an easier question", "Answer: 4"),
        "conclusion": ("Answer: 4",),
        "subanswer": ("4",),
    },
)
def amplification(
    questions: Annotated[int, Field(ge=1, le=8)] = 4,
    depth: Annotated[int, Field(ge=1, le=4)] = 1,
) -> StateGraph[Tree, Context]:
    async def alone(state: Tree, runtime: Runtime[Context]) -> Step:
        ask = Ask(kind="answer", instruction=ALONE)
        turn = await runtime.context.cast["learner"].act(state, ask)
        return {"turns": [turn], "frames": [[""]]}

    async def step(state: Tree, runtime: Runtime[Context]) -> Step:
        free = len(state["frames"][-1]) // 2 < questions
        kind, words = ("step", STEP) if free else ("conclusion", CONCLUDE)
        ask = Ask(kind=kind, about=heard(state), instruction=words)
        turn = await runtime.context.cast["human"].act(state, ask)
        answered = answer_of(turn)
        frames = advance(state["frames"], turn)
        if frames:
            return {"turns": [turn], "frames": frames}
        verdict = Verdict(value="answered", seat="human", turn=turn.key, answer=answered)
        return {"turns": [turn], "frames": [], "verdict": verdict}

    async def whose(state: Tree) -> Literal["step", "answer", "__end__"]:
        if not state["frames"]:
            return "__end__"
        return "answer" if len(state["frames"]) > depth else "step"

    async def answer(state: Tree, runtime: Runtime[Context]) -> Step:
        ask = Ask(kind="subanswer", about=heard(state), instruction=SUBANSWER)
        turn = await runtime.context.cast["learner"].act(state, ask)
        return {"turns": [turn], "frames": advance(state["frames"], turn)}

    graph = StateGraph(Tree, context_schema=Context)
    graph.add_node("alone", alone).add_node("step", step).add_node("answer", answer)
    graph.add_edge(START, "alone").add_edge("alone", "step")
    graph.add_conditional_edges("step", whose).add_edge("answer", "step")
    return graph


def heard(state: Tree) -> tuple[Turn, ...]:
    """The innermost open question, and what was asked and answered below it."""
    turns = {turn.key: turn for turn in state["turns"]}
    return tuple(turns[key] for key in state["frames"][-1] if key)


@amplification.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Human: whether the answer is right. Learner: whether it says the same alone, right or not."""
    assert episode.verdict is not None  # a failed episode is never scored
    (alone,) = episode.by("learner", "answer")
    same = alone.text.strip() == episode.verdict.answer
    return {"human": truthful(episode), "learner": float(same)}


@amplification.rows
def distil(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """Learner: the question and the human's answer. Human: each context and what came next."""
    assert episode.verdict is not None  # rows are made of finished episodes
    last = episode.turn(episode.verdict.turn or "")
    pairs = [(turn, turn, turn.text) for turn in episode.by("human")]
    if seat == "learner":
        (alone,) = episode.by("learner", "answer")
        pairs = [(alone, last, answer_of(last) or "")]
    for asked, said, text in pairs if seat in ("learner", "human") else []:
        yield Row(
            kind="sft",
            seat=seat,
            prompt=prompt_of(asked),
            replies=(text,),
            source=said.source,
            judge=said.policy,
            turns=tuple(f"{episode.ref}/{key}" for key in dict.fromkeys((asked.key, said.key))),
            iteration=episode.iteration,
        )
