"""An endpoint that speaks OpenAI's HTTP interface: one client, one layer that tries again.

Every request is an `Attempt` with its status and its seconds, so that what a server counts is what
the store holds. The key is read from the environment when it is needed, sent in one header, and
taken out of every text that comes back.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, Omit

from superalign.store.errors import BadInput, ModelError
from superalign.store.records import Attempt

from .pace import Pace
from .reply import Broken, usage_of

Answer = TypeVar("Answer")

TRIES = 8
"""Attempts of one call. The pauses between them add up to about a minute."""
PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, doubled from one to the next, and the most of them."""
LONGEST_HOLD = 300.0
"""Most seconds that a server's `Retry-After` is obeyed."""
OVERLOADED = {"429", "503", "529"}
"""Statuses that say that there is too much to do."""
STRAINED = {"408", "500", "502", "504", "timeout"}
"""Statuses that may mean that."""
AGAIN = OVERLOADED | STRAINED | {"409", "425", "refused", "cut", "garbled", "empty"}
"""Statuses of which another attempt may do better."""
CONNECT = 10.0
"""Seconds that a server may take to be reached."""
RECONNECTS = 3
"""Times that a connection to a socket is sought again. Nothing has been sent by then."""
LONGEST_MESSAGE = 300
MASK = "[key]"


class Failure(NamedTuple):
    """Why an attempt gave no answer."""

    status: str
    message: str
    wait: float | None = None
    """Seconds that the server asks for."""


class Endpoint:
    """A server under one address. Shared by all models that it serves; close it."""

    def __init__(
        self,
        base_url: str,
        api_key_env: str | None = None,
        concurrency: int | None = None,
        timeout: float = 120.0,
        socket: Path | None = None,
        ready: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        """`api_key_env` names the environment's variable that holds the key; `timeout` bounds one
        attempt from its first to its last byte. A server of one's own may listen on a `socket`,
        and `ready` is waited for before every attempt, told whether one has failed. Raises BadInput
        when there is no key."""
        self.base_url, self.timeout, self.pace = base_url, timeout, Pace(concurrency)
        self._socket, self._ready = socket, ready
        self._key = os.environ.get(api_key_env, "").strip() if api_key_env else ""
        if api_key_env and not self._key:
            raise BadInput(f"{base_url}: ${api_key_env} is empty; put the endpoint's key there")
        if not (self._key.isascii() and self._key.isprintable()):
            raise BadInput(f"{base_url}: ${api_key_env} holds what no key can hold; mend it")
        self._client: AsyncOpenAI | None = None
        self._closed = False

    async def post(
        self, path: str, body: dict[str, Any], read: Callable[[Any], Answer], episode: str = ""
    ) -> tuple[Answer, tuple[Attempt, ...]]:
        """What `read` makes of the answer, and all attempts. Raises ModelError with them. Where
        calls wait for a place, episodes take turns."""
        attempts: list[Attempt] = []
        while True:
            try:
                window = await self._enter(episode, bool(attempts))
            except ModelError as error:  # the server is gone for good
                raise ModelError(str(error), tuple(attempts)) from error
            answer, failure = await self._attempt(path, body, read, attempts, window)
            if failure is None:
                return answer, tuple(attempts)
            if failure.status not in AGAIN or len(attempts) == TRIES:
                raise ModelError(self._explain(failure, attempts), tuple(attempts))
            pause = min(PAUSE * 2 ** (len(attempts) - 1), LONGEST_PAUSE)
            asked = failure.wait
            await asyncio.sleep(pause * random.uniform(0.5, 1.0) if asked is None else asked)

    async def get(self, path: str) -> Any:
        """A document of the server's; None where it has none that can be read."""
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self.client.get(path, cast_to=httpx2.Response)
            return json.loads(answer.content)
        except (APIConnectionError, APIStatusError, TimeoutError, ValueError, RecursionError):
            return None

    async def close(self) -> None:
        """Close the client: a dropped one would take other clients' requests with it."""
        self._closed = True
        if self._client is not None:
            await self._client.close()

    @property
    def client(self) -> AsyncOpenAI:
        if self._closed:
            raise RuntimeError(f"the endpoint {self.base_url} is closed")
        if self._client is None:
            nobody: Any = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.pace.cap)
            # a redirect would send the prompt, and perhaps the key, to who knows where
            timeout = httpx2.Timeout(self.timeout, connect=min(self.timeout, CONNECT))
            socket = str(self._socket) if self._socket else None
            # a socket whose queue of callers is full refuses at once, where a port lets them wait
            given: Any = {"limits": limits, "uds": socket, "retries": RECONNECTS}
            transport = httpx2.AsyncHTTPTransport(**given) if socket else None
            http = httpx2.AsyncClient(
                follow_redirects=False, timeout=timeout, limits=limits, transport=transport
            )
            self._client = AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._key or "none",
                max_retries=0,
                http_client=http,
                default_headers=nobody,
            )
        return self._client

    def scrub(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, MASK) if len(self._key) >= 8 else text

    async def _attempt(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[Any], Answer],
        attempts: list[Attempt],
        window: int,
    ) -> tuple[Any, Failure | None]:
        started = time.perf_counter()
        answer, usage, failure = None, (0, 0), None
        try:
            async with asyncio.timeout(self.timeout):
                raw = await self.client.post(path, body=body, cast_to=httpx2.Response)
            reply = json.loads(raw.content)
            usage = usage_of(reply)
            answer = read(reply)
        except Exception as error:
            failure = self._failure(error)
        finally:
            self.pace.leave()
        status = "200" if failure is None else failure.status
        seconds = time.perf_counter() - started
        attempts.append(
            Attempt(
                status=status,
                seconds=seconds,
                prompt_tokens=usage[0],
                completion_tokens=usage[1],
            )
        )
        if failure is None:
            self.pace.succeeded(window, usage[1], seconds)
        elif status in OVERLOADED:
            self.pace.overloaded(window, failure.wait or 0.0)
        elif status in STRAINED:
            self.pace.failed(window)
        return answer, failure

    async def _enter(self, episode: str, again: bool) -> int:
        """Wait for a place, and for the server; gives the window that the attempt belongs to."""
        window = await self.pace.enter(episode)
        if self._ready is not None:
            try:
                await self._ready(again)
            except BaseException:
                self.pace.leave()
                raise
        return window

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, APIStatusError):
            said = self.scrub(_said(error.response.content))[:LONGEST_MESSAGE]
            wait = _retry_after(error.response.headers)
            return Failure(str(error.status_code), said, wait)
        if isinstance(error, APITimeoutError | TimeoutError):
            return Failure("timeout", f"no answer within {self.timeout:g} s")
        if isinstance(error, APIConnectionError):
            cause = error.__cause__
            kind = "refused" if isinstance(cause, httpx2.ConnectError) else "cut"
            return Failure(kind, self.scrub(str(cause or error)))
        if isinstance(error, Broken):
            return Failure(*error.args)
        if isinstance(error, ValueError | RecursionError):
            return Failure("garbled", "the answer is no JSON")
        raise error

    def _explain(self, failure: Failure, attempts: list[Attempt]) -> str:
        said = f": {failure.message}" if failure.message else ""
        if len(attempts) == 1:
            return f"{self.base_url}: {failure.status}{said}"
        tried = ", ".join(attempt.status for attempt in attempts)
        return f"{self.base_url}: given up after {len(attempts)} attempts ({tried}){said}"


def _said(body: bytes) -> str:
    """What an error's body says, on one line. To be cut once no key is in it."""
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        told = body.decode(errors="replace")
    for key in ("error", "message", "detail"):
        if isinstance(told, dict) and key in told:
            told = told[key]
    return " ".join(str(told).split())


def _retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait: a number or a date."""
    asked = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if asked[0] is not None:
            seconds = float(asked[0]) / 1000
        elif asked[1] is not None and asked[1].strip()[:1].isdigit():
            seconds = float(asked[1])
        elif asked[1] is not None:
            seconds = (parsedate_to_datetime(asked[1]) - datetime.now(UTC)).total_seconds()
        else:
            return None
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), LONGEST_HOLD) if seconds == seconds else None
