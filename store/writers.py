"""Who may write a store: one process an SQLite file, one process a run on PostgreSQL.

On SQLite the lock is a file beside the store. On PostgreSQL it is an advisory lock on the run, held
by the very session that writes it: a writer whose session is lost has lost its locks too, and must
win them again before anything more is committed. So several processes fill one database, and no run
is ever written by two.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select, text
from sqlmodel import SQLModel

from . import tables
from .errors import StoreError

Pending = Mapping[type[SQLModel], Sequence[tuple[Any, ...]]]
"""Table -> packed rows that wait to be written."""

SCHEMA = "schema"
"""The lock that every writer holds, together with others; who changes the schema holds it alone."""

TRIES, PAUSE = 20, 0.1
"""How often a run's lock is asked for: a server hears of a killed process a moment later."""


class Writer:
    """Transactions of a database that has no other writer: an SQLite file whose lock is held, or
    one that is only read, where the database itself refuses."""

    def __init__(self, engine: Engine, lock: int | None = None) -> None:
        self._engine, self._lock = engine, lock

    def begin(self, pending: Pending) -> AbstractContextManager[Connection]:
        """A transaction in which these rows may be written. Raises StoreError when not."""
        return self._engine.begin()

    def close(self) -> None:
        """Let go of every connection, and then of the lock."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class RunWriter(Writer):
    """Transactions of one of several writers of a PostgreSQL database."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._session: Connection | None = None
        self._held: set[str] = set()

    @contextmanager
    def begin(self, pending: Pending) -> Iterator[Connection]:
        session = self._connected()
        with session.begin():
            for run in sorted(runs_of(pending) - self._held):
                self._claim(session, run)
            yield session

    def _claim(self, session: Connection, run: str) -> None:
        for _ in range(TRIES):
            if locked(session, f"run {run}"):
                self._held.add(run)
                return
            time.sleep(PAUSE)
        who = holders(session, f"run {run}")
        what = f"another process writes the run {run!r} ({who}); wait for it or end it"
        raise StoreError(f"{self._engine.url}: {what}")

    def _connected(self) -> Connection:
        """The session that holds the locks; a new one, with none, where it was lost."""
        if self._session is None or self._session.invalidated:
            self._held.clear()
            self._session = None
            session = self._engine.connect()
            meta = tables.Meta.__table__.c  # type: ignore[attr-defined]
            free = locked(session, SCHEMA, alone=False)
            found = free and session.scalar(select(meta.value).where(meta.name == "schema"))
            session.commit()
            if found != str(tables.SCHEMA):  # it was another when the store was opened
                session.invalidate()
                raise StoreError(f"{self._engine.url}: its schema is being changed; open it anew")
            self._session = session
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.invalidate()  # ends the session and so its locks; a pool would keep it
            self._session.close()
            self._session = None
        super().close()


def runs_of(pending: Pending) -> set[str]:
    """The runs that rows belong to. Messages belong to none."""
    found: set[str] = set()
    for table, rows in pending.items():
        names = list(table.model_fields)
        name = "id" if table is tables.Runs else "run"
        if name in names:
            place = names.index(name)
            found.update(row[place] for row in rows)
    return found


def locked(session: Connection, name: str, *, alone: bool = True) -> bool:
    """Take the session's advisory lock of this name, if nobody else has it."""
    take = text(f"SELECT pg_try_advisory_lock{'' if alone else '_shared'}(:key)")
    return bool(session.execute(take, {"key": advisory_key(name)}).scalar())


def wait_for(session: Connection, name: str) -> None:
    """Take an advisory lock of this name for the rest of the transaction."""
    take = text("SELECT pg_advisory_xact_lock(:key)")
    session.execute(take, {"key": advisory_key(name)})


def holders(session: Connection, name: str) -> str:
    """Who has the advisory lock of this name, as their sessions call themselves."""
    key = advisory_key(name) % 2**64
    query = """
        SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = CAST(:high AS oid) AND l.objid = CAST(:low AS oid)
    """
    where = {"high": key >> 32, "low": key % 2**32}
    found: Collection[str] = session.execute(text(query), where).scalars().all()
    return ", ".join(found) or "it has just ended"


def advisory_key(name: str) -> int:
    """PostgreSQL names its advisory locks by 64 bits."""
    spelt = hashlib.blake2b(f"superalign {name}".encode(), digest_size=8).digest()
    return int.from_bytes(spelt, "big", signed=True)


def session_name() -> str:
    """How a session is called in PostgreSQL's list of them: at most 63 bytes."""
    return f"superalign: process {os.getpid()} on {socket.gethostname()}"[:63]


def file_lock(path: Path) -> int:
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
