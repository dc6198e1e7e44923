"""EXO of K replies with rewards. Ji et al. 2024, arXiv 2402.00856.

    loss = mean over rows of KL(q || p) + sft * NLL(accepted)
    q = softmax(beta * h);  p = softmax(r / beta_r)

`preference.py` says what h and NLL are. It approaches pi_ref * exp(r / (beta * beta_r)), seeking a
mode where the policy cannot represent all of it.

Axes: B rows of a micro-batch, K replies of a row, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from superalign.store.records import Row

from . import losses
from .config import ExoRwConfig
from .learner import Batch, Progress
from .preference import learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: ExoRwConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `rank` rows, and `sft` rows beside them, into `out`."""

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        assert part.rewards_B_K is not None  # `rank` rows have them
        return losses.exo_rw(h_B_K, part.rewards_B_K, config.beta, config.beta_r)

    def start(part: Batch) -> Tensor:
        """q is uniform: -log K - mean log p."""
        assert part.rewards_B_K is not None  # `rank` rows have them
        log_p_B_K = F.log_softmax(part.rewards_B_K / config.beta_r, -1)
        return -math.log(log_p_B_K.shape[1]) - log_p_B_K.clamp(min=losses.LOG_P_FLOOR).mean(-1)

    return learn_preferences(base, rows, config, out, progress, loss, start)
