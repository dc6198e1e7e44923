"""The SQL schema: where each record lies. One row is one record; tuples and dicts are JSON."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, Text
from sqlmodel import Field, SQLModel

SCHEMA = 1
"""Version of everything below. A store of another version is refused, not guessed at."""


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


def _json(**options: Any) -> Any:
    return Field(sa_column=Column(JSON(none_as_null=True), **options))


class Meta(SQLModel, table=True):
    name: str = Field(primary_key=True)
    value: str


class Runs(SQLModel, table=True):
    id: str = Field(primary_key=True)
    scenario: dict = _json(nullable=False)
    origin: str = _text()
    protocol_hash: str
    version: str
    at: float


class Messages(SQLModel, table=True):
    """Every message once, under its content hash."""

    hash: str = Field(primary_key=True)
    role: str
    content: str = _text()


class Turns(SQLModel, table=True):
    """The journal. Append-only."""

    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    seat: str
    kind: str
    text: str = _text()
    visible_to: list | None = _json()
    trainable: bool
    source: str
    policy: str
    messages: list = _json(nullable=False)
    sampling: dict = _json(nullable=False)
    seed: int
    token_ids: list | None = _json()
    logprobs: list | None = _json()
    finish: str
    error: str | None = _text(nullable=True)
    normalised: bool
    prompt_tokens: int
    seconds: float
    at: float
    record_hash: str
    """Over every column above."""


class Episodes(SQLModel, table=True):
    __table_args__ = (Index("episodes_by_iteration", "run", "iteration", "index"),)
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    index: int
    iteration: int
    protocol: str
    protocol_hash: str
    params: dict = _json(nullable=False)
    task: dict = _json(nullable=False)
    seed: int
    status: str
    error: str | None = _text(nullable=True)
    question: dict = _json(nullable=False)
    rewards: dict = _json(nullable=False)
    truth: str | None = _text(nullable=True)
    facts: dict = _json(nullable=False)
    parent: str | None
    tags: list = _json(nullable=False)
    seconds: float
    transcript_hash: str
    record_hash: str


class Critiques(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    turn: str = Field(primary_key=True)
    about: str = Field(primary_key=True)
    fault: int | None
    confidence: float | None


class Verdicts(SQLModel, table=True):
    """Number 0 is the verdict of the episode itself; later ones are re-judgements."""

    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    value: str = _text()
    seat: str
    turn: str | None
    confidence: float | None


class Labels(SQLModel, table=True):
    run: str = Field(primary_key=True)
    episode: str = Field(primary_key=True)
    turn: str = Field(primary_key=True)
    author: str = Field(primary_key=True)
    correct: bool
    source: str
    why: str


class Rows(SQLModel, table=True):
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    kind: str
    seat: str
    prompt: list = _json(nullable=False)
    replies: list = _json(nullable=False)
    rewards: list | None = _json()
    flip_prob: float
    source: str
    judge: str
    turns: list = _json(nullable=False)
    iteration: int


class Versions(SQLModel, table=True):
    run: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    seat: str
    parent: str | None
    method: str
    config: dict = _json(nullable=False)
    rows: str | None
    path: str = _text()
    iteration: int
    metrics: dict = _json(nullable=False)


class VersionRows(SQLModel, table=True):
    """Which rows taught which version."""

    run: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    row: str = Field(primary_key=True)


class Evaluations(SQLModel, table=True):
    run: str = Field(primary_key=True)
    policy: str = Field(primary_key=True)
    item: str = Field(primary_key=True)
    iteration: int
    cell: str
    text: str = _text()
    correct: bool
    tokens: int
