"""A protocol as a node of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from langgraph.runtime import Runtime

from superalign.store.records import Question

from .calls import inside
from .protocol import Protocol
from .state import Context, State, Update

Node = Callable[[State, Runtime[Context]], Awaitable[Update]]


def nest(
    child: Protocol,
    seats: Mapping[str, str] | None = None,
    question: Callable[[State], Question] | None = None,
    **params: Any,
) -> Node:
    """A node that plays `child` and returns its turns, critiques and verdict.

    `seats` says which seat of the parent sits in a seat of the child; without it, the one of the
    same name. `question` says what the child is asked; without it, the parent's question.
    """
    graph, seats = child.graph(child.params(params)), seats or {}

    async def node(state: State, runtime: Runtime[Context]) -> Update:
        cast = runtime.context.cast
        own = {seat: cast[seats.get(seat, seat)] for seat in child.seats}
        asked = question(state) if question else state["question"]
        start = State(question=asked, turns=[], critiques=[], round=0, verdict=None)
        with inside():
            final = await graph.ainvoke(start, context=replace(runtime.context, cast=own))
        return {name: final[name] for name in ("turns", "critiques", "verdict")}  # type: ignore[return-value]

    return node
