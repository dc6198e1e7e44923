"""How long a user waits for the command line: `--help`, `check`, and the first turn of a run.

    python benchmarks/startup.py [--repeats 9] [--json]

Each command is timed as a whole process, in turn with `python -c pass`. Targets: `--help` at most
0.3 s above that, `check scenarios/arithmetic.yaml` under 4 s. A run is timed until the first turn
can be read in its store: with scripted models, and with the organism, whose weights are loaded.
Neither is tested first, as a scenario that says `evaluate` is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUPERALIGN = str(Path(sys.executable).parent / "superalign")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "superalign --help": [SUPERALIGN, "--help"],
    "superalign check scenarios/arithmetic.yaml": [
        SUPERALIGN,
        "check",
        str(ROOT / "scenarios" / "arithmetic.yaml"),
    ],
}


RUNS = {
    "first turn, scripted models": ROOT / "tests" / "players.yaml",
    "first turn, the organism": ROOT / "scenarios" / "arithmetic.yaml",
}
"""Scenarios that are timed until their first turn."""


def first_turn(scenario: Path) -> float:
    """From the command's start until a turn is committed; then the run is ended."""
    with tempfile.TemporaryDirectory() as folder:
        words = [SUPERALIGN, "run", scenario, "--out", folder, "--set", "evaluate=null"]
        started = time.perf_counter()
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not spoken(Path(folder)):
                assert run.poll() in (None, 0), f"{scenario} ended with {run.returncode}"
                time.sleep(0.005)
            return time.perf_counter() - started
        finally:
            run.terminate()
            run.wait()


def spoken(folder: Path) -> bool:
    """Whether the store of the one run in a folder holds a turn."""
    for path in folder.glob("*/store.sqlite"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            try:
                return db.execute("SELECT 1 FROM turns LIMIT 1").fetchone() is not None
            except sqlite3.OperationalError:  # it has no tables yet
                return False
    return False


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in (*COMMANDS, *RUNS)}
    for repeat in range(args.repeats + 1):
        for name, command in COMMANDS.items():
            found = seconds(command)
            if repeat:  # the first round warms the file cache
                taken[name].append(found)
        for name, scenario in RUNS.items():
            found = first_turn(scenario)
            if repeat:
                taken[name].append(found)
    base = statistics.median(taken["python -c pass"])
    facts = {
        name: {
            "seconds": round(statistics.median(t), 3),
            "range": [round(min(t), 3), round(max(t), 3)],
        }
        for name, t in taken.items()
    }
    versions = {"python": platform.python_version(), "superalign": version("superalign")}
    if args.json:
        print(json.dumps({"commands": facts, "versions": versions}, indent=2))
        return
    for name, fact in facts.items():
        above = fact["seconds"] - base
        print(f"{name:46} {fact['seconds']:6.3f} s  ({above:+.3f} s above python -c pass)")
    print(", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
