"""What the kernel and its journal cost beside bare LangGraph, without any model time.

    python benchmarks/overhead.py [--episodes 1000] [--repeats 7] [--json]

A three-node graph, scripted models that answer at once, 1,000 episodes, 64 in flight. Arms, taken
in turn within every repeat: bare LangGraph without any persistence; superalign with its journal on
disk; the same with a store that writes nothing; LangGraph with its own SQLite checkpointer.
Reported: the median over repeats of each repeat's ratio to bare LangGraph. Target: 1.3.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def bare_graph() -> StateGraph[State]:
    """The same state and nodes without the kernel: they ask the same model and return its text."""
    model, request = (
        Scripted([TEXT]),
        Request((), Sampling(), 0, "", View("", Question(), None, Ask("answer")), "", 0),
    )

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


ARMS = {
    "bare LangGraph": bare_arm,
    "superalign, nothing written": unwritten_arm,
    "superalign, journal on disk": superalign_arm,
    "LangGraph + SQLite checkpointer": checkpointer_arm,
}


def measure(episodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every arm in every repeat; the arms take turns, their order rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for repeat in range(-1, repeats):
        names = list(ARMS)
        for name in names[repeat % len(ARMS) :] + names[: repeat % len(ARMS)]:
            with tempfile.TemporaryDirectory() as folder:
                gc.collect()
                started = time.perf_counter()
                asyncio.run(ARMS[name](episodes, Path(folder)))
                if repeat >= 0:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seconds = measure(args.episodes, args.repeats)
    base = seconds["bare LangGraph"]
    arms = {}
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, base, strict=True)]
        arms[name] = {
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "us_per_call": round(statistics.median(taken) / args.episodes / 3 * 1e6),
        }
    packages = ("superalign", "langgraph", "sqlalchemy", "langgraph-checkpoint-sqlite")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    facts = {"arms": arms, "episodes": args.episodes, "repeats": args.repeats, "versions": versions}
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{args.episodes} episodes of 3 calls, {CONCURRENCY} in flight, {args.repeats} repeats")
    for name, arm in arms.items():
        low, high = arm["ratio_range"]
        print(f"{name:34} {arm['ratio']:6.2f} times bare ({low:.2f} to {high:.2f})", end="")
        print(f"  {arm['us_per_call']:6} us a call")
    print(", ".join(f"{name} {v}" for name, v in versions.items()))


if __name__ == "__main__":
    main()
