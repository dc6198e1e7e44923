"""Serving the viewer."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn

from superalign.store import BadInput

from .viewer import create_app
from .viewer_guard import is_loopback

SHORTEST = 16
"""Characters of a token at least: it is all that stands between a network and the transcripts."""


def serve(stores: tuple[Path, ...], host: str, port: int, token: str | None) -> None:
    """Serve until interrupted. The address is printed when it can be opened."""
    if token is not None and len(token) < SHORTEST:
        raise BadInput(f"--token: {len(token)} characters; give at least {SHORTEST}")
    if token is None and not is_loopback(host):
        raise BadInput(f"--host {host}: reachable by others; give --token too, or leave --host out")
    app = create_app(stores, host, token)
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        what = f"{error.strerror or error}; name another --port, 0 for any"
        raise BadInput(f"--host {host} --port {port}: {what}") from None
    at = f"[{host}]" if ":" in host else host
    address = f"http://{at}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"
    print(f"superalign: {address}  (end with Ctrl-C)", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
