"""How much is in flight: as many episodes as keep the engines busy, and few more.

The window that holds them is found as TCP Vegas finds its own (Brakmo and Peterson 1995): by how
many calls wait in line, the share p of an engine's places. For every call that had to be waited for

    W <- W + 1       where no call waits for a place        (it doubles in a round of calls)
    W <- W - 1/32    where p > 1/2
    W                in between: a short line keeps the engine full

Engines that answer at once never wait, and so need no more than the first few. Memory holds what is
in flight and no more: what is to be done is read as places fall free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Generic, TypeVar

Job = TypeVar("Job")

START = 32
"""In flight before anything is known."""
LINE = 1 / 2
"""The longest line that is left as it is, as a share of an engine's places."""
LESS = 1 / 32


class Flow(Generic[Job]):
    """Does jobs, at most `cap` at a time, in their order. Single use."""

    def __init__(self, cap: int, do: Callable[[Job], Awaitable[None]]) -> None:
        self.cap, self.window, self.busy = cap, float(min(START, cap)), 0
        self._do = do
        self._jobs: Iterator[Job] = iter(())
        self._group = asyncio.TaskGroup()
        self._main: asyncio.Task[None] | None = None
        """The task that runs it; None where nothing more is begun."""

    async def run(self, jobs: Iterable[Job]) -> None:
        """Do all of them. The first that raises ends the others."""
        self._jobs, self._main = iter(jobs), asyncio.current_task()
        try:
            async with self._group:
                self._fill()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def answered(self, pressure: float) -> None:
        """A call that had to be waited for has its answer; so many now wait for a place."""
        if pressure == 0:
            self.window = min(self.window + 1, self.cap)
            self._fill()
        elif pressure > LINE:
            self.window = max(self.window - LESS, 1.0)

    def _fill(self) -> None:
        while self._main and not self._main.cancelling() and self.busy < int(self.window):
            self.busy += 1
            self._group.create_task(self._work())

    async def _work(self) -> None:
        try:
            for job in self._jobs:
                await self._do(job)
                if self.busy > self.window:
                    return
            self._main = None
        except BaseException:
            self._main = None
            raise
        finally:
            self.busy -= 1
