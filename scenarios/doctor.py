"""What `superalign doctor` finds: versions, and what may go wrong here, before it does.

Of the machine always; of a store, its schema and its database, when one is named; of a scenario's
endpoints what they honour, by asking them. Nothing is changed, and no finding stops another.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from sqlalchemy import Connection, Engine, func, select, text

from superalign.store.database import connect, core, file_of, parsed
from superalign.store.errors import BadInput, ModelError
from superalign.store.records import Record
from superalign.store.schema import UNREADABLE, found_schema
from superalign.store.tables import SCHEMA, Episodes, Runs, Turns

from .stored import STORE

if TYPE_CHECKING:
    from superalign.agents.openai_engine import OpenAIModel

    from .engines import OpenAIEngine
    from .scenario import Loaded

MATTER = ("torch", "transformers", "trl", "peft", "langgraph", "sqlalchemy", "pydantic", "psycopg")
"""Packages whose versions decide what a run does."""
REPAIRED = (3, 51, 3)
"""The first SQLite whose write-ahead log survives two connections that reset it at once."""
OLDEST_SERVER = 140000
"""PostgreSQL's number of the oldest version that is tested against."""
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs", "lustre")
"""File systems whose locks and shared memory a write-ahead log cannot trust."""
LITTLE = 2**30
"""Bytes of a disk that is nearly full."""


class Finding(Record):
    """One thing that was looked at."""

    name: str
    value: str
    state: Literal["ok", "risk", "bad"] = "ok"
    """`risk`: it works, and `says` names when it will not. `bad`: it does not work."""
    says: str = ""


def examine(target: str | None = None) -> list[Finding]:
    """All findings on this machine, and on a store or a scenario if one is named."""
    checks = [python, packages, sqlite, sandbox, device, disk]
    found = [finding for check in checks for finding in check()]
    if target is None:
        return found
    if target.endswith((".yaml", ".yml")):
        return found + list(endpoints(Path(target)))
    where = Path(target)
    return found + store(str(where / STORE) if where.is_dir() else target)


# The machine.


def python() -> Iterator[Finding]:
    yield Finding(name="superalign", value=version("superalign"))
    yield Finding(name="python", value=f"{platform.python_version()} on {platform.platform()}")


def packages() -> Iterator[Finding]:
    """Those that decide what a run does, and all that are missing or of another version."""
    for wanted in map(Requirement, requires("superalign") or ()):
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": "postgres"}):
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            if wanted.marker is None:
                says = f"superalign needs {wanted}; install it again"
                yield Finding(name=wanted.name, value="missing", state="bad", says=says)
            else:
                says = "stores on PostgreSQL need it: pip install 'superalign[postgres]'"
                yield Finding(name=wanted.name, value="not installed", says=says)
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            says = f"superalign needs {wanted}; install it again"
            yield Finding(name=wanted.name, value=there, state="bad", says=says)
        elif wanted.name in MATTER:
            yield Finding(name=wanted.name, value=there)


def sqlite() -> Iterator[Finding]:
    if sqlite3.sqlite_version_info >= REPAIRED:
        yield Finding(name="sqlite", value=sqlite3.sqlite_version)
        return
    bug = "two programs that write one WAL file at once may corrupt it (sqlite.org/wal.html)"
    says = f"{bug}; superalign is kept to one writer, so let no other program write a store"
    yield Finding(name="sqlite", value=sqlite3.sqlite_version, state="risk", says=says)


def sandbox() -> Iterator[Finding]:
    from .sandbox import sandbox as proved

    try:
        proved()
    except BadInput as error:
        says = f"{error}; worlds of code are refused, all else works"
        yield Finding(name="sandbox", value="none", state="risk", says=says)
        return
    yield Finding(name="sandbox", value="holds against every escape")


def device() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield Finding(name="machine", value=f"{cores} cores, {memory:.1f} GiB of memory")
    try:
        import torch
    except ImportError:  # it has been told already
        return
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Finding(name="accelerator", value=names or "none: models run on the processor")


def disk() -> Iterator[Finding]:
    yield from _place(Path.cwd(), "disk here")


def _place(folder: Path, name: str) -> Iterator[Finding]:
    free, system = shutil.disk_usage(folder).free, file_system(folder)
    value = f"{free / 2**30:.1f} GiB free, {system}"
    if system in NETWORK or system.startswith("fuse."):
        says = "SQLite's log is not safe on it; put stores on a local disk, or on PostgreSQL"
        yield Finding(name=name, value=value, state="risk", says=says)
    elif free < LITTLE:
        says = "a full disk ends a run; what is stored stays, and --resume goes on"
        yield Finding(name=name, value=value, state="risk", says=says)
    else:
        yield Finding(name=name, value=value)


def file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on, as the kernel calls it."""
    here, best, kind = folder.resolve(), -1, "unknown file system"
    with_kinds = Path("/proc/self/mounts")
    for line in with_kinds.read_text().splitlines() if with_kinds.exists() else ():
        _, mount, named, *_ = line.split(" ")
        place = Path(mount.encode().decode("unicode_escape"))
        if here.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), named
    return kind


# A store.


def store(url: str) -> list[Finding]:
    """What a store is, and what its database can be trusted with. Raises BadInput without one."""
    engine, writer = connect(url, write=False)
    path = file_of(parsed(url))
    checks: list[Callable[[Engine], Iterable[Finding]]] = [_schema, _contents]
    checks += [_server] if path is None else [_file]
    found = []
    try:
        for check in checks:
            found += _guarded(check, engine)
    finally:
        writer.close()
    return found


def _guarded(check: Callable[[Engine], Iterable[Finding]], engine: Engine) -> list[Finding]:
    """The findings of a check; a database that cannot be read is one too."""
    try:
        return list(check(engine))
    except UNREADABLE as error:
        what = " ".join(str(getattr(error, "orig", error)).split())
        says = f"{what}; `superalign verify` names what is damaged"
        return [Finding(name=check.__name__.strip("_"), value="unreadable", state="bad", says=says)]


def _schema(engine: Engine) -> Iterator[Finding]:
    found = found_schema(engine)
    if found is None:
        yield Finding(name="schema", value="none", state="bad", says="no store of superalign")
    elif found == str(SCHEMA):
        yield Finding(name="schema", value=found)
    else:
        where = file_of(engine.url) or engine.url
        says = f"this superalign knows {SCHEMA}; `superalign migrate {where}` if it is an older one"
        yield Finding(name="schema", value=found, state="bad", says=says)


def _contents(engine: Engine) -> Iterator[Finding]:
    runs, ended, turns = core(Runs).c, core(Episodes).c, core(Turns).c
    over = select(ended.id).where(ended.run == turns.run, ended.id == turns.episode)
    open_ones = select(turns.run, turns.episode).where(~over.exists()).distinct().subquery()
    with engine.connect() as db:
        count = db.execute(select(func.count(runs.id))).scalar()
        episodes = db.execute(select(func.count(ended.id))).scalar()
        begun = db.execute(select(func.count()).select_from(open_ones)).scalar()
    says = "`superalign run SCENARIO --resume` goes on with a run that was ended" if begun else ""
    value = f"{count} runs, {episodes} episodes ended, {begun} begun"
    yield Finding(name="contents", value=value, says=says)


def _file(engine: Engine) -> Iterator[Finding]:
    path = Path(str(engine.url.database))
    with engine.connect() as db:
        mode = db.exec_driver_sql("PRAGMA journal_mode").scalar()
    size = f"{path.stat().st_size / 2**20:.1f} MiB, journal mode {mode}"
    yield Finding(name="file", value=size)
    yield from _place(path.parent, "its disk")


def _server(engine: Engine) -> Iterator[Finding]:
    def setting(db: Connection, name: str) -> str:
        return str(db.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar())

    with engine.connect() as db:
        number, told = int(setting(db, "server_version_num")), setting(db, "server_version")
        old = number < OLDEST_SERVER
        says = f"older than {OLDEST_SERVER // 10000}, with which nothing was tested" if old else ""
        yield Finding(name="postgresql", value=told, state="risk" if old else "ok", says=says)
        encoding = setting(db, "server_encoding")
        state: Any = "ok" if encoding == "UTF8" else "bad"
        says = "" if state == "ok" else "not every text can be stored; make the database in UTF8"
        yield Finding(name="encoding", value=encoding, state=state, says=says)
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            if (value := setting(db, name)) == "off":
                says = "the last episodes, or the database, may be lost with the machine's power"
                yield Finding(name=name, value=value, state="risk", says=says)
        if setting(db, "is_superuser") == "on":
            says = "it may do anything to the server; make a user that owns this database alone"
            yield Finding(name="user", value="is superuser", state="risk", says=says)


# A scenario's endpoints.


def endpoints(path: Path) -> Iterator[Finding]:
    """What each endpoint of a scenario really honours. Costs a few short calls of each."""
    from .engines import OpenAIEngine
    from .scenario import Loaded

    loaded = Loaded.read(path)
    engines = loaded.scenario.models.items()
    behind = {name: engine for name, engine in engines if isinstance(engine, OpenAIEngine)}
    if not behind:
        yield Finding(name="endpoints", value="none: no model of this scenario is behind a server")
    yield from asyncio.run(_asked(loaded, behind))


async def _asked(loaded: Loaded, behind: Mapping[str, OpenAIEngine]) -> list[Finding]:
    from .endpoints import build_openai

    found, opened = [], dict[Any, Any]()
    try:
        for name, engine in behind.items():
            try:
                found.append(await _honesty(build_openai(loaded, name, engine, opened)))
            except (BadInput, ModelError) as error:  # no key, no address, no answer
                says = str(error)
                found.append(Finding(name=name, value="cannot be used", state="bad", says=says))
    finally:
        for endpoint in opened.values():
            await endpoint.close()
    return found


async def _honesty(model: OpenAIModel) -> Finding:
    able = await model.able()
    honours, context = ", ".join(able.honours) or "nothing", able.context or "unknown"
    value = f"{model.served} honours {honours}; context {context}"
    if not able.lacks:
        return Finding(name=model.name, value=value)
    says = f"it does not honour {', '.join(able.lacks)}, whatever it accepts"
    return Finding(name=model.name, value=value, state="risk", says=says)
