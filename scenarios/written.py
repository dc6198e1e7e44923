"""Worlds whose questions are all written down: what they share. Each file of data has a world.

A fifth of the questions is held out, by a hash of what they are about: all questions about one
passage lie on the same side. The order of two choices, where the data has none, and which of
several wrong ones is offered are drawn by a hash too: the same in every run, and telling nothing.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from superalign.agents import parse_choice
from superalign.agents.parse import last_line
from superalign.store.errors import BadInput, Unreadable
from superalign.store.records import Question, Task, digest

HELD_OUT = 0.2

Key = tuple[str, tuple[str, ...]]


class Entry(NamedTuple):
    """A task whose topic is its cell, and what it is about: one passage, or the question itself."""

    task: Task
    about: str


class Written:
    """The `World` of entries: a subclass reads them."""

    name: str
    cells: tuple[str, ...] = ()

    def entries(self) -> Iterable[Entry]:
        """All questions, in the data's order. One that was there already is left out, and one
        that the data answers in two ways altogether."""
        raise NotImplementedError

    @cached_property
    def _entries(self) -> dict[Key, Entry]:
        found: dict[Key, Entry] = {}
        disputed = set()
        for entry in self.entries():
            first = found.setdefault(key := _key(entry.task.question), entry)
            if first.task.target != entry.task.target:
                disputed.add(key)
        return {key: entry for key, entry in found.items() if key not in disputed}

    def topic(self, cell: str) -> Task:
        raise BadInput(
            f"{self.name}: its questions are written down, an attacker can add none;"
            " name a protocol without the seat `attacker`"
        )

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """`n` different training questions, in an order that the seed draws."""
        kept = [e.task for e in self._entries.values() if not held_out(e.about)]
        if n > len(kept):
            has = f"{self.name} has {len(kept)} questions that are not held out"
            raise BadInput(f"episodes: {n} asked for, but {has}")
        yield from random.Random(f"tasks {seed}").sample(kept, n)

    def heldout(self, n: int) -> list[Task]:
        """The same `n` tasks at every call: the cells in turn, as long as each has some."""
        cells: dict[str, list[Task]] = {}
        for entry in self._entries.values():
            if held_out(entry.about):
                cells.setdefault(entry.task.question.topic, []).append(entry.task)
        for tasks in cells.values():
            tasks.sort(key=lambda task: task.key)  # a hash: no part of the data comes first
        turns = chain.from_iterable(zip_longest(*cells.values()))
        held = [task for task in turns if task is not None]
        if n > len(held):
            raise BadInput(f"evaluate.heldout: {n}, but {self.name} holds out {len(held)}")
        return held[:n]

    def cell(self, question: Question) -> str | None:
        """The cell of a question; None when it is none of these, or is held out."""
        entry = self._entries.get(_key(question))
        return None if entry is None or held_out(entry.about) else entry.task.question.topic

    def truth(self, question: Question) -> str:
        target = self._entries[_key(question)].task.target
        assert target is not None
        return target

    def correct(self, question: Question, answer: str) -> bool:
        """Whether it is the right choice, in its words or by its number from 0."""
        return chosen(question, answer) == self.truth(question)

    def fault(self, question: Question, answer: str) -> int | None:
        """Only the result can be checked: the last line, when it is wrong."""
        if self.correct(question, answer):
            return None
        return max(1, len(answer.strip().splitlines()))


def _key(question: Question) -> Key:
    """What makes it this question, whatever order its choices are in."""
    return question.text, tuple(sorted(question.choices))


def chosen(question: Question, answer: str) -> str | None:
    """The choice that an answer ends in; None when it ends in none. A choice's own words come
    first: `1` may be the text of choice 0. Of an open question it is the end of the answer."""
    said = last_line(answer, "answer")
    if not question.choices or said in question.choices:
        return said
    try:
        return question.choices[parse_choice(said, len(question.choices))]
    except Unreadable:
        return None


def held_out(about: str) -> bool:
    """Whether what a question is about is kept for testing: decided by its text, for all time."""
    return share("held out", about) < HELD_OUT


def share(*parts: str) -> float:
    """A number from 0 to 1 that is drawn once and for all."""
    return int(digest(*parts, size=4), 16) / 2**32


def two_choices(topic: str, text: str, right: str, wrong: str, **more: Any) -> Task:
    """A task with two choices, whose order is drawn."""
    choices = (right, wrong) if share("order", text, right) < 0.5 else (wrong, right)
    return Task(question=Question(topic=topic, text=text, choices=choices), target=right, **more)


def data_folder(path: Path | None, name: str) -> Path:
    """The folder of this name, below the one that a world was told or $SUPERALIGN_DATA."""
    data = path or os.environ.get("SUPERALIGN_DATA")
    if data is None or not (Path(data) / name).is_dir():
        where = Path(data or "$SUPERALIGN_DATA") / name
        raise BadInput(f"{where}: no such folder; set world.path or $SUPERALIGN_DATA")
    return Path(data) / name


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped file of JSON Lines."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {error}; copy it again") from error
