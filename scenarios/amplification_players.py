"""Scripted seats of the amplification world: a human who takes questions apart as is known, and a
learner who knows what a fact says and guesses at all else."""

from __future__ import annotations

import random

from superalign.agents import Request
from superalign.protocols.questions import answer_of
from superalign.scenarios.amplification import (
    SIZE,
    VALUES,
    Ints,
    Problem,
    Read,
    human,
    parse,
    read,
    truth,
)
from superalign.store import ModelError, Turn

KNOWS = 0.6
"""How often the learner is right about what no single fact says."""


def decompose(request: Request) -> str:
    """The human: the next sub-query of the known decomposition, or the answer."""
    problem, about = _problem(request), list(request.view.ask.about)
    if len(about) % 2:  # its own question comes first: the episode's has no turn
        problem = problem._replace(query=_query(about.pop(0)))
    replies = iter([int(answer_of(turn) or "") for turn in about[1::2]])
    steps = human(problem.kind, problem.query)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Read):
                step = steps.send(read(problem.facts, step.start))
            elif (reply := next(replies, None)) is not None:
                step = steps.send((reply,))
            else:
                return f"Ask: {' '.join(map(str, step.query))}"
    except StopIteration as end:
        return f"Answer: {end.value}"


def guess(request: Request) -> str:
    """The learner: right where one fact is enough, and else now and then."""
    problem, about = _problem(request), request.view.ask.about
    if about:
        problem = problem._replace(query=_query(about[0]))
    right = truth(problem)
    if single(problem):
        return str(right)
    rng = random.Random(request.seed)
    if rng.random() < KNOWS:
        return str(right)
    if problem.kind in ("wildcard", "path"):
        return str(right + rng.choice((-1, 1)))
    values = range(VALUES if problem.kind == "assignments" else SIZE)
    return str(rng.choice([value for value in values if value != right]))


def single(problem: Problem) -> bool:
    """Whether the human needs no sub-query for it."""
    steps, sent = human(problem.kind, problem.query), None
    try:
        step = next(steps)
        while isinstance(step, Read):
            sent = read(problem.facts, step.start)
            step = steps.send(sent)
    except StopIteration:
        return True
    return False


def _problem(request: Request) -> Problem:
    problem = parse(request.view.question.text)
    if problem is None:
        raise ModelError(f"{request.view.question.text!r} states no problem")
    return problem


def _query(turn: Turn) -> Ints:
    return tuple(map(int, turn.text.removeprefix("Ask: ").split()))
