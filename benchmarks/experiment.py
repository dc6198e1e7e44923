"""Does the learner get better from its critic? Three seeds, four arms, one table.

    python benchmarks/experiment.py [--seeds 3] [--out runs/experiment] [--json]

Arms differ in one thing each from scenarios/arithmetic.yaml: `exo` is that scenario (critic's
labels and 32 human ones), `exo, oracle` is the control labelled with the truth, `sft` copies
accepted answers, `dpo` learns from the same pairs. Runs that are there already are not run again,
a killed one is resumed. Two run at a time, with one thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superalign.scenarios.report import is_hit, report_facts
from superalign.store import Store

SCENARIO = Path(__file__).parent.parent / "scenarios" / "arithmetic.yaml"
ARMS = {
    "exo": [],
    "exo, oracle (control)": ["labels.human=null", "labels.control=oracle"],
    "sft": ["learn.method=sft"],
    "dpo": ["learn.method=dpo"],
}


def play(arm: str, seed: int, out: Path) -> dict[str, Any]:
    """One run in a process of its own, unless it is done already; its report's facts."""
    folder = out / f"{arm.split(',')[0]}{'-control' if 'control' in arm else ''}-seed{seed}"
    run = folder / "arithmetic-1"
    if not (run / "report.json").is_file():
        words = [sys.executable, "-m", "superalign.scenarios.cli", "run", str(SCENARIO)]
        for override in [f"seed={seed}", f"learn.seed={seed}", *ARMS[arm]]:
            words += ["--set", override]
        words += ["--out", str(folder)] + (["--resume"] if run.exists() else [])
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(words, env={**os.environ, **threads}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{arm}, seed {seed}: exit {done.returncode}\n{done.stderr[-2000:]}")
        print(f"done: {arm}, seed {seed}", file=sys.stderr, flush=True)
    with Store.open(run / "store.sqlite") as store:
        hits, attacks = Counter(), Counter()
        for episode in store.episodes(run.name):
            if episode.status == "done":
                attacks[episode.iteration, episode.tags[0]] += 1
                hits[episode.iteration, episode.tags[0]] += is_hit(episode)
        return {**report_facts(store, run.name), "hits": hits, "attacks": attacks}


def line(arm: str, seed: int, facts: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one run."""
    first, last = facts["iterations"][0], facts["iterations"][-1]
    played = facts["iterations"][1:]
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": [i["heldout_accuracy"] for i in facts["iterations"]],
        "gain": facts["gain"]["points"],
        "gain_ci": facts["gain"]["ci"],
        "cells_down": facts["cells_down"],
        "hit_ratio": [i["hit_ratio"] for i in played],
        "critic_precision": [i["critic_precision"] for i in played],
        "critic_recall": [i["critic_recall"] for i in played],
        "diversity": [i["diversity"] for i in played],
        "heldout_n": sum(cell["n"] for cell in first["cells"].values()),
        "cells": {cell: last["cells"][cell]["accuracy"] for cell in last["cells"]},
    }


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table of docs/experiments.md."""
    head = "| arm | seed | accuracy by iteration (%) | gain (points, paired 95% interval) |"
    rows = [f"{head} attacker hits / uniform | cells down |", "|---|---|---|---|---|---|"]
    for one in lines:
        accuracy = " -> ".join(f"{100 * value:.1f}" for value in one["accuracy"])
        low, high = one["gain_ci"]
        ratio = ", ".join("-" if r is None else f"{r:.2f}" for r in one["hit_ratio"])
        down = ", ".join(one["cells_down"]) or "none"
        gain = f"{one['gain']:+.1f} ({low:+.1f} to {high:+.1f})"
        rows.append(f"| {one['arm']} | {one['seed']} | {accuracy} | {gain} | {ratio} | {down} |")
    return "\n".join(rows)


def steering(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attacker's against uniform hit rate by iteration, over the seeds of one arm.

    The ratio's 95% interval is Katz's: normal in the logarithm of the ratio.
    """
    hits = sum((f["hits"] for f in facts), Counter())
    attacks = sum((f["attacks"] for f in facts), Counter())
    found = []
    for iteration in sorted({iteration for iteration, _ in attacks}):
        a, n = hits[iteration, "exploit"], attacks[iteration, "exploit"]
        b, m = hits[iteration, "explore"], attacks[iteration, "explore"]
        ratio = (a / n) / (b / m) if a and b else None
        half = 1.96 * math.sqrt(1 / a - 1 / n + 1 / b - 1 / m) if ratio else 0.0
        ci = [ratio * math.exp(-half), ratio * math.exp(half)] if ratio else None
        rates = {"attacker": a / n, "uniform": b / m, "attacks": [n, m]}
        found.append({"iteration": iteration, **rates, "ratio": ratio, "ci": ci})
    return found


def steering_table(found: list[dict[str, Any]]) -> str:
    rows = [
        "| iteration | attacker hits | uniform hits | ratio (95% interval) |",
        "|---|---|---|---|",
    ]
    for one in found:
        ratio = "-"
        if one["ratio"]:
            ratio = f"{one['ratio']:.2f} ({one['ci'][0]:.2f} to {one['ci'][1]:.2f})"
        attacker, uniform = (f"{100 * one[k]:.1f}%" for k in ("attacker", "uniform"))
        n, m = one["attacks"]
        rows.append(f"| {one['iteration']} | {attacker} of {n} | {uniform} of {m} | {ratio} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/experiment"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = [(arm, seed) for seed in range(args.seeds) for arm in ARMS]
    with ThreadPoolExecutor(2) as pool:
        facts = list(pool.map(lambda case: play(case[0], case[1], args.out), cases))
    lines = [line(arm, seed, f) for (arm, seed), f in zip(cases, facts, strict=True)]
    exo = [f for (arm, _), f in zip(cases, facts, strict=True) if arm == "exo"]
    lines.sort(key=lambda one: (list(ARMS).index(one["arm"]), one["seed"]))
    packages = ("superalign", "torch", "transformers", "langgraph")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    if args.json:
        print(
            json.dumps({"runs": lines, "steering": steering(exo), "versions": versions}, indent=2)
        )
    else:
        print(markdown(lines))
        print("\nAttacks of the exo arm, all seeds together:\n")
        print(steering_table(steering(exo)))
        print("\n" + ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
