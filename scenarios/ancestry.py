"""What `lineage` does: find what a reference means, tell its lineage, draw it, retract its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx

from superalign.store import BadInput, Retraction, Store
from superalign.store.lineage import find, in_order, lineage, only, summary, to_retract

from .lineage_page import svg
from .stored import stores

ALREADY = "\nnothing to retract: no rows, or all of them are retracted already"


def tell_lineage(
    ref: str, retract: tuple[str, str] | None, store_url: str | None, out: Path | None
) -> tuple[dict[str, Any], str]:
    """Facts and text on the lineage of a version, an episode or a turn.

    `retract` is (author, reason): the rows that were made of it, or that taught the version
    itself, teach no later update.
    """
    place, url = _find(ref, store_url)
    facts: dict[str, Any] = {}
    with Store.open(url, write=retract is not None) as store:
        graph = lineage(store, place)
        if retract is not None:
            facts["newly_retracted"] = _retract(store, graph, *retract)
            graph = lineage(store, place)
    facts = summary(graph) | facts
    if out is not None:
        _write(out, svg(graph))
        facts["path"] = str(out)
    return facts, _text(facts, graph)


def _find(ref: str, store_url: str | None) -> tuple[str, str]:
    """The full reference of the one thing that is meant, and the URL of the store it lies in."""
    found = [(place, store.url) for store in stores(store_url) for place in find(store, ref)]
    place = only(ref, [place for place, _ in found])
    return place.ref, found[0][1]


def _retract(store: Store, graph: nx.DiGraph, author: str, reason: str) -> int:
    """How many rows were retracted that had not been before."""
    rows = to_retract(graph)
    store.put_retractions(
        Retraction(run=run, row=row, author=author, reason=reason) for run, row in rows
    )
    return len(rows)


def _write(out: Path, text: str) -> None:
    if out.suffix != ".svg":
        raise BadInput(f"--out {out}: only drawings are written; name a file that ends in .svg")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}; name a file in a folder") from error


def _text(facts: dict[str, Any], graph: nx.DiGraph) -> str:
    """The versions as a tree, what was made of what, and the first few sentences."""
    made = ", ".join(f"{n} {kind}" for kind, n in facts["made"].items()) or "none"
    lines = [
        f"{facts['kind']} {facts['ref']}",
        f"rows: {facts['rows']} ({made}), retracted: {facts['retracted']},"
        f" turns: {facts['turns']}, episodes: {facts['episodes']}",
    ]
    if facts["versions"]:
        told = {v["version"]: _line(v) for v in facts["versions"]}
        tree = nx.relabel_nodes(graph.subgraph(in_order(graph)), told)
        lines += ["", *nx.generate_network_text(tree, with_labels=False)]
    lines += [
        f"\n{said['turn']}\n  {' '.join(said['text'].split())[:100]}" for said in facts["sentences"]
    ]
    if (rest := facts["turns"] - len(facts["sentences"])) > 0:
        lines.append(f"\nand {rest} more")
    if (n := facts.get("newly_retracted")) is not None:
        lines.append(f"\n{n} rows retracted now: the next update leaves them out" if n else ALREADY)
    if "path" in facts:
        lines.append(f"\ndrawn: {facts['path']}")
    return "\n".join(lines)


def _line(version: dict[str, Any]) -> str:
    gone = f", retracted: {version['retracted']}" if version["retracted"] else ""
    return f"{version['version']}  {version['method']}  rows: {version['rows']}{gone}"
