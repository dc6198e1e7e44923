"""Servers that fail and models that lie: what of a run is left.

    python benchmarks/faults.py [--json]

faults     a fifth of all calls is hit by one of eight faults (dropped connection, 429, 500, hang,
           slow drip, body cut off, malformed JSON, no choices), in 120 debates. Target: every
           episode ends, and the store holds as many attempts as the server counts
hostile    every seat but the judge answers with 40 hostile replies in turn (tests/hostile.py), in
           four protocols, with verdicts as JSON and as text. The judge finds for 1 unless anything
           outside of quotes says otherwise. Target: no verdict is changed. Episodes fail, and say
           why, whose reply cannot be a turn (ten megabytes) or picks nothing where it has to

Servers are those of the tests, on this machine; runs go through the command line.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from superalign.store import Store

TESTS = Path(__file__).parent.parent / "tests"
FAKE, HOSTILE = (runpy.run_path(str(TESTS / name)) for name in ("fake_server.py", "hostile.py"))
SHARE, EPISODES = 0.2, 120
SEATS = {
    "debate": ("debater_a", "debater_b", "judge"),
    "open_debate": ("debater_a", "debater_b", "judge"),
    "consultancy": ("consultant", "judge"),
    "propaganda": ("consultant", "judge"),
}


def play(server: Any, protocol: str, episodes: int, **engine: Any) -> tuple[list[Any], int]:
    """A run by the command line: its episodes, and the attempts of its probe."""
    told = {"engine": "openai", "model": "tiny", "base_url": server.url, **engine}
    scenario = {
        "name": "tried",
        "world": {
            "kind": "dataset",
            "path": "./asked.jsonl",
            "columns": {"text": "q", "choices": "a", "target": "right"},
        },
        "models": {"big": told},
        "protocol": {"name": protocol},
        "cast": {seat: {"model": "big"} for seat in SEATS[protocol]},
        "episodes": episodes,
        "limits": {"failed_share": 1.0},
    }
    asked = (f"question {i}" for i in range(2 * episodes))  # a fifth is held out
    lines = ({"q": text, "a": ["no", "yes"], "right": "yes"} for text in asked)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (Path(folder) / "tried.yaml").write_text(json.dumps(scenario))
        command = [Path(sys.executable).with_name("superalign"), "run", "tried.yaml", "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with Store.open(Path(folder) / "runs" / "tried-1" / "store.sqlite") as store:
            (served,) = store.versions("tried-1")
            probe = len(served.config["abilities"]["attempts"])
            return list(store.episodes("tried-1")), probe


def faults() -> dict[str, Any]:
    rng, kinds, names = random.Random(3), count(), FAKE["FAULTS"]

    def fault(_: int) -> str | None:
        return names[next(kinds) % len(names)] if rng.random() < SHARE else None

    with FAKE["FakeServer"](fault=fault) as server:
        episodes, probe = play(server, "debate", EPISODES, timeout=2.0)
        turns = [turn for episode in episodes for turn in episode.turns]
        return {
            "episodes": len(episodes),
            "done": sum(episode.status == "done" for episode in episodes),
            "requests": len(server.completions),
            "stored": probe + sum(len(turn.attempts) for turn in turns),
            "most_attempts": max(len(turn.attempts) for turn in turns),
            "faults": {name: server.faults[name] for name in names},
        }


def hostile(protocol: str, picks: str) -> dict[str, Any]:
    judge = HOSTILE["credulous"]
    honours = ("json",) if picks == "json" else ()
    with FAKE["FakeServer"](say=HOSTILE["hostile"](judge), honours=honours) as server:
        server.pick = lambda body: int(judge(body)[-1])
        episodes, _ = play(server, protocol, len(HOSTILE["HOSTILE"]), picks=picks)
    ends = Counter(episode.status for episode in episodes)
    values = [e.verdict.value for e in episodes if e.verdict is not None]
    undefined = sum((e.status == "done") != (e.verdict is not None) for e in episodes)
    return {
        "protocol": protocol,
        "picks": picks,
        "done": ends["done"],
        "failed": ends["failed"],
        "undefined": len(episodes) - ends["done"] - ends["failed"] + undefined,
        "changed": sum(value != "1" for value in values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    hit = faults()
    lied = [hostile(protocol, picks) for protocol in SEATS for picks in ("json", "text")]
    names = ("openai", "httpx2", "superalign")
    numbers = {"python": platform.python_version(), **{n: version(n) for n in names}}
    if args.json:
        print(json.dumps({"faults": hit, "hostile": lied, "versions": numbers}, indent=2))
        return
    print(f"{hit['done']} of {hit['episodes']} episodes done; {hit['requests']} requests counted")
    print(f"by the server, {hit['stored']} stored; at most {hit['most_attempts']} for one call")
    print(", ".join(f"{name} {number}" for name, number in hit["faults"].items()))
    print(f"\n{'protocol':14}{'picks':7}{'done':>6}{'failed':>8}{'undefined':>11}{'changed':>9}")
    for row in lied:
        ends = f"{row['done']:6}{row['failed']:8}{row['undefined']:11}{row['changed']:9}"
        print(f"{row['protocol']:14}{row['picks']:7}{ends}")
    print(", ".join(f"{name} {number}" for name, number in numbers.items()))


if __name__ == "__main__":
    main()
