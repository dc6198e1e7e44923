"""The grammar of models behind servers: what `engine: openai` and `engine: vllm` take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from superalign.store.records import Record

EnvName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")]
"""Name of a variable of the environment. A key itself has other letters, and is refused here."""


class Price(Record):
    """What a million tokens cost, in any one currency."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The price of so many tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class OpenAIEngine(Record):
    """A model behind a server with OpenAI's interface."""

    engine: Literal["openai"]
    model: str = Field(min_length=1, max_length=256)
    """Its name on the server."""
    endpoint: str | None = None
    """A server of your own configuration, by its name there."""
    base_url: str | None = None
    """Or an address: of this machine, or given with --set."""
    api_key_env: EnvName | None = None
    """The variable of the environment that holds the key for `base_url`."""
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Most calls at once; None finds out what the server bears."""
    timeout: float = Field(default=120.0, gt=0, le=3600)
    """Seconds for one attempt of a call."""
    picks: Literal["json", "text"] = "json"
    """How it picks one of several choices: in JSON where the server honours that, or in text, with
    room for reasons before."""
    needs: tuple[Literal["seed", "logprobs", "json"], ...] = ()
    """What the server must honour, or the run is refused."""
    price: Price | None = None


class VllmEngine(Record):
    """A model in a vLLM server of this machine, which superalign starts, watches and stops. Models
    of one path share a server."""

    engine: Literal["vllm"]
    path: str
    """As of a `transformers` model: `organism:NAME`, or a folder below the scenario's."""
    dialect: Literal["tags", "chat"] | None = None
    """How it is spoken to; None: `tags` for organisms, `chat` for all others."""
    max_batch: int = Field(default=256, ge=1, le=4096)
    """Most answers that are decoded at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What it computes in."""
    context: int | None = Field(default=None, ge=1)
    """Most tokens of prompt and reply together; None is as many as the model has positions."""
