"""The command that sets runs on the same items against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import RUNS, Json, StoreUrl, app, show_facts


@app.command(rich_help_panel=RUNS)
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Runs by name or folder; `A+B` joins two into one arm, `A:CELL` takes one cell.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write a page with plots into this .html file.")
    ] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Compare runs on the same items: accuracy, honesty's reward, calibration, cost, tests."""
    from .compare import as_text, compare_runs

    facts = compare_runs(runs, store, out)
    show_facts(facts, as_json, lambda f: as_text(f) + (f"\n{out}" if out else ""))
