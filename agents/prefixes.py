"""Beginnings of prompts that have been read before, so that they need not be read again.

The seats of an episode read the same question, each later turn of a seat begins as its turn before,
and all prompts of a seat begin with the same instruction. What a row has read and written is kept
when it ends, the latest first; a new prompt takes over the longest beginning that it shares.

Sequences are kept in the order of their tokens: whatever shares most with a prompt is then one of
its two neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

SHORTEST = 16
"""Tokens in common that are worth the copying."""
BYTES = 2**28
"""Most memory of what is kept."""

Tokens = tuple[int, ...]


class Prefixes:
    """Keys and values of sequences that one version has read."""

    def __init__(self, most: int = BYTES) -> None:
        self.most, self.size = most, 0
        self._kept: OrderedDict[Tokens, list[Tensor]] = OrderedDict()
        self._sorted: list[Tokens] = []

    def find(self, tokens: Sequence[int]) -> tuple[int, list[Tensor]]:
        """How many tokens a kept sequence begins alike, and its keys and values; 0 for too few."""
        wanted = tuple(tokens)
        best, shared = None, SHORTEST - 1
        for neighbour in self._neighbours(wanted):
            if (alike := common(wanted, neighbour)) > shared:
                best, shared = neighbour, alike
        if best is None:
            return 0, []
        self._kept.move_to_end(best)
        return shared, self._kept[best]

    def put(self, tokens: Sequence[int], states: list[Tensor]) -> None:
        """Keep a sequence's keys and values, in place of those of its own beginning."""
        new = tuple(tokens)
        for neighbour in self._neighbours(new):
            alike = common(new, neighbour)
            if alike == len(new):
                return
            if alike == len(neighbour):
                self._drop(neighbour)
        self._kept[new] = states
        insort(self._sorted, new)
        self.size += _size(states)
        while self.size > self.most:
            self._drop(next(iter(self._kept)))

    def _neighbours(self, tokens: Tokens) -> list[Tokens]:
        at = bisect_left(self._sorted, tokens)
        return self._sorted[max(0, at - 1) : at + 1]

    def _drop(self, tokens: Tokens) -> None:
        self.size -= _size(self._kept.pop(tokens))
        del self._sorted[bisect_left(self._sorted, tokens)]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin alike."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def _size(states: list[Tensor]) -> int:
    return sum(part.nbytes for part in states)
