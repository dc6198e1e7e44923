"""The kinds of worlds that a scenario may name, and what each may be told.

Light on purpose: a world's own code is imported when a scenario needs it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

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
    choices: Literal[2] | None = None
    """Offer the right result and a likely wrong one to choose from; None leaves questions open."""


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


class DigitsWorld(WorldKind):
    """Images of digits that the judge cannot see, for `pixel_debate`; embedded ones by default."""

    made_by = "superalign.scenarios.digits:Digits"
    kind: Literal["digits"]
    path: str | None = None
    """Folder with MNIST's IDX files; None takes the 8 x 8 digits that scikit-learn ships."""
    pixels: int = Field(default=4, ge=2, le=10)
    """Pixels that the judge is trained on; the protocol's `pixels`."""
    precommit: bool = True
    """Whether the liar commits to one wrong digit."""
    rollouts: int = Field(default=100, ge=1, le=10_000)
    """Games that a debater plays in its head before each pixel."""


class PassageWorld(WorldKind):
    """Questions about stories and passages that some seats read and the judge does not."""

    made_by = "superalign.scenarios.passage:Passage"
    kind: Literal["passage"]
    path: str | None = None
    """Folder that holds `nyu_debate` and `boolq`; None takes $SUPERALIGN_DATA."""
    sources: tuple[Literal["story", "boolq"], ...] = Field(("story", "boolq"), min_length=1)
    readers: tuple[str, ...] = ("debater_a", "debater_b", "consultant")
    """Seats whose private note is the text."""


class ChoiceWorld(WorldKind):
    """Questions with a right and a wrong answer: ARC, BBH, TruthfulQA."""

    made_by = "superalign.scenarios.choice:Choice"
    kind: Literal["choice"]
    path: str | None = None
    """Folder that holds `arc`, `bbh` and `truthfulqa`; None takes $SUPERALIGN_DATA."""
    sources: tuple[Literal["arc-easy", "arc-challenge", "bbh", "truthfulqa"], ...] = Field(
        ("arc-easy", "arc-challenge", "bbh", "truthfulqa"), min_length=1
    )


class Columns(Record):
    """Which column of a data set means what."""

    text: str
    """The question."""
    choices: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """One column with a list of answers, or several with one each; None: an open question."""
    target: str
    """The right answer: its text or, where there are choices, its number from 0."""
    cell: str | None = None
    """What part of the taxonomy it belongs to; None: all are one cell."""
    id: str | None = None
    """A name that no other row may have."""
    private: dict[str, str] = Field(default_factory=dict)
    """Seat -> column with the text that it alone is shown."""


class DatasetWorld(WorldKind):
    """Any data set on disk: JSON Lines, Parquet, or what `datasets` saved."""

    made_by = "superalign.scenarios.dataset:Dataset"
    kind: Literal["dataset"]
    path: str
    """`.jsonl`, `.jsonl.gz` or `.parquet`, or a folder that `save_to_disk` wrote."""
    columns: Columns


class CodeWorld(WorldKind):
    """Programs to write: HumanEval and MBPP, whose tests run in a sandbox alone."""

    made_by = "superalign.scenarios.code_world:Code"
    kind: Literal["code"]
    path: str | None = None
    """Folder that holds `humaneval` and `mbpp`; None takes $SUPERALIGN_DATA."""
    sources: tuple[Literal["humaneval", "mbpp"], ...] = Field(("humaneval", "mbpp"), min_length=1)


class AmplificationWorld(WorldKind):
    """Problems on graphs with a known way to take them apart."""

    made_by = "superalign.scenarios.amplification:Amplification"
    kind: Literal["amplification"]
    tasks: tuple[Literal["powering", "assignments", "wildcard", "path", "union"], ...] = Field(
        ("powering", "assignments", "wildcard", "path", "union"), min_length=1
    )
    """The kinds of problems, posed in turn."""


WorldChoice = Annotated[
    ArithmeticWorld
    | Gsm8kWorld
    | NyuDebateWorld
    | PassageWorld
    | ChoiceWorld
    | DatasetWorld
    | CodeWorld
    | AmplificationWorld
    | DigitsWorld,
    Field(discriminator="kind"),
]


def world_kinds() -> tuple[str, ...]:
    """Names of the kinds that ship."""
    kinds = get_args(get_args(WorldChoice)[0])
    return tuple(get_args(kind.model_fields["kind"].annotation)[0] for kind in kinds)
