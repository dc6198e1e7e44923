"""When to trust a judge: confidence thresholds with a guarantee, over a cascade of judges.

Trust or Escalate (Jung, Brahman, Choi 2024, arXiv 2407.18370). A judge's verdict is accepted when
its confidence is at least L; L is the lowest for which the error among accepted verdicts is shown
to be at most alpha, with probability 1 - delta over the labelled items it was calibrated on:

    U(k, n) = the error rate r at which k or fewer of n verdicts are wrong with probability delta
    L       = the last, from the top down, before U(wrong, accepted) first exceeds alpha

That is fixed-sequence testing: each threshold is tested at delta in full, as nothing below the
first failure is looked at. The paper's released code differs in four ways that break the
statement. It steps past neighbours; it returns the highest threshold when even that one fails; a
judge that is left without items inherits the threshold of the one before; and each judge of a
cascade spends delta in full. Here no threshold means that nothing is accepted, and judges share
delta.

The statement holds for new items of the same kind: calibrate again when a learner has changed what
is judged. Labels that people dispute count as any others.

Axes: N prompts, I items, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from superalign.store.errors import BadInput

LEAST = 30
"""Accepted calibration items below which no threshold is looked at."""

NONE = -1
"""In place of a label or a judge: there is none."""


class Verdicts(NamedTuple):
    """What one judge says of every item, and how sure it is."""

    label_I: NDArray[np.int_]
    """NONE where it said nothing that could be read."""
    confidence_I: NDArray[np.float64]
    """NaN where it said nothing, which passes no threshold."""


class Threshold(NamedTuple):
    """Verdicts of at least this confidence may be trusted."""

    confidence: float
    error: float
    """Upper bound of their error rate: the `flip_prob` of rows made from them."""
    accepted: int
    """Calibration items behind it."""


class Decisions(NamedTuple):
    """What a cascade says of every item."""

    label_I: NDArray[np.int_]
    """NONE where it abstains: a person is to say."""
    judge_I: NDArray[np.int_]
    """Which judge decided; NONE where it abstains."""
    error_I: NDArray[np.float64]
    """Upper bound of the error rate of such decisions; NaN where it abstains."""

    @property
    def decided_I(self) -> NDArray[np.bool_]:
        return self.judge_I != NONE


def simulated_annotators(p_N_I_L: ArrayLike) -> Verdicts:
    """The verdict and confidence of a judge that was asked with N prompts, each with the examples
    of another annotator: the label of highest mean probability, and that mean.

    Probabilities that could not be read are NaN, and the mean is over the others.
    """
    p = np.asarray(p_N_I_L, float)
    if p.ndim != 3 or not np.allclose(p.sum(-1)[~np.isnan(p).any(-1)], 1):
        raise BadInput(
            f"probabilities of shape {p.shape}: needs prompts x items x labels, each summing to 1"
        )
    read_N_I_1 = ~np.isnan(p).any(-1, keepdims=True)
    read_I = read_N_I_1.sum(0)[:, 0]
    mean_I_L = np.where(read_N_I_1, p, 0).sum(0) / np.maximum(read_I, 1)[:, None]
    label_I = np.where(read_I > 0, mean_I_L.argmax(-1), NONE)
    return Verdicts(label_I, np.where(read_I > 0, mean_I_L.max(-1), np.nan))


def upper_bound(wrong: ArrayLike, n: ArrayLike, delta: float) -> NDArray[np.float64]:
    """U(k, n): the error rate is higher with probability delta at most (Clopper-Pearson)."""
    k, of = np.asarray(wrong), np.asarray(n)
    return np.where(k < of, beta.ppf(1 - delta, k + 1, np.maximum(of - k, 1)), 1.0)


def find_threshold(
    confidence_I: ArrayLike, wrong_I: ArrayLike, alpha: float, delta: float
) -> Threshold | None:
    """The lowest threshold that can be trusted, from labelled items; None if there is none.

    Candidates are the confidences seen, which is the finest of grids: the counts change nowhere
    else.
    """
    confidence_I, wrong_I = np.asarray(confidence_I, float), np.asarray(wrong_I, bool)
    _check(alpha, delta)
    if confidence_I.shape != wrong_I.shape or confidence_I.ndim != 1:
        raise BadInput(
            f"confidence {confidence_I.shape}, wrong {wrong_I.shape}: one of each an item"
        )
    order_I = np.argsort(-confidence_I)[: np.count_nonzero(~np.isnan(confidence_I))]
    down_I = confidence_I[order_I]
    last_I = np.append(down_I[1:] != down_I[:-1], True)[: len(down_I)]  # of equal confidences
    places = np.flatnonzero(last_I & (np.arange(len(down_I)) >= LEAST - 1))
    bounds = upper_bound(np.cumsum(wrong_I[order_I])[places], places + 1, delta)
    passed = int(np.cumprod(bounds <= alpha).sum())
    if not passed:
        return None
    place = places[passed - 1]
    return Threshold(float(down_I[place]), float(bounds[passed - 1]), int(place) + 1)


class Cascade(NamedTuple):
    """Judges in the order in which they are asked, the cheapest first."""

    thresholds: tuple[Threshold | None, ...]
    """None for a judge that is never trusted."""

    def decide(self, judges: Sequence[Verdicts]) -> Decisions:
        """The first judge decides whose confidence passes its threshold; else nobody does."""
        _check_judges(judges)
        if len(judges) != len(self.thresholds):
            raise BadInput(f"judges: {len(judges)}, but {len(self.thresholds)} were calibrated")
        items = len(judges[0].label_I)
        label_I, judge_I = np.full(items, NONE), np.full(items, NONE)
        error_I = np.full(items, np.nan)
        for j, (said, threshold) in enumerate(zip(judges, self.thresholds, strict=True)):
            if threshold is None:
                continue
            taken_I = (judge_I == NONE) & (said.confidence_I >= threshold.confidence)
            label_I[taken_I], judge_I[taken_I] = said.label_I[taken_I], j
            error_I[taken_I] = threshold.error
        return Decisions(label_I, judge_I, error_I)


def calibrate(
    judges: Sequence[Verdicts], truth_I: ArrayLike, alpha: float, delta: float
) -> Cascade:
    """Thresholds for judges that share delta, each from the items that those before it leave.

    With probability 1 - delta all their error rates are at most alpha, and so is the cascade's.
    """
    _check(alpha, delta)
    truth_I = np.asarray(truth_I)
    _check_judges(judges, truth_I)
    left_I, thresholds = np.ones(len(truth_I), bool), []
    for said in judges:
        wrong_I = said.label_I != truth_I
        confidence_I = said.confidence_I
        found = find_threshold(confidence_I[left_I], wrong_I[left_I], alpha, delta / len(judges))
        thresholds.append(found)
        if found:
            left_I &= ~(confidence_I >= found.confidence)
    return Cascade(tuple(thresholds))


def _check(alpha: float, delta: float) -> None:
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise BadInput(f"{name}: {value:g}; give a probability between 0 and 1")


def _check_judges(judges: Sequence[Verdicts], truth_I: NDArray[Any] | None = None) -> None:
    sizes = {array.shape for said in judges for array in said}
    if truth_I is not None:
        sizes.add(truth_I.shape)
    if not judges or len(sizes) != 1 or len(*sizes) != 1:
        raise BadInput(f"judges: arrays of {sorted(sizes)}; needs some judges, all of one length")
