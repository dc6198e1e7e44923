"""What every learner from preferences does: its file says which loss, and what that is at first.

    loss = mean over rows of the method's loss of h + sft * NLL(accepted)

h(y) = log pi(y|x) - log pi_ref(y|x), summed over reply tokens; the reference is the policy before
the update. NLL is the mean over the reply tokens of a batch of accepted answers: it keeps them
likely, where the preference alone lets both replies fall as long as the worse fall faster (Pang et
al. 2024, arXiv 2404.19733), and it keeps what was known already: questions that are always solved
make no pairs.

Axes: R all rows, B rows of a micro-batch, K replies of a row, the best first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from superalign.store.records import Row

from .config import CopyConfig, PreferenceConfig
from .learner import (
    Batch,
    Progress,
    Shares,
    Trainer,
    check_start,
    encode,
    first_tokens,
    imitation,
    load,
    reference_logprobs,
    sequence_logprobs,
    steps,
)

Loss = Callable[[Tensor, Batch], Tensor]
"""`loss(h_B_K, part)`: the loss of each row, B."""

Score = Callable[[Tensor, Batch], Tensor]
"""`score(h_B_K, part)`: what the loss compares replies by, B_K."""


def learn_preferences(
    base: Path,
    rows: Sequence[Row],
    config: CopyConfig,
    out: Path,
    progress: Progress | None,
    loss: Loss,
    start: Callable[[Batch], Tensor],
    score: Score | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` or `rank` rows; write the new one to `out`.

    `start(part)` is the loss of each row at h = 0, where policy and reference are one: anything
    else at step 0 stops the learner. `sft` rows are the accepted answers of the SFT term; without
    any, it takes the better replies. `score` is beta * h unless told.
    """
    if score is None:
        assert isinstance(config, PreferenceConfig)
        score = rewarded(config)
    model, tokenizer = load(base, config)
    examples = encode(rows, config.kinds[0], model, tokenizer)
    ref_R_K = reference_logprobs(model, examples, config)
    trainer = Trainer(model, config, progress)
    lessons = None
    if any(row.kind == "sft" for row in rows):
        lessons = steps(encode(rows, "sft", model, tokenizer), config, model.device)

    for parts in steps(examples, config, model.device):
        tokens = first_tokens(parts)
        for part in parts:
            logprobs_B_K = sequence_logprobs(model, part)
            h_B_K = logprobs_B_K - ref_R_K[part.rows_B]
            losses_B = loss(h_B_K, part)
            if not trainer.log:
                check_start(logprobs_B_K, ref_R_K[part.rows_B], losses_B, start(part))
            total = preferred = losses_B.sum() / config.batch
            shares = pair_metrics(logprobs_B_K, h_B_K, score(h_B_K, part), config)
            if config.sft and not lessons:
                sft, copied = imitation(logprobs_B_K[:, 0], tokens, config)
                total, shares = preferred + config.sft * sft, {**shares, **copied}
            trainer.backward(total, {"preference": preferred, **shares})
        if config.sft and lessons:
            trainer.imitate(next(lessons), config.sft)
        trainer.step()

    return trainer.save(tokenizer, rows, out)


def rewarded(config: PreferenceConfig) -> Score:
    """The rewards that a log-ratio to the reference stands for: beta * h."""
    return lambda h_B_K, _: config.beta * h_B_K


def gap(h_B_K: Tensor) -> Tensor:
    """D of each pair: h(better) - h(worse)."""
    return h_B_K[:, 0] - h_B_K[:, 1]


def pair_metrics(
    logprobs_B_K: Tensor, h_B_K: Tensor, score_B_K: Tensor, config: CopyConfig
) -> Shares:
    """What happened to better and worse replies: this batch's share of the step's means."""
    values_B = {
        "chosen_logprob": logprobs_B_K[:, 0],
        "rejected_logprob": logprobs_B_K[:, -1],
        "chosen_gain": h_B_K[:, 0],
        "rejected_gain": h_B_K[:, -1],
        "margin": score_B_K[:, 0] - score_B_K[:, -1],
        "accuracy": (score_B_K[:, 0] > score_B_K[:, -1]).float(),
    }
    return {name: value_B.sum() / config.batch for name, value_B in values_B.items()}
