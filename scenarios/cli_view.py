"""The command that serves the viewer: view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import SAID, app


@app.command(rich_help_panel=SAID)
def view(
    stores: Annotated[
        list[Path] | None, typer.Argument(help="Stores or run folders; default: all below runs/.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(help="What a browser must show; needed beyond this machine.")
    ] = None,
) -> None:
    """Look at stores in a browser: runs, episodes, forks, reports, labels."""
    from .viewing import serve

    serve(tuple(stores or ()), host, port, token)
