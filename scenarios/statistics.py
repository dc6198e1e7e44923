"""What reports and comparisons estimate besides. Pure functions of counts; intervals are 95% ones.

    Paired              a change on the same items: the percentile bootstrap over items
    Confusion           precision, recall, MCC
    distinct_share      how much samples differ
    krippendorff_alpha  how far people agree
    sign_flip_p         a paired difference: the permutation test that flips signs
    holm                many tests at once: p-values that Holm (1979) has corrected
    matthews            how far decisions among any number of choices go with the truth
    calibration         how often what was believed came true, in bins of equal mass
    bradley_terry       strengths on Elo's scale, from who beat whom

Nothing is estimated from no data: that is None, which is not zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from superalign.learners.estimates import AT_ONCE, RESAMPLES, Estimate, Z, wilson

EXACT = 16
"""Up to so many differences, all signs are tried instead of some drawn ones."""

ELO = 400 / math.log(10)
"""Elo points to a unit of log odds: 400 points are odds of ten to one."""


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


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided p-value of "neither of the two is better", from an item's difference each.

    If so, a difference had the other sign as easily: p is the share of all choices of signs whose
    sum lies as far from 0 as the one that was seen. Exact for few items; for many, of drawn
    choices and the seen one, so that it is never 0. None without items.
    """
    if not differences:
        return None
    moved = np.array([d for d in differences if d], dtype=float)
    seen = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()  # sums of floats are equal but for this
    if len(moved) <= EXACT:
        sums = np.zeros(1)
        for difference in moved:
            sums = np.concatenate((sums + difference, sums - difference))
        return float((np.abs(sums) >= seen).mean())
    rng, size, far = np.random.default_rng(seed), max(1, AT_ONCE // len(moved)), 1
    for start in range(0, RESAMPLES, size):
        signs = rng.integers(0, 2, (min(size, RESAMPLES - start), len(moved)), dtype=np.int8)
        far += int((np.abs((2.0 * signs - 1) @ moved) >= seen).sum())
    return far / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value as it counts among all: that any true null falls below q has chance <= q.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below
    a smaller one's, and none rises above 1.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = least
    return corrected


def matthews(cases: Mapping[tuple[Any, Any], int]) -> float | None:
    """Correlation of (what was decided, what is so), of any number of classes.

    R_K of Gorodkin 2004; of two classes it is `Confusion.mcc`. 0 where either is always the same.
    """
    total = sum(cases.values())
    if not total:
        return None
    hits = sum(n for (said, so), n in cases.items() if said == so)
    said, so = Counter[Hashable](), Counter[Hashable]()
    for (decided, true), n in cases.items():
        said[decided] += n
        so[true] += n
    together = sum(n * so[name] for name, n in said.items())
    spread = [total**2 - sum(n * n for n in counts.values()) for counts in (said, so)]
    square = spread[0] * spread[1]
    return (hits * total - together) / math.sqrt(square) if square else 0.0


class Bin(NamedTuple):
    """Beliefs of about the same strength."""

    n: int
    believed: float
    """Their mean."""
    came_true: float
    """The share of them that did."""


def calibration(beliefs: Sequence[tuple[float, bool]], bins: int = 10) -> list[Bin]:
    """(probability given, whether it came true), in at most so many bins of equal mass.

    Equal probabilities share a bin, so that the order of the beliefs does not matter.
    """
    first: dict[float, int] = {}
    for rank, (given, _) in enumerate(sorted(beliefs)):
        first.setdefault(given, rank)
    held: dict[int, list[tuple[float, bool]]] = {}
    for given, right in sorted(beliefs):
        held.setdefault(first[given] * bins // len(beliefs), []).append((given, right))
    return [
        Bin(len(b), sum(given for given, _ in b) / len(b), sum(right for _, right in b) / len(b))
        for b in held.values()
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """ECE: the mean distance of belief and share over bins, each weighed by its beliefs."""
    n = sum(b.n for b in bins)
    return sum(b.n * abs(b.believed - b.came_true) for b in bins) / n if n else None


def bradley_terry(wins: Mapping[tuple[str, str], float]) -> dict[str, Estimate] | None:
    """(winner, loser) -> how often, to each player's strength in Elo points, of mean 0.

    The maximum of the likelihood with P(a beats b) = 1 / (1 + 10^((b - a) / 400)), by Newton's
    method; intervals by the information there. None where no finite strengths fit best: when some
    players never lost to, or never met, the others (Ford 1957).
    """
    names = sorted({name for pair in wins for name in pair})
    graph = nx.DiGraph([pair for pair, n in wins.items() if n > 0])
    if len(names) < 2 or len(graph) < len(names) or not nx.is_strongly_connected(graph):
        return None
    won = np.array([[wins.get((a, b), 0.0) for b in names] for a in names])
    met, strength, cov = won + won.T, np.zeros(len(names)), np.zeros_like(won)
    for _ in range(1000):
        expected = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        slope = (won - met * expected).sum(axis=1)
        weight = met * expected * (1 - expected)
        cov = np.linalg.pinv(np.diag(weight.sum(axis=1)) - weight, hermitian=True)
        step = cov @ slope
        strength += step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-12:
            break
    half = Z * ELO * np.sqrt(np.diag(cov))
    points = ELO * (strength - strength.mean())
    return {
        name: Estimate(float(at), float(at - width), float(at + width))
        for name, at, width in zip(names, points, half, strict=True)
    }
