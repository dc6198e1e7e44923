"""A scenario: what is run. The YAML's grammar, its loading, and every error with its place."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError

from superalign.learners.config import CONFIGS, AnyLearnConfig, LearnConfig
from superalign.learners.stopping import StopRules
from superalign.protocols.setting import Limits
from superalign.store.errors import BadInput
from superalign.store.records import Record, digest

from .engines import OpenAIEngine, VllmEngine
from .extension import extended
from .world_kinds import WorldChoice
from .yaml_source import Loc, Source, apply_override, parse_override

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


TAG_OF = {"models": "engine", "learn": "method"}
"""Key of a scenario -> the key in it that says which of several grammars holds; else `kind`."""


class TransformersEngine(Record):
    """A model in this process."""

    engine: Literal["transformers"]
    path: str
    """`organism:NAME` for one that ships with superalign, or a folder below the scenario's."""
    dialect: Literal["tags", "chat"] | None = None
    """How it is spoken to; None: `tags` for organisms, `chat` for all others."""
    max_batch: int = Field(default=256, ge=1, le=4096)
    """Most answers that are decoded at once."""


class ScriptedEngine(Record):
    """No model: replies, a function, or what the world has: recordings, players, the truth."""

    engine: Literal["scripted"]
    replies: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Played in order through each episode, from the start again when they end."""
    function: str | None = None
    """`./file.py:name`, a function of the request. Runs that file's code."""
    play: Literal["recording", "oracle", "world"] | None = None
    """`recording`: what the world has stored for the seat. `oracle`: the truth, as a control.
    `world`: a player that the world brings along."""
    dialect: Literal["chat", "plain"] = "chat"
    """How it is spoken to. Of `plain`, each part is stored once, however often it is shown."""


class HumanEngine(Record):
    """A person, who answers with `superalign label` or in the viewer; episodes wait for it."""

    engine: Literal["human"]


Engine = Annotated[
    TransformersEngine | VllmEngine | OpenAIEngine | ScriptedEngine | HumanEngine,
    Field(discriminator="engine"),
]


class ProtocolChoice(Record):
    """A protocol by name; its parameters stand beside the name."""

    model_config = ConfigDict(extra="allow")
    name: Name
    path: str | None = None
    """A Python file below the scenario's folder. Its code is run."""

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class CastMember(Record):
    """Who sits in a seat."""

    model: str
    learn: bool = False
    """Whether this seat's weights are updated."""
    temperature: float = Field(default=1.0, ge=0, le=10)
    max_tokens: int = Field(default=48, ge=1, le=65536)


class HumanLabels(Record):
    """The scarce label: of people, or in simulation of the oracle under a budget and a noise."""

    source: Literal["oracle", "person"] = "oracle"
    """`oracle` plays the human; for `person` the run stops until people have labelled."""
    budget: int = Field(default=32, ge=0)
    """Answers labelled in the whole run, spread over the iterations."""
    policy: Literal["random", "least_confident", "escalate", "expected_gain"] = "least_confident"
    """How half of the budget is spent. The other half audits answers drawn at random, since only
    those may measure how often the critic is wrong."""
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a human's label is wrong: simulated of the oracle, believed of people."""
    double: float = Field(default=0.25, ge=0, le=1)
    """Share of the audited answers that two people are to label, each without the other's word;
    for `person` alone. Their second words come on top of the budget."""


class Labels(Record):
    """Where labels come from besides the critic."""

    human: HumanLabels | None = None
    control: Literal["oracle"] | None = None
    """`oracle` marks this run as a control: every answer is labelled with the truth."""


def _learn_form(learn: Any) -> str:
    """Whether a `learn` block names a method, or seats with a block each."""
    is_seats = isinstance(learn, dict) and learn and "method" not in learn
    blocks = is_seats and all(isinstance(v, dict | LearnConfig) for v in learn.values())
    return "seats" if blocks else "method"


Learn = Annotated[
    Annotated[AnyLearnConfig, Tag("method")] | Annotated[dict[str, AnyLearnConfig], Tag("seats")],
    Discriminator(_learn_form),
]
"""One method's block, for the one seat that learns; or seat -> block."""


class Attack(Record):
    """How the attacker is steered from cell to cell of the world's taxonomy."""

    explore: float = Field(default=0.5, ge=0, le=1)
    """Share of an iteration's episodes spread evenly over all cells; the archive that they fill
    steers the rest to where the learner fails."""


class Evaluate(Record):
    """How a policy version is tested."""

    heldout: int = Field(default=600, ge=1, le=100_000)
    """Held-out items, each cell equally often, answered greedily."""


class Scenario(Record):
    """One experiment, as its YAML file says it."""

    name: Name
    world: WorldChoice
    models: dict[Name, Engine] = Field(min_length=1)
    protocol: ProtocolChoice
    cast: dict[str, CastMember] = Field(min_length=1)
    """Exactly the protocol's seats."""
    labels: Labels = Labels()
    attack: Attack = Attack()
    iterations: int = Field(default=1, ge=1, le=1000)
    """Turns of play, rows, update, evaluate. Iteration 0 is the base."""
    episodes: int = Field(ge=1, le=10_000_000)
    """Episodes an iteration."""
    swap: bool = False
    """Play every task twice, the second time with its choices in the other order: half as many
    tasks as episodes. `superalign compare` averages over both orders."""
    learn: Learn | None = None
    """How the seat that learns is updated, or seat -> how; None only plays."""
    updates: Literal["simultaneous", "alternating"] = "simultaneous"
    """Whether every seat that learns is updated in every iteration, or one, in the cast's order."""
    opponents: int = Field(default=1, ge=1, le=1000)
    """Newest versions of a learning seat among which an episode draws the one that the others meet.
    1 is the newest alone."""
    alarms: Literal["tell", "pause"] = "tell"
    """What follows when diversity, audits, held-out accuracy, the critic or play against frozen
    opponents have fallen: it is told, or the run stops before it learns, and asks for labels."""
    stop: StopRules = StopRules()
    """Limits on the tested seat's diversity and exploitability at which the run ends."""
    evaluate: Evaluate | None = None
    limits: Limits = Limits()
    concurrency: int = Field(default=4096, ge=1, le=4096)
    """Most episodes in flight. How many there are follows from what the engines bear."""
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def learning(self) -> dict[str, AnyLearnConfig]:
        """Seats that learn, in the cast's order, and how."""
        seats = [seat for seat, member in self.cast.items() if member.learn]
        if isinstance(self.learn, dict):
            return {seat: self.learn[seat] for seat in seats}
        return {} if self.learn is None else dict.fromkeys(seats, self.learn)

    @property
    def tested(self) -> str:
        """The seat that answers held-out items and that people label: `learner`, unless another
        seat learns and it does not."""
        learning = [seat for seat, member in self.cast.items() if member.learn]
        return "learner" if "learner" in learning or not learning else learning[0]


class Loaded:
    """A scenario with the file it came from, so that later findings still have a place."""

    scenario: Scenario

    def __init__(self, path: Path) -> None:
        """See `read` and `stored`."""
        self.path = path
        self.source: Source | None = None
        self.overridden: dict[Loc, str] = {}

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> Loaded:
        """Read and validate. Raises BadInput with file:line:column, the key and the remedy."""
        loaded = cls(path)
        loaded.source = Source(path)
        return loaded._validate(loaded.source.data, overrides)

    @classmethod
    def stored(cls, path: Path, data: dict[str, Any], overrides: tuple[str, ...] = ()) -> Loaded:
        """A scenario as a store holds it, with some keys set otherwise. Raises BadInput."""
        return cls(path)._validate(deepcopy(data), overrides)

    def _validate(self, data: dict[str, Any], overrides: tuple[str, ...]) -> Loaded:
        for text in overrides:
            loc, value = parse_override(text)
            apply_override(data, loc, value)
            self.overridden[loc] = text
        grammar = extended(Scenario, data)
        try:
            text = json.dumps(data)  # JSON's rules: a number never becomes a string
            self.scenario = grammar.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise self._explain(error, grammar) from None
        self._check_swap()
        self._check_stop()
        return self

    def _check_swap(self) -> None:
        """Refuse to swap what cannot be. Raises BadInput."""
        scenario = self.scenario
        if not scenario.swap:
            return
        if scenario.episodes % 2:
            what = f"each task is two episodes, but episodes is {scenario.episodes}"
            raise self.error(("swap",), f"{what}; make it even")
        for name, engine in scenario.models.items():
            if isinstance(engine, ScriptedEngine) and engine.play == "recording":
                what = f"{name} plays recordings, which were made in one order of the choices"
                raise self.error(("swap",), f"{what}; leave swap out")

    def _check_stop(self) -> None:
        """Refuse limits on what is never measured. Raises BadInput."""
        scenario = self.scenario
        learning = sum(member.learn for member in scenario.cast.values())
        for name in scenario.stop.limits:
            if not learning:
                what = "nothing learns, so nothing would stop"
                raise self.error(("stop", name), f"{what}; leave it out, or let a seat learn")
        if scenario.stop.exploitability is None:
            return
        if learning < 2 or scenario.opponents < 2:
            what = "only one version of an opponent is met; let a second seat learn, and"
            raise self.error(("stop", "exploitability"), f"{what} set opponents to 2 or more")

    @cached_property
    def folder(self) -> Path:
        return self.path.resolve().parent

    def error(self, loc: Loc, message: str) -> BadInput:
        """A BadInput at a key of the file, or at the --set that put it there."""
        key = ".".join(map(str, loc))
        for overridden, text in self.overridden.items():
            if loc[: len(overridden)] == overridden:
                return BadInput(f"--set {text}: {key}: {message}")
        if self.source is None:
            return BadInput(f"{self.path}: {key}: {message}")
        return self.source.error(loc, message)

    def inside(self, loc: Loc, path: str) -> Path:
        """A path of the scenario, which must lie below its folder."""
        found = (self.folder / path).resolve()
        if Path(path).is_absolute() or not found.is_relative_to(self.folder):
            raise self.error(loc, f"{path!r} lies outside {self.folder}; use a path below it")
        if not os.path.exists(found):  # false, where Path.exists raises: for an endless name
            raise self.error(loc, f"{path!r} is not there below {self.folder}; check its spelling")
        return found

    def _explain(self, error: ValidationError, grammar: type[Scenario]) -> BadInput:
        first: Any = error.errors(include_url=False)[0]
        tagged = first["loc"]
        loc = _without_tags(tagged)
        what, last = first["msg"], str(loc[-1]) if loc else ""
        if first["type"] == "extra_forbidden":
            method = CONFIGS.get(str(tagged[-2])) if loc[0] == "learn" else None
            known = sorted(method.model_fields) if method else _known_keys(loc[:-1], grammar)
            close = get_close_matches(last, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
            return self.error(loc, f"unknown key; {hint}")
        if first["type"] == "missing":
            return self.error(loc, f"is missing; add `{last}: …` here")
        if first["type"] == "union_tag_invalid":
            tags, tag = first["ctx"]["expected_tags"], first["ctx"]["tag"]
            key = TAG_OF.get(str(loc[0]), "kind")
            return self.error((*loc, key), f"{tag!r} is not known; write one of {tags}")
        if first["type"] == "union_tag_not_found":
            key = TAG_OF.get(str(loc[0]), "kind")
            return self.error(loc, f"{key} is missing; add `{key}: …` here")
        hide = last == "api_key_env" or isinstance(first["input"], dict | list)
        got = "" if hide else f"; got {first['input']!r}"  # it may be the key itself
        return self.error(loc, f"{what[0].lower()}{what[1:]}{got}; see docs/scenarios.md")


def _without_tags(loc: Loc) -> Loc:
    """A place as the file has it: pydantic adds a union's tag, and `[key]` for a wrong key."""
    if loc and loc[0] == "learn":  # a union of unions
        extra = 2 if loc[1:2] == ("seats",) else 1
        loc = (loc[0], *loc[2:])
    else:
        extra = {"models": 2, "world": 1}.get(str(loc[0]), len(loc)) if loc else 0
    return (*loc[:extra], *loc[extra + 1 :])


def _known_keys(loc: Loc, grammar: type[Scenario]) -> list[str]:
    """The keys that the grammar allows at a place, found in its JSON schema."""
    schema = grammar.model_json_schema()

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return node

    nodes = [resolve(schema)]
    for step in loc:
        inner = []
        for node in nodes:
            named = node.get("patternProperties", {}).values()  # of keys that users choose
            rest = next(iter(named), node.get("additionalProperties"))
            found = node.get("properties", {}).get(str(step), rest)
            if isinstance(found, dict):
                inner += [resolve(n) for n in found.get("oneOf", found.get("anyOf", [found]))]
        nodes = inner or nodes
    return sorted({key for node in nodes for key in node.get("properties", {})})


def scenario_schema() -> str:
    """The JSON schema that editors check scenario files with."""
    return json.dumps(Scenario.model_json_schema(), indent=2) + "\n"


def scenario_hash(scenario: Scenario) -> str:
    """Equal for equal resolved scenarios: how a run that is resumed is found."""
    return digest(scenario.model_dump(mode="json"))
