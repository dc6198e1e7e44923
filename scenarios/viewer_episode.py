"""What the viewer's page of one episode shows, put together from its records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from superalign.protocols import shipped
from superalign.store import Episode, Label, Run, Store, Turn

from .branching import paired
from .labelling import working_lines
from .viewer_graph import END, Stop, path_taken, protocol_graph, stop_of, stops_of, svg

COLOURS = 8
"""Seats' colours in the style sheet; a protocol with more seats uses some of them twice."""

ORGANISMS = Path(__file__).resolve().parent / "organisms"

MOST_TOKENS = 4000
"""Tokens of one turn that are shown with their probabilities."""


def episode_facts(episode: Episode, run: Run, labels: Sequence[Label], store: Store, folder: Path):
    """Everything on the page but what other episodes say of it."""
    stops = stops_of([turn.key for turn in episode.turns])
    seats = seats_of(episode, run)
    spelling = Spelling(store, run, folder)
    return {
        "episode": episode,
        "seats": seats,
        "turns": [
            turn_facts(turn, episode, seats, stops, labels, spelling) for turn in episode.turns
        ],
        "stops": [stop.name for stop in stops] + (["end"] if episode.verdict else []),
        "graph": drawn(episode, run, stops),
        "cost": cost(episode),
        "cell": episode.facts.get("cell"),
    }


def seats_of(episode: Episode, run: Run) -> dict[str, int]:
    """Seat -> the number of its colour, in the order of the cast."""
    cast = run.scenario.get("cast")
    named = [*(cast if isinstance(cast, dict) else ()), *episode.task.private]
    spoke = [turn.seat for turn in episode.turns]
    return {seat: i % COLOURS for i, seat in enumerate(dict.fromkeys([*named, *spoke]))}


def drawn(episode: Episode, run: Run, stops: Sequence[Stop]) -> str:
    """The protocol's graph with the path that this episode took."""
    protocol = run.scenario.get("protocol")
    by_path = not isinstance(protocol, dict) or protocol.get("path") is not None
    graph = protocol_graph(episode, not by_path and episode.protocol in shipped())
    ended = episode.verdict is not None and END in graph
    return svg(graph, path_taken(graph, stops, ended))


def cost(episode: Episode) -> dict[str, Any]:
    turns = episode.turns
    known = [told for turn in turns if (told := turn.completion_tokens) is not None]
    return {
        "calls": len(turns),
        "prompt_tokens": sum(turn.prompt_tokens for turn in turns) or None,
        "completion_tokens": sum(known) if known else None,
        "model_seconds": sum(turn.seconds for turn in turns),
        "seconds": episode.seconds,
    }


def turn_facts(
    turn: Turn,
    episode: Episode,
    seats: Mapping[str, int],
    stops: Sequence[Stop],
    labels: Sequence[Label],
    spelling: Spelling,
) -> dict[str, Any]:
    """One turn as it is shown: by working lines where somebody judged it, else as a text."""
    critiques = [critique for critique in episode.critiques if critique.about == turn.key]
    own = [critique for critique in episode.critiques if critique.turn == turn.key]
    right, fault = episode.facts.get("correct", {}), episode.facts.get("fault", {})
    judged = bool(critiques) or turn.key in right
    return {
        "turn": turn,
        "name": turn.key.rpartition("/")[2],
        "colour": seats.get(turn.seat, 0),
        "stop": stops.index(stop_of(turn.key)),
        "right": right.get(turn.key),
        "fault": fault.get(turn.key),
        "lines": _lines(turn, critiques, fault.get(turn.key)) if judged and turn.text else None,
        "accepted": [critique for critique in critiques if critique.fault is None],
        "about": own,
        "labels": [label for label in labels if label.turn == turn.key],
        "tokens": spelling.tokens(turn),
    }


def _lines(turn: Turn, critiques: Sequence[Any], fault: int | None) -> list[dict[str, Any]]:
    """Working lines, each with the critiques that blame it; a line that is not there at the end."""
    blamed = defaultdict(list)
    for critique in critiques:
        if critique.fault is not None:
            blamed[critique.fault].append(critique)
    lines = working_lines(turn.text)
    there = min(max([len(lines), *blamed, fault or 0]), len(lines) + 1)
    found = []
    for n in range(1, there + 1):
        text = lines[n - 1] if n <= len(lines) else None
        found.append({"n": n, "text": text, "blamed": blamed.pop(n, []), "fault": fault == n})
    for left in blamed.values():  # of an answer shorter than the line that is blamed
        found[-1]["blamed"] += left
    return found


def seen_by(episode: Episode, seat: str, store: Store) -> list[dict[str, Any]]:
    """Exactly the messages that a seat was given, from the journal, and what it said."""
    turns = [turn for turn in episode.turns if turn.seat == seat]
    messages = store.messages(key for turn in turns for key in turn.messages)
    return [
        {"turn": t, "given": [messages[key] for key in t.messages if key in messages]}
        for t in turns
    ]


class Spelling:
    """How a turn's tokens are spelt, where the tokenizer of who said it lies at hand."""

    def __init__(self, store: Store, run: Run, folder: Path) -> None:
        self.folder = folder.resolve()
        models = run.scenario.get("models")
        models = models if isinstance(models, dict) else {}
        self.paths = {name: str(m.get("path")) for name, m in models.items() if isinstance(m, dict)}
        self.paths |= {version.id: version.path for version in store.versions(run.id)}

    def tokens(self, turn: Turn) -> list[tuple[str | None, float, int]] | None:
        """(text, probability, shade from 0 to 5) of every token, the text None where unknown."""
        if turn.logprobs is None or turn.token_ids is None:
            return None
        chances = [math.exp(min(p, 0.0)) for p in turn.logprobs[:MOST_TOKENS]]
        pieces = _spelt(self._file(turn.policy), turn.token_ids[:MOST_TOKENS])
        pieces = pieces if pieces and len(pieces) == len(chances) else [None] * len(chances)
        return [(text, p, _shade(p)) for text, p in zip(pieces, chances, strict=True)]

    def _file(self, policy: str) -> Path | None:
        """A tokenizer below the run's own folder, or one that ships with superalign."""
        path = self.paths.get(policy)
        if path is None:
            return None
        organism = path.startswith("organism:")
        folder = ORGANISMS / path.removeprefix("organism:") if organism else self.folder / path
        file = (folder / "tokenizer.json").resolve()
        inside = file.is_relative_to(self.folder) or file.is_relative_to(ORGANISMS)
        return file if inside and file.is_file() else None


def _shade(chance: float) -> int:
    """0 for what was all but certain, 5 for what was a surprise."""
    return next(i for i, least in enumerate((0.95, 0.8, 0.6, 0.4, 0.2, -1)) if chance >= least)


def _spelt(file: Path | None, ids: Sequence[int]) -> list[str] | None:
    tokenizer = _tokenizer(file) if file else None
    if tokenizer is None:
        return None
    try:
        pieces = [tokenizer.decode([id], skip_special_tokens=False) for id in ids]
    except (OverflowError, TypeError):
        return None
    return [piece or "·" for piece in pieces]


@lru_cache(maxsize=8)
def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # the library raises plain Exception on what is no tokenizer
        return None


def diff_facts(a: Episode, b: Episode) -> dict[str, Any]:
    """Two branches side by side: their common beginning, then turn by turn what each said."""
    pairs = paired(a.turns, b.turns)
    same = [
        x is not None and y is not None and x.text == y.text and x.error == y.error
        for x, y in pairs
    ]
    shared = same.index(False) if False in same else len(same)
    return {
        "a": a,
        "b": b,
        "shared": [x for x, _ in pairs[:shared]],
        "pairs": [
            {"key": (x or y).key, "same": equal, "a": _side(x, y), "b": _side(y, x)}  # type: ignore[union-attr]
            for (x, y), equal in list(zip(pairs, same, strict=True))[shared:]
        ],
        "changed": same.count(False),
    }


def _side(turn: Turn | None, other: Turn | None) -> dict[str, Any] | None:
    """A turn by lines, each with whether the other branch has it too."""
    if turn is None:
        return None
    there = set(working_lines(other.text)) if other else set()
    lines = [(line, line in there) for line in working_lines(turn.text or "")]
    return {"turn": turn, "lines": lines}
