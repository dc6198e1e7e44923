"""A lineage as a drawing: versions as a spine, rows in groups, a few of the sentences behind them.

Layers from left to right: sentences, groups of rows, versions. The drawing is plain SVG that takes
its colour from the page around it: no scripts, no styles, nothing from elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from html import escape
from typing import Any

import networkx as nx

from superalign.store.lineage import in_order

from .stored import printable

SAMPLE = 3
"""Sentences drawn for a group of rows."""
MOST = 60
"""Groups drawn; a lineage of hundreds of versions shows its youngest."""
SLOT, HEIGHT = 58, 46
LAYERS = {"turn": (20, 380), "rows": (480, 190), "version": (760, 220)}
"""Where each layer begins, and how wide its boxes are."""
NO_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def svg(graph: nx.DiGraph) -> str:
    """The drawing of a lineage (`store/lineage.py`) as one SVG element."""
    drawn = _condensed(graph)
    places, slots = _placed(drawn)
    width, height = sum(LAYERS["version"]) + 60, max(slots, 1) * SLOT + 50
    title = f"lineage of the {graph.graph['kind']} {graph.graph['ref']}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" role="img"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}" fill="currentColor"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{_safe(title)}</title>",
        *_headings(drawn),
        *(_edge(drawn, places, a, b) for a, b in drawn.edges),
        *(_box(places[name], facts) for name, facts in drawn.nodes(data=True)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _condensed(graph: nx.DiGraph) -> nx.DiGraph:
    """The few nodes that are drawn: all versions, rows by kind, source and what they taught, and
    some sentences of each group. `under` says beside which node a sentence or group stands."""
    drawn, root = nx.DiGraph(), graph.graph["ref"]
    for version in in_order(graph)[-MOST:]:
        facts = graph.nodes[version]
        texts = {"head": facts["label"], "text": facts["text"], "more": version}
        drawn.add_node(version, layer="version", root=version == root, **texts)
    for parent, child in graph.edges:
        if parent in drawn and child in drawn:
            drawn.add_edge(parent, child)
    groups = _groups(graph, drawn)
    turns = {turn for rows in groups.values() for row in rows for turn in graph.predecessors(row)}
    alone = {n for n, f in graph.nodes(data=True) if f["kind"] == "turn"} - turns
    for (label, taught), rows in groups.items():
        group = f"{label} {' '.join(taught)}"
        gone = sum(graph.nodes[row]["retracted"] for row in rows)
        count = f"{len(rows)} row{'s' * (len(rows) != 1)}" + (f", {gone} retracted" if gone else "")
        under = taught[0] if taught else None
        told = {"head": label, "text": count, "more": f"{label}: {count}", "under": under}
        drawn.add_node(group, layer="rows", gone=gone == len(rows), **told)
        drawn.add_edges_from((group, version) for version in taught)
        _add_sentences(graph, drawn, group, rows)
    for turn in sorted(alone)[:SAMPLE]:
        drawn.add_node(turn, layer="turn", under=None, **_said(graph, turn))
    return drawn


def _groups(graph: nx.DiGraph, drawn: nx.DiGraph) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Rows by what they are and which of the drawn versions they taught, in the order of these."""
    order = {version: i for i, version in enumerate(drawn)}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row, facts in graph.nodes(data=True):
        if facts["kind"] == "row":
            children = set(graph.successors(row))
            taught = tuple(version for version in order if version in children)
            if taught or not children:
                groups.setdefault((facts["label"], taught), []).append(row)

    def place(key: tuple[str, tuple[str, ...]]) -> tuple[list[int], str]:
        return [order[version] for version in key[1]] or [len(order)], key[0]

    return {key: groups[key] for key in sorted(groups, key=place)[-MOST:]}


def _add_sentences(graph: nx.DiGraph, drawn: nx.DiGraph, group: str, rows: list[str]) -> None:
    """Up to three sentences of a group that no other group shows, and how many more there are."""
    turns = dict.fromkeys(turn for row in rows for turn in graph.predecessors(row))
    shown = {turn for turn in turns if turn in drawn}
    for turn in [turn for turn in turns if turn not in shown][:SAMPLE]:
        drawn.add_node(turn, layer="turn", under=group, **_said(graph, turn))
        shown.add(turn)
    drawn.add_edges_from((turn, group) for turn in turns if turn in shown)
    if rest := len(turns) - len(shown):
        episodes = len({episode for turn in turns for episode in graph.predecessors(turn)})
        of = f"of {episodes} episode{'s' * (episodes != 1)} in all"
        texts = {"head": f"and {rest} more", "text": of, "more": ""}
        drawn.add_node(f"more {group}", layer="turn", plain=True, under=group, **texts)
        drawn.add_edge(f"more {group}", group)


def _said(graph: nx.DiGraph, turn: str) -> dict[str, Any]:
    facts = graph.nodes[turn]
    _, episode, _ = turn.split("/", 2)
    head = f"{facts['label']} · episode {episode[:8]}"
    more = f"{turn}\n{facts['text']}"
    root = graph.graph["ref"] in (turn, turn.rpartition("/")[0])
    return {"head": head, "text": facts["text"], "more": more, "root": root}


def _placed(drawn: nx.DiGraph) -> tuple[dict[str, tuple[float, float]], int]:
    """The corner of every box, and how many slots high the drawing is.

    Sentences fill the slots from above; a group stands in the middle of its sentences, a version
    in the middle of its groups. So nothing overlaps, and few edges cross.
    """
    under: dict[str | None, list[str]] = {}
    for name, facts in drawn.nodes(data=True):
        if facts["layer"] != "version":
            under.setdefault(facts["under"], []).append(name)
    slot: dict[str, float] = {}
    used = 0

    def place(name: str) -> None:
        nonlocal used
        mine = under.get(name, [])
        for child in mine:
            place(child)
        if mine:
            slot[name] = sum(slot[child] for child in mine) / len(mine)
        else:
            slot[name], used = used, used + 1

    versions = [name for name, facts in drawn.nodes(data=True) if facts["layer"] == "version"]
    for name in [*versions, *under.get(None, [])]:
        place(name)
    corners: dict[str, tuple[float, float]] = {
        n: (LAYERS[drawn.nodes[n]["layer"]][0], 40 + slot[n] * SLOT) for n in slot
    }
    return corners, used


def _headings(drawn: nx.DiGraph) -> list[str]:
    there = {facts["layer"] for _, facts in drawn.nodes(data=True)}
    names = {"turn": "what was said", "rows": "rows made of it", "version": "versions taught"}
    return [
        f'<text class="heading" x="{LAYERS[layer][0]}" y="22" opacity="0.65">{name}</text>'
        for layer, name in names.items()
        if layer in there
    ]


def _edge(drawn: nx.DiGraph, places: dict[str, tuple[float, float]], a: str, b: str) -> str:
    """A curve from box to box; from version to version down the right side of the spine."""
    (ax, ay), (bx, by) = places[a], places[b]
    right = ax + LAYERS[drawn.nodes[a]["layer"]][1]
    ay, by = ay + HEIGHT / 2, by + HEIGHT / 2
    if drawn.nodes[a]["layer"] == "version":
        far = right + 44
        path = f"M{right} {ay:g} C{far} {ay:g} {far} {by:g} {right} {by:g}"
        line = 'fill="none" stroke="currentColor" stroke-width="1.5" opacity="0.7"'
        return f'<path class="became" d="{path}" {line}/>'
    middle = (right + bx) / 2
    path = f"M{right} {ay:g} C{middle:g} {ay:g} {middle:g} {by:g} {bx} {by:g}"
    return f'<path class="taught" d="{path}" fill="none" stroke="currentColor" opacity="0.35"/>'


def _box(place: tuple[float, float], facts: dict[str, Any]) -> str:
    """A box of two lines, its full text as a tooltip; `and N more` has no border."""
    (x, y), width = place, LAYERS[facts["layer"]][1]
    stroke = 'stroke-width="2.5"' if facts.get("root") else 'stroke-opacity="0.5"'
    stroke += ' stroke-dasharray="5 4"' if facts.get("gone") else ""
    classes = facts["layer"] + (" root" if facts.get("root") else "")
    border = (
        ""
        if facts.get("plain")
        else f'<rect x="{x}" y="{y:g}" width="{width}" height="{HEIGHT}" rx="7"'
        f' fill="currentColor" fill-opacity="0.05" stroke="currentColor" {stroke}/>'
    )
    head, text = _fitting(facts["head"], width), _fitting(facts["text"], width)
    tooltip = f"<title>{_safe(facts['more'])}</title>" if facts["more"] else ""
    return (
        f'<g class="{classes}">{tooltip}{border}'
        f'<text x="{x + 11}" y="{y + 18:g}" font-size="11" opacity="0.7">{_safe(head)}</text>'
        f'<text x="{x + 11}" y="{y + 36:g}">{_safe(text)}</text></g>'
    )


def _fitting(text: str, width: int) -> str:
    """As much of a text's one line as a box of this width holds."""
    line, room = " ".join(text.split()), (width - 22) / 7.4
    for i, char in enumerate(line):
        room -= 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if room < 0:
            return line[: i - 1] + "…"
    return line


def _safe(text: str) -> str:
    """Text that is neither markup nor what XML or a reader's eye cannot bear."""
    return escape(NO_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text)))
