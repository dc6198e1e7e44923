"""Replies of one policy drawn at once, without an event loop: for learners on their own samples.

The weights may change between two drawings: a policy holds the model itself, no copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .batch import Batch, Policy, Row
from .model import Sampling
from .prefixes import Prefixes
from .slots import Slots, reads_slots


def policy_of(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """A causal language model as a policy. Raises ValueError for one that cannot be batched."""
    config, generation = model.config.get_text_config(), model.generation_config
    if getattr(model, "_is_stateful", False):
        raise ValueError(f"{name}: the state of a {config.model_type} cannot be kept in slots")
    stops: Any = generation.eos_token_id if generation else None
    stops = stops if isinstance(stops, list) else [stops]
    ends: Any = tokenizer.eos_token_id
    return Policy(
        id=name,
        model=model,
        eos=frozenset({ends, *stops} - {None}),
        context=config.max_position_embeddings,
        windows=_windows(config),
        reads_slots=reads_slots(model),
    )


def draw(
    policy: Policy,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    max_batch: int = 256,
) -> list[Row]:
    """One reply to each prompt, in their order: its `ids` and natural `logprobs`, end token
    included, and whether it `stopped` before its limit. A reply follows from its prompt and seed
    alone, not from what is drawn beside it. Raises ValueError."""
    longest = max(map(len, prompts), default=0) + sampling.max_tokens
    if longest > policy.context:
        what = f"prompt and reply may need {longest} tokens"
        raise ValueError(f"{policy.id}: {what}, and it has {policy.context} positions")
    rows = [
        Row(
            policy,
            prompt,
            sampling.max_tokens,
            sampling.temperature,
            uniforms(seed, sampling),
            Future(),
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    batch = Batch(policy, Slots(policy.layers), Prefixes(), max_batch)
    waiting = rows[::-1]
    while waiting or batch.rows:
        while waiting and batch.free:
            batch.newcomers.append(waiting.pop())
        batch.turn()
    return rows


def uniforms(seed: int, sampling: Sampling) -> list[float]:
    """A call's draws, one per token to come, from its seed alone."""
    if sampling.temperature == 0:
        return [0.0] * sampling.max_tokens
    # Philox is keyed: neighbouring seeds give streams as unrelated as any two
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128))
    return generator.random(sampling.max_tokens).tolist()


def _windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """Kind of attention layer -> window. Slots hold no other kind of memory."""
    window = getattr(config, "sliding_window", None)
    default = "sliding_attention" if window else "full_attention"
    kinds = set(getattr(config, "layer_types", None) or [default])
    if odd := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{config.model_type}: {', '.join(sorted(odd))} layers are not served")
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}
