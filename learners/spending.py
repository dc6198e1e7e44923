"""How many tokens a method reads with gradients, step by step, told before it reads them.

A row counts as so many sequences as it has replies, each with its prompt and its end token, even
where `reading.py` reads the prompt once for all of them. Which rows a step takes follows from the
seed alone (`learner.hands`), so this is a count of what will be read and no estimate. What is read
or drawn without a gradient is left out: the reference, KTO's z0, SPIN's samples, PPO's start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.agents.tokens import encode_prompt, encode_reply
from superalign.store.errors import BadInput
from superalign.store.records import Row

from . import kto, rso, self_rewarding, spin, weak_to_strong
from .config import (
    KtoConfig,
    LearnConfig,
    PpoConfig,
    RsoConfig,
    SelfRewardingConfig,
    SpinConfig,
    WeakToStrongConfig,
)
from .learner import hands


def spent(config: LearnConfig, rows: Sequence[Row], base: Path) -> Iterator[int]:
    """Tokens read after the first step, after the second, and so on without end."""
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    taught = taught_rows(config, rows, base)
    if not taught:
        method = config.model_dump()["method"]
        raise BadInput(f"rows: {len(rows)}, but {method} finds nothing to learn from in them")
    endless = config.model_copy(update={"steps": sys.maxsize})
    read = [_tokens(row, tokenizer, config) for row in taught]
    beside = [_tokens(row, tokenizer, config) for row in copied_rows(config, rows, taught)]
    copies = hands(len(beside), endless) if beside else repeat([])
    total = 0
    for hand, copied in zip(hands(len(read), endless), copies, strict=False):
        step = sum(read[i] for i in hand) + sum(beside[i] for i in copied)
        for _ in range(config.epochs if isinstance(config, PpoConfig) else 1):
            total += step
            yield total


def taught_rows(config: LearnConfig, rows: Sequence[Row], base: Path) -> list[Row]:
    """The rows that a method's own loss reads: those that it makes of what it is given."""
    if isinstance(config, KtoConfig):
        return kto.judged(rows)
    if isinstance(config, SpinConfig):
        return spin.oppose(base, [row for row in rows if row.kind == "sft"], config).pairs
    ranked = [row for row in rows if row.kind == "rank"]
    if isinstance(config, RsoConfig):
        return [pair for row in ranked for pair in rso.sample_pairs(row, config)[0]]
    if isinstance(config, SelfRewardingConfig):
        return [pair for row in ranked if (pair := self_rewarding.extremes(row))]
    if isinstance(config, WeakToStrongConfig) and config.weak is not None:
        return weak_to_strong.unlabelled(rows)
    return [row for row in rows if row.kind == config.kinds[0]]


def copied_rows(config: LearnConfig, rows: Sequence[Row], taught: Sequence[Row]) -> list[Row]:
    """The accepted answers that are read beside them, for the SFT term alone."""
    if "sft" not in config.kinds[1:] or not getattr(config, "sft", 0.0):
        return []
    copied = [row for row in rows if row.kind == "sft"]
    if not copied and isinstance(config, KtoConfig):  # others copy what they read anyway
        return [row for row in taught if row.rewards == (1.0,)]
    return copied


def _tokens(row: Row, tokenizer: Tokenizer, config: LearnConfig) -> int:
    prompt = len(encode_prompt(tokenizer, row.prompt))
    if isinstance(config, PpoConfig) and row.token_ids is not None:
        return prompt + len(row.token_ids)
    return sum(prompt + len(encode_reply(tokenizer, reply)) for reply in row.replies)
