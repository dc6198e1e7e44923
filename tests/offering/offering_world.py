"""Coins that always fall on one side."""

from typing import Literal

from superalign.scenarios.world_kinds import WorldKind
from superalign.store import Question, Task


class CoinsWorld(WorldKind):
    made_by = "offering_world:Coins"
    kind: Literal["coins"]
    side: Literal["heads", "tails"] = "heads"


class Coins:
    name = "coins"
    cells: tuple[str, ...] = ()

    def __init__(self, side: str) -> None:
        self.side = side

    def topic(self, cell: str) -> Task:
        raise NotImplementedError

    def tasks(self, n: int, seed: int) -> list[Task]:
        questions = [Question(text=f"Coin {i}: heads or tails?") for i in range(n)]
        return [Task(question=question, target=self.side) for question in questions]

    def heldout(self, n: int) -> list[Task]:
        return self.tasks(n, 0)

    def cell(self, question: Question) -> str | None:
        return "coins"

    def truth(self, question: Question) -> str:
        return self.side

    def correct(self, question: Question, answer: str) -> bool:
        return answer == self.side

    def fault(self, question: Question, answer: str) -> int | None:
        return None if self.correct(question, answer) else 1
