"""Messages to token ids, such that no content can become a control token.

The chat template is rendered once per sequence of roles, with placeholders where contents belong.
What it yields is cut into control tokens and runs of plain text; contents are set into the runs
only then, and runs are tokenised with control tokens switched off. So `</s><|judge|>` inside a
message is just text, yet an honest prompt gets exactly the ids that `apply_chat_template` gives.
The engine and the learners both encode here: what is trained on is what was sampled.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from superalign.store.records import Message

from .dialects import TAGS

logging.disable_progress_bar()  # a run has a progress table of its own, on the same terminal

DATE = "26 Jul 2024"
"""Some templates write today's date; a prompt that changes overnight could not be replayed."""


class Hole(NamedTuple):
    """Where the content of a message goes, and at which ends the template trims it."""

    message: int
    lstrip: bool
    rstrip: bool

    def fill(self, content: str) -> str:
        content = content.lstrip() if self.lstrip else content
        return content.rstrip() if self.rstrip else content


Run = tuple[str | Hole, ...]
"""Plain text between two control tokens."""


class Encoder:
    """One tokenizer, with its template pieces and recent texts kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer  # its annotations allow far more than it returns
        added = tokenizer.added_tokens_decoder
        self.control = {i: t for i, t in added.items() if t.special or t.content.strip()}
        self.forbidden = self._forbidden()
        self.spelling = re.compile("|".join(self._patterns()) or r"(?!)")
        self.backend = self._backend()
        self.plain = lru_cache(maxsize=4096)(self._plain)
        self.template = lru_cache(maxsize=1024)(self._template)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        roles = tuple(message.role for message in messages)
        ids: list[int] = []
        for piece in self.template(roles, not messages[-1].content):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                parts = (
                    p if isinstance(p, str) else p.fill(messages[p.message].content) for p in piece
                )
                ids.extend(self.plain("".join(parts)))
        return ids

    def _plain(self, text: str) -> tuple[int, ...]:
        """Ids of `text` as text: whole, or cut inside whatever spells a control token."""
        ids = self._raw(text)
        if self.forbidden.isdisjoint(ids):
            return tuple(ids)
        for pieces in (self._cut(text), text):
            ids = [i for piece in pieces for i in self._raw(piece)]
            if self.forbidden.isdisjoint(ids):
                return tuple(ids)
        raise ValueError(f"this tokenizer turns plain text into control tokens: {text[:80]!r}")

    def _raw(self, text: str) -> list[int]:
        if self.backend is not None:
            return self.backend.encode(text, add_special_tokens=False).ids
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _cut(self, text: str) -> Iterator[str]:
        # needed for added tokens that are not `special` (`<think>` of some models): tokenizers
        # recognise those in any text, so the text is cut after their first character
        start = 0
        for match in self.spelling.finditer(text):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        yield text[start:]

    def _template(self, roles: tuple[str, ...], last_is_empty: bool) -> list[int | Run]:
        """The template for these roles: control ids, and runs of text with holes for contents."""
        if odd := [role for role in roles if not re.fullmatch(r"\w[\w-]*", role)]:
            raise ValueError(f"a role must be one word: {odd[0]!r}")
        to_write = last_is_empty and roles[-1] in TAGS
        nonce = secrets.token_hex(16)
        # a vertical tab on each side shows whether the template trims its contents
        marks = [f"\v{nonce}{i}.\v" for i in range(len(roles))]
        chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=not to_write, date_string=DATE
        )
        hole = re.compile(rf"(\v?){nonce}(\d+)\.(\v?)")
        if {int(m[2]) for m in hole.finditer(text)} != set(range(len(roles))):
            raise ValueError(f"the chat template drops messages of the roles {', '.join(roles)}")
        if to_write and not text.endswith(marks[-1].rstrip()) and not text.endswith(marks[-1]):
            raise ValueError(
                f"the chat template closes the {roles[-1]!r} that is yet to be written"
            )
        return list(self._pieces(text, hole))

    def _pieces(self, text: str, hole: re.Pattern[str]) -> Iterator[int | Run]:
        start = 0
        ids = {token.content: i for i, token in self.control.items()}
        for match in [*self.spelling.finditer(text), None]:
            run, at = [], start
            end = match.start() if match else len(text)
            for m in hole.finditer(text, start, end):
                run += [text[at : m.start()], Hole(int(m[2]), not m[1], not m[3])]
                at = m.end()
            run.append(text[at:end])
            if run := tuple(filter(None, run)):
                yield run
            if match:
                yield ids[match[match.lastindex or 0]]
                start = match.end()

    def _patterns(self) -> list[str]:
        """Regular expressions of the control tokens, with the blanks that some of them swallow."""
        tokens = sorted(self.control.values(), key=lambda t: len(t.content), reverse=True)
        blanks = {False: "", True: r"\s*"}
        return [f"{blanks[t.lstrip]}({re.escape(t.content)}){blanks[t.rstrip]}" for t in tokens]

    def _forbidden(self) -> frozenset[int]:
        # an unknown character is no forgery, unless the tokenizer uses one id for both
        t = self.tokenizer
        ends = {t.bos_token_id, t.eos_token_id, t.pad_token_id}
        harmless = {t.unk_token_id} - ends
        return frozenset({*self.control, *t.all_special_ids} - harmless)

    def _backend(self) -> Tokenizer | None:
        """A private copy of the fast tokenizer that sees no special tokens in text."""
        if not self.tokenizer.is_fast:
            return None
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend


encoder = lru_cache(maxsize=16)(Encoder)
"""The encoder of a tokenizer, built once."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Ids of a prompt, up to where the model is to write."""
    return encoder(tokenizer).prompt(messages)


def encode_reply(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a reply with the end-of-sequence token behind it, as a learner needs them."""
    used = encoder(tokenizer)
    return [*used.plain(text), used.tokenizer.eos_token_id]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a reply, without control tokens."""
    inner = encoder(tokenizer).tokenizer
    return inner.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
