"""KTO, Kahneman-Tversky optimisation. Ethayarajh et al. 2024, arXiv 2402.01306.

    loss = mean over answers of w * (1 - sig(v)) + sft * NLL(good answers)
    v = beta * (h - z0) of a good answer, beta * (z0 - h) of a bad one
    z0 = max(0, mean of h over the step's answers, each under the prompt of another)

`preference.py` says what h and NLL are. Answers come one by one: `reward` rows of reward 1 or 0,
and `pref` rows as two. z0 estimates the KL to the reference; no gradient passes through it. What
is far on the wrong side teaches as little as what is far on the right, so that a flipped label
does less harm than under DPO. w makes good and bad answers count alike however many there are of
each (Eq. 8: the ratio of their weights times their counts is to lie from 1 to 4/3; here it is 1).
`flip_prob` is not used.

Axes: R all answers, S answers under others' prompts, B answers of a micro-batch, K = 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from superalign.store.errors import BadInput
from superalign.store.records import Row

from . import losses
from .config import KtoConfig
from .learner import (
    Batch,
    Example,
    Progress,
    Shares,
    Trainer,
    alone,
    check_reference,
    check_start,
    cut,
    encode,
    hands,
    load,
    reference_logprobs,
    sequence_logprobs,
    steps,
)


def learn(
    base: Path,
    rows: Sequence[Row],
    config: KtoConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `reward` and `pref` rows, and `sft` rows too, into `out`."""
    alone(config)
    answers = judged(rows)
    good = [answer for answer in answers if answer.rewards == (1.0,)]
    weigh = weights(len(good), len(answers) - len(good), config)
    accepted = [row for row in rows if row.kind == "sft"] or [_as(row, "sft") for row in good]

    model, tokenizer = load(base, config)
    examples = encode(answers, "reward", model, tokenizer)
    deals = list(hands(len(examples), config))
    strangers = [one for hand in deals for one in mismatched([examples[i] for i in hand])]
    ref_R_1 = reference_logprobs(model, examples, config)
    ref_S_1 = reference_logprobs(model, strangers, config)
    lessons = steps(encode(accepted, "sft", model, tokenizer), config, model.device)
    trainer = Trainer(model, config, progress)

    for step, hand in enumerate(deals):
        places = range(step * config.batch, (step + 1) * config.batch)
        z0 = drift(model, cut(strangers, places, config, model.device), ref_S_1, step)
        parts = cut(examples, hand, config, model.device)
        counts = Counter(examples[i].rewards == (1.0,) for i in hand)
        for part in parts:
            logprobs_B_1 = sequence_logprobs(model, part)
            good_B, h_B = is_good(part), (logprobs_B_1 - ref_R_1[part.rows_B])[:, 0]
            weight_B = torch.where(good_B, *weigh)
            losses_B = weight_B * losses.kto(h_B, z0, good_B, config.beta)
            if not step:
                check_start(logprobs_B_1, ref_R_1[part.rows_B], losses_B, weight_B / 2)
            preferred = losses_B.sum() / config.batch
            shares = metrics(logprobs_B_1[:, 0], h_B, z0, good_B, counts)
            trainer.backward(preferred, {"preference": preferred, **shares})
        if config.sft:
            trainer.imitate(next(lessons), config.sft)
        trainer.step()

    told = trainer.save(tokenizer, rows, out)
    facts = {"good": len(good), "bad": len(answers) - len(good)}
    return {**told, **facts, "desirable": weigh[0], "undesirable": weigh[1]}


def judged(rows: Sequence[Row]) -> list[Row]:
    """Every answer to a prompt once, as a `reward` row; none of which both was said."""
    said: dict[tuple[Any, str], list[Row]] = {}
    for row in rows:
        if row.kind == "pref":
            found = [_as(row, "reward", k, (1.0 - k,)) for k in (0, 1)]
        else:
            found = [row] if row.kind == "reward" else []
        for one in found:
            if one.rewards not in ((1.0,), (0.0,)):
                raise BadInput(
                    f"row of {', '.join(row.turns)}: reward {one.rewards}, and kto takes answers "
                    "that are good, 1, or bad, 0; learn from rewards by ppo, or from rankings by "
                    "exo_rw"
                )
            said.setdefault((one.prompt, one.replies[0]), []).append(one)
    return [same[0] for same in said.values() if len({one.rewards for one in same}) == 1]


def _as(row: Row, kind: str, reply: int = 0, rewards: tuple[float, ...] | None = None) -> Row:
    return row.model_copy(
        update={"kind": kind, "replies": (row.replies[reply],), "rewards": rewards}
    )


def weights(good: int, bad: int, config: KtoConfig) -> tuple[float, float]:
    """Weights of good and of bad answers: as told, else such that both kinds count alike and the
    commoner, unless told, weighs 1."""
    if not good or not bad:
        raise BadInput(
            f"rows: {good} good and {bad} bad answers, and kto needs both; learn from good ones "
            "alone by sft"
        )
    desirable, undesirable = config.desirable, config.undesirable
    if desirable is None:
        desirable = max(1.0, bad / good) if undesirable is None else undesirable * bad / good
    if undesirable is None:
        undesirable = desirable * good / bad
    return desirable, undesirable


def mismatched(examples: Sequence[Example]) -> list[Example]:
    """Every reply once, under the prompt of another that is not the same."""
    order = sorted(examples, key=lambda example: example.prompt)
    counts = Counter(tuple(example.prompt) for example in order)
    most = max(counts.values())
    if 2 * most > len(order):
        raise BadInput(
            f"learn.batch: of {len(order)} answers in a step, {most} are to one prompt, so that "
            "they cannot all stand under another's; a larger batch or more prompts are needed"
        )
    # sorted by prompt and moved on by the largest group, none falls on a prompt like its own
    moved = [*order[most:], *order[:most]]
    return [Example(at.prompt, of.replies, None, 0.0) for at, of in zip(moved, order, strict=True)]


@torch.no_grad()
def drift(model: PreTrainedModel, parts: Sequence[Batch], ref_S_1: Tensor, step: int) -> Tensor:
    """z0, how far the policy went from the reference on replies to other prompts."""
    total = ref_S_1.new_zeros(())
    for part in parts:
        logprobs_B_1 = sequence_logprobs(model, part)
        if not step:
            check_reference(logprobs_B_1, ref_S_1[part.rows_B])
        total += (logprobs_B_1 - ref_S_1[part.rows_B]).sum()
    return (total / sum(len(part.rows_B) for part in parts)).clamp(min=0)


def is_good(part: Batch) -> Tensor:
    assert part.rewards_B_K is not None  # `reward` rows have them
    return part.rewards_B_K[:, 0] == 1


def metrics(
    logprobs_B: Tensor, h_B: Tensor, z0: Tensor, good_B: Tensor, counts: Counter[bool]
) -> Shares:
    """What happened to good and bad answers: this batch's share of the step's means, each over
    the answers of its kind. A step without any says nothing of them."""
    right_B = torch.where(good_B, h_B > z0, h_B < z0)
    share = len(h_B) / counts.total()
    shares: dict[str, Tensor | float] = {"kl": z0 * share}
    shares["accuracy"] = right_B.sum() / counts.total()
    for name, of, kind_B in (("good", True, good_B), ("bad", False, ~good_B)):
        if counts[of]:
            shares[f"{name}_logprob"] = logprobs_B[kind_B].sum() / counts[of]
            shares[f"{name}_gain"] = h_B[kind_B].sum() / counts[of]
    return shares
