"""The SQL schema: where each record lies. One row is one record.

Every column holds text, an integer, a real or NULL, whatever the database: tuples and dicts are
JSON text, flags are 0 or 1. The last column is always the hash of the others as they lie there, so
that `verify` needs to know nothing else of a table; see `Codec.hash`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, Text, text
from sqlmodel import AutoString, Field, SQLModel

SCHEMA = 6
"""Version of everything below. A store of another version is refused, not guessed at; one that is
older is brought up to date by `migrations/`, when it is asked for."""


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


def _json(nullable: bool = False) -> Any:
    return Field(sa_column=Column(Text, nullable=nullable, info={"json": True}))


def _later(empty: str, json: bool = True) -> Any:
    """What older schemas have not. While it is empty it is left out of the row's hash, so that a
    migration rewrites no hash."""
    info, default = {"json": json, "empty": empty}, text(f"'{empty}'")
    return Field(sa_column=Column(Text, nullable=False, server_default=default, info=info))


def _flag() -> Any:
    return Field(sa_column=Column(Integer, nullable=False, info={"flag": True}))


class Meta(SQLModel, table=True):
    name: str = Field(primary_key=True)
    value: str


class Runs(SQLModel, table=True):
    id: str = Field(primary_key=True)
    scenario: dict = _json()
    origin: str = _text()
    protocol_hash: str
    version: str
    parent: str | None
    author: str
    reason: str = _text()
    at: float
    record_hash: str


class Messages(SQLModel, table=True):
    """Every message once, under its content hash."""

    role: str
    content: str = _text()
    hash: str = Field(primary_key=True)


class Turns(SQLModel, table=True):
    """The journal. Append-only."""

    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    seat: str
    kind: str
    text: str = _text()
    visible_to: list | None = _json(nullable=True)
    trainable: bool = _flag()
    source: str
    policy: str
    messages: list = _json()
    sampling: dict = _json()
    seed: int
    token_ids: list | None = _json(nullable=True)
    logprobs: list | None = _json(nullable=True)
    finish: str
    error: str | None = _text(nullable=True)
    normalised: bool = _flag()
    reasoning: str = _later("", json=False)
    prompt_tokens: int
    attempts: list = _later("[]")
    seconds: float
    at: float
    record_hash: str


class Episodes(SQLModel, table=True):
    __table_args__ = (Index("episodes_by_iteration", "run", "iteration", "index"),)
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    index: int
    iteration: int
    protocol: str
    protocol_hash: str
    params: dict = _json()
    task: dict = _json()
    seed: int
    status: str
    error: str | None = _text(nullable=True)
    question: dict = _json()
    rewards: dict = _json()
    truth: str | None = _text(nullable=True)
    facts: dict = _json()
    parent: str | None
    fork: str | None
    tags: list = _json()
    seconds: float
    transcript_hash: str
    chain: str
    record_hash: str


class Critiques(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    turn: str = Field(primary_key=True)
    about: str = Field(primary_key=True)
    fault: int | None
    confidence: float | None
    record_hash: str


class Verdicts(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    value: str = _text()
    seat: str
    turn: str | None
    confidence: float | None
    answer: str | None = _text(nullable=True)
    record_hash: str


class Labels(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    turn: str = Field(primary_key=True)
    author: str = Field(primary_key=True)
    correct: bool = _flag()
    source: str
    why: str
    note: str = _text()
    seconds: float | None
    at: float
    record_hash: str


class Rows(SQLModel, table=True):
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    kind: str
    seat: str
    prompt: list = _json()
    replies: list = _json()
    rewards: list | None = _json(nullable=True)
    token_ids: list | None = _json(nullable=True)
    token_rewards: list | None = _json(nullable=True)
    flip_prob: float
    source: str
    judge: str
    turns: list = _json()
    iteration: int
    record_hash: str


class Versions(SQLModel, table=True):
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    seat: str
    parent: str | None
    method: str
    config: dict = _json()
    rows: str | None
    path: str = _text()
    iteration: int
    metrics: dict = _json()
    record_hash: str


class VersionRows(SQLModel, table=True):
    """Which rows taught which version."""

    run: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    row: str = Field(primary_key=True)
    record_hash: str


class Evaluations(SQLModel, table=True):
    run: str = Field(primary_key=True)
    policy: str = Field(primary_key=True)
    item: str = Field(primary_key=True)
    iteration: int
    cell: str
    text: str = _text()
    correct: bool = _flag()
    tokens: int
    attempts: list = _later("[]")
    record_hash: str


class Scores(SQLModel, table=True):
    """Later judgements of an episode, beside its own verdict and rewards."""

    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    author: str
    reason: str = _text()
    at: float
    verdict: dict | None = _json(nullable=True)
    rewards: dict = _json()
    error: str | None = _text(nullable=True)
    record_hash: str


class Cases(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    turn: str = Field(primary_key=True)
    seat: str
    kind: str
    why: str
    raters: int
    messages: list = _json()
    at: float
    record_hash: str


class Retractions(SQLModel, table=True):
    """Rows that no later update may learn from."""

    run: str = Field(primary_key=True)
    row: str = Field(primary_key=True)
    author: str
    reason: str = _text()
    at: float
    record_hash: str


def _alike() -> None:
    """Elsewhere as on SQLite: integers have 64 bits, text any length and the order of its bytes."""
    for table in SQLModel.metadata.tables.values():
        for column in table.columns:
            here = column.type
            if isinstance(here, Integer):
                column.type = BigInteger().with_variant(here, "sqlite")
            elif isinstance(here, AutoString | Text):
                column.type = Text(collation="C").with_variant(here, "sqlite")


_alike()
