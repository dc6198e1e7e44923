"""What two runs have in common: items. One item is one question, whatever order its choices are in.

A scenario with `swap: true` plays each item in both orders of its choices, so that who prefers the
first choice, or argues well for it, gains nothing: `superalign compare` averages over both.
"""

from __future__ import annotations

from superalign.store.errors import BadInput
from superalign.store.records import Question, Task, digest

SWAPPED = "swapped"
"""Tag of the episode that was played with the choices in the other order."""

FLOOR = 1e-4
"""The least probability that a judge is taken to give to any choice: one zero would outweigh all
other items in every mean of logarithms."""


def item_of(question: Question) -> str:
    """The identity of a question that does not depend on the order of its choices."""
    return digest(question.topic, question.text, sorted(question.choices), size=8)


def swapped(task: Task) -> Task:
    """The task with its choices in the other order. Raises BadInput where there is none."""
    question = task.question
    if len(question.choices) < 2:
        what = f"{question.topic or question.text[:40]!r} has no choices to put in another order"
        raise BadInput(f"swap: {what}; leave swap out")
    other = question.model_copy(update={"choices": question.choices[::-1]})
    return task.model_copy(update={"question": other})
