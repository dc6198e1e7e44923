"""SPIN, self-play fine-tuning. Chen et al. 2024, arXiv 2401.01335.

    loss = mean over prompts of log(1 + exp(-beta * [h(gold) - h(own)])) + sft * NLL(gold)

h(y) = log pi(y|x) - log p_t(y|x), where the opponent p_t is the policy before the update: it wrote
`own`, one fresh sample for every gold answer. An iteration of the loop is one t; when own answers
are distributed as gold ones are, no policy tells them apart and nothing is left to learn. Gold
answers are the ceiling: where the policy is better than they are, it gets worse.

Unlike the paper's code, an iteration takes its own samples alone, not those of the one before too.

Axes: B rows of a micro-batch, K = 2 replies of a row, the gold one first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from superalign.agents.model import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt
from superalign.store.errors import BadInput
from superalign.store.records import Row, digest

from . import losses
from .config import DpoConfig, SpinConfig
from .learner import Batch, Progress, load
from .preference import gap, learn_preferences


def learn(
    base: Path,
    rows: Sequence[Row],
    config: SpinConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on the gold answers of `sft` rows, into `out`."""
    rivals = oppose(base, rows, config)
    if not rivals.pairs:
        raise BadInput(
            f"sft rows: {len(rows)}, of which the policy wrote {rivals.equal} just so and "
            f"{rivals.cut} beyond learn.max_tokens: {config.max_tokens}; there is nothing to learn "
            "from the former, and more tokens may help the latter"
        )

    def loss(h_B_K: Tensor, part: Batch) -> Tensor:
        return losses.dpo(config.beta * gap(h_B_K))

    def start(part: Batch) -> Tensor:
        return torch.full_like(part.flip_prob_B, math.log(2))

    told = DpoConfig(**config.model_dump(include=set(DpoConfig.model_fields) - {"method"}))
    metrics = learn_preferences(base, rivals.pairs, told, out, progress, loss, start)
    counts = {"pairs": len(rivals.pairs), "equal": rivals.equal, "cut": rivals.cut}
    return {**metrics, "rows": len(rows), **counts}


class Rivals(NamedTuple):
    """Gold answers against own ones."""

    pairs: list[Row]
    """`pref` rows."""
    equal: int
    """Own answers that are the gold ones: left out, as no policy tells them apart."""
    cut: int
    """Own answers that did not end in time: left out."""


def oppose(base: Path, rows: Sequence[Row], config: SpinConfig) -> Rivals:
    """One own answer to every row's prompt. It follows from the row and the seed alone."""
    model, tokenizer = load(base)
    policy = policy_of(str(base), model, tokenizer)
    prompts = [encode_prompt(tokenizer, row.prompt) for row in rows]
    room = policy.context - max(map(len, prompts), default=0)
    if room < config.max_tokens:
        raise BadInput(
            f"learn.max_tokens: {config.max_tokens}, but beside the longest prompt the model has "
            f"room for {room}"
        )
    seeds = [int(digest(config.seed, row.id), 16) for row in rows]
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
    drawn = draw(policy, prompts, seeds, sampling)
    pairs, equal, cut = [], 0, 0
    for row, own in zip(rows, drawn, strict=True):
        if not own.stopped:
            cut += 1
        elif (text := decode(tokenizer, own.ids)) == row.replies[0]:
            equal += 1
        else:
            pairs.append(row.model_copy(update={"kind": "pref", "replies": (*row.replies, text)}))
    return Rivals(pairs, equal, cut)
