"""How time, memory and the store's file grow with episodes, turns and episodes in flight.

    python benchmarks/scaling.py [--most 100000] [--turns 1000] [--picture FILE.png] [--json]

Each point is a whole `superalign run` in a process of its own: play, rows, report. Scripted models.

    episodes      1e2 to --most, three turns each, a model that answers at once
    turns         1,000 episodes of 1 to --turns turns each, so 1e3 turns to 1e6
    concurrency   1,024 episodes of three turns by a model that takes 10 ms, 1 to 1,024 in flight

Peak memory is the process's own. Lines are fitted to the logarithms of what is above a run of one
episode: a slope of 1 is a straight line, 0 is flat; with the 95% interval of the fit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from scipy import stats

from superalign.protocols import Ask, Context, State, Update, Verdict, protocol

SUPERALIGN = Path(sys.executable).parent / "superalign"
TEXT = "x" * 200
LATENCY = 0.01
SCENARIO = """
name: scaling
world: {{kind: arithmetic}}
models:
  at_once: {{engine: scripted, replies: ["{text}"]}}
  later: {{engine: scripted, function: "./players.py:later"}}
protocol: {{name: talk, path: ./scaling.py, turns: {turns}}}
cast:
  learner: {{model: {model}}}
episodes: {episodes}
concurrency: {concurrency}
limits: {{calls: {calls}, steps: {calls}}}
"""

PLAYERS = f"""
import asyncio

async def later(request):
    await asyncio.sleep({LATENCY})
    return "{TEXT}"
"""


@protocol(seats=("learner",))
def talk(turns: int = 3) -> StateGraph[State, Context]:
    async def speak(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="answer", about=tuple(state["turns"][-1:]))
        turn = await runtime.context.cast["learner"].act(state, ask)
        return {"turns": [turn], "verdict": Verdict(value="ok", seat="learner", turn=turn.key)}

    def more(state: State) -> str:
        return "speak" if len(state["turns"]) < turns else END

    graph = StateGraph(State, context_schema=Context).add_node("speak", speak)
    return graph.add_edge(START, "speak").add_conditional_edges("speak", more, ["speak", END])


class Point(NamedTuple):
    """What one run took."""

    x: int
    seconds: float
    memory_mb: float
    file_mb: float


def measure(x: int, episodes: int, turns: int = 3, **more: Any) -> Point:
    """One run in a process of its own."""
    facts = {"model": "at_once", "concurrency": 4096, "calls": turns + 2, **more}
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "scaling.yaml"
        scenario.write_text(SCENARIO.format(episodes=episodes, turns=turns, text=TEXT, **facts))
        scenario.with_name("players.py").write_text(PLAYERS)
        shutil.copy(__file__, scenario.with_name("scaling.py"))
        words = [SUPERALIGN, "run", scenario, "--out", folder]
        started = time.perf_counter()
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, child.stderr and child.stderr.read().decode()
        file_mb = (Path(folder) / "scaling-1" / "store.sqlite").stat().st_size / 2**20
    point = Point(x, seconds, used.ru_maxrss / 2**10, file_mb)
    print(f"{x}: {point}", file=sys.stderr, flush=True)
    return point


def decades(low: int, high: int, each: int) -> list[int]:
    """So many numbers a decade."""
    steps = range(round(each * math.log10(low)), round(each * math.log10(high)) + 1)
    return [round(10 ** (step / each)) for step in steps]


def slope(points: list[Point], start: Point, what: str) -> list[float] | None:
    """Of the fitted line, with its 95% interval; None where nothing is above the start."""
    above = [(p.x, getattr(p, what) - getattr(start, what)) for p in points]
    logs = [(math.log(x), math.log(y)) for x, y in above if y > 0]
    if len(logs) < 3:
        return None
    fit: Any = stats.linregress([x for x, _ in logs], [y for _, y in logs])
    half = float(stats.t.ppf(0.975, len(logs) - 2)) * fit.stderr
    return [fit.slope, fit.slope - half, fit.slope + half]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    start = measure(1, 1)
    curves = {
        "episodes": [measure(n, n) for n in decades(100, args.most, 1)],
        "turns": [measure(1000 * n, 1000, n) for n in decades(1, args.turns, 2)],
        "concurrency": [
            measure(n, 1024, model="later", concurrency=n) for n in (1, 4, 16, 64, 256, 1024)
        ],
    }
    whats = Point._fields[1:]
    slopes = {
        name: {what: slope(points, start, what) for what in whats}
        for name, points in curves.items()
    }
    versions = {p: version(p) for p in ("superalign", "langgraph", "sqlalchemy")}
    versions = {"python": platform.python_version(), **versions}
    if args.picture:
        draw(curves, args.picture)
    if args.json:
        found = {name: [p._asdict() for p in points] for name, points in curves.items()}
        facts = {"start": start._asdict(), "curves": found, "slopes": slopes}
        print(json.dumps(facts | {"versions": versions}, indent=2))
        return
    print(f"one episode: {start.seconds:.1f} s, {start.memory_mb:.0f} MB, {start.file_mb:.2f} MB")
    for name, points in curves.items():
        print(f"{name:>12}   seconds  peak MB  file MB")
        for p in points:
            print(f"{p.x:12,} {p.seconds:9.1f} {p.memory_mb:8.0f} {p.file_mb:8.1f}")
        for what, found in slopes[name].items():
            if found is not None:
                low, high = found[1:]
                print(f"{'slope of ' + what:>24} {found[0]:5.2f} ({low:.2f} to {high:.2f})")
    print(", ".join(f"{name} {number}" for name, number in versions.items()))


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """A row of panels: time, memory and file, a curve for each of the things that grow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    units = {"seconds": "seconds", "memory_mb": "peak memory, MB", "file_mb": "store's file, MB"}
    for ax, (what, label) in zip(figure.subplots(1, 3), units.items(), strict=True):
        for name, points in curves.items():
            ys = [getattr(p, what) for p in points]
            ax.plot([p.x for p in points], ys, marker="o", markersize=3, label=name)
        ax.set(xscale="log", yscale="linear" if what == "memory_mb" else "log", title=label)
        if what == "memory_mb":
            ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
