"""RLOO, REINFORCE leave-one-out. Ahmadian et al. 2024, arXiv 2402.14740. By TRL.

    R_i = r_i - kl * sum over tokens of (log pi - log pi_ref)
    A_i = R_i - mean of the R of the other replies to the prompt
    loss = mean over replies of -A_i * ratio of the whole reply, clipped as PPO's

The reply is one action: its tokens share an advantage, and no value head is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from superalign.store.records import Row

from .config import RlooConfig
from .groups import learn_groups
from .learner import Progress
from .scoring import Scorer


def learn(
    base: Path,
    rows: Sequence[Row],
    config: RlooConfig,
    out: Path,
    progress: Progress | None = None,
    score: Scorer | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on replies that a scorer rewards, into `out`."""

    def make(arguments: dict[str, Any], **given: Any) -> RLOOTrainer:
        return RLOOTrainer(args=RLOOConfig(**arguments), **given)

    return learn_groups(base, rows, config, out, progress, score, make)
