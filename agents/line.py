"""The line before an engine: every episode's calls get a place in turn.

Start-time fair queueing (Goyal, Vin and Cheng 1996) over episodes, every call of cost 1: call k of
an episode has its turn at S_k = 1 + max(V, S_{k-1}), where V is the S of the call that was let in
last; the lowest S goes first, equal ones as they came. An episode that makes a hundred calls at
once waits for its own; one that makes a single call waits for about one of every other. Whoever is
new comes after those who wait for the same turn, so that no stream of newcomers holds others up.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, TypeVar

Call = TypeVar("Call")


class Line(Generic[Call]):
    """Calls that wait, the next one first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Call]] = []
        self._last: dict[str, int] = {}
        """Of episodes that are ahead of V: the turn of their last call."""
        self._now = 0
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, call: Call, episode: str) -> None:
        turn = 1 + max(self._now, self._last.get(episode, 0))
        self._last[episode] = turn
        heapq.heappush(self._waiting, (turn, next(self._numbers), call))

    def pop(self) -> Call:
        self._now, _, call = heapq.heappop(self._waiting)
        if len(self._last) > 2 * len(self._waiting) + 64:  # what V has passed says nothing more
            self._last = {e: turn for e, turn in self._last.items() if turn > self._now}
        return call

    def clear(self) -> list[Call]:
        """All calls, which then wait no longer."""
        calls = [call for _, _, call in self._waiting]
        self._waiting.clear()
        return calls
