"""What the commands do. `cli.py` says how they are called and prints what they return."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from superalign.learners import LEARNERS, LearnConfig
from superalign.protocols import load_protocol, shipped
from superalign.protocols.check import Problem, check_protocol
from superalign.protocols.replay import replay
from superalign.protocols.setting import Setting
from superalign.store import BadInput, Episode, Store, StoreError

from .loop import Experiment
from .progress import Display
from .resolve import Resolved, build_cast, build_models, check_words, resolve
from .scenario import Loaded, Scenario
from .yaml_source import apply_override, parse_override

RUNS = Path("runs")
STORE = "store.sqlite"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a transcript must not do to a terminal. The store keeps the raw text."""


def run_scenario(
    path: Path, overrides: tuple[str, ...], out: Path, store_url: str | None, resume: bool
) -> tuple[dict[str, Any], bool]:
    """Run a scenario in a folder of its own, or go on with its newest run."""
    from .report import write_report

    resolved = resolve(Loaded.read(path, overrides))
    folder = _resumed(resolved, out) if resume else _fresh_folder(resolved, out, store_url)
    started = time.monotonic()
    with Store.open(store_url or folder / STORE, write=True) as store, Display() as display:
        experiment = Experiment(folder.name, resolved, store, folder, display)
        asyncio.run(experiment.go())
        write_report(store, folder.name, folder)
        total, failed = store.count(folder.name), store.count(folder.name, "failed")
    facts = {
        "run": folder.name,
        "store": store_url or str(folder / STORE),
        "folder": str(folder),
        "episodes": total,
        "failed": failed,
        "seconds": round(time.monotonic() - started, 1),
    }
    return facts, failed <= resolved.loaded.scenario.limits.failed_share * total


def _fresh_folder(resolved: Resolved, out: Path, store_url: str | None) -> Path:
    """A new folder whose name no other run has, here or in a store that runs share."""
    scenario, taken = resolved.loaded.scenario, set()
    if store_url:
        with Store.open(store_url, write=True) as store:
            taken = {run.id for run in store.runs()}
    numbered = (out / f"{scenario.name}-{number}" for number in count(1))
    try:
        folder = next(f for f in numbered if not f.exists() and f.name not in taken)
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}; name a folder") from error
    text = json.dumps(scenario.model_dump(mode="json"), indent=2)
    (folder / "scenario.json").write_text(text + "\n")
    return folder


def _resumed(resolved: Resolved, out: Path) -> Path:
    scenario = resolved.loaded.scenario
    pattern = re.compile(rf"{re.escape(scenario.name)}-(\d+)")
    found = [f for f in out.glob(f"{scenario.name}-*") if pattern.fullmatch(f.name)]
    if not found:
        raise BadInput(f"{out}: no run of {scenario.name!r} to resume; leave --resume out")
    newest = max(found, key=lambda f: int(f.name.rsplit("-", 1)[1]))
    if json.loads((newest / "scenario.json").read_text()) != scenario.model_dump(mode="json"):
        raise BadInput(f"{newest}: was another scenario; leave --resume out, or undo the change")
    return newest


def check_target(
    target: str, overrides: tuple[str, ...], run_code: bool
) -> tuple[dict[str, Any], str]:
    """Check a scenario file, or a shipped protocol with its default parameters."""
    if target in shipped():
        protocol = load_protocol(target)
        params = protocol.params({})
    else:
        loaded = Loaded.read(Path(target), overrides)
        if not run_code:
            check_words(loaded)
            text = f"{target}: ok, as far as can be told without running its code"
            return {"ok": True, "problems": [], "max_calls": None}, text
        resolved = resolve(loaded)
        protocol, params = resolved.protocol, resolved.params
    report = asyncio.run(check_protocol(protocol, params))
    lines = [_problem_line(problem) for problem in report.problems]
    verdict = "ok" if report.ok else f"{len(lines)} problems"
    text = "\n".join([protocol.mermaid(params), *lines, f"{protocol.name}: {verdict}, at most"])
    return report.model_dump(mode="json"), f"{text} {report.max_calls} calls an episode"


def _problem_line(problem: Problem) -> str:
    return f"{problem.kind}: {problem.where}: {problem.message}"


def list_things(what: str, run: str | None, store_url: str | None) -> list[dict[str, Any]]:
    """Protocols, scenarios, worlds, learners, runs, or the episodes of a run."""
    here = Path(__file__).parent
    if what == "protocols":
        return [{"name": name, "seats": " ".join(load_protocol(name).seats)} for name in shipped()]
    if what == "scenarios":
        return [{"name": p.stem, "path": str(p)} for p in sorted(here.glob("*.yaml"))]
    if what == "worlds":
        return [{"name": "arithmetic"}, {"name": "gsm8k"}]
    if what == "learners":
        return [{"name": name} for name in LEARNERS]
    if what == "runs":
        return [line for store in _stores(store_url) for line in _run_lines(store)]
    if what == "episodes":
        if run is None:
            raise BadInput("--run: name the run whose episodes you want")
        with open_run(run, store_url) as (store, name, _):
            return [_episode_line(episode) for episode in store.episodes(name)]
    known = "protocols, scenarios, worlds, learners, runs, episodes"
    raise BadInput(f"{what!r} cannot be listed; choose one of {known}")


def _stores(url: str | None) -> Iterator[Store]:
    """The store that was named, or that of every run; one that cannot be read is told and left."""
    if url is not None:
        with Store.open(url) as store:
            yield store
        return
    for path in sorted(RUNS.glob(f"*/{STORE}")):
        try:
            store = Store.open(path)
        except StoreError as error:
            print(f"superalign: left out: {error}", file=sys.stderr)
            continue
        with store:
            yield store


def _run_lines(store: Store) -> list[dict[str, Any]]:
    return [
        {
            "id": run.id,
            "episodes": store.count(run.id),
            "failed": store.count(run.id, "failed"),
            "protocol": run.scenario["protocol"]["name"],
            "store": store.url.removeprefix("sqlite:///"),
        }
        for run in store.runs()
    ]


def _episode_line(episode: Episode) -> dict[str, Any]:
    return {
        "id": episode.id,
        "iteration": episode.iteration,
        "status": episode.status,
        "verdict": episode.verdict.value if episode.verdict else None,
        "topic": episode.task.question.topic,
        "question": printable(episode.question.text[:60]),
        "turns": len(episode.turns),
    }


def _run_folder(run: str) -> Path:
    """The folder of a run that is given by its path or by its name below runs/."""
    return Path(run) if (Path(run) / STORE).is_file() else RUNS / run


class open_run:
    """`with open_run(RUN, url) as (store, run, folder)`: a run by name or folder, for reading."""

    def __init__(self, run: str, store_url: str | None) -> None:
        folder = _run_folder(run)
        if store_url is None and not (folder / STORE).is_file():
            known = ", ".join(f.parent.name for f in sorted(RUNS.glob(f"*/{STORE}"))) or "none"
            raise BadInput(f"{run}: no such run below {RUNS}/; there are {known}")
        self.store = Store.open(store_url or folder / STORE)
        self.run, self.folder = folder.name, folder

    def __enter__(self) -> tuple[Store, str, Path]:
        self.store.run(self.run)  # raises when the store does not hold it
        return self.store, self.run, self.folder

    def __exit__(self, *_: object) -> None:
        self.store.close()


def _find_episode(ref: str, store_url: str | None) -> tuple[Store, str, str]:
    """An open store, the run and the id of an episode, looked for in every run's store."""
    for found in _stores(store_url):
        with suppress(BadInput):
            run, episode = found.find(ref)
            return Store.open(found.url), run, episode
    what = "no single episode has this id; see `superalign list episodes --run RUN`"
    raise BadInput(f"{ref}: {what}")


def show_episode(
    ref: str, as_seat: str | None, store_url: str | None
) -> tuple[dict[str, Any], str]:
    """A transcript, or exactly the messages that one seat was given."""
    store, run, episode_id = _find_episode(ref, store_url)
    with store:
        episode = next(store.episodes(run, ids=[episode_id]))
        if as_seat is None:
            return episode.model_dump(mode="json"), printable(_transcript(episode))
        turns = [turn for turn in episode.turns if turn.seat == as_seat]
        if not turns:
            seats = ", ".join(sorted({turn.seat for turn in episode.turns}))
            raise BadInput(f"--as {as_seat}: this seat never spoke; {seats} did")
        messages = store.messages(key for turn in turns for key in turn.messages)
    facts = [
        {"turn": t.key, "given": [messages[k].model_dump() for k in t.messages], "said": t.text}
        for t in turns
    ]
    return {"episode": episode.ref, "seat": as_seat, "calls": facts}, printable(_as_seen(facts))


def _transcript(episode: Episode) -> str:
    lines = [
        f"{episode.ref}  {episode.protocol}  iteration {episode.iteration}  {episode.status}",
        f"topic {episode.task.question.topic or '-'}  truth {episode.truth or '-'}",
    ]
    found = {critique.turn: critique for critique in episode.critiques}
    for turn in episode.turns:
        sure = f"  p={turn.confidence:.2f}" if turn.confidence is not None else ""
        hidden = f"  only for {', '.join(turn.visible_to)}" if turn.visible_to is not None else ""
        lines.append(f"\n{turn.key}  {turn.policy}{sure}{hidden}")
        lines += [f"  {line}" for line in (turn.text or f"failed: {turn.error}").splitlines()]
        if turn.key in found:
            lines.append(f"  -> about {found[turn.key].about}")
    if episode.verdict is not None:
        lines.append(f"\nverdict: {episode.verdict.value}   rewards: {episode.rewards}")
    if episode.error is not None:
        lines.append(f"\nfailed: {episode.error}")
    return "\n".join(lines)


def _as_seen(calls: list[dict[str, Any]]) -> str:
    lines = []
    for call in calls:
        lines.append(f"\n{call['turn']} was given")
        lines += [f"  [{message['role']}] {message['content']}" for message in call["given"]]
        lines.append(f"and said\n  {call['said']}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text without control and direction characters, which could fool who reads a terminal."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def stored_setting(store: Store, run: str) -> Setting:
    """The setting of a stored run, its models mute: all that replay needs."""
    stored = store.run(run)
    scenario = Scenario.model_validate_json(json.dumps(stored.scenario))
    resolved = resolve(Loaded(Path(stored.origin), scenario))
    cast = build_cast(resolved, build_models(resolved, live=False), {})
    world, limits = resolved.world, scenario.limits
    return Setting(resolved.protocol, resolved.params, cast, store, world, limits)


def replay_target(target: str, store_url: str | None) -> dict[str, Any]:
    """Replay a run, or one episode. No model is built, so none can be called."""
    if (_run_folder(target) / STORE).is_file() or (store_url and _is_run(store_url, target)):
        with open_run(target, store_url) as (store, run, _):
            return asyncio.run(_replay(store, run, None))
    store, run, episode = _find_episode(target, store_url)
    with store:
        return asyncio.run(_replay(store, run, [episode]))


def _is_run(url: str, name: str) -> bool:
    with Store.open(url) as store:
        return name in {run.id for run in store.runs()}


async def _replay(store: Store, run: str, ids: list[str] | None) -> dict[str, Any]:
    setting = stored_setting(store, run)
    divergences, episodes = [], 0
    for episode, journal in store.load(run, ids):
        episodes += 1
        if (found := await replay(setting, episode, journal)) is not None:
            divergences.append(found.model_dump())
    changed = setting.protocol.hash != store.run(run).protocol_hash
    return {
        "episodes": episodes,
        "model_calls": 0,
        "divergences": divergences,
        "protocol_changed": changed,
    }


def learn_run(
    run: str,
    method: str,
    iteration: int,
    out: Path | None,
    overrides: tuple[str, ...],
    store_url: str | None,
) -> dict[str, Any]:
    """Train the learning seat from stored rows, from the version that played that iteration."""
    data: dict[str, Any] = {"method": method}
    for text in overrides:
        apply_override(data, *parse_override(text))
    try:
        config = LearnConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(LearnConfig.model_fields)
        raise BadInput(f"{key}: {first['msg']}; known keys: {known}") from None
    with open_run(run, store_url) as (store, name, folder):
        kinds = ("sft",) if config.method == "sft" else ("pref", "sft")
        rows = [row for row in store.rows(name, iteration) if row.kind in kinds]
        if not rows:
            raise BadInput(f"{name}: iteration {iteration} has no {' or '.join(kinds)} rows")
        base = next(v for v in store.versions(name) if v.iteration == iteration - 1)
        out = out or folder / "weights" / f"{config.method}-from-{iteration}"
        with Display() as display:
            step = iter(range(1, config.steps + 1))
            metrics = LEARNERS[config.method](
                folder / base.path,
                rows,
                config,
                out,
                lambda m: display("learn", iteration, next(step), config.steps, dict(m)),
            )
    return {"path": str(out), "method": config.method, "rows": len(rows), **metrics}


def report_run(run: str, store_url: str | None) -> tuple[dict[str, Any], Path]:
    from .report import write_report

    with open_run(run, store_url) as (store, name, folder):
        return write_report(store, name, folder)


def export_run(run: str, path: Path, to: str, store_url: str | None) -> dict[str, Any]:
    """Write a run's rows in another tool's format."""
    if to != "trl":
        raise BadInput(f"--to {to}: unknown format; there is trl")
    from superalign.learners.export import to_trl

    with open_run(run, store_url) as (store, name, folder):
        rows, stored = store.rows(name), store.run(name)
        if not rows:
            raise BadInput(f"{name}: it has no rows to export")
        base = next((v for v in store.versions(name) if v.method == "base"), None)
    card = {
        "protocol": stored.scenario["protocol"],
        "models": stored.scenario["models"],
        "seed": stored.scenario["seed"],
        "superalign": stored.version,
    }
    sets = to_trl(rows, path, card, bos=_bos(folder / base.path) if base else "")
    return {"run": name, "path": str(path), "rows": sum(sets.values()), "sets": sets}


def _bos(folder: Path) -> str:
    """What a model's tokenizer begins with, read without loading it."""
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_text()).get("bos_token") or "" if config.is_file() else ""


def verify_store(url: str) -> dict[str, Any]:
    from superalign.store.verify import verify

    with Store.open(url) as store:
        records, damaged = verify(store)
    return {"ok": not damaged, "records": records, "damaged": [d.model_dump() for d in damaged]}


def make_organism(name: str, out: Path, seed: int) -> dict[str, Any]:
    if name != "arithmetic":
        raise BadInput(f"{name}: there is no recipe for this organism; there is arithmetic")
    from .organism import build

    return build(out, seed=seed)
