"""The attacker's archive: where in the taxonomy did the learner fail, and where to look next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from superalign.store.records import Episode

SHARPNESS = 3
"""The steered share of a cell grows with the third power of its failure rate: enough to leave the
cells that are mastered, and not so much that one cell takes everything."""


class Archive:
    """Attacks made and hits scored, by cell. An attack counts by the rule of its protocol: the
    question was valid and the failure survived re-sampling."""

    def __init__(self, cells: Sequence[str]) -> None:
        self.cells = tuple(cells)
        self.attacks: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()

    def add(self, episodes: Iterable[Episode]) -> None:
        """Count finished episodes under the cell that was asked for."""
        for episode in episodes:
            if episode.verdict is not None:
                self.attacks[episode.task.question.topic] += 1
                self.hits[episode.task.question.topic] += episode.verdict.value == "failed"

    def rate(self, cell: str) -> float:
        """Mean of the Beta(1 + hits, 1 + misses) posterior: an unknown cell is worth a look."""
        return (self.hits[cell] + 1) / (self.attacks[cell] + 2)

    def steer(self, n: int) -> list[str]:
        """`n` cells to attack, in proportion to rate ** SHARPNESS, by largest remainder."""
        weights = {cell: self.rate(cell) ** SHARPNESS for cell in self.cells}
        total = sum(weights.values())
        exact = {cell: n * weight / total for cell, weight in weights.items()}
        shares = {cell: int(share) for cell, share in exact.items()}
        left = sorted(self.cells, key=lambda cell: shares[cell] - exact[cell])
        for cell in left[: n - sum(shares.values())]:
            shares[cell] += 1
        return [cell for cell in self.cells for _ in range(shares[cell])]


def spread(cells: Sequence[str], n: int) -> list[str]:
    """`n` cells, each as often as the others."""
    return [cells[i % len(cells)] for i in range(n)]
