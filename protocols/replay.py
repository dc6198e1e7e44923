"""Replay: run stored episodes again with the models switched off, and say where they differ."""

from __future__ import annotations

from typing import Any

from superalign.store.errors import Divergence
from superalign.store.records import Episode, Record
from superalign.store.store import Entry, chain

from .setting import Plan, Setting
from .stage import Stage

DIVERGED = "diverged at "
"""How the error of a re-judgement begins in which another seat would have had to speak anew."""


class Difference(Record):
    """Where a replay left the record. An episode stops at its first."""

    episode: str
    turn: str
    what: str
    diff: str = ""


async def replay(
    setting: Setting, episode: Episode, journal: list[Entry] | None = None
) -> Difference | None:
    """Run a stored episode from its journal alone and hold the outcome against the record.

    The journal is read from the store where it was not read together with the episode.
    """
    if journal is None:
        journal = setting.store.journal(episode.run, [episode.id])[episode.id]
    altered = next((entry.turn.key for entry in journal if not entry.intact), None)
    trusted = [entry._replace(intact=True) for entry in journal]  # to see what it changes
    error = episode.error or ""
    diverged = error.startswith(DIVERGED)
    failed = episode.status == "failed" and not diverged
    stage = Stage(setting, plan_of(episode), trusted, live=frozenset(), failed=failed)
    try:
        again = await stage.play()
    except Divergence as found:
        if not altered and error.startswith(f"{DIVERGED}{found.turn}: "):
            return None  # a re-judgement that ended just there
        what = f"{found.turn} {found.what}"
        if altered:
            return difference(episode, altered, f"altered after it was journalled: {what}", found)
        return difference(episode, found.turn, found.what, found)
    unasked = [entry.turn.key for entry in journal if entry.turn.key not in stage.nth]
    return _compare(episode, again, journal, altered, unasked)


def _compare(
    before: Episode,
    after: Episode,
    journal: list[Entry],
    altered: str | None,
    unasked: list[str],
) -> Difference | None:
    last = journal[-1].turn.key if journal else ""
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
    if chain(vars(before), [entry.record_hash for entry in journal]) != before.chain:
        what = "turns are missing or were added, or the episode was changed"
        return Difference(episode=before.ref, turn=last, what=what)
    if after.transcript_hash != before.transcript_hash:
        return Difference(episode=before.ref, turn=last, what="the transcript hash differs")
    return None


def plan_of(episode: Episode) -> Plan:
    """The plan that a stored episode was played by."""
    kept = ("run", "id", "index", "iteration", "task", "seed", "tags", "parent", "fork")
    return Plan(**{name: getattr(episode, name) for name in kept}, scenario="")


def _plain(episode: Episode, name: str) -> Any:
    value = episode.model_dump(mode="json", include={name})[name]
    return sorted(value, key=str) if name == "critiques" else value


def difference(episode: Episode, turn: str, what: str, found: Divergence) -> Difference:
    return Difference(episode=episode.ref, turn=turn, what=what, diff=found.diff)
