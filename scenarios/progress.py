"""Live progress: a table on a terminal, a line a stage elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

_STDERR = Console(stderr=True)


class Display:
    """Shows what a run is doing. Use as a context manager; call it as the loop's `Progress`."""

    def __init__(self) -> None:
        self.console = _STDERR
        self.rows: dict[tuple[int, str], tuple[int, int, dict[str, Any], float]] = {}
        self.started = time.monotonic()
        self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def __call__(
        self, what: str, iteration: int, done: int, total: int, facts: dict[str, Any]
    ) -> None:
        first = self.rows.get((iteration, what), (0, 0, {}, time.monotonic()))[3]
        self.rows[iteration, what] = done, total, facts, first
        if done == total and not self.console.is_terminal:
            seconds = time.monotonic() - first
            line = f"iteration {iteration}: {what} {total} in {seconds:.0f} s {_short(facts)}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("iteration", "stage", "done", "", "facts"):
            table.add_column(column)
        for (iteration, what), (done, total, facts, _) in list(self.rows.items())[-12:]:
            bar = "━" * (20 * done // max(total, 1))
            table.add_row(str(iteration), what, f"{done:,}/{total:,}", bar, _short(facts))
        table.caption = f"{time.monotonic() - self.started:.0f} s"
        return table


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal while a command goes through episodes: call it with (done, total)."""
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=_STDERR)
    task = bar.add_task(what, total=None)
    with bar if _STDERR.is_terminal else contextlib.nullcontext():
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _short(facts: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.3g}" for k, v in facts.items() if isinstance(v, int | float) and v)
