"""Every value that superalign stores, in reading order.

Message, Question, Task   what is said and asked, and the truth that only the kernel may see
Turn                      one answer of one model: the journal's unit and the transcript's line
Attempt                   one request that an endpoint was sent for it
Critique, Verdict         what critics and judges made of turns
Episode                   one run of one protocol on one task
Score                     a later judgement of an episode, beside its own
Case                      what waits for a person: a call of a human seat, an answer to label
Label                     what a human (or an oracle playing one) said of an answer
Row                       one training example and the turns it came from
PolicyVersion             one set of weights and what taught it
Retraction                a row that no later update may learn from
Evaluation                one held-out item answered by one version
Run                       one execution of a scenario

All are frozen: a change is a new record. `store/tables.py` adds where each one lies.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

Source = Literal["human", "ai", "oracle", "tool"]
"""Who a label comes from. `oracle` trains only in arms that are marked as controls."""

WORST_FIRST: tuple[Source, ...] = ("oracle", "ai", "tool", "human")


def worst(sources: Iterable[Source]) -> Source:
    """What a row counts as that rests on several: the oracle must never hide behind another."""
    return min(sources, key=WORST_FIRST.index)


Status = Literal["done", "failed", "waiting"]


def digest(*parts: Any, size: int = 16) -> str:
    """Hex digest of the JSON of `parts` with sorted keys; `size` in bytes."""
    spelt = orjson.dumps(parts, default=vars, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(spelt, digest_size=size).hexdigest()


class Record(BaseModel):
    """A frozen value; unknown fields are refused, and so is what JSON cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Record):
    """One message as a model was given it."""

    role: str
    """`system`, `user`, `assistant`, or a tag of the dialect such as `question`."""
    content: str

    @property
    def hash(self) -> str:
        return digest(self.role, self.content)


class Question(Record):
    """The public part of a task: all that graph state may hold of it."""

    topic: str = ""
    """What the question is to be about: a taxonomy cell; empty when anything goes."""
    text: str = ""
    """The question itself; empty while an attacker has yet to write it."""
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Identity of the task. It never depends on the truth."""
        return digest(self.topic, self.text, self.choices, size=8)


class Task(Record):
    """A question with what must not be seen by everyone."""

    question: Question
    target: str | None = None
    """The truth, when known beforehand. No seat ever sees it."""
    private: dict[str, str] = Field(default_factory=dict)
    """Seat -> text that this seat alone is shown."""

    @property
    def key(self) -> str:
        return self.question.key


class Attempt(Record):
    """One request that an endpoint was sent for a call."""

    status: str
    """HTTP's number, or what went wrong without one: `timeout`, `refused`, `cut`, `garbled` …"""
    seconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens that the endpoint counted, and charges for."""


class Turn(Record):
    """One answer of one model, as the journal keeps it."""

    key: str
    """Call key: `step:node:fan` segments from the outermost graph inwards, then `seat:n`."""
    seat: str
    kind: str
    """What was asked for: `question`, `answer`, `critique`, `verdict` …"""
    text: str
    visible_to: tuple[str, ...] | None = None
    """Seats that may be shown this text; None means all."""
    trainable: bool = False
    source: Source = "ai"
    """Who speaks through the seat, for the labels that follow from what it says."""
    policy: str
    """The policy version that spoke, or the name of a model that has no versions."""
    messages: tuple[str, ...]
    """Hashes of the messages it was given, in order."""
    sampling: dict[str, Any]
    seed: int
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural log-probabilities of `token_ids` under the unscaled model distribution."""
    finish: Literal["stop", "length"] = "stop"
    error: str | None = None
    """Why there is no text, when the call failed for good."""
    normalised: bool = False
    """True when NUL or lone surrogates were replaced in the model's text."""
    reasoning: str = ""
    """What the model wrote for itself before its text. No seat is ever shown it."""
    prompt_tokens: int = 0
    attempts: tuple[Attempt, ...] = ()
    """Every request that was sent for it, where the model is behind an endpoint."""
    seconds: float = 0.0
    at: float = 0.0
    """Unix time of the answer. The only clock in a turn; no id depends on it."""

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of its text, when the engine tells."""
        if self.token_ids is not None:
            return len(self.token_ids)
        return self.attempts[-1].completion_tokens if self.attempts else None

    @property
    def confidence(self) -> float | None:
        """Probability the model gave to exactly this text, when the engine tells."""
        return None if self.logprobs is None else math.exp(sum(self.logprobs))


class Critique(Record):
    """What a critic found in one answer."""

    turn: str
    """Key of the critic's turn."""
    about: str
    """Key of the turn that was criticised."""
    fault: int | None
    """The first wrong working line, from 1; None when no fault was found."""
    confidence: float | None = None


class Verdict(Record):
    """What judge or critic decided in the end."""

    value: str
    seat: str
    turn: str | None = None
    """Key of the turn that decided; None when the protocol's rule did."""
    confidence: float | None = None
    """Probability that the judge, or the rule, gives to this value."""
    answer: str | None = None
    """The answer to the question that it settles on; None when it decides something else."""


class Episode(Record):
    """One run of one protocol on one task, with everything said in it."""

    run: str
    id: str
    """Content hash of scenario, protocol, parameters, task, seed and index; never a clock."""
    index: int
    iteration: int = 0
    protocol: str
    protocol_hash: str
    params: dict[str, Any]
    task: Task
    seed: int
    status: Status
    error: str | None = None
    question: Question
    """The question as it stood at the end (an attacker may have written it)."""
    verdict: Verdict | None = None
    rewards: dict[str, float | None] = Field(default_factory=dict)
    """Seat -> reward; None is unscored, which is not zero."""
    truth: str | None = None
    """The right answer to `question`. Joined by the kernel when the episode closes."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What the oracle knows, for evaluation only: the `cell`, which answers are `correct`, and
    whether the answer that the verdict settles on is (`settled`)."""
    parent: str | None = None
    """Reference of the episode this one was forked from, or judges again."""
    fork: str | None = None
    """Key of the first turn that was not copied from the parent; None when it is no fork."""
    tags: tuple[str, ...] = ()
    """What the plan says of it, e.g. `explore` or `exploit`."""
    seconds: float = 0.0
    transcript_hash: str = ""
    """Over what every turn said, and the verdict: what byte-equal means."""
    chain: str = ""
    """Over the episode, its verdict and critiques, then the record hashes of its turns in key
    order, and their count: a turn that was cut off or added breaks it."""
    turns: tuple[Turn, ...] = ()
    critiques: tuple[Critique, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.run}/{self.id}"

    def turn(self, key: str) -> Turn:
        return next(turn for turn in self.turns if turn.key == key)

    def by(self, seat: str, kind: str | None = None) -> list[Turn]:
        """Turns of one seat, in transcript order."""
        return [t for t in self.turns if t.seat == seat and kind in (None, t.kind)]


class Score(Record):
    """A later judgement of an episode: by another judge, or by a changed `score`."""

    run: str
    episode: str
    name: str
    """The run that judged again and holds its transcript, or `rescore-N`."""
    author: str
    reason: str
    at: float = Field(default_factory=time.time)
    verdict: Verdict | None = None
    rewards: dict[str, float | None] = Field(default_factory=dict)
    error: str | None = None
    """Why there is no verdict. A failed judgement is no score of zero."""


class Case(Record):
    """Something that waits for a person."""

    run: str
    episode: str
    turn: str
    """Key of the human seat's call, or of the answer that is to be labelled."""
    seat: str
    kind: str
    """`label`, or what the human seat was asked for: `critique`, `verdict` …"""
    why: str
    """The policy that chose it; `seat` for a human seat's call."""
    raters: int = 1
    """How many people are to see it, each without the others' words."""
    messages: tuple[str, ...] = ()
    """Hashes of the messages that the person is shown."""
    at: float = Field(default_factory=time.time)


class Label(Record):
    """One person's (or simulated person's) word on one answer."""

    run: str
    episode: str
    turn: str
    correct: bool
    source: Source
    author: str
    why: str
    """The policy that chose this case: `audit`, `random`, `least_confident` …"""
    note: str = ""
    seconds: float | None = None
    """How long the person took; None when it was no person."""
    at: float = 0.0


class Row(Record):
    """One training example, with the turns it came from and how far its label is believed."""

    kind: Literal["sft", "pref", "rank", "reward"]
    seat: str
    prompt: tuple[Message, ...]
    replies: tuple[str, ...]
    """sft, reward: one; pref: the better, then the worse; rank: K. With `rewards` beside them in
    rank and reward rows."""
    rewards: tuple[float, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    """reward: the tokens that were sampled, if the engine told."""
    token_rewards: tuple[float, ...] | None = None
    """reward: what each of `token_ids` earns besides, where a critique says which are wrong."""
    flip_prob: float = 0.0
    """Believed probability that the label is wrong (for a pair: that it is the other way round)."""
    source: Source
    judge: str
    """Policy version or name of who judged."""
    turns: tuple[str, ...]
    """References `run/episode/turn key` of every turn used, judged or judging."""
    iteration: int = 0

    @property
    def id(self) -> str:
        return digest({k: v for k, v in vars(self).items() if k != "iteration"})


class PolicyVersion(Record):
    """A set of weights, its parent and what taught it."""

    id: str
    seat: str
    parent: str | None
    method: str
    """`base`, or the learner that made it."""
    config: dict[str, Any]
    rows: str | None
    """Hash over the ids of the rows that taught it; None for a base."""
    path: str
    """Where its weights lie; empty for a model behind an endpoint."""
    iteration: int
    metrics: dict[str, Any] = Field(default_factory=dict)


class Retraction(Record):
    """A row that no later update may learn from. What it taught before stays on record."""

    run: str
    row: str
    author: str
    reason: str
    at: float = Field(default_factory=time.time)


class Evaluation(Record):
    """One held-out item answered by one policy version."""

    iteration: int
    policy: str
    item: str
    """Task key."""
    cell: str
    text: str
    correct: bool
    tokens: int
    attempts: tuple[Attempt, ...] = ()
    """Every request that was sent for it, where the model is behind an endpoint."""


class Run(Record):
    """One execution of a scenario."""

    id: str
    scenario: dict[str, Any]
    """The scenario as resolved, with every default filled in."""
    origin: str
    """Path of the scenario's file: paths inside the scenario are relative to its folder."""
    protocol_hash: str
    version: str
    """superalign's version."""
    parent: str | None = None
    """The run whose episodes it judges again or forks; None for a run of its own."""
    author: str = ""
    """Who had it made, when it has a parent."""
    reason: str = ""
    at: float = Field(default_factory=time.time)
