"""A model that says one word."""

from pathlib import Path
from typing import Literal

from superalign.agents import Completion, Request, plain
from superalign.scenarios.extension import EngineKind


class ParrotEngine(EngineKind):
    engine: Literal["parrot"]
    word: str
    dialect = "plain"

    def build(self, name: str, folder: Path) -> "Parrot":
        return Parrot(name, self.word)


class Parrot:
    dialect = plain

    def __init__(self, name: str, word: str) -> None:
        self.name, self.word = name, word

    def generate(self, request: Request) -> Completion:
        return Completion(self.word)

    async def close(self) -> None: ...
