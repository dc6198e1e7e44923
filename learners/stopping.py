"""Stop rules of a learning loop: limits on diversity and on exploitability at which it ends.

    StopRules(diversity=0.1, exploitability=0.2)
    broken(rules, [panel, ...]) -> the limits that the last panels have passed

A limit is passed when the whole 95% interval of its number lies beyond it, twice in a row of the
times that the number was measured: a number is looked at in every iteration, and one look in forty
passes a limit on which it lies exactly. Unlike an alarm (learners/alarms.py), a rule knows what is
wanted, not what has been: it fires on a loop that was bad from its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from superalign.store.records import Record

from .alarms import PATIENCE, Panel, spelt
from .estimates import Estimate


class StopRules(Record):
    """Limits at which a run ends before it learns more. None: there is no such limit."""

    diversity: float | None = Field(default=None, gt=0, le=1)
    """Least edit diversity of the tested seat's accepted answers to one prompt."""
    questions: float | None = Field(default=None, gt=0, le=1)
    """Least edit diversity of two questions."""
    exploitability: float | None = Field(default=None, ge=0)
    """Most reward that the hardest known opponent takes from the tested seat's newest version,
    beyond the opponent that it trained against."""

    @property
    def limits(self) -> dict[str, float]:
        """Field of Panel -> its limit."""
        return {name: limit for name, limit in self if limit is not None}


class Broken(NamedTuple):
    """A limit that was passed, and by what."""

    field: str
    iteration: int
    now: Estimate
    limit: float

    def __str__(self) -> str:
        side = "above" if self.field in CEILINGS else "below"
        return (
            f"iteration {self.iteration}: {self.field} is {spelt(self.now)}, "
            f"{side} its limit of {self.limit:g}"
        )


CEILINGS = ("exploitability",)
"""Fields of which more is worse."""


def broken(rules: StopRules, panels: Sequence[Panel]) -> tuple[Broken, ...]:
    """The limits that the last panel passes, and the one before it that measured the number."""
    found = []
    for field, limit in rules.limits.items():
        known = [(p.iteration, now) for p in panels if (now := getattr(p, field)) is not None]
        if len(known) < PATIENCE or known[-1][0] != panels[-1].iteration:
            continue
        if all(_beyond(field, now, limit) for _, now in known[-PATIENCE:]):
            found.append(Broken(field, *known[-1], limit))
    return tuple(found)


def _beyond(field: str, now: Estimate, limit: float) -> bool:
    return now.low > limit if field in CEILINGS else now.high < limit
