"""How busy a server is kept that nobody knows the size of: found by itself, or told beforehand.

    make peers
    python benchmarks/endpoint.py [--calls 480] [--json] [--plot docs/endpoint.png]

Three servers (endpoint_server.py), each in a process of its own, answer after 0.5 to 5 s and bear
only so much: two have places, with and without `Retry-After`, one so many calls a minute. Each arm
sends its calls, all at once, to a fresh server of each kind, the three side by side:

    superalign          a run of a scenario of one call an episode, probe and store and all
    Inspect, adaptive   an evaluation of one call a sample; finds the number by itself
    Inspect, N          the same, told the number (`max_connections`)
    semaphore, N        openai's own client, which tries again by itself, in a semaphore

The share is that of the server's capacity, from the first call to the last answer: the time to find
the number counts, and so do the last calls, which leave places empty in every arm. Arms that are
narrower than the server send fewer calls, so that all take about as long.

Target: no call is given up, and no width that gives none up does better, unless it is the number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from endpoint_server import KINDS, PLACES
from openai import AsyncOpenAI, OpenAIError

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers" / "bin" / "python"
BODY = {"model": "tiny", "max_tokens": 512, "messages": [{"role": "user", "content": "hi"}]}
WIDTHS = (8, 24, PLACES, 64, 256)
RIGHT = {"places": PLACES, "retry-after": PLACES, "per-minute": 28}
"""Calls at once that use the whole of a server: of one that counts calls, its rate x their mean
seconds."""
SCENARIO = """
name: asked
world: {{kind: dataset, path: ./asked.jsonl, columns: {{text: q, target: a}}}}
models: {{tiny: {{engine: openai, base_url: "{url}/v1", model: tiny}}}}
protocol: {{name: direct}}
cast: {{learner: {{model: tiny, max_tokens: 512}}}}
episodes: {calls}
concurrency: 1024
limits: {{failed_share: 1.0}}
"""


class Arm(NamedTuple):
    name: str
    width: int | None
    """Most calls at once; None finds it out."""
    send: Callable[[str, int, Path], Awaitable[int]]
    """Sends so many calls to a server; how many were given up."""


async def superalign(url: str, calls: int, folder: Path) -> int:
    asked = range(2 * calls)  # a fifth of a world's questions is held out
    lines = (json.dumps({"q": f"question {i}", "a": "a word"}) for i in asked)
    (folder / "asked.jsonl").write_text("\n".join(lines))
    (folder / "asked.yaml").write_text(SCENARIO.format(url=url, calls=calls))
    command = Path(sys.executable).with_name("superalign")
    return json.loads(await told(command, "run", "asked.yaml", "--json", folder=folder))["failed"]


def inspect(width: int | None) -> Arm:
    async def send(url: str, calls: int, folder: Path) -> int:
        words = [f"{url}/v1", str(calls), str(folder), *([str(width)] if width else [])]
        return int(await told(PEERS, HERE / "endpoint_inspect.py", *words, folder=folder))

    return Arm("Inspect, adaptive" if width is None else f"Inspect, {width}", width, send)


def semaphore(width: int) -> Arm:
    async def send(url: str, calls: int, _: Path) -> int:
        gate = asyncio.Semaphore(width)
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=7) as client:

            async def one() -> bool:
                async with gate:
                    try:
                        await client.post("/chat/completions", body=BODY, cast_to=dict)
                    except OpenAIError:
                        return True
                    return False

            return sum(await asyncio.gather(*(one() for _ in range(calls))))

    return Arm(f"semaphore, {width}", width, send)


async def told(*command: Path | str, folder: Path) -> str:
    """What a command prints. Raises when it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]}: exit {process.returncode}\n{err.decode()}")
    return out.decode()


async def measure(arm: Arm, kind: str, calls: int) -> dict[str, Any]:
    """Send all calls by one arm to a server of its own."""
    calls = round(calls * min(1.0, (arm.width or PLACES) / PLACES))
    server = await asyncio.create_subprocess_exec(
        sys.executable, HERE / "endpoint_server.py", kind, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        url = (await server.stdout.readline()).decode().strip()
        with tempfile.TemporaryDirectory() as folder:
            given_up = await arm.send(url, calls, Path(folder))
        async with httpx2.AsyncClient() as client:
            stats = (await client.get(f"{url}/stats")).json()
    finally:
        server.terminate()
        await server.wait()
    stats["refused"] /= stats["refused"] + stats["taken"]
    stats["tokens_per_second"] = stats.pop("tokens") / stats["seconds"]
    known = arm.width == RIGHT[kind]
    return {"server": kind, "arm": arm.name, "knows": known, **stats, "given_up": given_up}


async def measure_all(arms: list[Arm], calls: int) -> list[dict[str, Any]]:
    found = []
    for arm in arms:
        found += await asyncio.gather(*(measure(arm, kind, calls) for kind in KINDS))
    return found


def better(rows: list[dict[str, Any]]) -> list[str]:
    """The arms that give up no call, do not know the number, and do better than superalign."""
    ours = {row["server"]: row["share"] for row in rows if row["arm"] == "superalign"}
    return [
        f"{row['arm']} ({row['server']})"
        for row in rows
        if row["share"] > ours[row["server"]] and not row["given_up"] and not row["knows"]
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(KINDS), figsize=(11, 4), sharex=True, sharey=True)
    for axis, kind in zip(axes, KINDS, strict=True):
        some = [row for row in rows if row["server"] == kind][::-1]
        colours = ["#b3452c" if r["given_up"] else "#2c6e8f" for r in some]
        bars = axis.barh([row["arm"] for row in some], [row["share"] for row in some])
        for bar, colour, row in zip(bars, colours, some, strict=True):
            bar.set_color(colour)
            lost = f" {row['given_up']} given up" if row["given_up"] else ""
            text = f" {row['share']:.0%}{lost}{', the number' if row['knows'] else ''}"
            axis.text(row["share"], bar.get_y() + bar.get_height() / 2, text, va="center", size=8)
        axis.set_title(kind)
        axis.set_xlim(0, 1.5)
        axis.set_xticks([0, 0.5, 1])
    figure.supxlabel("share of the server's capacity; red: calls were given up")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--calls", type=int, default=480)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if not PEERS.exists():
        parser.error(f"there is no {PEERS}; `make peers` makes it")
    arms = [Arm("superalign", None, superalign), inspect(None), inspect(10), inspect(PLACES)]
    arms += map(semaphore, WIDTHS)
    rows = asyncio.run(measure_all(arms, args.calls))
    names = ("openai", "httpx2", "superalign")
    numbers = {"python": platform.python_version(), **{n: version(n) for n in names}}
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        print(json.dumps({"calls": args.calls, "arms": rows, "versions": numbers}, indent=2))
        return
    heads = f"{'seconds':>8}{'of it':>7}{'refused':>9}{'given up':>10}{'tok/s':>8}"
    print(f"{'server':13}{'arm':20}{heads}")
    for kind in KINDS:
        for row in (row for row in rows if row["server"] == kind):
            figures = f"{row['seconds']:8.1f}{row['share']:7.0%}{row['refused']:9.1%}"
            more = f"{row['given_up']:10}{row['tokens_per_second']:8.0f}"
            print(f"{kind:13}{row['arm']:20}{figures}{more}{' (the number)' * row['knows']}")
    print(f"better than superalign: {', '.join(better(rows)) or 'none'}")
    print(", ".join(f"{name} {number}" for name, number in numbers.items()))


if __name__ == "__main__":
    main()
