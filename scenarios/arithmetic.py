"""Arithmetic by the school method: the embedded world, where every line can be checked.

An answer is one working line per column, least significant first, then the result:

    347+285   ->  7+5=12;4+8+1=13;3+2+1=6;632     the carry-in, if any, stands last
    24+36+56  ->  4+6+6=16;2+3+5+1=11;116
    503-128   ->  13-8=5;9-2=7;4-1=3;375          upper digits stand as they are after borrowing

A line of a subtraction takes what was lent to its right neighbour off the upper digit first, and
borrows ten if that leaves too little: each question has exactly one right answer, so the first
line that differs is the first fault. Every valid question lies in one of six cells:

    length    three operands of two digits
    zeros     three-digit subtraction with a zero in the minuend
    minus     three-digit subtraction without one
    carries   two operands of two or three digits, two carries or more
    digits    two operands of three digits, at most one carry
    plain     two operands of two digits, at most one carry
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import zip_longest

from superalign.store.errors import BadInput
from superalign.store.records import Question, Task

CELLS = ("plain", "digits", "carries", "minus", "zeros", "length")

HELD_OUT = {"plain": 0.12}
"""Share of a cell that is held out: more of the one cell that has only 5,715 questions."""
HELD_OUT_ELSE = 0.04
PER_CELL = 600
"""As many held-out tasks as every cell can give."""

SHAPE = re.compile(r"[1-9][0-9]{1,2}(\+[1-9][0-9]{1,2}){1,2}|[1-9][0-9]{2}-[1-9][0-9]{2}")

Slip = Callable[[int, int], tuple[int, int]]
"""Changes the written value and the carry of the column where a mistake is to happen."""


class Arithmetic:
    """The `World` of sums and differences."""

    name = "arithmetic"
    cells: tuple[str, ...] = CELLS

    def __init__(self, choices: int | None = None) -> None:
        """`choices`: 2 to offer the right result and a likely wrong one; None: open questions."""
        self._choices = choices

    def topic(self, cell: str) -> Task:
        """The task of an attacker: write a question of this cell."""
        if cell not in CELLS:
            raise ValueError(f"no cell {cell!r}: one of {', '.join(CELLS)}")
        return Task(question=Question(topic=cell))

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """`n` training tasks, the cells in turn; never a held-out one."""
        rng = random.Random(f"tasks {seed}")
        for i in range(n):
            cell = CELLS[i % len(CELLS)]
            yield self._task(cell, draw(cell, rng))

    def heldout(self, n: int) -> list[Task]:
        """The same `n` tasks at every call, the cells in turn."""
        if n > PER_CELL * len(CELLS):
            most = PER_CELL * len(CELLS)
            raise BadInput(f"evaluate.heldout: {n}, but arithmetic holds out at most {most}")
        drawn = ((CELLS[i % len(CELLS)], i // len(CELLS)) for i in range(n))
        return [self._task(cell, heldout_texts(cell)[i]) for cell, i in drawn]

    def _task(self, cell: str, text: str) -> Task:
        choices = two_choices(text) if self._choices else ()
        return Task(question=Question(topic=cell, text=text, choices=choices), target=result(text))

    def cell(self, question: Question) -> str | None:
        """The cell of a question; None when it is invalid or held out."""
        cell = classify(question.text)
        return None if cell is None or held_out(question.text, cell) else cell

    def truth(self, question: Question) -> str:
        """The right result."""
        return result(question.text)

    def solution(self, question: Question) -> str:
        """The one right answer: all working lines and the result."""
        return ";".join(work(question.text))

    def fault(self, question: Question, answer: str) -> int | None:
        """The first line that is wrong, missing or too many, from 1; None when all is right."""
        pairs = zip_longest(answer.split(";"), work(question.text))
        return next((i for i, (said, right) in enumerate(pairs, 1) if said != right), None)

    def correct(self, question: Question, answer: str) -> bool:
        """Whether the last line is the right result, whatever the working."""
        return answer.rsplit(";", 1)[-1] == result(question.text)


def two_choices(text: str) -> tuple[str, ...]:
    """The right result and the one that `believable` ends in; the text decides their order."""
    results = (result(text), believable(text).rsplit(";", 1)[-1])
    return results if random.Random(f"order {text}").random() < 0.5 else results[::-1]


def believable(text: str) -> str:
    """A wrong answer with one slip, always the same one: no line but that one looks wrong."""
    rng = random.Random(f"believable {text}")
    columns = len(work(text)) - 1
    while True:
        at, by, forget = rng.randrange(columns), rng.choice((-1, 1)), rng.random() < 0.5
        lines = work(text, _forget if forget else partial(_off, by), at)
        if lines[-1] != result(text):
            return ";".join(lines)


def _forget(value: int, carry: int) -> tuple[int, int]:
    return value, 0


def _off(by: int, value: int, carry: int) -> tuple[int, int]:
    wrong = max(0, value + by)
    return wrong, wrong // 10 if value // 10 == carry else carry  # a borrow stays as it was


def classify(text: str) -> str | None:
    """The cell a question lies in, held out or not; None when it is invalid."""
    if not SHAPE.fullmatch(text):
        return None
    if "-" in text:
        upper, lower = text.split("-")
        if int(upper) <= int(lower):
            return None
        return "zeros" if "0" in upper else "minus"
    operands = text.split("+")
    width = len(operands[0])
    if any(len(operand) != width for operand in operands):
        return None
    if len(operands) == 3:
        return "length" if width == 2 else None
    if carries(text) >= 2:
        return "carries"
    return "plain" if width == 2 else "digits"


def carries(text: str) -> int:
    """How many columns of a sum of two operands carry."""
    a, b = map(int, text.split("+"))
    return sum(a % base + b % base >= base for base in (10, 100, 1000))


def held_out(text: str, cell: str) -> bool:
    """Whether a question is kept for testing: decided by its text alone, for all time."""
    share = HELD_OUT.get(cell, HELD_OUT_ELSE)
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) < share * 2**32


@lru_cache
def heldout_texts(cell: str) -> list[str]:
    """The first `PER_CELL` different held-out questions of a cell."""
    rng, texts = random.Random(f"held out {cell}"), dict[str, None]()
    while len(texts) < PER_CELL:
        text = guess(cell, rng)
        if held_out(text, cell) and classify(text) == cell:  # the cheaper test first
            texts[text] = None
    return list(texts)


def draw(cell: str, rng: random.Random) -> str:
    """A random training question of a cell."""
    while held_out(text := any_question(cell, rng), cell):
        pass
    return text


def any_question(cell: str, rng: random.Random) -> str:
    """A random question of a cell, held out or not."""
    while classify(text := guess(cell, rng)) != cell:
        pass
    return text


def guess(cell: str, rng: random.Random) -> str:
    """A random question of the cell's shape."""
    if cell in ("minus", "zeros"):
        return f"{rng.randint(101, 999)}-{rng.randint(100, 998)}"
    operands = 3 if cell == "length" else 2
    wide = cell == "digits" or (cell == "carries" and rng.random() < 0.75)
    low, high = (100, 999) if wide else (10, 99)
    return "+".join(str(rng.randint(low, high)) for _ in range(operands))


def result(text: str) -> str:
    """The right result of a valid question."""
    if "-" in text:
        upper, lower = text.split("-")
        return str(int(upper) - int(lower))
    return str(sum(map(int, text.split("+"))))


def work(text: str, slip: Slip | None = None, at: int = -1) -> list[str]:
    """The lines of the right answer, or, with a `slip` in column `at`, of one that goes on
    consistently from that mistake, as pupils do and models too."""
    sign = "-" if "-" in text else "+"
    columns = list(zip(*(reversed(operand) for operand in text.split(sign)), strict=True))
    lines, written, carry = [], [], 0
    for i, column in enumerate(columns):
        digits = [int(digit) for digit in column]
        if sign == "-":
            upper = digits[0] - carry
            carry = int(upper < digits[1])
            digits[0] = upper + 10 * carry
            value = digits[0] - digits[1]
        else:
            digits += [carry] if carry else []
            value = sum(digits)
            carry = value // 10
        if i == at and slip:
            value, carry = slip(value, carry)
        lines.append(f"{sign.join(map(str, digits))}={value}")
        written.append(value if i == len(columns) - 1 else value % 10)
    total = "".join(str(value) for value in reversed(written)).lstrip("0")
    return [*lines, total or "0"]


def mistake(text: str, rng: random.Random) -> str:
    """An answer with a slip that is easily made; now and then it does no harm."""
    at = rng.randrange(len(work(text)) - 1)
    kind = rng.choice(("value", "value", "value", "carry", "carry", "copy", "result", "shape"))
    if kind == "value":
        by = rng.choice((-2, -1, -1, -1, 1, 1, 1, 2, 10, -10))
        return ";".join(work(text, lambda v, c: (max(0, v + by), max(0, v + by) // 10), at))
    if kind == "carry":
        return ";".join(work(text, lambda v, c: (v, max(0, c - 1) if c else 1), at))
    lines = work(text)
    if kind == "copy":
        return ";".join(work(other_digit(text, rng)))
    if kind == "result":
        return ";".join([*lines[:-1], wrong_result(lines, rng)])
    where = rng.randrange(len(lines))
    lines[where : where + 1] = rng.choice(
        ([], [lines[where]] * 2, [other_digit(lines[where], rng)])
    )
    return ";".join(lines)


def forgetful(text: str, rng: random.Random) -> str:
    """The answer of someone who forgets to carry, or to give back what was borrowed."""
    lines = work(text)
    harmed = [
        answer
        for at in range(len(lines) - 2)
        if (answer := work(text, lambda v, c: (v, 0), at)) != lines
    ]
    return ";".join(rng.choice(harmed) if harmed else lines)


def wrong_result(lines: list[str], rng: random.Random) -> str:
    """The result put together wrongly: a digit off, turned round, one lost or one too many."""
    total = lines[-1]
    i = rng.randrange(len(total))
    swapped = total[:i] + total[i : i + 2][::-1] + total[i + 2 :]
    lost, extra = total[:i] + total[i + 1 :], total[:i] + rng.choice("01") + total[i:]
    return rng.choice((other_digit(total, rng), other_digit(total, rng), swapped, lost, extra))


def other_digit(text: str, rng: random.Random) -> str:
    """The text with one of its digits replaced."""
    i = rng.choice([i for i, char in enumerate(text) if char.isdigit()])
    return text[:i] + rng.choice("0123456789") + text[i + 1 :]
