"""What a scenario will ask of models, before anything is asked: calls, tokens, price.

The protocol is rehearsed as `superalign check` does it, in every combination of the replies that
steer it, with the world's own questions and the dialects of the cast:

    most     a bound: of each seat the rehearsal with most calls and tokens, on a question that has
             the longest of everything that is asked; a prompt has at most one token a byte of what
             the world and the dialect say, and as many as a seat may write for each turn it shows
    about    a guess: the mean of the rehearsals, on the question of median length; four bytes a
             token, and replies half as long as they may be

x episodes x iterations, and the held-out questions of every test. The questions are those that the
run will ask; of very many the first ones are looked at, which the facts then say. Attempts that
fail come on top, and so does the probe of an endpoint: seven calls of a few tokens.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import mean
from typing import Any, NamedTuple

from superalign.agents import Agent, Request, Sampling, Scripted
from superalign.agents.reply import PICK_TOKENS
from superalign.protocols.check import CALLS, REPLIES, STEPS, Anything, ways_to_reply
from superalign.protocols.setting import Limits, Plan, Setting, call_seed
from superalign.protocols.stage import Stage
from superalign.store import Message, Question, Store, Task

from .exam import asked, untold
from .resolve import Resolved, build_models
from .scenario import Scenario

LOOKED_AT = 20_000
"""Questions, at most: seconds for the slowest world."""
BYTES_A_TOKEN = 4
"""Of English, roughly."""
FRAME = 8
"""Tokens that a chat template puts around a message."""


class Spent(NamedTuple):
    """What the calls of one seat amount to."""

    calls: float = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0

    def plus(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, n: float) -> Spent:
        return Spent(*(n * part for part in self))


def plan_scenario(resolved: Resolved) -> dict[str, Any]:
    """The facts that `superalign plan` prints. Calls no model and stores nothing."""
    scenario, models = resolved.loaded.scenario, build_models(resolved, frozenset())
    n = scenario.episodes * scenario.iterations
    tasks = sorted(islice(_tasks(resolved), LOOKED_AT), key=_size)
    most = _most(asyncio.run(_rehearsed(resolved, models, longest(tasks), bound=True)))
    about = _mean(asyncio.run(_rehearsed(resolved, models, tasks[len(tasks) // 2], bound=False)))
    totals: dict[str, dict[str, Spent]] = {name: {} for name in models}
    for name in models:
        seats = [seat for seat, member in scenario.cast.items() if member.model == name]
        for kind, found, bound in (("most", most, True), ("about", about, False)):
            played = [found.get(seat, Spent()).times(n) for seat in seats]
            if scenario.evaluate and scenario.tested in seats:
                played.append(_tests(resolved, models[name].dialect, bound))
            totals[name][kind] = Spent(*map(sum, zip(*played, strict=True)))
    lines = [_line(resolved, name, told) for name, told in totals.items()]
    prices = [line["price"] for line in lines if line["engine"] == "openai"]
    known = None if None in prices or not prices else prices
    return {
        "scenario": scenario.name,
        "episodes": n,
        "unseen": _unseen(resolved),
        "calls": {kind: sum(line["calls"][kind] for line in lines) for kind in ("most", "about")},
        "models": lines,
        "price": known and {k: round(sum(p[k] for p in known), 4) for k in ("most", "about")},
    }


def as_text(facts: dict[str, Any]) -> str:
    """The same facts for people."""
    from .console import table

    flat = []
    for line in facts["models"]:
        for kind in ("most", "about"):
            counts = {
                key: f"{line[key][kind]:,}"
                for key in ("calls", "prompt_tokens", "completion_tokens")
            }
            price = "" if line["price"] is None else f"{line['price'][kind]:,.2f}"
            flat.append({"model": line["model"], "": kind, **counts, "price": price})
    told = f"{table(flat)}\n{facts['episodes']:,} episodes; {_cost(facts)}"
    if not facts["unseen"]:
        return told
    what = f"{facts['unseen']:,} questions were not looked at"
    return f"{told}\n{what}; prompts are bounded if none of them is longer than all that were"


def _cost(facts: dict[str, Any]) -> str:
    if not any(line["engine"] == "openai" for line in facts["models"]):
        return "no endpoint is asked"
    if facts["price"] is None:
        return "its price is not known; add `price: {input: …, output: …}` to each openai model"
    return "at most {most:,.2f}, about {about:,.2f}".format(**facts["price"])


def _line(resolved: Resolved, name: str, told: dict[str, Spent]) -> dict[str, Any]:
    engine = resolved.loaded.scenario.models[name]
    price = getattr(engine, "price", None)
    line: dict[str, Any] = {"model": name, "engine": engine.engine}
    for field in Spent._fields:
        line[field] = {kind: round(getattr(spent, field)) for kind, spent in told.items()}
    costs = {} if price is None else {kind: price.of(*spent[1:]) for kind, spent in told.items()}
    line["price"] = {kind: round(cost, 4) for kind, cost in costs.items()} or None
    return line


def _tasks(resolved: Resolved) -> Iterator[Task]:
    """The tasks that a run begins with, each in one of its orders."""
    scenario, world = resolved.loaded.scenario, resolved.world
    if world.cells and "attacker" in resolved.protocol.seats:
        yield from (world.topic(cell) for cell in world.cells)
        return
    for iteration in range(1, scenario.iterations + 1):
        yield from world.tasks(_asked(scenario), call_seed(scenario.seed, f"tasks {iteration}"))


def _asked(scenario: Scenario) -> int:
    """Questions of one iteration."""
    return scenario.episodes // (2 if scenario.swap else 1)


def _unseen(resolved: Resolved) -> int:
    """Questions that are asked and were not looked at."""
    scenario, tests = resolved.loaded.scenario, resolved.loaded.scenario.evaluate
    attacked = resolved.world.cells and "attacker" in resolved.protocol.seats
    played = 0 if attacked else _asked(scenario) * scenario.iterations
    heldout = tests.heldout if tests else 0
    return sum(max(0, asked - LOOKED_AT) for asked in (played, heldout))


def longest(tasks: Sequence[Task]) -> Task:
    """A task that says nothing, at the greatest length that any of them has in any part."""

    def most(texts: Iterable[str]) -> str:
        return max(texts, key=lambda text: len(text.encode(errors="replace")), default="")

    questions = [task.question for task in tasks]
    places = range(max(len(question.choices) for question in questions))
    at = (most(q.choices[i] for q in questions if i < len(q.choices)) for i in places)
    choices = tuple(f"{i} {text}" for i, text in enumerate(at))  # no two are the same
    seats = {seat for task in tasks for seat in task.private}
    private = {seat: most(t.private.get(seat, "") for t in tasks) for seat in sorted(seats)}
    topic, text = most(q.topic for q in questions), most(q.text for q in questions)
    return Task(question=Question(topic=topic, text=text, choices=choices), private=private)


def _size(task: Task) -> int:
    shown = task.question.text, *task.question.choices, *task.private.values()
    return sum(len(text.encode(errors="replace")) for text in shown)


async def _rehearsed(
    resolved: Resolved, models: dict[str, Any], task: Task, bound: bool
) -> list[dict[str, Spent]]:
    """What each seat would spend, in every rehearsal of an episode on this task."""
    protocol, scenario, found = resolved.protocol, resolved.loaded.scenario, []
    with Store.open("sqlite://", write=True) as store:
        for number, choice in enumerate(ways_to_reply({**REPLIES, **protocol.replies})):
            spent: defaultdict[str, Spent] = defaultdict(Spent)
            cast = {}
            for seat, member in scenario.cast.items():
                meter = Meter(resolved, spent, choice, bound)
                model = Scripted(meter, "plan", models[member.model].dialect)
                cast[seat] = Agent(model, "plan", Sampling(max_tokens=member.max_tokens))
            limits = Limits(calls=CALLS, steps=STEPS)
            setting = Setting(protocol, resolved.params, cast, store, Anything(), limits)
            plan = Plan(run=str(number), scenario="plan", index=0, task=task, seed=scenario.seed)
            await Stage(setting, plan).play()
            found.append(dict(spent))
    return found


class Meter:
    """A script that counts what each call would read and write."""

    def __init__(
        self, resolved: Resolved, spent: defaultdict[str, Spent], choice: Any, bound: bool
    ) -> None:
        self.cast, self.spent = resolved.loaded.scenario.cast, spent
        self.choice, self.share = choice, 1.0 if bound else 0.5
        self.bytes_a_token = 1 if bound else BYTES_A_TOKEN

    def __call__(self, request: Request) -> str:
        seat, ask = request.view.seat, request.view.ask
        said = Counter(turn.seat for turn in ask.about)
        if request.view.question.text and "attacker" in self.cast:
            said["attacker"] += 1  # who wrote the question
        shown = sum(n * self.cast[by].max_tokens for by, n in said.items() if by in self.cast)
        words = _tokens(request.messages, self.bytes_a_token)
        most = max(request.sampling.max_tokens, PICK_TOKENS if ask.picks else 0)
        written = self.share * most
        self.spent[seat] = self.spent[seat].plus(Spent(1, words + self.share * shown, written))
        return self.choice(ask.kind, request)


def _tokens(messages: Sequence[Message], bytes_a_token: int) -> float:
    size = sum(len(message.content.encode(errors="replace")) for message in messages)
    return size / bytes_a_token + FRAME * len(messages)


def _most(rehearsals: list[dict[str, Spent]]) -> dict[str, Spent]:
    """Of each seat the most of everything."""
    seats = {seat for spent in rehearsals for seat in spent}
    return {
        seat: Spent(*map(max, zip(*(s.get(seat, Spent()) for s in rehearsals), strict=True)))
        for seat in seats
    }


def _mean(rehearsals: list[dict[str, Spent]]) -> dict[str, Spent]:
    seats = {seat for spent in rehearsals for seat in spent}
    return {
        seat: Spent(*map(mean, zip(*(s.get(seat, Spent()) for s in rehearsals), strict=True)))
        for seat in seats
    }


def _tests(resolved: Resolved, dialect: Any, bound: bool) -> Spent:
    """The held-out questions of every test that a run makes."""
    scenario, seat = resolved.loaded.scenario, resolved.loaded.scenario.tested
    assert scenario.evaluate is not None
    tasks = resolved.world.heldout(min(scenario.evaluate.heldout, LOOKED_AT))
    prompts = [asked(dialect, seat, untold(task))[1] for task in tasks]
    sizes = [_tokens(prompt, 1 if bound else BYTES_A_TOKEN) for prompt in prompts]
    written = scenario.cast[seat].max_tokens * (1.0 if bound else 0.5)
    tests = 1 + (scenario.iterations if scenario.learning else 0)
    n = tests * scenario.evaluate.heldout
    return Spent(1, max(sizes) if bound else mean(sizes), written).times(n)
