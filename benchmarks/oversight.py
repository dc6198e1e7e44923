"""Which protocol rewards truth: all families and their controls in one scorecard.

    python benchmarks/oversight.py [--seeds 3] [--items 300] [--json]

Two-choice sums. One organism argues, answers and replies; a weaker one, that was never taught to
add up, judges, questions and takes apart. Every arm plays the same items, each with its choices in
both orders. `superalign compare` compares the arms, of each seed and of all seeds together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ARGUES = {"model": "debater", "temperature": 0.5, "max_tokens": 48}
JUDGES = {"model": "judge", "temperature": 0.0, "max_tokens": 6}
ASKS = {**JUDGES, "max_tokens": 24}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "blind": ({"name": "blind"}, {"judge": JUDGES}),
    "vote": (
        {"name": "vote", "samples": 5},
        {"learner": {**JUDGES, "temperature": 1.0}},
    ),
    "propaganda": ({"name": "propaganda"}, {"consultant": ARGUES, "judge": JUDGES}),
    "consultancy": (
        {"name": "consultancy", "rounds": 1},
        {"consultant": ARGUES, "judge": JUDGES},
    ),
    "open_consultancy": (
        {"name": "open_consultancy", "rounds": 1},
        {"consultant": ARGUES, "judge": JUDGES},
    ),
    "debate": (
        {"name": "debate", "rounds": 2},
        {"debater_a": ARGUES, "debater_b": ARGUES, "judge": JUDGES},
    ),
    "open_debate": (
        {"name": "open_debate", "rounds": 2},
        {"debater_a": ARGUES, "debater_b": ARGUES, "judge": JUDGES},
    ),
    "cross_examination": (
        {"name": "cross_examination", "follow_ups": 0},
        {"examinee": ARGUES, "examiner": ASKS},
    ),
    "decomposition": ({"name": "amplification"}, {"learner": ARGUES, "human": ASKS}),
}
COLUMNS = ("n", "accuracy", "p_true", "asd", "brier", "swap_consistency", "calls")


def scenario(arm: str, seed: int, items: int) -> dict[str, Any]:
    protocol, cast = ARMS[arm]
    organisms = {name: f"organism:arithmetic-{name}" for name in ("debater", "judge")}
    used = {member["model"] for member in cast.values()}
    return {
        "name": f"{arm}-seed{seed}",
        "world": {"kind": "arithmetic", "choices": 2},
        "models": {m: {"engine": "transformers", "path": organisms[m]} for m in sorted(used)},
        "protocol": protocol,
        "cast": cast,
        "swap": True,
        "episodes": 2 * items,
        "seed": seed,
    }


def superalign(*words: str, folder: Path) -> Any:
    """A command's JSON."""
    command = [sys.executable, "-m", "superalign.scenarios.cli", *words, "--json"]
    quiet = {**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def play(folder: Path, seeds: int, items: int) -> dict[str, list[str]]:
    """Run every arm of every seed into one store; the names of the runs, arm by arm."""
    runs: dict[str, list[str]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm in ARMS:
            file = folder / f"{arm}-{seed}.yaml"
            file.write_text(json.dumps(scenario(arm, seed, items)))
            facts = superalign("run", file.name, folder=folder)
            runs[arm].append(facts["run"])
            print(f"{facts['run']}: {facts['seconds']:.0f} s", file=sys.stderr, flush=True)
    return runs


def table(arms: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'':28}" + "".join(f"{name:>18}" for name in COLUMNS)]
    for arm in arms:
        cells = (arm.get(name) for name in COLUMNS)
        shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
        lines.append(f"{arm['name'][:27]:28}" + "".join(f"{cell:>18}" for cell in shown))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = play(folder, args.seeds, args.items)
        joined = superalign("compare", *("+".join(some) for some in runs.values()), folder=folder)
        seeds = [
            superalign("compare", *(some[seed] for some in runs.values()), folder=folder)
            for seed in range(args.seeds)
        ]
    packages = ("superalign", "torch", "transformers", "langgraph")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    facts = {"all": joined, "seeds": seeds, "items": args.items, "versions": versions}
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for title, found in (("all seeds", joined), *((f"seed {i}", s) for i, s in enumerate(seeds))):
        print(f"\n{title}")
        print("\n".join(table(found["arms"])))
    for pair in joined["pairs"]:
        names = {pair["a"].split("-")[0], pair["b"].split("-")[0]}
        if names == {"debate", "consultancy"}:
            print({key: pair[key] for key in pair if pair[key] is not None})
    print(", ".join(f"{name} {v}" for name, v in versions.items()))


if __name__ == "__main__":
    main()
