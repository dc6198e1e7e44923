"""rDPO, robust DPO: unbiased under flipped labels. Chowdhury et al. 2024, arXiv 2403.00409.

    loss = mean over pairs of [(1 - eps) dpo(z) - eps dpo(-z)] / (1 - 2 eps) + sft * NLL(accepted)
    dpo(z) = -log sig(z), z = beta * [h(better) - h(worse)]

`preference.py` says what h and NLL are. eps is the row's own `flip_prob`: over flips that are as
likely as that, the loss is DPO's of the clean labels. It pays for that with variance, which grows
as 1 / (1 - 2 eps)^2, and with a loss that falls for ever as z grows: stop early, watch `margin`.

Axes: B rows of a micro-batch, K = 2 replies of a row, the better first.
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
from .config import RdpoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: RdpoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` rows, and `sft` rows beside them, into `out`."""
    for row in rows:
        if row.kind == "pref" and row.flip_prob >= 0.5:
            raise BadInput(
                f"row of {', '.join(row.turns)}: flip_prob is {row.flip_prob:g}, and rdpo learns "
                "nothing from labels that are flipped half the time or more; leave the row out, "
                "audit its judge, or learn with exo or cdpo"
            )

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.rdpo(config.beta * gap(h_B_K), part.flip_prob_B)

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, math.log(2))

    return learn_preferences(base, rows, config, out, progress, loss, start)
