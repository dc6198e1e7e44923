"""What priced claims are worth to who splits them, for the prover-estimator debate.

Claims of a level are held to be true together, and to make the claim above them true. Each has a
price: the probability that it is true, on its own. Prices p of parts and P of the whole cannot be
those of anybody consistent unless

    1 - sum(1 - p)  <=  P  <=  min p        (the first by the union bound)

A prover who says that a price is too low or too high earns by how much it breaks these bounds,
less a tolerance. The last claim that it chooses is judged, and the price is held against that.

Prices are not conditional on the earlier parts, whose product would have to be P: such a price
speaks of a world in which the earlier parts hold, and the judge of one part does not know whether
they do. When one part in m is false, and nobody knows which, the last part's conditional price is
0, yet it is true m - 1 times in m: a prover who knows nothing would earn by calling it too low.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from superalign.store.errors import Unreadable
from superalign.store.records import Turn

from .stochastic import parse_probability

SIGNS = {"under": -1, "right": 0, "over": 1}
"""What a prover says of a price."""


class Level(NamedTuple):
    """Claims that stand side by side, their prices, and what the prover says of one of them."""

    claims: tuple[str, ...]
    prices: tuple[float, ...] = ()
    chosen: int = 0
    sign: int = 0

    @property
    def claim(self) -> str:
        return self.claims[self.chosen]

    @property
    def price(self) -> float:
        return self.prices[self.chosen]


def lowest(parts: Sequence[float]) -> float:
    """The least that a whole can be worth whose parts have these prices."""
    return max(0.0, 1 - sum(1 - part for part in parts))


def exposed(price: float, parts: Sequence[float], sign: int) -> float:
    """By how much a price breaks the bound that its parts' prices set, on the side of `sign`."""
    return price - min(parts) if sign > 0 else lowest(parts) - price


def worth(levels: Sequence[Level], truth: bool, growth: float, tolerance: float) -> float:
    """What the prover earns, and the estimator loses; `truth` is the judge's of the last claim.

    Each level counts `growth` times the one above it. Who calls a price right earns nothing by it.
    """
    earned = 0.0
    for depth, (level, below) in enumerate(pairwise(levels)):
        if level.sign:
            gain = exposed(level.price, below.prices, level.sign)
            earned += growth**depth * (gain - tolerance)
    last = levels[-1]
    if last.sign:
        gain = last.sign * (last.price - truth)
        earned += growth ** (len(levels) - 1) * (gain - tolerance)
    return earned


def levels(turns: Iterable[Turn]) -> list[Level]:
    """What was claimed, priced and chosen, from the answer down."""
    found: list[Level] = []
    for turn in turns:
        if turn.kind in ("answer", "decomposition"):
            found.append(Level(parse_claims(turn.text) if found else (turn.text.strip(),)))
        elif turn.kind == "probability":
            prices = (*found[-1].prices, parse_probability(turn.text))
            found[-1] = found[-1]._replace(prices=prices)
        elif turn.kind == "choice":
            chosen, sign = parse_pick(turn.text, len(found[-1].claims))
            found[-1] = found[-1]._replace(chosen=chosen, sign=sign)
    return found


def parse_claims(text: str) -> tuple[str, ...]:
    """The lines of a decomposition that are not empty."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def parse_pick(text: str, claims: int) -> tuple[int, int]:
    """A prover's choice: the index of a claim, from 0, and what it says of its price."""
    found = re.fullmatch(r"([1-9][0-9]?) (under|right|over)\.?", text.strip().lower())
    if found and int(found[1]) <= claims:
        return int(found[1]) - 1, SIGNS[found[2]]
    raise Unreadable(
        f"choice {text!r}: expected a claim's number, 1 to {claims}, and under, right or over"
    )
