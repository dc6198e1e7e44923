"""The kinds of worlds that a scenario may name, and what each may be told.

Light on purpose: a world's own code is imported when a scenario needs it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from superalign.store.records import Record

if TYPE_CHECKING:
    from .world import World


class WorldKind(Record):
    """A `world:` block. `made_by` names the class that it makes, as `module:Class`."""

    made_by: ClassVar[str]

    def build(self, **found: Path | None) -> World:
        """The world. Its class takes the block's fields by name, `kind` apart; paths as `found`
        below the scenario's folder."""
        module, _, name = self.made_by.partition(":")
        given: dict[str, Any] = {k: v for k, v in vars(self).items() if k != "kind"}
        return getattr(import_module(module), name)(**{**given, **found})


class ArithmeticWorld(WorldKind):
    """Sums in working lines; the embedded default."""

    made_by = "superalign.scenarios.arithmetic:Arithmetic"
    kind: Literal["arithmetic"]


class Gsm8kWorld(WorldKind):
    """Grade-school word problems with the stored solutions of four real solvers."""

    made_by = "superalign.scenarios.gsm8k:Gsm8k"
    kind: Literal["gsm8k"]
    path: str | None = None
    """Folder with the data; None looks in $SUPERALIGN_DATA/gsm8k."""


class NyuDebateWorld(WorldKind):
    """Questions about stories, with 631 real debates and consultancies that were held on them."""

    made_by = "superalign.scenarios.nyu_debate:NyuDebate"
    kind: Literal["nyu-debate"]
    path: str | None = None
    """Folder with the data; None looks in $SUPERALIGN_DATA/nyu_debate."""


WorldChoice = Annotated[
    ArithmeticWorld | Gsm8kWorld | NyuDebateWorld,
    Field(discriminator="kind"),
]
