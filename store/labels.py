"""The labels file: what people have said of cases, in an SQLite file beside the store.

A run locks its store against other writers. People answer while it plays, and several at once, so
their words lie beside it, where the run reads them. On PostgreSQL, which takes several writers,
they lie in a table of the store's own database. All is append-only: to take something back is one
more mark.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from sqlalchemy import (
    REAL,
    URL,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    inspect,
    select,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateIndex, CreateTable

from .database import file_of, parsed
from .errors import BadInput, StoreError
from .records import Record, digest
from .writers import wait_for

VERSION = 1
"""Of the file's one table. A file of another version is refused, not guessed at."""

REALS = Double().with_variant(REAL(), "sqlite")
MARKS = Table(
    "marks",
    MetaData(),
    Column("n", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("run", "episode", "turn", "kind")),
    *(Column(name, Text, nullable=False) for name in ("author", "what", "value", "note")),
    Column("seconds", REALS),
    Column("at", REALS, nullable=False),
    Column("hash", Text, nullable=False),
    sqlite_strict=True,
)
OF_A_CASE = Index("marks_of_a_case", MARKS.c.run, MARKS.c.episode, MARKS.c.turn)

Place = tuple[str, str]
"""Episode and turn: what names a case within a run."""


class Mark(Record):
    """One act of one person on one case."""

    run: str
    episode: str
    turn: str
    kind: str
    """The case's kind: `label`, or what the human seat was asked for."""
    author: str
    what: Literal["answer", "skip", "undo"]
    """`undo` takes back the author's last answer or skip, which was on this case."""
    value: str = ""
    """`right` or `wrong` for a label; else the text that the human seat says."""
    note: str = ""
    seconds: float | None = None
    """How long the person took."""
    at: float = Field(default_factory=time.time)

    @property
    def place(self) -> Place:
        return self.episode, self.turn


class LabelBook:
    """The labels of one store. They may be read and added to from anywhere at any time."""

    def __init__(self, path: Path) -> None:
        url = URL.create("sqlite", database=str(path))
        self.path, self.name = path, str(path)
        self._engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 30})

    @staticmethod
    def beside(store_url: str) -> LabelBook:
        """The labels of a store, by the store's path or URL. Nothing is made yet."""
        url = parsed(store_url)
        if url.get_backend_name() == "postgresql":
            return TableBook(url)
        path = file_of(url)
        if path is None:
            what = "labels lie in a file beside the store, and this one lies in none"
            raise BadInput(f"{url}: {what}; give --store a path")
        return LabelBook(path.with_name(f"{path.stem}.labels.sqlite"))

    def add(self, mark: Mark) -> None:
        """Append a mark; on disk when this returns."""
        row = vars(mark)
        with self._open() as db:
            self._make(db)
            db.execute(MARKS.insert().values(**row, hash=digest(*row.values())))

    def marks(self, run: str, place: Place | None = None) -> list[Mark]:
        """The marks of a run, or those on one case, the oldest first.

        Raises StoreError when one was altered after it was written.
        """
        query = select(MARKS).where(MARKS.c.run == run).order_by(MARKS.c.n)
        if place is not None:
            query = query.where(MARKS.c.episode == place[0], MARKS.c.turn == place[1])
        if not self._made():
            return []
        with self._open() as db:
            rows = db.execute(query).all()
        for n, *values, written in rows:
            if digest(*values) != written:
                raise StoreError(f"{self.name}: mark {n} was altered after it was written")
        return [Mark(**dict(zip(Mark.model_fields, row[1:-1], strict=True))) for row in rows]

    def answers(self, run: str, place: Place | None = None) -> dict[Place, list[Mark]]:
        """Case -> the answers that stand, the newest of each person, the oldest first."""
        found: dict[Place, dict[str, Mark]] = {}
        for mark in not_undone(self.marks(run, place)):
            if mark.what == "answer":
                found.setdefault(mark.place, {})[mark.author] = mark
        return {at: sorted(said.values(), key=lambda m: m.at) for at, said in found.items()}

    def _made(self) -> bool:
        """Whether anybody has said anything yet."""
        return self.path.is_file()

    def _make(self, db: Connection) -> None:
        db.execute(CreateTable(MARKS, if_not_exists=True))
        db.execute(CreateIndex(OF_A_CASE, if_not_exists=True))
        db.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def _check(self, db: Connection) -> None:
        version = db.exec_driver_sql("PRAGMA user_version").scalar()
        if version not in (0, VERSION):
            what = f"labels file of version {version}, but this superalign knows {VERSION}"
            raise StoreError(f"{self.name}: {what}")

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        """A connection for one transaction, which waits while others write."""
        try:
            with self._engine.begin() as db:
                self._check(db)
                yield db
        except DatabaseError as error:
            raise StoreError(f"{self.name}: no labels file: {error.orig}") from error


class TableBook(LabelBook):
    """The labels of a store on PostgreSQL: a table of its database."""

    def __init__(self, url: URL) -> None:
        self.name, self._engine = str(url), _server(url)

    def _made(self) -> bool:
        with self._open() as db:
            return inspect(db).has_table(MARKS.name)

    def _make(self, db: Connection) -> None:
        wait_for(db, "the making of tables")
        db.execute(CreateTable(MARKS, if_not_exists=True))
        db.execute(CreateIndex(OF_A_CASE, if_not_exists=True))

    def _check(self, db: Connection) -> None:
        """There has been one version of this table."""


@cache
def _server(url: URL) -> Engine:
    """One pool of connections a database, however many books are opened on it."""
    return create_engine(url, pool_pre_ping=True)


def not_undone(marks: Iterable[Mark]) -> list[Mark]:
    """The answers and skips that nobody took back, in order. An undo takes back the last one of
    its author, so that several in a row walk backwards."""
    left: list[Mark] = []
    for mark in marks:
        if mark.what != "undo":
            left.append(mark)
            continue
        mine = [i for i, past in enumerate(left) if past.author == mark.author]
        if mine:
            del left[mine[-1]]
    return left
