"""How much of `model.generate` the engine gives to concurrent episodes.

The rival is the best that transformers itself can do: `generate` over the same prompts in batches
of 256, already tokenised, nothing decoded. The engine is given the prompts as coroutines that know
nothing of each other, each with its own seed, and returns text and log-probabilities. Counted are
the tokens up to the end of each answer; `generate` goes on until the longest of a batch has ended.

Answers have a length each (the end-of-sequence token then has an id that the model has no logit
for) or end where the model ends them. Prompts are sums, those of all seats (`seats`), or sums after
two hundred characters that all share (`shared`).

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
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria

from superalign.agents.dialects import tags
from superalign.agents.model import Ask, Completion, Request, Sampling, View
from superalign.agents.tokens import encode_prompt
from superalign.agents.torch_thread import TORCH
from superalign.agents.transformers_engine import TransformersModel
from superalign.scenarios import organism
from superalign.store.records import Message, Question

SHIPPED = Path(organism.__file__).parent / "organisms" / "arithmetic"
BATCH = 256
CASES = (
    ("sums", 256, (32, 32)),
    ("sums", 256, (4, 80)),
    ("sums", 1024, (4, 80)),
    ("seats", 256, (32, 32)),
    ("seats", 256, (4, 80)),
    ("seats", 1024, (4, 80)),
    ("seats", 1024, None),
    ("shared", 1024, (4, 40)),
)
"""Prompts, how many, and the least and most tokens of an answer; None where the model ends it."""


class Limits(StoppingCriteria):
    """Lets each row of a `generate` end after its own number of tokens."""

    def __init__(self, prompt: int, limits: list[int]) -> None:
        self.prompt, self.limits_B = prompt, torch.tensor(limits)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return self.limits_B <= input_ids.shape[1] - self.prompt


class Case:
    """The same prompts for both arms."""

    def __init__(self, folder: Path, kind: str, n: int, limits: tuple[int, int] | None) -> None:
        self.engine = TransformersModel("tiny", folder, tags)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        rng = random.Random(0)
        self.messages = [prompt(kind, i, rng) for i in range(n)]
        self.limits = [rng.randint(*limits or (80, 80)) for _ in range(n)]
        self.own_ends = limits is None
        self.ids = [encode_prompt(self.engine.tokenizer, m) for m in self.messages]

    def ours(self) -> float:
        """Tokens a second through the engine."""
        asked = [
            request(m, seed, limit)
            for seed, (m, limit) in enumerate(zip(self.messages, self.limits, strict=True))
        ]

        async def ask_all() -> list[Completion]:
            return await asyncio.gather(*map(self.engine.generate, asked))

        start = time.perf_counter()
        answers = asyncio.run(ask_all())
        seconds = time.perf_counter() - start
        lengths = [len(answer.token_ids or ()) for answer in answers]
        if not self.own_ends and lengths != self.limits:
            raise RuntimeError("an answer ended early")
        return sum(lengths) / seconds

    def theirs(self) -> float:
        """Tokens a second through `generate`."""
        seconds, tokens = 0.0, 0
        for first in range(0, len(self.ids), BATCH):
            ids, limits = self.ids[first : first + BATCH], self.limits[first : first + BATCH]
            width = max(map(len, ids))
            ids_B_T = torch.tensor([[0] * (width - len(row)) + row for row in ids])
            mask_B_T = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
            start = time.perf_counter()
            out_B_T: Any = TORCH.submit(  # OpenMP is slower where a second thread has computed
                self.model.generate,
                input_ids=ids_B_T,
                attention_mask=mask_B_T,
                do_sample=True,
                top_k=0,
                max_new_tokens=max(limits),
                pad_token_id=0,
                stopping_criteria=[Limits(width, limits)],
            ).result()
            seconds += time.perf_counter() - start
            tokens += self._counted(out_B_T[:, width:]) if self.own_ends else sum(limits)
        return tokens / seconds

    def _counted(self, out_B_T: torch.Tensor) -> int:
        end = self.model.generation_config.eos_token_id
        return sum(row.index(end) + 1 if end in row else len(row) for row in out_B_T.tolist())


def unending(folder: Path) -> Path:
    """The shipped organism, for which no token is the last."""
    model: Any = AutoModelForCausalLM.from_pretrained(SHIPPED)
    tokenizer: Any = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    never = len(tokenizer) - 1
    if never < model.config.vocab_size:
        raise RuntimeError("<never> has a logit: answers could end early")
    model.config.eos_token_id = model.generation_config.eos_token_id = never
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt(kind: str, i: int, rng: random.Random) -> tuple[Message, ...]:
    """A sum to solve; of `seats`, every other one with a solution to criticise, thrice as long."""
    a, b, c = (rng.randrange(10 ** rng.randint(1, 3)) for _ in range(3))
    text = f"{a}+{b}*{c}"
    messages = [Message(role="question", content="1+" * 100 + text if kind == "shared" else text)]
    if kind == "seats" and i % 2:
        messages.append(Message(role="answer", content=f"{b}*{c}={b * c};{a}+{b * c}={a + b * c}"))
    return (*messages, Message(role=("answer", "critique")[len(messages) - 1], content=""))


def request(messages: tuple[Message, ...], seed: int, limit: int) -> Request:
    view = View(seat="learner", question=Question(), private=None, ask=Ask(kind="answer"))
    return Request(
        messages=messages,
        sampling=Sampling(max_tokens=limit),
        seed=seed,
        policy="tiny",
        view=view,
        episode="",
        nth=0,
    )


def measure(folder: Path, kind: str, n: int, limits: tuple[int, int] | None, repeats: int) -> dict:
    case = Case(folder, kind, n, limits)
    rates = [(case.ours(), case.theirs()) for _ in range(repeats + 1)][1:]  # the first warms up
    shares = [ours / theirs for ours, theirs in rates]
    return {
        "prompts": kind,
        "requests": n,
        "tokens": limits or "own ends",
        "engine_tokens_per_s": round(statistics.median(ours for ours, _ in rates)),
        "generate_tokens_per_s": round(statistics.median(theirs for _, theirs in rates)),
        "times": round(statistics.median(shares), 2),
        "spread": [round(min(shares), 2), round(max(shares), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        endless = unending(Path(folder))
        results = [
            measure(endless if limits else SHIPPED, kind, n, limits, options.repeats)
            for kind, n, limits in CASES
        ]
    facts = {
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
    print("| prompts | requests | tokens each | engine, tokens/s | generate | times | spread |")
    print("|---|---:|---|---:|---:|---:|---|")
    for r in results:
        tokens = r["tokens"] if isinstance(r["tokens"], str) else "{} to {}".format(*r["tokens"])
        rates = f"{r['engine_tokens_per_s']:,} | {r['generate_tokens_per_s']:,}"
        low, high = r["spread"]
        print(
            f"| {r['prompts']} | {r['requests']:,} | {tokens} | {rates} "
            f"| {r['times']} | {low} to {high} |"
        )


if __name__ == "__main__":
    main()
