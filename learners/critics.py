"""Rows for a seat that criticises, from labels of the answers that it criticised.

    sft      a critique that agrees with the label
    pref     one that agrees against one that does not, where both were given one prompt
    reward   any critique: 1 if it agrees, 0 if not

A critique agrees if it finds a fault just where the label says that the answer is wrong. Which
fault it names a label does not know, so a critique that blames the wrong line of a wrong answer
counts as one that agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from superalign.store.records import Critique, Episode, Label, Row, Turn

from .rows import TRUST, FlipRates, Kind, PromptOf, agreed


def critic_rows(
    episode: Episode,
    seat: str = "critic",
    *,
    prompt_of: PromptOf,
    labels: Sequence[Label],
    flips: FlipRates = TRUST,
) -> list[Row]:
    """All rows of one episode; none where nobody labelled what the seat criticised.

    Equal critiques of one prompt are one. Answers whose labels contradict each other teach nothing,
    nor do critiques that were cut off. A label of the oracle is none: it would be the truth.
    """
    if episode.status != "done":
        return []
    told = {place[2]: label for place, label in agreed(_of(episode, labels)).items() if label}
    right: dict[str, list[tuple[Turn, Label]]] = {}
    wrong: dict[str, list[tuple[Turn, Label]]] = {}
    for critique, turn in _said(episode, seat):
        label = told.get(critique.about)
        if label is not None:
            side = right if (critique.fault is None) == label.correct else wrong
            same = side.setdefault("\n".join(turn.messages), [])
            if turn.text not in [other.text for other, _ in same]:
                same.append((turn, label))

    def row(kind: Kind, *used: tuple[Turn, Label], **more: Any) -> Row:
        turns = [turn for turn, _ in used]
        label = used[0][1]
        return Row(
            kind=kind,
            seat=seat,
            prompt=prompt_of(turns[0]),
            replies=tuple(turn.text for turn in turns),
            source=label.source,
            judge=label.author,
            turns=tuple(f"{episode.ref}/{key}" for key in (*(t.key for t in turns), label.turn)),
            iteration=episode.iteration,
            **more,
        )

    found = []
    for side, reward in ((right, 1.0), (wrong, 0.0)):
        for used in [used for same in side.values() for used in same]:
            turn, label = used
            error = flips.error(label.correct, label.source)
            more = {"rewards": (reward,), "token_ids": turn.token_ids, "flip_prob": error}
            found.append(row("reward", used, **more))
            found += [row("sft", used, flip_prob=error)] if side is right else []
    for prompt, same in right.items():
        for better, worse in product(same, wrong.get(prompt, ())):
            error = flips.error(better[1].correct, better[1].source)
            found.append(row("pref", better, worse, flip_prob=error))
    return found


def _of(episode: Episode, labels: Sequence[Label]) -> list[Label]:
    place = (episode.run, episode.id)
    return [x for x in labels if (x.run, x.episode) == place and x.source != "oracle"]


def _said(episode: Episode, seat: str) -> list[tuple[Critique, Turn]]:
    found = [(critique, episode.turn(critique.turn)) for critique in episode.critiques]
    return [(c, t) for c, t in found if t.seat == seat and t.error is None and t.finish == "stop"]
