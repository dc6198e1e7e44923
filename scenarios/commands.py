"""What the commands do. `cli.py` says how they are called and prints what they return."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from superalign.learners import CONFIGS, LEARNERS, learn_config
from superalign.protocols import Protocol, load_protocol, shipped
from superalign.protocols.check import Problem, check_protocol
from superalign.protocols.offers import PROTOCOLS, WORLDS, offered
from superalign.store import BadInput, Episode, Store

from .labelling import waits_for_people
from .loop import Experiment
from .new import find_protocol, protocol_params
from .policies import taught_by
from .progress import Display
from .resolve import Resolved, check_words, resolve
from .scenario import Loaded, Scenario
from .stored import STORE, open_run, printable, stores
from .world_kinds import world_kinds
from .yaml_source import apply_override, parse_override


def run_scenario(
    path: Path, overrides: tuple[str, ...], out: Path, store_url: str | None, resume: bool
) -> tuple[dict[str, Any], bool]:
    """Run a scenario in a folder of its own, or go on with its newest run."""
    from .report import write_report

    resolved = resolve(Loaded.read(path, overrides))
    wanted = resolved.loaded.scenario
    folder = _resumed(resolved, out) if resume else fresh_folder(wanted, out, store_url)
    started = time.monotonic()
    with Store.open(store_url or folder / STORE, write=True) as store, Display() as display:
        experiment = Experiment(folder.name, resolved, store, folder, display)
        try:
            asyncio.run(experiment.go())
        except BadInput:
            if not store.count(folder.name) and not store.evaluations(folder.name, 0):
                shutil.rmtree(folder)  # refused before it did anything: the name is free again
            raise
        waiting = waits_for_people(store, folder.name) if experiment.parked else 0
        told, _ = write_report(store, folder.name, folder)
        total, failed = store.count(folder.name), store.count(folder.name, "failed")
    facts = {
        "run": folder.name,
        "store": store.url.removeprefix("sqlite:///"),
        "folder": str(folder),
        "episodes": total,
        "failed": failed,
        "unanswered": _unanswered(experiment),
        "waiting": waiting,
        "alarms": experiment.alarms,
        "paused": experiment.parked and not waiting,
        "stopped": experiment.stopped,
        "kept": experiment.kept,
        "lacks": experiment.lacks,
        "price": told["spent"] and told["spent"]["price"],
        "seconds": round(time.monotonic() - started, 1),
    }
    share, test = wanted.limits.failed_share, experiment.held_out
    passed = test is None or all(
        len(why) <= share * len(test.tasks) for why in test.failed.values()
    )
    return facts, passed and failed <= share * total


def _unanswered(experiment: Experiment) -> list[str]:
    """Of every test: how many of its questions have no answer, and what was said of the first."""
    test = experiment.held_out
    if test is None:
        return []
    return [
        f"{len(why)} of {len(test.tasks)} held-out questions after {iteration} updates: {why[0]}"
        for iteration, why in test.failed.items()
        if why
    ]


def fresh_folder(scenario: Scenario, out: Path, store_url: str | None) -> Path:
    """A new folder whose name no other run has, here or in a store that runs share."""
    taken: set[str] = set()
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
    begun = json.loads((newest / "scenario.json").read_text())
    limits = {"stop": None}  # may be loosened
    if begun | limits != scenario.model_dump(mode="json") | limits:
        raise BadInput(f"{newest}: was another scenario; leave --resume out, or undo the change")
    return newest


def check_target(
    target: str, overrides: tuple[str, ...], run_code: bool
) -> tuple[dict[str, Any], str]:
    """Check a scenario file, or a protocol: by name, or as FILE.py:name."""
    if target.partition(":")[0].endswith(".py") and not run_code:
        raise BadInput(f"--no-code: {target} is code; check it without, or check a scenario")
    protocol = find_protocol(target)
    if protocol is not None:
        params = protocol_params(protocol, overrides)
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
        names = (*shipped(), *offered(PROTOCOLS))
        return [_protocol_line(load_protocol(name)) for name in dict.fromkeys(names)]
    if what == "scenarios":
        return [{"name": p.stem, "path": str(p)} for p in sorted(here.glob("*.yaml"))]
    if what == "worlds":
        return [{"name": name} for name in (*world_kinds(), *offered(WORLDS))]
    if what == "learners":
        says = {m: " ".join((config.__doc__ or "").split()) for m, config in CONFIGS.items()}
        rows = {method: " or ".join(config.needs()) for method, config in CONFIGS.items()}
        return [{"name": method, "rows": rows[method], "says": says[method]} for method in CONFIGS]
    if what == "runs":
        return [line for store in stores(store_url) for line in _run_lines(store)]
    if what == "episodes":
        if run is None:
            raise BadInput("--run: name the run whose episodes you want")
        with open_run(run, store_url) as (store, name, _):
            return [_episode_line(episode) for episode in store.episodes(name)]
    known = "protocols, scenarios, worlds, learners, runs, episodes"
    raise BadInput(f"{what!r} cannot be listed; choose one of {known}")


def _protocol_line(protocol: Protocol) -> dict[str, Any]:
    says = protocol.about.removeprefix(f"{protocol.name}: ")
    return {"name": protocol.name, "seats": " ".join(protocol.seats), "says": says}


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


def learn_run(
    run: str,
    method: str,
    iteration: int,
    out: Path | None,
    overrides: tuple[str, ...],
    store_url: str | None,
    seat: str | None = None,
) -> dict[str, Any]:
    """Train a seat from stored rows, from the version of it that played that iteration, or from
    its first for methods that always begin there."""
    data: dict[str, Any] = {"method": method}
    for text in overrides:
        apply_override(data, *parse_override(text))
    try:
        config = learn_config(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if method not in CONFIGS:
            known = ", ".join(CONFIGS)
            raise BadInput(f"--method {method}: no such learner; there are {known}") from None
        key = ".".join(map(str, first["loc"][1:]))  # the method stands first
        known = ", ".join(CONFIGS[method].model_fields)
        raise BadInput(f"{key}: {first['msg']}; known keys of {method}: {known}") from None
    with open_run(run, store_url) as (store, name, folder):
        stored = store.run(name)
        seat = seat or Loaded.stored(Path(stored.origin), stored.scenario).scenario.tested
        rows, versions = taught_by(store, name, seat, iteration)
        rows = [row for row in rows if row.kind in config.kinds]
        if not any(row.kind in config.needs() for row in rows):
            what = f"no {' or '.join(config.needs())} rows of {seat}, or all of them are retracted"
            raise BadInput(f"{name}: iteration {iteration} has {what}")
        base = versions[0 if config.from_base else -1]
        out = out or folder / "weights" / f"{config.method}-from-{seat}-{iteration}"
        with Display() as display:
            step, total = count(1), config.steps_in(iteration)
            metrics = LEARNERS[config.method](
                folder / base.path,
                rows,
                config,
                out,
                lambda m: display("learn", iteration, next(step), total, dict(m)),
            )
    return {"path": str(out), "method": config.method, "rows": len(rows), **metrics}


def report_run(run: str, store_url: str | None) -> tuple[dict[str, Any], Path]:
    from .report import write_report

    with open_run(run, store_url) as (store, name, folder):
        if folder.name != name:  # a branch lies in the store of its parent
            folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)  # of a server's store it may be elsewhere
        return write_report(store, name, folder)


def make_organism(name: str, out: Path, seed: int) -> dict[str, Any]:
    from .organism import build
    from .organism_breeds import BREEDS

    if name not in BREEDS:
        known = ", ".join(BREEDS)
        raise BadInput(f"{name}: there is no recipe for this organism; there are {known}")
    return build(BREEDS[name], out, seed=seed)
