"""Learners from own replies on the arithmetic organism, and the scorers that reward them.

    python benchmarks/online.py [--questions 96] [--batches 10] [--lessons 60] [--lr 2e-4]
                                [--heldout 120] [--seeds 1] [--arms "ppo critic,grpo critic"]
                                [--json]

The organism answers training questions and is updated by what a scorer says of its answers: its own
critic, frozen, or one that was made of what this critic says of 4 answers to each of the questions
(`benchmarks/scorers.py` says how, and how well each orders answers). Then held-out questions are
answered greedily. All learners draw as many replies; PPO makes 4 updates of each batch and the
others one. `ppo stored` draws none, and makes PPO's updates from the answers that the base gave in
the beginning.

`gain` is the difference to the base on the same questions, with its 95% interval by resampling
questions, each with what it gained under all seeds. `reward` is what the scorer paid, first and as
the mean of the last ten updates, `kl` nats per reply from the base, likewise: of PPO's last three
batches, and of the last ten of the others. So they are not to be held against each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import trl
from scorers import BASE, MADE, TOKENS, WORLD, answers, lessons, make, percent, versions

from superalign.learners import grpo, learn_config, ppo, rloo, scoring
from superalign.learners.scoring import Scorer
from superalign.store import Row, Task

LEARN = {"ppo": ppo.learn, "grpo": grpo.learn, "rloo": rloo.learn}
UPDATES = {"ppo": 4, "grpo": 1, "rloo": 1}
"""From one batch."""
ARMS = (
    *(f"ppo {name}" for name in ("critic", "critiqued", "verifier", "cot", "genrm", "reward")),
    *("ppo stored", "rloo critic", "grpo critic"),
)


def correct(folder: Path, tasks: Sequence[Task]) -> list[bool]:
    texts = answers(folder, tasks, 0, 0.0)
    return [WORLD.correct(task.question, text) for task, text in zip(tasks, texts, strict=True)]


def play(
    arm: str, rows: Sequence[Row], scorers: dict[str, Scorer], args: Any, seed: int
) -> dict[str, Any]:
    """One update, and which held-out questions are answered rightly after it."""
    method, scorer = arm.split()
    told = {"lr": args.lr, "seed": seed, "batch": args.batch, "max_tokens": TOKENS}
    steps = args.batches * UPDATES[method]
    config: Any = learn_config({"method": method, "steps": steps, **told})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        score = None if scorer == "stored" else scorers[scorer]
        metrics = LEARN[method](BASE, rows, config, Path(out), None, score)
        return {
            "right": correct(Path(out), WORLD.heldout(args.heldout)),
            "reward": [metrics[when]["reward"] for when in ("first", "last")],
            "kl": metrics["last"]["kl"],
            "seconds": time.perf_counter() - began,
        }


def run(args: Any) -> dict[str, Any]:
    arms = args.arms.split(",")
    before = np.array(correct(BASE, WORLD.heldout(args.heldout)), dtype=float)
    played: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in range(args.seeds):
        scorers = {"critic": scoring.critic(scoring.critic_in(BASE))}
        rows = lessons(list(WORLD.tasks(args.questions, seed)), scorers["critic"], seed)
        common = {"batch": 32, "lr": args.lr, "seed": seed, "steps": args.lessons}
        for name in dict.fromkeys(arm.split()[1] for arm in arms):
            if name in MADE:
                with tempfile.TemporaryDirectory() as out:
                    scorers[name] = make(name, rows, common, Path(out))
        for arm in arms:
            played[arm].append(play(arm, rows, scorers, args, seed))
            print(seed, arm, summed(played[arm], before), file=sys.stderr, flush=True)
    found = [{"arm": arm, **summed(played[arm], before)} for arm in arms]
    told = {**versions(), "trl": trl.__version__}
    return {"base": round(100 * float(before.mean()), 1), "arms": found, "versions": told}


def summed(seeds: Sequence[dict[str, Any]], before: np.ndarray) -> dict[str, Any]:
    """An arm's numbers over all seeds."""
    rights = np.array([one["right"] for one in seeds], dtype=float)
    return {
        "right": [round(100 * float(right.mean()), 1) for right in rights],
        "gain": percent(list(rights.mean(0) - before)),
        "reward": [fmean(one["reward"][end] for one in seeds) for end in (0, 1)],
        "kl": fmean(one["kl"] for one in seeds),
        "seconds": round(sum(one["seconds"] for one in seeds)),
    }


def show(found: dict[str, Any]) -> None:
    print(f"held out, greedy, in per cent; the base: {found['base']}")
    print(f"{'arm':14} {'right':>12}  {'gain (95% interval)':24} {'reward':>15} {'kl':>6} {'s':>5}")
    for arm in found["arms"]:
        right = " ".join(map(str, arm["right"]))
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*arm["gain"])
        paid = "{:.2f} to {:.2f}".format(*arm["reward"])
        told = f"{gain:24} {paid:>15} {arm['kl']:6.2f} {arm['seconds']:5}"
        print(f"{arm['arm']:14} {right:>12}  {told}")
    print("\n" + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lessons", type=int, default=60, help="updates of a scorer")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--heldout", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = run(args)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
