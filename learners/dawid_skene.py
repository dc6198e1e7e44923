"""Who is right when judges disagree: true labels and every judge's errors, found together.

Dawid and Skene 1979 (Applied Statistics 28:20-28), and its Bayesian form as in Gao et al. 2024
(arXiv 2411.04424). An item has a true label t, drawn from the shares s; judge j says l with
probability C[j, t, l], its confusion matrix, independently of the others:

    P(t | what is said) is proportional to s[t] times the product over judges of C[j, t, said_j]

    maximise    expectation-maximisation: the most likely s and C (the mode under the priors)
    sample      Gibbs sampling: labels given s and C, then these given labels; means and intervals

Priors are Dirichlet: uniform for s, and for each row of C one count for every label and AGREE more
for the true one, without which labels could change their names. Labels that people gave may be
`known`. Judges that make the same mistakes on the same items break the independence, and are then
believed too much.

Axes: I items, J judges, T true labels, L labels as said (as many).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from superalign.store.errors import BadInput, SuperalignError

from .selective import NONE

Floats = NDArray[np.float64]
Labels = NDArray[np.int_]

AGREE = 1.0
"""Counts by which a judge is taken to agree with the truth before anything is known of it."""
SETTLED = 1e-6
MOST = 10_000
"""Steps of maximisation, each of which raises the likelihood, after which it gives up."""


class Truth(NamedTuple):
    """What is true of each item, and how each judge errs."""

    p_I_T: Floats
    """Probability of each label, given all that was said."""
    shares_T: Floats
    confusion_J_T_L: Floats
    """P(judge says L | T is true)."""

    def flip_prob(self, said_I_J: ArrayLike) -> Floats:
        """Probability that each judgement is wrong: the `flip_prob` of a row made from it. NaN
        where nothing was said."""
        said = np.asarray(said_I_J)
        right = np.take_along_axis(self.p_I_T, np.maximum(said, 0), axis=1)
        return np.where(said == NONE, np.nan, 1 - right)


class Sampled(NamedTuple):
    """Means over draws from the posterior, and the ends of 95% intervals."""

    mean: Truth
    shares_ci: Floats
    """Lower and upper ends, one row each."""
    confusion_ci: Floats
    """Lower ends of all confusion matrices, then upper ends."""


def maximise(said_I_J: ArrayLike, labels: int, known_I: ArrayLike | None = None) -> Truth:
    """The most likely shares and confusion matrices, starting from how many judges say what.

    Labels are 0 to `labels` - 1; NONE where a judge says nothing or nothing is known. Ends when no
    probability of an item moves by SETTLED.
    """
    heard_J_I_L, known_I_T = _read(said_I_J, labels, known_I)
    p_I_T = heard_J_I_L.sum(0) + 1 / labels
    p_I_T = _settle(p_I_T / p_I_T.sum(1, keepdims=True), known_I_T)
    for _ in range(MOST):
        shares_T = p_I_T.mean(0)
        counts = p_I_T.T @ heard_J_I_L + AGREE * np.eye(labels)
        confusion = counts / counts.sum(-1, keepdims=True)
        new_I_T = _settle(_posterior(heard_J_I_L, shares_T, confusion), known_I_T)
        change, p_I_T = np.abs(new_I_T - p_I_T).max(), new_I_T
        if change < SETTLED:
            return Truth(p_I_T, shares_T, confusion)
    raise SuperalignError(
        f"Dawid-Skene: probabilities still move after {MOST} steps; the judges hardly agree: give "
        "some `known` labels, or take `sample`"
    )


def sample(
    said_I_J: ArrayLike,
    labels: int,
    known_I: ArrayLike | None = None,
    draws: int = 1000,
    burn: int = 200,
    seed: int = 0,
) -> Sampled:
    """Draws from the posterior, after `burn` that are thrown away, starting at the maximum."""
    heard_J_I_L, known_I_T = _read(said_I_J, labels, known_I)
    rng = np.random.default_rng(seed)
    p_I_T, shares_T, confusion = maximise(said_I_J, labels, known_I)
    kept_p, kept_shares, kept_confusion = np.zeros_like(p_I_T), [], []
    prior = 1 + AGREE * np.eye(labels)
    for draw in range(burn + draws):
        true_I = (p_I_T.cumsum(1) < rng.random((len(p_I_T), 1))).sum(1).clip(max=labels - 1)
        true_I_T = np.eye(labels)[true_I]
        shares_T = _dirichlet(1 + true_I_T.sum(0), rng)
        counts = true_I_T.T @ heard_J_I_L
        confusion = _dirichlet(prior + counts, rng)
        p_I_T = _settle(_posterior(heard_J_I_L, shares_T, confusion), known_I_T)
        if draw >= burn:
            kept_p += p_I_T / draws
            kept_shares.append(shares_T)
            kept_confusion.append(confusion)
    mean = Truth(kept_p, np.mean(kept_shares, axis=0), np.mean(kept_confusion, axis=0))
    ends = (0.025, 0.975)
    return Sampled(
        mean, np.quantile(kept_shares, ends, axis=0), np.quantile(kept_confusion, ends, axis=0)
    )


def _read(said_I_J: ArrayLike, labels: int, known_I: ArrayLike | None) -> tuple[Floats, Floats]:
    """What was said, one-hot, and what is known; all zeros where nothing was or is."""
    said = np.asarray(said_I_J)
    known = np.full(len(said), NONE) if known_I is None else np.asarray(known_I)
    if said.ndim != 2 or not said.size or known.shape != said.shape[:1]:
        raise BadInput(f"said {said.shape}, known {known.shape}: needs items x judges, and items")
    for name, values in (("said", said), ("known", known)):
        if not np.isin(values, np.arange(NONE, labels)).all():
            raise BadInput(f"{name}: labels are 0 to {labels - 1}, or {NONE} for none; renumber")
    one_hot = np.vstack([np.eye(labels), np.zeros(labels)])  # NONE is the last row
    return one_hot[said.T], one_hot[known]


def _posterior(heard_J_I_L: Floats, shares_T: Floats, confusion_J_T_L: Floats) -> Floats:
    logs_J_L_T = np.log(np.maximum(confusion_J_T_L, 1e-300)).swapaxes(1, 2)
    log_I_T = np.log(np.maximum(shares_T, 1e-300)) + (heard_J_I_L @ logs_J_L_T).sum(0)
    return np.exp(log_I_T - logsumexp(log_I_T, axis=1, keepdims=True))


def _settle(p_I_T: Floats, known_I_T: Floats) -> Floats:
    return np.where(known_I_T.any(1, keepdims=True), known_I_T, p_I_T)


def _dirichlet(counts: Floats, rng: np.random.Generator) -> Floats:
    """One draw for every row; numpy's own takes a single row."""
    gammas = rng.standard_gamma(counts)
    return gammas / gammas.sum(-1, keepdims=True)
