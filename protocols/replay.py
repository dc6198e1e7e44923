"""Replay: run stored episodes again with the models switched off, and say where they differ."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from superalign.agents.agent import Agent
from superalign.agents.model import Request
from superalign.store.errors import Divergence
from superalign.store.records import Episode, Record, Turn, digest
from superalign.store.store import chain, turn_columns

from .kernel import Plan, Setting, Stage

PATIENCE = 10.0
"""Seconds that a failed episode's unrecorded call waits for the failure that cut it short."""


class Difference(Record):
    """Where a replay left the record. An episode stops at its first."""

    episode: str
    turn: str
    what: str
    diff: str = ""


class Rerun(Stage):
    """A stage without models. What was not recorded is a Divergence."""

    def __init__(
        self, setting: Setting, plan: Plan, journal: Iterable[tuple[Turn, str]], failed: bool
    ) -> None:
        super().__init__(setting, plan, journal)
        self._failed = failed

    async def live_call(self, key: str, agent: Agent, request: Request) -> Turn:
        if self._failed:  # a sibling of the node that raised may have been cut short before it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), PATIENCE)
        raise Divergence(key, "this call was not recorded")


async def replay(setting: Setting, episode: Episode) -> Difference | None:
    """Run a stored episode from its journal alone and hold the outcome against the record."""
    journal = setting.store.journal(episode.run, [episode.id])[episode.id]
    altered = next((t.key for t, stored in journal if _record_hash(episode, t) != stored), None)
    stage = Rerun(setting, _plan(episode), journal, episode.status == "failed")
    try:
        again = await stage.play()
    except Divergence as found:
        what = f"{found.turn} {found.what}"
        if altered:
            return _difference(episode, altered, f"altered after it was journalled: {what}", found)
        return _difference(episode, found.turn, found.what, found)
    unasked = [turn.key for turn, _ in journal if turn.key not in stage.nth]
    return _compare(episode, again, journal, altered, unasked)


def _compare(
    before: Episode,
    after: Episode,
    journal: list[tuple[Turn, str]],
    altered: str | None,
    unasked: list[str],
) -> Difference | None:
    last = journal[-1][0].key if journal else ""
    if unasked and before.status == "done" and not altered:
        return Difference(episode=before.ref, turn=unasked[0], what="recorded but not asked for")
    for name in ("error", "question", "verdict", "critiques", "truth", "facts", "rewards"):
        old, new = _plain(before, name), _plain(after, name)
        if old != new:
            diff = f"--- recorded\n+++ replayed\n-{name}: {old}\n+{name}: {new}"
            what = f"{name} differs" + (" since this turn was altered" if altered else "")
            return Difference(episode=before.ref, turn=altered or last, what=what, diff=diff)
    if altered:
        return Difference(episode=before.ref, turn=altered, what="altered after it was journalled")
    if chain(before, [record_hash for _, record_hash in journal]) != before.record_hash:
        what = "turns are missing or were added, or the episode was changed"
        return Difference(episode=before.ref, turn=last, what=what)
    if after.transcript_hash != before.transcript_hash:
        return Difference(episode=before.ref, turn=last, what="the transcript hash differs")
    return None


def _plan(episode: Episode) -> Plan:
    kept = ("run", "index", "iteration", "task", "seed", "tags")
    return Plan(**{name: getattr(episode, name) for name in kept}, scenario="", id=episode.id)


def _record_hash(episode: Episode, turn: Turn) -> str:
    return digest(turn_columns(episode.run, episode.id, turn))


def _plain(episode: Episode, name: str) -> Any:
    value = episode.model_dump(mode="json", include={name})[name]
    return sorted(value, key=str) if name == "critiques" else value


def _difference(episode: Episode, turn: str, what: str, found: Divergence) -> Difference:
    return Difference(episode=episode.ref, turn=turn, what=what, diff=found.diff)
