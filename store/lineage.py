"""Lineage: what taught a version, and which versions a sentence taught.

The graph runs from parent to child: an episode holds turns, a turn made rows, a row taught
versions, a version became another. Its nodes are references: `run/version`, `run/row id`,
`run/episode`, `run/episode/turn key`. Each has a `kind`, a `label` and a `text`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import networkx as nx
import orjson
from sqlalchemy import and_, func, select
from sqlalchemy.exc import DatabaseError

from . import tables
from .database import core
from .errors import BadInput, StoreError
from .records import Row
from .store import Store

AT_ONCE = 500
"""Episodes whose turns are read by one query."""
SHOWN = 300
"""Characters of a text that a node keeps: what taught a large model would fill the memory."""

SENTENCES = 5
"""How many of them a summary quotes."""

RUNS, VERSIONS, EPISODES = core(tables.Runs).c, core(tables.Versions).c, core(tables.Episodes).c
TURNS, ROWS, TAUGHT = core(tables.Turns).c, core(tables.Rows).c, core(tables.VersionRows).c


class Place(NamedTuple):
    """What a reference means."""

    kind: Literal["version", "episode", "turn"]
    run: str
    id: str
    """Of the version or the episode."""
    key: str = ""
    """Of the turn."""

    @property
    def ref(self) -> str:
        return "/".join((self.run, self.id, self.key) if self.key else (self.run, self.id))


def find(store: Store, ref: str) -> list[Place]:
    """All that a reference can mean: a version's id, or the beginning of an episode's id, then
    perhaps `/` and the beginning of a turn's key; with or without `run/` before it."""
    run, _, rest = ref.partition("/")
    if run not in store.column(RUNS.id):
        run, rest = "", ref
    id, _, key = rest.partition("/")

    def places(kind: Any, columns: Sequence[Any], *where: Any) -> list[Place]:
        here = [columns[0] == run] if run else []
        return [Place(kind, *found) for found in _ask(store, select(*columns).where(*here, *where))]

    found = places("version", (VERSIONS.run, VERSIONS.id), VERSIONS.id == rest)
    if not id:
        return found
    begins = EPISODES.id.startswith(id, autoescape=True)
    episodes = places("episode", (EPISODES.run, EPISODES.id), begins)
    if not key:
        return found + episodes
    turn, begins = (TURNS.run, TURNS.episode, TURNS.key), TURNS.key.startswith(key, autoescape=True)
    for place in episodes[:2]:  # two are too many already
        found += places("turn", turn, TURNS.run == place.run, TURNS.episode == place.id, begins)
    return found


def only(ref: str, found: Sequence[Place]) -> Place:
    """The one thing that was found. Raises BadInput when it is none or several."""
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(place.ref for place in found[:4]) + (", …" if len(found) > 4 else "")
        raise BadInput(f"{ref}: could be {some}; name one of them")
    what = "no such version, episode or turn; name RUN/VERSION, an episode's id, or EPISODE/TURN"
    raise BadInput(f"{ref}: {what}, as `superalign show EPISODE` prints the keys of its turns")


def lineage(store: Store, ref: str) -> nx.DiGraph:
    """Of a version: its parents, and the rows, turns and episodes that taught them all. Of a turn
    or an episode: the rows made of it, the versions they taught, and those that descend from them.

    Raises BadInput when the reference does not mean exactly one thing.
    """
    place = only(ref, find(store, ref))
    graph = nx.DiGraph(ref=place.ref, kind=place.kind)
    if place.kind == "version":
        family = _family(store, place.run)
        graph.update(family.subgraph(nx.ancestors(family, place.ref) | {place.ref}))
        ids = [name.removeprefix(f"{place.run}/") for name in graph]
        _add_rows(graph, store, "", TAUGHT.run == place.run, TAUGHT.version.in_(ids))
    else:
        begin = place.ref + ("" if place.key else "/")
        quoted = f'"{begin}"' if place.key else f'"{begin}'
        _add_rows(graph, store, begin, ROWS.turns.contains(quoted, autoescape=True))
        graph.add_node(place.ref, kind=place.kind)  # also when nothing was made of it
        taught = {name.split("/")[0] for name in _of_kind(graph, "version")}
        for run in sorted(taught):
            family = _family(store, run)
            for version in [name for name in _of_kind(graph, "version") if name in family]:
                graph.update(family.subgraph(nx.descendants(family, version) | {version}))
    _add_turns(graph, store)
    _add_episodes(graph, store)
    return graph


def summary(graph: nx.DiGraph) -> dict[str, Any]:
    """Counts, the versions from the oldest to the youngest, and the first few sentences."""
    nodes, rows = graph.nodes, _of_kind(graph, "row")
    turns = _of_kind(graph, "turn")
    return {
        "ref": graph.graph["ref"],
        "kind": graph.graph["kind"],
        "versions": [_version(graph, name) for name in in_order(graph)],
        "rows": len(rows),
        "made": dict(sorted(Counter(nodes[row]["label"] for row in rows).items())),
        "retracted": sum(nodes[row]["retracted"] for row in rows),
        "episodes": len(_of_kind(graph, "episode")),
        "turns": len(turns),
        "sentences": [{"turn": turn, "text": nodes[turn]["text"]} for turn in turns[:SENTENCES]],
    }


def _version(graph: nx.DiGraph, name: str) -> dict[str, Any]:
    above, kinds = list(graph.predecessors(name)), graph.nodes
    parent = next((node for node in above if kinds[node]["kind"] == "version"), None)
    rows = [node for node in above if kinds[node]["kind"] == "row"]
    retracted = sum(kinds[row]["retracted"] for row in rows)
    made = {"rows": len(rows), "retracted": retracted}
    return {"version": name, "method": kinds[name]["text"], "parent": parent, **made}


def in_order(graph: nx.DiGraph) -> list[str]:
    """The versions of a lineage, parents before children."""
    versions = _of_kind(graph, "version")
    return sorted(versions, key=lambda name: (graph.nodes[name]["iteration"], name))


def to_retract(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """(run, row) of the rows made of the graph's turn or episode, or that taught its version
    itself; without those that are retracted already."""
    ref, of_version = graph.graph["ref"], graph.graph["kind"] == "version"
    near = graph.predecessors(ref) if of_version else graph.nodes
    rows = [n for n in near if graph.nodes[n]["kind"] == "row" and not graph.nodes[n]["retracted"]]
    return [_pair(row) for row in sorted(rows)]


def standing(store: Store, run: str, rows: Iterable[Row]) -> list[Row]:
    """The rows that were not retracted: all that an update may learn from."""
    gone = {retraction.row for retraction in store.retractions(run)}
    return [row for row in rows if row.id not in gone]


def _of_kind(graph: nx.DiGraph, kind: str) -> list[str]:
    return [name for name, facts in graph.nodes(data=True) if facts["kind"] == kind]


def _pair(ref: str) -> tuple[str, str]:
    run, _, rest = ref.partition("/")
    return run, rest


def _family(store: Store, run: str) -> nx.DiGraph:
    """All versions of a run, each below its parent."""
    family, versions = nx.DiGraph(), store.versions(run)
    for version in versions:
        facts = {"text": version.method, "iteration": version.iteration}
        family.add_node(f"{run}/{version.id}", kind="version", label=version.id, **facts)
    for version in versions:
        if (parent := f"{run}/{version.parent}") in family:
            family.add_edge(parent, f"{run}/{version.id}", what="became")
    return family


def _add_rows(graph: nx.DiGraph, store: Store, begin: str, *where: Any) -> None:
    """Rows with the versions that they taught, and those of their turns that begin so."""
    columns = (ROWS.run, ROWS.id, ROWS.kind, ROWS.source, ROWS.judge, ROWS.flip_prob, ROWS.turns)
    same = and_(TAUGHT.run == ROWS.run, TAUGHT.row == ROWS.id)
    joined = core(tables.Rows).outerjoin(core(tables.VersionRows), same)
    query = select(*columns, TAUGHT.version).select_from(joined).where(*where)
    query = query.order_by(ROWS.iteration, ROWS.id)
    exact = graph.graph["kind"] == "turn"
    for run, id, kind, source, judge, flip, turns, version in _ask(store, query):
        row = f"{run}/{id}"
        named = [t for t in orjson.loads(turns) if (t == begin if exact else t.startswith(begin))]
        if not named:  # LIKE takes capitals for small letters
            continue
        text = f"judged by {judge}, flip_prob {flip:.3g}"
        graph.add_node(row, kind="row", label=f"{kind} {source}", text=text, retracted=False)
        for turn in named:
            graph.add_node(turn, kind="turn")
            graph.add_edge(turn, row, what="made")
        if version is not None:
            if (child := f"{run}/{version}") not in graph:
                graph.add_node(child, kind="version", label=version, text="", iteration=0)
            graph.add_edge(row, child, what="taught")
    for run in {_pair(row)[0] for row in _of_kind(graph, "row")}:
        for retraction in store.retractions(run):
            if (row := f"{run}/{retraction.row}") in graph:
                graph.nodes[row]["retracted"] = True


def _add_turns(graph: nx.DiGraph, store: Store) -> None:
    """What the turns of the graph say, and the episodes they belong to."""
    episodes: dict[str, set[str]] = defaultdict(set)
    for turn in _of_kind(graph, "turn"):
        run, episode, key = [*turn.split("/", 2), "", ""][:3]
        graph.nodes[turn].update(label=key, text="")
        episodes[run].add(episode)
        graph.add_node(f"{run}/{episode}", kind="episode")
        graph.add_edge(f"{run}/{episode}", turn, what="holds")
    columns = (TURNS.episode, TURNS.key, TURNS.seat, TURNS.kind, func.substr(TURNS.text, 1, SHOWN))
    for run, some in _batches(episodes):
        query = select(*columns).where(TURNS.run == run, TURNS.episode.in_(some))
        for episode, key, seat, kind, text in _ask(store, query):
            if (turn := f"{run}/{episode}/{key}") in graph:
                graph.nodes[turn].update(label=f"{seat} {kind}", text=text)


def _add_episodes(graph: nx.DiGraph, store: Store) -> None:
    """The questions that the graph's episodes were about."""
    episodes: dict[str, set[str]] = defaultdict(set)
    for name in _of_kind(graph, "episode"):
        run, episode = _pair(name)
        graph.nodes[name].update(label=episode, text="")
        episodes[run].add(episode)
    for run, some in _batches(episodes):
        query = select(EPISODES.id, EPISODES.question)
        query = query.where(EPISODES.run == run, EPISODES.id.in_(some))
        for episode, question in _ask(store, query):
            graph.nodes[f"{run}/{episode}"]["text"] = orjson.loads(question)["text"][:SHOWN]


def _batches(episodes: dict[str, set[str]]) -> Iterator[tuple[str, list[str]]]:
    """Some hundred episodes of one run at a time."""
    for run, ids in episodes.items():
        wanted = sorted(ids)
        for start in range(0, len(wanted), AT_ONCE):
            yield run, wanted[start : start + AT_ONCE]


def _ask(store: Store, query: Any) -> list[Any]:
    try:
        with store.connect() as db:
            return list(db.execute(query))
    except DatabaseError as error:
        raise StoreError(f"{store.url}: cannot be read: {error.orig}") from error
