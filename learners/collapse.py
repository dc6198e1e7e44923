"""Models that learn from models: what is lost, generation after generation.

Shumailov et al. 2023, "The curse of recursion", arXiv 2305.17493; Alemohammad et al. 2023, "Self-
consuming generative models go MAD", arXiv 2307.01850; Briesch et al. 2023, arXiv 2311.16822.

    gaussian_generations   a Gaussian fitted anew to M samples of the one before
    shrinking              E[log sigma^2] per generation: psi((M-1)/2) - log((M-1)/2), below 0
    wasserstein2           distance of samples on a line from those of generation 0
    tail_mass              share that is left below generation 0's 5th percentile
    precision_recall       how much of the made looks real, how much of the real is still made
    training_data          what the next generation learns from, in each data cycle
    generations            frequencies of things drawn again and again: Simpson's diversity
                           1 - sum p^2 falls by 1 - 1/M each time, in expectation, when nothing is
                           kept

M is the number of samples that a generation learns from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import digamma

from superalign.store.errors import BadInput

from .estimates import Floats

Cycle = Literal["full", "balanced", "incremental", "expanding", "fresh"]
"""What the next generation learns from. full: the last one's samples; balanced: equal parts of all
so far; incremental: the originals and the last one's; expanding: all there ever was; fresh: the
last one's and as many new originals. Originals are generation 0."""


def gaussian_generations(
    samples: int, generations: int, chains: int = 1, bias: float = 1.0, seed: int = 0
) -> tuple[Floats, Floats]:
    """Means and variances of `chains` by generation, from N(0, 1), estimated without bias.

    `bias` below 1 is the sampling bias of MAD: samples are drawn with the variance times bias.
    """
    if samples < 2 or not 0 < bias <= 1:
        raise BadInput(f"samples: {samples}, bias: {bias:g}; a variance takes 2 samples, a bias >0")
    rng = np.random.default_rng(seed)
    means, variances = np.zeros((chains, generations + 1)), np.ones((chains, generations + 1))
    for t in range(generations):
        spread = np.sqrt(bias * variances[:, t, None])
        drawn = means[:, t, None] + spread * rng.standard_normal((chains, samples))
        means[:, t + 1], variances[:, t + 1] = drawn.mean(1), drawn.var(1, ddof=1)
    return means, variances


def shrinking(samples: int, bias: float = 1.0) -> float:
    """Expected change of log variance in one generation of `gaussian_generations`."""
    half = (samples - 1) / 2
    return float(digamma(half) - np.log(half) + np.log(bias))


def wasserstein2(a: Floats, b: Floats) -> float:
    """Wasserstein-2 distance of two samples on a line: the quantile functions' L2 distance."""
    a, b = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    if not a.size or not b.size:
        raise BadInput("wasserstein2: a sample is empty; draw some")
    ends = np.unique(np.concatenate([np.arange(1, x.size + 1) / x.size for x in (a, b)]))
    middle = ends - np.diff(ends, prepend=0.0) / 2  # no step of either function lies there
    places = [np.minimum((middle * x.size).astype(int), x.size - 1) for x in (a, b)]
    gaps = a[places[0]] - b[places[1]]
    return float(np.sqrt((np.diff(ends, prepend=0.0) * gaps**2).sum()))


def tail_mass(samples: Floats, originals: Floats, level: float = 0.05) -> float:
    """Share of samples below the originals' quantile `level`: `level` itself when nothing is lost.

    0 is a lost tail. Look at both: turn the signs of both arguments for the upper one.
    """
    return float((np.asarray(samples) < np.quantile(originals, level)).mean())


def precision_recall(real: Floats, made: Floats, k: int = 3) -> tuple[float, float]:
    """Share of the made within the real ones' manifold, and of the real within the made ones'.

    Rows are points, such as embeddings. A manifold is the union of balls around its points that
    reach to each one's k-th neighbour. Kynkaanniemi et al. 2019, arXiv 1904.06991.
    """
    if min(len(real), len(made)) <= k:
        raise BadInput(f"k: {k}, but there are {len(real)} real and {len(made)} made points; more")

    def within(points: Floats, manifold: Floats) -> float:
        radius = np.partition(cdist(manifold, manifold), k, axis=1)[:, k]  # itself comes before
        return float((cdist(points, manifold) <= radius).any(axis=1).mean())

    return within(made, real), within(real, made)


def training_data(
    cycle: Cycle, history: Sequence[NDArray[np.int_]], rng: np.random.Generator
) -> NDArray[np.int_]:
    """What the next generation learns from; `history` is the originals, then each one's samples."""
    first, last = history[0], history[-1]
    if len(history) == 1:
        return first
    if cycle == "full":
        return last
    if cycle == "balanced":
        sizes = [len(part) for part in np.array_split(np.arange(len(last)), len(history))]
        parts = zip(history, sizes, strict=True)
        return np.concatenate([rng.choice(part, size, replace=False) for part, size in parts])
    return np.concatenate(history if cycle == "expanding" else [first, last])


def generations(cycle: Cycle, originals: Floats, samples: int, count: int, seed: int = 0) -> Floats:
    """Frequencies of K things by generation: each is the shares of what the one before handed on.

    `originals` are the true frequencies; a model learns shares perfectly and draws `samples`.
    """
    originals = np.asarray(originals, float)
    if originals.ndim != 1 or (originals < 0).any() or not np.isclose(originals.sum(), 1):
        raise BadInput(f"originals: sum to {originals.sum():g}; give frequencies that sum to 1")
    rng, kinds = np.random.default_rng(seed), len(originals)

    def draw(p: Floats) -> NDArray[np.int_]:
        return rng.choice(kinds, samples, p=p)

    history, found = [draw(originals)], [originals]
    for _ in range(count):
        if cycle == "fresh":
            history[0] = draw(originals)
        data = training_data(cycle, history, rng)
        found.append(np.bincount(data, minlength=kinds) / len(data))
        history.append(draw(found[-1]))
    return np.array(found)


def simpson(frequencies: Floats) -> Floats:
    """1 - sum p^2 over the last axis: the chance that two draws differ."""
    return 1 - (np.asarray(frequencies, float) ** 2).sum(-1)
