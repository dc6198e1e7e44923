"""The scripted engine: a list, a function or a recording plays a seat."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence

from superalign.store.errors import ModelError

from .dialects import Dialect, chat
from .model import Completion, Request

Reply = str | Completion
Script = Sequence[str] | Callable[[Request], Reply | Awaitable[Reply]]


class Scripted:
    """Answers without a model. Keeps no state, so resume and replay meet the same answers.

    A list is played in order through each episode, from its start again when it ends. A function
    is given the request, whose `view` says what the seat may see.
    """

    def __init__(self, script: Script, name: str = "scripted", dialect: Dialect = chat) -> None:
        if not callable(script) and not script:
            raise ValueError("a scripted model needs at least one reply")
        self.name = name
        self.dialect = dialect
        self._script = script

    def generate(self, request: Request) -> Completion | Awaitable[Completion]:
        if not callable(self._script):
            return Completion(text=self._script[request.nth % len(self._script)])
        reply = self._script(request)
        return self._later(reply) if inspect.isawaitable(reply) else self._completion(reply)

    async def _later(self, reply: Awaitable[Reply]) -> Completion:
        return self._completion(await reply)

    def _completion(self, said: Reply) -> Completion:
        if isinstance(said, Completion):
            return said
        if not isinstance(said, str):
            raise ModelError(f"{self.name} answered {said!r}, which is no text")
        return Completion(text=said)

    async def close(self) -> None:
        """Nothing to let go of."""


def recording(
    replies: Mapping[tuple[str, str], Sequence[Reply]], dialect: Dialect = chat
) -> Scripted:
    """Plays what was once said: (topic of the task, seat) -> replies in order."""

    def play(request: Request) -> Reply:
        where = request.view.question.topic, request.view.seat
        said = replies.get(where, ())
        if request.nth >= len(said):
            raise ModelError(f"{len(said)} replies of {where[1]} are recorded for {where[0]!r}")
        return said[request.nth]

    return Scripted(play, "recording", dialect)
