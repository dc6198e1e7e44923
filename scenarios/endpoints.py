"""From an `openai` model's words to its endpoint: whose address it may be, and what it must honour.

Servers and keys come from the user: `endpoints.yaml` in the user's configuration, or --set. A
scenario that a stranger wrote can name neither, except for addresses of this machine, or it could
send a key, and all that is said, to whom it likes.

    # ~/.config/superalign/endpoints.yaml, or the file that $SUPERALIGN_ENDPOINTS names
    openrouter: {base_url: "https://openrouter.ai/api/v1", api_key_env: OPENROUTER_API_KEY}
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from superalign.store.errors import BadInput, ModelError
from superalign.store.records import PolicyVersion, Record

from .engines import EnvName, OpenAIEngine, VllmEngine
from .scenario import Loaded
from .yaml_source import Source

if TYPE_CHECKING:
    from superalign.agents import Dialect, Model
    from superalign.agents.endpoint import Endpoint
    from superalign.agents.openai_engine import OpenAIModel
    from superalign.agents.probe import Abilities
    from superalign.agents.vllm_engine import VllmModel
    from superalign.agents.vllm_server import VllmServer
    from superalign.store import Store

FILE = "SUPERALIGN_ENDPOINTS"
MOST_ADAPTERS = 16
"""Of one server in one batch; it holds more, and changes between them."""


class Address(Record):
    """Where a server is, and the name of the variable with its key."""

    base_url: str
    api_key_env: EnvName | None = None


def address_of(loaded: Loaded, name: str, engine: OpenAIEngine) -> Address:
    """Where a model is served. Raises BadInput at the key that may not say so."""
    where = ("models", name)
    if (engine.endpoint is None) == (engine.base_url is None):
        what = "an openai model needs exactly one of endpoint, base_url"
        raise loaded.error(where, f"{what}; name an endpoint of {_file()}")
    if engine.base_url is None:
        if engine.api_key_env is not None:
            what = "the key belongs to the endpoint; name it there"
            raise loaded.error((*where, "api_key_env"), what)
        return _configured(loaded, name, engine)
    if problem := _problem(engine.base_url):
        raise loaded.error((*where, "base_url"), problem)
    for key in ("base_url", "api_key_env"):
        given = any((*where, key)[: len(loc)] == loc for loc in loaded.overridden)
        if getattr(engine, key) is not None and not given and not _is_here(engine.base_url):
            what = "a scenario names servers of this machine alone"
            remedy = f"add it to {_file()} and say `endpoint: NAME`, or give --set models.{name}.…"
            raise loaded.error((*where, key), f"{what}; {remedy}{key}=")
    return Address(base_url=engine.base_url, api_key_env=engine.api_key_env)


def _configured(loaded: Loaded, name: str, engine: OpenAIEngine) -> Address:
    path, where = _file(), ("models", name, "endpoint")
    found: Any = Source(path).data if path.is_file() else {}
    if engine.endpoint not in found:
        known = ", ".join(found) or "none"
        raise loaded.error(where, f"no endpoint {engine.endpoint!r} in {path}; it has {known}")
    try:
        address = Address.model_validate(found[engine.endpoint], strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, (engine.endpoint, *first["loc"])))
        what = "expected base_url and, where it wants a key, api_key_env: a variable's name"
        raise BadInput(f"{path}: {key}: {first['msg'].lower()}; {what}") from None
    if problem := _problem(address.base_url):
        raise BadInput(f"{path}: {engine.endpoint}.base_url: {problem}")
    return address


def _file() -> Path:
    """The user's own list of endpoints."""
    named = os.environ.get(FILE)
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(named) if named else Path(config) / "superalign" / "endpoints.yaml"


def _problem(url: str) -> str | None:
    """What is wrong with a server's address. It is not repeated: it may hold a key."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "no address; write it as http://127.0.0.1:8000/v1"
    if parts.scheme not in ("http", "https") or not host:
        return "no address; write it as http://127.0.0.1:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "an address must hold no key; put that into a variable that api_key_env names"
    return None


def _is_here(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build_openai(
    loaded: Loaded, name: str, engine: OpenAIEngine, endpoints: dict[Any, Endpoint]
) -> OpenAIModel:
    """The model, on the endpoint that others of the run have opened, or on a new one."""
    from superalign.agents.endpoint import Endpoint
    from superalign.agents.openai_engine import OpenAIModel

    address = address_of(loaded, name, engine)
    key = address.base_url, address.api_key_env, engine.concurrency, engine.timeout
    if key not in endpoints:
        endpoints[key] = Endpoint(*key)
    return OpenAIModel(name, endpoints[key], engine.model, picks_json=engine.picks == "json")


def build_vllm(
    loaded: Loaded,
    name: str,
    weights: Path,
    dialect: Dialect,
    log: Path,
    servers: dict[Any, VllmServer],
) -> VllmModel:
    """The model, in the server that others of the run share with it, or in one of its own. It
    starts when it is first asked. Raises BadInput."""
    from superalign.agents.vllm_engine import VllmModel
    from superalign.agents.vllm_server import Adapters, VllmServer, interpreter

    engine, scenario = loaded.scenario.models[name], loaded.scenario
    assert isinstance(engine, VllmEngine)
    key = weights, engine.dtype, engine.max_batch, engine.context
    if key not in servers:
        ranks = [
            config.lora
            for seat, config in scenario.learning.items()
            if scenario.models[scenario.cast[seat].model].engine == "vllm" and config.lora
        ]
        room = Adapters(min(len(ranks) * scenario.opponents, MOST_ADAPTERS), max(ranks, default=0))

        def told(news: str) -> None:
            print(f"superalign: {name}: {news}", file=sys.stderr, flush=True)

        try:
            python = interpreter()
            servers[key] = VllmServer(weights, log, python, *key[1:], room if ranks else None, told)
        except BadInput as error:
            raise loaded.error(("models", name, "engine"), str(error)) from error
    return VllmModel(name, servers[key], dialect, engine.context)


async def start_all(loaded: Loaded, models: Mapping[str, Model]) -> None:
    """Start the servers of a run. Raises BadInput where one does not answer."""
    for name, engine in loaded.scenario.models.items():
        model: Any = models.get(name)
        if isinstance(engine, VllmEngine) and hasattr(model, "start"):
            try:
                await model.start()
            except ModelError as error:
                raise loaded.error(("models", name), str(error)) from error


async def probe_all(loaded: Loaded, models: Mapping[str, Model]) -> dict[str, Abilities]:
    """What the endpoints of a run honour. Raises BadInput where the scenario needs more."""
    found: dict[str, Abilities] = {}
    for name, engine in loaded.scenario.models.items():
        model: Any = models.get(name)
        if not isinstance(engine, OpenAIEngine) or not hasattr(model, "able"):
            continue
        try:
            found[name] = await model.able()
        except ModelError as error:
            raise loaded.error(("models", name), f"does not answer: {error}") from error
        _check(loaded, name, engine, found[name])
    return found


def put_served(store: Store, run: str, loaded: Loaded, abilities: Mapping[str, Abilities]) -> None:
    """Keep what was found out, as a version of the model: one that has no weights here. A run that
    goes on has asked anew, and what it found is version `NAME@2` and so on."""
    there = {version.id for version in store.versions(run)}
    for name, able in abilities.items():
        engine: Any = loaded.scenario.models[name]
        config = {**engine.model_dump(mode="json"), "abilities": able.model_dump(mode="json")}
        again = next(n for n in count(2) if f"{name}@{n}" not in there)
        version = PolicyVersion(
            id=f"{name}@{again}" if name in there else name,
            seat="",
            parent=None,
            method="base",
            config=config,
            rows=None,
            path="",
            iteration=0,
        )
        store.put_version(run, version)


def _check(loaded: Loaded, name: str, engine: OpenAIEngine, able: Abilities) -> None:
    scenario, where = loaded.scenario, ("models", name)
    for ability in engine.needs:
        if ability in able.lacks:
            what = f"{engine.model} does not honour {ability}"
            raise loaded.error((*where, "needs"), f"{what}; use another server, or need less")
    human, critic = scenario.labels.human, scenario.cast.get("critic")
    ranks = human is not None and human.budget > 0 and human.policy != "random"
    if human and ranks and critic and critic.model == name and "logprobs" in able.lacks:
        what = f"{human.policy} ranks by the critic's token probabilities"
        remedy = f"{engine.model} tells none; set it to random"
        raise loaded.error(("labels", "human", "policy"), f"{what}, and {remedy}")
    for seat, member in scenario.cast.items():
        if member.model == name and able.context and member.max_tokens >= able.context:
            what = f"{engine.model} holds {able.context} tokens of prompt and reply together"
            raise loaded.error(("cast", seat, "max_tokens"), f"{what}; allow fewer")
