"""The database under a store: connecting to it, and fast inserts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlmodel import SQLModel

from .errors import BadInput
from .records import digest
from .writers import RunWriter, Writer, file_lock, session_name

WRITTEN_ONCE = ("messages", "rows", "versionrows", "cases")
"""Of these the first one stays: written twice, they say the same. Elsewhere that is an error."""

REMEDY = (
    "give a path, or the SQLAlchemy URL of an SQLite or PostgreSQL database whose driver is"
    " installed (pip install 'superalign[postgres]')"
)

_opened: dict[str, URL] = {}
"""URLs as they are shown, without passwords, and as they were given. What `Store.url` says may be
printed, and this process may open it again."""


def connect(url: str, write: bool) -> tuple[Engine, Writer]:
    """An engine on a database, whatever is in it, and who writes it.

    Raises BadInput when there is none, StoreError when another process writes it.
    """
    found = parsed(url)
    if found.get_backend_name() == "postgresql":
        return _connect_server(found, write)
    engine, path = _engine(found), file_of(found)
    if path is not None and not write and not path.is_file():
        raise BadInput(f"{path}: there is no store here; `superalign run` makes one")
    if path is None:
        return engine, Writer(engine)
    lock = file_lock(path) if write else None
    event.listen(engine, "connect", _prepare_writer if write else _prepare_reader)
    return engine, Writer(engine, lock)


def parsed(url: str) -> URL:
    """What a path or a URL means. Raises BadInput when it is none."""
    try:
        found = _opened.get(url) or make_url(url if "://" in url else f"sqlite:///{url}")
    except (ArgumentError, ValueError) as error:  # of a port that is no number
        shown = re.sub("//[^/]*@", "//***@", url)
        raise BadInput(f"{shown}: {error}; {REMEDY}") from error
    if "password" in found.query:
        what = "a password among the options would be shown; put it into PGPASSWORD or ~/.pgpass"
        raise BadInput(f"{found.set(query={})}: {what}")
    return found


def _connect_server(url: URL, write: bool) -> tuple[Engine, Writer]:
    _opened[str(url)] = url
    named = {"application_name": session_name()}
    engine = _engine(url, pool_pre_ping=True, connect_args=named)
    if write:
        return engine, RunWriter(engine)
    event.listen(engine, "connect", _prepare_session)
    return engine, Writer(engine)


def file_of(url: URL) -> Path | None:
    """The file of an SQLite database; None of one in memory, or on a server."""
    on_disk = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)) if on_disk else None


def _engine(url: URL, **options: Any) -> Engine:
    try:
        engine = create_engine(url, **options)
    except (ArgumentError, ImportError, TypeError) as error:
        raise BadInput(f"{url}: {error}; {REMEDY}") from error
    if engine.dialect.name not in ("sqlite", "postgresql") or engine.dialect.is_async:
        raise BadInput(f"{url}: no store can lie there; {REMEDY}")
    return engine


def core(table: type[SQLModel]) -> Any:
    """The SQLAlchemy Core table behind a SQLModel class."""
    return table.__table__  # type: ignore[attr-defined]


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
        later = [(i, c.info["empty"]) for i, c in enumerate(columns) if "empty" in c.info]
        self._later = tuple(reversed(later))
        self._pick = itemgetter(*self.names)
        insert = table.insert()
        if table.name in WRITTEN_ONCE:
            flavour = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
            insert = flavour(table).on_conflict_do_nothing()
        compiled = insert.compile(dialect=dialect)
        self.statement = str(compiled)
        """The INSERT as driver SQL: Core's own work per row costs four times that of SQLite."""
        self._named = None if compiled.positional else tuple(table.c.keys())
        self._shared = table.name == "messages" and dialect.name == "postgresql"

    def pack(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """A row's values in the order of the columns, the hash over all of them last."""
        values = list(self._pick(row))
        for i in self._json:
            if values[i] is not None:
                values[i] = orjson.dumps(values[i], default=vars).decode()
        for i in self._flags:
            values[i] = int(values[i])
        return (*values, self.hash(values))

    def hash(self, values: Sequence[Any]) -> str:
        """Over packed values, without the columns that came later and say nothing: what an older
        schema wrote keeps its hash."""
        for i, empty in self._later:
            if values[i] == empty:
                values = [*values[:i], *values[i + 1 :]]
        return digest(*values)

    def intact(self, values: Sequence[Any]) -> bool:
        """Whether packed values still have the hash that they were written with, their last."""
        try:
            return self.hash(values[:-1]) == values[-1]
        except TypeError:  # bytes where text was: no JSON can hold them
            return False

    def bound(self, values: tuple[Any, ...]) -> Any:
        """Packed values as the driver takes them: by position or by name."""
        return values if self._named is None else dict(zip(self._named, values, strict=True))

    def all_bound(self, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Rows as the driver takes them. Those that several writers share come in the order of
        their hash, so that no two writers ever wait for each other."""
        if self._shared:
            rows = sorted(rows, key=itemgetter(-1))
        return [self.bound(row) for row in rows]

    def unpack(self, values: Sequence[Any]) -> dict[str, Any]:
        """The row of packed values, without the hash. Raises ValueError on what is no JSON."""
        found = list(values[:-1])
        for i in self._json:
            if found[i] is not None:
                found[i] = orjson.loads(found[i])
        return dict(zip(self.names, found, strict=True))


def _prepare_reader(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA query_only=ON")


def _prepare_writer(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=8000")  # 32 MB: fewer waits for the disk


def _prepare_session(connection: Any, _: object) -> None:
    connection.cursor().execute("SET default_transaction_read_only = on")
    connection.commit()
