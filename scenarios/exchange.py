"""What `export` and `import` do."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superalign.store import BadInput, Store
from superalign.store.inspect_log import write_inspect
from superalign.store.jsonl import read_jsonl, write_jsonl
from superalign.store.verify import verify

from .page import write_page
from .scenario import Loaded
from .stored import RUNS, STORE, find_episode, is_run, open_run
from .world_kinds import NyuDebateWorld

FORMATS = ("trl", "jsonl", "inspect", "html")


def export_run(
    target: str, path: Path, to: str, store_url: str | None, whole: bool, licence: str
) -> dict[str, Any]:
    """Write a run, one episode, or with `whole` everything in a run's store, in another format."""
    if to not in FORMATS:
        raise BadInput(f"--to {to}: unknown format; there are {', '.join(FORMATS)}")
    if whole and to != "jsonl":
        raise BadInput(f"--whole-store: {to} holds one run; leave it out, or use --to jsonl")
    if to == "html" and not is_run(target, store_url):
        url, run, episode = find_episode(target, store_url)
        with Store.open(url) as store, _writing(path):
            return {"run": run, "path": str(path), **write_page(store, run, path, [episode])}
    with open_run(target, store_url) as (store, name, folder), _writing(path):
        if to == "trl":
            facts = _trl(store, name, path, folder, licence)
        elif to == "jsonl":
            tables = write_jsonl(store, path, None if whole else name)
            facts = {"rows": sum(tables.values()), "tables": tables}
        elif to == "inspect":
            facts = write_inspect(store, name, path)
        else:
            facts = write_page(store, name, path, None)
        return {"run": name, "path": str(path), **facts}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a place that can be written") from error


def _trl(store: Store, run: str, path: Path, folder: Path, licence: str) -> dict[str, Any]:
    from superalign.learners.export import to_trl

    retracted = {retraction.row for retraction in store.retractions(run)}
    rows, stored = [r for r in store.rows(run) if r.id not in retracted], store.run(run)
    if not rows:
        raise BadInput(f"{run}: it has no rows to export")
    base = next((v for v in store.versions(run) if v.method == "base" and v.path), None)
    card = {
        "license": licence,
        "run": run,
        **{key: stored.scenario[key] for key in ("world", "protocol", "models", "cast", "seed")},
        "superalign": stored.version,
    }
    sets = to_trl(rows, path, card, bos=_bos(folder / base.path) if base else "")
    return {"rows": len(rows), "sets": sets}


def _bos(folder: Path) -> str:
    """What a model's tokenizer begins with, read without loading it."""
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_text()).get("bos_token") or "" if config.is_file() else ""


def import_jsonl(path: Path | None, store_url: str | None) -> dict[str, Any]:
    """Read an exported file into a new store, and hold its rows against each other."""
    if path is None or store_url is None:
        missing = "PATH" if path is None else "--store"
        raise BadInput(f"{missing} is missing; superalign import jsonl PATH --store NEW")
    if not path.is_file():
        raise BadInput(f"{path}: there is no file here; `superalign export --to jsonl` writes one")
    with Store.open(store_url, write=True) as store:
        read = read_jsonl(path, store, lambda run: Loaded.stored(Path(run.origin), run.scenario))
        runs = [run.id for run in store.runs()]
        _, damaged = verify(store)
    return {
        "store": store.url.removeprefix("sqlite:///"),
        "runs": runs,
        "rows": sum(read.values()),
        "tables": read,
        "damaged": [d.model_dump() for d in damaged],
    }


def import_nyu_debate(path: Path | None, store_url: str | None) -> dict[str, Any]:
    """Play the rooms as one run, from a copy of the data that stays in the run's folder."""
    from .commands import fresh_folder
    from .loop import Experiment
    from .nyu_debate import ARTICLES, DEBATES, NyuDebate
    from .progress import Display
    from .resolve import resolve

    started, source = time.monotonic(), NyuDebate(path).folder
    scenario = Loaded.read(Path(__file__).with_name("nyu-debate.yaml")).scenario
    world = NyuDebateWorld(kind="nyu-debate", path="data")
    scenario = scenario.model_copy(update={"world": world})
    folder = fresh_folder(scenario, RUNS, store_url)
    (folder / "data").mkdir()
    for name in (DEBATES, ARTICLES):
        shutil.copy(source / name, folder / "data" / name)
    resolved = resolve(Loaded.stored(folder / "scenario.json", scenario.model_dump(mode="json")))
    with Store.open(store_url or folder / STORE, write=True) as store, Display() as display:
        asyncio.run(Experiment(folder.name, resolved, store, folder, display).go())
        episodes = list(store.episodes(folder.name))
        scores = list(NyuDebate(folder / "data").scores(episodes))
        store.put_scores(scores)
    return {
        "run": folder.name,
        "store": store.url.removeprefix("sqlite:///"),
        "folder": str(folder),
        "episodes": len(episodes),
        "failed": sum(episode.status == "failed" for episode in episodes),
        "turns": sum(len(episode.turns) for episode in episodes),
        "scores": len(scores),
        "seconds": round(time.monotonic() - started, 1),
    }


SOURCES = {"jsonl": import_jsonl, "nyu-debate": import_nyu_debate}


def import_from(source: str, path: Path | None, store_url: str | None) -> dict[str, Any]:
    """Bring records of another place into a store."""
    if source not in SOURCES:
        raise BadInput(f"{source}: unknown format; there are {', '.join(SOURCES)}")
    return SOURCES[source](path, store_url)
