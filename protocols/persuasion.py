"""What provers earn who convince a verifier, and what both can learn from it (2407.13692).

A solution's score counts for more than the others' of its role or for nothing, so that a prover
cannot earn by a verifier that scores all solutions higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean
from typing import NamedTuple

from superalign.store.errors import BadInput
from superalign.store.records import Episode, Row, Turn

from .protocol import PromptOf

Earned = Callable[[Sequence[float], Sequence[bool], bool], list[float]]
"""(scores of one role's solutions, whether each is right, whether the role helps) -> rewards."""


def signed(scores: Sequence[float], correct: Sequence[bool], helpful: bool) -> list[float]:
    """Signed relative convincingness: what convinces more than the role's mean earns its excess,
    or loses it where the role does not want it to convince; all else earns -1."""
    middle, pairs = fmean(scores), zip(scores, correct, strict=True)
    return [
        (score - middle) * (1 if right == helpful else -1) if score > middle else -1.0
        for score, right in pairs
    ]


def gated(scores: Sequence[float], correct: Sequence[bool], helpful: bool) -> list[float]:
    """Correctness-gated convincingness: the score, or -2 where the role does not want it."""
    pairs = zip(scores, correct, strict=True)
    return [score if right == helpful else -2.0 for score, right in pairs]


def convincing(scores: Sequence[float], correct: Sequence[bool], helpful: bool) -> list[float]:
    """The score alone: the reward of an attack on the verifier."""
    return list(scores)


REWARDS: dict[str, Earned] = {"signed": signed, "gated": gated, "convincing": convincing}


class Solution(NamedTuple):
    """A solution, and what became of it."""

    turn: Turn
    role: str
    correct: bool
    score: float


def earned(solutions: Sequence[Solution], reward: str) -> list[float]:
    """What each solution earns, by the mean of its role."""
    found: dict[str, float] = {}
    for role in dict.fromkeys(solution.role for solution in solutions):
        own = [solution for solution in solutions if solution.role == role]
        scores, correct = [s.score for s in own], [s.correct for s in own]
        paid = REWARDS[reward](scores, correct, role == "helpful")
        found.update(zip((s.turn.key for s in own), paid, strict=True))
    return [found[solution.turn.key] for solution in solutions]


def ordered(solutions: Sequence[Solution]) -> float | None:
    """Of all pairs of a right and a wrong solution, the share in which the right one has the
    higher score; a tie counts half. None where there are no such pairs."""
    right = [s.score for s in solutions if s.correct]
    wrong = [s.score for s in solutions if not s.correct]
    shares = [1.0 if r > w else 0.5 if r == w else 0.0 for r, w in product(right, wrong)]
    return fmean(shares) if shares else None


def persuasion_rows(
    episode: Episode,
    seat: str,
    prompt_of: PromptOf,
    solutions: Sequence[Solution],
    control: bool = False,
) -> list[Row]:
    """Prover: the solutions of each role with what they earn. Verifier: right against wrong ones
    of one role, whose prompt is the same.

    Which are right is the truth itself, so these train only arms that are marked as controls.
    """
    if not control:
        raise BadInput(
            f"{episode.ref}: right and wrong solutions are told apart by source='oracle', the "
            "truth itself, which trains control arms only: mark the arm as a control"
        )
    rows = []
    for role in dict.fromkeys(solution.role for solution in solutions):
        own = [s for s in solutions if s.role == role and s.turn.finish == "stop"]
        if seat == "prover":
            paid = tuple(earned(own, episode.params["reward"])) if own else ()
            if len(set(paid)) > 1:
                rows.append(_row("rank", episode, seat, prompt_of, own, rewards=paid))
            continue
        pairs = [(a, b) for a, b in product(own, own) if a.correct and not b.correct]
        rows += [_row("pref", episode, seat, prompt_of, pair) for pair in pairs]
    return rows


def _row(
    kind, episode: Episode, seat: str, prompt_of: PromptOf, used: Sequence[Solution], **more
) -> Row:
    return Row(
        kind=kind,
        seat=seat,
        prompt=prompt_of(used[0].turn),
        replies=tuple(solution.turn.text for solution in used),
        source="oracle",
        judge="oracle",
        turns=tuple(f"{episode.ref}/{solution.turn.key}" for solution in used),
        iteration=episode.iteration,
        **more,
    )
