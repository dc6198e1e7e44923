"""Transcripts as one HTML page that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from superalign.store import Episode, Store

from .stored import printable

COLOURS = 8
"""Seats that get a colour of their own; the ninth shares that of the first."""


def write_page(store: Store, run: str, path: Path, ids: Sequence[str] | None) -> dict[str, Any]:
    """Write a run's episodes, or those that are named, as a page; memory stays flat.

    Only the page of named episodes shows what seats were told in private: it may be long.
    """
    stored, later = store.run(run), defaultdict(list)
    for score in store.scores(run):
        later[score.episode].append(score)
    count = {"episodes": 0, "failed": 0}

    def told() -> Iterator[dict[str, Any]]:
        for episode in store.episodes(run, ids=ids):
            count["episodes"] += 1
            count["failed"] += episode.status == "failed"
            yield {"episode": episode, "scores": later[episode.id], "seats": _colours(episode)}

    here = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= {"text": printable, "hash": _hash, "day": _day}
    page = jinja.get_template("page.html").stream(run=stored, told=told(), one=ids is not None)
    page.enable_buffering(100)
    page.dump(str(path), encoding="utf-8")
    return count


def _colours(episode: Episode) -> dict[str, int]:
    """Seat -> number of its colour, in the order in which they first spoke."""
    seats = dict.fromkeys(turn.seat for turn in episode.turns)
    return {seat: number % COLOURS for number, seat in enumerate(seats)}


def _hash(style: str) -> str:
    """What a Content-Security-Policy calls exactly this style."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
