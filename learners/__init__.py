"""What is learnt: transcripts -> rows -> losses -> new weights. Learners load torch when called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from superalign.store.records import Row

from .config import CONFIGS, LearnConfig, learn_config
from .rows import FlipRates, Judgement, judgements, measure_flips

Progress = Callable[[Mapping[str, float]], None]
"""Told the metrics of every step as it ends."""

Learn = Callable[..., dict[str, Any]]
"""`learn(base, rows, config, out, progress=None)`: weights from `base` to `out`; their metrics."""


def _learner(method: str) -> Learn:
    def learn(
        base: Path,
        rows: Sequence[Row],
        config: LearnConfig,
        out: Path,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        return import_module(f".{method}", __name__).learn(base, rows, config, out, progress)

    return learn


LEARNERS: dict[str, Learn] = {method: _learner(method) for method in CONFIGS}
"""Method -> learner. Each is one file of this room."""

__all__ = [
    "CONFIGS",
    "LEARNERS",
    "FlipRates",
    "Judgement",
    "LearnConfig",
    "judgements",
    "learn_config",
    "measure_flips",
]
