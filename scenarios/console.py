"""What every command of the line shares: the app, its options, and how facts are printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Simulate scalable oversight: run protocols, replay transcripts, learn from them.",
)

RUNS, SAID = "Run and learn", "Look at what was said"
PEOPLE, EXCHANGE, WRITE = "People", "Out and in", "Write a protocol"
CARE = "Care of stores and this machine"
PANELS = (RUNS, SAID, PEOPLE, EXCHANGE, WRITE, CARE)
"""The order in which --help lists the commands."""

Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key, e.g. --set seed=1. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print facts as one JSON value on stdout.")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", help="Path or URL of a store; default: that of the run.")
]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")]


def show_facts(facts: Any, as_json: bool, text: Any) -> None:
    from .stored import printable

    print(json.dumps(facts, indent=2, allow_nan=False) if as_json else printable(text(facts)))


def table(things: list[dict[str, Any]]) -> str:
    """Facts as a plain table: one row a thing, nested values left to --json."""
    flat = [{k: v for k, v in thing.items() if not isinstance(v, dict)} for thing in things]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    lines = [columns] + [[cell_text(row.get(c)) for c in columns] for row in flat]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def cell_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or not value else f"{value:.1g}"
    if isinstance(value, list) and all(isinstance(v, float) for v in value):
        return " to ".join(f"{v:.3f}" for v in value)
    return "" if value is None else str(value)
