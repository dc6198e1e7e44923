"""From a scenario's words to the things themselves: world, protocol, models, cast."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from superalign.agents import (
    Agent,
    Model,
    Request,
    Sampling,
    Scripted,
    chat,
    plain,
    recording,
    tags,
)
from superalign.agents.human import Human
from superalign.protocols import Protocol, load_protocol
from superalign.store.errors import BadInput
from superalign.store.labels import LabelBook
from superalign.store.records import Source

from .endpoints import address_of, build_openai, build_vllm
from .engines import OpenAIEngine, VllmEngine
from .extension import EngineKind
from .scenario import (
    Engine,
    HumanEngine,
    Loaded,
    ScriptedEngine,
    TransformersEngine,
)
from .world import World

ORGANISMS = Path(__file__).parent / "organisms"
DIALECTS = {"chat": chat, "plain": plain, "tags": tags}


@dataclass(frozen=True)
class Resolved:
    """A scenario whose every name was found. Models are built by `build_models`."""

    loaded: Loaded
    world: World
    protocol: Protocol
    params: dict[str, Any]


def check_words(loaded: Loaded) -> None:
    """Hold a scenario's names against each other and the files they name.

    Raises BadInput with the place in the file. Imports no user code and loads no weights.
    """
    chosen = loaded.scenario.protocol
    if chosen.path:
        loaded.inside(("protocol", "path"), chosen.path)
    _check_models(loaded)
    _check_learning(loaded)
    for name, engine in loaded.scenario.models.items():
        _check_engine(loaded, name, engine)
    _check_control(loaded)


def resolve(loaded: Loaded) -> Resolved:
    """Find world and protocol and hold the cast against the protocol's seats.

    Raises BadInput with the place in the file. Loads no weights; runs the code of a protocol or a
    scripted function that the scenario names by path.
    """
    check_words(loaded)
    protocol = _protocol(loaded)
    try:
        params = protocol.params(loaded.scenario.protocol.params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        known = ", ".join(protocol.parameters) or "none"
        what = f"{first['msg'].lower()}; parameters of {protocol.name}: {known}"
        raise loaded.error(("protocol", *first["loc"]), what) from None
    _check_seats(loaded, protocol)
    resolved = Resolved(loaded, _world(loaded), protocol, params)
    _check_attacker(resolved)
    for name, engine in loaded.scenario.models.items():
        if isinstance(engine, ScriptedEngine):
            _scripted(resolved, name, engine)
    return resolved


def _protocol(loaded: Loaded) -> Protocol:
    chosen = loaded.scenario.protocol
    path = loaded.inside(("protocol", "path"), chosen.path) if chosen.path else None
    try:
        return load_protocol(chosen.name, path)
    except BadInput as error:
        raise loaded.error(("protocol", "path" if path else "name"), str(error)) from error


def _world(loaded: Loaded) -> World:
    world = loaded.scenario.world
    path = getattr(world, "path", None)
    found = {"path": loaded.inside(("world", "path"), path)} if path else {}
    try:
        return world.build(**found)
    except BadInput as error:
        raise loaded.error(("world",), str(error)) from error


def _check_models(loaded: Loaded) -> None:
    models = loaded.scenario.models
    for seat, member in loaded.scenario.cast.items():
        if member.model not in models:
            known = ", ".join(models)
            where = ("cast", seat, "model")
            raise loaded.error(where, f"no model {member.model!r}; `models` has {known}")


def _check_seats(loaded: Loaded, protocol: Protocol) -> None:
    cast = loaded.scenario.cast
    for seat in cast:
        if seat not in protocol.seats:
            seats = ", ".join(protocol.seats)
            raise loaded.error(("cast", seat), f"{protocol.name} has no such seat; it has {seats}")
    for seat in protocol.seats:
        if seat not in cast:
            what = f"seat {seat!r} is empty; add `{seat}: {{model: …}}`"
            raise loaded.error(("cast",), what)


def _check_attacker(resolved: Resolved) -> None:
    """Whether an attacker can be asked for a question of this world."""
    if not resolved.world.cells or "attacker" not in resolved.protocol.seats:
        return
    try:
        resolved.world.topic(resolved.world.cells[0])
    except NotImplementedError as error:
        what = f"{error}; choose a protocol without an attacker"
        raise resolved.loaded.error(("world", "kind"), what) from None


def _check_learning(loaded: Loaded) -> None:
    scenario = loaded.scenario
    learning = [seat for seat, member in scenario.cast.items() if member.learn]
    if scenario.learn is None and learning:
        where = ("cast", learning[0], "learn")
        raise loaded.error(where, "there is no `learn` block; add one or drop `learn: true`")
    if isinstance(scenario.learn, dict):
        _check_seats_learn(loaded, scenario.learn, learning)
    elif scenario.learn is not None and len(learning) != 1:
        what = f"exactly one seat must say `learn: true`; {len(learning)} do"
        more = "; give each its own block: `learn: {SEAT: {method: …}}`" if learning else ""
        raise loaded.error(("learn",), what + more)
    if scenario.evaluate is not None and not learning and "learner" not in scenario.cast:
        what = "no seat is there to test; say `learn: true` for one, or leave `evaluate` out"
        raise loaded.error(("evaluate",), what)
    for seat in learning:
        method = scenario.learning[seat]
        if not method.speaks:
            what = (
                f"{method.method} makes a model that only scores; train it with `superalign learn`"
            )
            raise loaded.error(("learn",), what)
        engine = scenario.models[scenario.cast[seat].model]
        if isinstance(engine, VllmEngine) and method.lora is None:
            what = "vllm plays versions that are adapters; add `lora: 16`, or use transformers"
            raise loaded.error(
                ("learn",) if loaded.scenario.learn is method else ("learn", seat), what
            )
        if not isinstance(engine, TransformersEngine | VllmEngine):
            what = f"{engine.engine} models have no weights to update; use a transformers model"
            raise loaded.error(("cast", seat, "model"), what)
    tested = scenario.cast.get(scenario.tested)
    is_person = tested and isinstance(scenario.models[tested.model], HumanEngine)
    if scenario.evaluate is not None and is_person:
        what = "no person sits the test of held-out items; leave `evaluate` out"
        raise loaded.error(("evaluate",), what)


def _check_seats_learn(loaded: Loaded, blocks: Mapping[str, Any], learning: list[str]) -> None:
    """Seats with a block are those that say `learn: true`."""
    for seat in blocks:
        if seat not in learning:
            what = f"seat {seat!r} does not say `learn: true`; say so in `cast`, or drop its block"
            raise loaded.error(("learn", seat), what)
    for seat in learning:
        if seat not in blocks:
            what = f"`learn` has no block for it; add `{seat}: {{method: …}}` there"
            raise loaded.error(("cast", seat, "learn"), what)


def _check_control(loaded: Loaded) -> None:
    scenario = loaded.scenario
    for seat, member in scenario.cast.items():
        if _source(scenario.models[member.model]) == "oracle" and scenario.labels.control is None:
            what = "the truth in a seat makes a run a control; add `labels: {control: oracle}`"
            raise loaded.error(("cast", seat, "model"), what)


def _check_engine(loaded: Loaded, name: str, engine: Engine) -> None:
    where = ("models", name)
    if isinstance(engine, TransformersEngine | VllmEngine):
        weights_folder(loaded, name, engine)
    if isinstance(engine, OpenAIEngine) and loaded.source is not None:
        address_of(loaded, name, engine)  # of a stored scenario, once its models are built
    if not isinstance(engine, ScriptedEngine):
        return
    ways = [way for way in ("replies", "function", "play") if getattr(engine, way) is not None]
    if len(ways) != 1:
        what = f"a scripted model needs exactly one of replies, function, play; {len(ways)} given"
        raise loaded.error(where, what)
    if engine.function is not None:
        path, colon, function = engine.function.rpartition(":")
        if not colon or not function.isidentifier():
            raise loaded.error((*where, "function"), "expected ./file.py:name")
        loaded.inside((*where, "function"), path)


def weights_folder(loaded: Loaded, name: str, engine: TransformersEngine | VllmEngine) -> Path:
    """Where a model's base weights lie."""
    where = ("models", name, "path")
    if engine.path.startswith("organism:"):
        folder = ORGANISMS / engine.path.removeprefix("organism:")
        if folder.parent != ORGANISMS or not (folder / "config.json").is_file():
            known = ", ".join(f"organism:{f.name}" for f in sorted(ORGANISMS.iterdir()))
            raise loaded.error(where, f"no organism {engine.path!r}; there are {known}")
        return folder
    folder = loaded.inside(where, engine.path)
    if not list(folder.glob("*.safetensors")):
        raise loaded.error(where, f"{engine.path!r} holds no .safetensors; only those are loaded")
    return folder


def people_of(resolved: Resolved, store_url: str, run: str) -> tuple[LabelBook, str] | None:
    """Where human seats find their answers; None when nobody sits in one."""
    engines = resolved.loaded.scenario.models.values()
    if not any(isinstance(engine, HumanEngine) for engine in engines):
        return None
    return LabelBook.beside(store_url), run


def build_models(
    resolved: Resolved,
    seats: frozenset[str] | None = None,
    people: tuple[LabelBook, str] | None = None,
    folder: Path | None = None,
) -> dict[str, Model]:
    """Every model that the cast uses: those of `seats`, None for all; others are mute.

    A mute model has the right dialect, so that what it was asked can be rendered again.
    `people` is the labels file, and the run in it, where human seats find their answers; `folder`
    is the run's, for the logs of servers.
    """
    scenario, models = resolved.loaded.scenario, {}
    endpoints: dict[Any, Any] = {}
    servers: dict[Any, Any] = {}
    speaking = {m.model for seat, m in scenario.cast.items() if seats is None or seat in seats}
    for name in dict.fromkeys(member.model for member in scenario.cast.values()):
        engine, live = scenario.models[name], name in speaking
        if isinstance(engine, ScriptedEngine):
            mute = Scripted(["-"], name, DIALECTS[engine.dialect])
            models[name] = _scripted(resolved, name, engine) if live else mute
            continue
        if isinstance(engine, HumanEngine):
            if live and people is None:
                raise BadInput(f"models.{name}: no person can be asked here; name another model")
            models[name] = Human(name, *people) if live and people else Scripted(["-"], name, plain)
            continue
        if isinstance(engine, OpenAIEngine):
            mute = Scripted(["-"], name, chat)
            models[name] = build_openai(resolved.loaded, name, engine, endpoints) if live else mute
            continue
        kind: Any = engine
        if isinstance(kind, EngineKind):
            mute = Scripted(["-"], name, DIALECTS[kind.dialect])
            models[name] = kind.build(name, resolved.loaded.folder) if live else mute
            continue
        organism = engine.path.startswith("organism:")
        dialect = tags if (engine.dialect or ("tags" if organism else "chat")) == "tags" else chat
        if not live:
            models[name] = Scripted(["-"], name, dialect)
            continue
        weights = weights_folder(resolved.loaded, name, engine)
        if isinstance(engine, VllmEngine):
            log = (folder or Path()) / f"vllm-{name}.log"
            models[name] = build_vllm(resolved.loaded, name, weights, dialect, log, servers)
            continue
        from superalign.agents.transformers_engine import TransformersModel

        models[name] = TransformersModel(name, weights, dialect, max_batch=engine.max_batch)
    return models


def build_cast(
    resolved: Resolved, models: dict[str, Model], policies: dict[str, str]
) -> dict[str, Agent]:
    """Seat -> agent. `policies` names the version of each seat that has learnt."""
    return {
        seat: Agent(
            models[member.model],
            policies.get(seat, member.model),
            Sampling(temperature=member.temperature, max_tokens=member.max_tokens),
            trainable=member.learn,
            source=_source(resolved.loaded.scenario.models[member.model]),
        )
        for seat, member in resolved.loaded.scenario.cast.items()
    }


def _source(engine: Engine) -> Source:
    """Who speaks through a seat that this engine plays."""
    if isinstance(engine, HumanEngine):
        return "human"
    return "oracle" if getattr(engine, "play", None) == "oracle" else "ai"


def _scripted(resolved: Resolved, name: str, engine: ScriptedEngine) -> Scripted:
    dialect = DIALECTS[engine.dialect]
    if engine.replies is not None:
        return Scripted(engine.replies, name, dialect)
    if engine.play == "recording":
        recordings = getattr(resolved.world, "recordings", None)
        if recordings is None:
            what = f"the world {resolved.world.name!r} has no recordings; use `replies`"
            raise resolved.loaded.error(("models", name, "play"), what)
        return recording(recordings(), dialect)
    if engine.play == "world":
        player = getattr(resolved.world, "player", None)
        if player is None:
            what = f"the world {resolved.world.name!r} has no player; use `replies`"
            raise resolved.loaded.error(("models", name, "play"), what)
        return Scripted(player, name, dialect)
    if engine.play == "oracle":
        return Scripted(oracle(resolved.world), "oracle", dialect)
    assert engine.function is not None
    path, _, function = engine.function.rpartition(":")
    where = ("models", name, "function")
    spec = importlib.util.spec_from_file_location(name, resolved.loaded.inside(where, path))
    if spec is None or spec.loader is None:
        raise resolved.loaded.error(where, f"{path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return Scripted(getattr(module, function), name, dialect)
    except Exception as error:
        raise resolved.loaded.error(where, f"{type(error).__name__}: {error}") from error


def oracle(world: World) -> Any:
    """The truth in a seat: it criticises and chooses rightly. For controls and simulated humans."""

    def reply(request: Request) -> str:
        ask, question = request.view.ask, request.view.question
        if ask.kind == "choice":
            truth = world.truth(question)
            return str(question.choices.index(truth)) if question.choices else truth
        if ask.kind != "critique":
            raise ValueError(f"the oracle writes critiques and choices, not {ask.kind!r}")
        fault = world.fault(question, ask.about[0].text)
        return "Critique: ok" if fault is None else f"Critique: {fault}"

    return reply
