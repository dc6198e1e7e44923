"""The database under a store: opening it, its one writer's lock, and fast inserts."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Dialect, Engine, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlmodel import SQLModel

from . import tables
from .errors import BadInput, StoreError
from .records import digest

WRITTEN_ONCE = ("messages", "rows", "versionrows", "cases")
"""Of these the first one stays: written twice, they say the same. Elsewhere that is an error."""


def open_database(url: str, write: bool) -> tuple[Engine, int | None]:
    """An engine on a database of our schema, and the writer's lock where there is one.

    Raises BadInput when there is none, StoreError when it is locked or not understood.
    """
    url = url if "://" in url else f"sqlite:///{url}"
    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and not write and not path.is_file():
        raise BadInput(f"{path}: there is no store here; `superalign run` makes one")
    try:
        engine = create_engine(url)
    except (ArgumentError, ImportError) as error:
        what = f"{error}; give a path, or an SQLAlchemy URL whose driver is installed"
        raise BadInput(f"{url}: {what}") from error
    lock = _lock(path) if path is not None and write else None
    if path is not None:
        event.listen(engine, "connect", _prepare_writer if write else _prepare_reader)
    try:
        _check_schema(engine, create=write)
    except StoreError:
        close_database(engine, lock)
        raise
    except (DatabaseError, UnicodeDecodeError, MemoryError) as error:  # of a damaged schema
        close_database(engine, lock)
        what = getattr(error, "orig", error)
        raise StoreError(f"{url}: not a store of superalign: {what}") from error
    return engine, lock


def close_database(engine: Engine, lock: int | None) -> None:
    """Let go of every connection, and then of the lock."""
    engine.dispose()
    if lock is not None:
        os.close(lock)


def core(table: type[SQLModel]) -> Any:
    """The SQLAlchemy Core table behind a SQLModel class."""
    return table.__table__  # type: ignore[attr-defined]


def _check_schema(engine: Engine, create: bool) -> None:
    if create:
        SQLModel.metadata.create_all(engine)
    meta = core(tables.Meta)
    with engine.begin() as db:
        found = db.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar()
        if found is None and create:
            found = str(tables.SCHEMA)
            db.execute(meta.insert(), {"name": "schema", "value": found})
    if found != str(tables.SCHEMA):
        raise StoreError(
            f"{engine.url}: schema {found!r}, but this superalign knows {tables.SCHEMA};"
            " open it with the version that wrote it"
        )


class Codec:
    """How rows of one table become what a driver is given, and back.

    Text, integers, reals and NULL are all that ever lies in a database: JSON is written here, so
    that a hash over the values is a hash over what is stored.
    """

    def __init__(self, table: Any, dialect: Dialect) -> None:
        *columns, _ = table.c
        self.names = tuple(column.name for column in columns)
        self._json = tuple(i for i, column in enumerate(columns) if column.info.get("json"))
        self._flags = tuple(i for i, column in enumerate(columns) if column.info.get("flag"))
        self._pick = itemgetter(*self.names)
        insert = table.insert()
        if table.name in WRITTEN_ONCE:
            flavour = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
            insert = flavour(table).on_conflict_do_nothing()
        compiled = insert.compile(dialect=dialect)
        self.statement = str(compiled)
        """The INSERT as driver SQL: Core's own work per row costs four times that of SQLite."""
        self._named = None if compiled.positional else tuple(table.c.keys())

    def pack(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """A row's values in the order of the columns, the hash over all of them last."""
        values = list(self._pick(row))
        for i in self._json:
            if values[i] is not None:
                values[i] = orjson.dumps(values[i], default=vars).decode()
        for i in self._flags:
            values[i] = int(values[i])
        return (*values, digest(*values))

    def bound(self, values: tuple[Any, ...]) -> Any:
        """Packed values as the driver takes them: by position or by name."""
        return values if self._named is None else dict(zip(self._named, values, strict=True))

    def unpack(self, values: Sequence[Any]) -> dict[str, Any]:
        """The row of packed values, without the hash. Raises ValueError on what is no JSON."""
        found = list(values[:-1])
        for i in self._json:
            if found[i] is not None:
                found[i] = orjson.loads(found[i])
        return dict(zip(self.names, found, strict=True))


def intact(values: Sequence[Any]) -> bool:
    """Whether packed values still have the hash that they were written with."""
    try:
        return digest(*values[:-1]) == values[-1]
    except TypeError:  # bytes where text was: no JSON can hold them
        return False


def _prepare_reader(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA query_only=ON")


def _prepare_writer(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=8000")  # 32 MB: fewer waits for the disk


def _lock(path: Path) -> int:
    """Take the writer's lock beside an SQLite file, or say who holds it."""
    beside = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        raise StoreError(
            f"{path}: another process writes this store ({holder}); wait for it or end it"
        ) from error
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()}: {' '.join(sys.argv)[:120]}".encode())
    return handle
