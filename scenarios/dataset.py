"""dataset: any data set on disk, by a short mapping of its columns.

    world:
      kind: dataset
      path: questions.jsonl
      columns: {text: question, choices: [right, wrong], target: right}

Reads JSON Lines (`.jsonl`, `.jsonl.gz`), Parquet (`.parquet`), and folders that `save_to_disk` of
Hugging Face's `datasets` wrote. Every row is held to the mapping before anything is played. What
does not fit is an error with file and line (of Parquet and `datasets`: row), never a row left out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from superalign.agents.agent import storable
from superalign.store.errors import BadInput
from superalign.store.records import Question, Task

from .world_kinds import Columns
from .written import Entry, Written, share

ROWS = 1_000_000
BYTES = 2 * 2**30
"""Most bytes of all lines together, unpacked."""
LINE = 4 * 2**20
"""Most bytes of a line: a passage is a hundred times shorter."""
TEXT = 10**6
"""Most characters of a value."""
EVERYTHING = "all"
"""The cell of a data set that names none."""

Row = dict[str, Any]


class Dataset(Written):
    """The `World` of the rows of a file."""

    name = "dataset"

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        topics = (entry.task.question.topic for entry in self._entries.values())
        self.cells = tuple(dict.fromkeys(topics))
        if not self.cells:
            raise BadInput(f"{path}: there are no rows; name a file that has some")

    def entries(self) -> Iterator[Entry]:
        """Every row. Raises BadInput for the first that does not fit."""
        questions: dict[tuple[str, ...], int] = {}
        names: dict[str, int] = {}
        for at, row in _rows(self._path, _wanted(self._columns)):
            where = f"{self._path}:{at}"
            if len(questions) == ROWS:
                raise BadInput(f"{where}: more than {ROWS:,} rows; split the file")
            task = _task(where, row, self._columns)
            asked = (task.question.text, *sorted(task.question.choices))
            if (first := questions.setdefault(asked, at)) != at:
                raise BadInput(f"{where}: asks what {first} asks; leave one of them out")
            if column := self._columns.id:
                name = _text(where, row, column)
                if (first := names.setdefault(name, at)) != at:
                    raise BadInput(f"{where}: {column}: {name!r} is the name of {first} too")
            yield Entry(task, task.question.text)


def _wanted(columns: Columns) -> list[str]:
    """The columns that a mapping names, each once."""
    several = [columns.choices] if isinstance(columns.choices, str) else columns.choices or ()
    one = [columns.text, columns.target, columns.cell, columns.id, *columns.private.values()]
    return list(dict.fromkeys(name for name in [*one, *several] if name is not None))


def _task(where: str, row: Row, columns: Columns) -> Task:
    text, listed = _text(where, row, columns.text), _choices(where, row, columns)
    target = _text(where, row, columns.target)
    if listed and target not in listed:
        numbered = {str(i): choice for i, choice in enumerate(listed)}
        if target not in numbered:
            what = f"{_short(target)} is none of the choices, nor a number below {len(listed)}"
            raise BadInput(f"{where}: {columns.target}: {what}")
        target = numbered[target]
    if not isinstance(columns.choices, str):  # else `[right, wrong]` would tell which is right
        listed.sort(key=lambda choice: share("order", text, choice))
    topic = EVERYTHING if columns.cell is None else _text(where, row, columns.cell)
    private = {seat: _text(where, row, name) for seat, name in columns.private.items()}
    question = Question(topic=topic, text=text, choices=tuple(listed))
    return Task(question=question, target=target, private=private)


def _choices(where: str, row: Row, columns: Columns) -> list[str]:
    if columns.choices is None:
        return []
    if isinstance(columns.choices, str):
        column = columns.choices
        told = _value(where, row, column)
        if not isinstance(told, list) or not 2 <= len(told) <= 100:
            what = f"{_short(told)} is no list of 2 to 100 answers"
            raise BadInput(f"{where}: {column}: {what}")
        listed = [_as_text(f"{where}: {column}", answer) for answer in told]
    else:
        column = ", ".join(columns.choices)
        listed = [_text(where, row, name) for name in columns.choices]
    if len(set(listed)) < len(listed):
        raise BadInput(f"{where}: {column}: two choices read the same; change one")
    return listed


def _value(where: str, row: Row, column: str) -> Any:
    if column not in row:
        there = ", ".join(map(_short, list(row)[:20])) or "none"
        raise BadInput(f"{where}: no column {column!r}; there are {there}")
    return row[column]


def _text(where: str, row: Row, column: str) -> str:
    return _as_text(f"{where}: {column}", _value(where, row, column))


def _as_text(where: str, told: Any) -> str:
    """A text as it stands, a whole number as it is written; nothing else has only one spelling."""
    if isinstance(told, int) and not isinstance(told, bool):
        return str(told)
    if not isinstance(told, str):
        raise BadInput(f"{where}: {_short(told)} is no text; write it as one")
    if not told.strip():
        raise BadInput(f"{where}: is empty; fill it in")
    if len(told) > TEXT:
        raise BadInput(f"{where}: {len(told):,} characters; at most {TEXT:,}")
    if not storable(told):
        raise BadInput(f"{where}: holds NUL or half a surrogate pair; remove it")
    return told


def _short(told: Any) -> str:
    return repr(told if isinstance(told, str | int | float | None) else type(told).__name__)[:60]


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    """Each row with its number from 1, read by what the path ends in."""
    if path.is_dir():
        return _saved(path, columns)
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(path)
    kinds = "a .jsonl, .jsonl.gz or .parquet file, or a folder that save_to_disk wrote"
    raise BadInput(f"{path}: name {kinds}")


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    read = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for at, line in enumerate(iter(lambda: lines.readline(LINE + 1), b""), 1):
                read += len(line)
                if len(line) > LINE or read > BYTES:
                    raise BadInput(f"{path}:{at}: too long; at most {LINE:,} bytes a line")
                if line.strip():
                    yield at, _object(f"{path}:{at}", line)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read: {error}; copy it again") from error


def _object(where: str, line: bytes) -> Row:
    try:
        row = json.loads(line.decode(), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadInput(f'{where}: is no JSON object; write {{"column": value, …}}')
    return row


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key is there twice")
    return row


def _parquet(path: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            there = file.schema_arrow.names
            size = sum(
                file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)
            )
            if file.metadata.num_rows > ROWS or size > BYTES:
                raise BadInput(
                    f"{path}: more than {ROWS:,} rows or {BYTES:,} bytes; split the file"
                )
            wanted = [name for name in columns if name in there]
            batches = file.iter_batches(batch_size=1024, columns=wanted)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {error}; copy it again") from error


def _saved(path: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:  # whatever a folder that it never wrote makes of it
        what = f"{type(error).__name__}: {error}"
        raise BadInput(f"{path}: `datasets` cannot load it: {what}") from error
    if isinstance(found, DatasetDict):
        raise BadInput(
            f"{path}: holds the splits {', '.join(map(str, found))}; name the folder of one"
        )
    wanted = [name for name in columns if name in found.column_names]
    rows: Any = found.select_columns(wanted)
    yield from enumerate(rows, 1)
