"""The running batch of one policy version: who has which slot, and how tokens are drawn.

A turn lets newcomers in and writes one token to every row. Prompts are read once (prefilled), less
what they share with a prompt read before (`prefixes.py`); keys and values lie in `slots.py`.

Axes: B rows of the batch, M newcomers, T tokens read, W columns in use, V vocabulary.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .prefixes import SHORTEST, Prefixes, common
from .slots import Place, Slots, Span

PREFILL = {"cpu": 1024, "cuda": 16384}
"""Prompt tokens in one prefill pass. On a CPU 1.6 times as fast as 4096: it fits the caches."""
BAND = {"cpu": 64}
"""Slots in a band. Other devices have one band: there a call costs more than what it reads."""
APART = 8
"""Columns by which rows of a band may differ before an empty band is taken."""
SPARE = 2
"""Slots for each row, so that a band may run empty and be filled anew with rows about as long."""


@dataclass(eq=False)
class Policy:
    """One set of weights, and what an engine must know of it."""

    id: str
    model: PreTrainedModel
    eos: frozenset[int]
    context: int
    windows: dict[str, int | None]
    """Kind of attention layer -> how far back it sees; None is to the beginning."""
    reads_slots: bool
    """Whether it attends to rows where they lie (`slots.attend`), or wants them side by side."""
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
    slot: int = -1
    shared: int = 0
    """Tokens of the prompt that were taken over from another row."""
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
    def unread(self) -> int:
        """Tokens of the prompt that are yet to be prefilled: all but the last, less the shared."""
        return len(self.prompt) - 1 - self.shared

    @property
    def stopped(self) -> bool:
        return bool(self.ids) and self.ids[-1] in self.policy.eos

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.ids) == self.max_tokens


class Batch:
    """Rows of one version. Only `newcomers` and `free` are for other threads than the model's."""

    def __init__(self, policy: Policy, slots: Slots, prefixes: Prefixes, max_rows: int) -> None:
        self.policy, self.slots, self.prefixes = policy, slots, prefixes
        self.max_rows, self.device = max_rows, policy.model.device
        self.band = min(BAND.get(self.device.type, max_rows), max_rows)
        bands = 1 if self.band == max_rows else math.ceil(SPARE * max_rows / self.band)
        self.bands: list[list[Row]] = [[] for _ in range(bands)]
        self.newcomers: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        return [row for band in self.bands for row in band]

    @property
    def free(self) -> int:
        return self.max_rows - sum(map(len, self.bands)) - len(self.newcomers)

    @torch.inference_mode()
    def turn(self) -> list[Row]:
        """Write one token to every row; the rows that are finished by it."""
        self._drop({row for row in self.rows if row.future.done()})  # a caller may have gone
        self._enter([row for row in self.newcomers if not row.future.done()])
        self.newcomers = []
        rows = self.rows
        if not rows:
            return []
        self._write(rows)
        finished = [row for row in rows if row.finished]
        self._keep(finished)
        self._drop(set(finished))
        return finished

    def _enter(self, newcomers: list[Row]) -> None:
        """Prefill prompts, less the last token of each: that is what the first step reads."""
        self._seat(newcomers)
        groups = _alike(newcomers)
        self._read([leader for leader, *_ in groups])
        self._keep([leader for leader, *others in groups if others])
        self._read([row for _, *others in groups for row in others])

    def _seat(self, newcomers: list[Row]) -> None:
        """A slot for each, in the band whose longest row is nearest to it in length."""
        widths = [max((row.column for row in band), default=None) for band in self.bands]
        for row in sorted(newcomers, key=lambda row: row.column):
            room = [i for i, band in enumerate(self.bands) if len(band) < self.band]
            apart = {
                i: abs(w - row.column) if (w := widths[i]) is not None else APART for i in room
            }
            i = min(room, key=apart.__getitem__)
            row.slot = i * self.band + len(self.bands[i])
            self.bands[i].append(row)
            widths[i] = max(widths[i] or 0, row.column)

    def _read(self, rows: list[Row]) -> None:
        """Take over what is known of each prompt, and prefill the rest."""
        for row in rows:
            row.shared, known = self.prefixes.find(row.prompt[:-1])
            if row.shared:
                self.slots.write(row.slot, known, row.shared)
        budget = PREFILL.get(self.device.type, 4096)
        for some in ([r for r in rows if not r.shared], [r for r in rows if r.shared]):
            for chunk in _chunks(sorted(some, key=lambda row: row.unread), budget):
                if chunk[-1].unread:
                    self._prefill(chunk)

    def _prefill(self, rows: list[Row]) -> None:
        width = rows[-1].unread
        unread = [row.prompt[row.shared : -1] for row in rows]
        # padding stands behind the prompt, where causal attention never looks
        ids_M_T = self._tensor([ids + [0] * (width - len(ids)) for ids in unread])
        slots_M, height = self._slots_of(rows)
        told = {}
        if rows[-1].shared:
            columns_M_T = self._tensor([row.shared for row in rows])[:, None]
            columns_M_T = columns_M_T + torch.arange(width, device=self.device)
            width += max(row.shared for row in rows)
            told = {"position_ids": columns_M_T, "attention_mask": self._mask(columns_M_T, width)}
        self.slots.place(Place(slots_M, height, width, told.get("position_ids")))
        self.policy.model.base_model(ids_M_T, past_key_values=self.slots, use_cache=True, **told)

    def _write(self, rows: list[Row]) -> None:
        """One decoding step for all rows."""
        columns_B_1 = self._tensor([[row.column] for row in rows])
        slots_B, height = self._slots_of(rows)
        spans = tuple(self._spans())
        width = max(span.width for span in spans)
        seen = {"spans": spans} if self.policy.reads_slots else {}
        self.slots.place(Place(slots_B, height, width, columns_B_1, bool(seen)))
        logits_B_V = self.policy.model(
            self._tensor([[row.newest] for row in rows]),
            attention_mask=self._mask(columns_B_1, width),
            position_ids=columns_B_1,
            past_key_values=self.slots,
            use_cache=True,
            **seen,
        ).logits[:, -1]
        draws = [(row.temperature, row.uniforms[len(row.ids)]) for row in rows]
        draws_2_B = torch.tensor(draws, device=self.device, dtype=torch.float64).T
        ids_B, logprobs_B = sample(logits_B_V, *draws_2_B)
        if not logprobs_B.isfinite().all():
            raise FloatingPointError(f"{self.policy.id} gave probabilities that are not finite")
        for row, token, logprob in zip(rows, ids_B.tolist(), logprobs_B.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)

    def _keep(self, rows: list[Row]) -> None:
        """Remember what rows have read, for prompts that begin alike."""
        rows = [row for row in rows if row.column >= SHORTEST]
        if rows:
            slots, longest = [row.slot for row in rows], max(row.column for row in rows)
            for row, copied in zip(rows, self.slots.read(slots, longest), strict=True):
                self.prefixes.put((row.prompt + row.ids)[: row.column], copied)

    def _drop(self, gone: set[Row]) -> None:
        """Forget rows; the last ones of their bands move into the slots that become free."""
        moves: list[tuple[Row, int]] = []
        for i, band in enumerate(self.bands):
            left = [row for row in band if row not in gone]
            free = [b for b, row in enumerate(band[: len(left)]) if row in gone]
            for b, row in zip(free, [r for r in band[len(left) :] if r not in gone], strict=True):
                moves.append((row, i * self.band + b))
                band[b] = row
            del band[len(left) :]
        if moves:
            width = max(row.column for row, _ in moves)
            self.slots.move([row.slot for row, _ in moves], [slot for _, slot in moves], width)
            for row, slot in moves:
                row.slot = slot

    def _spans(self) -> Iterator[Span]:
        """Where each band that is in use lies, among the rows and in the slots."""
        first = 0
        for i, band in enumerate(self.bands):
            if band:
                slot, end = i * self.band, first + len(band)
                width = 8 * math.ceil((max(row.column for row in band) + 1) / 8)  # as kernels like
                yield Span(slice(first, end), slice(slot, slot + len(band)), width)
                first = end

    def _mask(self, columns_B_T: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """Additive masks [B, 1, T, W], one per kind of layer, which models take as they are."""
        dtype, columns_W = self.policy.model.dtype, torch.arange(width, device=self.device)
        ages_B_T_W = columns_B_T[:, :, None] - columns_W
        masks: dict[str, Tensor] = {}
        for kind, window in self.policy.windows.items():
            hidden_B_T_W = (ages_B_T_W < 0) | (ages_B_T_W >= (window or width))
            mask_B_T_W = torch.zeros_like(hidden_B_T_W, dtype=dtype)
            mask_B_T_W.masked_fill_(hidden_B_T_W, torch.finfo(dtype).min)
            masks[kind] = mask_B_T_W[:, None]
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _slots_of(self, rows: list[Row]) -> tuple[Tensor, int]:
        """The slots of rows, and how many slots that reaches into."""
        slots = [row.slot for row in rows]
        return self._tensor(slots), max(slots) + 1

    def _tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


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


def _alike(rows: list[Row]) -> list[list[Row]]:
    """Rows in groups whose prompts begin like that of the first."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.prompt):
        if groups and common(groups[-1][0].prompt[:-1], row.prompt[:-1]) >= SHORTEST:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _chunks(rows: list[Row], budget: int) -> Iterator[list[Row]]:
    """Rows in order of what they lack, cut where padded to the most they exceed the budget."""
    start = 0
    for end, row in enumerate(rows):
        if end > start and (end + 1 - start) * row.unread > budget:
            yield rows[start:end]
            start = end
    if rows:
        yield rows[start:]
