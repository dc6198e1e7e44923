"""How far oversight scales: Elo of overseers and of those who deceive them, and nested oversight.

Scaling laws for scalable oversight (Engels, Baek, Kantamneni, Tegmark 2025, arXiv 2504.18530). In
one game a Guard oversees a Houdini; who is how strong at it is told by who wins.

    fit_elo          wins of Guards against Houdinis -> domain Elo, with 95% intervals
    fit_shape        domain Elo against general Elo: a line, flat below, above, or both
    nested_success   overseeing G points of general Elo in n equal steps
    best_steps       the n that succeeds most often

The product over the steps takes them as independent and trust as handed on in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from superalign.store.errors import BadInput

Floats = NDArray[np.float64]
Values = Sequence[float] | NDArray[Any]
SCALE = math.log(10) / 400
"""Logits in one point of Elo."""
RIDGE = 1e-9
"""Precision, per squared point, of a pull to the mean that keeps those finite who won every game:
less than a thousandth of what one even game tells."""


def win_probability(guard: float, houdini: float) -> float:
    """How often a Guard of this Elo wins against such a Houdini."""
    return 1 / (1 + 10 ** ((houdini - guard) / 400))


class Elo(NamedTuple):
    """Ratings in the domain, their mean shifted to that of the general ones."""

    guards: Floats
    houdinis: Floats
    guards_ci: Floats
    """Lower and upper ends, one row each."""
    houdinis_ci: Floats


def fit_elo(
    wins: Sequence[Sequence[int]] | NDArray[Any],
    games: Sequence[Sequence[int]] | NDArray[Any],
    general_mean: float = 0.0,
    resamples: int = 200,
    seed: int = 0,
) -> Elo:
    """Ratings of most likelihood for `wins` of each Guard (row) in `games` against each Houdini.

    Intervals are percentiles of a parametric bootstrap: games are played again by the ratings.
    """
    won, played = np.asarray(wins, float), np.asarray(games, float)
    _check(won, played)
    rated = _maximum(won, played)
    rng, rows = np.random.default_rng(seed), won.shape[0]
    likely = 1 / (1 + np.exp(-SCALE * np.subtract.outer(rated[:rows], rated[rows:])))
    drawn = rng.binomial(played.astype(int), likely, size=(resamples, *won.shape))
    again = np.array([_maximum(sample.astype(float), played) for sample in drawn])
    ends = np.quantile(again, (0.025, 0.975), axis=0) + general_mean
    rated = rated + general_mean
    return Elo(rated[:rows], rated[rows:], ends[:, :rows], ends[:, rows:])


def _check(won: Floats, played: Floats) -> None:
    if won.shape != played.shape or won.ndim != 2:
        raise BadInput(f"wins {won.shape}, games {played.shape}: one table for both, Guards down")
    if (won < 0).any() or (won > played).any():
        raise BadInput("wins: each must lie between 0 and the games of its cell")
    if not (played.any(axis=0).all() and played.any(axis=1).all()):
        raise BadInput("games: somebody played none, and cannot be rated; leave them out")


def _maximum(won: Floats, played: Floats) -> Floats:
    """Ratings of most likelihood with mean 0, Guards first: Newton's method on a concave sum."""
    rows, columns = won.shape
    rated = np.zeros(rows + columns)
    for _ in range(100):
        likely = 1 / (1 + np.exp(-SCALE * np.subtract.outer(rated[:rows], rated[rows:])))
        missed, weight = SCALE * (won - played * likely), SCALE**2 * played * likely * (1 - likely)
        slope = np.concatenate([missed.sum(1), -missed.sum(0)]) - RIDGE * rated
        curve = np.diag(np.concatenate([weight.sum(1), weight.sum(0)]) + RIDGE)
        curve[:rows, rows:] -= weight
        curve[rows:, :rows] -= weight.T
        step = np.linalg.solve(curve, slope)
        rated = rated + np.clip(step, -400, 400)
        if np.abs(step).max() < 1e-9:
            break
    return rated - rated.mean()


class Shape(NamedTuple):
    """domain Elo = slope * clip(general Elo, low, high) + intercept."""

    name: str
    slope: float
    intercept: float
    low: float
    high: float
    aic: float
    """n ln(weighted squares / n) + 2 parameters: lower is better."""

    def __call__(self, general: float) -> float:
        return self.slope * min(max(general, self.low), self.high) + self.intercept


def fit_shape(
    general: Values, domain: Values, half_widths: Values | None = None
) -> tuple[Shape, ...]:
    """The four shapes, lowest AIC first; `both` is the paper's double ReLU.

    Residuals weigh 1 / half-width of their interval. For given bends a shape is a straight line in
    the clipped Elo, which has a closed form, so bends are searched on a grid, finer and finer.
    """
    x, y = np.asarray(general, float), np.asarray(domain, float)
    weight = 1 / np.asarray(half_widths, float) if half_widths is not None else np.ones_like(x)
    if len(x) < 5 or len(x) != len(y) or len(x) != len(weight) or np.ptp(x) == 0:
        raise BadInput("general, domain: needs five points or more, as many of each, not all alike")
    free = {"linear": (False, False), "upper": (False, True), "lower": (True, False)}
    found = [
        _bent(name, low, high, x, y, weight)
        for name, (low, high) in {**free, "both": (1, 1)}.items()
    ]
    return tuple(sorted(found, key=lambda shape: shape.aic))


def _bent(name: str, has_low: Any, has_high: Any, x: Floats, y: Floats, weight: Floats) -> Shape:
    start, end = float(x.min()), float(x.max())
    lows, highs = np.array([-math.inf]), np.array([math.inf])
    width, best = (end - start) / 2, (math.inf, 0.0, 0.0, -math.inf, math.inf)
    middle = [(start + end) / 2] * 2
    for _ in range(12 if has_low or has_high else 1):
        if has_low:
            lows = np.clip(np.linspace(middle[0] - width, middle[0] + width, 41), start, end)
        if has_high:
            highs = np.clip(np.linspace(middle[1] - width, middle[1] + width, 41), start, end)
        best = min([best, *(_line(lo, hi, x, y, weight) for lo in lows for hi in highs if lo < hi)])
        middle, width = [best[3], best[4]], width / 4
    squares, slope, intercept, low, high = best
    n, parameters = len(x), 2 + bool(has_low) + bool(has_high)
    aic = n * math.log(max(squares, 1e-300) / n) + 2 * parameters
    return Shape(name, slope, intercept, float(low), float(high), aic)


def _line(
    low: float, high: float, x: Floats, y: Floats, weight: Floats
) -> tuple[float, float, float, float, float]:
    """Weighted squares that are left, slope and intercept, for these bends."""
    clipped, square = np.clip(x, low, high), weight**2
    total = square.sum()
    mx, my = (square * clipped).sum() / total, (square * y).sum() / total
    spread = (square * (clipped - mx) ** 2).sum()
    slope = (square * (clipped - mx) * (y - my)).sum() / spread if spread > 0 else 0.0
    left = (square * (y - my - slope * (clipped - mx)) ** 2).sum()
    return float(left), float(slope), float(my - slope * mx), float(low), float(high)


Rating = Callable[[float], float]
"""General Elo -> Elo in the domain: a Shape, or any other curve."""


def nested_success(guard: Rating, houdini: Rating, gap: float, steps: int) -> float:
    """How often n equal steps from general Elo 0 to `gap` all succeed.

    In step i a Guard of the strength that was trusted last oversees a Houdini one step above it.
    """
    at = [gap * i / steps for i in range(steps + 1)]
    chances = (win_probability(guard(below), houdini(above)) for below, above in pairwise(at))
    return math.prod(chances)


def best_steps(guard: Rating, houdini: Rating, gap: float, most: int = 100) -> tuple[int, float]:
    """The number of steps, up to `most`, that succeeds most often, and how often it does."""
    chances = [nested_success(guard, houdini, gap, n) for n in range(1, most + 1)]
    best = max(range(most), key=chances.__getitem__)
    return best + 1, chances[best]
