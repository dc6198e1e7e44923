"""The index of a store's episodes: what the viewer filters by, and the words that were said.

It is one SQLite file beside the store that may be deleted at any time. Every episode is one
document of a full-text table, under the rowid that it has in the store: `words` holds what was
said in it, `facets` one word for each thing it may be filtered by. So any filter with any search
is one query, answered in the order of the rowids, the newest first.

The journal's writer knows nothing of this: the index reads on from the last rowid it has seen.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from superalign.store import Store, StoreError

FORMAT = "1"
"""Version of everything below. An index of another version is made anew."""

AT_ONCE = 500
"""Episodes that are indexed in one transaction."""

FACETS = ("iteration", "status", "verdict", "cell", "seat", "protocol", "tag")
"""What episodes are filtered by, besides their run."""

LONGEST = 120
"""Characters kept of a facet's value. A verdict may be any text."""

SCHEMA = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE facets (id INTEGER PRIMARY KEY, run TEXT, name TEXT, value TEXT, episodes INTEGER,
                     UNIQUE (run, name, value));
CREATE TABLE forks (parent TEXT, episode INTEGER, PRIMARY KEY (parent, episode)) WITHOUT ROWID;
CREATE VIRTUAL TABLE said USING fts5(words, facets, content='', columnsize=0);
"""


class Index:
    """The index of one SQLite store. It is asked by many threads, and written by one."""

    def __init__(self, store: Store, path: Path) -> None:
        """`path` is the store's file; the index lies beside it, or, where nothing can be written,
        in a folder for temporary files."""
        self.store = store
        self.path = path.with_name(f"{path.stem}.search.sqlite")
        try:
            self._prepare()
        except (sqlite3.Error, OSError):
            folder = tempfile.mkdtemp(prefix="superalign-")
            self.path = Path(folder) / self.path.name
            self._prepare()

    def _prepare(self) -> None:
        """Make the index, or make it anew when it is not that of this store."""
        if self.path.exists():
            try:
                with closing(self._open()) as db:
                    if self._fits(db):
                        return
            except sqlite3.DatabaseError:  # damaged: it is disposable
                pass
            for end in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        with closing(self._open()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)
            db.execute(
                "INSERT INTO state VALUES ('format', ?), ('last', '0'), ('hash', '')", [FORMAT]
            )
            db.commit()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    def _fits(self, db: sqlite3.Connection) -> bool:
        """Whether the last episode it has seen still lies where it lay."""
        state = dict(db.execute("SELECT name, value FROM state"))
        if state["format"] != FORMAT or state["last"] == "0":
            return state["format"] == FORMAT
        where = "SELECT record_hash FROM episodes WHERE rowid = :last"
        return self._read(where, last=int(state["last"])) == [(state["hash"],)]

    def _read(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        from sqlalchemy import text
        from sqlalchemy.exc import DatabaseError

        try:
            with self.store.connect() as db:
                return [tuple(row) for row in db.execute(text(query), values)]
        except DatabaseError as error:
            raise StoreError(f"{self.store.url}: cannot be read: {error.orig}") from error

    # Keeping up with the store.

    def newer(self) -> int:
        """How many episodes the store has that the index has not seen."""
        with closing(self._open()) as db:
            seen = int(db.execute("SELECT value FROM state WHERE name = 'last'").fetchone()[0])
        return (self._read("SELECT max(rowid) FROM episodes")[0][0] or 0) - seen

    def refresh(self) -> Iterator[int]:
        """Read on to the store's end, a transaction at a time; yields the episodes of each."""
        while True:
            with closing(self._open()) as db:
                done = self._read_on(db)
            if not done:
                return
            yield done

    def _read_on(self, db: sqlite3.Connection) -> int:
        last = int(db.execute("SELECT value FROM state WHERE name = 'last'").fetchone()[0])
        heads = self._read(
            "SELECT rowid, run, id, iteration, protocol, status, question, facts, tags, parent,"
            " record_hash FROM episodes WHERE rowid > :last ORDER BY rowid LIMIT :n",
            last=last,
            n=AT_ONCE,
        )
        if not heads:
            return 0
        said, verdicts = self._said(heads), self._verdicts(heads)
        known: dict[tuple[str, str, str], int] = {}
        counts: Counter[int] = Counter()
        for rowid, run, id, iteration, protocol, status, question, facts, tags, parent, _ in heads:
            words, seats = said[run, id]
            pairs = {
                ("run", ""),
                ("iteration", str(iteration)),
                ("protocol", protocol),
                ("status", status),
                ("verdict", verdicts.get((run, id), "")),
                ("cell", str(_json(facts).get("cell") or "")),
                *(("seat", seat) for seat in seats),
                *(("tag", str(tag)) for tag in _json(tags)),
            }
            ids = [
                _facet(db, known, run, name, v[:LONGEST]) for name, v in pairs if v or name == "run"
            ]
            counts.update(ids)
            text = "\n".join([str(_json(question).get("text", "")), *words])
            facets = " ".join(f"f{number}" for number in ids)
            db.execute(
                "INSERT INTO said(rowid, words, facets) VALUES (?, ?, ?)", (rowid, text, facets)
            )
            if parent:
                db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?)", (parent, rowid))
        query = "UPDATE facets SET episodes = episodes + ? WHERE id = ?"
        db.executemany(query, [(n, number) for number, n in counts.items()])
        state = [(str(heads[-1][0]), "last"), (heads[-1][-1], "hash")]
        db.executemany("UPDATE state SET value = ? WHERE name = ?", state)
        db.commit()
        return len(heads)

    def _said(self, heads: list[tuple[Any, ...]]) -> dict[Any, tuple[list[str], set[str]]]:
        """(run, episode) -> what was said in it, and which seats spoke."""
        found: dict[Any, tuple[list[str], set[str]]] = defaultdict(lambda: ([], set()))
        for run, ids in _by_run(heads).items():
            names = ", ".join(f":e{i}" for i in range(len(ids)))
            where = f"WHERE run = :run AND episode IN ({names})"
            values = {f"e{i}": id for i, id in enumerate(ids)}
            query = f"SELECT episode, seat, text FROM turns {where}"
            for episode, seat, text in self._read(query, run=run, **values):
                words, seats = found[run, episode]
                words.append(text)
                seats.add(seat)
        return found

    def _verdicts(self, heads: list[tuple[Any, ...]]) -> dict[Any, str]:
        found = {}
        for run, ids in _by_run(heads).items():
            names = ", ".join(f":e{i}" for i in range(len(ids)))
            query = f"SELECT episode, value FROM verdicts WHERE run = :run AND episode IN ({names})"
            values = {f"e{i}": id for i, id in enumerate(ids)}
            found |= {(run, e): value for e, value in self._read(query, run=run, **values)}
        return found

    # Asking.

    def facets(self, run: str) -> dict[str, list[tuple[str, int]]]:
        """Facet -> its values in a run, each with how many episodes have it."""
        query = "SELECT name, value, episodes FROM facets WHERE run = ? AND name != 'run'"
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        with closing(self._open()) as db:
            for name, value, episodes in db.execute(query, [run]):
                found[name].append((value, episodes))
        for name, values in found.items():
            key = (lambda v: int(v[0])) if name == "iteration" else (lambda v: (-v[1], v[0]))
            values.sort(key=key)
        return found

    def count(self, run: str, **filters: str) -> int:
        """How many episodes of a run have one value of one facet; without one, all."""
        name, value = next(iter(filters.items()), ("run", ""))
        query = "SELECT episodes FROM facets WHERE run = ? AND name = ? AND value = ?"
        with closing(self._open()) as db:
            found = db.execute(query, (run, name, value)).fetchone()
        return found[0] if found else 0

    def find(
        self, run: str, filters: dict[str, str], words: str, before: int | None, n: int
    ) -> tuple[list[int], int]:
        """Rowids of the episodes that match, the newest first, below `before`; and how many match.

        `words` are all to be there, in any turns; words in quotation marks stand together.
        """
        with closing(self._open()) as db:
            ids = [
                db.execute(
                    "SELECT id FROM facets WHERE run = ? AND name = ? AND value = ?",
                    (run, name, value[:LONGEST]),
                ).fetchone()
                for name, value in {"run": "", **filters}.items()
            ]
            if None in ids:
                return [], 0
            match = " AND ".join([*(f"facets:f{number}" for (number,) in ids), *quoted(words)])
            rows = "SELECT rowid FROM said WHERE said MATCH ? AND rowid < ?"
            top = 2**63 - 1 if before is None else before
            found = [
                row[0] for row in db.execute(f"{rows} ORDER BY rowid DESC LIMIT ?", (match, top, n))
            ]
            if len(filters) + bool(words) == 0:
                return found, self.count(run)
            total = "SELECT count(*) FROM said WHERE said MATCH ?"
            return found, db.execute(total, [match]).fetchone()[0]

    def forks(self, ref: str) -> list[int]:
        """Rowids of the episodes that were forked from an episode or judge it again."""
        with closing(self._open()) as db:
            query = "SELECT episode FROM forks WHERE parent = ? ORDER BY episode LIMIT 100"
            return [row[0] for row in db.execute(query, [ref])]


def quoted(words: str) -> list[str]:
    """What a user typed, as parts of a full-text query: each is quoted, none is an operator."""
    parts = re.findall(r'"([^"]*)"|(\S+)', words)
    texts = [together or single for together, single in parts]
    return [f'words:"{text.replace(chr(34), "")}"' for text in texts if re.search(r"\w", text)]


def _facet(db: sqlite3.Connection, known: dict[Any, int], run: str, name: str, value: str) -> int:
    """The number of a facet's value, a new one where it has none."""
    key = run, name, value
    if key not in known:
        db.execute(
            "INSERT OR IGNORE INTO facets(run, name, value, episodes) VALUES (?, ?, ?, 0)", key
        )
        query = "SELECT id FROM facets WHERE run = ? AND name = ? AND value = ?"
        known[key] = db.execute(query, key).fetchone()[0]
    return known[key]


def _by_run(heads: list[tuple[Any, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for head in heads:
        found[head[1]].append(head[2])
    return found


def _json(text: str) -> Any:
    """Stored JSON; what is none is left out of the index, and `verify` names it."""
    try:
        return json.loads(text)
    except ValueError:
        return {}
