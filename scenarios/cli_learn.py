"""The commands that set methods, and versions of learning seats, against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import RUNS, Json, RunArg, Set, StoreUrl, app, show_facts


@app.command(rich_help_panel=RUNS)
def sweep(
    run: RunArg,
    methods: Annotated[str, typer.Option(help="Learners, e.g. sft,dpo,exo.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the first method.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 3,
    points: Annotated[
        int, typer.Option(min=1, max=8, help="Measured at all, half, a quarter … of the tokens.")
    ] = 2,
    iteration: Annotated[int, typer.Option(min=1, help="The iteration whose rows teach.")] = 1,
    seat: Annotated[str | None, typer.Option(help="The seat whose rows teach.")] = None,
    heldout: Annotated[int, typer.Option(min=1, help="Held-out items, answered greedily.")] = 600,
    samples: Annotated[int, typer.Option(min=2, help="Fresh replies that measure the KL.")] = 256,
    kl: Annotated[
        float | None, typer.Option(min=0.001, help="Compared at this KL; default: what all reach.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for sweep.json and sweep.svg.")] = None,
    overrides: Set = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Compare methods on one run's stored rows, at equal tokens and at equal KL."""
    from .progress import counting
    from .sweep import Plan, sweep_run
    from .sweep_facts import as_text

    names = [name.strip() for name in methods.split(",") if name.strip()]
    plan = Plan(run, names, steps, seeds, points, iteration, seat, heldout, samples, kl)
    with counting("trainings") as told:
        facts = sweep_run(plan, tuple(overrides or ()), out, store, told)
    show_facts(facts, as_json, lambda f: as_text(f) + (f"\n{out}" if out else ""))


@app.command(rich_help_panel=RUNS)
def crossplay(
    run: RunArg,
    rows: Annotated[str, typer.Option(help="The seat whose versions are the rows.")],
    columns: Annotated[str, typer.Option(help="The seat whose reward is shown, by version.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in each cell.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seeds tasks and samples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for crossplay.json and crossplay.svg.")
    ] = None,
    author: Annotated[str | None, typer.Option(help="Who has it played; default: you.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the newest that was stopped.")] = False,
    overrides: Set = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Play every version of one seat against every version of another, on the same tasks."""
    from .crossplay import Match, as_text, crossplay_run
    from .progress import counting

    match, keys = Match(rows, columns, episodes, seed), tuple(overrides or ())
    with counting("episodes") as told:
        facts = crossplay_run(run, match, keys, out, author, resume, store, told)
    show_facts(facts, as_json, lambda f: f"{as_text(f)}\n{f['folder']}")
