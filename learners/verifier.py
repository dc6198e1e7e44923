"""A verifier with a value at every token. Cobbe et al. 2021, arXiv 2110.14168.

    loss = mean over reply tokens of (V_t - r)^2 + NLL(reply tokens)

r is whether the whole reply is right. The value is asked for at every token, so that the model
notices where a reply goes wrong; `scoring.value` reads it before the end token. The language-model
loss keeps what the trunk knows. The value is a linear head on the last hidden state, where the
paper gives it a bias and a gain on the logit of a reserved token.

Axes: B rows of a micro-batch, M reply tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from superalign.store.records import Row

from .config import VerifierConfig
from .learner import Progress, Trainer, alone, encode, hands, load
from .scoring import TOLD
from .values import ActorCritic, pad


def learn(
    base: Path,
    rows: Sequence[Row],
    config: VerifierConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a verifier of the policy in `base` from `reward` rows, into `out`."""
    alone(config)
    policy, tokenizer = load(base, config)
    examples = encode(rows, "reward", policy, tokenizer)
    actor = ActorCritic(policy, base)
    trainer = Trainer(actor, config, progress)  # pyright: ignore[reportArgumentType]

    for hand in hands(len(examples), config):
        hand.sort(key=lambda i: len(examples[i].prompt) + len(examples[i].replies[0]))
        tokens = sum(len(examples[i].replies[0]) for i in hand)
        for first in range(0, len(hand), config.micro_batch):
            part = [examples[i] for i in hand[first : first + config.micro_batch]]
            padded = pad([(one.prompt, one.replies[0]) for one in part], policy.device)
            read = actor(padded.ids_B_L, padded.reply_B_L)
            right_B = torch.tensor([one.rewards for one in part], device=policy.device)
            right_M = right_B.expand(padded.mask_B_T.shape)[padded.mask_B_T]
            value = ((read.values_M - right_M) ** 2).sum() / tokens
            sft = -read.logprobs_M.sum() / tokens
            trainer.backward(value + sft, {"value": value, "sft": sft})
        trainer.step()

    told = trainer.save(tokenizer, rows, out)
    (out / TOLD).write_text(json.dumps({"kind": "verifier"}))
    return told
