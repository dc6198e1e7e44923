"""PRO, preference ranking optimisation. Song et al. 2023, arXiv 2306.17492.

    loss = mean over rows of sum over k of L_k + sft * (K - 1)^2 * -log pi(y_1|x)
    L_k = log[exp(s_k t_kk) + sum over i with r_i < r_k of exp(s_i t_ki)] - s_k t_kk
    s_k = log pi(y_k|x) / |y_k|;  t_ki = r_k - r_i;  t_kk = max_i t_ki

Every reply is set against all that are worse, the more the farther apart their rewards are. There
is no reference, so nothing but the SFT term on the best reply, which is not divided by its length,
holds the policy where it was. Rewards scale the contrasts: those of 0 to 1 make weak ones.

Axes: B rows of a micro-batch, K replies of a row, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from superalign.store.errors import BadInput
from superalign.store.records import Row

from . import losses
from .config import ProConfig
from .learner import Batch, Progress, Trainer, encode, load, sequence_logprobs, steps


def learn(
    base: Path,
    rows: Sequence[Row],
    config: ProConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `rank` rows; write the new one to `out`."""
    for row in rows:
        if row.kind == "rank" and len(set(row.rewards or ())) < 2:
            raise BadInput(
                f"row of {', '.join(row.turns)}: all {len(row.replies)} replies have the same "
                "reward, which ranks nothing; leave the row out or give finer rewards"
            )
    model, tokenizer = load(base, config)
    examples = encode(rows, "rank", model, tokenizer)
    trainer = Trainer(model, config, progress)

    for parts in steps(examples, config, model.device):
        for part in parts:
            assert part.rewards_B_K is not None  # `rank` rows have them
            logprobs_B_K = sequence_logprobs(model, part)
            scores_B_K = logprobs_B_K / part.tokens_B_K
            ranked = losses.pro(scores_B_K, part.rewards_B_K).sum() / config.batch
            sft = imitation(logprobs_B_K) / config.batch
            shares = {"preference": ranked, "sft": sft, **metrics(logprobs_B_K, part, config)}
            trainer.backward(ranked + config.sft * sft, shares)
        trainer.step()

    return trainer.save(tokenizer, rows, out)


def imitation(logprobs_B_K: Tensor) -> Tensor:
    """The SFT term of a micro-batch before its weight. It grows as the ranking terms do."""
    return -((logprobs_B_K.shape[1] - 1) ** 2) * logprobs_B_K[:, 0].sum()


def metrics(logprobs_B_K: Tensor, part: Batch, config: ProConfig) -> dict[str, Tensor]:
    """What happened to best and worst replies: this batch's share of the step's means."""
    scores_B_K = logprobs_B_K / part.tokens_B_K
    values_B = {
        "chosen_logprob": logprobs_B_K[:, 0],
        "rejected_logprob": logprobs_B_K[:, -1],
        "margin": scores_B_K[:, 0] - scores_B_K[:, -1],
        "accuracy": (scores_B_K[:, 0] > scores_B_K[:, -1]).float(),
    }
    return {name: value_B.sum() / config.batch for name, value_B in values_B.items()}
