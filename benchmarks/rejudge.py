"""Stored episodes judged again: how fast, whether others are asked, and what is noticed.

    python benchmarks/rejudge.py [--episodes 10000] [--repeats 3] [--json]

Episodes of three protocols (critique; from tests/nested.py one with nested Sends and one with
parallel nodes) are played by scripted seats and judged again by a scripted critic. Printed are the
model calls made outside that seat, prompts that differ, how many of 200 divergences put into a copy
of the store were reported, and episodes per second as a share of a bare LangGraph run of the same
graphs with the same scripts and no store at all, the arms taking turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from superalign.agents import (
    Agent,
    Ask,
    Dialect,
    Request,
    Sampling,
    Scripted,
    View,
    chat,
    complete,
    view,
)
from superalign.protocols import Context, Protocol, State, load_protocol
from superalign.protocols.branch import Rejudgement, rejudgements
from superalign.protocols.kernel import play_all, run_many
from superalign.protocols.replay import Difference
from superalign.protocols.setting import Plan, Setting
from superalign.store import Episode, Message, Question, Run, Store, Task, Turn

NESTED = Path(__file__).parent.parent / "tests" / "nested.py"
PROTOCOLS: dict[str, Protocol] = {
    "critique": load_protocol("critique"),
    "panel": load_protocol("panel", NESTED),
    "exchange": load_protocol("exchange", NESTED),
}
PARAMS: dict[str, dict[str, Any]] = {"critique": {"samples": 2}, "panel": {}, "exchange": {}}
CONCURRENCY = 64
asked: Counter[str] = Counter()


class Sums:
    """A world in which `4` is right."""

    def cell(self, question: Question) -> str | None:
        return "sums"

    def truth(self, question: Question) -> str:
        return "4"

    def correct(self, question: Question, answer: str) -> bool:
        return answer == "4"

    def fault(self, question: Question, answer: str) -> int | None:
        return None if answer == "4" else 1


def play(request: Request) -> str:
    asked[request.view.seat] += 1
    if request.view.ask.kind == "critique":
        return "Critique: ok" if request.view.ask.about[0].text == "4" else "Critique: 1"
    if request.view.ask.kind == "question":
        return f"{request.seed % 89 + 10}+{request.seed % 83}"
    return random.Random(request.seed).choice(["4", "5", "6"])


def setting(
    name: str, store: Store, sampling: Sampling | None = None, dialect: Dialect = chat
) -> Setting:
    agent = Agent(Scripted(play, dialect=dialect), "scripted", sampling or Sampling())
    protocol = PROTOCOLS[name]
    params = protocol.params(PARAMS[name])
    return Setting(protocol, params, dict.fromkeys(protocol.seats, agent), store, Sums())


def plans(name: str, episodes: int) -> Iterator[Plan]:
    task = Task(question=Question(topic="sums"))
    for i in range(episodes):
        yield Plan(run=name, scenario=name, index=i, task=task, seed=i)


def put_run(store: Store, name: str, parent: str | None = None) -> None:
    store.put_run(Run(id=name, scenario={}, origin="", protocol_hash="", version="", parent=parent))


async def record(path: Path, shares: dict[str, int]) -> None:
    """Play and store the episodes that everything here is about."""
    with Store.open(path, write=True) as store:
        for name, episodes in shares.items():
            put_run(store, name)
            await run_many(setting(name, store), plans(name, episodes), lambda e: None, CONCURRENCY)


async def rejudge(
    store: Store, name: str, run: str, of: Callable[[Episode], Setting]
) -> list[Difference]:
    """Judge a run again as `superalign rejudge` does; what diverged."""
    put_run(store, run, name)
    begun: dict[str, Rejudgement] = {}
    divergences: list[Difference] = []

    def watched() -> Iterator[Rejudgement]:
        for stage in rejudgements(store.load(name), run, "critic", of):
            begun[stage.id] = stage
            yield stage

    def on_end(episode: Episode) -> None:
        if (divergence := begun.pop(episode.id).divergence) is not None:
            divergences.append(divergence)

    await play_all(store, watched(), on_end, CONCURRENCY)
    return divergences


class BareSeat:
    """A seat without a kernel: it asks the script and says what it answers."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.numbers = name, seed, count()

    async def act(self, state: State, ask: Ask, key: str | None = None) -> Turn:
        seen = view(self.name, state["question"], None, ask)
        seed = self.seed * 1000 + next(self.numbers)
        request = Request((), SAMPLING, seed, "", seen, "", 0)
        text = (await complete(MODEL, request)).text
        name = f"{self.name}:{seed}:{key or 0:>02}"
        return Turn(
            key=name, seat=self.name, kind=ask.kind, text=text, policy="", messages=(),
            sampling={}, seed=seed,
        )  # fmt: skip


SAMPLING, MODEL = Sampling(), Scripted(play)


async def bare(name: str, episodes: int) -> None:
    """The same graphs, scripts and turns in bare LangGraph: no journal, no keys, no checks."""
    protocol = PROTOCOLS[name]
    graph = protocol.graph(protocol.params(PARAMS[name]))
    waiting = iter(range(episodes))

    async def work() -> None:
        for seed in waiting:
            seats: Any = {seat: BareSeat(seat, seed) for seat in protocol.seats}
            start = State(
                question=Question(topic="sums"), turns=[], critiques=[], round=0, verdict=None
            )
            await graph.ainvoke(
                start, context=Context(seats, lambda question: "sums", lambda turn: turn)
            )

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())


def timed(work: Any) -> float:
    gc.collect()
    began = time.perf_counter()
    asyncio.run(work)
    return time.perf_counter() - began


def speed(path: Path, shares: dict[str, int], repeats: int) -> dict[str, Any]:
    """Episodes per second judged again, beside bare LangGraph; what was asked meanwhile."""
    ratios: dict[str, list[float]] = {name: [] for name in [*shares, "all"]}
    rates: dict[str, list[float]] = {"rejudge": [], "bare": []}
    outside = differing = 0
    for repeat in range(repeats):
        spent = Counter[str]()
        for name, episodes in shares.items():
            with Store.open(path, write=True) as store:
                asked.clear()
                settings = setting(name, store)
                again = timed(rejudge(store, name, f"{name}-{repeat}", lambda e, s=settings: s))
                outside += sum(n for seat, n in asked.items() if seat != "critic")
                differing += prompts_that_differ(store, name, f"{name}-{repeat}")
            alone = timed(bare(name, episodes))
            ratios[name].append(alone / again)
            spent.update({"rejudge": again, "bare": alone})
        ratios["all"].append(spent["bare"] / spent["rejudge"])
        for arm, seconds in spent.items():
            rates[arm].append(sum(shares.values()) / seconds)
    return {
        "calls_outside_the_seat": outside,
        "prompts_that_differ": differing,
        "episodes_per_second": {a: round(statistics.median(v)) for a, v in rates.items()},
        "share_of_bare": {n: round(statistics.median(v), 2) for n, v in ratios.items()},
        "share_range": [round(min(ratios["all"]), 2), round(max(ratios["all"]), 2)],
    }


def prompts_that_differ(store: Store, name: str, run: str) -> int:
    """Turns of other seats whose messages are not those of the record."""
    wrong = 0
    for before, after in zip(store.episodes(name), store.episodes(run), strict=True):
        given = {t.key: t.messages for t in before.turns}
        others = [t for t in after.turns if t.seat != "critic"]
        wrong += sum(given.get(turn.key) != turn.messages for turn in others)
        wrong += after.status != before.status
    return wrong


KINDS = ("altered answer", "altered prompt template", "reordered fan-out", "missing call",
         "changed sampling")  # fmt: skip


def inject(path: Path, name: str, victims: dict[str, str]) -> None:
    """Put a divergence into the journal of each victim (episode -> kind)."""
    with sqlite3.connect(path) as db:
        for episode, kind in victims.items():
            where = "run = ? AND episode = ? AND seat != 'critic'"
            query = f"SELECT key, seat FROM turns WHERE {where} ORDER BY key"
            keys = db.execute(query, (name, episode)).fetchall()
            key = random.Random(episode).choice(keys)[0]
            this = (name, episode, key)
            if kind == "altered answer":
                db.execute(f"UPDATE turns SET text = text || '1' WHERE {where} AND key = ?", this)
            elif kind == "missing call":
                db.execute(f"DELETE FROM turns WHERE {where} AND key = ?", this)
            elif kind == "reordered fan-out":
                seat = Counter(seat for _, seat in keys).most_common(1)[0][0]
                a, b = [key for key, who in keys if who == seat][:2]
                for old, new in ((a, "x"), (b, a), ("x", b)):
                    db.execute(f"UPDATE turns SET key = ? WHERE {where} AND key = ?",
                               (new, name, episode, old))  # fmt: skip


def noticed(path: Path, shares: dict[str, int], wanted: int) -> dict[str, Any]:
    """How many divergences put into a copy of the store a re-judgement reports, by kind."""
    put, reported, false_alarms = Counter(), Counter(), 0
    for name, episodes in shares.items():
        copy = Path(shutil.copy(path, path.with_name(f"copy-{name}.sqlite")))
        with Store.open(copy) as store:
            ids = sorted(store.ended(name))
        chosen = random.Random(0).sample(ids, wanted * episodes // sum(shares.values()))
        victims = {id: KINDS[i % len(KINDS)] for i, id in enumerate(chosen)}
        inject(copy, name, victims)
        told = report(copy, name, victims)
        put.update(victims.values())
        reported.update(victims[id] for id in told & victims.keys())
        false_alarms += len(told - victims.keys())
    return {"put": put, "reported": reported, "false_alarms": false_alarms}


def report(path: Path, name: str, victims: dict[str, str]) -> set[str]:
    """Ids of the episodes that a re-judgement says diverged."""
    with Store.open(path, write=True) as store:
        usual = setting(name, store)
        others = {
            "altered prompt template": setting(name, store, dialect=Reworded()),
            "changed sampling": setting(name, store, Sampling(temperature=0.5)),
        }

        def of(episode: Episode) -> Setting:
            return others.get(victims.get(episode.id, ""), usual)

        divergences = asyncio.run(rejudge(store, name, "again", of))
        parents = {e.id: (e.parent or "").split("/")[1] for e in store.episodes("again")}
    return {parents[found.episode.split("/")[1]] for found in divergences}


class Reworded:
    """The usual dialect with one sentence more."""

    def render(self, view: View, seed: int) -> tuple[Message, ...]:
        *first, last = chat.render(view, seed)
        words = f"{last.content}\n\nThink before you write."
        return (*first, Message(role=last.role, content=words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--injections", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    half, quarter = args.episodes // 2, args.episodes // 4
    shares = {"critique": args.episodes - half, "panel": quarter, "exchange": half - quarter}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        asyncio.run(record(path, shares))
        caught = noticed(path, shares, args.injections)
        facts = {"episodes": shares, **speed(path, shares, args.repeats), "injected": caught}
    packages = ("superalign", "langgraph", "sqlalchemy")
    facts["versions"] = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))


def as_text(facts: dict[str, Any]) -> str:
    rates, shares, (low, high) = (
        facts[k] for k in ("episodes_per_second", "share_of_bare", "share_range")
    )
    each = ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if name != "all")
    injected = facts["injected"]
    put, told = sum(injected["put"].values()), sum(injected["reported"].values())
    lines = [
        ", ".join(f"{n} episodes of {name}" for name, n in facts["episodes"].items()),
        f"model calls outside the seat  {facts['calls_outside_the_seat']}",
        f"prompts that differ           {facts['prompts_that_differ']}",
        f"judged again                  {rates['rejudge']} episodes/s",
        f"bare LangGraph                {rates['bare']} episodes/s",
        f"share of bare                 {shares['all']:.2f} ({low:.2f} to {high:.2f}); {each}",
        f"divergences reported          {told} of {put}, {injected['false_alarms']} false alarms",
    ]
    lines += [f"  {k:26}  {injected['reported'][k]} of {n}" for k, n in injected["put"].items()]
    return "\n".join([*lines, ", ".join(f"{name} {v}" for name, v in facts["versions"].items())])


if __name__ == "__main__":
    main()
