"""A policy with a value head: log-probabilities and values of reply tokens in one forward pass.

The value of a token is what is expected before it is written, so it is read where the token is
predicted from: the last hidden state one position earlier. The head starts at 0, so that the first
advantages are plain sums of rewards.

Axes: B replies, L tokens of prompt and reply, T tokens of a reply, M reply tokens of a batch,
D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

HEAD = "value_head.safetensors"
"""Beside the policy's weights; a folder without it gets a new head."""


class Padded(NamedTuple):
    """Prompts with their replies. Padding stands on the right, where attention never looks."""

    ids_B_L: Tensor
    reply_B_L: Tensor
    """True on the tokens of replies, their end token included."""
    mask_B_T: Tensor
    """True on the same tokens, each reply from column 0 on."""

    def spread(self, values_M: Tensor) -> Tensor:
        """What is known of each reply token, a reply a row; 0 on padding."""
        values_B_T = values_M.new_zeros(self.mask_B_T.shape)
        values_B_T[self.mask_B_T] = values_M
        return values_B_T


def pad(pairs: Sequence[tuple[list[int], list[int]]], device: torch.device) -> Padded:
    """(prompt, reply) pairs side by side."""
    lengths = torch.tensor([[len(prompt), len(prompt) + len(reply)] for prompt, reply in pairs])
    ids_B_L = torch.zeros(len(pairs), int(lengths[:, 1].max()), dtype=torch.long)
    for ids_L, (prompt, reply) in zip(ids_B_L, pairs, strict=True):
        ids_L[: len(prompt) + len(reply)] = torch.tensor(prompt + reply)
    places_L = torch.arange(ids_B_L.shape[1])
    reply_B_L = (places_L >= lengths[:, :1]) & (places_L < lengths[:, 1:])
    sizes_B = reply_B_L.sum(-1)
    mask_B_T = torch.arange(int(sizes_B.max())) < sizes_B[:, None]
    return Padded(ids_B_L.to(device), reply_B_L.to(device), mask_B_T.to(device))


class Read(NamedTuple):
    """What an actor-critic says of the reply tokens of a batch, one after another."""

    logprobs_M: Tensor
    values_M: Tensor
    entropy_M: Tensor
    """Of the distribution that the token was drawn from. Carries no gradient."""


class ActorCritic(nn.Module):
    """A causal language model and a value head on its last hidden state."""

    def __init__(self, policy: PreTrainedModel, base: Path) -> None:
        super().__init__()
        self.policy = policy
        output: Any = policy.get_output_embeddings()
        # the output layer sees reply positions alone: it is most of the work and of the memory
        output.register_forward_pre_hook(self._select)
        size = policy.config.get_text_config().hidden_size
        self.head = nn.Linear(size, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if (base / HEAD).exists():
            self.head.load_state_dict(load_file(base / HEAD))
        self._at_B_L: Tensor | None = None
        self._hidden_M_D: Tensor

    def forward(self, ids_B_L: Tensor, reply_B_L: Tensor) -> Read:
        self._at_B_L = reply_B_L[:, 1:]  # a prompt is never empty, and the last token predicts none
        try:
            logits_M_V = self.policy(input_ids=ids_B_L[:, :-1], use_cache=False).logits.float()
        finally:
            self._at_B_L = None
        logprobs_M_V = logits_M_V.log_softmax(-1)
        with torch.no_grad():
            entropy_M = -(logprobs_M_V.exp() * logprobs_M_V).sum(-1)
        logprobs_M = logprobs_M_V.gather(1, ids_B_L[reply_B_L][:, None])[:, 0]
        return Read(logprobs_M, self.head(self._hidden_M_D.float())[:, 0], entropy_M)

    def _select(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._at_B_L is None:  # the policy writes a reply
            return None
        self._hidden_M_D = given[0][self._at_B_L]
        return (self._hidden_M_D,)

    def save_pretrained(self, out: Path) -> None:
        self.policy.save_pretrained(out)
        save_file(self.head.state_dict(), out / HEAD)
