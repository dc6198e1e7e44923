"""What the kernel and its journal cost beside bare LangGraph, without any model time.

    python benchmarks/overhead.py [--episodes 1000] [--repeats 7] [--picture FILE.png] [--json]

Three calls an episode, scripted models that answer at once, 1,000 episodes, 64 in flight. Arms,
taken in turn within every repeat: a graph of three nodes in bare LangGraph without any persistence;
superalign with its journal on disk; the same with a store that writes nothing; LangGraph with its
own SQLite checkpointer; plain asyncio with one SQLite row and commit a call; a solver in Inspect AI
with its log on disk, in a process and an environment of its own (`make peers`; skipped without).
Reported: the median over repeats of each repeat's ratio to bare LangGraph, by the clock and of the
cores' time, which other processes disturb less. Targets: superalign at
most 1.3, and at least 8 times faster than Inspect AI.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.agents import Agent, Request, Sampling, Scripted, View, complete
from superalign.protocols import Ask, Context, State, Update, Verdict, protocol
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting
from superalign.store import Question, Store, Task

CONCURRENCY = 64
TEXT = "x" * 200
SEATS = ("attacker", "learner", "critic")
BARE, OURS, INSPECT = "bare LangGraph", "superalign, journal on disk", "Inspect AI"
HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers" / "bin" / "python"


@protocol(seats=SEATS)
def three() -> StateGraph[State, Context]:
    async def attacker(state: State, runtime: Runtime[Context]) -> Update:
        turn = await runtime.context.cast["attacker"].act(state, Ask(kind="question"))
        return {"turns": [turn]}

    async def learner(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="answer", about=tuple(state["turns"]))
        return {"turns": [await runtime.context.cast["learner"].act(state, ask)]}

    async def critic(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="critique", about=tuple(state["turns"]))
        turn = await runtime.context.cast["critic"].act(state, ask)
        return {"turns": [turn], "verdict": Verdict(value="ok", seat="critic", turn=turn.key)}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("attacker", attacker).add_node("learner", learner).add_node("critic", critic)
    graph.add_edge(START, "attacker").add_edge("attacker", "learner")
    graph.add_edge("learner", "critic").add_edge("critic", END)
    return graph


class Anything:
    """A world in which all is valid and nothing is known."""

    def cell(self, question: Question) -> str | None:
        return None

    def truth(self, question: Question) -> str:
        return ""

    def correct(self, question: Question, answer: str) -> bool:
        return True

    def fault(self, question: Question, answer: str) -> int | None:
        return None


class Forgetful(Store):
    """A store that writes nothing: what is left is the price of everything but the database."""

    def put(self, table: Any, row: Any) -> str:
        return "0" * 32

    def _queue(self, table: Any, values: Any) -> None:
        return None


async def superalign_arm(episodes: int, folder: Path, kind: type[Store] = Store) -> None:
    agent = Agent(Scripted([TEXT]), "scripted", Sampling())
    ended: Counter[str] = Counter()  # not the episodes: keeping them would time the collector
    with kind.open(folder / "store.sqlite", write=True) as store:
        cast = {str(seat): agent for seat in SEATS}
        setting = Setting(three, three.params({}), cast, store, Anything())
        task = Task(question=Question(topic="anything"))
        plans = (
            Plan(run="bench", scenario="bench", index=i, task=task, seed=i) for i in range(episodes)
        )
        await run_many(setting, plans, lambda e: ended.update([e.status]), CONCURRENCY)
    assert ended == {"done": episodes}


def an_ask() -> Request:
    return Request((), Sampling(), 0, "", View("", Question(), None, Ask("answer")), "", 0)


def bare_graph() -> StateGraph[State]:
    """The same state and nodes without the kernel: they ask the same model and return its text."""
    model, request = Scripted([TEXT]), an_ask()

    def node(seat: str) -> Any:
        async def speak(state: State) -> dict[str, Any]:
            said = await complete(model, request)
            return {"turns": [{"seat": seat, "text": said.text}], "verdict": "ok"}

        return speak

    graph = StateGraph(State)
    for before, seat in zip((START, *SEATS), SEATS, strict=False):
        graph.add_node(seat, node(seat)).add_edge(before, seat)
    return graph.add_edge(SEATS[-1], END)


def start() -> State:
    return State(question=Question(), turns=[], critiques=[], round=0, verdict=None)


async def drain(episodes: int, one: Callable[[int], Awaitable[Any]]) -> None:
    """Run `one(i)` for every episode, CONCURRENCY at a time."""
    waiting = iter(range(episodes))

    async def work() -> None:
        for i in waiting:
            await one(i)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())


async def bare_arm(episodes: int, folder: Path) -> None:
    graph = bare_graph().compile()
    await drain(episodes, lambda i: graph.ainvoke(start()))


async def checkpointer_arm(episodes: int, folder: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.sqlite")) as saver:
        graph = bare_graph().compile(checkpointer=saver)
        await drain(
            episodes,
            lambda i: graph.ainvoke(start(), {"configurable": {"thread_id": str(i)}}),
        )


async def unwritten_arm(episodes: int, folder: Path) -> None:
    await superalign_arm(episodes, folder, Forgetful)


async def commits_arm(episodes: int, folder: Path) -> None:
    """No framework: a row a call, committed before the next is made. SQLite set as the store is."""
    model, request = Scripted([TEXT]), an_ask()
    with contextlib.closing(sqlite3.connect(folder / "calls.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE calls (episode, seat, answer, PRIMARY KEY (episode, seat))")

        async def one(i: int) -> None:
            for seat in SEATS:
                said = await complete(model, request)
                row = i, seat, json.dumps({"text": said.text, "finish": said.finish})
                db.execute("INSERT INTO calls VALUES (?, ?, ?)", row)

        await drain(episodes, one)


class Taken(NamedTuple):
    """What an arm took in a repeat: seconds by the clock, and of the cores."""

    seconds: float
    cpu: float


def inspect_arm(episodes: int, folder: Path) -> Taken:
    words = [PEERS, HERE / "overhead_inspect.py", episodes, CONCURRENCY, folder]
    done = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
    return Taken(*json.loads(done.stdout.splitlines()[-1]))


def timed(arm: Callable[[int, Path], Coroutine[Any, Any, None]]) -> Callable[[int, Path], Taken]:
    """What an arm takes in a loop of its own."""

    def run(episodes: int, folder: Path) -> Taken:
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        asyncio.run(arm(episodes, folder))
        return Taken(time.perf_counter() - started, time.process_time() - cpu)

    return run


ARMS: dict[str, Callable[[int, Path], Taken]] = {
    "plain asyncio + a commit a call": timed(commits_arm),
    BARE: timed(bare_arm),
    "superalign, nothing written": timed(unwritten_arm),
    OURS: timed(superalign_arm),
    "LangGraph + SQLite checkpointer": timed(checkpointer_arm),
    INSPECT: inspect_arm,
}


def measure(names: list[str], episodes: int, repeats: int) -> dict[str, list[Taken]]:
    """What every arm took in every repeat; the arms take turns, their order rotates."""
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            with tempfile.TemporaryDirectory() as folder:
                found = ARMS[name](episodes, Path(folder))
            if repeat >= 0:  # the first round warms up
                taken[name].append(found)
    return taken


def facts_of(taken: dict[str, list[Taken]], episodes: int) -> dict[str, dict[str, Any]]:
    """What is reported of every arm: by the clock, and the cores' time beside bare LangGraph's."""

    def compared(name: str, other: str, what: str) -> list[float]:
        pairs = zip(taken[name], taken[other], strict=True)
        ratios = [getattr(a, what) / getattr(b, what) for a, b in pairs]
        return [statistics.median(ratios), min(ratios), max(ratios)]

    return {
        name: {
            "us_per_call": statistics.median(t.seconds for t in found) / episodes / 3 * 1e6,
            "of_bare": compared(name, BARE, "seconds"),
            "of_bare_cpu": compared(name, BARE, "cpu"),
            "of_ours": compared(name, OURS, "seconds"),
        }
        for name, found in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = [name for name in ARMS if name != INSPECT or PEERS.exists()]
    arms = facts_of(measure(names, args.episodes, args.repeats), args.episodes)
    packages = ("superalign", "langgraph", "sqlalchemy", "langgraph-checkpoint-sqlite")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    if INSPECT in arms:
        ask = "from importlib.metadata import version; print(version('inspect_ai'))"
        found = subprocess.run([PEERS, "-c", ask], check=True, capture_output=True, text=True)
        versions["inspect_ai"] = found.stdout.strip()
    if args.picture:
        draw(arms, args.picture)
    if args.json:
        facts = {"arms": arms, "episodes": args.episodes, "repeats": args.repeats}
        print(json.dumps(facts | {"versions": versions}, indent=2))
        return
    print(f"{args.episodes} episodes of 3 calls, {CONCURRENCY} in flight, {args.repeats} repeats")
    heads = ("times bare LangGraph", "the cores' time", "times superalign")
    print(f"{'':32} us a call  " + "".join(f"{head:25}" for head in heads).rstrip())
    for name, arm in arms.items():
        spans = (arm[key] for key in ("of_bare", "of_bare_cpu", "of_ours"))
        cells = "".join(f"{f'{m:.2f} ({low:.2f} to {high:.2f})':25}" for m, low, high in spans)
        print(f"{name:32} {arm['us_per_call']:9.0f}  {cells.rstrip()}")
    if INSPECT not in arms:
        print(f"{INSPECT}: left out, there is no {PEERS}; `make peers` makes it", file=sys.stderr)
    print(", ".join(f"{name} {v}" for name, v in versions.items()))


def draw(arms: dict[str, dict[str, Any]], path: Path) -> None:
    """A dot an arm, on a scale of powers of ten."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    ax = figure.subplots()
    names = list(reversed(arms))
    values = [arms[name]["us_per_call"] for name in names]
    ax.scatter(values, names, color=["black" if name == OURS else "0.6" for name in names])
    for name, value in zip(names, values, strict=True):
        ax.annotate(f"{value:,.0f}", (value, name), (6, -4), textcoords="offset points")
    ax.grid(alpha=0.3)
    ax.set(xscale="log", xlabel="microseconds a call, without any model time")
    ax.margins(x=0.15)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
