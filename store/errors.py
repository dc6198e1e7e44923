"""What can go wrong, named by the boundary that was crossed. User code raises plain errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Attempt


class SuperalignError(Exception):
    """Base of every error that superalign raises on purpose."""


class BadInput(SuperalignError):
    """Something a user wrote is wrong. The message names where, what, and what would be right."""


class StoreError(SuperalignError):
    """A store that cannot be opened or written: locked, of an unknown schema, damaged, full."""


class ModelError(SuperalignError):
    """A model call that failed for good, and the attempts of it where there were several."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class Unreadable(SuperalignError):
    """A reply that could not be parsed. Never a default, never a tie."""


class ProtocolError(SuperalignError):
    """A protocol that broke the kernel's rules."""


class LimitReached(SuperalignError):
    """An episode that spent more than its scenario allows."""


class Divergence(SuperalignError):
    """A replay that would have fed a seat something that was not recorded."""

    def __init__(self, turn: str, what: str, diff: str = "") -> None:
        super().__init__(f"{turn}: {what}" + (f"\n{diff}" if diff else ""))
        self.turn, self.what, self.diff = turn, what, diff
