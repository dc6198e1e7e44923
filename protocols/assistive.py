"""How much a decomposition helps whoever repairs a solution: its assistive value, as tests tell.

A decomposition counts only if it does what the solution does: the tests must say of both the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Literal, NamedTuple

from superalign.store.errors import Unreadable
from superalign.store.records import Critique, Episode, Row, Turn

from .protocol import PromptOf

WITHOUT = "none"
"""What repairs without any decomposition are named."""
BEST = re.compile(r"Best: *([0-9]{1,2})\s*\Z")


class Value(NamedTuple):
    """What one decomposition was worth."""

    turn: str
    """Key of the decomposition."""
    lift: float
    """Share of repairs that pass with it, less the share that pass without any."""
    seconds: float
    """How much sooner a repair was there with it, on average."""


def parse_pick(text: str, many: int) -> int:
    """A ranker's reply: which of `many` decompositions is best, from 0. Raises Unreadable."""
    found = BEST.search(text)
    if found is None or int(found[1]) >= many:
        wanted = f"a last line `Best: ` and a number from 0 to {many - 1}"
        raise Unreadable(f"pick {text!r}: expected {wanted}")
    return int(found[1])


def nth(turn: Turn) -> str:
    """What a call was named when several were made at once."""
    return turn.key.rpartition(":")[2]


def equivalent(
    solution: Turn, refined: Sequence[Turn], critiques: Iterable[Critique]
) -> dict[str, Turn]:
    """Name -> decomposition that does what the solution does, whatever that is."""
    found = {critique.about: critique.fault for critique in critiques}
    return {nth(turn): turn for turn in refined if found[turn.key] == found[solution.key]}


def values(episode: Episode) -> dict[str, Value]:
    """Name of each decomposition that counts -> its assistive value, as the tester measured it."""
    (solution,) = episode.by("learner")
    passed = {critique.about: critique.fault is None for critique in episode.critiques}
    repairs: dict[str, list[Turn]] = {}
    for turn in episode.by("repairer"):
        repairs.setdefault(nth(turn).partition(".")[0], []).append(turn)
    shares = {name: _mean([passed[turn.key] for turn in all_]) for name, all_ in repairs.items()}
    seconds = {name: _mean([turn.seconds for turn in all_]) for name, all_ in repairs.items()}
    counted = equivalent(solution, episode.by("refiner"), episode.critiques)
    return {
        name: Value(turn.key, shares[name] - shares[WITHOUT], seconds[WITHOUT] - seconds[name])
        for name, turn in counted.items()
    }


def mean_lift(found: Mapping[str, Value], n: int) -> float:
    """Mean lift of `n` decompositions. One that changes what the solution does lifts nothing."""
    return sum(value.lift for value in found.values()) / n


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def by_value(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """Decomposer: decompositions that were worth more before those that were worth less. Critic
    and refiner: what led to one that was worth something."""
    found, turns = values(episode), {nth(turn): turn for turn in episode.by(seat)}
    tests = episode.by("tester")

    def row(kind: Literal["sft", "pref"], about: Turn, replies: tuple[str, ...], *used: str) -> Row:
        keys = dict.fromkeys((*used, *(turn.key for turn in tests)))
        return Row(
            kind=kind,
            seat=seat,
            prompt=prompt_of(about),
            replies=replies,
            source=tests[0].source,
            judge=tests[0].policy,
            turns=tuple(f"{episode.ref}/{key}" for key in keys),
            iteration=episode.iteration,
        )

    if seat == "decomposer":
        for (name, better), (_, worse) in permutations(found.items(), 2):
            if better.lift > worse.lift:
                texts = episode.turn(better.turn).text, episode.turn(worse.turn).text
                yield row("pref", turns[name], texts, better.turn, worse.turn)
    elif seat in ("critic", "refiner"):
        for name, value in found.items():
            if value.lift > 0:
                yield row("sft", turns[name], (turns[name].text,), turns[name].key, value.turn)
