"""Keys and values of a running batch: one slot a row, written in place, from column 0 on.

A row owns its slot, so nobody's arrival or departure moves anybody else's columns, prompts of all
lengths stand side by side, and a step writes the new column alone, where a growing cache is copied
whole. A decoding step is bound by how much of this memory it reads. So rows about as long stand
together in a band, and each band is read no further than its own longest row (`attend`).

Axes: B rows of the pass, T tokens of a row in it, W columns, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "slots"
"""What transformers calls `attend`."""


class Span(NamedTuple):
    """Rows of a pass that lie side by side in slots, and the columns that the longest has."""

    rows: slice
    slots: slice
    width: int


@dataclass
class Place:
    """Where the coming pass writes."""

    slots_B: Tensor
    height: int
    width: int
    """Slots and columns in use, once it has written."""
    columns_B_T: Tensor | None = None
    """The column of each token; None when whole prompts are written from column 0."""
    whole: bool = False
    """Whether all slots are to be read where they are, by `attend`; or a copy of the rows'."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, each [slot, head, column, feature]."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        self.place: Place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.states = [key_states[:0], value_states[:0]]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.place
        self.reserve(place.height, place.width)
        keys, values = self.states
        if place.columns_B_T is None:  # a prompt sees itself alone, so it need not read the cache
            keys[place.slots_B, :, : place.width] = key_states
            values[place.slots_B, :, : place.width] = value_states
            return key_states, value_states
        slots_B_1 = place.slots_B[:, None]
        keys[slots_B_1, :, place.columns_B_T] = key_states.transpose(1, 2)
        values[slots_B_1, :, place.columns_B_T] = value_states.transpose(1, 2)
        if place.whole:
            return keys, values
        return keys[place.slots_B, :, : place.width], values[place.slots_B, :, : place.width]

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; by doubling, so that it seldom happens."""
        there, heads, wide, _ = self.states[0].shape
        if there >= slots and wide >= columns:
            return
        more, wider = max(there, _power_of_two(slots)), max(wide, _power_of_two(columns))
        for i, old in enumerate(self.states):
            # zeros, not empty: masked columns get weight 0, and 0 times a stray NaN is NaN
            new = old.new_zeros(more, heads, wider, old.shape[-1])
            new[:there, :, :wide] = old
            self.states[i] = new

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

    def read(self, slots: list[int], columns: int) -> list[list[Tensor]]:
        """Copies of the first columns of slots: of each, keys and values of every layer."""
        copied = [
            states[slots, :, :columns] for layer in self.slot_layers for states in layer.states
        ]
        return [list(parts) for parts in zip(*copied, strict=True)]

    def write(self, slot: int, copied: Sequence[Tensor], columns: int) -> None:
        """Put the first columns of such a copy into a slot."""
        for i, layer in enumerate(self.slot_layers):
            if not layer.is_initialized:
                layer.lazy_initialization(copied[2 * i][None], copied[2 * i + 1][None])
            layer.reserve(slot + 1, columns)
            for states, part in zip(layer.states, copied[2 * i : 2 * i + 2], strict=True):
                states[slot, :, :columns] = part[:, :columns]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    spans: tuple[Span, ...] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token a row over the slots, band by band; without `spans` it is
    transformers' own. [B, 1, H, feature]"""
    if not spans or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    rows, heads = query.shape[:2]
    # heads that share keys read them as if they were further tokens, so that none is repeated
    queries = query.reshape(rows, key.shape[1], -1, query.shape[-1])
    read = [
        scaled_dot_product_attention(
            queries[span.rows],
            key[span.slots, :, : span.width],
            value[span.slots, :, : span.width],
            attention_mask[span.rows, ..., : span.width],
            scale=scaling,
        )
        for span in spans
    ]
    return torch.cat(read).reshape(rows, 1, heads, -1), None


def reads_slots(model: PreTrainedModel) -> bool:
    """Let a model read its cache through `attend`, if it lets others choose how it attends."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa" and model._supports_attention_backend:
        model.set_attn_implementation(ATTENTION)
    return config._attn_implementation == ATTENTION


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
