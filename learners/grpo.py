"""GRPO, group relative policy optimisation. Shao et al. 2024, arXiv 2402.03300, Eq. 3. By TRL.

    A_i = (r_i - mean(r)) / std(r) over the replies to one prompt, the same at every token
    loss = mean over replies of mean over tokens of -min(ratio A, clip(ratio, 0.8, 1.2) A) + kl * KL

It is PPO's clipped surrogate without a value head, and so not PPO. Every batch is drawn anew and
learnt from once, so that the ratio is 1 and clips nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from superalign.store.records import Row

from .config import GrpoConfig
from .groups import learn_groups
from .learner import Progress
from .scoring import Scorer


def learn(
    base: Path,
    rows: Sequence[Row],
    config: GrpoConfig,
    out: Path,
    progress: Progress | None = None,
    score: Scorer | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on replies that a scorer rewards, into `out`."""

    def make(arguments: dict[str, Any], **given: Any) -> GRPOTrainer:
        # the paper's loss; TRL's default is DAPO's, whose mean is over the tokens of a batch
        return GRPOTrainer(args=GRPOConfig(**arguments, loss_type="grpo"), **given)

    return learn_groups(base, rows, config, out, progress, score, make)
