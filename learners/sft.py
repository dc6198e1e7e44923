"""SFT, supervised fine-tuning on accepted answers.

    loss = - sum over reply tokens of log pi(token) / number of reply tokens in the step

The mean is over tokens, not over replies, so that every token weighs the same whatever the length
of its reply. `flip_prob` is not used: this is plain SFT.

Axes: B rows of a micro-batch, K = 1 reply of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superalign.store.records import Row

from .config import SftConfig
from .learner import Progress, Trainer, encode, load, steps


def learn(
    base: Path,
    rows: Sequence[Row],
    config: SftConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `sft` rows; write the new one to `out`."""
    model, tokenizer = load(base, config)
    examples = encode(rows, "sft", model, tokenizer)
    trainer = Trainer(model, config, progress)

    for parts in steps(examples, config, model.device):
        trainer.imitate(parts)
        trainer.step()

    return trainer.save(tokenizer, rows, out)
