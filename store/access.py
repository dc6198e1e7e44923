"""Reads and writes rows of any table: one writer, group commit on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from .database import Codec, core
from .errors import StoreError
from .records import Record
from .schema import open_database
from .writers import Writer

BATCH_ROWS = 512
BATCH_SECONDS = 0.05

AnyRecord = TypeVar("AnyRecord", bound=Record)


class Access:
    """A database of our schema, by tables and rows. `Store` adds what the rows mean."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer
        self._pending: dict[type[SQLModel], list[tuple[Any, ...]]] = defaultdict(list)
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._committed: asyncio.Future[None] | None = None
        self._codecs: dict[type[SQLModel], Codec] = {}

    @classmethod
    def open(cls, url: str | Path, *, write: bool = False) -> Self:
        """Open a store by path or SQLAlchemy URL.

        For writing it is created when missing, and locked against a second writer: an SQLite file
        at once, on PostgreSQL each run with its first row. For reading it must exist. Raises
        BadInput when there is none, StoreError when locked or not understood.
        """
        return cls(*open_database(str(url), write))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending and let go of the lock."""
        try:
            self.flush()
        finally:
            self._writer.close()

    # Writing: everything is put in order and committed in groups.

    def put(self, table: type[SQLModel], row: Mapping[str, Any]) -> str:
        """Queue a row, on disk when `committed()` returns or within 50 ms; gives its hash.

        Rows put between two awaits reach the disk together.
        """
        values = self.codec(table).pack(row)
        self._queue(table, values)
        return values[-1]

    def _queue(self, table: type[SQLModel], values: tuple[Any, ...]) -> None:
        self._pending[table].append(values)
        self._count += 1
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # outside a loop the caller flushes
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(BATCH_SECONDS, self._flush_quietly)
        elif self._count == BATCH_ROWS:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(0, self._flush_quietly)

    def codec(self, table: type[SQLModel]) -> Codec:
        """How rows of a table are packed."""
        if table not in self._codecs:
            self._codecs[table] = Codec(core(table), self._engine.dialect)
        return self._codecs[table]

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
        self._timer = None
        try:
            self.flush()
        except StoreError as failure:  # who waits is told; the next put tries again
            self._tell(failure)

    def _tell(self, failure: StoreError | None) -> None:
        """Let go on who waits for what was pending, or tell why it cannot be written."""
        waiting, self._committed = self._committed, None
        if waiting is None or waiting.done():
            return
        if failure is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(failure)

    def flush(self) -> None:
        """Commit what is pending in one transaction. Raises StoreError; nothing is dropped then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._count:
            return
        try:
            with self._writer.begin(self._pending) as db:
                for table, rows in self._pending.items():
                    used = self.codec(table)
                    db.exec_driver_sql(used.statement, used.all_bound(rows))
        except (DatabaseError, StoreError) as error:
            what = f"{self._engine.url}: cannot write: {getattr(error, 'orig', '')}"
            failure = error if isinstance(error, StoreError) else StoreError(what)
            self._tell(failure)
            raise failure from error
        self._pending.clear()
        self._count = 0
        self._tell(None)

    def _put_now(self, table: type[SQLModel], rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows at once: all of them, or none."""
        for row in rows:
            self.put(table, row)
        self.flush()

    # Reading.

    @property
    def url(self) -> str:
        """Its URL, without a password. This process can open it again."""
        return str(self._engine.url)

    def connect(self) -> Connection:
        """A plain connection, for questions that no method answers."""
        return self._engine.connect()

    def raw(
        self, table: type[SQLModel], *where: Any, order: Iterable[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of a table as they lie there, the hash of each last."""
        query = select(core(table)).where(*where).order_by(*order)
        try:
            with self.connect() as db:
                return [tuple(row) for row in db.execute(query)]
        except DatabaseError as error:
            raise StoreError(f"{self._engine.url}: cannot be read: {error.orig}") from error

    def each(self, table: type[SQLModel], *where: Any) -> Iterator[tuple[Any, ...]]:
        """Every row of a table that matches, as it lies there, a few at a time."""
        try:
            with self.connect() as db:
                query = select(core(table)).where(*where)
                found = db.execution_options(yield_per=1000).execute(query)
                yield from map(tuple, found)
        except DatabaseError as error:
            raise StoreError(f"{self._engine.url}: cannot be read: {error.orig}") from error

    def column(self, column: Any, *where: Any, order: Any = None) -> list[Any]:
        """One column of the rows that match."""
        query = select(column).where(*where)
        query = query if order is None else query.order_by(order)
        try:
            with self.connect() as db:
                return list(db.execute(query).scalars())
        except DatabaseError as error:
            raise StoreError(f"{self._engine.url}: cannot be read: {error.orig}") from error

    def _records(
        self, record: type[AnyRecord], table: type[SQLModel], *where: Any, order: Any = None
    ) -> list[AnyRecord]:
        """Records of the rows that match, without the columns that say where each lies.

        Rows of equal `order` come in that of their keys, whatever the database.
        """
        unpack, keys = self.codec(table).unpack, core(table).primary_key.columns
        order = keys if order is None else (order, *keys)
        return [strip(record, unpack(row)) for row in self.raw(table, *where, order=order)]


def strip(record: type[AnyRecord], row: dict[str, Any]) -> AnyRecord:
    """The record of a row, without the columns that say where it lies."""
    return record(**{name: row[name] for name in record.model_fields})
