"""Questions that are taken apart: what is open after each turn, and the tree that this makes."""

from __future__ import annotations

import re

import networkx as nx

from superalign.store.errors import Unreadable
from superalign.store.records import Episode, Turn

REPLY = re.compile(r"(Ask|Answer): (\S.*)")

Frame = list[str]
"""An open question: the key of the turn that asked it ('' for the episode's own), then those of
the turns that asked below it and answered, in turn."""


def answer_of(turn: Turn) -> str | None:
    """The answer that a turn gives; None when it asks on. Raises Unreadable."""
    if turn.kind == "subanswer":
        return turn.text.strip()
    found = REPLY.fullmatch(turn.text.strip())
    if found is None or (turn.kind == "conclusion" and found[1] == "Ask"):
        wanted = "`Answer: …`" if turn.kind == "conclusion" else "`Ask: …` or `Answer: …`"
        raise Unreadable(f"{turn.kind} {turn.text!r}: expected one line, {wanted}")
    return found[2] if found[1] == "Answer" else None


def advance(frames: list[Frame], turn: Turn) -> list[Frame]:
    """The questions that are open after a turn: one more, or the innermost one closed."""
    *outer, last = frames
    if answer_of(turn) is None:
        return [*outer, [*last, turn.key], [turn.key]]
    return [*outer[:-1], [*outer[-1], turn.key]] if outer else []


def question_tree(episode: Episode) -> nx.DiGraph:
    """Question -> sub-question, each named by the turn that asked it, '' the episode's own.

    Nodes know their `text`, `depth`, and the `answer` and `seat` of whoever answered.
    """
    tree, frames = nx.DiGraph(), [[""]]
    tree.add_node("", text=episode.question.text, depth=0, answer=None, seat=None)
    for turn in episode.turns:
        if turn.kind == "answer":  # the learner alone
            continue
        here, answer = frames[-1][0], answer_of(turn)
        if answer is None:
            text = turn.text.strip().removeprefix("Ask: ")
            tree.add_node(turn.key, text=text, depth=len(frames), answer=None, seat=None)
            tree.add_edge(here, turn.key)
        else:
            tree.nodes[here].update(answer=answer, seat=turn.seat)
        frames = advance(frames, turn)
    return tree
