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

from .config import PreferenceConfig
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

Loss = Callable[[Tensor, Batch], Tensor]
"""`loss(h_B_K, part)`: the loss of each row, B."""


def learn_preferences(
    base: Path,
    rows: Sequence[Row],
    config: PreferenceConfig,
    out: Path,
    progress: Progress | None,
    loss: Loss,
    start: Callable[[Batch], Tensor],
) -> dict[str, Any]:
    """Update the policy in `base` on `pref` or `rank` rows; write the new one to `out`.

    `start(part)` is the loss of each row at h = 0, where policy and reference are one: anything
    else at step 0 stops the learner. `sft` rows are the accepted answers of the SFT term; without
    any, it takes the better replies.
    """
    model, tokenizer = load(base)
    kind, copied = config.kinds[0], "sft" if any(row.kind == "sft" for row in rows) else None
    examples = encode(rows, kind, model, tokenizer)
    accepted = encode(rows, copied or kind, model, tokenizer)
    ref_R_K = reference_logprobs(model, examples, config)
    trainer = Trainer(model, config, progress)

    lessons = steps(accepted, config, model.device)
    for parts in steps(examples, config, model.device):
        for part in parts:
            logprobs_B_K = sequence_logprobs(model, part)
            h_B_K = logprobs_B_K - ref_R_K[part.rows_B]
            losses_B = loss(h_B_K, part)
            if not trainer.log:
                check_start(logprobs_B_K, ref_R_K[part.rows_B], losses_B, start(part))
            preferred = losses_B.sum() / config.batch
            values = {"preference": preferred.item(), **pair_metrics(logprobs_B_K, h_B_K, config)}
            trainer.backward(preferred, values)
        if config.sft:
            trainer.imitate(next(lessons), config.sft)
        trainer.step()

    return trainer.save(tokenizer, rows, out)


def gap(h_B_K: Tensor) -> Tensor:
    """D of each pair: h(better) - h(worse)."""
    return h_B_K[:, 0] - h_B_K[:, 1]
