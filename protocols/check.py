"""check_protocol: what every protocol must hold to, proved on its graph and by rehearsals.

On the graph (networkx): END can be reached from every node; no way to END avoids every node that
writes a verdict. By rehearsal with scripted seats, in every combination of the replies that steer
a protocol: loops end, every seat speaks, every run ends with a verdict, and canaries put into
every secret place (the target, private notes, turns hidden from a seat) never reach a seat that
may not see them. Python introspection can always cheat; this finds mistakes, not malice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from typing import Any

import networkx as nx

from superalign.agents.agent import Agent
from superalign.agents.model import Request, Sampling
from superalign.agents.scripted import Scripted
from superalign.store.records import Episode, Question, Record, Task, Turn, digest
from superalign.store.store import Store

from .protocol import Protocol
from .setting import Limits, Plan, Setting
from .stage import Stage
from .state import Context, State

REPLIES: dict[str, tuple[str, ...]] = {
    "question": ("a valid question", "an invalid question"),
    "critique": ("Critique: ok", "Critique: 1"),
    "verdict": ("Verdict: 0", "Verdict: 1"),
}
"""Replies that can steer a protocol, by kind of ask. A protocol declares those of its own kinds."""
CALLS, STEPS = 4096, 512
"""Calls and supersteps after which a rehearsal counts as endless."""


class Problem(Record):
    """One thing that is wrong with a protocol."""

    kind: str
    where: str
    message: str


class Report(Record):
    """What `superalign check` prints."""

    ok: bool
    problems: tuple[Problem, ...]
    max_calls: int
    """The largest number of model calls that any rehearsal of an episode made."""


async def check_protocol(protocol: Protocol, params: dict[str, Any]) -> Report:
    """Check one protocol with one set of parameters. Calls no model and stores nothing."""
    graph = _as_networkx(protocol, params)
    problems = _unreachable_end(graph)
    options = {**REPLIES, **protocol.replies}
    runs: list[Rehearsal] = []
    with Store.open("sqlite://", write=True) as store:
        for number, choice in enumerate(ways_to_reply(options)):
            runs.append(await _rehearse(protocol, params, choice, store, str(number)))
            if any(problem.kind == "endless loop" for problem in runs[-1].problems):
                break  # each further one would take as long
    writers = set().union(*(run.writers for run in runs))
    problems += _avoids_verdict(graph, writers)
    problems += [problem for run in runs for problem in run.problems]
    spoke = set().union(*(set(run.spoken) for run in runs))
    for seat in protocol.seats:
        if seat not in spoke:
            problems.append(_problem("silent seat", seat, "no rehearsal ever asked this seat"))
    unique = tuple(dict.fromkeys(problems))
    calls = max(len(run.turns) for run in runs)
    return Report(ok=not unique, problems=unique, max_calls=calls)


class Rehearsal(Stage):
    """A stage that watches what each seat is shown and which nodes decide."""

    def __init__(self, setting: Setting, plan: Plan, secrets: dict[str, tuple[str, ...]]) -> None:
        super().__init__(setting, plan)
        self.secrets = secrets
        """Canary -> the seats that may see it."""
        self.writers: set[str] = set()
        self.problems: list[Problem] = []

    async def walk(self, start: State, context: Context) -> dict[str, Any]:
        graph, final = self.setting.protocol.graph(self.setting.params), dict(start)
        config = {"recursion_limit": self.setting.limits.steps}
        modes = ["updates", "values"]
        async for mode, value in graph.astream(start, config, context=context, stream_mode=modes):
            if mode == "values":
                final = value
            else:
                deciding = (node for node, update in value.items() if (update or {}).get("verdict"))
                self.writers.update(deciding)
        return final

    async def ask(self, key: str, agent: Agent, request: Request) -> Turn:
        shown = "\n".join(f"{m.role} {m.content}" for m in request.messages)
        seat, node = request.view.seat, key.split("/")[-2].split(":")[1]
        for canary, allowed in self.secrets.items():
            if canary in shown and seat not in allowed:
                owner = f"only {', '.join(allowed)} may see it" if allowed else "no seat may see it"
                what = f"{canary.rsplit('-', 1)[0]} reached {seat}; {owner}"
                self.problems.append(_problem("leak", node, what))
        turn = await super().ask(key, agent, request)
        if turn.visible_to is not None and turn.text.startswith("a turn of "):
            self.secrets[turn.text.splitlines()[0]] = tuple(dict.fromkeys((*turn.visible_to, seat)))
        return turn


async def _rehearse(
    protocol: Protocol, params: dict[str, Any], choice: Any, store: Store, run: str
) -> Rehearsal:
    def reply(request: Request) -> str:
        kind = request.view.ask.kind
        canary = f"a turn of {request.view.seat}-{digest(request.seed, size=6)}"
        text = choice(kind, request)
        return text if kind in protocol.replies else f"{canary}\n{text}"

    seats = {seat: f"private note of {seat}-{digest(seat, size=6)}" for seat in protocol.seats}
    target = f"the target-{digest('target', size=6)}"
    agent = Agent(Scripted(reply), "rehearsal", Sampling())
    oracle, limits = Anything(), Limits(calls=CALLS, steps=STEPS)
    cast = dict.fromkeys(protocol.seats, agent)
    setting = Setting(protocol, params, cast, store, oracle, limits)
    question = Question(topic="topic", choices=("yes", "no"))
    task = Task(question=question, target=target, private=seats)
    plan = Plan(run=run, scenario="check", index=0, task=task, seed=0)
    secrets = {target: (), **{note: (seat,) for seat, note in seats.items()}}
    stage = Rehearsal(setting, plan, secrets)
    episode = await stage.play()
    stage.problems += _ending(episode)
    return stage


def _ending(episode: Episode) -> list[Problem]:
    if episode.error is None:
        return []
    if "ended without a verdict" in episode.error:
        return [_problem("no verdict", "END", episode.error)]
    if "recursion" in episode.error.lower() or "calls in one episode" in episode.error:
        return [_problem("endless loop", _busiest(episode), f"it did not end: {episode.error}")]
    return [_problem("error", _busiest(episode), episode.error)]


def _busiest(episode: Episode) -> str:
    nodes = [turn.key.split("/")[0].split(":")[1] for turn in episode.turns[-8:]]
    return " -> ".join(dict.fromkeys(nodes)) or "START"


class Anything:
    """A world in which every question is valid unless it says it is not."""

    def cell(self, question: Question) -> str | None:
        return None if "an invalid question" in question.text else "topic"

    def truth(self, question: Question) -> str:
        return "truth"

    def correct(self, question: Question, answer: str) -> bool:
        return True

    def fault(self, question: Question, answer: str) -> int | None:
        return None


def ways_to_reply(options: Mapping[str, tuple[str, ...]]) -> list[Any]:
    """Ways to reply: every combination of one reply a kind, and 32 random mixtures."""

    def constant(fixed: dict[str, str]) -> Any:
        return lambda kind, request: fixed.get(kind, "some text")

    def mixed(seed: int) -> Any:
        def pick(kind: str, request: Request) -> str:
            return random.Random(f"{seed} {request.seed}").choice(options.get(kind, ("some text",)))

        return pick

    fixed = [dict(zip(options, texts, strict=True)) for texts in product(*options.values())]
    return [constant(one) for one in fixed[:256]] + [mixed(seed) for seed in range(32)]


def _as_networkx(protocol: Protocol, params: dict[str, Any]) -> nx.DiGraph:
    drawn = protocol.graph(params).get_graph()
    return nx.DiGraph([(edge.source, edge.target) for edge in drawn.edges])


def _unreachable_end(graph: nx.DiGraph) -> list[Problem]:
    if "__end__" not in graph:
        return [_problem("no end", "START", "the graph never reaches END")]
    ends = nx.ancestors(graph, "__end__") | {"__end__"}
    stuck = nx.descendants(graph, "__start__") - ends
    return [_problem("no end", node, "END cannot be reached from here") for node in sorted(stuck)]


def _avoids_verdict(graph: nx.DiGraph, writers: set[str]) -> list[Problem]:
    rest = graph.subgraph(set(graph) - writers)
    if "__end__" in rest and nx.has_path(rest, "__start__", "__end__"):
        way = " -> ".join(nx.shortest_path(rest, "__start__", "__end__"))
        return [_problem("no verdict", "END", f"no node on this way writes a verdict: {way}")]
    return []


def _problem(kind: str, where: str, message: str) -> Problem:
    return Problem(kind=kind, where=where, message=message)
