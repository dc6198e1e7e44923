"""The labels file: what people have said of cases, in an SQLite file beside the store.

A run locks its store against other writers. People answer while it plays, and several at once, so
their words lie beside it, where the run reads them. The file is append-only: to take something back
is one more mark.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from .errors import BadInput, StoreError
from .records import Record, digest

VERSION = 1
"""Of the file's one table. A file of another version is refused, not guessed at."""

TABLE = """
CREATE TABLE IF NOT EXISTS marks (
    n INTEGER PRIMARY KEY, run TEXT NOT NULL, episode TEXT NOT NULL, turn TEXT NOT NULL,
    kind TEXT NOT NULL, author TEXT NOT NULL, what TEXT NOT NULL, value TEXT NOT NULL,
    note TEXT NOT NULL, seconds REAL, at REAL NOT NULL, hash TEXT NOT NULL
) STRICT
"""
INDEX = "CREATE INDEX IF NOT EXISTS marks_of_a_case ON marks (run, episode, turn)"

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
    """The labels file of one store. It may be read and added to from anywhere at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, store_url: str) -> LabelBook:
        """The labels file of a store, by the store's path or URL. Nothing is made yet."""
        if "://" in store_url and not store_url.startswith("sqlite:///"):
            what = "labels lie in a file beside an SQLite store; give --store a path"
            raise BadInput(f"{store_url}: {what}")
        path = Path(store_url.removeprefix("sqlite:///"))
        return cls(path.with_name(f"{path.stem}.labels.sqlite"))

    def add(self, mark: Mark) -> None:
        """Append a mark; on disk when this returns."""
        values = tuple(vars(mark).values())
        with self._open() as db:
            db.execute(TABLE)
            db.execute(INDEX)
            db.execute(f"PRAGMA user_version = {VERSION}")
            marks = ", ".join("?" * (len(values) + 2))
            db.execute(f"INSERT INTO marks VALUES ({marks})", (None, *values, digest(*values)))

    def marks(self, run: str, place: Place | None = None) -> list[Mark]:
        """The marks of a run, or those on one case, the oldest first.

        Raises StoreError when one was altered after it was written.
        """
        if not self.path.is_file():
            return []
        query, given = "SELECT * FROM marks WHERE run = ?", (run, *(place or ()))
        if place is not None:
            query += " AND episode = ? AND turn = ?"
        with self._open() as db:
            rows = db.execute(f"{query} ORDER BY n", given).fetchall()
        for n, *values, written in rows:
            if digest(*values) != written:
                raise StoreError(f"{self.path}: mark {n} was altered after it was written")
        return [Mark(**dict(zip(Mark.model_fields, row[1:-1], strict=True))) for row in rows]

    def answers(self, run: str, place: Place | None = None) -> dict[Place, list[Mark]]:
        """Case -> the answers that stand, the newest of each person, the oldest first."""
        found: dict[Place, dict[str, Mark]] = {}
        for mark in not_undone(self.marks(run, place)):
            if mark.what == "answer":
                found.setdefault(mark.place, {})[mark.author] = mark
        return {at: sorted(said.values(), key=lambda m: m.at) for at, said in found.items()}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, which waits while others write."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as db, db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, VERSION):
                    what = f"labels file of version {version}, but this superalign knows {VERSION}"
                    raise StoreError(f"{self.path}: {what}")
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: no labels file: {error}") from error


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
