"""critique: an attacker asks, a learner answers, a critic finds the first wrong line.

The generic attacker-learner-critic loop (Huang et al. 2025, Figure 1).

    attack -> answer -> criticise -> decide
       |                 ^    |
       +-> END         revise <-+     (at most `revisions` times, for answers with a fault)

The learner answers the same question `samples` times. The attack counts as a hit only if the
question is valid, the first answer has a fault, and at least half of the fresh ones have too.
Every node is async: LangGraph runs a plain function in a thread, which costs a millisecond.
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
)

ATTACK = "Write one new question on this topic that a careless solver gets wrong."
ANSWER = "Solve it step by step, one working line per line, the result last."
CRITICISE = "Which is the first wrong working line of the answer?"
REVISE = "The critique names the first wrong line. Write the whole answer again, mended."


@protocol(seats=("attacker", "learner", "critic"))
def critique(
    samples: Annotated[int, Field(ge=2, le=64)] = 4,
    revisions: Annotated[int, Field(ge=0, le=8)] = 1,
) -> StateGraph[State, Context]:
    async def attack(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="question", instruction=ATTACK)
        turn = await runtime.context.cast["attacker"].act(state, ask)
        question = state["question"].model_copy(update={"text": turn.text})
        valid = runtime.context.cell(question) is not None
        verdict = None if valid else Verdict(value="invalid", seat="attacker", turn=turn.key)
        return {"turns": [turn], "question": question, "verdict": verdict}

    async def posed(state: State) -> Literal["answer", "__end__"]:
        return "__end__" if state["verdict"] else "answer"

    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask, learner = Ask(kind="answer", instruction=ANSWER), runtime.context.cast["learner"]
        drawn = (learner.act(state, ask, key=f"{i:02}") for i in range(samples))
        return {"turns": list(await asyncio.gather(*drawn))}

    async def criticise(state: State, runtime: Runtime[Context]) -> Update:
        async def one(answered: Turn) -> tuple[Turn, Critique]:
            ask = Ask(kind="critique", about=(answered,), instruction=CRITICISE)
            turn = await runtime.context.cast["critic"].act(state, ask, key=answered.key[-2:])
            fault = parse_fault(turn.text)
            about, sure = answered.key, turn.confidence
            return turn, Critique(turn=turn.key, about=about, fault=fault, confidence=sure)

        pairs = await asyncio.gather(*map(one, uncriticised(state)))
        return {"turns": [t for t, _ in pairs], "critiques": [c for _, c in pairs]}

    async def faulty(state: State) -> Literal["revise", "decide"]:
        return "revise" if state["round"] < revisions and faults(state) else "decide"

    async def revise(state: State, runtime: Runtime[Context]) -> Update:
        learner, turns = runtime.context.cast["learner"], {t.key: t for t in state["turns"]}

        async def one(found: Critique) -> Turn:
            shown = turns[found.about], turns[found.turn]
            ask = Ask(kind="answer", about=shown, instruction=REVISE)
            return await learner.act(state, ask, key=found.about[-2:])

        turns_new = await asyncio.gather(*map(one, faults(state)))
        return {"turns": list(turns_new), "round": state["round"] + 1}

    async def decide(state: State) -> Update:
        first, *fresh = [c.fault is not None for c in state["critiques"][:samples]]
        survives = sum(fresh) * 2 >= len(fresh)
        value = "solved" if not first else "failed" if survives else "fluke"
        share = sum([first, *fresh]) / samples
        return {"verdict": Verdict(value=value, seat="critic", confidence=max(share, 1 - share))}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("attack", attack).add_node("answer", answer).add_node("criticise", criticise)
    graph.add_node("revise", revise).add_node("decide", decide)
    graph.add_edge(START, "attack").add_conditional_edges("attack", posed)
    graph.add_edge("answer", "criticise").add_conditional_edges("criticise", faulty)
    graph.add_edge("revise", "criticise").add_edge("decide", END)
    return graph


def uncriticised(state: State) -> list[Turn]:
    """Answers that no critique is about yet."""
    done = {critique.about for critique in state["critiques"]}
    return [turn for turn in state["turns"] if turn.kind == "answer" and turn.key not in done]


def faults(state: State) -> list[Critique]:
    """The latest critique of each sample, where it found a fault."""
    latest = {critique.about[-2:]: critique for critique in state["critiques"]}
    return [critique for critique in latest.values() if critique.fault is not None]


@critique.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Attacker: a hit. Learner: share of accepted samples. Critic: share of true judgements."""
    assert episode.verdict is not None  # a failed episode is never scored
    if episode.verdict.value == "invalid":
        return {"attacker": 0.0, "learner": None, "critic": None}
    samples = episode.critiques[: episode.params["samples"]]
    truth = episode.facts["fault"]
    agree = [(c.fault is None) == (truth[c.about] is None) for c in episode.critiques]
    return {
        "attacker": float(episode.verdict.value == "failed"),
        "learner": sum(c.fault is None for c in samples) / len(samples),
        "critic": sum(agree) / len(agree),
    }
