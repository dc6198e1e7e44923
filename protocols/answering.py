"""One answer of a seat that nobody oversees, and what it settles on."""

from __future__ import annotations

import re

from langgraph.runtime import Runtime

from superalign.agents import Ask
from superalign.store.errors import Unreadable
from superalign.store.records import Turn, Verdict

from .judging import DECIDE, decision
from .state import Context, State

SOLVE = "Solve it step by step, one working line per line, the result last."


async def draw(
    state: State, runtime: Runtime[Context], seat: str, key: str | None = None
) -> tuple[Turn, Verdict]:
    """A seat's answer to the question: the number of a choice where there are choices."""
    if state["question"].choices:
        ask = Ask(kind="verdict", instruction=DECIDE, picks=len(state["question"].choices))
    else:
        ask = Ask(kind="answer", instruction=SOLVE)
    turn = await runtime.context.cast[seat].act(state, ask, key=key)
    return turn, read(state, turn)


def read(state: State, turn: Turn) -> Verdict:
    """What an answer settles on. Raises Unreadable."""
    if state["question"].choices:
        return decision(state, turn)
    return Verdict(value=ending(turn.text), seat=turn.seat, turn=turn.key, answer=turn.text)


def ending(text: str) -> str:
    """The last working line of an answer: what stands behind the last line break or semicolon."""
    lines = [line.strip() for line in re.split(r"[\n;]", text)]
    last = next((line for line in reversed(lines) if line), None)
    if last is None:
        raise Unreadable(f"answer {text!r}: expected at least one line")
    return last
