"""How episodes share an engine that has fewer places than they want.

    python benchmarks/scheduler.py [--episodes 600] [--places 32] [--latency 0.02] [--repeats 3]
        [--json]

A simulated engine answers `places` calls at a time, each after `latency` seconds. Of ten episodes
eight make 2 calls, one makes 60, one 100 at once. Arms, in turn within every repeat: episodes in
flight fixed, calls first come first served; fixed, the oldest episode first; fixed, in turn
(agents/line.py); and in turn with as many in flight as it takes (protocols/flow.py). Reported: how
long each kind takes from its first call to its end, as a multiple of what it takes alone; the share
of the engine's places that was used until nothing more was left to begin; the most in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from overhead import Anything

from superalign.agents import Agent, Completion, Request, Sampling, chat
from superalign.agents.line import Line
from superalign.protocols import Ask, Context, State, Update, Verdict, protocol
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Limits, Plan, Setting
from superalign.store import Question, Store, Task

KINDS = {"short": 2, "long": 60, "wide": 100}
"""Calls of an episode; those of a wide one are made at once."""
MIX = ("short",) * 4 + ("long",) + ("short",) * 4 + ("wide",)
FIXED = 256


@protocol(seats=("learner",))
def mixed() -> StateGraph[State, Context]:
    async def speak(state: State, runtime: Runtime[Context]) -> Update:
        seat, kind = runtime.context.cast["learner"], state["question"].topic
        if kind == "wide":
            calls = (seat.act(state, Ask(kind="answer"), f"{i:03}") for i in range(KINDS[kind]))
            turns = await asyncio.gather(*calls)
        else:
            turns = [await seat.act(state, Ask(kind="answer")) for _ in range(KINDS[kind])]
        return {"turns": turns, "verdict": Verdict(value="ok", seat="learner")}

    return (
        StateGraph(State, Context).add_node(speak).add_edge(START, "speak").add_edge("speak", END)
    )


class Arrival(Line[Any]):
    """First come, first served."""

    def push(self, call: Any, episode: str) -> None:
        super().push(call, "")


class Age(Line[Any]):
    """Calls of the episode that began first go first."""

    def __init__(self) -> None:
        super().__init__()
        self._born: dict[str, int] = {}

    def push(self, call: Any, episode: str) -> None:
        born = self._born.setdefault(episode, len(self._born))
        heapq.heappush(self._waiting, (born, next(self._numbers), call))


class Places:
    """An engine of so many places, behind the `Model` port."""

    name, dialect = "simulated", chat

    def __init__(self, places: int, latency: float, line: Line[Any], tells: bool) -> None:
        self.places, self.latency, self.tells = places, latency, tells
        self.busy, self.used, self._line = 0, 0.0, line
        self._since = time.perf_counter()

    @property
    def pressure(self) -> float:
        return len(self._line) / self.places if self.tells else 0.0

    def moved(self, by: int) -> None:
        now = time.perf_counter()
        self.used += self.busy * (now - self._since)
        self.busy, self._since = self.busy + by, now
        while self._line and self.busy < self.places:
            self._line.pop().set_result(None)
            self.moved(1)

    async def generate(self, request: Request) -> Completion:
        place = asyncio.get_running_loop().create_future()
        self._line.push(place, request.episode)
        self.moved(0)
        await place
        await asyncio.sleep(self.latency)
        self.moved(-1)
        return Completion("x")

    async def close(self) -> None:
        """Nothing to let go of."""


ARMS: dict[str, tuple[Callable[[], Line[Any]], bool]] = {
    f"{FIXED} in flight, as calls come": (Arrival, False),
    f"{FIXED} in flight, oldest first": (Age, False),
    f"{FIXED} in flight, in turn": (Line, False),
    "as many as it takes, in turn": (Line, True),
}


async def play(arm: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    make, tells = ARMS[arm]
    engine = Places(args.places, args.latency, make(), tells)
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    begun, most, facts = 0, 0, {}
    ended = count()

    def plans() -> Iterator[Plan]:
        nonlocal begun
        for i in range(args.episodes):
            begun += 1
            task = Task(question=Question(topic=MIX[i % len(MIX)]))
            yield Plan(run="bench", scenario="bench", index=i, task=task, seed=i)
        engine.moved(0)
        facts["share"] = engine.used / engine.places / (time.perf_counter() - started)

    def on_end(episode: Any) -> None:
        nonlocal most
        most = max(most, begun - next(ended))
        kind = episode.task.question.topic
        alone = args.latency * (-(-KINDS["wide"] // args.places) if kind == "wide" else KINDS[kind])
        took[kind].append(episode.seconds / alone)

    with Store.open(folder / "store.sqlite", write=True) as store:
        cast = {"learner": Agent(engine, "simulated", Sampling())}
        setting = Setting(mixed, {}, cast, store, Anything(), Limits())
        started = time.perf_counter()
        await run_many(setting, plans(), on_end, FIXED)
        facts["seconds"] = time.perf_counter() - started
    for kind, times in took.items():
        facts[kind] = statistics.median(times)
        facts[f"{kind}_p95"] = sorted(times)[int(0.95 * len(times))]
    return facts | {"most": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(args.repeats):
        for arm in ARMS:
            with tempfile.TemporaryDirectory() as folder:
                found[arm].append(asyncio.run(play(arm, args, Path(folder))))
    arms = {
        arm: {key: statistics.median(one[key] for one in some) for key in some[0]}
        for arm, some in found.items()
    }
    versions = {"python": platform.python_version(), "superalign": version("superalign")}
    if args.json:
        print(json.dumps({"arms": arms, "versions": versions}, indent=2))
        return
    print(f"{args.episodes} episodes, {args.places} places, {args.latency:g} s a call,", end=" ")
    print(
        f"{args.repeats} repeats; times as multiples of an episode alone: median, 95th percentile"
    )
    print(f"{'':34}{'short':>12}{'long':>14}{'wide':>14}   used  in flight  seconds")
    for arm, fact in arms.items():
        cells = "".join(f"{fact[k]:7.1f}{fact[f'{k}_p95']:7.1f}" for k in KINDS)
        tail = f"{fact['share']:7.0%} {fact['most']:10.0f} {fact['seconds']:8.1f}"
        print(f"{arm:32}{cells}{tail}")
    print(", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
