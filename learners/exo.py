"""EXO of pairs, efficient exact optimisation. Ji et al. 2024, arXiv 2402.00856, Eq. 16.

    loss = mean over pairs of KL(q || p) + sft * NLL(accepted)
    q = (sig(z), sig(-z)), z = beta * [h(better) - h(worse)];  p = (1 - eps, eps)

`preference.py` says what h and NLL are. eps is the row's own `flip_prob`, at least 1e-3: a doubtful
label asks for a smaller margin, and one no better than a coin for none.

Axes: B rows of a micro-batch, K = 2 replies of a row, the better first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from superalign.store.records import Row

from . import losses
from .config import ExoConfig
from .learner import Batch, Progress
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: ExoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` rows, and `sft` rows beside them, into `out`."""

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.exo_pref(config.beta * gap(h_B_K), part.flip_prob_B)

    def start(part: Batch) -> Tensor:
        """q is uniform: -log 2 - mean log p."""
        eps_B = part.flip_prob_B.clamp(losses.EPS_FLOOR, 1 - losses.EPS_FLOOR)
        return -math.log(2) - (eps_B * (1 - eps_B)).log() / 2

    return learn_preferences(base, rows, config, out, progress, loss, start)
