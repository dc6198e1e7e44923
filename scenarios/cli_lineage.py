"""The command that goes from a version to the sentences that taught it, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import SAID, Json, StoreUrl, app, show_facts


@app.command(rich_help_panel=SAID)
def lineage(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|EPISODE|TURN",
            help="A version (RUN/learner-2), an episode's id, or EPISODE/TURN KEY.",
        ),
    ],
    retract: Annotated[
        bool, typer.Option("--retract", help="Keep its rows out of every later update.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the rows are retracted.")] = "",
    author: Annotated[str, typer.Option(help="Who retracts them.")] = "",
    out: Annotated[Path | None, typer.Option(help="Draw it into this .svg file.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Tell what taught a version, or what a sentence taught; retract rows."""
    from superalign.store import BadInput

    from .ancestry import tell_lineage

    if retract and not (reason and author):
        raise BadInput("--retract: say who and why, with --author NAME --reason TEXT")
    if not retract and (reason or author):
        raise BadInput("--reason, --author: they belong to --retract; add it or leave them out")
    facts, text = tell_lineage(ref, (author, reason) if retract else None, store, out)
    show_facts(facts, as_json, lambda _: text)
