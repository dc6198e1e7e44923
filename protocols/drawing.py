"""A protocol's graph as a picture: laid out with networkx, painted with matplotlib, offline.

From the top down, one row a step away from the start. Ways that go back swing out to the right;
ways that depend on what was said are dashed.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import networkx as nx

from superalign.store.errors import BadInput

from .protocol import Protocol

FORMATS = (".png", ".svg", ".mmd")
WIDE, HIGH = 1.7, 0.8
"""Inches from the middle of one box to the next, across and down."""
INK, PAPER, SEAT = "#1f2430", "#ffffff", "#e8eefc"


def draw(protocol: Protocol, params: dict[str, Any], path: Path) -> None:
    """Write a protocol's graph into a file; its ending says how. Equal graphs give equal files."""
    if path.suffix not in FORMATS:
        raise BadInput(f"{path}: cannot draw {path.suffix!r}; end it in {', '.join(FORMATS)}")
    try:
        if path.suffix == ".mmd":
            path.write_text(protocol.mermaid(params))
        else:
            _paint(graph_of(protocol, params), protocol.name, path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a file that can be written") from error


def graph_of(protocol: Protocol, params: dict[str, Any]) -> nx.DiGraph:
    """Nodes and ways; a way is `conditional` when what was said decides whether it is taken."""
    graph = nx.DiGraph()
    for edge in protocol.graph(params).get_graph().edges:
        graph.add_edge(edge.source, edge.target, conditional=edge.conditional)
    return graph


def layout(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Node -> its place. A row is the longest way from the start that never goes back."""
    rows: dict[str, int] = {}
    forward = nx.DiGraph()
    forward.add_nodes_from(graph)
    forward.add_edges_from(e for e in graph.edges if e not in set(_back(graph)))
    for node in nx.topological_sort(forward):
        rows[node] = max((rows[before] + 1 for before in forward.predecessors(node)), default=0)
    if "__end__" in rows:
        rows["__end__"] = max(rows.values()) + (list(rows.values()).count(max(rows.values())) > 1)
    across: dict[int, list[str]] = defaultdict(list)
    for node, row in rows.items():
        across[row].append(node)
    return {
        node: ((i - (len(nodes) - 1) / 2) * WIDE, -row * HIGH)
        for row, nodes in across.items()
        for i, node in enumerate(nodes)
    }


def _back(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """The ways that lead to a node that is still open when a walk from the start takes them."""
    found, done, open_ = [], set[str](), list[str]()

    def walk(node: str) -> None:
        open_.append(node)
        for after in graph.successors(node):
            if after in open_:
                found.append((node, after))
            elif after not in done:
                walk(after)
        done.add(open_.pop())

    for node in graph:
        if node not in done:
            walk(node)
    return found


def _paint(graph: nx.DiGraph, title: str, path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place, back = layout(graph), set(_back(graph))
    xs, ys = zip(*place.values(), strict=True)
    (left, right), (foot, top) = (min(xs) - 1.2, max(xs) + 1.2), (min(ys) - 0.4, 0.8)
    figure = Figure(figsize=(right - left, top - foot), facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(foot, top))
    axes.axis("off")
    axes.text(left + 0.2, 0.55, title, color=INK, weight="bold", va="center")
    boxes = {node: _box(axes, node, where) for node, where in place.items()}
    for edge, said in graph.edges.items():
        _way(axes, edge, place, boxes, edge in back, bool(said["conditional"]))
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        stamp = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=144, metadata=stamp)


def _box(axes: Any, node: str, where: tuple[float, float]) -> Any:
    """A node's box, as wide as its name; start and end are paler."""
    from matplotlib.patches import FancyBboxPatch

    name, fill = node.strip("_"), PAPER if node in ("__start__", "__end__") else SEAT
    wide = 0.085 * len(name) + 0.25
    corner = (where[0] - wide / 2, where[1] - 0.15)
    shape = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch(corner, wide, 0.3, boxstyle=shape, ec=INK, fc=fill, zorder=2)
    axes.text(*where, name, ha="center", va="center", color=INK, fontsize=9, zorder=3)
    return axes.add_patch(box)


def _way(axes: Any, edge: Any, place: Any, boxes: Any, back: bool, dashed: bool) -> None:
    from matplotlib.patches import FancyArrowPatch

    (x, y), (u, v) = place[edge[0]], place[edge[1]]
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "color": INK, "zorder": 1}
    style["linestyle"] = "--" if dashed else "-"
    if edge[0] == edge[1]:  # out of its right side and in again
        side = x + boxes[edge[0]].get_width() / 2
        ends = {"posA": (side, y - 0.1), "posB": (side, y + 0.1), "shrinkA": 1, "shrinkB": 1}
        axes.add_patch(FancyArrowPatch(**ends, **style, connectionstyle="arc3,rad=2.2"))
        return
    skips = abs(y - v) > 1.5 * HIGH  # then it swings wide of the boxes between
    bow = 1.8 / abs(y - v) if skips else 0.35 if back else 0.0
    ends = {"patchA": boxes[edge[0]], "patchB": boxes[edge[1]], "shrinkA": 1, "shrinkB": 2}
    bend = f"arc3,rad={bow}"
    axes.add_patch(FancyArrowPatch((x, y), (u, v), **ends, **style, connectionstyle=bend))
