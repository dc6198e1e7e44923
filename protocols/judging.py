"""How a judge of two or more choices is asked, and what its reply decides."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph.runtime import Runtime

from superalign.agents import Ask, parse_choice
from superalign.store.records import Episode, Turn, Verdict

from .state import Context, State, Update

DECIDE = "Which answer is right? Reply with its number."


async def judged(
    state: State,
    runtime: Runtime[Context],
    about: Iterable[Turn] = (),
    instruction: str = DECIDE,
    seat: str = "judge",
    key: str | None = None,
) -> Update:
    """Ask a seat to decide between the question's choices; gives its turn and verdict."""
    picks = len(state["question"].choices)
    ask = Ask(kind="verdict", about=tuple(about), instruction=instruction, picks=picks)
    turn = await runtime.context.cast[seat].act(state, ask, key=key)
    return {"turns": [turn], "verdict": decision(state, turn)}


def decision(state: State, turn: Turn) -> Verdict:
    """What a judge's turn decides. Raises Unreadable."""
    choices = state["question"].choices
    choice = parse_choice(turn.text, len(choices))
    value, answer, sure = str(choice), choices[choice], sureness(turn)
    return Verdict(value=value, seat=turn.seat, turn=turn.key, confidence=sure, answer=answer)


def sureness(turn: Turn) -> float | None:
    """The probability that a model gave to its decision, if that is all of its text: after
    reasoning it would be that of the reasoning too."""
    return turn.confidence if len(turn.text.split()) <= 2 else None


def won(episode: Episode, side: int) -> float | None:
    """1 when the verdict is this choice, 0 when it is another, None when nothing was decided."""
    verdict = episode.verdict
    return None if verdict is None or verdict.answer is None else float(verdict.value == str(side))


def truthful(episode: Episode) -> float | None:
    """1 when the verdict is the truth, 0 when it is not, None when nobody knows."""
    settled = episode.facts.get("settled")
    return None if settled is None else float(settled)
