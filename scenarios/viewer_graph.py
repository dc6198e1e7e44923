"""A protocol's graph as SVG, the path that an episode took lit up.

The graph is that of the protocol's code where it ships with superalign; else it is put together
from call keys, which name the nodes that spoke: a stored path is never imported. Drawn from the
top down; edges that go back run along the right side.
"""

from __future__ import annotations

import html
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import networkx as nx

from superalign.store import Episode

START, END = "__start__", "__end__"
WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE = 118, 34, 16, 34, 34


class Stop(NamedTuple):
    """One superstep of an episode: what the slider halts at."""

    name: str
    """The nodes that spoke, from the outermost graph inwards."""
    step: str


def stop_of(key: str) -> Stop:
    """The superstep in which a call was made: its key without fan index and seat."""
    segments = [segment.split(":") for segment in key.split("/")[:-1]]
    name = " / ".join(s[1] if len(s) > 1 else s[0] for s in segments)
    return Stop(name, "/".join(":".join(s[:2]) for s in segments))


def stops_of(keys: Sequence[str]) -> list[Stop]:
    """The supersteps in transcript order."""
    return list(dict.fromkeys(stop_of(key) for key in sorted(keys)))


def protocol_graph(episode: Episode, shipped: bool) -> nx.DiGraph:
    """The protocol's graph, from its code when that may be loaded and fits the calls."""
    stops = stops_of([turn.key for turn in episode.turns])
    graph = nx.DiGraph()
    if shipped:
        try:
            from superalign.protocols import load_protocol

            protocol = load_protocol(episode.protocol)
            drawn = protocol.graph(protocol.params(episode.params)).get_graph()
            graph.add_edges_from((e.source, e.target) for e in drawn.edges)
        except Exception:  # a store may claim anything of a protocol
            graph.clear()
    if not graph or not {stop.name for stop in stops} <= set(graph):
        graph.clear()
        names = [START, *(stop.name for stop in stops), *([END] if episode.verdict else [])]
        graph.add_edges_from(itertools.pairwise(names))
    return graph


def path_taken(graph: nx.DiGraph, stops: Sequence[Stop], ended: bool) -> list[list[str]]:
    """For every stop, and for the end, the nodes passed since the stop before, that one first.

    Nodes that ask no seat leave no call: between two calls the shortest way is taken.
    """
    names = [START, *(stop.name for stop in stops), *([END] if ended else [])]
    ways = []
    for source, target in itertools.pairwise(names):
        try:
            if source == target:
                loop = min(
                    (nx.shortest_path(graph, after, target) for after in graph[source]), key=len
                )
                ways.append([source, *loop])
            else:
                ways.append(nx.shortest_path(graph, source, target))
        except (nx.NetworkXNoPath, nx.NodeNotFound, ValueError):
            ways.append([source, target])
    return ways


def svg(graph: nx.DiGraph, ways: Sequence[Sequence[str]]) -> str:
    """The drawing. `data-stops` of a node or an edge: the stops at which it is passed."""
    passed: dict[Any, set[int]] = defaultdict(set)
    for i, way in enumerate(ways):
        for node in way[1:]:
            passed[node].add(i)
        for edge in itertools.pairwise(way):
            passed[edge].add(i)
    passed[START].add(-1)  # before the first stop
    place, layers = _layout(graph)
    right = max(x for x, _ in place.values()) + WIDTH / 2
    back = [(a, b) for a, b in graph.edges if a == b or layers[a] >= layers[b]]
    width = right + (20 + 14 * len(back) if back else 8)
    height = max(y for _, y in place.values()) + HEIGHT / 2 + 8
    parts = [
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="The protocol\'s graph">'
    ]
    lane = right
    for edge in graph.edges:
        (x, y), (u, v) = place[edge[0]], place[edge[1]]
        if edge in back:
            lane += 14
            y, v = y + 4, v - 4
            edges = max(x, u) + WIDTH / 2
            line = f"M{x + WIDTH / 2:.0f} {y:.0f} H{lane - 8:.0f} Q{lane:.0f} {y:.0f} {lane:.0f}"
            line += f" {(y + v) / 2:.0f} Q{lane:.0f} {v:.0f} {lane - 8:.0f} {v:.0f}"
            line += f" H{u + WIDTH / 2 + 7:.0f}"
            tip = f"M{u + WIDTH / 2 + 1:.0f} {v:.0f} l7 -4 v8 z"
            assert edges <= lane
        else:
            top, foot = y + HEIGHT / 2, v - HEIGHT / 2
            bow = _bow(edge, place, layers)
            line = f"M{x:.0f} {top:.0f} C{x + bow:.0f} {top + EDGE / 2:.0f} {u + bow:.0f}"
            line += f" {foot - EDGE / 2:.0f} {u:.0f} {foot - 7:.0f}"
            tip = f"M{u:.0f} {foot - 1:.0f} l-4 -7 h8 z"
        mark = _mark("edge", passed[edge])
        parts.append(f'<g {mark}><path class="line" d="{line}"/><path class="tip" d="{tip}"/></g>')
    for node, (x, y) in place.items():
        parts.append(f"<g {_mark('node', passed[node])}>{_box(node, x, y)}</g>")
    return "".join([*parts, "</svg>"])


def _bow(edge: tuple[str, str], place: dict[str, Any], layers: dict[str, int]) -> float:
    """How far an edge that skips a layer swings out, so as not to run through boxes."""
    skips = layers[edge[1]] - layers[edge[0]] - 1
    return 0 if skips <= 0 else -(WIDTH / 2 + 16) * (1.35 if skips == 1 else 1.5)


def _mark(what: str, stops: set[int]) -> str:
    taken = f' data-stops="{" ".join(map(str, sorted(stops)))}"' if stops else ""
    return f'class="{what}{" taken" if stops else ""}"{taken}'


def _box(node: str, x: float, y: float) -> str:
    if node in (START, END):
        word = "start" if node == START else "end"
        return (
            f'<rect x="{x - 28:.0f}" y="{y - 12:.0f}" width="56" height="24" rx="12"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}">{word}</text>'
        )
    shown = html.escape(node if len(node) <= 16 else node[:15] + "…")
    return (
        f"<title>{html.escape(node)}</title>"
        f'<rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}"'
        f' height="{HEIGHT}" rx="7"/><text x="{x:.0f}" y="{y + 4:.0f}">{shown}</text>'
    )


def _layout(graph: nx.DiGraph) -> tuple[dict[str, tuple[float, float]], dict[str, int]]:
    """Node -> its centre, and its layer: the longest way to it along edges that go forward."""
    forward = nx.DiGraph()
    forward.add_nodes_from(graph)
    depth = nx.single_source_shortest_path_length(graph, START) if START in graph else {}
    seen: list[str] = sorted(graph, key=lambda node: (node == END, depth.get(node, 0)))
    for a, b in graph.edges:
        if seen.index(a) < seen.index(b):
            forward.add_edge(a, b)
    layers: dict[str, int] = {}
    for node in nx.topological_sort(forward):
        layers[node] = 1 + max((layers[p] for p in forward.predecessors(node)), default=-1)
    rows: dict[int, list[str]] = defaultdict(list)
    for node in seen:
        rows[layers[node]].append(node)
    across = max(map(len, rows.values())) * (WIDTH + GAP_X) - GAP_X
    skipping = any(layers[b] - layers[a] > 1 for a, b in forward.edges)
    left = 8 + (28 if skipping else 0)
    place = {}
    for layer, nodes in rows.items():
        span = len(nodes) * (WIDTH + GAP_X) - GAP_X
        for i, node in enumerate(nodes):
            x = left + (across - span) / 2 + i * (WIDTH + GAP_X) + WIDTH / 2
            place[node] = x, 8 + HEIGHT / 2 + layer * (HEIGHT + GAP_Y)
    return place, layers
