"""How much of `model.generate` the engine gives to concurrent episodes.

The rival is the best that transformers itself can do: one call of `generate` over all prompts as
one batch, already tokenised, nothing decoded. The engine is given the same prompts as 256
coroutines that know nothing of each other, each with its own seed, and returns text and
log-probabilities. Both read the same folder, whose end-of-sequence token has an id that the
model has no logit for, so that every answer has exactly the length asked for.

    python benchmarks/engine.py [--json] [--repeats 9]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from superalign.agents.dialects import tags
from superalign.agents.model import Ask, Request, Sampling, View
from superalign.agents.tokens import encode_prompt
from superalign.agents.transformers_engine import TransformersModel
from superalign.scenarios import organism
from superalign.store.records import Message, Question

SHIPPED = Path(organism.__file__).parent / "organisms" / "arithmetic"
ROWS = 256
LENGTHS = (16, 32, 80)


def unending(folder: Path) -> str:
    """The shipped organism (before it exists: an untrained one), for which no token is the last."""
    torch.manual_seed(0)
    if (SHIPPED / "model.safetensors").exists():
        name, model = "shipped organism", AutoModelForCausalLM.from_pretrained(SHIPPED)
        tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    else:
        name, model, tokenizer = "untrained organism", organism.newborn(), organism.tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    never = len(tokenizer) - 1
    if never < model.config.vocab_size:
        raise RuntimeError("<never> has a logit: answers could end early")
    model.config.eos_token_id = model.generation_config.eos_token_id = never
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return name


def prompts(kind: str) -> list[tuple[Message, ...]]:
    """Sums to solve, or (`mixed`) half of them with a solution to criticise, thrice as long."""
    rng = random.Random(0)
    made = []
    for i in range(ROWS):
        a, b, c = (rng.randrange(10 ** rng.randint(1, 3)) for _ in range(3))
        messages = [Message(role="question", content=f"{a}+{b}*{c}")]
        if kind == "mixed" and i % 2:
            messages.append(
                Message(role="answer", content=f"{b}*{c}={b * c};{a}+{b * c}={a + b * c}")
            )
        made.append(
            (*messages, Message(role=("answer", "critique")[len(messages) - 1], content=""))
        )
    return made


def request(messages: tuple[Message, ...], seed: int, length: int) -> Request:
    view = View(seat="learner", question=Question(), private=None, ask=Ask(kind="answer"))
    sampling = Sampling(max_tokens=length)
    return Request(
        messages=messages, sampling=sampling, seed=seed, policy="tiny", view=view, episode="", nth=0
    )


def engine_seconds(engine: TransformersModel, asked: list[Request]) -> float:
    async def ask_all() -> None:
        for answer in await asyncio.gather(*map(engine.generate, asked)):
            if len(answer.token_ids or ()) != asked[0].sampling.max_tokens:
                raise RuntimeError("an answer ended early")

    start = time.perf_counter()
    asyncio.run(ask_all())
    return time.perf_counter() - start


def generate_seconds(model: Any, ids: list[list[int]], length: int) -> float:
    width = max(map(len, ids))
    pads = [width - len(row) for row in ids]
    ids_B_T = torch.tensor([[0] * pad + row for pad, row in zip(pads, ids, strict=True)])
    mask_B_T = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": length, "pad_token_id": 0}
    start = time.perf_counter()
    out_B_T = model.generate(input_ids=ids_B_T, attention_mask=mask_B_T, **options)
    seconds = time.perf_counter() - start
    if out_B_T.shape[1] != width + length:
        raise RuntimeError("generate ended early")
    return seconds


def measure(folder: Path, repeats: int) -> list[dict]:
    engine = TransformersModel("tiny", folder, tags)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    results = []
    for kind in ("sums", "mixed"):
        messages = prompts(kind)
        ids = [encode_prompt(engine.tokenizer, m) for m in messages]
        for length in LENGTHS:
            asked = [request(m, seed, length) for seed, m in enumerate(messages)]
            rates, shares = [], []
            for repeat in range(repeats + 1):
                ours, theirs = engine_seconds(engine, asked), generate_seconds(model, ids, length)
                if repeat:  # the first pair warms up
                    rates.append((ROWS * length / ours, ROWS * length / theirs))
                    shares.append(theirs / ours)
            ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
            results.append(
                {
                    "prompts": kind,
                    "tokens": length,
                    "engine_tokens_per_s": round(ours),
                    "generate_tokens_per_s": round(theirs),
                    "share": round(statistics.median(shares), 2),
                    "spread": [round(min(shares), 2), round(max(shares), 2)],
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = unending(Path(folder))
        results = measure(Path(folder), options.repeats)
    facts = {
        "model": model,
        "requests": ROWS,
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "results": results,
    }
    if options.json:
        print(json.dumps(facts))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items() if key != "results"))
    print(f"{'prompts':8}{'tokens':>7}{'engine/s':>10}{'generate/s':>12}{'share':>7}  spread")
    for r in results:
        rates = f"{r['engine_tokens_per_s']:>10}{r['generate_tokens_per_s']:>12}"
        low, high = r["spread"]
        print(f"{r['prompts']:8}{r['tokens']:>7}{rates}{r['share']:>7}  {low} to {high}")


if __name__ == "__main__":
    main()
