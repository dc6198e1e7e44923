"""The files that name every shipped protocol: `make schema` writes them, nobody by hand."""

from __future__ import annotations

import json
from pathlib import Path

from superalign.protocols import load_protocol, shipped

ROOT = Path(__file__).resolve().parent.parent

HEAD = """# Protocols

Every protocol that ships: who sits in it, and what happens. Each has a page with its paper, its
graph, its parameters and what it pays. `superalign list protocols` tells the same, `superalign draw
NAME` draws one, and the [tutorial](../tutorial.md) shows how to write your own.

| protocol | what happens | seats |
|---|---|---|
"""


def langgraph_json() -> str:
    """What LangGraph's own tools open: each protocol's graph with its default parameters."""
    graphs = {name: f"superalign.protocols.{name}:{name}" for name in shipped()}
    config = {"dependencies": ["."], "graphs": graphs, "python_version": "3.11"}
    return json.dumps(config, indent=2) + "\n"


def protocol_index() -> str:
    """docs/protocols/README.md."""
    lines = []
    for protocol in map(load_protocol, shipped()):
        says = protocol.about.removeprefix(f"{protocol.name}: ")
        page = f"[{protocol.name}]({protocol.name}.md)"
        lines.append(f"| {page} | {says} | {', '.join(protocol.seats)} |\n")
    return HEAD + "".join(lines)


def write_indexes() -> None:
    (ROOT / "langgraph.json").write_text(langgraph_json())
    (ROOT / "docs" / "protocols" / "README.md").write_text(protocol_index())
