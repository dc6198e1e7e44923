"""The command that tells what a scenario would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import RUNS, Json, Set, app, show_facts


@app.command(rich_help_panel=RUNS)
def plan(
    scenario: Annotated[Path, typer.Argument(help="A scenario's YAML file.")],
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Tell how many calls and tokens a scenario would take, and what they cost."""
    from .planning import as_text, plan_scenario
    from .resolve import resolve
    from .scenario import Loaded

    facts = plan_scenario(resolve(Loaded.read(scenario, tuple(overrides or ()))))
    show_facts(facts, as_json, as_text)
