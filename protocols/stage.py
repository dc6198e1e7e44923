"""One episode while it runs: its seats, its journal, and what may go to a model.

An episode is a deterministic function of (protocol, parameters, task, seed, the answers models
gave). So one mechanism serves five verbs, which differ in what is known and who may be asked:

            known                        asked
  play      nothing                      every seat
  resume    the journal                  every seat
  replay    the journal                  nobody
  rejudge   the others' turns            one seat
  fork      the turns before a turn      every seat

A known call that is asked with other messages, and an unknown one of a seat that may not be
asked, is a Divergence.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from difflib import unified_diff
from functools import partial
from typing import Any

from superalign.agents.agent import Agent, clean, view
from superalign.agents.model import Ask, Completion, Request, Waits, pressure
from superalign.agents.quotes import mark_quotes
from superalign.store.errors import (
    Divergence,
    LimitReached,
    ModelError,
    ProtocolError,
    StoreError,
    SuperalignError,
)
from superalign.store.records import Case, Episode, Message, Question, Turn, Verdict
from superalign.store.store import Entry, chain, in_order, transcript_hash

from .calls import place
from .setting import Plan, Setting, call_seed
from .state import Context, State

Tries = tuple[int, ...]
"""Which try it is of each node around a call, from the outermost inwards."""

PATIENCE = 10.0
"""Seconds that an unrecorded call waits for the failure that once cut its episode short."""

QUIET = 0.05
"""Seconds without a new call after which an episode that waits for a person is parked."""


class Stage:
    """One episode while it runs. Single use: build, `play`, discard."""

    def __init__(
        self,
        setting: Setting,
        plan: Plan,
        journal: Iterable[Entry] = (),
        past: Iterable[Entry] = (),
        live: frozenset[str] | None = None,
        failed: bool = False,
    ) -> None:
        """`journal` is its own, `past` what it takes over from its parent; `live` are the seats
        whose unknown calls go to a model, None for all; `failed`: the record says it failed."""
        self.setting, self.plan, self.live, self.failed = setting, plan, live, failed
        self.id, self.task_key = setting.episode_id(plan), plan.task.key
        own = {entry.turn.key: entry for entry in journal}
        self.known = {**{entry.turn.key: entry for entry in past}, **own}
        self.hashes = {key: entry.record_hash for key, entry in own.items()}
        self.turns = {key: entry.turn for key, entry in own.items()}
        self.spoken: Counter[str] = Counter()
        self.nth: dict[str, int] = {}
        """Of every call that was asked for: how many its seat had made before."""
        self.asked: set[tuple[str, Tries]] = set()
        self.places: Counter[tuple[str, str, Tries]] = Counter()
        self.speaking: set[tuple[str, str, Tries]] = set()
        self.calls: dict[str, asyncio.Task[Turn]] = {}
        self.waiting: set[str] = set()
        """Keys of the calls that wait for a person."""
        self.parked = False
        self.over = asyncio.Event()
        self.answered: Callable[[float], None] = lambda pressure: None
        """Told of every call that was waited for, with how many calls now wait for a place."""

    async def play(self) -> Episode:
        """Run the graph to its end. Failure is data: the episode says what went wrong."""
        started, final, error = time.perf_counter(), None, None
        self.task = asyncio.current_task()
        seats = {name: Seat(name, agent, self) for name, agent in self.setting.cast.items()}
        quoted = partial(checked, self.plan.task.private)  # no reference to this stage: see Seat
        context = Context(cast=seats, cell=self.setting.oracle.cell, quoted=quoted)
        start = State(
            question=self.plan.task.question, turns=[], critiques=[], round=0, verdict=None
        )
        try:
            final = await self.walk(start, context)
            if final["verdict"] is None:
                raise ProtocolError(f"{self.setting.protocol.name} ended without a verdict")
        except asyncio.CancelledError:
            if not self.parked or self.task is None:
                raise
            self.task.uncancel()
        except (Divergence, StoreError):
            raise
        except Exception as raised:
            error = describe(raised)
        finally:  # siblings of a raising node end their calls, so that a failed episode replays
            self.over.set()
            await self._settle()
        seconds = time.perf_counter() - started
        if error is None:
            try:
                return self.close(final, None, seconds)
            except Exception as raised:  # of the world or the protocol's score
                error = describe(raised)
        return self.close(None, error, seconds)

    async def walk(self, start: State, context: Context) -> dict[str, Any]:
        """Run the graph from its start state to its final one."""
        graph, final = self.setting.protocol.graph(self.setting.params), dict(start)
        config = {"recursion_limit": self.setting.limits.steps}
        # the states alone: `ainvoke` streams every update too, which costs a twentieth
        async for state in graph.astream(start, config, context=context, stream_mode="values"):
            final = state
        return final

    async def _settle(self) -> None:
        """Let calls that are under way end; give up those that wait for a person."""
        for key in self.waiting:
            self.calls[key].cancel()
        if left := [call for call in self.calls.values() if not call.done()]:
            await asyncio.wait(left)

    def close(self, final: dict[str, Any] | None, error: str | None, seconds: float) -> Episode:
        """The record of this episode, with the truth joined to it."""
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
            status="done" if final else "waiting" if self.parked else "failed",
            error=error,
            question=question,
            verdict=verdict,
            parent=plan.parent,
            fork=plan.fork,
            tags=plan.tags,
            seconds=seconds,
            transcript_hash=transcript_hash(turns, verdict, error),
            turns=turns,
            critiques=tuple(sorted(final["critiques"], key=in_order)) if final else (),
            **self._judge(question, turns, verdict) if final else {},
        )
        rewards = setting.protocol.earned(episode) if final else {}
        link = chain({**vars(episode), "rewards": rewards}, [self.hashes[key] for key in keys])
        return episode.model_copy(update={"rewards": rewards, "chain": link})

    def _judge(
        self, question: Question, turns: tuple[Turn, ...], verdict: Verdict | None
    ) -> dict[str, Any]:
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
        if verdict and verdict.answer is not None:
            facts["settled"] = oracle.correct(question, verdict.answer)
        return {"truth": oracle.truth(question), "facts": facts}

    def count(self, key: str, seat: str, tries: Tries) -> None:
        """Count a call, once however often its node is tried."""
        if (key, tries) in self.asked:
            raise ProtocolError(f"two calls are named {key}: pass another key=…")
        self.asked.add((key, tries))
        if key not in self.nth:
            self.nth[key] = self.spoken[seat]
            self.spoken[seat] += 1
        if len(self.nth) > self.setting.limits.calls:
            raise LimitReached(f"more than {self.setting.limits.calls} calls in one episode")

    def take_over(self, entry: Entry) -> None:
        """Copy a known turn into this episode's own journal, if it lies in the parent's."""
        turn = entry.turn
        if turn.key not in self.hashes:
            self.turns[turn.key] = turn
            self.hashes[turn.key] = self.setting.store.put_turn(self.plan.run, self.id, turn)

    async def unrecorded(self, key: str) -> None:
        """Raise Divergence: nobody may answer this call."""
        if self.failed:  # a sibling of the node that raised may have been cut short before it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), PATIENCE)
        raise Divergence(key, "this call was not recorded")

    async def ask(self, key: str, agent: Agent, request: Request) -> Turn:
        """What a model says, journalled: once, however often the node that asks is tried.

        A model that must be waited for has a task of its own, which outlives the node that asked.
        """
        if key in self.turns:
            return self.turns[key]
        if key not in self.calls:
            started = time.perf_counter()
            try:
                reply = agent.model.generate(request)
            except Exception as raised:
                return self._journal(key, agent, request, None, failure(raised), started)
            if isinstance(reply, Completion):
                turn = self._journal(key, agent, request, reply, None, started)
                await asyncio.sleep(0)  # two calls at once must look so to their seat
                return turn
            call = self._listen(key, agent, request, reply, started)
            self.calls[key] = asyncio.create_task(call)
        return await asyncio.shield(self.calls[key])

    async def _listen(
        self,
        key: str,
        agent: Agent,
        request: Request,
        reply: Awaitable[Completion],
        started: float,
    ) -> Turn:
        error, completion = None, None
        try:
            completion = await reply
        except Waits:
            self.answered(0.0)
            await self._wait(key, request)
        except Exception as raised:
            error = failure(raised)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = ModelError("the model gave this call up")  # nobody cancelled it
        self.answered(max(pressure(agent.model) for agent in self.setting.cast.values()))
        return self._journal(key, agent, request, completion, error, started)

    def _journal(
        self,
        key: str,
        agent: Agent,
        request: Request,
        completion: Completion | None,
        error: ModelError | None,
        started: float,
    ) -> Turn:
        turn = _turn(key, agent, request, completion, error, time.perf_counter() - started)
        self._keep(request.messages, turn.messages)
        self.turns[key] = turn
        self.hashes[key] = self.setting.store.put_turn(self.plan.run, self.id, turn)
        return turn

    def _keep(self, messages: tuple[Message, ...], hashes: tuple[str, ...]) -> None:
        for message, hashed in zip(messages, hashes, strict=True):
            self.setting.store.put_message(message, hashed)

    async def _wait(self, key: str, request: Request) -> None:
        """Store the case that waits for a person, and wait until the episode is parked."""
        hashes = tuple(message.hash for message in request.messages)
        self._keep(request.messages, hashes)
        case = Case(
            run=self.plan.run,
            episode=self.id,
            turn=key,
            seat=request.view.seat,
            kind=request.view.ask.kind,
            why="seat",
            messages=hashes,
        )
        self.setting.store.put_case(case)
        self.waiting.add(key)
        asyncio.get_running_loop().call_later(QUIET, self._park, len(self.nth))
        await asyncio.Event().wait()

    def _park(self, calls: int) -> None:
        """Park the episode when only calls of people are left and no new one came for a while."""
        if self.over.is_set() or self.task is None:
            return
        busy = any(not call.done() for key, call in self.calls.items() if key not in self.waiting)
        if busy or len(self.nth) > calls:
            asyncio.get_running_loop().call_later(QUIET, self._park, len(self.nth))
            return
        self.parked = True
        self.task.cancel()


class Seat:
    """A place in a protocol. Its only power is `act`."""

    def __init__(self, name: str, agent: Agent, stage: Stage) -> None:
        self.name, self._agent = name, agent
        self._fence = call_seed(stage.plan.seed, name)
        # LangGraph leaves cycles behind: a strong reference would keep all that was said in them
        self._stage = weakref.ref(stage)

    async def act(self, state: State, ask: Ask, key: str | None = None) -> Turn:
        """Ask this seat. `key` names the call where one node asks a seat several times at once.

        Raises ProtocolError on a hidden turn or an ambiguous key, LimitReached, ModelError, and
        Divergence when a replay meets what was not recorded.
        """
        stage, (segment, tries) = self._stage(), place()
        if stage is None or stage.over.is_set():
            raise ProtocolError(f"{self.name} is asked in {segment} after the episode's end")
        here = segment, self.name, tries
        if here in stage.speaking and key is None:
            raise ProtocolError(f"{self.name} is asked twice at once in {segment}: pass key=…")
        if key is not None:
            return await self._answer(stage, f"{segment}/{self.name}:{key}", tries, state, ask)
        n = stage.places[here]
        stage.places[here] += 1
        stage.speaking.add(here)
        try:
            return await self._answer(stage, f"{segment}/{self.name}:{n:02}", tries, state, ask)
        finally:
            stage.speaking.discard(here)

    async def _answer(self, stage: Stage, key: str, tries: Tries, state: State, ask: Ask) -> Turn:
        """What the journal holds under a call key, or else the model's answer."""
        agent, plan = self._agent, stage.plan
        shown = view(self.name, state["question"], plan.task.private.get(self.name), ask)
        messages = agent.model.dialect.render(shown, self._fence)
        stage.count(key, self.name, tries)
        if key in stage.known:
            await asyncio.sleep(0)  # two calls at once must look so in a replay too
            return self._recall(stage, stage.known[key], messages)
        if stage.live is not None and self.name not in stage.live:
            await stage.unrecorded(key)
        again = key in stage.turns or key in stage.calls
        request = Request(
            messages=messages,
            sampling=agent.sampling,
            seed=call_seed(plan.seed, key, plan.salt),
            policy=agent.policy,
            view=shown,
            episode=stage.id,
            key=key,
            nth=stage.nth[key],
            task=stage.task_key,
        )
        turn = await stage.ask(key, agent, request)
        if again and turn.messages != tuple(message.hash for message in messages):
            raise ProtocolError(f"{key} was asked something else when its node was tried again")
        return said(turn)

    def _recall(self, stage: Stage, entry: Entry, messages: tuple[Message, ...]) -> Turn:
        """A journalled answer, if it was given to the very messages that are asked now."""
        known = entry.turn
        if not entry.intact:
            raise Divergence(known.key, "was altered after it was journalled")
        if known.messages != tuple(message.hash for message in messages):
            recorded = stage.setting.store.messages(known.messages)
            before = [recorded[key] for key in known.messages]
            raise Divergence(known.key, "was asked something else", _diff(before, messages))
        if stage.plan.fork is None and known.sampling != vars(self._agent.sampling):
            drawn = f"-{known.sampling}\n+{vars(self._agent.sampling)}"
            raise Divergence(known.key, "was drawn otherwise", f"--- recorded\n+++ now\n{drawn}")
        stage.take_over(entry)
        return said(known)


def _turn(
    key: str,
    agent: Agent,
    request: Request,
    completion: Completion | None,
    error: ModelError | None,
    seconds: float,
) -> Turn:
    """The journal's entry for a call that was answered, or that failed."""
    text, normalised = clean(completion.text if completion else "")
    ask = request.view.ask
    return Turn(
        key=key,
        seat=request.view.seat,
        kind=ask.kind,
        text=text,
        visible_to=ask.visible_to,
        trainable=agent.trainable,
        source=(completion and completion.source) or agent.source,
        policy=(completion and completion.author) or agent.policy,
        messages=tuple(message.hash for message in request.messages),
        sampling=vars(request.sampling),
        seed=request.seed,
        token_ids=completion and completion.token_ids,
        logprobs=completion and completion.logprobs,
        finish=completion.finish if completion else "stop",
        error=error and str(error),
        normalised=normalised,
        reasoning=clean(completion.reasoning)[0] if completion else "",
        prompt_tokens=completion.prompt_tokens if completion else 0,
        attempts=completion.attempts if completion else error.attempts if error else (),
        seconds=seconds,
        at=time.time(),
    )


def checked(private: Mapping[str, str], turn: Turn) -> Turn:
    """The turn with its quotes marked: verified where they stand in its speaker's private note."""
    text = mark_quotes(turn.text, private.get(turn.seat, ""))
    return turn.model_copy(update={"text": text})


def said(turn: Turn) -> Turn:
    """The turn as graphs may hold it, without reasoning. Raises ModelError where there is none."""
    if turn.error is not None:
        raise ModelError(turn.error)
    return turn.model_copy(update={"reasoning": ""}) if turn.reasoning else turn


def describe(error: Exception) -> str:
    """An error in one clean line, as an episode stores it."""
    name = "" if isinstance(error, SuperalignError) else f"{type(error).__name__}: "
    return clean(f"{name}{error}")[0]


def failure(error: Exception) -> ModelError:
    """Why a call has no answer, without the frames it was raised in: they hold the stage."""
    return ModelError(describe(error), getattr(error, "attempts", ()))


def _diff(before: Iterable[Message], after: Iterable[Message]) -> str:
    """Recorded against rendered messages, as a unified diff."""
    old, new = (
        [line for m in messages for line in f"[{m.role}]\n{m.content}".splitlines()]
        for messages in (before, after)
    )
    return "\n".join(unified_diff(old, new, "recorded", "replayed", lineterm="", n=1))
