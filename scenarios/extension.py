"""Worlds and engines of installed packages: the grammar of a scenario, with those that it names.

A package offers a `WorldKind` under the entry points `superalign.worlds`, or an `EngineKind` under
`superalign.engines`, each by the name that a scenario gives as `kind` or `engine`. Its code runs
when a scenario names it, and at no other time. What ships cannot be replaced.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args

from pydantic import Field, create_model

from superalign.protocols.offers import ENGINES, WORLDS, load_offer, offered
from superalign.store.errors import BadInput
from superalign.store.records import Record

from .world_kinds import WorldKind

if TYPE_CHECKING:
    from pathlib import Path

    from superalign.agents import Model

Grammar = TypeVar("Grammar", bound=Record)


class EngineKind(Record):
    """An engine of `models:` that a package offers. A subclass adds `engine: Literal["name"]`."""

    dialect: ClassVar[Literal["chat", "plain", "tags"]] = "chat"
    """How its models are spoken to."""

    def build(self, name: str, folder: Path) -> Model:
        """The model that a scenario calls `name`; `folder` is the scenario's."""
        raise NotImplementedError


def extended(grammar: type[Grammar], data: Any) -> type[Grammar]:
    """The grammar with the installed kinds and engines that this data names. Raises BadInput."""
    fields: dict[str, Any] = {}
    world, models = (data.get(key) for key in ("world", "models"))
    kinds = _named([world], "kind", WORLDS, WorldKind)
    if kinds:
        fields["world"] = (_widened(grammar.model_fields["world"].annotation, kinds, "kind"), ...)
    entries = list(models.values()) if isinstance(models, dict) else []
    engines = _named(entries, "engine", ENGINES, EngineKind)
    if engines:
        name, union = get_args(grammar.model_fields["models"].annotation)
        union = _widened(get_args(union)[0], engines, "engine")
        fields["models"] = (dict[name, union], Field(min_length=1))
    return create_model(grammar.__name__, __base__=grammar, **fields) if fields else grammar


def _widened(union: Any, more: list[type[Record]], key: str) -> Any:
    known = [found for found in more if _tag(found, key) not in _tags(union, key)]
    return Annotated[Union[(*get_args(union), *known)], Field(discriminator=key)]


def _tags(union: Any, key: str) -> set[str]:
    return {_tag(member, key) for member in get_args(union)}


def _tag(member: type[Record], key: str) -> str:
    field = member.model_fields.get(key)
    return (get_args(field.annotation) or ("",))[0] if field else ""


def _named(blocks: list[Any], key: str, group: str, base: type[Record]) -> list[type[Record]]:
    """The classes that packages offer under the names that these blocks give."""
    names = [block.get(key) for block in blocks if isinstance(block, dict)]
    return [_kind(offer, key, base) for name, offer in offered(group).items() if name in names]


def _kind(offer: EntryPoint, key: str, base: type[Record]) -> type[Record]:
    found = load_offer(offer)
    if isinstance(found, type) and issubclass(found, base) and _tag(found, key) == offer.name:
        return found
    what = f'a {base.__name__} whose `{key}` is Literal["{offer.name}"]'
    raise BadInput(f"{offer.group}: {offer.name!r} is {offer.value}; expected {what}")
