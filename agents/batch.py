"""The running batch of one policy version: rows, the slots of the cache, and how tokens are drawn.

Row `b` owns slot `b` of the cache from column 0 on. So nobody's arrival or departure moves
anybody else's columns, prompts of all lengths stand side by side, and a step writes the new
column alone, where a growing cache is copied whole.

Axes: B rows of the batch, M newcomers, T prompt tokens, W columns in use, V vocabulary.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

PREFILL = {"cpu": 1024, "cuda": 16384}
"""Prompt tokens in one prefill pass. On a CPU 1.6 times as fast as 4096: it fits the caches."""


@dataclass(eq=False)
class Policy:
    """One set of weights, and what an engine must know of it."""

    id: str
    model: PreTrainedModel
    eos: frozenset[int]
    context: int
    windows: dict[str, int | None]
    """Kind of attention layer -> how far back it sees; None is to the beginning."""
    adapter: str | None = None
    """Which of the model's adapters is meant, where versions share a model."""

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers


@dataclass(eq=False)
class Row:
    """One call on its way through a batch."""

    policy: Policy
    prompt: list[int]
    max_tokens: int
    temperature: float
    uniforms: list[float]
    """One draw per token to come, made beforehand from the call's own seed."""
    future: asyncio.Future[None] | Future[None]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def column(self) -> int:
        """Where the keys and values of the newest token go."""
        return len(self.prompt) + len(self.ids) - 1

    @property
    def stopped(self) -> bool:
        return bool(self.ids) and self.ids[-1] in self.policy.eos

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.ids) == self.max_tokens


@dataclass
class Place:
    """Where the coming forward pass writes."""

    rows: slice
    width: int
    """Columns in use, once it has written."""
    columns_B: Tensor | None = None
    """The column of each row's token; None when whole prompts are written from column 0."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, each [slot, head, column, feature]."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        self.place = Place(slice(0), 0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.states = [key_states[:0], value_states[:0]]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, width, columns_B = self.place.rows, self.place.width, self.place.columns_B
        keys, values = self.states = [self._grown(states) for states in self.states]
        if columns_B is None:  # a prompt sees itself alone, so it need not read the cache
            keys[rows, :, :width], values[rows, :, :width] = key_states, value_states
            return key_states, value_states
        rows_B = torch.arange(rows.stop, device=columns_B.device)
        keys[rows_B, :, columns_B] = key_states[:, :, 0]
        values[rows_B, :, columns_B] = value_states[:, :, 0]
        return keys[rows, :, :width], values[rows, :, :width]

    def _grown(self, old: Tensor) -> Tensor:
        """The same with room for the place at hand; by doubling, so that it seldom happens."""
        slots, heads, columns, features = old.shape
        if slots >= self.place.rows.stop and columns >= self.place.width:
            return old
        more = max(slots, _power_of_two(self.place.rows.stop))
        wider = max(columns, _power_of_two(self.place.width))
        # zeros, not empty: masked columns get weight 0, and 0 times a stray NaN is NaN
        new = old.new_zeros(more, heads, wider, features)
        new[:slots, :, :columns] = old
        return new

    # the model asks these only while it prefills, when nothing lies before the prompt
    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1


class Slots(Cache):
    """The cache of a batch, as transformers' models want it."""

    def __init__(self, layers: int) -> None:
        self.slot_layers = [SlotLayer() for _ in range(layers)]
        super().__init__(layers=[*self.slot_layers])

    def place(self, place: Place) -> None:
        for layer in self.slot_layers:
            layer.place = place

    def move(self, sources: list[int], targets: list[int], width: int) -> None:
        for layer in self.slot_layers:
            for states in layer.states:
                states[targets, :, :width] = states[sources, :, :width]


class Batch:
    """Rows of one version. Only `newcomers` and `free` are for other threads than the model's."""

    def __init__(self, policy: Policy, slots: Slots, max_rows: int) -> None:
        self.policy, self.slots, self.max_rows = policy, slots, max_rows
        self.rows: list[Row] = []
        self.newcomers: list[Row] = []

    @property
    def free(self) -> int:
        return self.max_rows - len(self.rows) - len(self.newcomers)

    @torch.inference_mode()
    def turn(self) -> list[Row]:
        """Write one token to every row; the rows that are finished by it."""
        self._keep([not row.future.done() for row in self.rows])  # a caller may have gone
        self._enter([row for row in self.newcomers if not row.future.done()])
        self.newcomers = []
        if not self.rows:
            return []
        self._write()
        finished = [row for row in self.rows if row.finished]
        self._keep([not row.finished for row in self.rows])
        return finished

    def _keep(self, keeps: list[bool]) -> None:
        """Drop rows; the last ones move into the slots that become free."""
        left = sum(keeps)
        targets = [b for b in range(left) if not keeps[b]]
        sources = [b for b in range(left, len(keeps)) if keeps[b]]
        if targets:
            self.slots.move(sources, targets, max(self.rows[b].column for b in sources))
            for source, target in zip(sources, targets, strict=True):
                self.rows[target] = self.rows[source]
        del self.rows[left:]

    def _enter(self, newcomers: list[Row]) -> None:
        """Prefill prompts, less the last token of each: that is what the first step reads."""
        device = self.policy.model.device
        by_length = sorted(newcomers, key=lambda row: len(row.prompt))
        for rows in _chunks(by_length, PREFILL.get(device.type, 4096)):
            first, width = len(self.rows), len(rows[-1].prompt) - 1
            self.rows += rows
            if width:
                # padding stands behind the prompt, where causal attention never looks
                padded = [row.prompt[:-1] + [0] * (width + 1 - len(row.prompt)) for row in rows]
                ids_M_T = torch.tensor(padded, device=device)
                self.slots.place(Place(slice(first, len(self.rows)), width))
                self.policy.model.base_model(ids_M_T, past_key_values=self.slots, use_cache=True)

    def _write(self) -> None:
        """One decoding step for all rows."""
        rows, device = self.rows, self.policy.model.device
        columns_B = torch.tensor([row.column for row in rows], device=device)
        width = 8 * math.ceil((max(row.column for row in rows) + 1) / 8)  # as kernels like it
        self.slots.place(Place(slice(0, len(rows)), width, columns_B))
        logits_B_V = self.policy.model(
            torch.tensor([[row.newest] for row in rows], device=device),
            attention_mask=self._mask(columns_B, width),
            position_ids=columns_B[:, None],
            past_key_values=self.slots,
            use_cache=True,
        ).logits[:, -1]
        draws = [(row.temperature, row.uniforms[len(row.ids)]) for row in rows]
        draws_2_B = torch.tensor(draws, device=device, dtype=torch.float64).T
        ids_B, logprobs_B = sample(logits_B_V, *draws_2_B)
        if not logprobs_B.isfinite().all():
            raise FloatingPointError(f"{self.policy.id} gave probabilities that are not finite")
        for row, token, logprob in zip(rows, ids_B.tolist(), logprobs_B.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)

    def _mask(self, columns_B: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """Additive masks [B, 1, 1, W], one per kind of layer, which models take as they are."""
        dtype, columns_W = self.policy.model.dtype, torch.arange(width, device=columns_B.device)
        ages_B_W = columns_B[:, None] - columns_W
        masks: dict[str, Tensor] = {}
        for kind, window in self.policy.windows.items():
            hidden_B_W = (ages_B_W < 0) | (ages_B_W >= (window or width))
            mask_B_W = torch.zeros_like(hidden_B_W, dtype=dtype)
            mask_B_W.masked_fill_(hidden_B_W, torch.finfo(dtype).min)
            masks[kind] = mask_B_W[:, None, None]
        return masks if len(masks) > 1 else masks.popitem()[1]


def sample(logits_B_V: Tensor, temperature_B: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids, and their natural log-probabilities at temperature 1.

    By inverse CDF in float64: float32 kernels give slightly other logits in other batch shapes
    (about 1e-7), which changes a token only where its uniform falls that close to the border of
    two tokens: a measure of about 1e-7 per token, so in practice never.
    """
    logprobs_B_V = logits_B_V.double().log_softmax(-1)
    greedy_B = temperature_B == 0
    scale_B = torch.where(greedy_B, 1.0, temperature_B)
    cdf_B_V = (logprobs_B_V / scale_B[:, None]).softmax(-1).cumsum(-1)
    drawn_B = torch.searchsorted(cdf_B_V, uniform_B[:, None] * cdf_B_V[:, -1:], right=True)[:, 0]
    drawn_B = drawn_B.clamp(max=logits_B_V.shape[-1] - 1)  # where rounding took u up to the total
    ids_B = torch.where(greedy_B, logits_B_V.argmax(-1), drawn_B)
    return ids_B, logprobs_B_V.gather(1, ids_B[:, None])[:, 0]


def _chunks(rows: list[Row], budget: int) -> Iterator[list[Row]]:
    """Rows in order of length, cut where padded to the longest they would exceed the budget."""
    start = 0
    for end, row in enumerate(rows):
        if end > start and (end + 1 - start) * len(row.prompt) > budget:
            yield rows[start:end]
            start = end
    if rows:
        yield rows[start:]


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
