"""task_decomposition: a solution is taken apart so that somebody weaker can find what is wrong.

Learning task decomposition to assist humans (Wen et al. 2024, arXiv:2406.04604).

    solve -> decompose -> criticise -> refine -> verify -> rank -> repair -> check
                                                   |                 ^
                                                   +-----------------+     (none that counts)

Each of `samples` decompositions is criticised and refined. The tester, a tool, says whether it
still does what the solution does; one that does not counts for nothing. The ranker picks the one
to show. To measure what each is worth, its assistive value, the repairer mends the solution with
each and without any, `attempts` times; the repair with the picked one is the answer.
"""

import asyncio
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import (
    Ask,
    Context,
    Critique,
    Episode,
    State,
    Turn,
    Update,
    Verdict,
    parse_fault,
    protocol,
    truthful,
)
from .assistive import WITHOUT, by_value, equivalent, mean_lift, nth, parse_pick, values

SOLVE = "Solve it step by step, one working line per line, the result last."
DECOMPOSE = (
    "Write the solution again as small parts with names, so that who reads it finds what is wrong."
    " Change nothing that it does."
)
CRITICISE = "What makes this decomposition hard to check, or other than the solution?"
REFINE = "Write the decomposition again so that the remark no longer holds."
TEST = "Test it. Which is the first line that is wrong?"
PICK = "Which decomposition helps most to find and mend what is wrong? End with `Best: ` and its"
REPAIR = "Mend the solution where it is wrong. Write all of it, one working line per line."
SEATS = ("learner", "decomposer", "critic", "refiner", "tester", "ranker", "repairer")


@protocol(seats=SEATS, replies={"pick": ("Best: 0",)})
def task_decomposition(
    samples: Annotated[int, Field(ge=2, le=16)] = 3,
    attempts: Annotated[int, Field(ge=1, le=16)] = 1,
) -> StateGraph[State, Context]:
    async def ask(state: State, runtime: Runtime[Context], seat: str, asks: dict[str, Ask]):
        act = runtime.context.cast[seat].act
        return list(await asyncio.gather(*(act(state, one, key=k) for k, one in asks.items())))

    async def solve(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": await ask(state, runtime, "learner", {"00": Ask("answer", (), SOLVE)})}

    async def decompose(state: State, runtime: Runtime[Context]) -> Update:
        one = Ask("decomposition", (state["turns"][0],), DECOMPOSE)
        asks = {f"{i:02}": one for i in range(samples)}
        return {"turns": await ask(state, runtime, "decomposer", asks)}

    async def criticise(state: State, runtime: Runtime[Context]) -> Update:
        solution, *parts = state["turns"]
        asks = {nth(d): Ask("remark", (solution, d), CRITICISE) for d in parts}
        return {"turns": await ask(state, runtime, "critic", asks)}

    async def refine(state: State, runtime: Runtime[Context]) -> Update:
        turns = state["turns"]
        pairs = zip(turns[1 : samples + 1], turns[samples + 1 :], strict=True)
        asks = {nth(d): Ask("decomposition", (turns[0], d, said), REFINE) for d, said in pairs}
        return {"turns": await ask(state, runtime, "refiner", asks)}

    async def tested(state: State, runtime: Runtime[Context], what: dict[str, Turn]) -> Update:
        asks = {name: Ask("critique", (turn,), TEST) for name, turn in what.items()}
        turns = await ask(state, runtime, "tester", asks)
        found = [
            Critique(turn=turn.key, about=about.key, fault=parse_fault(turn.text))
            for turn, about in zip(turns, what.values(), strict=True)
        ]
        return {"turns": turns, "critiques": found}

    async def verify(state: State, runtime: Runtime[Context]) -> Update:
        what = {nth(turn): turn for turn in state["turns"][-samples:]}
        return await tested(state, runtime, {"solution": state["turns"][0], **what})

    def sound(state: State) -> dict[str, Turn]:
        refined = [turn for turn in state["turns"] if turn.seat == "refiner"]
        return equivalent(state["turns"][0], refined, state["critiques"])

    async def any_left(state: State) -> Literal["rank", "repair"]:
        return "rank" if sound(state) else "repair"

    async def rank(state: State, runtime: Runtime[Context]) -> Update:
        left = sound(state)
        asks = {"00": Ask("pick", (state["turns"][0], *left.values()), f"{PICK} number, from 0.")}
        turns = await ask(state, runtime, "ranker", asks)
        name = list(left)[parse_pick(turns[0].text, len(left))]
        picked = Verdict(value=name, seat="ranker", turn=turns[0].key)
        return {"turns": turns, "verdict": picked}

    async def repair(state: State, runtime: Runtime[Context]) -> Update:
        shown = {WITHOUT: (), **{name: (turn,) for name, turn in sound(state).items()}}
        asks = {
            f"{name}.{i:02}": Ask("answer", (state["turns"][0], *about), REPAIR)
            for name, about in shown.items()
            for i in range(attempts)
        }
        turns = await ask(state, runtime, "repairer", asks)
        picked = state["verdict"] or Verdict(value=WITHOUT, seat="tester")
        answer = next(turn.text for turn in turns if nth(turn) == f"{picked.value}.00")
        return {"turns": turns, "verdict": picked.model_copy(update={"answer": answer})}

    async def check(state: State, runtime: Runtime[Context]) -> Update:
        what = {nth(turn): turn for turn in state["turns"] if turn.seat == "repairer"}
        return await tested(state, runtime, what)

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("solve", solve).add_node("decompose", decompose).add_node("refine", refine)
    graph.add_node("criticise", criticise).add_node("verify", verify).add_node("rank", rank)
    graph.add_node("repair", repair).add_node("check", check).add_edge(START, "solve")
    graph.add_edge("solve", "decompose").add_edge("decompose", "criticise")
    graph.add_edge("criticise", "refine").add_edge("refine", "verify")
    graph.add_conditional_edges("verify", any_left).add_edge("rank", "repair")
    return graph.add_edge("repair", "check").add_edge("check", END)


@task_decomposition.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Learner and repairer: whether they are right. Decomposer and refiner: the mean assistive
    value of all. Ranker: by how much that of its pick is above the mean of those it chose from."""
    assert episode.verdict is not None  # a failed episode is never scored
    (solution,) = episode.by("learner")
    found, picked = values(episode), episode.verdict.value
    mean = mean_lift(found, episode.params["samples"])
    above = found[picked].lift - mean_lift(found, len(found)) if found else None
    made = {"decomposer": mean, "refiner": mean, "ranker": above, "critic": None, "tester": None}
    solved = float(episode.facts["correct"][solution.key])
    return {"learner": solved, "repairer": truthful(episode), **made}


task_decomposition.rows(by_value)
