"""Whether a compiled decoding step pays on a CPU: what it saves a step, and what compiling takes.

The step is the shipped organism's forward pass for one token of each row over a static cache, as
plain as `torch.compile` could wish for: one graph, no Python inside. Needs a C++ compiler.

    python benchmarks/compiled.py [--json] [--repeats 40]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, CacheLayerMixin

from superalign.scenarios import organism

SHIPPED = Path(organism.__file__).parent / "organisms" / "arithmetic"
SHAPES = ((256, 48), (256, 88), (128, 64))
"""Rows, and columns of the cache in use."""


class Static(CacheLayerMixin):
    """Keys and values of one layer in tensors of fixed size: a row each, a column a token."""

    def __init__(self, heads: int, features: int) -> None:
        super().__init__()
        self.states = [torch.zeros(256, heads, 128, features) for _ in range(2)]
        self.is_initialized, self.width = True, 0
        self.columns_B = torch.zeros(0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows_B = torch.arange(key_states.shape[0])
        for states, new in zip(self.states, (key_states, value_states), strict=True):
            states[rows_B, :, self.columns_B] = new[:, :, 0]
        return tuple(states[: rows_B.shape[0], :, : self.width] for states in self.states)

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1


class Step:
    """One decoding step; its inputs are the tokens, their columns and the mask."""

    def __init__(self) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(SHIPPED).eval()
        config = self.model.config
        shape = config.num_key_value_heads, config.head_dim
        self.layers = [Static(*shape) for _ in range(config.num_hidden_layers)]
        self.cache = Cache(layers=[*self.layers])

    def __call__(self, ids_B_1: Tensor, columns_B: Tensor, mask_B_1_1_W: Tensor) -> Tensor:
        for layer in self.layers:
            layer.columns_B, layer.width = columns_B, mask_B_1_1_W.shape[-1]
        return self.model(
            ids_B_1,
            attention_mask=mask_B_1_1_W,
            position_ids=columns_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]


def inputs(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids_B_1 = torch.randint(4, 90, (rows, 1), generator=generator)
    return ids_B_1, torch.full((rows,), width - 1), torch.zeros(rows, 1, 1, width)


def seconds(step: Any, given: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    step(*given)
    return time.perf_counter() - start


@torch.no_grad()
def measure(repeats: int) -> dict[str, Any]:
    step = Step()
    compiled = torch.compile(step.__call__, dynamic=True)
    given = {shape: inputs(*shape) for shape in SHAPES}
    first = {shape: seconds(compiled, given[shape]) for shape in SHAPES}
    apart = max(float((compiled(*g) - step(*g)).abs().max()) for g in given.values())
    results = []
    for shape in SHAPES:
        pairs = [
            (seconds(step, given[shape]), seconds(compiled, given[shape])) for _ in range(repeats)
        ]
        plain, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        times = statistics.median(a / b for a, b in pairs)
        results.append(
            {
                "rows": shape[0],
                "columns": shape[1],
                "plain_ms": round(plain * 1e3, 2),
                "compiled_ms": round(fast * 1e3, 2),
                "times": round(times, 2),
            }
        )
    compiling, saved = sum(first.values()), results[0]["plain_ms"] - results[0]["compiled_ms"]
    even = compiling / (saved / 1e3) * SHAPES[0][0] if saved > 0 else None
    return {
        "results": results,
        "compiling_s": round(compiling, 1),
        "tokens_until_it_pays": None if even is None else round(even),
        "logits_apart": apart,
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    facts = measure(options.repeats)
    if options.json:
        print(json.dumps(facts))
        return
    print("| rows | columns | plain, ms | compiled, ms | times |")
    print("|---:|---:|---:|---:|---:|")
    for r in facts["results"]:
        print("| " + " | ".join(map(str, r.values())) + " |")
    even = facts["tokens_until_it_pays"]
    pays = "never" if even is None else f"after {even:,} tokens"
    print(f"\ncompiling took {facts['compiling_s']} s, and pays {pays}")
    print(f"logits lie up to {facts['logits_apart']:.1e} apart")
    print(facts["versions"])


if __name__ == "__main__":
    main()
