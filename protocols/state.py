"""What flows through a protocol's graph: state, updates, and the context nodes are given."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypedDict

from superalign.store.records import Critique, Question, Turn, Verdict

if TYPE_CHECKING:
    from .stage import Seat


class State(TypedDict):
    """What every node may read. It holds the public question, never the task with its target."""

    question: Question
    turns: Annotated[list[Turn], operator.add]
    critiques: Annotated[list[Critique], operator.add]
    round: int
    verdict: Verdict | None


class Update(TypedDict, total=False):
    """What a node returns. Turns and critiques are appended, the rest is replaced."""

    question: Question
    turns: list[Turn]
    critiques: list[Critique]
    round: int
    verdict: Verdict | None


@dataclass(frozen=True)
class Context:
    """What nodes may use besides state. Seats are handles whose only power is `act`."""

    cast: Mapping[str, Seat]
    cell: Callable[[Question], str | None]
    """The world's question validator: the cell a question lies in, None when it is not valid."""
    quoted: Callable[[Turn], Turn]
    """A turn as others are to see it: its quotes checked against its speaker's private note."""
