"""What installed packages add: entry points, by group and name. Nothing runs until it is named."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from superalign.store.errors import BadInput

PROTOCOLS, WORLDS, ENGINES = "superalign.protocols", "superalign.worlds", "superalign.engines"
"""The groups of entry points that are looked into."""


def offered(group: str) -> dict[str, EntryPoint]:
    """Name -> what an installed package offers under it. Raises BadInput where two packages do."""
    found: dict[str, EntryPoint] = {}
    for offer in sorted(entry_points(group=group)):
        other = found.setdefault(offer.name, offer)
        if other.value != offer.value:
            both = f"{other.value} and {offer.value}"
            raise BadInput(f"{group}: {both} are both called {offer.name!r}; uninstall one")
    return found


def load_offer(offer: EntryPoint) -> Any:
    """The thing itself. Runs the package's code."""
    try:
        return offer.load()
    except Exception as error:
        what = f"{offer.group}: {offer.name!r} cannot be loaded from {offer.value}"
        raise BadInput(f"{what}: {type(error).__name__}: {error}; mend or uninstall it") from error
