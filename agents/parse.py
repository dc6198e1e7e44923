"""Replies to values. What cannot be read raises `Unreadable`; nothing is ever guessed."""

from __future__ import annotations

import re

from superalign.store.errors import Unreadable


def last_line(text: str, label: str) -> str:
    """What follows the last `label:` of a reply, or the whole reply when there is none.

    The last one counts: judged text quoted early in a reply cannot forge it.
    """
    for line in reversed(text.splitlines()):
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == label:
            return value.strip()
    return text.strip()


def parse_fault(text: str) -> int | None:
    """A critic's reply: `ok`, or the number of the first wrong line, from 1."""
    word = last_line(text, "critique").rstrip(".")
    if word.lower() == "ok":
        return None
    if re.fullmatch(r"[1-9][0-9]{0,3}", word):
        return int(word)
    raise Unreadable(f"critique {text!r}: expected `ok` or the number of the first wrong line")


def parse_choice(text: str, choices: int) -> int:
    """A judge's reply: the index of a choice, from 0."""
    word = last_line(text, "verdict").strip("(). ")
    if re.fullmatch(r"[0-9]{1,4}", word) and int(word) < choices:
        return int(word)
    raise Unreadable(f"verdict {text!r}: expected a number from 0 to {choices - 1}")
