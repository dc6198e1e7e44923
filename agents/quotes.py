"""Quotes: words of a hidden text, checked so that who cannot read it knows which are really there.

A speaker writes `<quote>its words</quote>`. The reader sees `<v_quote>` where these words stand in
the text, one after the other, and `<u_quote>` where they do not (Khan et al. 2024,
arXiv:2402.06782). Marks that a speaker wrote itself are checked like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

PLAIN = {
    "``": '"',
    "''": '"',
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\u2013": "--",
    "\u2014": "--",
    "\u2026": "...",
}
"""Penn-Treebank tokens and typographers' characters -> what a keyboard has for them."""
ODD = re.compile("|".join(map(re.escape, PLAIN)))
QUOTE = re.compile(r"<([vu]_)?quote>(.*?)</([vu]_)?quote>", re.DOTALL)
MARK = re.compile(r"</?(?:[vu]_)?quote>")
JOINED = re.compile(r"(?i)(?<=\w)(?=n't\b)|(?<=\bcan)(?=not\b)|(?<=\b(?:gon|wan))(?=na\b)")
"""Where the Penn Treebank cuts one word into two."""
WORD = re.compile(r"(?i)n't\b|\w+|[^\w\s]")


def mark_quotes(text: str, source: str) -> str:
    """A speaker's text as others are to see it: each quote marked as verified or not."""

    def marked(found: re.Match[str]) -> str:
        words = MARK.sub("", found[2])
        mark = "v_quote" if is_quote(words, source) else "u_quote"
        return f"<{mark}>{words}</{mark}>"

    parts, end = [], 0
    for found in QUOTE.finditer(text):  # a mark without its partner is dropped
        parts += [MARK.sub("", text[end : found.start()]), marked(found)]
        end = found.end()
    return "".join([*parts, MARK.sub("", text[end:])])


def is_quote(words: str, source: str) -> bool:
    """Whether these words, at least one, stand in the source one after the other."""
    wanted = _words(words)
    return wanted.strip() != "" and wanted in _source_words(source)


def quotes(text: str) -> list[tuple[str, bool]]:
    """The quotes of a marked text, and whether each was verified."""
    return [(found[2], found[1] == "v_") for found in QUOTE.finditer(text)]


def _words(text: str) -> str:
    """Words and signs with one space around each, however they were spaced and tokenised."""
    plain = JOINED.sub(" ", ODD.sub(lambda found: PLAIN[found[0]], text))
    return f" {' '.join(WORD.findall(plain))} "


_source_words = lru_cache(maxsize=256)(_words)


def readable(tokens: Iterable[str]) -> str:
    """Penn-Treebank tokens as people write them."""
    text = " ".join(tokens)
    text = re.sub(r"(?:``|-LRB-|-LSB-) ", lambda found: PLAIN[found[0][:-1]], text)
    text = re.sub(r" (?:''|-RRB-|-RSB-)", lambda found: PLAIN[found[0][1:]], text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m|[.,;:?!%])(?=\s|\W|$)", r"\1", text)
    text = ODD.sub(lambda found: PLAIN[found[0]], text)
    return re.sub(r" *\n *", "\n", text).strip(" ")
