"""The commands that bring stored records out and in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import EXCHANGE, Json, StoreUrl, app, show_facts


@app.command(rich_help_panel=EXCHANGE)
def export(
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run; for html also an episode.")],
    path: Annotated[Path, typer.Argument(help="File to write; for trl a folder.")],
    to: Annotated[str, typer.Option(help="The format: trl, jsonl, inspect or html.")] = "trl",
    whole: Annotated[
        bool, typer.Option("--whole-store", help="jsonl: every run in the store.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--license", help="trl: what the dataset card says.")
    ] = "unknown",
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Export a run: as datasets for TRL, as JSON Lines, for Inspect, or as one HTML page."""
    from .exchange import export_run

    facts = export_run(target, path, to, store, whole, licence)
    show_facts(facts, as_json, _exported)


@app.command("import", rich_help_panel=EXCHANGE)
def import_(
    source: Annotated[str, typer.Argument(metavar="FORMAT", help="jsonl or nyu-debate.")],
    path: Annotated[
        Path | None, typer.Argument(help="File; for nyu-debate a folder, by default the data's.")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", help="The store to write.")] = None,
    as_json: Json = False,
) -> None:
    """Import what was exported as JSON Lines, or real debates as a run that replays."""
    from .exchange import import_from

    facts = import_from(source, path, store)
    show_facts(facts, as_json, _imported)
    raise typer.Exit(1 if facts.get("damaged") or facts.get("failed") else 0)


def _exported(facts: dict[str, Any]) -> str:
    count = next(f"{facts[what]} {what}" for what in ("rows", "episodes") if what in facts)
    return f"{count} of {facts['run']} in {facts['path']}"


def _imported(facts: dict[str, Any]) -> str:
    lines = [f"{damage['record']}: {damage['what']}" for damage in facts.get("damaged", ())]
    count = next(f"{facts[what]} {what}" for what in ("rows", "episodes") if what in facts)
    return "\n".join([*lines, f"{count} in {facts['store']}"])
