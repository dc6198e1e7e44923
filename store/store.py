"""The store: one database, one writer, group commit on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from . import tables
from .database import close_database, core, insert_into, open_database
from .errors import BadInput, StoreError
from .records import (
    Critique,
    Episode,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Row,
    Run,
    Turn,
    Verdict,
    digest,
)

BATCH_ROWS = 128
BATCH_SECONDS = 0.02


class Store:
    """Reads and writes records. Open with `Store.open`; close it, or use it in a `with`."""

    def __init__(self, engine: Engine, lock: int | None) -> None:
        self._engine = engine
        self._lock = lock
        self._pending: dict[type[SQLModel], list[dict[str, Any]]] = defaultdict(list)
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._committed: asyncio.Future[None] | None = None
        self._messages: set[str] = set()

    @classmethod
    def open(cls, url: str | Path, *, write: bool = False) -> Store:
        """Open a store by path or SQLAlchemy URL.

        For writing it is created when missing and locked against a second writer; for reading it
        must exist. Raises BadInput when there is none, StoreError when locked or not understood.
        """
        return cls(*open_database(str(url), write))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending and let go of the lock."""
        try:
            self.flush()
        finally:
            close_database(self._engine, self._lock)
            self._lock = None

    # Writing: everything is put in order and committed in groups.

    def put(self, *rows: tuple[type[SQLModel], dict[str, Any]]) -> None:
        """Queue rows that reach the disk together: when `committed()` returns, or within 20 ms."""
        for table, row in rows:
            self._pending[table].append(row)
        self._count += len(rows)
        if self._count >= BATCH_ROWS:
            self.flush()
        elif self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # outside a loop the caller flushes
                return
            self._timer = loop.call_later(BATCH_SECONDS, self._flush_quietly)

    async def committed(self) -> None:
        """Wait until everything put so far is on disk."""
        if not self._count:
            return
        if self._timer is None:  # an earlier flush failed: try again, and raise
            self.flush()
            return
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._committed)

    def _flush_quietly(self) -> None:
        with contextlib.suppress(StoreError):  # who waits was told; the next put retries
            self.flush()

    def flush(self) -> None:
        """Commit what is pending in one transaction. Raises StoreError; nothing is dropped then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._count:
            return
        waiting, self._committed = self._committed, None
        try:
            with self._engine.begin() as db:
                for table, rows in self._pending.items():
                    statement, bind = insert_into(db.dialect, core(table))
                    db.exec_driver_sql(statement, [bind(row) for row in rows])
        except DatabaseError as error:
            failure = StoreError(f"{self._engine.url}: cannot write: {error.orig}")
            if waiting is not None and not waiting.done():
                waiting.set_exception(failure)
            raise failure from error
        self._pending.clear()
        self._count = 0
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def put_message(self, message: Message, key: str) -> None:
        """Queue a message under its hash, once per store handle."""
        if key not in self._messages:
            self._messages.add(key)
            row = {"hash": key, "role": message.role, "content": message.content}
            self.put((tables.Messages, row))

    def put_turn(self, run: str, episode: str, turn: Turn) -> str:
        """Queue one journal entry; gives its record hash."""
        row = turn_columns(run, episode, turn)
        row["record_hash"] = record_hash = digest(row)
        self.put((tables.Turns, row))
        return record_hash

    def put_episode(self, episode: Episode) -> None:
        """Queue an ended episode with its critiques and verdict. Its turns lie in the journal."""
        row = episode.model_dump(mode="json", exclude={"turns", "critiques", "verdict"})
        where = {"run": episode.run, "episode": episode.id}
        critiques = [(tables.Critiques, where | c.model_dump()) for c in episode.critiques]
        rows = [*critiques, (tables.Episodes, row)]
        if episode.verdict is not None:
            rows.append((tables.Verdicts, {**where, "number": 0, **episode.verdict.model_dump()}))
        self.put(*rows)

    def put_run(self, run: Run) -> None:
        self._put_now((tables.Runs, run.model_dump()))

    def put_labels(self, labels: Iterable[Label]) -> None:
        self._put_now(*((tables.Labels, label.model_dump()) for label in labels))

    def put_rows(self, run: str, rows: Iterable[Row]) -> None:
        where = {"run": run}
        found = ({**where, "id": row.id, **row.model_dump(mode="json")} for row in rows)
        self._put_now(*((tables.Rows, row) for row in found))

    def put_version(self, run: str, version: PolicyVersion, rows: Iterable[Row] = ()) -> None:
        """Write a policy version and the links to the rows that taught it."""
        taught = {"run": run, "version": version.id}
        links = [(tables.VersionRows, {**taught, "row": row.id}) for row in rows]
        self._put_now(*links, (tables.Versions, {"run": run, **version.model_dump()}))

    def put_evaluations(self, run: str, evaluations: Iterable[Evaluation]) -> None:
        self._put_now(*((tables.Evaluations, {"run": run, **e.model_dump()}) for e in evaluations))

    def _put_now(self, *rows: tuple[type[SQLModel], dict[str, Any]]) -> None:
        """Write rows at once: all of them, or none."""
        self.put(*rows)
        self.flush()

    # Reading.

    @property
    def url(self) -> str:
        return str(self._engine.url)

    def connect(self) -> Connection:
        """A plain connection, for questions that no method answers."""
        return self._engine.connect()

    def _rows(self, query: Any) -> list[dict[str, Any]]:
        try:
            with self.connect() as db:
                return [dict(row) for row in db.execute(query).mappings()]
        except DatabaseError as error:
            raise StoreError(f"{self._engine.url}: cannot be read: {error.orig}") from error

    def _select(self, table: type[SQLModel], **where: Any) -> Any:
        columns = core(table).c
        return select(core(table)).where(*(columns[name] == v for name, v in where.items()))

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        query = select(core(tables.Runs)).order_by(core(tables.Runs).c.at)
        return [Run(**row) for row in self._rows(query)]

    def run(self, run: str) -> Run:
        found = self._rows(self._select(tables.Runs, id=run))
        if not found:
            known = ", ".join(r.id for r in self.runs()) or "none"
            raise BadInput(f"{run}: no such run in {self._engine.url}; it holds {known}")
        return Run(**found[0])

    def messages(self, keys: Iterable[str]) -> dict[str, Message]:
        """Messages by hash."""
        table, wanted, found = core(tables.Messages), sorted(set(keys)), {}
        for start in range(0, len(wanted), 500):
            query = select(table).where(table.c.hash.in_(wanted[start : start + 500]))
            for row in self._rows(query):
                found[row["hash"]] = Message(role=row["role"], content=row["content"])
        return found

    def journal(self, run: str, episodes: Sequence[str]) -> dict[str, list[tuple[Turn, str]]]:
        """Turns in transcript order with the record hashes that were written with them."""
        columns = core(tables.Turns).c
        query = select(core(tables.Turns)).where(columns.run == run, columns.episode.in_(episodes))
        found: dict[str, list[tuple[Turn, str]]] = {episode: [] for episode in episodes}
        for row in self._rows(query):
            where = row.pop("episode"), row.pop("run"), row.pop("record_hash")
            found[where[0]].append((Turn(**row), where[2]))
        for turns in found.values():  # not by the database, whose collation may be another
            turns.sort(key=lambda entry: entry[0].key)
        return found

    def unfinished(self, run: str) -> set[str]:
        """Episodes that have journalled turns and no end: a killed run leaves them."""
        turns, ended = core(tables.Turns).c, core(tables.Episodes).c
        over = select(ended.id).where(ended.run == run)
        query = select(turns.episode).where(turns.run == run, turns.episode.not_in(over)).distinct()
        return {row["episode"] for row in self._rows(query)}

    def ended(self, run: str) -> set[str]:
        """Ids of the episodes of a run that are done or failed."""
        columns = core(tables.Episodes).c
        query = select(columns.id).where(columns.run == run)
        return {row["id"] for row in self._rows(query)}

    def count(self, run: str, status: str | None = None) -> int:
        columns = core(tables.Episodes).c
        query = select(func.count().label("n")).where(columns.run == run)
        query = query if status is None else query.where(columns.status == status)
        return self._rows(query)[0]["n"]

    def episodes(
        self, run: str, *, iteration: int | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[Episode]:
        """Episodes with turns, critiques and verdict, in plan order, a few hundred at a time."""
        columns = core(tables.Episodes).c
        query = select(columns.id).where(columns.run == run).order_by(columns.index)
        if iteration is not None:
            query = query.where(columns.iteration == iteration)
        wanted = list(ids) if ids is not None else [row["id"] for row in self._rows(query)]
        for start in range(0, len(wanted), 200):
            yield from self._load(run, wanted[start : start + 200])

    def _load(self, run: str, ids: list[str]) -> Iterator[Episode]:
        def gather(table: type[SQLModel], column: str = "episode") -> dict[str, list[dict]]:
            where = core(table).c
            query = select(core(table)).where(where.run == run, where[column].in_(ids))
            found = defaultdict(list)
            for row in self._rows(query):
                found[row[column]].append(row)
            return found

        heads, critiques = gather(tables.Episodes, "id"), gather(tables.Critiques)
        verdicts, journal = gather(tables.Verdicts), self.journal(run, ids)
        for episode in ids:
            if episode not in heads:
                continue
            verdict = next((v for v in verdicts[episode] if v["number"] == 0), None)
            yield Episode(
                **heads[episode][0],
                turns=tuple(turn for turn, _ in journal[episode]),
                critiques=tuple(
                    sorted((_strip(Critique, row) for row in critiques[episode]), key=in_order)
                ),
                verdict=_strip(Verdict, verdict) if verdict else None,
            )

    def find(self, ref: str) -> tuple[str, str]:
        """(run, episode) of a reference `run/id`, an id, or the beginning of an id."""
        run, _, prefix = ref.rpartition("/")
        columns = core(tables.Episodes).c
        query = select(columns.run, columns.id)
        query = query.where(columns.id.startswith(prefix, autoescape=True))
        found = self._rows(query.where(columns.run == run) if run else query)
        if len(found) != 1:
            what = "no such episode" if not found else f"{len(found)} episodes begin so"
            raise BadInput(f"{ref}: {what}; `superalign list episodes` names them")
        return found[0]["run"], found[0]["id"]

    def labels(self, run: str) -> list[Label]:
        return [Label(**row) for row in self._rows(self._select(tables.Labels, run=run))]

    def rows(self, run: str, iteration: int | None = None) -> list[Row]:
        where = {"run": run} if iteration is None else {"run": run, "iteration": iteration}
        return [_strip(Row, row) for row in self._rows(self._select(tables.Rows, **where))]

    def versions(self, run: str) -> list[PolicyVersion]:
        """Policy versions of a run, the oldest first."""
        query = self._select(tables.Versions, run=run).order_by(core(tables.Versions).c.iteration)
        return [_strip(PolicyVersion, row) for row in self._rows(query)]

    def evaluations(self, run: str, iteration: int | None = None) -> list[Evaluation]:
        where = {"run": run} if iteration is None else {"run": run, "iteration": iteration}
        order = core(tables.Evaluations).c.item
        query = self._select(tables.Evaluations, **where).order_by(order)
        return [_strip(Evaluation, row) for row in self._rows(query)]


def transcript_hash(turns: Iterable[Turn], verdict: Verdict | None, error: str | None) -> str:
    """Over what was said and decided, in key order. Equal transcripts have equal hashes."""
    said = [(t.key, t.seat, t.kind, t.text, t.error) for t in sorted(turns, key=lambda t: t.key)]
    return digest(said, (verdict.value, verdict.seat) if verdict else None, error)


def turn_columns(run: str, episode: str, turn: Turn) -> dict[str, Any]:
    """All columns of a turn but its record hash, which is the digest of these."""
    return {"run": run, "episode": episode, **turn.__dict__}  # flat, so no dump is needed


def chain(episode: Episode, record_hashes: Sequence[str]) -> str:
    """Over an episode's own columns with verdict and critiques, then over the record hashes of
    its turns in key order, and how many there are."""
    link = digest(episode.model_dump(mode="json", exclude={"turns", "record_hash"}))
    for record_hash in record_hashes:
        link = digest(link, record_hash)
    return digest(link, len(record_hashes))


def _strip(record: Any, row: dict[str, Any]) -> Any:
    """The record of a row, without the columns that say where it lies."""
    return record(**{name: row[name] for name in record.model_fields})


def in_order(critique: Critique) -> tuple[str, str]:
    """How the critiques of an episode are sorted."""
    return critique.turn, critique.about
