"""The kernel: runs episodes, journals every call, keeps the truth away from the seats.

An episode is a deterministic function of (protocol, parameters, task, seed, the answers models
gave). So the journal of answers alone gives resume (journalled calls answer at once, the first
unknown one goes to the model) and replay (the same, with no model behind it).
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any
from typing import Protocol as Port

from pydantic import Field

from superalign.agents.agent import Agent, clean, view
from superalign.agents.model import Ask, Request
from superalign.store.errors import (
    Divergence,
    LimitReached,
    ModelError,
    ProtocolError,
    StoreError,
    SuperalignError,
)
from superalign.store.records import Episode, Message, Question, Record, Task, Turn, digest
from superalign.store.store import Store, chain, in_order, transcript_hash

from .calls import attempt, segment
from .protocol import Protocol
from .state import Context, State

Tries = tuple[int, ...]
"""Which try it is of each node around a call, from the outermost inwards."""


class Oracle(Port):
    """What the kernel asks a world. No seat can reach it."""

    def cell(self, question: Question) -> str | None: ...

    def truth(self, question: Question) -> str: ...

    def correct(self, question: Question, answer: str) -> bool: ...

    def fault(self, question: Question, answer: str) -> int | None: ...


class Limits(Record):
    """Bounds on a run."""

    calls: int = Field(default=256, ge=1)
    """Model calls an episode."""
    steps: int = Field(default=128, ge=2)
    """Graph supersteps an episode."""
    failed_share: float = Field(default=0.05, ge=0, le=1)
    """More failed episodes than this share and the command exits with 1."""


class Plan(Record):
    """One episode that is to be run. Its id follows from what it is, never from a clock."""

    run: str
    scenario: str
    index: int
    iteration: int = 0
    task: Task
    seed: int
    tags: tuple[str, ...] = ()
    id: str | None = None
    """The episode's id, when it is already known (a replay, a fork)."""


@dataclass(frozen=True)
class Setting:
    """What the episodes of a run share."""

    protocol: Protocol
    params: dict[str, Any]
    cast: Mapping[str, Agent]
    store: Store
    oracle: Oracle
    limits: Limits = field(default_factory=Limits)

    def episode_id(self, plan: Plan) -> str:
        if plan.id is not None:
            return plan.id
        what = plan.scenario, self.protocol.hash, self.params, plan.task.key, plan.seed, plan.index
        return digest(*what, size=8)


def call_seed(episode_seed: int, key: str, salt: str = "") -> int:
    """The seed of one call: of episode seed, call key and fork salt; not of the run."""
    return int(digest(episode_seed, key, salt, size=8), 16) >> 1


class Stage:
    """One episode while it runs. Single use: build, `play`, discard."""

    def __init__(
        self, setting: Setting, plan: Plan, journal: Iterable[tuple[Turn, str]] = ()
    ) -> None:
        self.setting, self.plan = setting, plan
        self.id = setting.episode_id(plan)
        journal = list(journal)
        self.known = {turn.key: turn for turn, _ in journal}
        self.hashes = {turn.key: record_hash for turn, record_hash in journal}
        self.turns = dict(self.known)
        self.spoken: Counter[str] = Counter()
        self.nth: dict[str, int] = {}
        """Of every call that was asked for: how many its seat had made before."""
        self.asked: set[tuple[str, Tries]] = set()
        self.places: Counter[tuple[str, str, Tries]] = Counter()
        self.speaking: set[tuple[str, str, Tries]] = set()
        self.calls: dict[str, asyncio.Task[Turn]] = {}
        self.over = asyncio.Event()

    async def play(self) -> Episode:
        """Run the graph to its end. Failure is data: the episode says what went wrong."""
        started, final, error = time.perf_counter(), None, None
        seats = {name: Seat(name, agent, self) for name, agent in self.setting.cast.items()}
        context = Context(cast=seats, cell=self.setting.oracle.cell)
        start = State(
            question=self.plan.task.question, turns=[], critiques=[], round=0, verdict=None
        )
        try:
            final = await self.walk(start, context)
            if final["verdict"] is None:
                raise ProtocolError(f"{self.setting.protocol.name} ended without a verdict")
        except (asyncio.CancelledError, Divergence, StoreError):
            raise
        except Exception as raised:
            error = _describe(raised)
        finally:  # siblings of a raising node end their calls, so that a failed episode replays
            self.over.set()
            await asyncio.gather(*self.calls.values(), return_exceptions=True)
        seconds = time.perf_counter() - started
        if error is None:
            try:
                return self._close(final, None, seconds)
            except Exception as raised:  # of the world or the protocol's score
                error = _describe(raised)
        return self._close(None, error, seconds)

    async def walk(self, start: State, context: Context) -> dict[str, Any]:
        """Run the graph from its start state to its final one."""
        graph = self.setting.protocol.graph(self.setting.params)
        config = {"recursion_limit": self.setting.limits.steps}
        return await graph.ainvoke(start, config, context=context)

    def _close(self, final: dict[str, Any] | None, error: str | None, seconds: float) -> Episode:
        plan, setting = self.plan, self.setting
        question = final["question"] if final else plan.task.question
        keys = sorted(self.turns)
        turns = tuple(self.turns[key] for key in keys)
        verdict = final["verdict"] if final else None
        episode = Episode(
            run=plan.run,
            id=self.id,
            index=plan.index,
            iteration=plan.iteration,
            protocol=setting.protocol.name,
            protocol_hash=setting.protocol.hash,
            params=setting.params,
            task=plan.task,
            seed=plan.seed,
            status="done" if final else "failed",
            error=error,
            question=question,
            verdict=verdict,
            tags=plan.tags,
            seconds=seconds,
            transcript_hash=transcript_hash(turns, verdict, error),
            turns=turns,
            critiques=tuple(sorted(final["critiques"], key=in_order)) if final else (),
            **self._judge(question, turns) if final else {},
        )
        if final is not None:
            earned = setting.protocol.rewards(episode).items()
            rewards = {seat: None if reward is None else float(reward) for seat, reward in earned}
            episode = episode.model_copy(update={"rewards": rewards})
        record_hash = chain(episode, [self.hashes[key] for key in keys])
        return episode.model_copy(update={"record_hash": record_hash})

    def _judge(self, question: Question, turns: tuple[Turn, ...]) -> dict[str, Any]:
        """Join the truth, which no seat has seen, to what was said."""
        oracle, cell = self.setting.oracle, self.setting.oracle.cell(question)
        if cell is None:
            return {"facts": {"cell": None}}
        answers = {turn.key: turn.text for turn in turns if turn.kind == "answer"}
        facts = {
            "cell": cell,
            "correct": {key: oracle.correct(question, text) for key, text in answers.items()},
            "fault": {key: oracle.fault(question, text) for key, text in answers.items()},
        }
        return {"truth": oracle.truth(question), "facts": facts}

    def count(self, key: str, seat: str) -> None:
        """Count a call, once however often its node is tried."""
        if (key, attempt()) in self.asked:
            raise ProtocolError(f"two calls are named {key}: pass another key=…")
        self.asked.add((key, attempt()))
        if key not in self.nth:
            self.nth[key] = self.spoken[seat]
            self.spoken[seat] += 1
        if len(self.nth) > self.setting.limits.calls:
            raise LimitReached(f"more than {self.setting.limits.calls} calls in one episode")

    async def live_call(self, key: str, agent: Agent, request: Request) -> Turn:
        """Ask the model and journal what it said, or that it failed."""
        error, completion = None, None
        started = time.perf_counter()
        try:
            completion = await agent.model.generate(request)
        except Exception as raised:
            error = _describe(raised)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = "the model gave this call up"  # nobody cancelled it
        text, normalised = clean(completion.text if completion else "")
        hashes = tuple(message.hash for message in request.messages)
        ask = request.view.ask
        turn = Turn(
            key=key,
            seat=request.view.seat,
            kind=ask.kind,
            text=text,
            visible_to=ask.visible_to,
            trainable=agent.trainable,
            source=agent.source,
            policy=agent.policy,
            messages=hashes,
            sampling=request.sampling.model_dump(),
            seed=request.seed,
            token_ids=completion and completion.token_ids,
            logprobs=completion and completion.logprobs,
            finish=completion.finish if completion else "stop",
            error=error,
            normalised=normalised,
            prompt_tokens=completion.prompt_tokens if completion else 0,
            seconds=time.perf_counter() - started,
            at=time.time(),
        )
        for message, hashed in zip(request.messages, hashes, strict=True):
            self.setting.store.put_message(message, hashed)
        self.turns[key] = turn
        self.hashes[key] = self.setting.store.put_turn(self.plan.run, self.id, turn)
        if error is not None:
            raise ModelError(error)
        return turn


class Seat:
    """A place in a protocol. Its only power is `act`."""

    def __init__(self, name: str, agent: Agent, stage: Stage) -> None:
        self.name, self._agent, self._stage = name, agent, stage

    async def act(self, state: State, ask: Ask, key: str | None = None) -> Turn:
        """Ask this seat. `key` names the call where one node asks a seat several times at once.

        Raises ProtocolError on a hidden turn or an ambiguous key, LimitReached, ModelError, and
        Divergence when a replay meets what was not recorded.
        """
        stage, place = self._stage, (segment(), self.name, attempt())
        if stage.over.is_set():
            raise ProtocolError(f"{self.name} is asked in {place[0]} after the episode's end")
        if place in stage.speaking and key is None:
            raise ProtocolError(f"{self.name} is asked twice at once in {place[0]}: pass key=…")
        if key is not None:
            return await self._answer(f"{place[0]}/{self.name}:{key}", state, ask)
        n = stage.places[place]
        stage.places[place] += 1
        stage.speaking.add(place)
        try:
            return await self._answer(f"{place[0]}/{self.name}:{n:02}", state, ask)
        finally:
            stage.speaking.discard(place)

    async def _answer(self, key: str, state: State, ask: Ask) -> Turn:
        """What the journal holds under a call key, or else the model's answer."""
        stage, agent, plan = self._stage, self._agent, self._stage.plan
        shown = view(self.name, state["question"], plan.task.private.get(self.name), ask)
        messages = agent.model.dialect.render(shown, call_seed(plan.seed, self.name))
        stage.count(key, self.name)
        if key in stage.known:
            await asyncio.sleep(0)  # two calls at once must look so in a replay too
            return self._recall(stage.known[key], messages)
        again = key in stage.calls  # a node that is tried again gets the same answers
        if not again:
            request = Request(
                messages=messages,
                sampling=agent.sampling,
                seed=call_seed(plan.seed, key),
                policy=agent.policy,
                view=shown,
                episode=stage.id,
                nth=stage.nth[key],
                task=plan.task.key,
            )
            stage.calls[key] = asyncio.ensure_future(stage.live_call(key, agent, request))
        turn = await asyncio.shield(stage.calls[key])
        if again and turn.messages != tuple(message.hash for message in messages):
            raise ProtocolError(f"{key} was asked something else when its node was tried again")
        return turn

    def _recall(self, known: Turn, messages: tuple[Message, ...]) -> Turn:
        """A journalled answer, if it was given to the very messages that are asked now."""
        stage = self._stage
        if known.messages != tuple(message.hash for message in messages):
            recorded = stage.setting.store.messages(known.messages)
            before = [recorded[key] for key in known.messages]
            raise Divergence(known.key, "was asked something else", _diff(before, messages))
        if known.error is not None:
            raise ModelError(known.error)
        return known


async def run_many(
    setting: Setting,
    plans: Iterable[Plan],
    on_end: Callable[[Episode], None],
    concurrency: int = 64,
) -> None:
    """Run episodes, `concurrency` at a time; `on_end` gets each one when it is on disk.

    Unfinished episodes of a killed run go on from their journal. Memory does not grow with the
    number of plans. One episode's failure never ends another; a store that fails ends all.
    """
    waiting = iter(plans)
    journals = _journals(setting.store)

    async def work() -> None:
        for plan in waiting:
            journal = journals(plan.run, setting.episode_id(plan))
            episode = await Stage(setting, plan, journal).play()
            setting.store.put_episode(episode)
            await setting.store.committed()
            on_end(episode)

    gc.freeze()  # what was imported is no garbage; walking it again and again costs a third
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        gc.unfreeze()


def _journals(store: Store) -> Any:
    """Looks up journalled turns, asking the store only for episodes a killed run left open."""
    left: dict[str, set[str]] = {}

    def find(run: str, episode: str) -> list[tuple[Turn, str]]:
        if run not in left:
            left[run] = store.unfinished(run)
        return store.journal(run, [episode])[episode] if episode in left[run] else []

    return find


def _describe(error: Exception) -> str:
    name = "" if isinstance(error, SuperalignError) else f"{type(error).__name__}: "
    return clean(f"{name}{error}")[0]


def _diff(before: Iterable[Message], after: Iterable[Message]) -> str:
    """Recorded against rendered messages, as a unified diff."""
    old, new = (
        [line for m in messages for line in f"[{m.role}]\n{m.content}".splitlines()]
        for messages in (before, after)
    )
    return "\n".join(unified_diff(old, new, "recorded", "replayed", lineterm="", n=1))
