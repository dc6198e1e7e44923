"""How many calls an endpoint is sent at once: found by watching it, as TCP finds its window.

The limit doubles while the endpoint's rate grows with it: limit x tokens / seconds of the calls, by
Little's law. Where doubling gains less than a quarter of what it should, latency is what grows: the
limit goes back and from then on changes by small steps (additive increase), each kept only if it
pays. A call that the endpoint says is too many (429, 503, 529) takes a quarter off (multiplicative
decrease), once for all calls that were under way then; so do other errors and timeouts when half of
all calls end in them, since some come by chance. What `Retry-After` asks for holds every call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

START, MOST = 8, 4096
"""Calls at once before anything is known, and ever."""
LESS = 0.75
"""What is left of the limit when it was too much: half would leave a quarter of the server idle."""
STEP = 1 / 32
"""What is added at a time, as a share of the limit when it was last too much."""
REST = 8
"""Windows without a change after a step that did not pay."""


class Pace:
    """One endpoint's gate: `enter` before a request, `leave` after it."""

    def __init__(self, cap: int | None = None) -> None:
        """`cap` is the most calls at once; None leaves that to the endpoint."""
        self.cap = cap or MOST
        self.limit = float(min(START, self.cap))
        self.active = 0
        self.window = 0
        """Which stretch of unchanged limit this is. Calls count in the one they began in."""
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._doubling, self._step, self._rest = True, 1.0, 0
        self._best, self._kept = 0.0, self.limit
        """The best rate yet, and the limit that gave it."""
        self._open()

    async def enter(self) -> int:
        """Wait for a place; gives the window that the call belongs to."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self.active -= 1
        self._admit()

    def succeeded(self, window: int, tokens: int, seconds: float) -> None:
        """A call was answered with so many tokens after so long."""
        if window != self.window:
            return
        self._done += 1
        self._tokens += max(tokens, 1)
        self._seconds += seconds
        if self._done >= max(int(self.limit), START):
            self._judge()

    def overloaded(self, window: int) -> None:
        """The endpoint could not take a call that began in this window."""
        if window != self.window:
            return
        self._doubling, self._rest = False, 0
        self._set(self.limit * LESS)
        self._best, self._kept = 0.0, self.limit  # what was possible before is so no more
        self._step = max(1.0, self.limit * STEP)

    def failed(self, window: int) -> None:
        """A call that began in this window ended in an error that may be by chance."""
        if window == self.window:
            self._failed += 1
            if self._begun >= START and self._failed > self._begun / 2:
                self.overloaded(window)

    def hold(self, seconds: float) -> None:
        """Let no call begin for so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    def _open(self) -> None:
        self.window += 1
        self._done, self._tokens, self._seconds, self._full = 0, 0, 0.0, False
        self._begun, self._failed = 0, 0

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, 1.0), float(self.cap))
        self._open()
        self._admit()

    def _judge(self) -> None:
        """Whether the last change paid, and what to try next."""
        rate = self.limit * self._tokens / max(self._seconds, 1e-9)  # of as many calls at once
        if not self._full:  # what is not used teaches nothing
            self._open()
        elif self._rest > 1:
            self._rest -= 1
            self._open()
        elif self._rest or rate > self._best * (1 + (self.limit / self._kept - 1) / 4):
            self._rest, self._best, self._kept = 0, rate, self.limit
            self._set(self.limit * 2 if self._doubling else self.limit + self._step)
        else:
            if self._doubling:
                self._doubling, self._step = False, max(1.0, self._kept * STEP)
            self._rest = REST
            self._set(self._kept)

    def _admit(self) -> None:
        """Give free places to those who have waited longest."""
        now = time.monotonic()
        if now < self._until:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._until - now, self._go_on)
            return
        while self._waiting and self.active < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.active += 1
                self._begun += 1
                place.set_result(self.window)
        self._full = self._full or self.active >= int(self.limit)

    def _go_on(self) -> None:
        self._timer = None
        self._admit()
