"""Win rates from judges that err: corrected by how often they agree with people, with intervals.

Bayesian calibration of win rates (Gao et al. 2024, arXiv 2411.04424). For A against B, with p how
often people prefer A, q0 = P(judge says A | people say A), q1 = P(judge says B | people say B) and
k how often the judge says A:

    k = p q0 + (1 - p) (1 - q1),  so  p = (k + q1 - 1) / (q0 + q1 - 1)

BWRS draws k, q0 and q1 from their Beta posteriors, works p out, and leaves out draws that cannot
be: p outside [0, 1], or q0 + q1 at most 1, a judge that is no better than a coin.

q0 and q1 must hold for the pairs that are judged: measured on other pairs of models, or on easier
questions, they mislead. Ties of people or judges are to be left out before counting.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from superalign.store.errors import BadInput

FEWEST = 100
"""Possible draws below which nothing is told of p: the counts then contradict the model."""


class Audit(NamedTuple):
    """What a judge said of pairs of which people said which is better."""

    a: int
    """Pairs in which people prefer A."""
    a_agreed: int
    """Those of them in which the judge does, too."""
    b: int
    """Pairs in which people prefer B."""
    b_agreed: int


class WinRate(NamedTuple):
    """How often people prefer A, as far as a judge can tell."""

    mean: float
    mode: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    possible: float
    """Share of the draws that can be: when small, the audit does not fit what the judge says."""


def point_estimate(k: float, q0: float, q1: float) -> float:
    """p for exactly known rates. Outside [0, 1] when they contradict each other."""
    if q0 + q1 <= 1:
        raise BadInput(
            f"q0 + q1: {q0 + q1:g}; a judge that is no better than a coin tells no win rate: "
            "audit more pairs or take another judge"
        )
    return (k + q1 - 1) / (q0 + q1 - 1)


def bwrs(said_a: int, judged: int, audit: Audit, draws: int = 10_000, seed: int = 0) -> WinRate:
    """Bayesian win-rate sampling: the judge said A in `said_a` of `judged` pairs that nobody else
    labelled. All Beta priors are uniform."""
    for hits, of, name in (
        (said_a, judged, "said_a"),
        (audit.a_agreed, audit.a, "a_agreed"),
        (audit.b_agreed, audit.b, "b_agreed"),
    ):
        if not 0 <= hits <= of:
            raise BadInput(f"{name}: {hits} of {of}; count hits among the pairs they are of")
    rng = np.random.default_rng(seed)
    k = rng.beta(said_a + 1, judged - said_a + 1, draws)
    q0 = rng.beta(audit.a_agreed + 1, audit.a - audit.a_agreed + 1, draws)
    q1 = rng.beta(audit.b_agreed + 1, audit.b - audit.b_agreed + 1, draws)
    with np.errstate(divide="ignore"):
        p = (k + q1 - 1) / (q0 + q1 - 1)
    p = p[(q0 + q1 > 1) & (p >= 0) & (p <= 1)]
    if len(p) < FEWEST:
        raise BadInput(
            f"audit: {len(p)} of {draws} draws give a win rate within 0 and 1; the judge is no "
            "better than a coin, or the audited pairs are not like the judged ones"
        )
    low, high = np.quantile(p, (0.025, 0.975))
    counts, edges = np.histogram(p, bins="auto")
    peak = int(counts.argmax())
    mode = (edges[peak] + edges[peak + 1]) / 2
    return WinRate(float(p.mean()), float(mode), float(low), float(high), len(p) / draws)
