"""Numbers with their 95% intervals. Pure functions of counts and values.

    wilson          a proportion: the Wilson score interval (Wilson 1927)
    mean_interval   a mean over items: the percentile bootstrap over items
    of_table        any number of a table of counts: the posterior's interval
    change          after less before, of two numbers that were measured apart: each one's own
                    interval is carried over (Zou and Donner 2008; of two shares it is Newcombe's
                    method 10)
    widened         an interval among several

Nothing is estimated from no data: that is None, which is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from superalign.store.errors import BadInput

Z = NormalDist().inv_cdf(0.975)
"""The 97.5% point of the standard normal distribution."""

RESAMPLES = 10_000

AT_ONCE = 2_000_000
"""Numbers that a resampling holds in memory at a time."""

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def ci(self) -> list[float] | None:
        """The ends; None where nothing bounds the value."""
        return [self.low, self.high] if math.isfinite(self.high - self.low) else None


def wilson(hits: int, n: int) -> Estimate | None:
    """The proportion `hits / n`; None when n is 0.

    Its interval stays within [0, 1] and keeps a width where hits are 0 or n, unlike the usual one.
    """
    if n == 0:
        return None
    share, square = hits / n, Z * Z / n
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return Estimate(share, middle - half if hits else 0.0, middle + half if hits < n else 1.0)


def mean_interval(values: Sequence[float] | NDArray[Any], seed: int = 0) -> Estimate | None:
    """A mean over items; None without items. Of one item nothing bounds it; if all are alike, the
    bootstrap cannot see that others might differ, and the interval has no width."""
    found = np.asarray(values, dtype=float)
    if not found.size:
        return None
    if found.size == 1:
        return Estimate(float(found[0]), -math.inf, math.inf)
    rng, size = np.random.default_rng(seed), max(1, AT_ONCE // found.size)
    means = [
        found[rng.integers(0, found.size, (min(size, RESAMPLES - start), found.size))].mean(axis=1)
        for start in range(0, RESAMPLES, size)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(float(found.mean()), float(low), float(high))


def of_table(counts: Sequence[int], number: Callable[[Floats], Floats], seed: int = 0) -> Estimate:
    """`number` of a table of counts; it takes shares of all, outcomes on the last axis.

    The interval is the posterior's under Jeffreys' prior, Dirichlet(1/2, ...): unlike a bootstrap
    it keeps a width where an outcome was never seen. It is widened to hold the value.
    """
    cases = np.asarray(counts, dtype=float)
    value = float(number(cases / cases.sum()))
    drawn = number(np.random.default_rng(seed).dirichlet(cases + 0.5, size=RESAMPLES))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def change(before: Estimate, after: Estimate) -> Estimate:
    """after - before, as of two samples that have nothing in common."""
    (b, b_low, b_high), (a, a_low, a_high) = before, after
    low, high = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    return Estimate(a - b, a - b - low, a - b + high)


def widened(estimate: Estimate, times: int) -> Estimate:
    """The same for one of so many that are looked at: 95% for all of them (Bonferroni)."""
    point = NormalDist().inv_cdf
    factor = point(0.025 / times) / point(0.025)
    value, low, high = estimate
    return Estimate(value, value - factor * (value - low), value + factor * (high - value))


def check_shares(name: str, values: Floats) -> None:
    """Refuse what is no share."""
    if ((values < 0) | (values > 1) | ~np.isfinite(values)).any():
        raise BadInput(f"{name}: {values.min():g} to {values.max():g}; give shares of 0 to 1")
