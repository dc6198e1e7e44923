"""Models that a local vLLM server plays, with the very prompts of the transformers engine.

Prompts go as token ids, encoded here by the folder's own tokenizer, and token ids with their
natural log-probabilities come back: nothing that is quoted can become a control token, and
learners have what they need. Versions are LoRA adapters over the one base of the server.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from superalign.store.errors import BadInput

from .dialects import Dialect
from .model import Completion, Request
from .reply import Broken
from .tokens import decode, encode_prompt
from .vllm_server import BASE, VllmServer
from .weights import base_of

SEEDS = 2**63
"""vLLM keeps seeds in a signed 64-bit integer."""


class Said(NamedTuple):
    """What a completion holds."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


class VllmModel:
    """A causal language model of a folder and its adapters, behind the `Model` port."""

    def __init__(
        self, name: str, server: VllmServer, dialect: Dialect, context: int | None = None
    ) -> None:
        """The base is called `name`; requests name the version they want in `policy`."""
        self.name, self.server, self.dialect = name, server, dialect
        local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        self.tokenizer = AutoTokenizer.from_pretrained(server.base, **local)
        config = AutoConfig.from_pretrained(server.base, **local)
        most = config.get_text_config().max_position_embeddings
        self.context = min(context or most, most)
        self._ends = _ends(server.base, config, self.tokenizer)
        self._served = {name: BASE}

    def load(self, version: str, path: str | Path) -> None:
        """Make a version available: an adapter, or the base itself under another name."""
        folder = Path(path).resolve()
        if folder != self.server.base:
            if base_of(folder) != self.server.base:
                what = f"{folder}: is no adapter over {self.server.base}"
                raise BadInput(f"{what}; vllm plays versions that `learn.lora` made")
            self.server.load(version, folder)
        self._served[version] = BASE if folder == self.server.base else version

    def unload(self, version: str) -> None:
        """Forget a version. Not while calls are under way."""
        if self._served.pop(version, BASE) != BASE:
            self.server.unload(version)

    async def generate(self, request: Request) -> Completion:
        served = self._served.get(request.policy)
        if served is None:
            known = ", ".join(self._served)
            raise ValueError(f"{self.name} has no version {request.policy!r}, only {known}")
        prompt, sampling = encode_prompt(self.tokenizer, request.messages), request.sampling
        if len(prompt) + sampling.max_tokens > self.context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and max_tokens {sampling.max_tokens} "
                f"exceed the {self.context} positions of {request.policy}"
            )
        body = {
            "model": served,
            "prompt": prompt,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": request.seed % SEEDS,
            "stop_token_ids": self._ends,
            "logprobs": 0,
            "return_token_ids": True,
        }
        said, attempts = await self.server.endpoint.post(
            "/completions", body, self._read, request.episode
        )
        self.server.answered()
        return Completion(
            text=decode(self.tokenizer, said.token_ids),
            token_ids=said.token_ids,
            logprobs=said.logprobs,
            finish="stop" if said.finish == "stop" else "length",
            prompt_tokens=len(prompt),
            attempts=attempts,
        )

    @property
    def pressure(self) -> float:
        return self.server.endpoint.pace.pressure

    async def start(self) -> None:
        """Bring the server up. Raises ModelError."""
        await self.server.ready()

    async def rest(self) -> None:
        """Give the server's memory to others; the next call starts it again."""
        await self.server.stop()

    async def close(self) -> None:
        """End the server, for all models that share it."""
        await self.server.close()

    def _read(self, reply: Any) -> Said:
        """Raises Broken."""
        try:
            (choice,) = reply["choices"]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            said = Said(tuple(map(int, ids)), tuple(map(float, logprobs)), choice["finish_reason"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Broken("garbled", f"the answer lacks {error}") from None
        known = len(self.tokenizer)
        if not said.token_ids or len(said.token_ids) != len(said.logprobs):
            raise Broken("garbled", "the answer's tokens and their probabilities do not match")
        if not all(math.isfinite(p) for p in said.logprobs) or max(said.token_ids) >= known:
            raise Broken("garbled", "the answer has tokens or probabilities that none can have")
        return said


def _ends(base: Path, config: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a reply, as the transformers engine knows them."""
    is_told = (base / "generation_config.json").exists()
    told = GenerationConfig.from_pretrained(base) if is_told else config
    stops = told.eos_token_id if isinstance(told.eos_token_id, list) else [told.eos_token_id]
    return sorted({tokenizer.eos_token_id, *stops} - {None})
