"""What is said of a reply before the verdict on it, and what transcripts hold of that.

GenRM-CoT learns from it: Zhang et al. 2024, arXiv 2408.15240.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from superalign.store.records import Episode, Message

from .rows import PromptOf

Prompt = tuple[Message, ...]


class Rationale(NamedTuple):
    """A critique of a reply."""

    text: str
    right: bool
    """Whether it finds the reply right."""


Rationales = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Sequence[Rationale]]]
"""`explain(prompts, replies)`: what is said of each reply, by somebody who knows no label."""


def stored(episodes: Iterable[Episode], prompt_of: PromptOf) -> Rationales:
    """The critiques that transcripts hold of a reply under its own prompt, of all critics.

    They agree with a row's label by necessity where the last of them gave it; a person's label or
    a tool's is what they are to be held against. One that was cut off is left out.
    """
    found: dict[tuple[Prompt, str], list[Rationale]] = {}
    for episode in episodes:
        for critique in episode.critiques:
            answer, said = episode.turn(critique.about), episode.turn(critique.turn)
            if said.error is None and said.finish == "stop":
                place = (prompt_of(answer), answer.text)
                found.setdefault(place, []).append(Rationale(said.text, critique.fault is None))

    def explain(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[Rationale]]:
        return [found.get(place, []) for place in zip(prompts, replies, strict=True)]

    return explain
