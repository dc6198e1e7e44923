"""What dcr reads off its transcript: answers, flagged sentences, and what refining changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, NamedTuple

from superalign.store.records import Episode, Turn

from .readings import parse_word, sentences

CLOSE = 0.5
"""Below this similarity a refinement is another answer, not a correction."""


class Pass(NamedTuple):
    """An answer, what the detector said of its sentences, and the reviews of the flagged ones."""

    answer: Turn
    said: list[Turn]
    reviews: list[Turn]

    @property
    def flags(self) -> list[int]:
        """Which sentences were flagged."""
        words = (parse_word(t.text, "detection", ("supported", "unsupported")) for t in self.said)
        return [i for i, word in enumerate(words) if word == "unsupported"]


def claim(answer: Turn, sentence: str) -> Turn:
    """One sentence of an answer, as a part of its own to be shown."""
    return answer.model_copy(update={"kind": "claim", "text": sentence})


def passes(turns: Iterable[Turn]) -> list[Pass]:
    """Each answer with what followed it."""
    found: list[Pass] = []
    for turn in turns:
        if turn.kind == "answer":
            found.append(Pass(turn, [], []))
        else:
            (found[-1].said if turn.kind == "detection" else found[-1].reviews).append(turn)
    return found


def best(held: Sequence[Pass]) -> Pass:
    """The pass with the fewest flags, the earliest of equals."""
    return min(held, key=lambda one: len(one.flags))


def measured(episode: Episode) -> dict[str, Any]:
    """Of each answer its flags; of each refinement its similarity to the answer before, and the
    share of that one's sound sentences that it altered."""
    held = passes(episode.turns)
    altered = []
    for before, after in pairwise(held):
        parts, new = enumerate(sentences(before.answer.text)), sentences(after.answer.text)
        sound = [part for i, part in parts if i not in before.flags]
        altered.append(sum(part not in new for part in sound) / len(sound) if sound else None)
    return {
        "flags": [len(one.flags) for one in held],
        "similarity": [similar(a.answer, b.answer) for a, b in pairwise(held)],
        "altered": altered,
    }


def similar(before: Turn, after: Turn) -> float:
    """How much of two texts is alike, by words, from 0 to 1."""
    return SequenceMatcher(None, before.text.split(), after.text.split(), False).ratio()
