"""Labels of people and of judges together: whom to believe how far, and whom to ask.

    weights             w = (1 - 2 e)^2 for a judgement that is wrong with probability e: what a
                        label that is flipped so often tells, against one that never is
    prediction_powered  a mean over many items by a judge, put right by the few that people judged:
                        mean(f) + mean(h - f), f by the judge and h by people (Angelopoulos et al.
                        2023, arXiv 2301.09633)
    escalate            the judge where it passes a threshold of `selective`, else a person while
                        the budget lasts, else nobody
    route               people where their label is predicted to be worth most (Miranda et al. 2024,
                        hybrid preferences, arXiv 2410.19133)

Error rates come from audits: `measure_flips` for critics, `Threshold.error` above a threshold,
`Truth.flip_prob` of `dawid_skene` for several judges. What people see first and what is audited is
chosen by scenarios/choosing.py.

Axes: I items, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from superalign.store.errors import BadInput

from .estimates import Estimate, Z
from .rows import Judgement
from .selective import Threshold

PENALTIES = np.logspace(-2, 4, 13)
"""Ridge penalties that are tried on what people have labelled already."""


def weights(judgements: Sequence[Judgement]) -> NDArray[np.float64]:
    """How much each judgement counts in a batch, 1 on average. All alike where none tells
    anything."""
    error_I = np.array([judged.error for judged in judgements], float)
    if (error_I > 0.5).any():
        worst = judgements[int(error_I.argmax())]
        raise BadInput(
            f"error of {worst.judge} on {worst.turn}: {worst.error:g}; a judgement that is mostly "
            "wrong says the opposite: turn it round, or leave it out"
        )
    weight_I = (1 - 2 * error_I) ** 2
    return weight_I / weight_I.mean() if weight_I.any() else np.ones_like(weight_I)


def prediction_powered(
    judged: ArrayLike, both_judged: ArrayLike, both_human: ArrayLike, tuned: bool = False
) -> Estimate:
    """The mean of what people would say, with its 95% interval.

    `judged` are the judge's values of the N items that it alone judged; the others are the judge's
    and people's values of the same n items, drawn evenly. The variance is var(f)/N + var(h - f)/n,
    which exceeds people's own where the judge is bad. `tuned` therefore takes lambda f for f, with
    lambda = cov(f, h) / (var(f) (1 + n/N)), within 0 and 1: a useless judge then counts for nothing
    (Angelopoulos et al. 2023, PPI++, arXiv 2311.01453).
    """
    f, known, human = (np.asarray(a, float) for a in (judged, both_judged, both_human))
    if known.shape != human.shape or min(f.size, human.size) < 2:
        raise BadInput(
            f"values: {f.size} judged, {known.size} and {human.size} of both; needs two or more, "
            "and one of each for every item that both judged"
        )
    if tuned:
        spread = np.concatenate([f, known]).var(ddof=1) * (1 + known.size / f.size)
        share = np.cov(known, human)[0, 1] / spread if spread else 0.0
        f, known = f * np.clip(share, 0, 1), known * np.clip(share, 0, 1)
    off = human - known
    value = float(f.mean() + off.mean())
    half = Z * math.sqrt(f.var(ddof=1) / f.size + off.var(ddof=1) / off.size)
    return Estimate(value, value - half, value + half)


class Escalated(NamedTuple):
    """Judgements by what becomes of them."""

    trusted: list[Judgement]
    """To be believed, with the error rate that their threshold stands for."""
    asked: list[Judgement]
    """A person is to say, the least sure first."""
    dropped: list[Judgement]
    """There is no budget left: no row is made."""


def escalate(
    judgements: Sequence[Judgement],
    confidence_I: Sequence[float],
    threshold: Threshold | None,
    budget: int,
) -> Escalated:
    """Who settles what a judge said; without a threshold it is never trusted.

    A confidence that is NaN, which was not told, is the least.
    """
    if len(judgements) != len(confidence_I):
        raise BadInput(
            f"confidence_I: {len(confidence_I)} for {len(judgements)} judgements; give one of each"
        )
    told = [-math.inf if math.isnan(c) else c for c in confidence_I]
    least = threshold.confidence if threshold else math.inf
    trusted = [
        judged.model_copy(update={"error": threshold.error})
        for judged, c in zip(judgements, told, strict=True)
        if threshold and c >= least
    ]
    doubted = [(c, judged) for judged, c in zip(judgements, told, strict=True) if c < least]
    ranked = [judged for _, judged in sorted(doubted, key=lambda pair: pair[0])]
    return Escalated(trusted, ranked[:budget], ranked[budget:])


def route(
    known_I_F: ArrayLike, gain_I: ArrayLike, candidates_I_F: ArrayLike, budget: int
) -> NDArray[np.int_]:
    """Which candidates a person is to label, the most valuable first, `budget` of them at most.

    `gain_I` is what a person's label was worth on items known already: 1 where it contradicted the
    judge and 0 where not, or that times the rows it changed. Ridge regression on the features
    predicts it; ties come in the order given.
    """
    known_I_F, gain_I = np.asarray(known_I_F, float), np.asarray(gain_I, float)
    candidates_I_F = np.asarray(candidates_I_F, float)
    shapes = known_I_F.ndim, candidates_I_F.ndim, gain_I.ndim
    if shapes != (2, 2, 1) or len(known_I_F) != len(gain_I) or len(gain_I) < 2:
        raise BadInput(
            f"known {known_I_F.shape}, gain {gain_I.shape}, candidates {candidates_I_F.shape}: "
            "needs items x features, and a gain for each of two known items or more"
        )
    if not len(candidates_I_F):
        return np.zeros(0, int)
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(known_I_F, gain_I)
    predicted_I = np.asarray(model.predict(candidates_I_F))
    return np.argsort(-predicted_I, kind="stable")[:budget]
