"""Two small protocols whose calls are hard to name: nested fan-outs, and parallel nodes.

panel     ask -> hear x experts, each a graph of its own: answer -> check x checks -> decide
exchange  left and right side by side, each asked twice in one node -> criticise -> decide
"""

import asyncio
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from superalign.protocols import (
    Ask,
    Context,
    Critique,
    State,
    Turn,
    Update,
    Verdict,
    inside,
    parse_fault,
    protocol,
)

CHECK = "Which is the first wrong working line of the answer?"


async def criticised(state: State, runtime: Runtime[Context], about: Turn, key: str | None) -> Any:
    """A critic's turn on one answer, and what it found."""
    ask = Ask(kind="critique", about=(about,), instruction=CHECK)
    turn = await runtime.context.cast["critic"].act(state, ask, key=key)
    return turn, Critique(turn=turn.key, about=about.key, fault=parse_fault(turn.text))


async def decide(state: State) -> Update:
    """Accepted when most critiques found no fault."""
    found = [critique.fault is None for critique in state["critiques"]]
    value = "accepted" if sum(found) * 2 >= len(found) else "rejected"
    return {"verdict": Verdict(value=value, seat="critic", confidence=sum(found) / len(found))}


@protocol(seats=("asker", "expert", "critic"))
def panel(experts: int = 2, checks: int = 2) -> StateGraph[State, Context]:
    async def ask(state: State, runtime: Runtime[Context]) -> Update:
        turn = await runtime.context.cast["asker"].act(state, Ask(kind="question"))
        question = state["question"].model_copy(update={"text": turn.text})
        return {"turns": [turn], "question": question}

    async def spread(state: State) -> list[Send]:
        return [Send("hear", {**state, "turns": [], "critiques": []}) for _ in range(experts)]

    async def hear(state: State, runtime: Runtime[Context]) -> Update:
        with inside():
            heard = await child.ainvoke(state, context=runtime.context)
        return {"turns": heard["turns"], "critiques": heard["critiques"]}

    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": [await runtime.context.cast["expert"].act(state, Ask(kind="answer"))]}

    async def fan(state: State) -> list[Send]:
        return [Send("check", dict(state)) for _ in range(checks)]

    async def check(state: State, runtime: Runtime[Context]) -> Update:
        turn, found = await criticised(state, runtime, state["turns"][-1], None)
        return {"turns": [turn], "critiques": [found]}

    inner = StateGraph(State, context_schema=Context)
    inner.add_node("answer", answer).add_node("check", check).add_edge(START, "answer")
    inner.add_conditional_edges("answer", fan, ["check"]).add_edge("check", END)
    child = inner.compile()

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("ask", ask).add_node("hear", hear).add_node("decide", decide)
    graph.add_edge(START, "ask").add_conditional_edges("ask", spread, ["hear"])
    graph.add_edge("hear", "decide").add_edge("decide", END)
    return graph


@panel.score
def share(episode: Any) -> dict[str, float | None]:
    return {"expert": episode.verdict.confidence, "asker": None, "critic": None}


@protocol(seats=("left", "right", "critic"))
def exchange() -> StateGraph[State, Context]:
    def side(seat: str) -> Any:
        async def speak(state: State, runtime: Runtime[Context]) -> Update:
            first = await runtime.context.cast[seat].act(state, Ask(kind="answer"))
            again = Ask(kind="answer", about=(first,), instruction="Say it again, shorter.")
            return {"turns": [first, await runtime.context.cast[seat].act(state, again)]}

        return speak

    async def criticise(state: State, runtime: Runtime[Context]) -> Update:
        asked = (criticised(state, runtime, t, f"{i}") for i, t in enumerate(state["turns"]))
        pairs = await asyncio.gather(*asked)
        return {"turns": [t for t, _ in pairs], "critiques": [c for _, c in pairs]}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", side("left")).add_node("right", side("right"))
    graph.add_node("criticise", criticise).add_node("decide", decide)
    graph.add_edge(START, "left").add_edge(START, "right")
    graph.add_edge(["left", "right"], "criticise").add_edge("criticise", "decide")
    return graph.add_edge("decide", END)
