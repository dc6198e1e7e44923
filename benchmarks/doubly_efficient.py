"""Doubly-efficient debate: does the honest side win 3 of 5 games, whatever the other side does?

    python benchmarks/doubly_efficient.py [--debates 4000] [--seed 0] [--json]

Two computations whose Lipschitz constant is 2, of 10 and of 100 bits, with the constants of the
paper's proof. Where the result is 1 with probability 2/3, an honest Alice meets every cheating
Bob; where it is 1/3, an honest Bob meets every cheating Alice. The strategies are those that
scripted seats play in the protocol. Target: the lower end of each 95% interval lies above 3/5.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from superalign.learners.estimates import wilson
from superalign.protocols.stochastic import (
    ALICES,
    BOBS,
    Alice,
    Bob,
    Oracle,
    Tolerances,
    average,
    chain,
    honest_alice,
    honest_bob,
    vera,
)

LIPSCHITZ = 2.0
GOAL = 3 / 5


def debate(
    oracle: Oracle, alice: Alice, bob: Bob, off: Tolerances, steps: int, rng: np.random.Generator
) -> tuple[bool, bool]:
    """Whether Alice wins, and whether Vera was asked."""
    bits, judge = "", vera(oracle, off)
    while len(bits) < steps:
        claim = alice(bits, rng)
        if bob(bits, claim, rng):
            return not off.vera_rejects(claim, judge(bits, rng)), True
        bits += "1" if rng.random() < claim else "0"
    return bits[-1] == "1", False


def games(steps: int) -> list[tuple[str, str, Oracle, Alice, Bob, bool]]:
    """(computation, cheat, oracle, Alice, Bob, whether the honest side is Alice)."""
    off = Tolerances.of(LIPSCHITZ, steps, 0.01, 0.01)
    found = []
    for name, make in {"chain": chain, "average": lambda p: average(p, steps)}.items():
        high, low = make(2 / 3), make(1 / 3)
        for cheat, bob in BOBS.items():
            found.append((name, f"Bob {cheat}", high, honest_alice(high, off), bob(steps), True))
        for cheat, alice in ALICES.items():
            liar = alice(low, off, steps)
            found.append((name, f"Alice: {cheat}", low, liar, honest_bob(low, off), False))
    return found


def measure(debates: int, seed: int) -> list[dict[str, Any]]:
    """How often the honest side wins each game, and what Vera asked when she was asked."""
    rows = []
    for steps in (10, 100):
        off = Tolerances.of(LIPSCHITZ, steps, 0.01, 0.01)
        for name, cheat, oracle, alice, bob, is_alice in games(steps):
            rng = np.random.default_rng([seed, steps, len(rows)])
            played = [debate(oracle, alice, bob, off, steps, rng) for _ in range(debates)]
            share = wilson(sum(won == is_alice for won, _ in played), debates)
            assert share is not None
            rows.append(
                {
                    "steps": steps,
                    "computation": name,
                    "cheat": cheat,
                    "honest": round(share.value, 4),
                    "ci": [round(end, 4) for end in share[1:]],
                    "vera_asked": sum(asked for _, asked in played) / debates,
                    "queries": dict(zip(("alice", "bob", "vera"), off.queries, strict=True)),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--debates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.debates, args.seed)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{args.debates} debates a line, K = {LIPSCHITZ:g}, c = 1/(100 K), seed {args.seed}")
        print(f"{'bits':>4} {'computation':12}{'cheat':34}{'honest side wins':24}Vera asked")
        for row in rows:
            low, high = row["ci"]
            wins = f"{row['honest']:.3f} ({low:.3f} to {high:.3f})"
            print(
                f"{row['steps']:4} {row['computation']:12}{row['cheat']:34}{wins:24}"
                f"{row['vera_asked']:.2f}"
            )
        for steps in (10, 100):
            alice, bob, judge = Tolerances.of(LIPSCHITZ, steps, 0.01, 0.01).queries
            print(f"{steps} bits: {alice} queries of Alice and {bob} of Bob a bit, {judge} of Vera")
    sys.exit(0 if all(row["ci"][0] > GOAL for row in rows) else 1)


if __name__ == "__main__":
    main()
