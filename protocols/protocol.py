"""A protocol: a function that returns a graph, and a pure score over finished episodes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from langgraph.graph import StateGraph
from pydantic import ConfigDict, create_model

from superalign.store.errors import BadInput
from superalign.store.records import Episode, Message, Row, Turn, digest

from .offers import PROTOCOLS, load_offer, offered

Build = Callable[..., StateGraph[Any, Any]]
Score = Callable[[Episode], Mapping[str, float | None]]
PromptOf = Callable[[Turn], tuple[Message, ...]]
"""The messages a turn was given."""
RowRule = Callable[[Episode, str, PromptOf], Iterable[Row]]
"""(episode, seat that learns, messages of a turn) -> rows."""


@dataclass(eq=False)
class Protocol:
    """Who speaks when. Made by `@protocol`; `@name.score` adds what each seat earns."""

    name: str
    seats: tuple[str, ...]
    build: Build
    hash: str
    """Of the source file, so that a changed protocol is noticed in a store."""
    replies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sample replies for kinds of ask of its own, so that `check_protocol` can play it."""
    rewards: Score = field(default=lambda episode: {})
    rule: RowRule | None = None
    """Its own way from an episode to training rows; None: that of learners/rows.py."""
    _graphs: dict[str, Any] = field(default_factory=dict)

    def score(self, function: Score) -> Score:
        """Decorator: the seats' rewards for a finished episode. Pure, so it can be run again."""
        self.rewards = function
        return function

    def rows(self, function: RowRule) -> RowRule:
        """Decorator: the training rows of a finished episode, for protocols in which no critic
        judges whole answers. Pure."""
        self.rule = function
        return function

    def earned(self, episode: Episode) -> dict[str, float | None]:
        """What each seat earned in a finished episode, by `score`."""
        scored = self.rewards(episode).items()
        return {seat: None if reward is None else float(reward) for seat, reward in scored}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that a scenario may set."""
        return tuple(inspect.signature(self.build).parameters)

    def params(self, given: dict[str, Any]) -> dict[str, Any]:
        """All parameters, defaults filled in. Raises ValidationError on unknown or wrong ones."""
        return _params_model(self.build)(**given).model_dump()

    def graph(self, params: dict[str, Any]) -> Any:
        """The compiled graph. Built once for each set of parameters."""
        key = digest(params)
        if key not in self._graphs:
            self._graphs[key] = self.build(**params).compile(name=self.name)
        return self._graphs[key]

    def __call__(self) -> StateGraph[Any, Any]:
        """The graph with default parameters, as LangGraph's own tools ask for it."""
        return self.build(**self.params({}))

    @property
    def about(self) -> str:
        """The first line of its file's docstring."""
        return (sys.modules[self.build.__module__].__doc__ or "").strip().partition("\n")[0]

    def mermaid(self, params: dict[str, Any]) -> str:
        """The graph as Mermaid text."""
        return self.graph(params).get_graph().draw_mermaid()


def protocol(
    *, seats: tuple[str, ...], replies: dict[str, tuple[str, ...]] | None = None
) -> Callable[[Build], Protocol]:
    """Make a protocol of a function that builds a StateGraph."""

    def wrap(build: Build) -> Protocol:
        source = inspect.getsource(sys.modules[build.__module__])
        return Protocol(build.__name__, seats, build, digest(source), replies or {})

    return wrap


def load_protocol(name: str, path: Path | None = None) -> Protocol:
    """A protocol by name, shipped or of an installed package; or by name from a Python file.

    Runs that package's or that file's code.
    """
    if path is not None:
        module = _module(path)
    elif name in shipped():
        module = importlib.import_module(f"superalign.protocols.{name}")
    elif name in (offers := offered(PROTOCOLS)):
        return _installed(offers[name])
    else:
        known = ", ".join((*shipped(), *offers))
        raise BadInput(f"no protocol {name!r}; there are {known}")
    found = getattr(module, name, None)
    if not isinstance(found, Protocol):
        names = [n for n, value in vars(module).items() if isinstance(value, Protocol)]
        raise BadInput(f"{path or module.__name__}: no protocol {name!r}; it has {names}")
    return found


def _installed(offer: EntryPoint) -> Protocol:
    found = load_offer(offer)
    if not isinstance(found, Protocol) or found.name != offer.name:
        what = f"protocol {found.name!r}" if isinstance(found, Protocol) else repr(found)
        raise BadInput(f"{offer.value}: is {what}; expected a protocol named {offer.name!r}")
    return found


@lru_cache(maxsize=1)
def shipped() -> tuple[str, ...]:
    """Names of the protocols that lie in this room: modules whose source says `@protocol(`."""
    room = Path(__file__).parent
    names = (module.name for module in pkgutil.iter_modules([str(room)]))
    return tuple(n for n in names if "\n@protocol(" in (room / f"{n}.py").read_text())


def _module(path: Path) -> Any:
    name = f"superalign_user_{digest(str(path), size=6)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadInput(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _params_model(build: Build) -> Any:
    fields: dict[str, Any] = {
        name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for name, p in inspect.signature(build, eval_str=True).parameters.items()
    }
    return create_model(build.__name__, __config__=ConfigDict(extra="forbid"), **fields)
