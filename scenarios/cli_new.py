"""The commands for who writes a protocol: new and draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import WRITE, Json, Set, app, show_facts


@app.command(rich_help_panel=WRITE)
def new(
    what: Annotated[str, typer.Argument(metavar="protocol", help="What to begin: protocol.")],
    name: Annotated[str, typer.Argument(help="Its name: lower case letters, digits and _.")],
    as_json: Json = False,
) -> None:
    """Begin a protocol: NAME.py and NAME.yaml, which check and run as they are."""
    from superalign.store.errors import BadInput

    from .new import new_protocol

    if what != "protocol":
        raise BadInput(f"{what!r} cannot be begun; write: superalign new protocol {name}")
    facts = new_protocol(name, Path())
    then = f"superalign check {name}.py:{name}\nsuperalign run {name}.yaml"
    show_facts(facts, as_json, lambda f: "\n".join([*f["files"], "", then]))


@app.command(rich_help_panel=WRITE)
def draw(
    target: Annotated[str, typer.Argument(metavar="PROTOCOL", help="Its name, or FILE.py:name.")],
    to: Annotated[
        Path | None, typer.Option(help="FILE.png, FILE.svg or FILE.mmd; none prints Mermaid.")
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Draw a protocol's graph. Nothing is sent anywhere."""
    from .new import draw_protocol

    facts, text = draw_protocol(target, tuple(overrides or ()), to)
    show_facts(facts, as_json, lambda _: text)
