"""The control at equal cost: what a majority vote would have decided with fewer of its votes.

A protocol that asks more often must beat as many plain votes. A `vote` run holds many votes on
each question, so what fewer of them decide follows without asking anybody: exactly, as the mean
over all choices of so many votes. Of answers that lead together the one that was drawn first wins,
so over all orders each of them wins equally often.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from superalign.protocols.answering import read
from superalign.protocols.state import State
from superalign.store import Episode

from .items import FLOOR


@dataclass(frozen=True)
class Votes:
    """The votes of one episode, counted."""

    right: int
    wrong: tuple[int, ...]
    """Votes of each wrong answer that got any."""
    choices: int
    """Choices of the question; 0 when it has none."""

    @property
    def n(self) -> int:
        return self.right + sum(self.wrong)


def votes_of(episode: Episode) -> Votes | None:
    """The votes of an episode of `vote`; None when nobody knows which are right."""
    verdict, question, known = episode.verdict, episode.question, episode.facts.get("correct", {})
    if verdict is None or verdict.answer is None:
        return None
    state = State(question=question, turns=[], critiques=[], round=0, verdict=None)
    right, wrong = 0, Counter[str]()
    for turn in episode.by(verdict.seat):
        vote = read(state, turn)
        is_right = vote.answer == episode.truth if question.choices else known.get(turn.key)
        if is_right is None:
            return None
        right += is_right
        wrong[vote.value] += not is_right
    return Votes(right, tuple(n for n in wrong.values() if n), len(question.choices))


def fewer(votes: Votes, m: int) -> dict[str, float | None]:
    """The expected scores of a vote of `m` of these votes."""
    ways, total = [0] * (m + 1), math.comb(votes.n, m)
    for i in range(max(0, m - sum(votes.wrong)), min(m, votes.right) + 1):
        ways[i] = math.comb(votes.right, i) * math.comb(votes.n - votes.right, m - i)
    chances = [(way / total, max(FLOOR, i / m), i) for i, way in enumerate(ways) if way]
    others = votes.choices - 1
    scores: dict[str, float | None] = {
        "accuracy": sum(
            math.comb(votes.right, i) * lead / total
            for i in range(1, min(m, votes.right) + 1)
            if (lead := _leads(votes.wrong, i, m - i))
        ),
        "p_true": sum(chance * p for chance, p, _ in chances),
        "brier": sum(chance * (1 - p) ** 2 for chance, p, _ in chances),
        "log_score": sum(chance * math.log(p) for chance, p, _ in chances),
        "asd": None,
    }
    if others > 0:
        wrong = [(chance, p, max(FLOOR, (1 - i / m) / others)) for chance, p, i in chances]
        scores["asd"] = sum(c * (math.log(p) - math.log(q)) for c, p, q in wrong)
    return {**scores, "asd_argued": scores["asd"]}


def _leads(wrong: Sequence[int], lead: int, rest: int) -> float:
    """In how many ways `rest` wrong votes can be chosen so that none has more than `lead`; a way
    in which t of them have just as many counts 1 / (t + 1)."""
    table: dict[tuple[int, int], int] = {(0, 0): 1}  # (votes chosen, answers level) -> ways
    for count in wrong:
        grown: dict[tuple[int, int], int] = defaultdict(int)
        for (chosen, level), ways in table.items():
            for i in range(min(count, lead, rest - chosen) + 1):
                grown[chosen + i, level + (i == lead)] += ways * math.comb(count, i)
        table = grown
    return sum(ways / (level + 1) for (chosen, level), ways in table.items() if chosen == rest)


def mean_scores(found: Iterable[dict[str, float | None]]) -> dict[str, float | None]:
    """Scores of one item, averaged over its episodes."""
    held: dict[str, list[float]] = defaultdict(list)
    for scores in found:
        for name, score in scores.items():
            held[name] += [] if score is None else [score]
    return {name: sum(some) / len(some) if some else None for name, some in held.items()}
