"""What an endpoint really honours. Many accept a field of the interface and ignore it.

    seed       two replies with one seed are equal, and other seeds give others
    logprobs   the reply tells a probability of each of its tokens
    json       a reply keeps to a schema that its prompt speaks against

A field that the server refuses is not sent again. The longest context is what it says of it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from superalign.store.errors import ModelError
from superalign.store.records import Attempt, Record

from .endpoint import Endpoint
from .reply import first_choice, logprobs_of, pick_schema, picked, text_of

Ability = Literal["seed", "logprobs", "json"]
ABILITIES: tuple[Ability, ...] = ("seed", "logprobs", "json")

LETTERS = "Write twelve random letters and nothing else."
POEM = "Write one line of a poem. Use no numbers, no braces and no quotation marks."
SEEDS = (1, 1, 2, 3)
LIMIT_KEYS = ("max_tokens", "max_completion_tokens")
CONTEXT_KEYS = ("max_model_len", "context_length", "context_window", "max_context_length")
REFUSED = {"400", "404", "415", "422", "501"}
"""Statuses by which a server says that it does not know a field."""


class Abilities(Record):
    """What one model of an endpoint honours."""

    honours: tuple[Ability, ...]
    refuses: tuple[Ability, ...]
    """Fields that must not even be sent."""
    context: int | None
    """Tokens of prompt and reply together, if the server tells."""
    limit_key: str
    """Under which key it takes the most tokens of a reply."""
    attempts: tuple[Attempt, ...]
    """Every completion that was asked for to find this out."""

    @property
    def lacks(self) -> tuple[Ability, ...]:
        return tuple(ability for ability in ABILITIES if ability not in self.honours)


class Probe:
    """The questions to one model. Single use."""

    def __init__(self, endpoint: Endpoint, served: str) -> None:
        self.endpoint, self.served, self.limit_key = endpoint, served, LIMIT_KEYS[0]
        self.attempts: list[Attempt] = []

    async def abilities(self) -> Abilities:
        """Raises ModelError when the model does not answer at all: a health page answers for dead
        engines too."""
        await self._greet()
        tests = self._seed(), self._logprobs(), self._json()
        found = dict(zip(ABILITIES, await asyncio.gather(*tests), strict=True))
        return Abilities(
            honours=tuple(name for name in ABILITIES if found[name]),
            refuses=tuple(name for name in ABILITIES if found[name] is None),
            context=_context(await self.endpoint.get("/models"), self.served),
            limit_key=self.limit_key,
            attempts=tuple(self.attempts),
        )

    async def _greet(self) -> None:
        """One token, under the first key for its number that the server takes."""
        for key in LIMIT_KEYS:
            self.limit_key = key
            try:
                await self._ask("Say yes.", 1, temperature=0.0)
                return
            except ModelError as error:
                if key == LIMIT_KEYS[-1] or error.attempts[-1].status not in ("400", "422"):
                    raise

    async def _seed(self) -> bool | None:
        asked = (self._allowed(LETTERS, 24, temperature=1.0, seed=seed) for seed in SEEDS)
        said = [choice and text_of(choice) for choice in await asyncio.gather(*asked)]
        return None if None in said else said[0] == said[1] and len(set(said)) > 1

    async def _logprobs(self) -> bool | None:
        choice = await self._allowed(LETTERS, 4, temperature=0.0, logprobs=True, top_logprobs=20)
        return choice and logprobs_of(choice) is not None

    async def _json(self) -> bool | None:
        asked = {"temperature": 0.0, "response_format": pick_schema(2)}
        choice = await self._allowed(POEM, 24, **asked)
        return choice and picked(text_of(choice), 2) is not None

    async def _allowed(self, text: str, limit: int, **fields: Any) -> Any:
        """The choice, or None where the server refuses the fields."""
        try:
            return await self._ask(text, limit, **fields)
        except ModelError as error:
            if error.attempts[-1].status in REFUSED:
                return None
            raise

    async def _ask(self, text: str, limit: int, **fields: Any) -> dict[str, Any]:
        body = {"model": self.served, "messages": [{"role": "user", "content": text}], **fields}
        try:
            choice, attempts = await self.endpoint.post(
                "/chat/completions", body | {self.limit_key: limit}, first_choice
            )
        except ModelError as error:
            self.attempts += error.attempts
            raise
        self.attempts += attempts
        return choice


def _context(told: Any, served: str) -> int | None:
    """The longest context that a list of models gives for this one."""
    models = told.get("data") if isinstance(told, dict) else None
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict) and model.get("id") == served:
            found = (model.get(key) for key in CONTEXT_KEYS)
            return next((n for n in found if type(n) is int and n > 0), None)
    return None
