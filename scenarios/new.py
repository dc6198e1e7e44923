"""A new protocol, written to be changed: its file, and a scenario that plays it at once."""

from __future__ import annotations

import builtins
import keyword
import re
from pathlib import Path
from string import Template
from typing import Any

from pydantic import ValidationError

from superalign.protocols import Protocol, load_protocol, shipped
from superalign.store import BadInput

from .yaml_source import apply_override, parse_override

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def new_protocol(name: str, folder: Path) -> dict[str, Any]:
    """Write NAME.py and NAME.yaml. Raises BadInput for bad names and where one is there."""
    texts = {end: (TEMPLATES / f"new.{end}.txt").read_text() for end in ("py", "yaml")}
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise BadInput(f"{name!r}: a protocol's name is lower case letters, digits and _")
    if hasattr(builtins, name) or re.search(rf"\b{name}\b", texts["py"]):
        raise BadInput(f"{name!r}: means something else in a protocol's file; choose another name")
    if name in shipped():
        raise BadInput(f"{name!r}: a protocol of this name ships with superalign; choose another")
    files = {folder / f"{name}.{end}": text for end, text in texts.items()}
    for path in files:
        if path.exists() or path.is_symlink():
            raise BadInput(f"{path}: is there already; choose another name, or move it away")
    try:
        for path, text in files.items():
            with path.open("x") as file:
                file.write(Template(text).substitute(name=name))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}; go to a folder that can be written") from error
    return {"protocol": name, "files": [str(path) for path in files]}


def find_protocol(target: str) -> Protocol | None:
    """A protocol by name, or by `FILE.py:name`; in `FILE.py` alone it has the file's name.

    None: the target is neither. Runs the file's code.
    """
    path, colon, name = target.rpartition(":")
    if target.endswith(".py"):
        path, colon, name = target, ":", Path(target).stem
    if colon and path.endswith(".py"):
        if not Path(path).is_file():
            raise BadInput(f"{path}: there is no file here; check its spelling")
        return load_protocol(name, Path(path))
    if Path(target).exists() or not re.fullmatch(r"\w+", target):
        return None
    return load_protocol(target)


def protocol_params(protocol: Protocol, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Its parameters: defaults, and what `--set` says."""
    given: dict[str, Any] = {}
    for text in overrides:
        apply_override(given, *parse_override(text))
    try:
        return protocol.params(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, known = ".".join(map(str, first["loc"])), ", ".join(protocol.parameters) or "none"
        what = f"{key}: {first['msg'].lower()}; parameters of {protocol.name}: {known}"
        raise BadInput(what) from None


def draw_protocol(
    target: str, overrides: tuple[str, ...], to: Path | None
) -> tuple[dict[str, Any], str]:
    """Draw a protocol into a file, or tell its graph as Mermaid text."""
    from superalign.protocols.drawing import draw

    protocol = find_protocol(target)
    if protocol is None:
        raise BadInput(f"{target!r}: is no protocol; give a name, or a FILE.py:name")
    params = protocol_params(protocol, overrides)
    mermaid = protocol.mermaid(params)
    if to is not None:
        draw(protocol, params, to)
    facts = {"protocol": protocol.name, "path": to and str(to), "mermaid": mermaid}
    return facts, str(to) if to else mermaid
