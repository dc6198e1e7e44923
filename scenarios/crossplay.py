"""Past against future: every version of one seat against every version of another.

    versions of a run -> the same tasks with the same seeds in every cell -> episodes of a run of
    its own in the same store -> mean reward of the column seat in each cell, with its interval

A self-play reward that stays the same says nothing: both sides may be learning, or neither. Down a
column the matrix shows one version against earlier and later opponents, along a row whether later
versions do better against one and the same opponent. Each column's exploitability within the pool
of all rows says what the hardest of them takes beyond the one that the version trained against.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from superalign.learners.estimates import mean_interval
from superalign.learners.exploitability import exploited
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting, call_seed
from superalign.store import BadInput, PolicyVersion, Run, Store, Task

from .archive import spread
from .branching import Branching, whoami
from .endpoints import probe_all, put_served
from .policies import versions_before
from .resolve import Resolved, build_cast, build_models, people_of, resolve
from .scenario import Loaded
from .stored import open_run
from .world import World

Told = Callable[[int, int], None]
"""Told (done, total) whenever an episode has ended."""

LAST = 2**31
"""An iteration after all: versions before it are all there are."""


class Match(NamedTuple):
    """What is played against what."""

    rows: str
    """The seat whose versions are the rows."""
    columns: str
    """The seat whose versions are the columns, and whose reward is shown."""
    episodes: int
    """In each cell."""
    seed: int


class Cell(NamedTuple):
    """One version against another, and the versions of all learning seats with them."""

    row: str
    column: str
    policies: Mapping[str, str]


def tag(row: str, column: str) -> str:
    """How the episodes of a cell are marked."""
    return f"{row} x {column}"


def crossplay_run(
    run: str,
    match: Match,
    overrides: tuple[str, ...],
    out: Path | None,
    author: str | None,
    resume: bool,
    store_url: str | None,
    told: Told,
) -> dict[str, Any]:
    """Play the matrix, or what is missing of it; write facts and a heat map. Raises BadInput."""
    with open_run(run, store_url, write=True) as (store, name, folder):
        origin = store.run(name)
        sides = [_versions(store, origin, seat) for seat in (match.rows, match.columns)]
        resolved = _resolved(origin, match, len(sides[0]) * len(sides[1]), overrides)
        reason = f"{match.rows} by {match.columns}"
        work = Branching(store, origin, folder, overrides, whoami(author), reason)
        branch = work.begin("crossplay", resume, resolved)
        cells = [_cell(store, origin, match, r, c) for r, c in product(*sides)]
        asyncio.run(_play(store, branch, folder, resolved, match, cells, told))
        facts = matrix(store, branch, match, sides) | {"run": branch, "parent": name}
        out = out or folder / branch
    _write(facts, out)
    return facts | {"folder": str(out)}


def _versions(store: Store, origin: Run, seat: str) -> list[PolicyVersion]:
    cast = origin.scenario["cast"]
    if seat not in cast:
        raise BadInput(f"{seat}: {origin.id} has no such seat; it has {', '.join(cast)}")
    found = versions_before(store, origin.id, seat, LAST)
    if len(found) < 2:
        what = f"{seat} has no versions but its base"
        learnt = {v.seat for v in store.versions(origin.id) if v.parent}
        raise BadInput(f"{origin.id}: {what}; versions have {', '.join(sorted(learnt)) or 'none'}")
    return found


def _resolved(origin: Run, match: Match, cells: int, overrides: tuple[str, ...]) -> Resolved:
    """The origin's scenario, that plays all cells once and learns nothing."""
    data = dict(origin.scenario)
    data["cast"] = {s: {**member, "learn": False} for s, member in data["cast"].items()}
    data |= {"learn": None, "evaluate": None, "iterations": 1, "swap": False}
    data |= {"episodes": cells * match.episodes, "seed": match.seed}
    return resolve(Loaded.stored(Path(origin.origin), data, overrides))


def _cell(store: Store, origin: Run, match: Match, row: Any, column: Any) -> Cell:
    """A third seat that has learnt is played by its newest version."""
    newest = {v.seat: v.id for v in store.versions(origin.id) if v.parent}
    seated = {**newest, match.rows: row.id, match.columns: column.id}
    return Cell(row.id, column.id, seated)


async def _play(
    store: Store,
    branch: str,
    folder: Path,
    resolved: Resolved,
    match: Match,
    cells: Sequence[Cell],
    told: Told,
) -> None:
    models = build_models(resolved, people=people_of(resolved, store.url, branch), folder=folder)
    scenario, over = resolved.loaded.scenario, store.ended(branch)
    versions = [v for v in store.versions(store.run(branch).parent or "") if v.parent]
    done, total = len(over), len(cells) * match.episodes
    tasks = list(_tasks(resolved.world, resolved.protocol.seats, match))

    def on_end(_: object) -> None:
        nonlocal done
        done += 1
        told(done, total)

    try:
        put_served(store, branch, resolved.loaded, await probe_all(resolved.loaded, models))
        for n, cell in enumerate(cells):
            speaking = [v for v in versions if v.id in set(cell.policies.values())]
            for version in speaking:
                model: Any = models[scenario.cast[version.seat].model]
                model.load(version.id, folder / version.path)
            cast = build_cast(resolved, models, dict(cell.policies))
            setting = Setting(
                resolved.protocol, resolved.params, cast, store, resolved.world, scenario.limits
            )
            plans = _plans(branch, scenario.name, n, match, cell, tasks)
            todo = (plan for plan in plans if setting.episode_id(plan) not in over)
            await run_many(setting, todo, on_end, scenario.concurrency)
            for version in speaking:
                model = models[scenario.cast[version.seat].model]
                model.unload(version.id)
    finally:
        for model in models.values():
            await model.close()


def _tasks(world: World, seats: Sequence[str], match: Match) -> Iterator[Task]:
    if world.cells and "attacker" in seats:
        yield from (world.topic(cell) for cell in spread(world.cells, match.episodes))
    else:
        yield from world.tasks(match.episodes, call_seed(match.seed, "crossplay"))


def _plans(
    branch: str, scenario: str, n: int, match: Match, cell: Cell, tasks: Sequence[Task]
) -> Iterator[Plan]:
    """The same tasks and seeds in every cell: cells differ by who plays alone."""
    for i, task in enumerate(tasks):
        yield Plan(
            run=branch,
            scenario=scenario,
            index=n * match.episodes + i,
            iteration=1,
            task=task,
            seed=call_seed(match.seed, f"episode {i}"),
            tags=(tag(cell.row, cell.column),),
        )


def matrix(
    store: Store, branch: str, match: Match, sides: Sequence[Sequence[PolicyVersion]]
) -> dict[str, Any]:
    """The mean reward of the column seat in every cell, and the exploitability of every column.
    What is unscored is left out."""
    rows, columns = sides
    earned, failed = defaultdict[str, list[float]](list), 0
    for episode in store.episodes(branch):
        failed += episode.status == "failed"
        reward = episode.rewards.get(match.columns)
        if episode.status == "done" and reward is not None:
            earned[episode.tags[0]].append(reward)
    cells = []
    for row, column in product(rows, columns):
        found = earned[tag(row.id, column.id)]
        mean = mean_interval(found)
        told = {"row": row.id, "column": column.id, "n": len(found)}
        cells.append(told | {"reward": mean and mean.value, "ci": mean and mean.ci})
    return {
        "rows": {"seat": match.rows, "versions": [row.id for row in rows]},
        "columns": {"seat": match.columns, "versions": [column.id for column in columns]},
        "episodes": match.episodes,
        "failed": failed,
        "cells": cells,
        "exploitability": [_exploitability(rows, column, earned) for column in columns],
    }


def _exploitability(
    rows: Sequence[PolicyVersion], column: PolicyVersion, earned: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Of a column, within all rows; and the row that leaves it least."""
    met = [row.id for row in rows if row.iteration < column.iteration] or [rows[0].id]
    against = {row.id: earned[tag(row.id, column.id)] for row in rows}
    means = [(sum(some) / len(some), row) for row, some in against.items() if some]
    hardest = min(means)[1] if means else None
    taken = exploited(against, met[-1])
    told = {"column": column.id, "trained_against": met[-1], "hardest": hardest}
    return told | {"value": taken and taken.value, "ci": taken and taken.ci}


def _write(facts: Mapping[str, Any], out: Path) -> None:
    from .policy_plots import draw_matrix

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=2, allow_nan=False)
    (out / "crossplay.json").write_text(text + "\n", encoding="utf-8")
    draw_matrix(facts, out / "crossplay.svg")


def as_text(facts: Mapping[str, Any]) -> str:
    """The matrix for the terminal: reward of the column seat, plus or minus half its interval."""
    from .console import table

    cells = {(cell["row"], cell["column"]): cell for cell in facts["cells"]}
    rows = []
    for row in facts["rows"]["versions"]:
        line: dict[str, Any] = {facts["rows"]["seat"]: row}
        for column in facts["columns"]["versions"]:
            cell = cells[row, column]
            low, high = cell["ci"] or (0.0, 0.0)
            half = (high - low) / 2
            line[column] = "" if cell["ci"] is None else f"{cell['reward']:.3f} ±{half:.3f}"
        rows.append(line)
    taken = [_line(found) for found in facts["exploitability"]]
    head = f"mean reward of {facts['columns']['seat']}, {facts['episodes']} episodes a cell"
    return "\n".join([head, table(rows), *taken])


def _line(found: Mapping[str, Any]) -> str:
    what = f"{found['column']}, trained against {found['trained_against']}: exploitability"
    if found["value"] is None:
        return f"{what} not known, for want of episodes"
    ends = "" if found["ci"] is None else " ({:.3f} to {:.3f})".format(*found["ci"])
    return f"{what} {found['value']:.3f}{ends}, hardest {found['hardest']}"
