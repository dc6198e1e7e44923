"""An agent: a model in a seat. And the cleaning of text at the boundary where it enters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from superalign.store.errors import ProtocolError
from superalign.store.records import Question, Source

from .model import Ask, Model, Sampling, View

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""PostgreSQL refuses NUL, SQLite refuses lone surrogates, LangGraph would change them silently."""


@dataclass(frozen=True)
class Agent:
    """Who sits in a seat: a model, the policy version it speaks as, and how it samples."""

    model: Model
    policy: str
    sampling: Sampling
    trainable: bool = False
    source: Source = "ai"


def view(seat: str, question: Question, private: str | None, ask: Ask) -> View:
    """What `seat` may see when asked. Raises ProtocolError when the ask shows it a hidden turn."""
    for turn in ask.about:
        if turn.visible_to is not None and seat not in turn.visible_to:
            allowed = ", ".join(turn.visible_to)
            raise ProtocolError(f"{seat} was asked about {turn.key}, which only {allowed} may see")
    return View(seat=seat, question=question, private=private, ask=ask)


def clean(text: str) -> tuple[str, bool]:
    """Text that every store can hold, and whether it had to be changed."""
    if storable(text):
        return text, False
    return UNSTORABLE.sub("\ufffd", text), True


def storable(text: str) -> bool:
    """Whether it holds neither NUL nor a lone surrogate. Much faster than the pattern."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
