"""How to learn: what a scenario's `learn:` block may say. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from superalign.store.records import Record

Method = Literal["sft", "dpo", "exo"]


class LearnConfig(Record):
    """One update of one policy. The learner's seed and rows fix its result."""

    method: Method
    """`sft` copies accepted answers; `dpo` and `exo` learn from pairs or from ranked replies."""
    beta: float = Field(default=0.1, gt=0)
    """Weight of a log-ratio to the reference (beta of DPO, beta_pi of EXO). Larger drifts less."""
    beta_r: float = Field(default=0.1, gt=0)
    """Temperature of the rewards of `rank` rows. Unused with pairs."""
    sft: float = Field(default=1.0, ge=0)
    """Weight of the mean negative log-probability per token of accepted answers. 0 is the plain
    loss, under which a weak base loses accuracy on a few hundred pairs. Unused by `sft`."""
    lr: float = Field(default=1e-4, gt=0)
    """AdamW's peak learning rate, reached after a short linear warm-up and kept."""
    steps: int = Field(default=120, gt=0)
    """Updates of the weights."""
    batch: int = Field(default=64, gt=0)
    """Rows in one update, drawn from the shuffled rows again and again."""
    micro_batch: int = Field(default=64, gt=0)
    """Rows in one forward pass. Fewer need less memory and give the same update."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this norm."""
    seed: int = 0
    """Seeds the order of the rows."""
