"""What a sweep has measured: every method at equal tokens, and where all have drifted equally far.

    accuracy(method, KL)   on the straight line between the method's two points nearest to that KL,
                           of which one was trained to lie there

The KL of equal drift is the largest that every method has reached, or one that was asked for. A
method that did not get there has no such accuracy. Intervals are percentile bootstraps, after
averaging over seeds: over items, which all methods share, so that differences are paired, and of
accuracy at equal KL over the replies that measured each point's KL too. They leave out that other
seeds would have trained other policies: `by_seed` shows how far those differ.

Axes: N items, M replies, P points of a method in the order of their tokens, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from superalign.learners.estimates import mean_interval

from .exam import Taken

Floats = NDArray[np.float64]

RESAMPLES = 2000


class Point(NamedTuple):
    """One method, at one share of the tokens, with one seed."""

    method: str
    share: float
    seed: int
    steps: int
    tokens: int
    """Read with gradients."""
    taken: Taken


class Stop(NamedTuple):
    """One method at one share of the tokens, all seeds together."""

    share: float
    steps: float
    tokens: float
    right_N: Floats
    """Share of the seeds that answered each item rightly."""
    kl_M: Floats

    @property
    def kl(self) -> float:
        return float(self.kl_M.mean())


def stops_of(points: Sequence[Point], method: str) -> list[Stop]:
    """A method's points, its seeds taken together, by rising share of the tokens."""
    own = [point for point in points if point.method == method]
    found = []
    for share in sorted({point.share for point in own}):
        same = [point for point in own if point.share == share]
        found.append(
            Stop(
                share=share,
                steps=fmean(float(point.steps) for point in same),
                tokens=fmean(point.tokens for point in same),
                right_N=np.mean([point.taken.correct for point in same], axis=0),
                kl_M=np.array([kl for point in same for kl in point.taken.kl]),
            )
        )
    return found


def methods_of(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.method for point in points))


def reached_by_all(points: Sequence[Point]) -> float:
    """The largest KL that every method has reached."""
    return min(max(s.kl for s in stops_of(points, m)) for m in methods_of(points))


def expected_share(points: Sequence[Point], method: str, kl: float) -> float | None:
    """The share of the tokens at which a method should have drifted so far; None where a point
    cannot be told from being there, or where it never got there.

    Near the start the KL grows as the square of the way, so its root is taken to grow evenly.
    """
    low, start = 0.0, 0.0
    for stop in stops_of(points, method):
        ends = _estimate("kl", stop.kl_M)["kl_ci"]
        if ends and ends[0] <= kl <= ends[1]:
            return None
        if stop.kl >= kl:
            way = (sqrt(kl) - sqrt(low)) / (sqrt(stop.kl) - sqrt(low))
            return start + (stop.share - start) * way
        low, start = max(0.0, stop.kl), stop.share
    return None


def sweep_facts(before: Taken, points: Sequence[Point], kl: float) -> dict[str, Any]:
    """All that was measured. Safe as JSON."""
    base_N = np.array(before.correct, dtype=float)
    curves = {method: stops_of(points, method) for method in methods_of(points)}
    arms = []
    for method, stops in curves.items():
        for stop in stops:
            same = [p for p in points if (p.method, p.share) == (method, stop.share)]
            steps = int(stop.steps) if stop.steps.is_integer() else stop.steps
            told = {"method": method, "share": stop.share, "steps": steps}
            told |= {"tokens": round(stop.tokens)}
            told |= _estimate("accuracy", stop.right_N) | _estimate("gain", stop.right_N - base_N)
            told |= _estimate("kl", stop.kl_M)
            told |= {"by_seed": [fmean(p.taken.correct) for p in same]}
            arms.append(told)
    facts = {"items": len(base_N), "arms": arms, **_estimate("base_accuracy", base_N)}
    return facts | {"equal_kl": at_equal_kl(curves, base_N, kl)}


def _estimate(name: str, values: Floats) -> dict[str, Any]:
    found = mean_interval(values)
    assert found is not None  # an exam has items
    return {name: found.value, f"{name}_ci": found.ci}


def at_equal_kl(
    curves: Mapping[str, Sequence[Stop]], base_N: Floats, kl: float
) -> dict[str, Any] | None:
    """Every method where it has drifted so far; None where one of them has not moved at all."""
    if kl <= 0:
        return None
    there = {m: stops for m, stops in curves.items() if max(stop.kl for stop in stops) >= kl}
    rng = np.random.default_rng(0)
    n = len(base_N)
    drawn_R_N = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    counts_R_N = np.vstack([np.ones(n, dtype=int), drawn_R_N]).astype(float)
    base_R = counts_R_N @ base_N / n
    found, first_R = [], None
    for method, stops in there.items():
        accuracy_R, tokens_R = _crossing(stops, base_N, kl, counts_R_N, rng)
        told = {"method": method, "tokens": round(tokens_R[0])}
        told |= _interval("accuracy", accuracy_R) | _interval("gain", accuracy_R - base_R)
        ahead = {"ahead": None, "ahead_ci": None}
        if first_R is not None:
            ahead = _interval("ahead", accuracy_R - first_R)
        first_R = accuracy_R if first_R is None else first_R
        found.append(told | ahead)
    return {"kl": kl, "arms": found, "short": [m for m in curves if m not in there]}


def _crossing(
    stops: Sequence[Stop],
    base_N: Floats,
    kl: float,
    counts_R_N: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Accuracy and tokens where the curve first reaches a KL; row 0 is of the data as they are.

    A resample whose curve ends before that KL keeps the last point's accuracy.
    """
    n = len(base_N)
    rights_P_N = np.stack([base_N, *(stop.right_N for stop in stops)])
    accuracy_R_P = counts_R_N @ rights_P_N.T / n
    kl_R_P = np.zeros_like(accuracy_R_P)
    for i, stop in enumerate(stops, 1):
        m = len(stop.kl_M)
        drawn_R_M = rng.multinomial(m, np.full(m, 1 / m), len(counts_R_N) - 1)
        kl_R_P[:, i] = np.concatenate([[stop.kl], drawn_R_M @ stop.kl_M / m])
    reached_R_P = np.maximum.accumulate(kl_R_P, axis=1)  # by chance one may fall back
    tokens_P = np.array([0.0, *(stop.tokens for stop in stops)])
    met = [
        (np.interp(kl, reached_P, accuracy_P), np.interp(kl, reached_P, tokens_P))
        for reached_P, accuracy_P in zip(reached_R_P, accuracy_R_P, strict=True)
    ]
    accuracy_R, tokens_R = np.array(met).T
    return accuracy_R, tokens_R


def _interval(name: str, drawn_R: Floats) -> dict[str, Any]:
    """The first value, and the interval of the others."""
    low, high = np.quantile(drawn_R[1:], (0.025, 0.975))
    return {name: float(drawn_R[0]), f"{name}_ci": [float(low), float(high)]}


def as_text(facts: Mapping[str, Any]) -> str:
    """The tables of the terminal."""
    from .console import table

    kept = "method steps tokens accuracy accuracy_ci gain gain_ci kl kl_ci".split()
    parts = [
        f"{facts['run']}: rows of iteration {facts['iteration']}, seat {facts['seat']}, from "
        f"{facts['base']} (accuracy {facts['base_accuracy']:.3f}); {facts['items']} held-out "
        f"items, {facts['seeds']} seeds; intervals are 95%",
        table([{key: arm[key] for key in kept} for arm in facts["arms"]]),
    ]
    at = facts["equal_kl"]
    if at is None:
        parts.append("No KL that every method reached: one of them did not move.")
        return "\n\n".join(parts)
    title = f"At equal KL, {at['kl']:.3f} nats a reply; `ahead` of the first method:"
    parts.append(f"{title}\n{table(at['arms'])}")
    if at["short"]:
        parts.append(f"Did not get that far: {', '.join(at['short'])}")
    return "\n\n".join(parts)
