"""cDPO, conservative DPO: labels smoothed. Mitchell 2023, a note on DPO with noisy preferences.

    loss = mean over pairs of -(1 - eps) log sig(z) - eps log sig(-z) + sft * NLL(accepted)
    z = beta * [h(better) - h(worse)]

`preference.py` says what h and NLL are. eps is the row's own `flip_prob`. z stops growing at
logit(1 - eps), as under EXO with the same eps; but a pair that is ranked very wrongly pulls with
all its weight, where EXO leaves it alone.

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
from .config import CdpoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: CdpoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` rows, and `sft` rows beside them, into `out`."""

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.cdpo(config.beta * gap(h_B_K), part.flip_prob_B)

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, math.log(2))

    return learn_preferences(base, rows, config, out, progress, loss, start)
