"""Integrity: which records of a store are not what was once written."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from . import tables
from .database import core
from .errors import StoreError
from .records import Episode, Record, digest
from .store import AT_ONCE, Entry, Store, chain, transcript_hash

HASHED = [table for table in SQLModel.__subclasses__() if table is not tables.Meta]

UNREADABLE = (StoreError, UnicodeDecodeError, MemoryError)
"""What a damaged file does to its reader: broken pages, words or sizes."""


class Damage(Record):
    """One record that fails its hash."""

    record: str
    what: str


def verify(store: Store) -> tuple[int, list[Damage]]:
    """Records checked, and the damaged ones. Reads everything; changes nothing.

    First the database's own check, then every column of every row against the row's hash, then
    what rows say of each other: the turns, verdict and critiques of an episode against its chain,
    the messages that turns name, the rows that taught a version.
    """
    records, damaged = 0, [Damage(record="database", what=line) for line in _database(store)]
    try:
        for table in HASHED:
            count, wrong = _table(store, table)
            records, damaged = records + count, damaged + wrong
        for run in store.column(core(tables.Runs).c.id):
            damaged += [*_episodes(store, run), *_versions(store, run)]
    except UNREADABLE as error:  # a page that cannot be read; what lies behind it is not checked
        damaged.append(Damage(record="database", what=str(error) or "a size that cannot be"))
    return records, damaged


def _table(store: Store, table: type[SQLModel]) -> tuple[int, list[Damage]]:
    """How many rows a table has, and those of which a column was changed."""
    columns = list(core(table).c)
    keys = [i for i, column in enumerate(columns) if column.primary_key]
    intact, count, wrong = store.codec(table).intact, 0, []
    for values in store.each(table):
        count += 1
        if not intact(values):
            name = "/".join(str(values[i]) for i in keys)
            what = f"a column of the table {core(table).name} was changed"
            wrong.append(Damage(record=name, what=what))
    return count, wrong


def _episodes(store: Store, run: str) -> Iterator[Damage]:
    ids = store.column(core(tables.Episodes).c.id, core(tables.Episodes).c.run == run)
    for start in range(0, len(ids), AT_ONCE):
        yield from _batch(store, run, ids[start : start + AT_ONCE])


def _batch(store: Store, run: str, ids: list[str]) -> Iterator[Damage]:
    try:
        loaded = list(store.load(run, ids))
    except ValueError:  # of JSON or of pydantic: a column that no record can hold
        if len(ids) == 1:
            yield Damage(record=f"{run}/{ids[0]}", what="cannot be read")
        else:
            for episode in ids:
                yield from _batch(store, run, [episode])
        return
    named = {key for episode, _ in loaded for turn in episode.turns for key in turn.messages}
    there = store.messages(named).keys()
    for episode, journal in loaded:
        yield from _episode(episode, journal)
        for key in sorted({key for turn in episode.turns for key in turn.messages} - there):
            yield Damage(record=f"{episode.ref}: message {key}", what="is lost")


def _episode(episode: Episode, journal: list[Entry]) -> Iterator[Damage]:
    hashes = [str(entry.record_hash) for entry in journal]  # a damaged one may be bytes
    if chain(vars(episode), hashes) != episode.chain:
        what = "turns are missing or were added, or one of them or a column was changed"
        yield Damage(record=episode.ref, what=what)
    if transcript_hash(episode.turns, episode.verdict, episode.error) != episode.transcript_hash:
        yield Damage(record=episode.ref, what="the transcript or verdict was changed")


def _versions(store: Store, run: str) -> Iterator[Damage]:
    """Versions against the rows that taught them, and rows against the ids that hash them."""
    try:
        rows, versions = store.rows(run), store.versions(run)
    except ValueError:
        yield Damage(record=run, what="its rows or versions cannot be read")
        return
    ids = map(str, store.column(core(tables.Rows).c.id, core(tables.Rows).c.run == run))
    for row in sorted(set(ids) ^ {row.id for row in rows}):
        yield Damage(record=f"{run}: row {row}", what="was changed")
    for version in versions:
        taught = sorted(map(str, store.taught(run, version.id)))
        if version.rows is not None and digest(taught) != version.rows:
            what = "the rows that taught it are others"
            yield Damage(record=f"{run}: version {version.id}", what=what)


def _database(store: Store) -> list[str]:
    """What SQLite itself says of its file."""
    if not store.url.startswith("sqlite"):
        return []
    try:
        with store.connect() as db:
            lines = list(db.execute(text("PRAGMA integrity_check")).scalars())
    except (DatabaseError, MemoryError) as error:
        return [str(getattr(error, "orig", error)) or "a size that cannot be"]
    return [] if lines == ["ok"] else lines
