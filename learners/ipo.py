"""IPO, identity preference optimisation. Azar et al. 2023, arXiv 2310.12036, Eq. 17.

    loss = mean over pairs of (D - 1 / (2 tau))^2 + sft * NLL(accepted)
    D = h(better) / |better| - h(worse) / |worse|

`preference.py` says what h and NLL are; |y| is the number of tokens of a reply. The paper writes
D of sums. Its authors' results came from means per token (TRL asked them, and does the same), and
so do ours: tau then means the same for short replies and long ones. `flip_prob` is not used.

A pair that nobody disputes drives DPO's margin up without end, whatever beta. Here it stops at
1 / (2 tau).

Axes: B rows of a micro-batch, K = 2 replies of a row, the better first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superalign.store.records import Row

from . import losses
from .config import IpoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: IpoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` rows, and `sft` rows beside them, into `out`."""

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.ipo(gap(per_token(h_B_K, part)), config.tau)

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, (1 / (2 * config.tau)) ** 2)

    return learn_preferences(base, rows, config, out, progress, loss, start, per_token)


def per_token(h_B_K: Tensor, part: Batch) -> Tensor:
    return h_B_K / part.tokens_B_K
