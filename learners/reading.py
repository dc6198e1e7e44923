"""How likely a policy holds replies to be, read with little waste.

A row's prompt is read once, and its replies behind it, hidden from each other by the mask: with
long prompts that is half of the work, and more with many replies. Rows of like length are read
together. Logits are computed from where the first reply begins. None of that changes a result.

Axes: B rows of a batch, K replies of a row (the best first, the worst last), N = B * K replies,
L lines that are read, T tokens of a line, M reply tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from superalign.agents.slots import ATTENTION

PASS = 256
"""What a forward pass costs besides its tokens, in tokens: padding up to that much is borne."""


@dataclass(frozen=True)
class Example:
    """One row in tokens."""

    prompt: list[int]
    replies: list[list[int]]
    rewards: tuple[float, ...] | None
    flip_prob: float

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.replies))


@dataclass(frozen=True)
class Batch:
    """Rows side by side."""

    examples: Sequence[Example]
    rows_B: Tensor
    """Which of all rows these are."""
    tokens_B_K: Tensor
    """Tokens of each reply, its end token included."""
    flip_prob_B: Tensor
    rewards_B_K: Tensor | None


def collate(examples: Sequence[Example], rows: Sequence[int], device: torch.device) -> Batch:
    chosen = [examples[i] for i in rows]
    rewards = None if chosen[0].rewards is None else torch.tensor([e.rewards for e in chosen])
    return Batch(
        examples=chosen,
        rows_B=torch.tensor(rows, device=device),
        tokens_B_K=torch.tensor([[len(r) for r in e.replies] for e in chosen], device=device),
        flip_prob_B=torch.tensor([e.flip_prob for e in chosen], device=device),
        rewards_B_K=None if rewards is None else rewards.to(device),
    )


def sequence_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """logprobs_B_K: log-probability of each reply, summed over its tokens with the end token."""
    lines = [line for b, example in enumerate(batch.examples) for line in _lines(b, example, model)]
    groups = like_lengths([len(line.ids) for line in lines])
    logprobs_N = torch.cat([_read(model, [lines[i] for i in group]) for group in groups])
    numbers = [n for group in groups for i in group for n in lines[i].numbers]
    order_N = torch.tensor(numbers, device=logprobs_N.device).argsort()
    return logprobs_N[order_N].view(len(batch.examples), -1)


class Line(NamedTuple):
    """A prompt and replies to it in one sequence."""

    ids: list[int]
    ends: list[int]
    """Where the prompt ends, and then each reply."""
    numbers: list[int]
    """Which of all N replies these are."""


def _lines(b: int, example: Example, model: PreTrainedModel) -> list[Line]:
    """A row as one line if its replies may share the prompt and that pays, else a line a reply."""
    count = len(example.replies)
    numbers = range(b * count, (b + 1) * count)
    alone = [_line(example.prompt, [r], [n]) for r, n in zip(example.replies, numbers, strict=True)]
    if count == 1 or not shares_prompts(model):
        return alone
    shared = _line(example.prompt, example.replies, list(numbers))
    # a layer's matrices cost about 12 D^2 per token, attention 2 D per token that is looked at:
    # all of the line under a mask, half of it on average without
    reach = 6 * model.config.get_text_config().hidden_size
    apart = sum(t + t * t / (2 * reach) for t in (len(line.ids) for line in alone))
    together = len(shared.ids) + len(shared.ids) ** 2 / reach
    return [shared] if together < apart else alone


def _line(prompt: list[int], replies: Sequence[list[int]], numbers: list[int]) -> Line:
    ids, ends = list(prompt), [len(prompt)]
    for reply in replies:
        ids += reply
        ends.append(len(ids))
    return Line(ids, ends, numbers)


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether a mask can hide replies from each other: nothing but attention joins tokens, it
    reaches all of them, and places are as they are told."""
    config = model.config.get_text_config()
    return (
        config._attn_implementation in ("sdpa", ATTENTION)
        and bool(getattr(config, "rope_parameters", None))
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and not getattr(model, "_is_stateful", False)
    )


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Places in groups, longest first, that waste at most `PASS` tokens of padding each."""
    groups: list[list[int]] = [[]]
    padding = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += lengths[groups[-1][0]] - lengths[i] if groups[-1] else 0
        if padding > PASS:
            groups.append([])
            padding = 0
        groups[-1].append(i)
    return groups


def _read(model: PreTrainedModel, lines: Sequence[Line]) -> Tensor:
    """logprobs of the replies of some lines, line by line. Padding stands on the right, where
    causal attention never looks."""
    width, first = max(len(line.ids) for line in lines), min(line.ends[0] for line in lines)
    lines_M, froms_M, tokens_M, replies_M = [], [], [], []
    count = 0
    for i, line in enumerate(lines):
        for start, end in zip(line.ends, line.ends[1:], strict=False):
            # the first token of every reply follows the last of the prompt
            lines_M += [i] * (end - start)
            froms_M += [line.ends[0] - first, *range(start - first + 1, end - first)]
            tokens_M += line.ids[start:end]
            replies_M += [count] * (end - start)
            count += 1
    ids = [line.ids + [0] * (width - len(line.ids)) for line in lines]
    told = torch.tensor([lines_M, froms_M, tokens_M, replies_M], device=model.device)
    logits_L_T_V = model(
        input_ids=torch.tensor(ids, device=model.device),
        use_cache=False,
        logits_to_keep=width - first + 1,  # what stands before all replies needs none
        **(_branches(lines, width, model.device) if count > len(lines) else {}),
    ).logits[:, first - 1 - width :]
    logits_M_V = logits_L_T_V[told[0], told[1]].float()
    logprobs_M = -F.cross_entropy(logits_M_V, told[2], reduction="none")
    return logprobs_M.new_zeros(count).index_add(0, told[3], logprobs_M)


def _branches(lines: Sequence[Line], width: int, device: torch.device) -> dict[str, Tensor]:
    """Places, and the mask under which replies see the prompt and themselves, not each other."""
    places, branches = [], []
    for line in lines:
        prompt, padding = line.ends[0], width - len(line.ids)
        lengths = [end - start for start, end in zip(line.ends, line.ends[1:], strict=False)]
        parts = [range(prompt), *(range(prompt, prompt + n) for n in lengths), [0] * padding]
        places.append([place for part in parts for place in part])
        marks = zip([0, *range(1, len(lengths) + 1), -1], map(len, parts), strict=True)
        branches.append([mark for mark, n in marks for _ in range(n)])
    branch_L_T = torch.tensor(branches, device=device)
    keys, queries = branch_L_T[:, None, :], branch_L_T[:, :, None]
    causal_T_T = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    seen_L_T_T = causal_T_T & ((keys == 0) | (keys == queries))
    places_L_T = torch.tensor(places, device=device)
    return {"position_ids": places_L_T, "attention_mask": seen_L_T_T[:, None]}
