"""The human engine: a person in a seat, whose answer is looked up and else waited for."""

from __future__ import annotations

from superalign.store.labels import LabelBook

from .dialects import Dialect, plain
from .model import Completion, Request, Waits


class Human:
    """Answers a call with what people wrote of it in the labels file.

    As long as nobody has, it raises `Waits`: the kernel stores the case and parks the episode. Of
    several people the first counts, and its name becomes the turn's policy.
    """

    dialect: Dialect = plain

    def __init__(self, name: str, book: LabelBook, run: str) -> None:
        self.name, self._book, self._run = name, book, run

    async def generate(self, request: Request) -> Completion:
        place = request.episode, request.key
        for mark in self._book.answers(self._run, place).get(place, ()):
            return Completion(text=mark.value, author=mark.author)
        raise Waits(request.key)

    async def close(self) -> None:
        """Nothing to let go of."""
