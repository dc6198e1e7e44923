"""The model port: what an engine is asked, what it answers, and nothing more.

These live for one call and are never stored as they are, so they are plain tuples with names.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from superalign.store.records import Attempt, Message, Question, Source, Turn

from .dialects import Dialect


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    max_tokens: int = 64


class Ask(NamedTuple):
    """What a node wants from a seat, before any dialect has put it into words."""

    kind: str
    """What is to be written: `question`, `answer`, `critique`, `verdict` …"""
    about: tuple[Turn, ...] = ()
    """Turns it is about, in order. A seat that may not see one of them is refused."""
    instruction: str = ""
    """One plain English sentence for chat models; tagged dialects need only `kind`."""
    visible_to: tuple[str, ...] | None = None
    """Who may be shown the answer; None means every seat."""
    side: str = ""
    """The choice that this seat is to argue for. Only this call is told."""
    picks: int = 0
    """How many choices the reply picks one of, by its number; 0 where it is free text."""


class View(NamedTuple):
    """All that one seat may see of an episode when it is asked something."""

    seat: str
    question: Question
    private: str | None
    ask: Ask


class Request(NamedTuple):
    """One call of a model. Engines of text use `messages`; scripted ones may look at `view`."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    policy: str
    view: View
    episode: str
    nth: int
    """How many calls this seat made before in the episode."""
    key: str = ""
    """The call's key: where in the graph it was made."""
    task: str = ""
    """Key of the task, for engines that play recordings."""


class Completion(NamedTuple):
    """What a model said."""

    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    attempts: tuple[Attempt, ...] = ()
    """Every request that an endpoint was sent for it, the last of which was answered."""
    author: str | None = None
    """Who said it, where that is not the model: a person, or whoever was recorded."""
    source: Source | None = None
    """What such an author is; None for whoever sits in the seat."""
    reasoning: str = ""
    """What the model wrote for itself before the text: nobody is shown it."""

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of the text, when the engine tells."""
        if self.token_ids is not None:
            return len(self.token_ids)
        return self.attempts[-1].completion_tokens if self.attempts else None


class Waits(Exception):
    """Raised by an engine whose answer comes from a person, later."""


class Model(Protocol):
    """An engine that answers requests. It must bear any number of concurrent calls; one in which
    they wait for a place tells so by a property `pressure`."""

    name: str
    dialect: Dialect

    def generate(self, request: Request) -> Completion | Awaitable[Completion]:
        """The answer, or an awaitable where it must be waited for."""
        ...

    async def close(self) -> None: ...


def pressure(model: Model) -> float:
    """Calls that wait for a place in an engine, as a share of its places: 0 where there is room."""
    return getattr(model, "pressure", 0.0)


async def complete(model: Model, request: Request) -> Completion:
    """What a model answers, waited for where it must be."""
    reply = model.generate(request)
    return reply if isinstance(reply, Completion) else await reply
