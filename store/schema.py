"""The schema of a database: which one it has, making it, and bringing an older one up to date.

The table `meta` names it. `migrations/schema_N.py` turns schema N - 1 into N with alembic's
operations, on SQLite and on PostgreSQL. No store is upgraded unless it is asked for.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from . import tables
from .database import connect, core, file_of
from .errors import BadInput, StoreError
from .writers import SCHEMA, Writer, locked, wait_for

MIGRATIONS = Path(__file__).with_name("migrations")
UNREADABLE = (DatabaseError, UnicodeDecodeError, MemoryError)
"""What a damaged schema, or no schema at all, does to its reader."""


def open_database(url: str, write: bool) -> tuple[Engine, Writer]:
    """An engine on a database of our schema, made where it is missing, and who writes it.

    Raises BadInput when there is none, StoreError when it is locked or not understood.
    """
    engine, writer = connect(url, write)
    try:
        found = found_schema(engine)
        if found is None and write:
            found = _made(engine)
        _check(engine, found)
    except StoreError:
        writer.close()
        raise
    except UNREADABLE as error:
        writer.close()
        raise _unreadable(engine, error) from error
    return engine, writer


def migrate(url: str) -> tuple[int, int, Path | None]:
    """Bring a store up to date, all of it or nothing: its schema before and after, and where the
    copy of the older one lies, if it was an SQLite file.

    Raises BadInput when there is none, StoreError when it is being written or not understood.
    """
    connect(url, write=False)[1].close()  # raises where there is none
    engine, writer = connect(url, write=True)
    try:
        found = found_schema(engine)
        if found not in _known():
            _check(engine, found)
        before = int(str(found))
        kept = _upgraded(engine, before) if before < tables.SCHEMA else None
    except UNREADABLE as error:
        raise _unreadable(engine, error) from error
    finally:
        writer.close()
    return before, tables.SCHEMA, kept


def _upgraded(engine: Engine, before: int) -> Path | None:
    kept = _copied(engine, before)
    try:
        with engine.connect() as db:
            change(db, before)
    except BaseException as error:  # the store is what it was
        if kept is not None:
            kept.unlink()
        if isinstance(error, DatabaseError):
            raise StoreError(f"{engine.url}: cannot be upgraded: {error.orig}") from error
        raise
    return kept


def found_schema(engine: Engine) -> str | None:
    """The schema that a database says it has; None when it says nothing."""
    if not inspect(engine).has_table("meta"):
        return None
    meta = core(tables.Meta).c
    with engine.connect() as db:
        return db.execute(select(meta.value).where(meta.name == "schema")).scalar()


def _check(engine: Engine, found: str | None) -> None:
    if found == str(tables.SCHEMA):
        return
    if found is None:
        raise StoreError(f"{engine.url}: not a store of superalign: it has no schema of ours")
    remedy = "open it with the version that wrote it"
    if found in _known():
        remedy = f"`superalign migrate {file_of(engine.url) or engine.url}` brings it up to date"
    knows = f"this superalign knows {tables.SCHEMA}"
    raise StoreError(f"{engine.url}: schema {found!r}, but {knows}; {remedy}")


def _known() -> set[str]:
    """The schemas that migrations begin at or lead to."""
    return {path.stem.removeprefix("schema_") for path in MIGRATIONS.glob("schema_*.py")}


def _made(engine: Engine) -> str:
    """Make our tables in a database that has no others, once however many processes try."""
    with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            wait_for(db, "the making of tables")
        ours = {core(table).name for table in SQLModel.__subclasses__()}
        if others := sorted(set(inspect(db).get_table_names()) - ours):
            what = f"not a store of superalign: it holds {', '.join(others[:4])}; name an empty one"
            raise StoreError(f"{engine.url}: {what}")
        SQLModel.metadata.create_all(db)
        meta = core(tables.Meta)
        found = db.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar()
        if found is None:
            found = str(tables.SCHEMA)
            db.execute(meta.insert(), {"name": "schema", "value": found})
    return found


def change(db: Connection, before: int) -> None:
    """Run the migrations that lead on from a schema, 0 for an empty database, as one transaction.

    Raises StoreError when other processes write it.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if db.dialect.name == "sqlite":
        db.exec_driver_sql("BEGIN IMMEDIATE")  # its driver begins none for changes of tables
    elif not locked(db, SCHEMA):
        raise StoreError(f"{db.engine.url}: processes write it just now; wait for them or end them")
    scripts = ScriptDirectory(str(MIGRATIONS), version_locations=[str(MIGRATIONS)])
    meta = core(tables.Meta)
    with Operations.context(MigrationContext.configure(db)):
        for script in reversed(list(scripts.walk_revisions())):
            if int(script.revision) > before:
                script.module.upgrade()
                named = meta.update().where(meta.c.name == "schema")
                db.execute(named.values(value=script.revision))
    db.commit()


def _copied(engine: Engine, found: int) -> Path | None:
    """A copy of an SQLite file beside it, named after its schema; None for another database."""
    path = file_of(engine.url)
    if path is None:
        return None
    kept = path.with_name(f"{path.stem}.schema-{found}{path.suffix}")
    if kept.exists():
        raise BadInput(f"{kept}: is there already; move it away")
    try:
        with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(kept)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        kept.unlink(missing_ok=True)
        raise StoreError(f"{kept}: no copy can be made here: {error}") from error
    return kept


def _unreadable(engine: Engine, error: BaseException) -> StoreError:
    what = getattr(error, "orig", error)
    if engine.dialect.name == "postgresql":
        return StoreError(f"{engine.url}: cannot be opened: {what}")
    return StoreError(f"{engine.url}: not a store of superalign: {what}")
