"""tree_refine: a failing answer is refined in a tree until the critic is satisfied.

Self-play with tree-search refinement (SPaR, Cheng et al. 2024, arXiv 2412.11605), breadth first.

    draw -> check -> expand -> appraise --+-> END   (a refinement most votes accept, or no depth)
              |         ^                 |
              +-> END   +-----------------+         (the best `beam` nodes are expanded again)

The learner answers `samples` times, the critic votes on each `votes` times. The first answer that
most votes reject is the root; an even split says nothing. Every node gets `branches` refinements of
it and of one rejecting vote. A node is worth the share of votes that accept it. What is learnt is
the refined answer against the original, which differ in little but the fault.
"""

import asyncio
from typing import Annotated, Literal

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import Ask, Context, Critique, Episode, State, Turn, Update, Verdict, parse_fault, protocol
from .refining import refining_rows, rejecting, values

ANSWER = "Solve it step by step, one working line per line, the result last."
CRITICISE = "Which is the first wrong working line of the answer?"
REFINE = "The critique names the first wrong line. Mend that, and keep what is right."


class Tree(State):
    """A search under way."""

    level: list[str]
    """Keys of the answers that were written last."""


@protocol(seats=("learner", "critic", "refiner"))
def tree_refine(
    samples: Annotated[int, Field(ge=1, le=64)] = 5,
    votes: Annotated[int, Field(ge=1, le=15)] = 5,
    branches: Annotated[int, Field(ge=1, le=16)] = 3,
    beam: Annotated[int, Field(ge=1, le=16)] = 2,
    depth: Annotated[int, Field(ge=1, le=8)] = 3,
) -> StateGraph[Tree, Context]:
    async def draw(state: Tree, runtime: Runtime[Context]) -> dict[str, object]:
        ask, learner = Ask("answer", instruction=ANSWER), runtime.context.cast["learner"]
        drawn = (learner.act(state, ask, key=f"{i:02}") for i in range(samples))
        turns = list(await asyncio.gather(*drawn))
        return {"turns": turns, "level": [turn.key for turn in turns]}

    async def vote(state: Tree, runtime: Runtime[Context]) -> tuple[Update, dict[str, float]]:
        turns = {turn.key: turn for turn in state["turns"]}

        async def one(key: str, number: int, nth: int) -> tuple[Turn, Critique]:
            ask = Ask("critique", about=(turns[key],), instruction=CRITICISE)
            critic = runtime.context.cast["critic"]
            turn = await critic.act(state, ask, key=f"{number:02}-{nth:02}")
            return turn, Critique(turn=turn.key, about=key, fault=parse_fault(turn.text))

        asked = [(key, n, nth) for n, key in enumerate(state["level"]) for nth in range(votes)]
        pairs = await asyncio.gather(*(one(*each) for each in asked))
        found = [critique for _, critique in pairs]
        return {"turns": [turn for turn, _ in pairs], "critiques": found}, values(found)

    async def check(state: Tree, runtime: Runtime[Context]) -> dict[str, object]:
        voted, value = await vote(state, runtime)
        failing = [key for key in state["level"] if value[key] < 0.5]
        if failing:
            return {**voted, "level": failing[:1]}
        best = max(state["level"], key=value.__getitem__)
        name = "sound" if value[best] > 0.5 else "undecided"
        return {**voted, "verdict": settled(state, name, best, value[best])}

    async def fails(state: Tree) -> Literal["expand", "__end__"]:
        return "__end__" if state["verdict"] else "expand"

    async def expand(state: Tree, runtime: Runtime[Context]) -> dict[str, object]:
        turns = {turn.key: turn for turn in state["turns"]}
        ask = Ask("answer", instruction=REFINE)
        asks = [
            ask._replace(about=(turns[key], turns[rejecting(state["critiques"], key)]))
            for key in state["level"]
        ]
        refiner = runtime.context.cast["refiner"]
        written = await asyncio.gather(
            *(
                refiner.act(state, ask, key=f"{n:02}-{branch:02}")
                for n, ask in enumerate(asks)
                for branch in range(branches)
            )
        )
        level = [turn.key for turn in written]
        return {"turns": list(written), "level": level, "round": state["round"] + 1}

    async def appraise(state: Tree, runtime: Runtime[Context]) -> dict[str, object]:
        voted, value = await vote(state, runtime)
        passed = [key for key in state["level"] if value[key] > 0.5]
        if passed:
            return {**voted, "verdict": settled(state, "refined", passed[0], value[passed[0]])}
        best = sorted(state["level"], key=lambda key: -value[key])[:beam]
        if state["round"] == depth:
            return {**voted, "verdict": settled(state, "unrefined", best[0], value[best[0]])}
        return {**voted, "level": best}

    graph = StateGraph(Tree, context_schema=Context)
    graph.add_node("draw", draw).add_node("check", check)
    graph.add_node("expand", expand).add_node("appraise", appraise)
    graph.add_edge(START, "draw").add_edge("draw", "check").add_conditional_edges("check", fails)
    graph.add_edge("expand", "appraise").add_conditional_edges("appraise", fails)
    return graph


def settled(state: Tree, value: str, key: str, share: float) -> Verdict:
    """The search ends with this answer, which so many votes accept."""
    text = next(turn.text for turn in state["turns"] if turn.key == key)
    return Verdict(value=value, seat="critic", confidence=share, answer=text)


@tree_refine.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Learner: share of its answers that most votes accept. Refiner: whether it satisfied the
    critic. Critic: share of true votes."""
    assert episode.verdict is not None  # a failed episode is never scored
    value, truth = values(episode.critiques), episode.facts.get("fault")
    accepted = [value[turn.key] > 0.5 for turn in episode.by("learner")]
    refined = float(episode.verdict.value == "refined") if episode.by("refiner") else None
    agree = [(c.fault is None) == (truth[c.about] is None) for c in episode.critiques if truth]
    return {
        "learner": sum(accepted) / len(accepted),
        "refiner": refined,
        "critic": sum(agree) / len(agree) if agree else None,
    }


tree_refine.rows(refining_rows)
