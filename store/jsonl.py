"""A store, or one run of it, as JSON Lines: complete, and row for row the same when read back.

    {"format": "superalign", "schema": 2}                               first line
    {"table": "turns", "run": "sums-1", "key": …, "record_hash": …}     one line a row
    {"rows": 1203}                                                      last line

A row's hash stands with it, so a line that was altered is refused with its number, and so is a file
whose end was cut off. Memory does not grow with the number of rows, in either direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from . import tables
from .database import Codec, core
from .errors import BadInput, StoreError
from .records import (
    Case,
    Critique,
    Episode,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Record,
    Retraction,
    Row,
    Run,
    Score,
    Turn,
    Verdict,
)
from .store import Store
from .verify import HASHED

FORMAT = "superalign"
LONGEST = 64 * 2**20
"""Bytes of the longest line that is read."""
AT_ONCE = 500
"""Messages that are looked up together."""
REMEMBERED = 100_000
"""Hashes of messages that were just written. One that is written again does no harm."""

RECORDS: dict[type[SQLModel], type[Record]] = {
    tables.Runs: Run,
    tables.Messages: Message,
    tables.Turns: Turn,
    tables.Episodes: Episode,
    tables.Critiques: Critique,
    tables.Verdicts: Verdict,
    tables.Labels: Label,
    tables.Rows: Row,
    tables.Versions: PolicyVersion,
    tables.Evaluations: Evaluation,
    tables.Scores: Score,
    tables.Cases: Case,
    tables.Retractions: Retraction,
}
"""What a row must be once it is read: hashes can be forged, so its values are checked too."""


def write_jsonl(store: Store, path: Path, run: str | None = None) -> dict[str, int]:
    """Write every row of a store, or those of one run; table -> rows."""
    with store.connect() as db:
        codecs = {table: Codec(core(table), db.dialect) for table in HASHED}
    written: Counter[str] = Counter()
    with path.open("wb") as lines:
        _put(lines, {"format": FORMAT, "schema": tables.SCHEMA})
        for table, values in _rows(store, run):
            name = core(table).name
            written[name] += 1
            _put(lines, {"table": name, **_spelt(table, codecs[table], values)})
        _put(lines, {"rows": written.total()})
    return dict(written)


def _put(lines: BinaryIO, line: Mapping[str, Any]) -> None:
    lines.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _spelt(table: type[SQLModel], codec: Codec, values: tuple[Any, ...]) -> dict[str, Any]:
    """A row as JSON has it: its JSON columns unpacked, its flags true or false."""
    *columns, hashed = core(table).c
    try:
        row = codec.unpack(values)
    except ValueError as error:
        name = f"{core(table).name} {values[:3]}"
        raise StoreError(f"{name}: cannot be read ({error}); see `superalign verify`") from error
    flags = {c.name: bool(row[c.name]) for c in columns if c.info.get("flag")}
    return {**row, **flags, hashed.name: values[-1]}


def _rows(store: Store, run: str | None) -> Iterator[tuple[type[SQLModel], tuple[Any, ...]]]:
    for table in HASHED:
        columns = core(table).c
        if run is None:
            found: Iterable[tuple[Any, ...]] = store.each(table)
        elif table is tables.Messages:
            found = _messages(store, run)
        else:
            found = store.each(table, (columns.id if table is tables.Runs else columns.run) == run)
        for values in found:
            yield table, values


def _messages(store: Store, run: str) -> Iterator[tuple[Any, ...]]:
    """The messages that a run's turns and cases name."""
    told, wanted = set(), set()

    def found() -> list[tuple[Any, ...]]:
        rows = store.raw(tables.Messages, core(tables.Messages).c.hash.in_(sorted(wanted)))
        told.update(wanted)
        wanted.clear()
        return rows

    for table in (tables.Turns, tables.Cases):
        place = list(core(table).c.keys()).index("messages")
        for values in store.each(table, core(table).c.run == run):
            wanted.update(set(orjson.loads(values[place])) - told)
            if len(wanted) >= AT_ONCE:
                yield from found()
            if len(told) >= REMEMBERED:
                told.clear()
    yield from found()


def read_jsonl(
    path: Path, store: Store, check: Callable[[Run], object] = lambda run: None
) -> dict[str, int]:
    """Read an exported file into an empty store, all of it or nothing; table -> rows.

    `check` raises BadInput on a run that could not be worked with. Raises BadInput with the number
    of the first line that is not as it was written.
    """
    if store.runs():
        raise BadInput(f"{store.url}: holds runs already; name a new store with --store")
    try:
        with path.open("rb") as lines, store.connect() as db, db.begin():
            return _read(_Lines(path, lines), db, check)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a file that `export` wrote") from error


class _Lines:
    """The JSON objects of a file, and the place of the one that was read last."""

    def __init__(self, path: Path, lines: BinaryIO) -> None:
        self.path, self.number, self._lines = path, 0, lines

    def error(self, what: str) -> BadInput:
        return BadInput(f"{self.path}:{self.number}: {what}")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self._lines.readline(LONGEST):
            self.number += 1
            if len(line) == LONGEST:
                raise self.error(f"is longer than {LONGEST} bytes")
            try:
                row = orjson.loads(line)
            except ValueError as error:
                raise self.error(f"is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise self.error("is no JSON object")
            yield row


def _read(lines: _Lines, db: Connection, check: Callable[[Run], object]) -> dict[str, int]:
    by_name = {core(table).name: table for table in HASHED}
    codecs = {name: Codec(core(table), db.dialect) for name, table in by_name.items()}
    read: Counter[str] = Counter()
    rows = iter(lines)
    _check_header(lines, next(rows, {}))
    for row in rows:
        if "rows" in row and "table" not in row:
            break
        name = str(row.pop("table", None))
        if name not in by_name:
            raise lines.error(f"unknown table {name!r}; there are {', '.join(by_name)}")
        values = _packed(lines, by_name[name], codecs[name], row)
        if by_name[name] is tables.Runs:
            _checked(lines, check, row)
        try:
            db.exec_driver_sql(codecs[name].statement, codecs[name].bound(values))
        except (DBAPIError, OverflowError, ValueError) as error:
            raise lines.error(f"cannot be stored: {getattr(error, 'orig', error)}") from None
        read[name] += 1
    else:
        raise lines.error("the file ends before its last line, which counts the rows")
    if row != {"rows": read.total()} or next(rows, None) is not None:
        raise lines.error(f"{read.total()} rows were read, but this line says {row['rows']!r}")
    return dict(read)


def _checked(lines: _Lines, check: Callable[[Run], object], row: dict[str, Any]) -> None:
    try:
        check(Run(**{name: row[name] for name in Run.model_fields}))
    except BadInput as error:
        raise lines.error(f"runs: {error}") from None


def _check_header(lines: _Lines, header: dict[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise lines.error("no file of superalign: the first line must name the format")
    if header.get("schema") != tables.SCHEMA:
        what = f"schema {header.get('schema')!r}, but this superalign knows {tables.SCHEMA}"
        raise lines.error(f"{what}; export it with the version that wrote it")


def _packed(
    lines: _Lines, table: type[SQLModel], codec: Codec, row: dict[str, Any]
) -> tuple[Any, ...]:
    """The values of a row, if they are what its hash says and what the table may hold."""
    *names, hashed = core(table).c.keys()
    if set(row) != {*names, hashed}:
        odd = ", ".join(sorted(set(row) ^ {*names, hashed}))
        raise lines.error(f"{core(table).name}: keys that are unknown or missing: {odd}")
    record = RECORDS.get(table)
    known = record.model_fields if record else {}
    if wrong := [name for name in names if name not in known and not isinstance(row[name], str)]:
        raise lines.error(f"{wrong[0]}: is no text")
    if record is not None:
        held = {name: row[name] for name in names if name in known}
        try:
            record.model_validate_json(orjson.dumps(held), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise lines.error(f"{core(table).name}: {place}: {first['msg']}") from None
    values = codec.pack(row)
    if values[-1] != row[hashed] or not codec.intact(values):
        raise lines.error(f"{core(table).name}: was altered: its hash says otherwise")
    return values
