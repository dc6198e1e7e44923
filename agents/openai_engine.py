"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted ones.

What a server accepts it need not honour, so each model is probed once (`probe.py`), and is then
asked for what it honours alone. Where it can write to a schema, a reply that picks one of several
choices is asked for as JSON, so that nothing quoted in it can pass for the decision.

Over HTTP nobody but the server turns text into tokens: what spells a control token in a prompt is
broken by a blank, or a model could end its turn in the prompt of another and begin a forged one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from superalign.store.errors import ModelError
from superalign.store.records import Message

from .dialects import Dialect, chat
from .endpoint import Endpoint
from .model import Completion, Request
from .probe import Abilities, Probe
from .reply import (
    PICK_TOKENS,
    first_choice,
    logprobs_of,
    pick_logprob,
    pick_schema,
    picked,
    said_of,
    usage_of,
)

CONTROL = re.compile(
    r"<\|[^<>|\s]{1,64}\|>|<\uff5c[^<>\uff5c]{1,64}\uff5c>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|mask|think|tool_call|tool_response)>"
    r"|\[/?(?:BOS|EOS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|UNK|PAD|CLS|SEP)\]",
    re.IGNORECASE,
)
"""How the control tokens of known model families are spelt."""
LONGEST_REPLY = 2**20
"""Characters. A longer reply is no answer to anything."""
ALTERNATIVES = 20
"""Most likely tokens that are asked for where a choice is picked: the most that servers give."""
SEEDS = 2**31
"""Servers keep seeds in a signed 32-bit integer or more."""


class OpenAIModel:
    """One model of an endpoint, behind the `Model` port."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        served: str,
        picks_json: bool = True,
        dialect: Dialect = chat,
    ) -> None:
        """`served` is the model's name on the server; `picks_json` whether it may be asked to pick
        in JSON, without room for reasons."""
        self.name, self.endpoint, self.served = name, endpoint, served
        self.picks_json, self.dialect = picks_json, dialect
        self._probing: asyncio.Task[Abilities] | None = None

    async def able(self) -> Abilities:
        """What the model honours, found out once. Raises ModelError when it does not answer."""
        if self._probing is None:
            self._probing = asyncio.create_task(Probe(self.endpoint, self.served).abilities())
        return await asyncio.shield(self._probing)

    async def generate(self, request: Request) -> Completion:
        abilities = await self.able()
        body = self._body(request, abilities)
        (choice, usage), attempts = await self.endpoint.post(
            "/chat/completions",
            body,
            lambda reply: (first_choice(reply), usage_of(reply)),
            request.episode,
        )
        (reasoning, text), reason = said_of(choice), choice.get("finish_reason")
        if reason == "content_filter":
            raise ModelError(f"{self.name}: a filter withheld the reply", attempts)
        if (length := len(text) + len(reasoning)) > LONGEST_REPLY:
            what = f"{length:,} characters long, at most {LONGEST_REPLY:,} are taken"
            raise ModelError(f"{self.name}: the reply is {what}", attempts)
        logprobs, picks = logprobs_of(choice), request.view.ask.picks
        pick = picked(text, picks) if "response_format" in body else None
        if pick is not None:
            share = pick_logprob(choice, picks)
            text, logprobs = str(pick), None if share is None else (share,)
        return Completion(
            text=self.endpoint.scrub(text),
            logprobs=logprobs,
            finish="length" if reason == "length" else "stop",
            prompt_tokens=usage[0],
            attempts=attempts,
            reasoning=self.endpoint.scrub(reasoning),
        )

    @property
    def pressure(self) -> float:
        return self.endpoint.pace.pressure

    async def close(self) -> None:
        if self._probing is not None and not self._probing.done():
            self._probing.cancel()
        await self.endpoint.close()

    def _body(self, request: Request, abilities: Abilities) -> dict[str, Any]:
        ask, limit = request.view.ask, request.sampling.max_tokens
        body: dict[str, Any] = {
            "model": self.served,
            "messages": spoken(request.messages),
            "temperature": request.sampling.temperature,
            abilities.limit_key: limit,
        }
        if "seed" not in abilities.refuses:
            body["seed"] = request.seed % SEEDS
        if "logprobs" in abilities.honours:
            body["logprobs"] = True
        if ask.picks and self.picks_json and "json" in abilities.honours:
            body["response_format"] = pick_schema(ask.picks)
            body[abilities.limit_key] = max(limit, PICK_TOKENS)
            if "logprobs" in body:
                body["top_logprobs"] = ALTERNATIVES
        return body


def spoken(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as the server is given them: none empty, none with a control token."""
    return [
        {"role": message.role, "content": defused(message.content)}
        for message in messages
        if message.content
    ]


def defused(text: str) -> str:
    """The text with a blank inside whatever spells a control token."""
    return CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
