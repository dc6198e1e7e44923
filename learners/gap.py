"""What a verifier could teach its generator, and what self-improvement really improved.

Song et al. 2024, "Mind the gap", arXiv 2412.02674. A generator f answers item x with samples of
utility u; the verifier's filter keeps those it scores at least at a threshold: f_w.

    J_x(f) = mean u;  J_x(f_w) = mean u of the kept;  gap = E_x[J_x(f_w) - J_x(f)]
    relative gap = E_x[(J_x(f_w) - J_x(f)) / (1 - J_x(f))], without items that are solved

A threshold that is chosen on the samples on which the gap is measured makes it too large, so
`measure_gap` chooses it on one half of every item's samples and measures on the other.

The reversal panel follows Wu et al. 2024, "Progress or regress?", arXiv 2407.05013: items newly
solved and whether the first model reached them at all, the easy against the hard, and the unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from superalign.store.errors import BadInput

from .diversity import pass_at_k
from .estimates import Estimate, change, check_shares, mean_interval, wilson


class Sample(NamedTuple):
    """One answer to an item: how good it is, and how good the verifier takes it for."""

    utility: float
    proxy: float


class Gap(NamedTuple):
    """What the filter gains, over the items of which it keeps enough."""

    gap: Estimate | None
    relative: Estimate | None
    """None where every item is solved: nothing is left to gain."""
    items: int
    solved: int
    """Items without room: left out of `relative`, not of `gap`."""
    unkept: int
    """Items of which the filter keeps too few samples: left out of both."""
    threshold: float | None = None


def gap_of(before: Sequence[float], after: Sequence[float]) -> Gap:
    """The gap of items whose J_x(f) and J_x(f_w) are known."""
    first, second = np.asarray(before, float), np.asarray(after, float)
    check_shares("before", first)
    check_shares("after", second)
    if first.shape != second.shape:
        raise BadInput(f"before {first.shape}, after {second.shape}: give the same items")
    gains, open_ = second - first, first < 1
    relative = mean_interval(gains[open_] / (1 - first[open_]))
    return Gap(mean_interval(gains), relative, len(first), int((~open_).sum()), 0)


def measure_gap(items: Sequence[Sequence[Sample]], least: int = 1, seed: int = 0) -> Gap:
    """Choose the threshold on half of every item's samples, and measure on the other half.

    An item counts where the filter keeps `least` of the samples that are measured.
    """
    if any(len(samples) < 2 for samples in items):
        raise BadInput("items: one has less than 2 samples, which cannot be halved; draw more")
    rng, chosen, measured = np.random.default_rng(seed), [], []
    for samples in items:
        order = rng.permutation(len(samples))
        half = len(samples) // 2
        chosen.append([samples[i] for i in order[:half]])
        measured.append([samples[i] for i in order[half:]])
    threshold = best_threshold(chosen, least)
    kept = [_filtered(samples, threshold, least) for samples in measured]
    pairs = [pair for pair in kept if pair is not None]
    found = gap_of([before for before, _ in pairs], [after for _, after in pairs])
    return found._replace(unkept=len(items) - len(pairs), threshold=threshold)


def best_threshold(items: Sequence[Sequence[Sample]], least: int = 1) -> float:
    """The verifier's score whose filter gains most, an item of which too little is left gaining
    nothing; of equal ones the lowest."""
    scores = sorted({sample.proxy for samples in items for sample in samples})
    if not scores:
        raise BadInput("items: there are no samples to choose a threshold on; draw some")

    def gain(threshold: float) -> float:
        kept = [_filtered(samples, threshold, least) for samples in items]
        return sum(pair[1] - pair[0] for pair in kept if pair is not None)

    return max(scores, key=gain)


def _filtered(
    samples: Sequence[Sample], threshold: float, least: int
) -> tuple[float, float] | None:
    """J_x(f) and J_x(f_w) of one item; None where less than `least` samples are kept."""
    kept = [s.utility for s in samples if s.proxy >= threshold]
    if len(kept) < max(least, 1):
        return None
    return sum(s.utility for s in samples) / len(samples), sum(kept) / len(kept)


class Improved(NamedTuple):
    """Items that the first model got wrong and the last one right."""

    solved: int
    """How many."""
    reached: Estimate | None
    """Mean over them of the first model's pass@k: what selection alone could have found."""
    acquired: int
    """Those that none of the first model's samples solved."""


def improved(
    first: Mapping[str, bool],
    last: Mapping[str, bool],
    samples: Mapping[str, Sequence[bool]],
    k: int,
) -> Improved:
    """Item -> right or wrong, of both models, and the first one's samples of each item.

    A newly solved item without samples is an error: whether it was reachable is then not known.
    """
    solved = [item for item, right in last.items() if right and first.get(item) is False]
    if missing := [item for item in solved if len(samples.get(item, ())) < k]:
        raise BadInput(
            f"samples: {len(missing)} newly solved items, such as {missing[0]!r}, have less than "
            f"{k} samples of the first model; draw them"
        )
    chances = [pass_at_k(len(samples[x]), sum(samples[x]), k) for x in solved]
    acquired = sum(not any(samples[item]) for item in solved)
    return Improved(len(solved), mean_interval(chances), acquired)


def accuracy(results: Mapping[str, bool], items: frozenset[str] | None = None) -> Estimate | None:
    """Share of right items, of all or of these: of a difficulty, or outside the training."""
    found = [right for item, right in results.items() if items is None or item in items]
    return wilson(sum(found), len(found))


def group_gap(
    results: Mapping[str, bool], easy: frozenset[str], hard: frozenset[str]
) -> Estimate | None:
    """Accuracy on the easy items less that on the hard ones; None where either holds no item.

    Name the groups beforehand: items that the first model got wrong regress to the mean by
    themselves, and would show the gap closing.
    """
    if both := easy & hard:
        raise BadInput(f"easy, hard: {len(both)} items are in both, such as {min(both)!r}")
    low, high = accuracy(results, hard), accuracy(results, easy)
    return change(low, high) if low and high else None
