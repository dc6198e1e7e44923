"""A server with OpenAI's interface that answers late and bears only so much: for endpoint.py.

    python benchmarks/endpoint_server.py {places|retry-after|per-minute}

It prints its address and serves until it is ended. `GET /stats` tells what it was sent, and how
much of its capacity that used.

    places        32 calls at once; beyond them 429, and not a word of when to come again
    retry-after   the same, with `Retry-After: 1`
    per-minute    1,200 calls a minute, twenty at a time; beyond them 429 with the seconds to wait

The n-th call that it takes is answered after the n-th of a fixed sequence of latencies: log-normal,
cut to 0.5 to 5 s. So all arms are given the same work. A reply that `max_tokens` cuts takes as much
less time, but never less than 0.5 s.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from typing import Any

PLACES = 32
RATE, BURST = 20.0, 20.0
"""Calls a second, and how many may come at once after a pause."""
LEAST, MOST = 0.5, 5.0
"""Seconds of a call."""
MEDIAN, SPREAD = 1.0, 0.8
TOKENS = 40
"""A second, give or take half."""
KINDS = ("places", "retry-after", "per-minute")


def latencies() -> random.Random:
    """Where the seconds of one call after another come from."""
    return random.Random(20)


def drawn(rng: random.Random) -> float:
    return min(max(rng.lognormvariate(math.log(MEDIAN), SPREAD), LEAST), MOST)


class Server:
    """What it bears, and what it has counted."""

    def __init__(self, kind: str) -> None:
        self.kind, self.rng = kind, latencies()
        self.noise = random.Random(21)
        self.active, self.taken, self.refused, self.tokens = 0, 0, 0, 0
        self.busy, self.credit = 0.0, BURST
        self.first = self.last = self.filled = 0.0

    async def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        """Status, answer and further headers of one call."""
        now = time.monotonic()
        self.first = self.first or now
        more = self._refusal(now)
        if more is not None:
            self.refused += 1
            return 429, {"error": {"message": "too many calls"}}, more
        seconds = drawn(self.rng)
        tokens = max(1, round(TOKENS * seconds * self.noise.uniform(0.5, 1.5)))
        most = body.get("max_tokens") or tokens
        if tokens > most:
            seconds, tokens = max(LEAST, seconds * most / tokens), most
        self.taken += 1
        self.active += 1
        await asyncio.sleep(seconds)
        self.active -= 1
        self.busy += seconds
        self.last = time.monotonic()
        self.tokens += tokens
        text = '{"pick": 0}' if "response_format" in body else "a word"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
        reply = {"id": f"{self.taken}", "object": "chat.completion", "created": 0, "model": "tiny"}
        return 200, {**reply, "choices": [choice], "usage": usage}, ""

    def _refusal(self, now: float) -> str | None:
        """The headers of a refusal; None where there is room."""
        if self.kind != "per-minute":
            hint = "retry-after: 1\r\n" if self.kind == "retry-after" else ""
            return None if self.active < PLACES else hint
        self.credit = min(BURST, self.credit + RATE * (now - (self.filled or now)))
        self.filled = now
        if self.credit < 1:
            return f"retry-after: {math.ceil((1 - self.credit) / RATE)}\r\n"
        self.credit -= 1
        return None

    def stats(self) -> dict[str, Any]:
        span = self.last - self.first
        full = BURST + RATE * span if self.kind == "per-minute" else PLACES * span
        used = self.taken if self.kind == "per-minute" else self.busy
        counted = {"taken": self.taken, "refused": self.refused, "tokens": self.tokens}
        return {**counted, "seconds": span, "share": used / full if full else 0.0}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first request to its last."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path, more = first.split()[1], ""
                if path.endswith("/chat/completions"):
                    status, told, more = await self.complete(json.loads(body))
                elif path == "/stats":
                    status, told = 200, self.stats()
                else:
                    status, told = 200, {"data": [{"id": "tiny", "max_model_len": 4096}]}
                text = json.dumps(told).encode()
                line = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}"
                writer.write(f"{line}content-length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main(kind: str) -> None:
    server = await asyncio.start_server(Server(kind).talk, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
