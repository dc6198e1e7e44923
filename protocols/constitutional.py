"""constitutional: a critic and a refiner mend an answer by one principle after another.

The supervised stage of Constitutional AI (Bai et al. 2022, arXiv 2212.08073), and a check by the
feedback model of its second stage.

    answer -> review -> revise -> check
                 ^        |
                 +--------+   (`revisions` times, a drawn principle each)

Principles are drawn without replacement until all were used, by the seed of the first answer. In
the end a judge compares the last revision with the first answer under every principle and in both
orders: the share of its choices is how far the revision is believed to be better.
"""

import asyncio
import random
from collections.abc import Iterable
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import Ask, Context, Episode, State, Turn, Update, protocol, truthful
from .protocol import PromptOf
from .readings import parse_word, row, standing, whole

PRINCIPLES = (
    "It must not help anybody to do harm.",
    "It must say nothing that its author does not believe to be true.",
    "It must be useful to whoever asked, and not evade the question.",
    "It must be polite, without preaching.",
)
ANSWER = "Answer the question."
REVIEW = "How does the last answer violate this principle, if it does? {principle}"
REVISE = (
    "Write the whole answer again so that it obeys this principle and says nothing about the"
    " review. {principle}"
)
CHECK = (
    "Which of the two answers obeys this principle better? {principle}"
    " End with one line: `Comparison: first` or `Comparison: second`."
)


@protocol(
    seats=("learner", "critic", "refiner", "judge"),
    replies={
        "answer": ("Answer: 0",),
        "comparison": ("Comparison: first", "Comparison: second"),
    },
)
def constitutional(
    revisions: Annotated[int, Field(ge=1, le=8)] = 4,
    principles: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=32)
    ] = PRINCIPLES,
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=ANSWER)
        return {"turns": [await runtime.context.cast["learner"].act(state, ask)]}

    async def review(state: State, runtime: Runtime[Context]) -> Update:
        words = REVIEW.format(principle=drawn(state["turns"][0], principles, state["round"]))
        ask = Ask("review", (answers(state["turns"])[-1],), words)
        return {"turns": [await runtime.context.cast["critic"].act(state, ask)]}

    async def revise(state: State, runtime: Runtime[Context]) -> Update:
        words = REVISE.format(principle=drawn(state["turns"][0], principles, state["round"]))
        ask = Ask("answer", tuple(state["turns"][-2:]), words)  # the last answer and its review
        turn = await runtime.context.cast["refiner"].act(state, ask)
        return {"turns": [turn], "round": state["round"] + 1}

    async def more(state: State) -> Literal["review", "check"]:
        return "review" if state["round"] < revisions else "check"

    async def check(state: State, runtime: Runtime[Context]) -> Update:
        first, *_, last = answers(state["turns"])
        asks = {
            f"{i:02}.{side}": Ask("comparison", pair, CHECK.format(principle=principle))
            for i, principle in enumerate(principles)
            for side, pair in enumerate(((first, last), (last, first)))
        }
        judge = runtime.context.cast["judge"]
        said = await asyncio.gather(*(judge.act(state, ask, key=key) for key, ask in asks.items()))
        share = preferred(said)
        sure, stands = max(share, 1 - share), last if share > 0.5 else first
        return {
            "turns": list(said),
            "verdict": standing(state["question"], stands, confidence=sure),
        }

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("review", review).add_node("revise", revise)
    graph.add_node("check", check).add_edge(START, "answer").add_edge("answer", "review")
    graph.add_edge("review", "revise").add_conditional_edges("revise", more)
    return graph.add_edge("check", END)


def drawn(first: Turn, principles: tuple[str, ...], k: int) -> str:
    """The principle of step `k`: of a deck that is shuffled anew when it is used up."""
    deck, place = divmod(k, len(principles))
    order = random.Random(f"{first.seed} {deck}").sample(principles, len(principles))
    return order[place]


def answers(turns: Iterable[Turn]) -> list[Turn]:
    """The first answer and its revisions."""
    return [turn for turn in turns if turn.kind == "answer"]


def preferred(said: Iterable[Turn]) -> float:
    """The share of comparisons, of both orders, that chose the revision."""
    places = [parse_word(turn.text, "comparison", ("first", "second")) for turn in said]
    chosen = [place == ("second", "first")[i % 2] for i, place in enumerate(places)]
    return sum(chosen) / len(chosen)


@constitutional.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Critic and refiner: the share that chose the revision. Learner: what stands is right, where
    a world can tell."""
    share = preferred(episode.by("judge"))
    return {"learner": truthful(episode), "critic": share, "refiner": share, "judge": None}


@constitutional.rows
def learnt(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """`sft` of every revision under the first prompt, and `pref` of the last over the first answer
    (or the other way round), believed as far as the judge's choices agree; a tie teaches nothing.
    """
    if episode.status != "done" or seat != "learner":
        return
    (first, *revised), said = answers(episode.turns), episode.by("judge")
    prompt, share = prompt_of(first), preferred(said)
    for turn in revised:
        if whole(turn):
            reviews = [t for t in episode.by("critic") if t.key < turn.key]
            yield row(episode, seat, prompt, (turn,), reviews[-1:])
    if share != 0.5 and whole(first, revised[-1]) and first.text != revised[-1].text:
        pair = (revised[-1], first) if share > 0.5 else (first, revised[-1])
        yield row(episode, seat, prompt, pair, said, min(share, 1 - share))
