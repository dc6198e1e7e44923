"""DPO, direct preference optimisation. Rafailov et al. 2023, arXiv 2305.18290.

    loss = mean over pairs of -log sig(beta * [h(better) - h(worse)]) + sft * NLL(accepted)

`preference.py` says what h and NLL are. `flip_prob` is not used: this is plain DPO.

Axes: B rows of a micro-batch, K = 2 replies of a row, the better first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superalign.store.records import Row

from . import losses
from .config import DpoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: DpoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` rows, and `sft` rows beside them, into `out`."""

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.dpo(config.beta * gap(h_B_K))

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, math.log(2))

    return learn_preferences(base, rows, config, out, progress, loss, start)
