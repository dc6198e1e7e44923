"""What a world is: a source of tasks that knows the truth. One world a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from superalign.store.records import Question, Task


class World(Protocol):
    """Makes tasks, validates questions, knows what is right, and is cheap."""

    name: str
    cells: tuple[str, ...]
    """The taxonomy of weaknesses: where a learner may be strong or weak."""

    def topic(self, cell: str) -> Task:
        """The task of an attacker: write a question of this cell."""
        ...

    def tasks(self, n: int, seed: int) -> Iterable[Task]:
        """`n` training tasks with their targets; never a held-out one."""
        ...

    def heldout(self, n: int) -> list[Task]:
        """The same `n` held-out tasks at every call, each cell equally often."""
        ...

    def cell(self, question: Question) -> str | None:
        """The cell a question lies in; None when it is no valid question of this world, or is
        held out (an attacker must not train the learner on what it is tested with)."""
        ...

    def truth(self, question: Question) -> str:
        """The right result of a valid question."""
        ...

    def fault(self, question: Question, answer: str) -> int | None:
        """The first wrong working line of an answer, from 1; None when all of it is right."""
        ...

    def correct(self, question: Question, answer: str) -> bool:
        """Whether an answer ends in the right result, whatever its working. Accuracy is that."""
        ...
