"""A server with OpenAI's interface on this machine, which honours what it is told to and fails as
it is told to. It counts every request, so that tests can hold the store against it.

    with FakeServer() as server:
        Endpoint(server.url)
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

FAULTS = ("drop", "429", "500", "hang", "drip", "cut", "garbled", "empty")


class Call(NamedTuple):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Say = Callable[[dict[str, Any]], str | None]


def letters(body: dict[str, Any]) -> str:
    """Random letters, by the seed."""
    seed = body.get("seed", random.random()) if body.get("temperature") else 0
    most = body.get("max_tokens") or body["max_completion_tokens"]
    return "".join(random.Random(f"{seed}").choices("abcdefgh", k=min(12, most)))


class FakeServer:
    """Use in a `with`. What it does can be changed while it runs."""

    _loop: asyncio.AbstractEventLoop
    _stop: asyncio.Event

    def __init__(
        self,
        say: Say = letters,
        honours: tuple[str, ...] = ("seed", "logprobs", "json"),
        refuses: tuple[str, ...] = (),
        fault: Callable[[int], str | None] = lambda n: None,
        seconds: float = 0.0,
    ) -> None:
        self.say, self.honours, self.refuses, self.fault = say, honours, refuses, fault
        self.seconds, self.most, self.context = seconds, math.inf, 4096
        self.calls: list[Call] = []
        self.faults: Counter[str] = Counter()
        self.active, self.peak = 0, 0
        self.port = 0
        self.before, self.more = "", {}  # stands before every reply; fields of its message
        self.told = ""  # what its errors say; empty repeats the headers
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)  # set before `_started` was
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def completions(self) -> list[Call]:
        return [call for call in self.calls if call.path.endswith("/chat/completions")]

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._started.set()
            await self._stop.wait()
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run(serve())

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                pairs = (line.split(": ", 1) for line in lines)
                headers = {name.lower(): value for name, value in pairs}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                call = Call(first.split()[1], headers, json.loads(raw or b"{}"))
                if not await self._answer(call, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        self.calls.append(call)
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            return await self._served(call, writer)
        finally:
            self.active -= 1

    async def _served(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        if call.path.endswith("/models"):
            listed = {"data": [{"id": "tiny", "max_model_len": self.context}]}
            return await self._send(writer, 200, json.dumps(listed).encode())
        is_full = self.active > self.most
        fault = "429" if is_full else self.fault(len(self.completions) - 1)
        self.faults[fault or "none"] += 1
        await asyncio.sleep(0 if is_full else self.seconds)
        if refused := [field for field in self.refuses if field in call.body]:
            told = {"error": {"message": f"unknown field {refused[0]}"}}
            return await self._send(writer, 400, json.dumps(told).encode())
        if fault is not None:
            return await self._fail(fault, call, writer)
        return await self._send(writer, 200, json.dumps(self.reply(call.body)).encode())

    async def _fail(self, fault: str, call: Call, writer: asyncio.StreamWriter) -> bool:
        if fault == "drop":
            return False
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault.isdigit():
            told = self.told or f"{fault} told {call.headers}"
            body = json.dumps({"error": {"message": told}}).encode()
            return await self._send(
                writer, int(fault), body, "retry-after: 0.01\r\nlocation: /elsewhere\r\n"
            )
        if fault in ("cut", "drip"):
            whole = json.dumps(self.reply(call.body)).encode()
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(whole)}\r\n\r\n".encode())
            writer.write(whole[:20])
            await writer.drain()
            for byte in whole[20:] if fault == "drip" else b"":
                await asyncio.sleep(0.05)
                writer.write(bytes([byte]))
                await writer.drain()
            return False
        body = b'{"choices": [{"mess' if fault == "garbled" else b'{"choices": []}'
        return await self._send(writer, 200, body)

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, more: str = ""
    ) -> bool:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """What an honest server answers."""
        asked = dict(body)
        if "seed" not in self.honours:
            asked.pop("seed", None)
        text = self.say(asked)
        if "json" in self.honours and "response_format" in body:
            text = json.dumps({"pick": self.pick(body)})
        text = text and self.before + text
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text, **self.more}
        if "logprobs" in self.honours and body.get("logprobs"):
            choice["logprobs"] = {"content": [self._token(c, body) for c in text or ""]}
        return {"choices": [choice], "usage": self.usage(body, text or "")}

    def usage(self, body: dict[str, Any], text: str) -> dict[str, int]:
        """The tokens that it counts."""
        return {"prompt_tokens": 11, "completion_tokens": 7}

    def pick(self, body: dict[str, Any]) -> int:
        """The choice it decides for."""
        return 1

    def _token(self, text: str, body: dict[str, Any]) -> dict[str, Any]:
        told = {"token": text, "logprob": math.log(0.6)}
        rivals = [{"token": "0", "logprob": math.log(0.2)}, {"token": "7", "logprob": -3.0}]
        return told | {"top_logprobs": [told, *rivals] if body.get("top_logprobs") else []}
