"""Estimates with their intervals. Pure functions of counts; every interval is a 95% one.

    wilson              a proportion: the Wilson score interval (Wilson 1927)
    Paired              a change on the same items: the percentile bootstrap over items
    Confusion           precision, recall, MCC
    distinct_share      how much samples differ
    krippendorff_alpha  how far people agree

Nothing is estimated from no data: that is None, which is not zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054
"""The 97.5% point of the standard normal distribution."""

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A value and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def ci(self) -> list[float]:
        return [self.low, self.high]


def wilson(hits: int, n: int) -> Estimate | None:
    """The proportion `hits / n` with its Wilson score interval; None when n is 0.

    It stays within [0, 1] and keeps a width where hits are 0 or n, unlike the usual one.
    """
    if n == 0:
        return None
    share, square = hits / n, Z * Z / n
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return Estimate(share, middle - half if hits else 0.0, middle + half if hits < n else 1.0)


class Paired(NamedTuple):
    """The same items, right or wrong, before and after."""

    kept: int
    """Right both times."""
    gained: int
    """Wrong before, right after."""
    lost: int
    """Right before, wrong after."""
    missed: int
    """Wrong both times."""

    @classmethod
    def of(cls, before: Mapping[str, bool], after: Mapping[str, bool]) -> Paired:
        """Count the items that both have."""
        pairs = Counter((before[item], right) for item, right in after.items() if item in before)
        return cls(pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False])

    @property
    def n(self) -> int:
        return sum(self)

    def difference(self, seed: int = 0) -> Estimate | None:
        """How much the share of right items has changed; None without items.

        Drawing n items with replacement gives multinomial counts of the four outcomes, so the
        bootstrap draws those: the same distribution as drawing items, at no cost. Where no item
        has changed it cannot see that one might have, and the interval has no width.
        """
        if self.n == 0:
            return None
        shares = np.array(self) / self.n
        drawn = np.random.default_rng(seed).multinomial(self.n, shares, size=RESAMPLES)
        low, high = np.quantile((drawn[:, 1] - drawn[:, 2]) / self.n, (0.025, 0.975))
        return Estimate((self.gained - self.lost) / self.n, float(low), float(high))


class Confusion(NamedTuple):
    """How often a judge said yes or no, and was right or wrong."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, cases: Counter[tuple[bool, bool]]) -> Confusion:
        """Of counts of (what was said, what is so)."""
        return cls(cases[True, True], cases[True, False], cases[False, True], cases[False, False])

    @property
    def precision(self) -> Estimate | None:
        """Share of what it flagged that is so; None when it flagged nothing."""
        return wilson(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> Estimate | None:
        """Share of what is so that it flagged; None when nothing is so."""
        return wilson(self.tp, self.tp + self.fn)

    @property
    def mcc(self) -> float | None:
        """Matthews correlation: 1 always right, 0 no better than chance, or a denominator of 0;
        None when nothing was judged."""
        tp, fp, fn, tn = self
        if not any(self):
            return None
        square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return (tp * tn - fp * fn) / math.sqrt(square) if square else 0.0


def distinct_share(samples: Sequence[Hashable]) -> float:
    """Distinct samples / samples, of at least one: 1 when all differ, 1/n when all are one."""
    return len(set(samples)) / len(samples)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 full agreement, 0 that of chance, below 0 less.

    Each unit holds the values that it was given, by any number of people; what somebody left out
    is left out here. Units with one value cannot be compared with anything. None when no values
    differ: there is nothing then that people could have confused.

    alpha = 1 - (n - 1) D / E   with n comparable values, D = sum over units of the ordered pairs
    of unlike values / (values of the unit - 1), and E = sum over c != k of n_c n_k.
    (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C.)
    """
    observed, values = 0.0, Counter[Hashable]()
    for unit in units:
        counts, m = Counter(unit), len(unit)
        if m > 1:
            observed += (m * m - sum(c * c for c in counts.values())) / (m - 1)
            values += counts
    n = values.total()
    expected = n * n - sum(c * c for c in values.values())
    return 1 - (n - 1) * observed / expected if expected else None
