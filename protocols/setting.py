"""What the episodes of a run share, and the plan of one episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Port

from pydantic import Field

from superalign.agents.agent import Agent
from superalign.store.records import Question, Record, Task, digest
from superalign.store.store import Store

from .protocol import Protocol


class Oracle(Port):
    """What the kernel asks a world. No seat can reach it."""

    def cell(self, question: Question) -> str | None: ...

    def truth(self, question: Question) -> str: ...

    def correct(self, question: Question, answer: str) -> bool: ...

    def fault(self, question: Question, answer: str) -> int | None: ...


class Limits(Record):
    """Bounds on a run."""

    calls: int = Field(default=256, ge=1)
    """Model calls an episode."""
    steps: int = Field(default=128, ge=2)
    """Graph supersteps an episode."""
    failed_share: float = Field(default=0.05, ge=0, le=1)
    """More failed episodes than this share and the command exits with 1."""


class Plan(Record):
    """One episode that is to be run. Its id follows from what it is, never from a clock."""

    run: str
    scenario: str
    index: int
    iteration: int = 0
    task: Task
    seed: int
    tags: tuple[str, ...] = ()
    id: str | None = None
    """The episode's id, when it is already known (a replay, a fork)."""
    parent: str | None = None
    """Reference of the episode whose turns it takes over."""
    fork: str | None = None
    """Key of the first turn that is not taken over; None when it is no fork."""

    @property
    def salt(self) -> str:
        """Makes the calls of a fork others than its parent's: their seeds would be the same."""
        return self.run if self.parent else ""


@dataclass(frozen=True)
class Setting:
    """What the episodes of a run share."""

    protocol: Protocol
    params: dict[str, Any]
    cast: Mapping[str, Agent]
    store: Store
    oracle: Oracle
    limits: Limits = field(default_factory=Limits)

    def episode_id(self, plan: Plan) -> str:
        if plan.id is not None:
            return plan.id
        what = plan.scenario, self.protocol.hash, self.params, plan.task.key, plan.seed, plan.index
        return digest(*what, size=8)


def call_seed(episode_seed: int, key: str, salt: str = "") -> int:
    """The seed of one call: of episode seed, call key and fork salt; not of the run."""
    return int(digest(episode_seed, key, salt, size=8), 16) >> 1
