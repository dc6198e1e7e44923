"""A reward model from comparisons. Ouyang et al. 2022, arXiv 2203.02155, Eq. 1.

    loss = mean over prompts of mean over its pairs of
           -(1 - eps) log sig(r(better) - r(worse)) - eps log sig(r(worse) - r(better))

r is one scalar on the hidden state of the last token. All pairs of a prompt stand in one step, and
each of its replies is read once. eps is the pair's `flip_prob`; at 0 the loss is the paper's. A
ranking gives all pairs whose rewards differ. With a critic the model reads its critique of a reply
beside the reply: Ye et al. 2024, arXiv 2405.20850. The critic sees prompt and reply, never which of
two is the better.

Axes: B replies, P pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.agents.weights import base_of
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Row, digest

from . import losses
from .config import RewardConfig
from .learner import Progress, Trainer, alone
from .scoring import TOLD, Critic, Prompt, critic_in, encode_read, load_reward_model, rewards


@dataclass
class Comparison:
    """All that was compared under one prompt."""

    prompt: Prompt
    replies: list[str] = field(default_factory=list)
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    """(better, worse) -> the probability that it is the other way round."""
    ids: list[list[int]] = field(default_factory=list)
    """What the model reads of each reply."""

    def add(self, better: str, worse: str, flip_prob: float) -> None:
        self.replies += [r for r in dict.fromkeys((better, worse)) if r not in self.replies]
        self.pairs[self.replies.index(better), self.replies.index(worse)] = flip_prob


def learn(
    base: Path,
    rows: Sequence[Row],
    config: RewardConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a reward model of the policy or the reward model in `base`; write it to `out`."""
    alone(config)
    if (whole := base_of(base)) != base.resolve():
        raise BadInput(
            f"{base} is an adapter over {whole}: a reward model starts from whole weights; name "
            "those"
        )
    critic = critic_in(config.critic) if config.critic is not None else None
    fresh = "SequenceClassification" not in (base / "config.json").read_text()
    model, tokenizer = load_reward_model(base)
    if fresh:
        head: Any = model.score
        torch.nn.init.zeros_(head.weight)
        model.config.pad_token_id = tokenizer.pad_token_id
    learnt, heldout = split(compared(rows), config.heldout)
    fill([*learnt, *heldout], tokenizer, critic, model.config.get_text_config())

    trainer = Trainer(model, config, progress)
    for parts in steps(learnt, config):
        prompts = sum(map(len, parts))
        for part in parts:
            losses_P, margins_P, weights_P = _losses(model, part)
            loss = (losses_P * weights_P).sum() / prompts
            if fresh and not trainer.log:
                _check_start(losses_P)
            right_P = (margins_P > 0).double()
            metrics = {"margin": margins_P, "accuracy": right_P}
            shares = {n: (v * weights_P).sum() / prompts for n, v in metrics.items()}
            trainer.backward(loss, shares)
        trainer.step()

    told = trainer.save(tokenizer, rows, out)
    (out / TOLD).write_text(json.dumps({"kind": "reward", "critic": config.critic}))
    return {**told, **measure(model, heldout)}


def compared(rows: Sequence[Row]) -> list[Comparison]:
    """One comparison a prompt, in the order in which prompts first come."""
    found: dict[Prompt, Comparison] = {}
    for row in rows:
        if row.kind not in RewardConfig.kinds:
            continue
        comparison = found.setdefault(row.prompt, Comparison(row.prompt))
        if row.kind == "pref":
            better, worse = row.replies
            comparison.add(better, worse, row.flip_prob)
            continue
        assert row.rewards is not None  # `rank` rows have them
        for a, b in combinations(zip(row.rewards, row.replies, strict=True), 2):
            if a[0] != b[0]:
                better, worse = sorted((a, b), key=lambda pair: -pair[0])
                comparison.add(better[1], worse[1], row.flip_prob)
    return [comparison for comparison in found.values() if comparison.pairs]


def split(
    comparisons: Sequence[Comparison], share: float
) -> tuple[list[Comparison], list[Comparison]]:
    """What is learnt from, and what only measures: a prompt's text alone decides."""
    sides: tuple[list[Comparison], list[Comparison]] = ([], [])
    for comparison in comparisons:
        sides[int(digest(comparison.prompt)[:8], 16) < share * 2**32].append(comparison)
    learnt, heldout = sides
    if not learnt:
        raise BadInput(
            f"`pref` or `rank` rows: {len(comparisons)} prompts with pairs, {len(heldout)} of them "
            "held out; the learner needs some, or a smaller learn.heldout"
        )
    return learnt, heldout


def fill(
    comparisons: Sequence[Comparison], tokenizer: Tokenizer, critic: Critic | None, config: Any
) -> None:
    """Say what the model reads of each reply. Nothing is ever truncated."""
    read = [(c.prompt, reply) for c in comparisons for reply in c.replies]
    said = critic(*zip(*read, strict=True)) if critic else [None] * len(read)
    ids = [encode_read(tokenizer, *one, text) for one, text in zip(read, said, strict=True)]
    longest, limit = max(map(len, ids)), config.max_position_embeddings
    if longest > limit:
        raise BadInput(
            f"rows: the longest has {longest} tokens to read, and the model has {limit} positions; "
            "leave such rows out or learn with a longer model"
        )
    for comparison in comparisons:
        count = len(comparison.replies)
        comparison.ids, ids = ids[:count], ids[count:]


def steps(
    comparisons: Sequence[Comparison], config: RewardConfig
) -> Iterator[list[list[Comparison]]]:
    """Every step's prompts, in micro-batches: whole prompts until there are `batch` pairs."""
    generator = torch.Generator().manual_seed(config.seed)
    deck: list[int] = []
    for _ in range(config.steps):
        hand: list[Comparison] = []
        while sum(len(c.pairs) for c in hand) < config.batch:
            deck = deck or torch.randperm(len(comparisons), generator=generator).tolist()
            hand.append(comparisons[deck.pop()])
        parts: list[list[Comparison]] = [[]]
        for comparison in hand:
            if sum(len(c.pairs) for c in parts[-1]) >= config.micro_batch:
                parts.append([])
            parts[-1].append(comparison)
        yield parts


def _losses(model: Any, part: Sequence[Comparison]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, margin and weight of each pair. The pairs of one prompt weigh 1 together."""
    rewards_B = rewards(model, [ids for c in part for ids in c.ids])
    better, worse, flips, weights, first = [], [], [], [], 0
    for comparison in part:
        for (i, j), flip_prob in comparison.pairs.items():
            better.append(first + i)
            worse.append(first + j)
            flips.append(flip_prob)
            weights.append(1 / len(comparison.pairs))
        first += len(comparison.replies)
    margins_P = rewards_B[better] - rewards_B[worse]
    losses_P = losses.cdpo(margins_P, torch.tensor(flips, device=margins_P.device))
    return losses_P, margins_P.detach(), torch.tensor(weights, device=margins_P.device)


@torch.no_grad()
def measure(model: Any, heldout: Sequence[Comparison]) -> dict[str, float]:
    """Share of held-out pairs that the model orders as the labels do, and how many there are."""
    if not heldout:
        return {"heldout_pairs": 0}
    margins_P = torch.cat([_losses(model, [comparison])[1] for comparison in heldout])
    accuracy = (margins_P > 0).double().mean().item()
    return {"heldout_pairs": len(margins_P), "heldout_accuracy": accuracy}


def _check_start(losses_P: Tensor) -> None:
    """A new head gives every reply 0, and so every pair the loss ln 2."""
    worst = (losses_P - math.log(2)).abs().max().item()
    if not worst < 1e-4:
        raise SuperalignError(f"step 0: the loss of a pair is {worst:.4g} off ln 2")
