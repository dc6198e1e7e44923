"""Prover-estimator debate against the ordinary recursive one, on arguments with a planted flaw.

    python benchmarks/prover_estimator.py [--games 20000] [--seed 0] [--json]

A false claim is split into m parts (twice: into m x m), of which one is false. Nobody knows which;
the opponent knows that the claim is false, and how likely each part is to be the false one, which
differs a little. In the ordinary debate it must say which part is false, says the likeliest, and
loses when it is not. In the prover-estimator debate it prices the parts as likely as they are.
Then how a true claim fares whose many parts the estimator doubts a little. Rewards are those of
the protocol (protocols/pricing.py).

Target: no prover that does not know the flaw earns more than nothing (beyond the 95% interval of
the best of them), and the same prover wins most of the ordinary debates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from superalign.learners.estimates import Z, wilson
from superalign.protocols.pricing import Level, worth

GROWTH, TOLERANCE = 2.0, 0.02
"""The protocol's defaults."""
SIZES = ((4, 1), (16, 1), (64, 1), (8, 2))
"""Parts of a claim, and how often claims are split."""
EVEN = 10.0
"""Concentration of the Dirichlet distribution of beliefs: large makes all parts alike."""
SIGNS = {-1: "under", 0: "right", 1: "over"}

Pick = Callable[[tuple[float, ...], np.random.Generator], int]
PICKS: dict[str, Pick] = {
    "cheapest": lambda prices, rng: prices.index(min(prices)),
    "dearest": lambda prices, rng: prices.index(max(prices)),
    "any": lambda prices, rng: int(rng.integers(len(prices))),
}
"""How a prover picks a part that does not know the flaw: by what it costs, or blindly."""


def play(
    weights: np.ndarray, flaw: int, width: int, signs: tuple[int, ...], pick: Pick, rng: Any
) -> float:
    """What a prover earns. `weights` are the estimator's beliefs about which leaf is false."""
    levels, first, leaves = [Level(("the claim",), (0.0,), 0, signs[0])], 0, weights.size
    for sign in signs[1:]:
        leaves //= width
        parts = weights[first : first + width * leaves].reshape(width, leaves).sum(axis=1)
        prices = tuple((1 - parts).tolist())
        levels.append(Level(("a part",) * width, prices, pick(prices, rng), sign))
        first += levels[-1].chosen * leaves
    return worth(levels, first != flaw, GROWTH, TOLERANCE)


def beliefs(width: int, depth: int, games: int, rng: Any) -> list[tuple[np.ndarray, int]]:
    """Beliefs of an estimator, each with a flaw that lies where they say, so often."""
    drawn = rng.dirichlet(np.full(width**depth, EVEN), size=games)
    return [(weights, int(rng.choice(weights.size, p=weights))) for weights in drawn]


def mean(values: list[float]) -> list[float]:
    """Mean with the ends of its 95% interval."""
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return [round(value, 4) for value in (middle, middle - half, middle + half)]


def planted(width: int, depth: int, games: int, rng: Any) -> dict[str, Any]:
    """The false claim in both debates."""
    drawn, arms = beliefs(width, depth, games, rng), {}
    for signs in itertools.product(SIGNS, repeat=depth + 1):
        for name, pick in PICKS.items():
            earned = [play(weights, flaw, width, signs, pick, rng) for weights, flaw in drawn]
            arms[f"{' '.join(SIGNS[sign] for sign in signs)}, {name}"] = mean(earned)
    bets = [arm for arm in arms if "right," not in arm]  # the others cannot meet the flaw
    best = max(bets, key=lambda arm: arms[arm][0])
    missed = wilson(sum(flaw != int(weights.argmax()) for weights, flaw in drawn), games)
    assert missed is not None
    row = {
        "parts": width**depth,
        "splits": depth,
        "ordinary": [round(end, 4) for end in missed],
        "ignorant": arms[best],
        "ignorant_prover": best,
        "provers": len(bets),
        "silent": max(values[0] for arm, values in arms.items() if arm not in bets),
    }
    if depth == 1:  # over on the flaw; and the last part, whose price given all others is 0
        last = width - 1
        row["knowing"] = mean(
            [play(w, flaw, width, (0, 1), lambda *_, k=flaw: k, rng) for w, flaw in drawn]
        )
        given = [GROWTH * ((flaw != last) - TOLERANCE) for _, flaw in drawn]
        row["conditional"] = mean(given)
    return row


def doubted(width: int, doubt: float) -> dict[str, Any]:
    """A true claim, each of its parts doubted a little by an estimator that is consistent."""
    price, earned = (1 - doubt) ** width, {}
    for signs in itertools.product(SIGNS, repeat=2):
        levels = [
            Level(("the claim",), (price,), 0, signs[0]),
            Level(("a part",) * width, (1 - doubt,) * width, 0, signs[1]),
        ]
        earned[signs] = worth(levels, True, GROWTH, TOLERANCE)
    honest = max(reward for signs, reward in earned.items() if -1 in signs)
    return {"parts": width, "doubt": doubt, "accepted": round(price, 4), "honest": round(honest, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    flaws = [planted(width, depth, args.games, rng) for width, depth in SIZES]
    doubts = [doubted(width, doubt) for doubt in (0.1, 0.01) for width in (4, 16, 64)]
    if args.json:
        print(json.dumps({"planted": flaws, "doubted": doubts}, indent=2))
    else:
        show(flaws, doubts, args.games)
    holds = all(row["ignorant"][1] <= 0 and row["ordinary"][1] > 0.5 for row in flaws)
    sys.exit(0 if holds else 1)


def show(flaws: list[dict[str, Any]], doubts: list[dict[str, Any]], games: int) -> None:
    def interval(values: list[float]) -> str:
        return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"

    print(f"A false claim, one of its parts is false; {games} games")
    print("wins: the prover in the ordinary debate; earns: in the prover-estimator debate")
    for row in flaws:
        print(f"{row['parts']} parts, splits: {row['splits']}")
        print(f"  wins against the likeliest objection    {interval(row['ordinary'])}")
        best = f"best of {row['provers']} who cannot know the flaw"
        print(f"  earns, {best:33} {interval(row['ignorant'])}  {row['ignorant_prover']}")
        print(f"  earns at most, betting on no last part  {row['silent']:.3f}")
        if "knowing" in row:
            print(f"  earns, knows the flaw                   {interval(row['knowing'])}")
            print(f"  would earn from conditional prices      {interval(row['conditional'])}")
    print("\nA true claim; the estimator doubts each part, and is consistent")
    print(f"{'parts':>5} {'doubt':>6}  accepted  honest prover earns by saying that it is doubted")
    for row in doubts:
        print(f"{row['parts']:5} {row['doubt']:6}  {row['accepted']:8.3f}  {row['honest']:.3f}")


if __name__ == "__main__":
    main()
