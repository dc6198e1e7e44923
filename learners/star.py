"""STaR, the self-taught reasoner. Zelikman et al. 2022, arXiv 2203.14465.

    loss = - sum over reply tokens of log pi(token) / number of reply tokens in the step

SFT on the policy's own answers that turned out right; where it failed, on answers that it wrote
when it was told the right result. Those stand under the prompt without the hint. Every iteration
starts from the first version (`StarConfig.from_base`), or what one iteration happened to write
would be copied on for ever; its rows are made by the last, and it takes steps * growth^(i - 1)
steps in iteration i. `flip_prob` is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superalign.store.records import Row

from . import sft
from .config import SftConfig, StarConfig
from .learner import Progress


def learn(
    base: Path,
    rows: Sequence[Row],
    config: StarConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base`, which is the first version, on `sft` rows; write it to `out`."""
    iteration = max((row.iteration for row in rows), default=1)
    copied = config.model_dump(include=set(SftConfig.model_fields) - {"method", "steps"})
    told = SftConfig(**copied, steps=config.steps_in(iteration))
    return sft.learn(base, rows, told, out, progress)
