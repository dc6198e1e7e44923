"""Self-rewarding language models. Yuan et al. 2024, arXiv 2401.10020.

    loss = mean over rows of -log sig(beta * [h(best) - h(worst)]) + sft * NLL(accepted)

DPO of the reply to which the policy itself, as a judge, gave the highest reward against the one of
the lowest. Rows whose rewards all tie say nothing and are left out. `sft` rows are the seed: what
people wrote, copied beside the pairs. `preference.py` says what h and NLL are.

Axes: B rows of a micro-batch, K = 2 replies of a row, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superalign.store.errors import BadInput
from superalign.store.records import Row

from . import losses
from .config import SelfRewardingConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences
from .rows import best_first


def learn(
    base: Path,
    rows: Sequence[Row],
    config: SelfRewardingConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `rank` rows, and `sft` rows beside them, into `out`."""
    ranked = [row for row in rows if row.kind == "rank"]
    pairs = [pair for row in ranked if (pair := extremes(row))]
    if not pairs:
        raise BadInput(
            f"rank rows: {len(ranked)}, in none of which rewards differ; draw more replies, or "
            "judge each several times and take the mean"
        )
    seeds = [row for row in rows if row.kind == "sft"]

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.dpo(config.beta * gap(h_B_K))

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, math.log(2))

    told = learn_preferences(base, [*pairs, *seeds], config, out, progress, loss, start)
    return {**told, "rows": len(rows), **_facts(ranked, pairs)}


def extremes(row: Row) -> Row | None:
    """A `rank` row of its best and its worst reply alone; None where all rewards tie.

    Of several best the first counts, of several worst the last.
    """
    if row.source != "ai":
        raise BadInput(
            f"row of {', '.join(row.turns)}: rewards of source {row.source!r}, and self_rewarding "
            "learns from the policy's own; learn from others' by exo_rw"
        )
    replies, rewards = best_first(row)
    assert rewards is not None  # `rank` rows have them
    if rewards[0] == rewards[-1]:
        return None
    ends = {"replies": (replies[0], replies[-1]), "rewards": (rewards[0], rewards[-1])}
    return row.model_copy(update=ends)


def _facts(ranked: Sequence[Row], pairs: Sequence[Row]) -> dict[str, float]:
    """What to watch from iteration to iteration: scores that saturate, and replies that grow."""
    gaps = [rewards[0] - rewards[1] for pair in pairs if (rewards := pair.rewards)]
    best, worst = (sum(len(pair.replies[k]) for pair in pairs) / len(pairs) for k in (0, 1))
    return {
        "pairs": len(pairs),
        "ties": len(ranked) - len(pairs),
        "reward_gap": sum(gaps) / len(gaps),
        "best_chars": best,
        "worst_chars": worst,
    }
