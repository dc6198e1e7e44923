"""Finding what is stored: runs, episodes, and the setting that a run was played in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from superalign.protocols.setting import Setting
from superalign.store import BadInput, Store, StoreError
from superalign.store.database import file_of, parsed

from .resolve import build_cast, build_models, resolve
from .scenario import Loaded

RUNS = Path("runs")
STORE = "store.sqlite"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a transcript must not do to a terminal. The store keeps the raw text."""


def stores(url: str | None) -> Iterator[Store]:
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


class open_run:
    """`with open_run(RUN, url) as (store, run, folder)`: a run by name or folder."""

    def __init__(self, run: str, store_url: str | None, *, write: bool = False) -> None:
        self.run, self.folder = Path(run).name, _folder(run)
        if store_url is None and self.folder is None:
            known = ", ".join(f.parent.name for f in sorted(RUNS.glob(f"*/{STORE}"))) or "none"
            raise BadInput(f"{run}: no such run below {RUNS}/; there are {known}")
        self.store = Store.open(store_url or f"{self.folder}/{STORE}", write=write)

    def __enter__(self) -> tuple[Store, str, Path]:
        self.store.run(self.run)  # raises when the store does not hold it
        folder = self.folder or _own_folder(self.store, self.run)
        return self.store, self.run, folder

    def __exit__(self, *_: object) -> None:
        self.store.close()


def is_run(name: str, store_url: str | None) -> bool:
    """Whether this names a run (and not an episode)."""
    with suppress(BadInput), open_run(name, store_url):
        return True
    return False


def _folder(run: str) -> Path | None:
    """The folder of a run that is given by its path, by its name below runs/, or, for a run that
    was forked or judged again, that of the store it lies in."""
    for folder in (Path(run), RUNS / run):
        if (folder / STORE).is_file():
            return folder
    for store in stores(None):
        if run in {found.id for found in store.runs()}:
            return folder_of(store, run)
    return None


def folder_of(store: Store, run: str) -> Path:
    """The folder in which a run's weights lie: that of its store, where this is a file."""
    path = file_of(parsed(store.url))
    return path.parent if path is not None else _own_folder(store, run)


def _own_folder(store: Store, run: str) -> Path:
    """The folder that a run was given below runs/; that of its parent, if it has one."""
    while (parent := store.run(run).parent) is not None:
        run = parent
    return RUNS / run


def find_episode(ref: str, store_url: str | None) -> tuple[str, str, str]:
    """The store's URL, the run and the id of an episode, looked for in every run's store."""
    for found in stores(store_url):
        with suppress(BadInput):
            return found.url, *found.find(ref)
    what = "no single episode has this id; see `superalign list episodes --run RUN`"
    raise BadInput(f"{ref}: {what}")


def stored_setting(store: Store, run: str) -> Setting:
    """The setting of a stored run, its models mute: all that replay needs."""
    stored = store.run(run)
    resolved = resolve(Loaded.stored(Path(stored.origin), stored.scenario))
    cast = build_cast(resolved, build_models(resolved, frozenset()), {})
    world, limits = resolved.world, resolved.loaded.scenario.limits
    return Setting(resolved.protocol, resolved.params, cast, store, world, limits)


def printable(text: str) -> str:
    """Text without control and direction characters, which could fool who reads a terminal."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
