"""DPO, direct preference optimisation. Rafailov et al. 2023, arXiv 2305.18290.

    loss = mean over pairs of -log sig(beta * [h(better) - h(worse)]) + sft * NLL(accepted)

h(y) = log pi(y|x) - log pi_ref(y|x), summed over reply tokens; the reference is the policy before
the update. NLL is the mean over the reply tokens of a batch of accepted answers: it keeps them
likely, where DPO alone lets both replies fall as long as the worse fall faster (Pang et al. 2024,
arXiv 2404.19733), and it keeps what was known already: questions that are always solved make no
pairs. `flip_prob` is not used: this is plain DPO. Rows of K ranked replies take the
form -sum_i p_i log q_i (`losses.dpo_rw`).

Axes: R all rows, B rows of a micro-batch, K replies of a row, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superalign.store.records import Row

from . import losses
from .config import LearnConfig
from .learner import (
    Batch,
    Progress,
    Trainer,
    check_start,
    encode,
    load,
    pair_metrics,
    reference_logprobs,
    sequence_logprobs,
    steps,
)


def preference(h_B_K: Tensor, part: Batch, config: LearnConfig) -> Tensor:
    """DPO's loss of each row."""
    if part.rewards_B_K is None:
        return losses.dpo(config.beta * (h_B_K[:, 0] - h_B_K[:, 1]))
    return losses.dpo_rw(h_B_K, part.rewards_B_K, config.beta, config.beta_r)


def start(part: Batch, config: LearnConfig) -> Tensor:
    """The loss at h = 0: log K, which is ln 2 for pairs."""
    return torch.full_like(part.flip_prob_B, math.log(part.tokens_B_K.shape[1]))


def learn(
    base: Path,
    rows: Sequence[Row],
    config: LearnConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` or `rank` rows; write the new one to `out`.

    `sft` rows beside them are the accepted answers of the SFT term; without any, it takes the
    better replies.
    """
    model, tokenizer = load(base)
    examples = encode([row for row in rows if row.kind != "sft"], model, tokenizer)
    accepted = encode([row for row in rows if row.kind == "sft"] or rows, model, tokenizer)
    ref_R_K = reference_logprobs(model, examples, config)
    trainer = Trainer(model, config, progress)

    lessons = steps(accepted, config, model.device)
    for parts in steps(examples, config, model.device):
        for part in parts:
            logprobs_B_K = sequence_logprobs(model, part)
            h_B_K = logprobs_B_K - ref_R_K[part.rows_B]
            losses_B = preference(h_B_K, part, config)
            if not trainer.log:
                check_start(logprobs_B_K, ref_R_K[part.rows_B], losses_B, start(part, config))
            preferred = losses_B.sum() / config.batch
            values = {"preference": preferred.item(), **pair_metrics(logprobs_B_K, h_B_K, config)}
            trainer.backward(preferred, values)
        if config.sft:
            trainer.imitate(next(lessons), config.sft)
        trainer.step()

    return trainer.save(tokenizer, rows, out)
