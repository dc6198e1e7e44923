"""Integrity: which records of a store are not what was once written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select, text

from . import tables
from .errors import StoreError
from .records import Episode, Record, Turn, digest
from .store import Store, chain, transcript_hash, turn_columns


class Damage(Record):
    """One record that fails its hash."""

    record: str
    what: str


def verify(store: Store) -> tuple[int, list[Damage]]:
    """Records checked, and the damaged ones. Reads everything; changes nothing.

    Covered are turns, messages, episodes with their verdicts and critiques, and rows with the
    versions they taught. The turns of an episode that has not ended are checked one by one.
    """
    records, damaged = 0, [Damage(record="database", what=line) for line in _database(store)]
    try:
        for run in _column(store, tables.Runs, "id"):
            for count, wrong in [*_episodes(store, run), _rows(store, run)]:
                records, damaged = records + count, damaged + wrong
    except StoreError as error:  # a page that cannot be read; what lies behind it is not checked
        damaged.append(Damage(record="database", what=str(error)))
    return records, damaged


def _episodes(store: Store, run: str) -> Iterator[tuple[int, list[Damage]]]:
    ended = _column(store, tables.Episodes, "id", run=run)
    for episode in [*ended, *sorted(store.unfinished(run))]:
        try:
            journal = store.journal(run, [episode])[episode]
            found = next(store.episodes(run, ids=[episode]), None)
        except ValueError:  # of JSON or of pydantic: a column that no record can hold
            yield 0, _unreadable(store, run, episode)
            continue
        wrong = [*_turns(run, episode, journal)]
        wrong += _episode(store, found, journal) if found else []
        yield len(journal) + (found is not None), wrong


def _turns(run: str, episode: str, journal: list[tuple[Turn, str]]) -> Iterator[Damage]:
    for turn, stored in journal:
        if digest(turn_columns(run, episode, turn)) != stored:
            yield Damage(record=f"{run}/{episode}/{turn.key}", what="a column was changed")


def _episode(store: Store, episode: Episode, journal: list[tuple[Turn, str]]) -> Iterator[Damage]:
    if chain(episode, [record_hash for _, record_hash in journal]) != episode.record_hash:
        what = "turns are missing or were added, or one of them or a column was changed"
        yield Damage(record=episode.ref, what=what)
    if transcript_hash(episode.turns, episode.verdict, episode.error) != episode.transcript_hash:
        yield Damage(record=episode.ref, what="the transcript or verdict was changed")
    for message in _lost_messages(store, episode.turns):
        yield Damage(record=f"{episode.ref}: message {message}", what="is lost")


def _unreadable(store: Store, run: str, episode: str) -> list[Damage]:
    """The turns of an episode that cannot be read, or the episode itself."""
    found = []
    for key in _column(store, tables.Turns, "key", run=run, episode=episode):
        try:
            _read(store, run, episode, key)
        except ValueError:
            found.append(Damage(record=f"{run}/{episode}/{key}", what="cannot be read"))
    return found or [Damage(record=f"{run}/{episode}", what="cannot be read")]


def _read(store: Store, run: str, episode: str, key: str) -> Turn:
    columns = tables.Turns.__table__.c  # type: ignore[attr-defined]
    where = columns.run == run, columns.episode == episode, columns.key == key
    (row,) = store._rows(select(*columns).where(*where))
    return Turn(**{name: row[name] for name in Turn.model_fields})


def _rows(store: Store, run: str) -> tuple[int, list[Damage]]:
    """Rows against the ids that are their hashes, and versions against the rows that taught."""
    ids = _column(store, tables.Rows, "id", run=run)
    try:
        rows, versions = store.rows(run), store.versions(run)
    except ValueError:
        return 0, [Damage(record=run, what="its rows or versions cannot be read")]
    strange = set(ids) ^ {row.id for row in rows}
    damaged = [Damage(record=f"{run}: row {row}", what="was changed") for row in sorted(strange)]
    for version in versions:
        taught = _column(store, tables.VersionRows, "row", run=run, version=version.id)
        if version.rows is not None and digest(sorted(taught)) != version.rows:
            what = "the rows that taught it are others"
            damaged.append(Damage(record=f"{run}: version {version.id}", what=what))
    return len(rows), damaged


def _lost_messages(store: Store, turns: Iterable[Turn]) -> list[str]:
    """Messages that are gone or whose text no longer has the hash it lies under."""
    wanted = {key for turn in turns for key in turn.messages}
    found = store.messages(wanted)
    return sorted(key for key in wanted if key not in found or found[key].hash != key)


def _column(store: Store, table: Any, name: str, **where: str) -> list[str]:
    """One column of the rows that match."""
    columns = table.__table__.c
    query = select(columns[name]).where(*(columns[key] == value for key, value in where.items()))
    return [row[name] for row in store._rows(query)]


def _database(store: Store) -> list[str]:
    """What SQLite itself says of its file."""
    if not store.url.startswith("sqlite"):
        return []
    try:
        lines = [row["integrity_check"] for row in store._rows(text("PRAGMA integrity_check"))]
    except StoreError as error:
        return [str(error)]
    return [] if lines == ["ok"] else lines
