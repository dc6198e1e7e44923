"""What every learner shares: rows as tokens, the reference, the step, and what is logged.

Under `accelerate launch`, or `torchrun` on CPUs, each process reads its share of every batch;
gradients and metrics are summed over processes, so that the update is the one that a single process
would make.

Axes: R all rows, B rows of a batch, K replies of a row (the best first, the worst last).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.agents.tokens import encode_prompt, encode_reply
from superalign.agents.weights import base_of, load_adapter, load_model, new_adapter
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Row

from .config import LearnConfig
from .reading import Batch, Example, collate, sequence_logprobs
from .rows import best_first

Metrics = dict[str, float]
Shares = Mapping[str, Tensor | float]
"""What a micro-batch adds to a step's metrics."""
Progress = Callable[[Mapping[str, float]], None]

WARMUP = 10
"""Steps in which the learning rate grows to its peak: AdamW's first steps are its largest."""

LAST = 10
"""Steps at the end over which `metrics["last"]` is the mean."""


LEARNT = "learnt"
"""The adapter that learns."""


def load(base: Path, config: LearnConfig | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """A policy in float32, on the GPU if there is one. No dropout: it would be noise in h.

    Who would learn says how: by `config.lora`, all weights or a new adapter. An adapter goes on
    as it is.
    """
    whole, rank = base_of(base), config.lora if config else None
    model = load_model(whole, str(processes().device), torch.float32)
    if whole != base.resolve():
        load_adapter(model, base, LEARNT, learns=True)
        found: Any = model.peft_config[LEARNT]
        if config and rank != found.r:
            raise BadInput(f"learn.lora: {rank}, but {base} is an adapter of rank {found.r}")
    elif rank is not None and config:
        new_adapter(model, LEARNT, rank, config.seed)
    local = {"trust_remote_code": False, "local_files_only": True}
    return model, AutoTokenizer.from_pretrained(base, **local)


def encode(
    rows: Sequence[Row], kind: str, model: PreTrainedModel, tokenizer: Tokenizer
) -> list[Example]:
    """The rows of one kind, all of one number of replies, as tokens. Nothing is ever truncated."""
    rows = [row for row in rows if row.kind == kind]
    counts = sorted({len(row.replies) for row in rows})
    if len(counts) != 1:
        found = f"with {' and '.join(map(str, counts))} replies" if counts else "none"
        raise BadInput(f"`{kind}` rows: {found}; the learner needs some, all with as many replies")
    limit = model.config.get_text_config().max_position_embeddings
    examples = []
    for row in rows:
        example = _encode(row, tokenizer)
        length = len(example.prompt) + max(map(len, example.replies))
        if length > limit:
            raise BadInput(
                f"row of {', '.join(row.turns)}: {length} tokens, and the model has {limit} "
                "positions; leave such rows out or learn with a longer model"
            )
        examples.append(example)
    return examples


def _encode(row: Row, tokenizer: Tokenizer) -> Example:
    replies, rewards = best_first(row)
    prompt = encode_prompt(tokenizer, row.prompt)
    return Example(prompt, [encode_reply(tokenizer, r) for r in replies], rewards, row.flip_prob)


@torch.no_grad()
def reference_logprobs(
    model: PreTrainedModel, examples: Sequence[Example], config: LearnConfig
) -> Tensor:
    """ref_R_K: what the policy says before its update. The reference is never run again."""
    parts = torch.arange(len(examples)).split(config.micro_batch)
    batches = (collate(examples, part.tolist(), model.device) for part in parts)
    return torch.cat([sequence_logprobs(model, batch) for batch in batches])


def processes() -> PartialState:
    """All that learn together, and this one's place and device among them."""
    return PartialState(cpu=not torch.cuda.is_available())


def summed(values: Tensor) -> Tensor:
    """The same of all processes together."""
    found: Any = reduce(values, "sum")
    return found


def alone(config: LearnConfig) -> None:
    """Refuse several processes. Raises BadInput."""
    if processes().num_processes > 1:
        method = config.model_dump()["method"]
        raise BadInput(f"learn.method: {method} learns in one process, not in several")


def hands(rows: int, config: LearnConfig) -> Iterator[list[int]]:
    """This process's rows of every step: shuffled, dealt out, and shuffled anew when gone."""
    rank, world = processes().process_index, processes().num_processes
    if config.batch < world:
        raise BadInput(f"learn.batch: {config.batch} rows for {world} processes; raise it")
    generator = torch.Generator().manual_seed(config.seed)
    deck: list[int] = []
    for _ in range(config.steps):
        while len(deck) < config.batch:
            deck += torch.randperm(rows, generator=generator).tolist()
        hand, deck = deck[: config.batch], deck[config.batch :]
        yield hand[rank::world]


def cut(
    examples: Sequence[Example], hand: Sequence[int], config: LearnConfig, device: torch.device
) -> list[Batch]:
    """A step's rows as micro-batches, rows of like length in one."""
    hand = sorted(hand, key=lambda i: -len(examples[i]))
    size = config.micro_batch
    return [collate(examples, hand[i : i + size], device) for i in range(0, len(hand), size)]


def steps(
    examples: Sequence[Example], config: LearnConfig, device: torch.device
) -> Iterator[list[Batch]]:
    """The micro-batches of every step."""
    for hand in hands(len(examples), config):
        yield cut(examples, hand, config, device)


def check_start(
    logprobs_B_K: Tensor, ref_B_K: Tensor, losses_B: Tensor, expected_B: Tensor
) -> None:
    """Before the first update policy and reference are one: h is 0, and so the loss is known."""
    check_reference(logprobs_B_K, ref_B_K)
    loss, expected = losses_B.mean().item(), expected_B.mean().item()
    if not math.isclose(loss, expected, abs_tol=1e-4):
        raise SuperalignError(f"step 0: the preference loss is {loss:.6f}, not {expected:.6f}")


def check_reference(logprobs_B_K: Tensor, ref_B_K: Tensor) -> None:
    """Policy and reference are one before the first update."""
    if not torch.allclose(logprobs_B_K, ref_B_K, rtol=1e-4, atol=1e-3):
        gap = (logprobs_B_K - ref_B_K).abs().max().item()
        raise SuperalignError(
            f"step 0: policy and reference differ by up to {gap:.4g} nats on a reply before "
            "anything was learnt: the reference is not the policy that is being updated"
        )


def imitation(chosen_B: Tensor, tokens: Tensor | int, config: LearnConfig) -> tuple[Tensor, Shares]:
    """Accepted answers' share of the step's mean negative log-probability per token.

    `tokens` counts those of all accepted answers of the step.
    """
    sft = -chosen_B.sum() / tokens
    return sft, {"sft": sft, "accepted_logprob": chosen_B.sum() / config.batch}


def first_tokens(parts: Sequence[Batch]) -> Tensor:
    """Tokens of the first replies of a step, of all processes."""
    return summed(torch.stack([part.tokens_B_K[:, 0].sum() for part in parts]).sum())


class Trainer:
    """AdamW with warm-up and clipping over one policy, and the log of its steps."""

    def __init__(
        self, model: PreTrainedModel, config: LearnConfig, progress: Progress | None
    ) -> None:
        self.state = processes()
        self.model, self.config = model, config
        self.progress = progress if self.state.is_main_process else None
        self.learnt = [weights for weights in model.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learnt, lr=config.lr, weight_decay=0.0, fused=True)
        self.log: list[Metrics] = []
        self._sums: dict[str, Tensor | float] = {}
        self._began = time.perf_counter()

    def imitate(self, parts: Sequence[Batch], weight: float = 1.0) -> None:
        """Add `weight` times the mean negative log-probability per token of the first replies."""
        tokens = first_tokens(parts)
        for part in parts:
            chosen_B = sequence_logprobs(self.model, part)[:, 0]
            sft, shares = imitation(chosen_B, tokens, self.config)
            self.backward(weight * sft, shares)

    def backward(self, loss: Tensor, shares: Shares) -> None:
        """Add one micro-batch's share to the step: its gradient and its metrics."""
        loss.backward()
        for name, share in {"loss": loss, **shares}.items():
            share = share.detach() if isinstance(share, Tensor) else share
            self._sums[name] = self._sums.get(name, 0.0) + share

    def step(self) -> None:
        """Change the weights, and log what the step's micro-batches added up to."""
        number, world = len(self.log), self.state.num_processes
        if world > 1:
            for weights in self.learnt:
                own = torch.zeros_like(weights) if weights.grad is None else weights.grad
                weights.grad = summed(own)
        lr = self.config.lr * min(1.0, (number + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        metrics = self._read(self._sums | {"grad_norm": norm / world})
        if not math.isfinite(metrics["grad_norm"]):
            raise SuperalignError(
                f"step {number}: gradient norm is {metrics['grad_norm']}, loss "
                f"{metrics['loss']:.4g}; a smaller learn.lr than {self.config.lr:g} may help"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - self._began
        self.log.append({"step": number, **metrics, "lr": lr, "seconds": seconds})
        self._sums.clear()
        self._began += seconds
        if self.progress:
            self.progress(self.log[-1])

    @staticmethod
    def _read(values: Shares) -> Metrics:
        """All at once: on a GPU every look at a number waits for what was asked of it before."""
        device = next(value.device for value in values.values() if isinstance(value, Tensor))
        tensors = [torch.as_tensor(v, dtype=torch.double, device=device) for v in values.values()]
        return dict(zip(values, summed(torch.stack(tensors)).tolist(), strict=True))

    def save(self, tokenizer: Tokenizer, rows: Sequence[Row], out: Path) -> dict[str, Any]:
        """Write weights, tokenizer and `steps.jsonl` to `out`; the update in a few numbers."""
        if self.state.is_main_process:
            self.model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            lines = "".join(json.dumps(metrics) + "\n" for metrics in self.log)
            (out / "steps.jsonl").write_text(lines)
        self.state.wait_for_everyone()
        tail = self.log[-LAST:]
        names = dict.fromkeys(name for metrics in tail for name in metrics)
        return {
            "rows": len(rows),
            "steps": len(self.log),
            "seconds": sum(metrics["seconds"] for metrics in self.log),
            "first": self.log[0],
            "last": {name: fmean(m[name] for m in tail if name in m) for name in names},
        }
