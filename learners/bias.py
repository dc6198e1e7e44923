"""What sways a judge of pairs beside quality: position, length, and its own writing.

Zheng et al. 2023 (LLM-as-a-judge, arXiv 2306.05685) and Panickssery et al. 2024 (self-preference,
arXiv 2404.13076). Shares, as the papers count them:

    swap_consistency     the same text wins in both orders
    first_position_rate  the text shown first wins
    longer_wins          the longer text wins
    agreement            two judges, or a judge and people, say the same
    self_preference      P(own text wins) - 0.5, where another judge finds both equally good

Shares mix causes: a judge may like long texts because these are better. `fit_judge` takes them
apart. It fits, to the verdicts that are no ties,

    P(first wins) = noise / 2 + (1 - noise) sig(competence * quality + position
                                                + length * log(length ratio) + own * side)

with quality the other judge's score of the first text less that of the second, and side 1 where the
first text is the judge's own, -1 where the second is. `Judge` is that formula, and so also a
simulated judge. Intervals are 95% ones; those of the fit and of self-
preference allow for several verdicts on a pair, the others take verdicts as independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from superalign.store.errors import BadInput

from .estimates import Estimate, Z, mean_interval, wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A judge's verdict on two texts, in the order in which it saw them.

    A verdict that cannot be read is no comparison: it makes none.
    """

    pair: str
    """Which two texts these are, whatever their order."""
    swapped: bool
    """Whether this is the pair's other order."""
    judge: str
    """Policy that judged."""
    authors: tuple[str, str]
    """Policies that wrote the first and the second text."""
    lengths: tuple[int, int]
    quality: tuple[float, float]
    """What another judge, or people, think of each."""
    winner: int | None
    """0 the first, 1 the second, None a tie."""

    @property
    def side(self) -> int:
        """1 where the judge wrote the first text alone, -1 where the second, else 0."""
        return (self.authors[0] == self.judge) - (self.authors[1] == self.judge)


Orders = dict[bool, int | None]
"""Swapped or not -> which of the pair's texts won, whichever was shown first; None a tie."""


def by_pair(comparisons: Iterable[Comparison]) -> dict[tuple[str, str], Orders]:
    """(judge, pair) -> its verdicts, for pairs that were judged in both orders."""
    seen: defaultdict[tuple[str, str], Orders] = defaultdict(dict)
    for c in comparisons:
        won = None if c.winner is None else c.winner ^ c.swapped
        if seen[c.judge, c.pair].setdefault(c.swapped, won) != won:
            raise BadInput(
                f"pair {c.pair!r}: {c.judge} said two things of one order; leave one out"
            )
    return {key: orders for key, orders in seen.items() if len(orders) == 2}


def swap_consistency(comparisons: Iterable[Comparison]) -> Estimate | None:
    """How often the same text wins, or both verdicts are ties, when a pair is shown both ways."""
    both = by_pair(comparisons).values()
    return _share([orders[False] == orders[True] for orders in both])


def merged(comparisons: Iterable[Comparison], judge: str) -> dict[str, int | None]:
    """Pair -> which of its texts the judge prefers in both orders; None, a tie, where they
    differ."""
    return {
        pair: orders[False] if orders[False] == orders[True] else None
        for (whose, pair), orders in by_pair(comparisons).items()
        if whose == judge
    }


def agreement(
    one: Mapping[str, int | None], other: Mapping[str, int | None], ties: bool
) -> Estimate | None:
    """How often two judges say the same of a pair that both judged: of all (`ties`, setup S1 of
    MT-Bench, 1/3 by chance), or of those where neither has a tie (S2, 1/2 by chance)."""
    pairs = [(one[pair], other[pair]) for pair in one.keys() & other.keys()]
    return _share([a == b for a, b in pairs if ties or (a is not None and b is not None)])


def first_position_rate(comparisons: Iterable[Comparison]) -> Estimate | None:
    """How often the first text wins, ties left out: 1/2 without bias if each pair is shown in both
    orders, or in one drawn at random."""
    return _share([c.winner == 0 for c in comparisons if c.winner is not None])


def longer_wins(comparisons: Iterable[Comparison]) -> Estimate | None:
    """How often the longer text wins, ties and equal lengths left out."""
    told = [c for c in comparisons if c.winner is not None and c.lengths[0] != c.lengths[1]]
    return _share([c.lengths[c.winner or 0] == max(c.lengths) for c in told])


def self_preference(comparisons: Iterable[Comparison], within: float = 0.0) -> Estimate | None:
    """P(own text wins) - 0.5 against texts of others whose quality is the same, or differs by
    `within` at most. A tie is half a win. Only pairs shown in both orders count, so that position
    cancels; the mean over their orders is what varies from pair to pair."""
    wins: defaultdict[tuple[str, str], dict[bool, float]] = defaultdict(dict)
    for c in comparisons:
        if c.side and abs(c.quality[0] - c.quality[1]) <= within:
            own = 0 if c.side > 0 else 1
            wins[c.judge, c.pair][c.swapped] = 0.5 if c.winner is None else c.winner == own
    means = [sum(orders.values()) / 2 for orders in wins.values() if len(orders) == 2]
    found = mean_interval(means)
    return Estimate(*(value - 0.5 for value in found)) if found else None


def _share(hits: Sequence[bool]) -> Estimate | None:
    return wilson(sum(hits), len(hits))


class Judge(NamedTuple):
    """A judge by what sways it, in logits; `noise` is how often it throws a coin instead."""

    competence: float = 0.0
    position: float = 0.0
    length: float = 0.0
    own: float = 0.0
    noise: float = 0.0

    def prefers_first(self, features_B_4: Floats) -> Floats:
        """Probability that the first text wins, given `features` of each comparison."""
        drawn = expit(features_B_4 @ np.array(self[:4]))
        return self.noise / 2 + (1 - self.noise) * drawn


class Fit(NamedTuple):
    """What sways a judge, as far as its verdicts tell."""

    competence: Estimate
    position: Estimate
    length: Estimate
    own: Estimate
    noise: Estimate


def features(comparisons: Sequence[Comparison]) -> Floats:
    """features_B_4: quality, position, log of the length ratio, side."""
    rows = [
        (c.quality[0] - c.quality[1], 1.0, math.log(c.lengths[0] / c.lengths[1]), c.side)
        for c in comparisons
    ]
    return np.array(rows, float).reshape(-1, 4)


def fit_judge(comparisons: Sequence[Comparison]) -> Fit:
    """The most likely `Judge`. A slope of which the verdicts tell nothing has no bounded interval:
    its ends are infinite."""
    told = [c for c in comparisons if c.winner is not None]
    if len({c.winner for c in told}) < 2:
        raise BadInput(f"comparisons: {len(told)} with a winner; needs wins of both positions")
    x_B_4 = features(told)
    won_B = np.array([c.winner == 0 for c in told])

    def loss(values: Floats) -> tuple[float, Floats]:
        p_B, slopes_B_5 = _likelihood(values, x_B_4, won_B)
        return -float(np.log(p_B).mean()), -slopes_B_5.mean(0)

    bounds = [(-50.0, 50.0)] * 4 + [(0.0, 0.95)]
    starts = [np.array([0.0, 0.0, 0.0, 0.0, noise]) for noise in (0.02, 0.3)]
    found = [minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B") for start in starts]
    best = min(found, key=lambda result: result.fun).x
    _, slopes_B_5 = _likelihood(best, x_B_4, won_B)
    half = Z * np.sqrt(_variances(slopes_B_5, [c.pair for c in told]))
    low, high = best - half, best + half
    low[4], high[4] = max(low[4], 0.0), min(high[4], 1.0)
    return Fit(*(Estimate(*map(float, ends)) for ends in zip(best, low, high, strict=True)))


def _likelihood(values: Floats, x_B_4: Floats, won_B: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Probability of each verdict, and the slopes of its logarithm in the five parameters."""
    sign_B, noise = np.where(won_B, 1.0, -1.0), values[4]
    drawn_B = expit(sign_B * (x_B_4 @ values[:4]))
    p_B = np.maximum(noise / 2 + (1 - noise) * drawn_B, 1e-300)
    by_logit_B = (1 - noise) * drawn_B * (1 - drawn_B) * sign_B / p_B
    by_noise_B = (0.5 - drawn_B) / p_B
    return p_B, np.column_stack([by_logit_B[:, None] * x_B_4, by_noise_B])


def _variances(slopes_B_5: Floats, pairs: Sequence[str]) -> Floats:
    """Sandwich variances with pairs as clusters; the outer product of slopes stands for the
    curvature. Infinite where the verdicts tell nothing."""
    _, cluster_B = np.unique(pairs, return_inverse=True)
    sums = np.zeros((cluster_B.max() + 1, slopes_B_5.shape[1]))
    np.add.at(sums, cluster_B, slopes_B_5)
    variances = np.full(slopes_B_5.shape[1], np.inf)
    told = np.flatnonzero((slopes_B_5**2).sum(0) > 1e-9)
    inner = np.linalg.pinv(slopes_B_5[:, told].T @ slopes_B_5[:, told])
    between = sums[:, told].T @ sums[:, told]
    variances[told] = np.diag(inner @ between @ inner)
    return variances
