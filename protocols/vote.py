"""vote: the learner answers several times, and most of its answers decide.

The cost-matched control of every other protocol (self-consistency, Wang et al. 2022,
arXiv:2203.11171): so many samples as the other one makes calls.

    poll -> count

No sample sees another. Answers are told apart as direct.py does: by the choice they name, or by
what they end in. Of equally frequent ones that wins which was drawn first. The verdict's confidence
is the share of the votes; its turn is the first that gave the winning answer.
"""

import asyncio
from collections import Counter
from typing import Annotated

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import Context, Episode, State, Update, protocol, truthful
from .answering import draw, read


@protocol(seats=("learner",))
def vote(samples: Annotated[int, Field(ge=1, le=256)] = 5) -> StateGraph[State, Context]:
    async def poll(state: State, runtime: Runtime[Context]) -> Update:
        votes = (draw(state, runtime, "learner", key=f"{i:03}") for i in range(samples))
        return {"turns": [turn for turn, _ in await asyncio.gather(*votes)]}

    async def count(state: State) -> Update:
        votes = [read(state, turn) for turn in state["turns"]]
        counts = Counter(verdict.value for verdict in votes)  # in the order of the first of each
        value = max(counts, key=counts.__getitem__)
        first = next(verdict for verdict in votes if verdict.value == value)
        share = counts[value] / samples
        return {"verdict": first.model_copy(update={"confidence": share})}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("poll", poll).add_node("count", count)
    return graph.add_edge(START, "poll").add_edge("poll", "count").add_edge("count", END)


@vote.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The learner: whether the answer that most votes gave is right."""
    return {"learner": truthful(episode)}
