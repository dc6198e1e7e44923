"""How many calls an endpoint is sent at once: found by watching it, as TCP finds its window.

The limit doubles while the endpoint's rate grows with it: limit x tokens / seconds of the calls, by
Little's law. What ends that says what is looked for from then on:

    latency that grows    where doubling gains less than a quarter of what it should: the limit goes
                          back, and then changes by small steps (additive increase), each kept only
                          if it pays
    a refusal             (429, 503, 529) is believed alone from then on. The limit goes to the
                          middle between what was borne and what was refused (as BIC-TCP does; Xu,
                          Harfoush and Rhee 2004), again and again, rests there, and now and then
                          tries more. When what was borne is refused, an eighth is taken off

Other errors and timeouts count as a refusal when half of all calls end in them, since some come by
chance. A refusal counts once for all calls that were under way then. What `Retry-After` asks for
holds the call that was refused, and every call where that was no matter of the limit: where what
was borne is refused.
"""

from __future__ import annotations

import asyncio
import math
import time

from .line import Line

START, MOST = 16, 4096
"""Calls at once before anything is known, and ever."""
ENOUGH = 8
"""Answers that prove that a limit is not too much."""
LESS = 7 / 8
"""What is left of a limit that was borne before and is so no more."""
STEP = 1 / 32
"""What is added at a time, as a share of the limit that was last borne."""
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
        self._waiting: Line[asyncio.Future[int]] = Line()
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._doubling, self._step, self._rest = True, 1.0, 0
        self._best, self._kept = 0.0, 1.0
        """The best rate yet, and the limit that gave it or was last borne."""
        self._refuses, self._much = False, math.inf
        """Whether the endpoint refuses calls, and the least limit at which it lately did."""
        self._open()

    @property
    def pressure(self) -> float:
        """Calls that wait, as a share of the places."""
        return len(self._waiting) / self.limit

    async def enter(self, episode: str = "") -> int:
        """Wait for a place; gives the window that the call belongs to. Episodes take turns."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.push(place, episode)
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
        if self._done >= self._enough:
            self._judge()

    def overloaded(self, window: int, wait: float = 0.0) -> None:
        """The endpoint could not take a call that began in this window, and asked for so many
        seconds without."""
        if window != self.window:
            return
        self._refuses, self._doubling = True, False
        self._much, self._rest = self.limit, 0
        if self._kept < self._much:
            self._halve()
        else:  # what was borne before is so no more
            self._kept = max(1.0, self._much * LESS)
            self.hold(wait)
            self._set(self._kept)

    def failed(self, window: int) -> None:
        """A call that began in this window ended in an error that may be by chance."""
        if window == self.window:
            self._failed += 1
            if self._begun >= ENOUGH and self._failed > self._begun / 2:
                self.overloaded(window)

    def hold(self, seconds: float) -> None:
        """Let no call begin for so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def _enough(self) -> int:
        """Answers after which a window is judged."""
        if self._refuses and not self._rest:
            return ENOUGH  # a refusal would have come at once
        return max(int(self.limit) // (2 if self._doubling else 1), ENOUGH)

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
        elif self._refuses:
            self._climb()
        elif self._rest or rate > self._best * (1 + (self.limit / self._kept - 1) / 4):
            self._rest, self._best, self._kept = 0, rate, self.limit
            self._set(self.limit * 2 if self._doubling else self.limit + self._step)
        else:
            if self._doubling:
                self._doubling, self._step = False, max(1.0, self._kept * STEP)
            self._rest = REST
            self._set(self._kept)

    def _climb(self) -> None:
        """So many calls were borne: try more."""
        if self._rest:
            self._rest, self._much = 0, math.inf
        self._kept = self.limit
        if math.isfinite(self._much):
            self._halve()
        else:
            self._set(self.limit + self._step)
            self._step *= 2

    def _halve(self) -> None:
        """Go to the middle between what is borne and what is refused; rest where that is near."""
        self._step = max(1.0, self._kept * STEP)
        if self._much - self._kept >= 2 * self._step:
            self._set((self._kept + self._much) // 2)
        else:
            self._rest = REST
            self._set(self._kept)

    def _admit(self) -> None:
        """Give free places to those whose turn it is."""
        now = time.monotonic()
        if now < self._until:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._until - now, self._go_on)
            return
        while self._waiting and self.active < int(self.limit):
            place = self._waiting.pop()
            if not place.done():
                self.active += 1
                self._begun += 1
                place.set_result(self.window)
        self._full = self._full or self.active >= int(self.limit)

    def _go_on(self) -> None:
        self._timer = None
        self._admit()
