"""Which version sits in which learning seat.

Every learning seat has versions of its own: its model's base, then `SEAT-i` for each iteration i
that updated it. What an episode plays with follows from the scenario, the iteration and the
episode's seed alone. The seats that are to be updated take turns at being in focus: that one is
played by its newest version, the others by one of their newest `opponents`.
"""

from __future__ import annotations

import random

from superalign.protocols.setting import call_seed
from superalign.store import BadInput, Store
from superalign.store.lineage import standing
from superalign.store.records import Episode, PolicyVersion, Row

from .scenario import Scenario


def due(scenario: Scenario, iteration: int) -> list[str]:
    """The seats that iteration `iteration` updates."""
    seats = list(scenario.learning)
    if scenario.updates == "alternating" and seats:
        return [seats[(iteration - 1) % len(seats)]]
    return seats


def versions_of(scenario: Scenario, seat: str, updates: int) -> list[str]:
    """A learning seat's versions after so many iterations, the oldest first."""
    made = [f"{seat}-{i}" for i in range(1, updates + 1) if seat in due(scenario, i)]
    return [scenario.cast[seat].model, *made]


def newest(scenario: Scenario, updates: int) -> dict[str, str]:
    """Learning seat -> its last version after so many iterations."""
    return {seat: versions_of(scenario, seat, updates)[-1] for seat in scenario.learning}


def pools(scenario: Scenario, iteration: int) -> dict[str, list[str]]:
    """Learning seat -> the versions of which iteration `iteration` plays one, the newest last."""
    kept = scenario.opponents
    return {s: versions_of(scenario, s, iteration - 1)[-kept:] for s in scenario.learning}


def drawn(scenario: Scenario, iteration: int, seed: int) -> dict[str, str]:
    """Learning seat -> the version that plays it in the episode of this seed."""
    rng = random.Random(call_seed(seed, "policies"))
    focus = rng.choice(due(scenario, iteration)) if scenario.learning else ""
    played = {}
    for seat, pool in pools(scenario, iteration).items():
        one = rng.choice(pool)
        played[seat] = pool[-1] if seat == focus else one
    return played


def versions_before(store: Store, run: str, seat: str, iteration: int) -> list[PolicyVersion]:
    """A seat's stored versions before iteration `iteration` updates it, the oldest first."""
    stored = store.versions(run)
    base = store.run(run).scenario["cast"][seat]["model"]
    made = [v for v in stored if v.seat == seat and v.parent and v.iteration < iteration]
    return [v for v in stored if v.id == base and v.path] + made


def taught_by(
    store: Store, run: str, seat: str, iteration: int
) -> tuple[list[Row], list[PolicyVersion]]:
    """A seat's rows of an iteration that stand, and its versions by then. Raises BadInput."""
    cast = store.run(run).scenario["cast"]
    if seat not in cast:
        raise BadInput(f"--seat {seat}: {run} has no such seat; it has {', '.join(cast)}")
    versions = versions_before(store, run, seat, iteration)
    if not versions:
        what = f"{cast[seat]['model']} has no weights; name a seat that a transformers model plays"
        raise BadInput(f"--seat {seat}: {what}")
    rows = standing(store, run, store.rows(run, iteration))
    return [row for row in rows if row.seat == seat], versions


def spoke_as(episode: Episode, seat: str, version: str) -> bool:
    """Whether a seat spoke in an episode, and as this version throughout. Only such turns may
    teach the version that follows it."""
    return {turn.policy for turn in episode.by(seat)} == {version}
