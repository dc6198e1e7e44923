"""The stores that a viewer shows, open for reading, each with its index."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import text

from superalign.store import BadInput, Episode, Store, StoreError
from superalign.store.records import Record
from superalign.store.store import Entry

from .search import Index
from .stored import RUNS, STORE

PAUSE = 1.0
"""Seconds between two looks for new episodes."""

RECENT = 1000
"""Newest turns among which episodes that are being played are looked for."""

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class Shelf:
    """One store that is shown."""

    name: str
    """How its pages are addressed: its folder's name."""
    path: Path
    store: Store
    index: Index

    def lines(self, rowids: Sequence[int]) -> list[dict[str, Any]]:
        """What the list shows of episodes, in the order of these rowids."""
        found = []
        with self.store.connect() as db:
            for rowid in rowids:
                row = db.execute(text(LINE), {"rowid": rowid}).mappings().one_or_none()
                if row is not None:
                    found.append(dict(row))
        return found

    def open_ones(self, run: str) -> list[dict[str, Any]]:
        """Episodes of a run that were played lately and have not ended, with their turns so far."""
        with self.store.connect() as db:
            rows = db.execute(text(OPEN), {"run": run, "recent": RECENT}).mappings()
            return [dict(row) for row in rows]

    def episode(self, run: str, id: str) -> tuple[Episode, list[Entry]]:
        """An episode with its journal; one that has not ended is known by its turns alone."""
        for found in self.store.load(run, [id]):
            return found
        journal = self.store.journal(run, [id])[id]
        if not journal:
            raise BadInput(f"{run}/{id}: no such episode")
        return unended(self.store, run, id, journal), journal


LINE = """
SELECT e.rowid AS rowid, e.run, e.id, e."index" AS number, e.iteration, e.status, e.protocol,
       e.parent, e.seconds, e.error, v.value AS verdict,
       substr(iif(json_valid(e.question), e.question ->> '$.text', ''), 1, 160) AS question,
       iif(json_valid(e.task), e.task ->> '$.question.topic', '') AS topic,
       iif(json_valid(e.facts), e.facts ->> '$.cell', '') AS cell,
       (SELECT count(*) FROM turns t WHERE t.run = e.run AND t.episode = e.id) AS turns
FROM episodes e LEFT JOIN verdicts v ON v.run = e.run AND v.episode = e.id
WHERE e.rowid = :rowid
"""

OPEN = """
SELECT id, turns FROM (
    SELECT episode AS id, count(*) AS turns, max(rowid) AS newest FROM turns
    WHERE rowid > (SELECT max(rowid) FROM turns) - :recent AND +run = :run GROUP BY episode) t
WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE e.run = :run AND e.id = t.id)
ORDER BY newest DESC LIMIT 20
"""
"""`+run` keeps SQLite from walking all turns of the run by their key."""


def unended(store: Store, run: str, id: str, journal: Sequence[Entry]) -> Episode:
    """What is known of an episode that has not ended."""
    protocol = store.run(run).scenario.get("protocol", {})
    return Episode(
        run=run,
        id=id,
        index=0,
        protocol=str(protocol.get("name", "")),
        protocol_hash="",
        params={},
        task={"question": {}},  # type: ignore[arg-type]
        seed=0,
        status="waiting",
        question={},  # type: ignore[arg-type]
        turns=tuple(entry.turn for entry in journal),
    )


class Library:
    """All stores that are shown. Single use: make, `keep_up` in a thread, `close`."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        """Without paths: the store of every run below runs/, also of those made later."""
        self.paths = [path / STORE if path.is_dir() else path for path in paths]
        self.closed = threading.Event()
        self._shelves: dict[Path, tuple[tuple[int, int], Shelf]] = {}
        self._lock = threading.Lock()
        for path in self.paths:
            if ":/" in str(path):  # the rest of it may hold a password
                what = "the viewer wants files: it searches with SQLite. Of another database export"
                raise BadInput(
                    f"{what} a run of it as jsonl, import it with --store FILE, view FILE"
                )
            self._shelf(path)  # raises when there is none

    def shelves(self) -> list[Shelf]:
        """The stores that can be read, the newest first."""
        found = []
        for path in self.paths or RUNS.glob(f"*/{STORE}"):
            with suppress(StoreError, BadInput, OSError):
                found.append((path.stat().st_mtime, self._shelf(path)))
        return [shelf for _, shelf in sorted(found, key=lambda f: f[0], reverse=True)]

    def shelf(self, name: str) -> Shelf:
        for shelf in self.shelves():
            if shelf.name == name:
                return shelf
        raise BadInput(f"{name}: no such store")

    def _shelf(self, path: Path) -> Shelf:
        """The shelf of a file; a new one where the file is another one now."""
        with self._lock:
            if not path.is_file():
                raise BadInput(f"{path}: there is no store here; `superalign run` makes one")
            is_now = path.stat().st_dev, path.stat().st_ino
            was, shelf = self._shelves.get(path, (None, None))
            if shelf is None or was != is_now:
                store = Store.open(path)
                name = path.resolve().parent.name if path.name == STORE else path.stem
                taken = {s.name for p, (_, s) in self._shelves.items() if p != path}
                name = name if name not in taken else f"{name}-{len(taken) + 1}"
                shelf = Shelf(name, path, store, Index(store, path))
                self._shelves[path] = is_now, shelf
            return shelf

    def refresh(self) -> None:
        """Bring every index up to date."""
        for shelf in self.shelves():
            for _ in shelf.index.refresh():
                if self.closed.is_set():
                    return

    def keep_up(self) -> None:
        """Bring the indexes up to date until the library is closed."""
        while not self.closed.wait(PAUSE if self._shelves else 0):
            with suppress(StoreError, BadInput):  # the pages of such a store say what is wrong
                self.refresh()

    def close(self) -> None:
        self.closed.set()
        for _, shelf in self._shelves.values():
            shelf.store.close()
