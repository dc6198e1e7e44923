"""How busy a server is kept that nobody knows the size of: found by itself, or told beforehand.

    python benchmarks/endpoint.py [--places 32] [--seconds 1.0] [--calls 480] [--json]

A server on this machine answers each call after a fixed time and has a number of places. Beyond
them it says 429 at once. The same calls are sent by each arm, all at once: through an `Endpoint`,
which finds the number by itself; and as most programs do it, through a semaphore of a fixed width
around openai's own client, which tries again by itself. The share is that of the server's capacity,
from the first call to the last answer: the time to find the number counts.

Target: no call is given up, and no width does better that gives none up, unless it is the number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import runpy
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from superalign.agents.endpoint import Endpoint
from superalign.agents.reply import first_choice

FAKE = Path(__file__).parent.parent / "tests" / "fake_server.py"
WIDTHS = (8, 64, 256)
BODY = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}


async def found(url: str, calls: int) -> int:
    """Through an endpoint; how many calls were given up."""
    endpoint = Endpoint(url)
    sent = (endpoint.post("/chat/completions", BODY, first_choice) for _ in range(calls))
    told = await asyncio.gather(*sent, return_exceptions=True)
    await endpoint.close()
    return sum(isinstance(answer, BaseException) for answer in told)


async def told(url: str, calls: int, width: int) -> int:
    """Through a semaphore; how many calls were given up."""
    client, gate = (
        AsyncOpenAI(base_url=url, api_key="none", max_retries=7),
        asyncio.Semaphore(width),
    )

    async def one() -> bool:
        async with gate:
            try:
                await client.post("/chat/completions", body=BODY, cast_to=dict)
            except OpenAIError:
                return True
            return False

    lost = await asyncio.gather(*(one() for _ in range(calls)))
    await client.close()
    return sum(lost)


def measure(arm: str, width: int | None, args: argparse.Namespace) -> dict[str, Any]:
    """Send all calls by one arm to a server of its own."""
    places, seconds, calls = args.places, args.seconds, args.calls
    with runpy.run_path(str(FAKE))["FakeServer"](seconds=seconds) as server:
        server.most = places
        started = time.perf_counter()
        asked = found(server.url, calls) if width is None else told(server.url, calls, width)
        lost = asyncio.run(asked)
        took = time.perf_counter() - started
        refused = server.faults["429"] / len(server.calls)
    share = (calls - lost) * seconds / places / took
    return {"arm": arm, "seconds": took, "share": share, "refused": refused, "given_up": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--calls", type=int, default=480)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    arms: list[tuple[str, int | None]]
    arms = [("superalign", None), *((f"semaphore of {width}", width) for width in WIDTHS)]
    arms.append(("semaphore that knows", args.places))
    facts: dict[str, Any] = {
        **vars(args),
        "arms": [measure(arm, width, args) for arm, width in arms],
    }
    names = ("openai", "httpx2", "superalign")
    facts["versions"] = {"python": platform.python_version(), **{n: version(n) for n in names}}
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{args.calls} calls of {args.seconds:g} s, {args.places} places; 429 beyond them")
    print(f"{'arm':22}{'seconds':>9}{'capacity':>10}{'refused':>9}{'given up':>10}")
    for a in facts["arms"]:
        row = f"{a['seconds']:9.1f}{a['share']:10.0%}{a['refused']:9.1%}{a['given_up']:10}"
        print(f"{a['arm']:22}{row}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))


if __name__ == "__main__":
    main()
