"""The commands that bring stored records out and in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Json, RunArg, StoreUrl, app, show_facts


@app.command()
def export(
    run: RunArg,
    path: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="The format: trl.")] = "trl",
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Export a run's rows: parquet files and a dataset card."""
    from .exchange import export_run

    facts = export_run(run, path, to, store)
    show_facts(facts, as_json, lambda f: f"{f['rows']} rows in {f['path']}")
