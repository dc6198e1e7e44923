"""How long the viewer takes for a page of a store with a million turns, cold.

Makes the store (or takes the one of an earlier call), indexes it, and then asks a fresh process for
each page once: the pages of the operating system's cache that belong to store and index are given
back before. Server time: from the request to the last byte, over loopback, without a browser.

    python benchmarks/viewer.py [--turns 1000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from superalign.scenarios.search import Index
from superalign.store import Episode, Message, Question, Run, Store, Task, Turn, Verdict

WORDS = [f"word{i}" for i in range(20_000)]
PER_EPISODE = 10
CELLS = ("plain", "carries", "zeros", "digits", "length", "minus")
VERDICTS = ("solved", "failed", "fluke", "invalid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)) / "million-1"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "store.sqlite"
        if not path.exists():
            started = time.perf_counter()
            fill(path, given.turns // PER_EPISODE)
            print(f"store of {given.turns:,} turns made in {time.perf_counter() - started:.0f} s")
        started = time.perf_counter()
        with Store.open(path) as store:
            index = Index(store, path)
            done = sum(index.refresh())
        print(f"{done:,} episodes indexed in {time.perf_counter() - started:.0f} s")
        sizes(path, index.path)
        pages(folder, path, index.path)
    libraries = ", ".join(f"{n} {version(n)}" for n in ("fastapi", "uvicorn", "SQLAlchemy"))
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {libraries}")


def fill(path: Path, episodes: int) -> None:
    """Turns of 30 words each, some common and most rare, as texts are."""
    rng = random.Random(0)
    weights = [1 / (i + 1) for i in range(len(WORDS))]
    pool = rng.choices(WORDS, weights, k=1_000_000)
    scenario = {
        "name": "million",
        "protocol": {"name": "critique", "path": None},
        "cast": {"attacker": {}, "learner": {}, "critic": {}},
        "iterations": 10,
    }
    with Store.open(path, write=True) as store:
        store.put_run(
            Run(id="million-1", scenario=scenario, origin="", protocol_hash="", version="")
        )
        for i in range(episodes):
            put_episode(store, rng, pool, i)
            if i % 2000 == 1999:
                store.flush()
        store.flush()


def put_episode(store: Store, rng: random.Random, pool: list[str], i: int) -> None:
    question = Question(topic=CELLS[i % 6], text=f"question {i}")
    messages = [Message(role="user", content=f"{question.text} {n}") for n in range(2)]
    hashes = tuple(message.hash for message in messages)
    for message, hashed in zip(messages, hashes, strict=True):
        store.put_message(message, hashed)
    seats = ["attacker"] + ["learner"] * 4 + ["critic"] * 5
    turns = []
    for n, seat in enumerate(seats):
        start = rng.randrange(len(pool) - 30)
        node, kind = {
            "attacker": ("0001:attack:0000", "question"),
            "learner": ("0002:answer:0000", "answer"),
            "critic": ("0003:criticise:0000", "critique"),
        }[seat]
        turn = Turn(
            key=f"{node}/{seat}:{n:02}",
            seat=seat,
            kind=kind,
            text=" ".join(pool[start : start + 30]),
            policy="tiny",
            messages=hashes,
            sampling={"temperature": 1.0, "max_tokens": 40},
            seed=rng.getrandbits(62),
            prompt_tokens=40,
            seconds=0.1,
            at=1.7e9 + i,
        )
        turns.append(turn)
        store.put_turn("million-1", f"{i:016x}", turn)
    verdict = Verdict(value=VERDICTS[rng.randrange(4)], seat="critic")
    store.put_episode(
        Episode(
            run="million-1",
            id=f"{i:016x}",
            index=i,
            iteration=i * 10 // 100_000,
            protocol="critique",
            protocol_hash="",
            params={"samples": 4, "revisions": 1},
            task=Task(question=question),
            seed=i,
            status="done",
            question=question,
            verdict=verdict,
            rewards={"learner": 1.0},
            facts={"cell": question.topic},
            seconds=1.0,
        )
    )


def sizes(path: Path, index: Path) -> None:
    with sqlite3.connect(path) as db:
        turns, text = db.execute("SELECT count(*), sum(length(text)) FROM turns").fetchone()
    print(f"a turn: {text / turns:.0f} bytes of raw text,", end=" ")
    print(
        f"{path.stat().st_size / turns:.0f} in the store (all columns, messages and hashes),",
        end=" ",
    )
    print(f"{index.stat().st_size / turns:.0f} in the index")


def pages(folder: Path, path: Path, index: Path) -> None:
    here = "/runs/million-1/million-1"
    asked = {
        "first page": here,
        "text search, rare word": f"{here}?q=word15000",
        "text search, two common words": f"{here}?q=word10+word20",
        "text search, common word and filters": f"{here}?q=word5&verdict=failed&cell=zeros",
        "filter": f"{here}?verdict=failed&cell=zeros",
        "a page far down": f"{here}?before=1000",
        "an episode": f"{here}/episodes/{77:016x}",
    }
    print("| page | cold, ms | warm, ms |\n| --- | ---: | ---: |")
    for name, at in asked.items():
        cold, warm = ask(folder, at, [path, index])
        print(f"| {name} | {cold:.0f} | {warm:.0f} |")


def ask(folder: Path, at: str, files: list[Path]) -> tuple[float, float]:
    """Milliseconds of the first answer of a fresh process, and the median of nine more."""
    code = "from superalign.scenarios.cli import main; main()"
    words = [sys.executable, "-c", code, "view", str(folder), "--port", "0"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        found = re.search(r"http://\S+?(?=/\s)", server.stderr.readline())
        assert found is not None
        base = found[0]
        urllib.request.urlopen(f"{base}/static/viewer.css").read()
        time.sleep(3)  # its modules are loaded, the index looked at
        for file in files:
            forget(file)
        times = []
        for _ in range(10):
            started = time.perf_counter()
            urllib.request.urlopen(base + at).read()
            times.append(1000 * (time.perf_counter() - started))
    finally:
        server.terminate()
        server.wait()
    return times[0], sorted(times[1:])[4]


def forget(file: Path) -> None:
    """Have the operating system give back what it has cached of a file."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


if __name__ == "__main__":
    main()
