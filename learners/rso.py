"""RSO, statistical rejection sampling optimisation. Liu et al. 2023, arXiv 2309.06657.

    accept y of the pool with probability exp((r(y) - r_max) / beta_r)
    loss = mean over pairs of l(beta * [h(better) - h(worse)]) + sft * NLL(accepted)
    l(z) = -log sig(z) (sigmoid-norm, which is DPO), or max(0, 1 - z) (hinge-norm)

Preference losses want pairs from the optimal policy, pi_ref exp(r / beta_r) / Z. What is accepted
of the replies that the reference gave is distributed so, as far as the pool reaches. The paper's
gamma is `beta`, its beta is `beta_r`. `preference.py` says what h and NLL are.

Axes: B rows of a micro-batch, K = 2 replies of a row, the better first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from superalign.store.errors import BadInput
from superalign.store.records import Row, digest

from . import losses
from .config import RsoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences

NORMS = {"sigmoid": (losses.dpo, math.log(2)), "hinge": (losses.hinge, 1.0)}
"""Loss of z, and its value at z = 0."""

Pair = tuple[int, int]
"""Places of the better and of the worse reply in their row."""


def learn(
    base: Path,
    rows: Sequence[Row],
    config: RsoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `rank` rows, and `sft` rows beside them, into `out`."""
    ranked = [row for row in rows if row.kind == "rank"]
    if all(len(row.replies) <= config.keep for row in ranked):
        most = max((len(row.replies) for row in ranked), default=0)
        raise BadInput(
            f"learn.keep: {config.keep}, but rows have {most} replies at most, so none would be "
            "rejected; keep fewer or draw more"
        )
    drawn = [sample_pairs(row, config) for row in ranked]
    pairs = [pair for found, _ in drawn for pair in found]
    if not pairs:
        raise BadInput(f"rank rows: {len(ranked)}, all of whose pairs tie; give finer rewards")
    accepted = [reward for _, rewards in drawn for reward in rewards]
    pool = [reward for row in ranked for reward in row.rewards or ()]
    norm, at_zero = NORMS[config.loss]

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return norm(config.beta * gap(h_B_K))

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, at_zero)

    copied = [row for row in rows if row.kind == "sft"]
    told = learn_preferences(base, [*pairs, *copied], config, out, progress, loss, start)
    return {
        **told,
        "rows": len(rows),
        "pairs": len(pairs),
        "pool_reward": sum(pool) / len(pool),
        "accepted_reward": sum(accepted) / len(accepted),
    }


def sample_pairs(row: Row, config: RsoConfig) -> tuple[list[Row], list[float]]:
    """`rank` rows of two accepted replies each, and the rewards of all that were accepted.

    They follow from the row and the seed alone, not from the rows beside it.
    """
    assert row.rewards is not None  # `rank` rows have them
    rng = np.random.default_rng(int(digest(config.seed, row.id), 16))
    kept = reject(row.rewards, config.keep, config.beta_r, rng)
    pairs = [
        row.model_copy(
            update={
                "replies": (row.replies[a], row.replies[b]),
                "rewards": (row.rewards[a], row.rewards[b]),
            }
        )
        for a, b in pair_up(kept, row.rewards, config.pairing, rng)
        if row.replies[a] != row.replies[b]
    ]
    return pairs, [row.rewards[i] for i in kept]


def acceptance(rewards: Sequence[float], beta_r: float) -> list[float]:
    """exp((r - r_max) / beta_r): the chance of each to be accepted in one pass."""
    best = max(rewards)
    return [math.exp((reward - best) / beta_r) for reward in rewards]


def reject(
    rewards: Sequence[float], keep: int, beta_r: float, rng: np.random.Generator
) -> list[int]:
    """Places of `keep` accepted replies, of all where there are no more, in order of acceptance.

    r_max is that of what is left, anew in each pass: the best of it is always accepted, so that
    there are `keep` passes at most.
    """
    pool, accepted = rng.permutation(len(rewards)).tolist(), []  # rows have the best first
    while pool and len(accepted) < keep:
        chances = acceptance([rewards[i] for i in pool], beta_r)
        passed = [i for i, p, u in zip(pool, chances, rng.random(len(pool)), strict=True) if u < p]
        accepted += passed[: keep - len(accepted)]
        pool = [i for i in pool if i not in passed]
    return accepted


def pair_up(
    places: Sequence[int],
    rewards: Sequence[float],
    pairing: Literal["first_round", "tournament"],
    rng: np.random.Generator,
) -> Iterator[Pair]:
    """Disjoint pairs in random order, and in a tournament pairs of winners, until one is left.

    Of equal rewards neither is better: no pair, and the first goes on. So does who is left over.
    """
    standing = rng.permutation(places).tolist()
    while len(standing) > 1:
        winners = standing[len(standing) // 2 * 2 :]
        for match in zip(standing[::2], standing[1::2], strict=False):
            better, worse = max(match, key=rewards.__getitem__), min(match, key=rewards.__getitem__)
            if rewards[better] > rewards[worse]:
                yield better, worse
            winners.append(better)
        if pairing == "first_round":
            return
        standing = winners
