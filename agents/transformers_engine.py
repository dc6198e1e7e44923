"""Models in this process: the calls of all episodes share one running batch per policy version.

Each turn of the loop lets newcomers in, writes one token to every row, and hands out the rows
that are finished (`batch.py`). Turns run in one thread of their own, so episodes go on meanwhile.
What a call answers depends on its messages, sampling and seed alone, not on who shares the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from .batch import Batch, Policy, Row
from .dialects import Dialect
from .line import Line
from .model import Completion, Request
from .prefixes import Prefixes
from .rollouts import policy_of, uniforms
from .slots import Slots
from .tokens import decode, encode_prompt
from .torch_thread import TORCH
from .weights import base_of, drop_adapter, load_adapter, load_model, wear


class TransformersModel:
    """A causal language model of Hugging Face and its policy versions, behind the `Model` port.

    `path` is a folder with safetensors and a tokenizer; nothing is downloaded and no code of the
    folder is run. Requests name the version they want in `policy`; the base is called `name`.
    Versions that are adapters of one model share it in memory.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        dialect: Dialect,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_batch: int = 256,
    ) -> None:
        self.name, self.dialect = name, dialect
        self.device, self.dtype, self.max_batch = device, dtype, max_batch
        self.tokenizer = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
        self._models: dict[Path, PreTrainedModel] = {}
        self._policies: dict[str, Policy] = {}
        self._waiting: dict[Policy, Line[Row]] = {}
        self._batches: dict[Policy, Batch] = {}
        self._prefixes: dict[Policy, Prefixes] = {}
        self._spare: list[Slots] = []
        self._asked = 0
        self._closed = False
        self._loop: asyncio.Task[None] | None = None
        self.load(name, path)

    def load(self, version: str, path: str | Path) -> None:
        """Make a version available: weights of the same architecture in another folder, or an
        adapter. Not while calls are under way."""
        base, adapter = base_of(Path(path)), None
        if base not in self._models:
            self._models[base] = load_model(base, self.device, self.dtype)
        if base != Path(path).resolve():
            adapter = f"adapter-{version}"
            load_adapter(self._models[base], Path(path), adapter)
        policy = policy_of(version, self._models[base], self.tokenizer)
        policy.adapter = adapter
        self._policies[version] = policy

    def unload(self, version: str) -> None:
        """Forget a version. Not while calls are under way."""
        gone = self._policies.pop(version, None)
        if gone is None:
            return
        self._prefixes.pop(gone, None)
        if gone.adapter is not None:
            drop_adapter(gone.model, gone.adapter)
        kept = {policy.model for policy in self._policies.values()}
        self._models = {base: model for base, model in self._models.items() if model in kept}

    async def generate(self, request: Request) -> Completion:
        if self._closed:
            raise RuntimeError(f"model {self.name} is closed")
        done = asyncio.get_running_loop().create_future()
        row = self._row(request, done)
        self._waiting.setdefault(row.policy, Line()).push(row, request.episode)
        self._asked += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name=f"model-{self.name}")
        await done
        return Completion(
            text=decode(self.tokenizer, row.ids),
            token_ids=tuple(row.ids),
            logprobs=tuple(row.logprobs),
            finish="stop" if row.stopped else "length",
            prompt_tokens=len(row.prompt),
        )

    @property
    def pressure(self) -> float:
        """Rows for which their version's batch has no room, as a share of a batch."""
        over = 0
        for policy, line in self._waiting.items():
            batch = self._batches.get(policy)
            over += max(0, len(line) - (batch.free if batch else self.max_batch))
        return over / self.max_batch

    async def close(self) -> None:
        """End the loop, fail the calls under way, and let go of the weights."""
        self._closed = True
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        self._policies.clear()
        self._prefixes.clear()
        self._models.clear()
        self._spare.clear()

    def _row(self, request: Request, done: asyncio.Future[None]) -> Row:
        policy = self._policies.get(request.policy)
        if policy is None:
            known = ", ".join(self._policies)
            raise ValueError(f"{self.name} has no version {request.policy!r}, only {known}")
        prompt, sampling = encode_prompt(self.tokenizer, request.messages), request.sampling
        if not prompt or sampling.max_tokens < 1:
            raise ValueError(f"{len(prompt)} prompt tokens, max_tokens {sampling.max_tokens}")
        if len(prompt) + sampling.max_tokens > policy.context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and max_tokens {sampling.max_tokens} "
                f"exceed the {policy.context} positions of {policy.id}"
            )
        return Row(
            policy=policy,
            prompt=prompt,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            uniforms=uniforms(request.seed, sampling),
            future=done,
        )

    async def _run(self) -> None:
        """Turn every batch until no row is left. The next call starts it anew."""
        try:
            while self._waiting or self._batches:
                await self._settle()
                self._admit()
                for policy in list(self._batches):
                    await self._turn(policy)
        finally:
            # however the loop ends, no future is left behind
            rows = [row for line in self._waiting.values() for row in line.clear()]
            rows += [row for b in self._batches.values() for row in (*b.rows, *b.newcomers)]
            _fail(rows, RuntimeError(f"model {self.name} was closed"))
            self._waiting.clear()
            self._batches.clear()

    async def _settle(self) -> None:
        """Let callers who are about to ask do so, that they may share the coming turn."""
        before = -1
        while before != self._asked:
            before = self._asked
            await asyncio.sleep(0)

    def _admit(self) -> None:
        """Waiting rows join the batch of their version, as far as there is room."""
        for policy, line in list(self._waiting.items()):
            if policy not in self._batches:
                # versions share their architecture, so the slots of one fit every other
                slots = self._spare.pop() if self._spare else Slots(policy.layers)
                prefixes = self._prefixes.setdefault(policy, Prefixes())
                self._batches[policy] = Batch(policy, slots, prefixes, self.max_batch)
            batch = self._batches[policy]
            while line and batch.free:
                batch.newcomers.append(line.pop())
            if not line:
                del self._waiting[policy]

    async def _turn(self, policy: Policy) -> None:
        batch, loop = self._batches[policy], asyncio.get_running_loop()

        def turn() -> list[Row]:
            wear(policy.model, policy.adapter)
            return batch.turn()

        try:
            finished = await loop.run_in_executor(TORCH, turn)
        except Exception as error:
            # the batch cannot go on, the engine can: whoever still waits has a fresh batch
            _fail([*batch.rows, *batch.newcomers], error)
            del self._batches[policy]
            return
        for row in finished:
            if not row.future.done():
                row.future.set_result(None)
        if not batch.rows:
            self._spare.append(self._batches.pop(policy).slots)


def _fail(rows: Iterable[Row], error: Exception) -> None:
    for row in rows:
        if not row.future.done():
            row.future.set_exception(error)
