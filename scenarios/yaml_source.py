"""YAML that strangers wrote: plain data alone, without aliases, tags, merges or duplicates, every
key with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from superalign.agents.agent import UNSTORABLE
from superalign.store.errors import BadInput

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_DIGITS = 40

PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}

Loc = tuple[Any, ...]
"""Where a value lies: keys (text) and indices (numbers) from the top."""

At = Callable[[int, int, Loc, str], BadInput]
"""Makes the error of a line, a column, a key and what is wrong with it."""


class Source:
    """A YAML file: its data, and the place of every key in it."""

    def __init__(self, path: Path) -> None:
        """Read and check a file. Raises BadInput with file:line:column."""
        self.path = path
        self._root: Node | None = None
        self.data, self._root = parse(self._read(), self._at)
        if not isinstance(self.data, dict):
            raise self.error((), "a scenario is a mapping of keys to values; begin with `name: …`")

    def error(self, loc: Loc, message: str) -> BadInput:
        """A BadInput that names file:line:column, the key, and what is wrong."""
        return self._at(*self._place(loc), loc, message)

    def _at(self, line: int, column: int, loc: Loc, message: str) -> BadInput:
        key = ".".join(map(str, loc))
        return BadInput(f"{self.path}:{line}:{column}: {key + ': ' if key else ''}{message}")

    def _read(self) -> str:
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            what = error.strerror or "cannot be read"
            raise BadInput(f"{self.path}: {what}; give the path of a scenario file") from error
        if len(raw) > MAX_BYTES:
            what = f"{len(raw):,} bytes, at most {MAX_BYTES:,} are read"
            raise self._at(1, 1, (), f"{what}; keep data in files beside the scenario")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
            raise self._at(line, column, (), "not UTF-8; save it as UTF-8") from error

    def _place(self, loc: Loc) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of `loc` that the file has."""
        node, mark = self._root, self._root.start_mark if self._root else None
        for step in loc:
            if isinstance(node, MappingNode):
                pairs = [(key, value) for key, value in node.value if key.value == str(step)]
                if not pairs:
                    break
                mark, node = pairs[0][0].start_mark, pairs[0][1]
            elif isinstance(node, SequenceNode) and isinstance(step, int):
                node = node.value[step]
                mark = node.start_mark
        return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def parse(text: str, at: At) -> tuple[Any, Node | None]:
    """The data of YAML text and its nodes. Refuses whatever is not plain data."""
    try:
        _refuse_events(text, at)
        root = YAML(typ="safe", pure=True).compose(text)
        if root is not None:
            _refuse_nodes(root, (), at)
        return YAML(typ="safe", pure=True).load(text), root
    except YAMLError as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        what = f"not readable as YAML: {problem}; mend it there"
        raise at(*_where(error, text), (), what) from error


def _refuse_events(text: str, at: At) -> None:
    """Aliases can blow a small text up without end, deep nesting can exhaust the stack, and a tag
    can make any object."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        what = None
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            what = "anchors and aliases are not read; write the value out"
        elif getattr(event, "tag", None):
            what = f"tags such as {event.tag} are not read; write plain text or numbers"
        elif depth > MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH} levels; flatten it"
        if what:
            raise at(event.start_mark.line + 1, event.start_mark.column + 1, (), what)


def _refuse_nodes(node: Node, loc: Loc, at: At) -> None:
    """Keys that are no text, merges, duplicates, and values that JSON does not know."""

    def refuse(node: Node, loc: Loc, what: str) -> BadInput:
        return at(node.start_mark.line + 1, node.start_mark.column + 1, loc, what)

    if isinstance(node, SequenceNode):
        for index, inner in enumerate(node.value):
            _refuse_nodes(inner, (*loc, index), at)
    elif isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, inner in node.value:
            if not isinstance(key, ScalarNode):
                raise refuse(key, loc, "a list or mapping is no key; write keys as plain text")
            here = (*loc, UNSTORABLE.sub("?", key.value))
            if UNSTORABLE.search(key.value):
                raise refuse(key, here, "holds a character that no key may hold; leave it out")
            if key.tag.endswith(":merge"):
                raise refuse(key, here, "merge keys are not read; write the values out")
            if not key.tag.endswith(":str"):
                raise refuse(key, here, "is read as no text; put this key into quotes")
            if key.value in seen:
                raise refuse(key, here, "stands here twice; keep one of them")
            seen.add(key.value)
            _refuse_nodes(inner, here, at)
    elif UNSTORABLE.search(node.value):
        raise refuse(node, loc, "holds a character that no text may hold; leave it out")
    elif node.tag not in PLAIN:
        kind = node.tag.rsplit(":", 1)[-1]
        raise refuse(node, loc, f"is read as a {kind}, not as text; put it into quotes")
    elif node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
        raise refuse(node, loc, f"has {len(node.value)} digits; write a number of fewer digits")
    elif node.tag.endswith(":float") and not _finite(node.value):
        raise refuse(node, loc, f"{node.value} is no finite number; write one")


def _finite(text: str) -> bool:
    try:
        return abs(float(text.replace("_", ""))) < float("inf")
    except ValueError:  # .nan and .inf, which only YAML spells so
        return False


def _where(error: YAMLError, text: str) -> tuple[int, int]:
    """Line and column of what is wrong; of its beginning, where the end of the text shows it."""
    position = getattr(error, "position", None)
    if isinstance(position, int):
        return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    problem, context = (getattr(error, name, None) for name in ("problem_mark", "context_mark"))
    mark = problem or context
    if context and problem and problem.index >= len(text.rstrip()):
        mark = context
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def parse_override(text: str) -> tuple[Loc, Any]:
    """`cast.judge.model=big` -> (("cast", "judge", "model"), "big"). Values are YAML."""
    key, equals, value = text.partition("=")
    steps = tuple(key.split("."))
    if not equals or not all(steps):
        raise BadInput(f"--set {text}: expected key=value, such as --set cast.learner.model=big")
    return steps, parse(value, lambda line, column, loc, what: BadInput(f"--set {text}: {what}"))[0]


def apply_override(data: dict[str, Any], loc: Loc, value: Any) -> None:
    """Set a value deep in plain data, making the mappings on the way."""
    *way, last = loc
    for step in way:
        inner = data.setdefault(step, {})
        if not isinstance(inner, dict):
            raise BadInput(f"--set {'.'.join(map(str, loc))}: {step} is no mapping")
        data = inner
    data[last] = value
