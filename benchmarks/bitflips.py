"""Does `verify` see every flipped bit? Single-bit flips anywhere in the file of a real store.

    python benchmarks/bitflips.py [--flips 1000] [--seed 0] [--json]

Each flip is made in a fresh copy of a store in which every table is filled. What it did is told by
SQLite alone: all fields of all tables, with their types, against those of the original. What
`verify` says is held against that. Target: every flip that changed a stored field is noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superalign.scenarios.loop import Experiment
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import (
    BadInput,
    Case,
    Evaluation,
    Label,
    PolicyVersion,
    Retraction,
    Score,
    Store,
    StoreError,
    tables,
)
from superalign.store.database import core
from superalign.store.records import digest
from superalign.store.verify import HASHED, verify

SCENARIO = Path(__file__).parent.parent / "tests" / "players.yaml"
RUN = "players-1"


def make_store(path: Path, episodes: int = 12) -> None:
    """A store of a scripted run, with something in every table."""
    resolved = resolve(Loaded.read(SCENARIO, (f"episodes={episodes}",)))
    with Store.open(path, write=True) as store:
        experiment = Experiment(RUN, resolved, store, path.parent, lambda *_: None)
        asyncio.run(experiment.go())
        _fill(store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for table in (tables.Meta, *HASHED):
            (rows,) = db.execute(f"SELECT count(*) FROM {core(table).name}").fetchone()
            assert rows, f"{core(table).name} is empty"


def _fill(store: Store) -> None:
    """What only learners and people write."""
    rows, episode = store.rows(RUN), next(e for e in store.episodes(RUN) if e.by("learner"))
    answer = episode.by("learner")[0].key
    about: dict[str, Any] = {"run": RUN, "episode": episode.id, "turn": answer}
    by: dict[str, Any] = {"author": "reviewer", "reason": "a test of every table"}
    made: dict[str, Any] = {"seat": "learner", "config": {"lr": 1e-5}}
    base = {"parent": None, "method": "base", "rows": None, "path": "base", "iteration": 0}
    first = {"parent": "base", "method": "exo", "path": "weights/learner-1", "iteration": 1}
    first["rows"] = digest(sorted(row.id for row in rows))
    store.put_version(RUN, PolicyVersion(id="base", **made, **base))
    store.put_version(RUN, PolicyVersion(id="learner-1", **made, **first), rows)
    store.put_labels([Label(**about, correct=True, source="human", author="p1", why="audit")])
    store.put_cases([Case(**about, seat="learner", kind="label", why="audit")])
    store.put_scores([Score(run=RUN, episode=episode.id, name="rescore-1", **by)])
    store.put_retractions([Retraction(run=RUN, row=rows[0].id, **by)])
    item = {"cell": "2d+", "text": "4", "correct": True, "tokens": 3}
    tasks = [
        Evaluation(iteration=1, policy="learner-1", item=f"{i:016x}", **item) for i in range(9)
    ]
    store.put_evaluations(RUN, tasks)


def fields(path: Path) -> dict[str, list[str]] | None:
    """Every field of every table with its type, in no order; None when SQLite cannot read them."""
    found = {}
    try:
        with closing(sqlite3.connect(path)) as db:
            db.text_factory = bytes
            for table in (tables.Meta, *HASHED):
                names = ", ".join(f"typeof([{c.name}]), [{c.name}]" for c in core(table).c)
                rows = db.execute(f"SELECT {names} FROM {core(table).name} NOT INDEXED")
                found[core(table).name] = sorted(map(repr, rows))
    except (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError):  # of words, of sizes
        return None
    return found


def noticed(path: Path) -> bool:
    """Whether `verify` names damage, or the store refuses to be opened."""
    try:
        with Store.open(path) as store:
            return bool(verify(store)[1])
    except (StoreError, BadInput):
        return True


def flip(original: bytes, to: Path, bit: int) -> None:
    """A copy with one bit flipped, and nothing beside it that an earlier copy left."""
    for beside in to.parent.glob(f"{to.name}-*"):
        beside.unlink()
    changed = bytearray(original)
    changed[bit // 8] ^= 1 << bit % 8
    to.write_bytes(changed)


def measure(path: Path, flips: int, seed: int) -> dict[str, Any]:
    """What the flips did, how many of each kind were noticed, and the bits that were missed."""
    original, true = path.read_bytes(), fields(path)
    assert not noticed(path), "the untouched store is damaged"
    rng, made, seen, missed = random.Random(seed), Counter(), Counter(), []
    copy = path.with_name("flipped.sqlite")
    for _ in range(flips):
        bit = rng.randrange(len(original) * 8)
        flip(original, copy, bit)
        found = fields(copy)
        kind = "unreadable" if found is None else "benign" if found == true else "changed"
        made[kind] += 1
        if noticed(copy):
            seen[kind] += 1
        elif kind != "benign":
            missed.append(bit)
    counts = {kind: {"flips": made[kind], "noticed": seen[kind]} for kind in KINDS}
    return {"bytes": len(original), "flips": flips, "seed": seed, **counts, "missed": missed}


KINDS = {
    "changed": "changed a stored field",
    "unreadable": "left a table that SQLite cannot read",
    "benign": "changed nothing that is stored",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        make_store(path)
        facts = measure(path, args.flips, args.seed)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    facts["versions"] = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("superalign", "sqlalchemy")},
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print(
            f"{args.flips} flips of one bit in a store of {facts['bytes']} bytes, seed {args.seed}"
        )
        for kind, what in KINDS.items():
            print(f"{what:40} {facts[kind]['flips']:6}   noticed {facts[kind]['noticed']:6}")
        print(
            f"{facts['seconds']} s; " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
        )
    sys.exit(1 if facts["missed"] else 0)


if __name__ == "__main__":
    main()
