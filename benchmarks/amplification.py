"""Does training on amplified answers reach training on the truth? Five tasks, two teachers.

    python benchmarks/amplification.py [--tasks union,powering] [--steps 2000] [--seed 0] [--json]

Each task trains the same small transformer twice, for the same number of steps: on right answers
(`truth`), and by iterated amplification (`amplify`), where nobody tells it one. Both are tested on
the same held-out problems, whose facts no training problem has. One thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any

import torch

from superalign.learners.estimates import wilson
from superalign.scenarios.amplification import CELLS, held_out_problems
from superalign.scenarios.amplification_training import (
    Recipe,
    Teacher,
    draw_pool,
    gather,
    levels_of,
    right,
    train,
)
from superalign.scenarios.statistics import Paired

TEACHERS: tuple[Teacher, ...] = ("truth", "amplify")


def measure(kind: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Both arms of one task."""
    test, pool = gather(held_out_problems(kind)), draw_pool(kind, recipe.pool, seed)
    n = len(test.problems)
    guess = Counter(test.truths.tolist()).most_common(1)[0][1] / n
    found: dict[str, Any] = {"task": kind, "seed": seed, "steps": recipe.steps, "n": n}
    found |= {"guess": guess, "hardest": max(levels_of(kind))}
    answers = {}
    for teacher in TEACHERS:
        started = time.process_time()
        trained = train(kind, teacher, pool, recipe, seed)
        answers[teacher] = right(trained.solver, test)
        accuracy = wilson(sum(answers[teacher]), n)
        assert accuracy is not None  # there are test problems
        found["parameters"] = sum(weight.numel() for weight in trained.solver.parameters())
        found[teacher] = {
            "accuracy": accuracy.value,
            "ci": accuracy.ci,
            "level": trained.level,
            "reached": trained.reached,
            "taken_apart": trained.questions,
            "cpu_seconds": round(time.process_time() - started, 1),
        }
    before, after = ({str(i): right for i, right in enumerate(answers[t])} for t in TEACHERS)
    change = Paired.of(before, after).difference()
    assert change is not None
    found["difference"] = {"points": 100 * change.value, "ci": [100 * end for end in change[1:]]}
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| task | always the commonest answer | truth (%) | amplify (%) | difference (points) |"
        " hardest level taught | taken apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        arms = [
            f"{100 * arm['accuracy']:.1f} ({100 * arm['ci'][0]:.1f} to {100 * arm['ci'][1]:.1f})"
            for arm in (one[teacher] for teacher in TEACHERS)
        ]
        low, high = one["difference"]["ci"]
        points = f"{one['difference']['points']:+.1f} ({low:+.1f} to {high:+.1f})"
        level = f"{one['amplify']['level']} of {one['hardest']}"
        apart = one["amplify"]["taken_apart"]
        cells = [one["task"], f"{100 * one['guess']:.1f}", *arms, points, level, f"{apart:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", default=",".join(CELLS))
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for kind in said.tasks.split(","):
        found.append(measure(kind, Recipe(steps=said.steps), said.seed))
        print(f"done: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2) if said.json else markdown(found))


if __name__ == "__main__":
    main()
