"""What every learner shares: rows as tokens, log-probabilities, the step, and what is logged.

Axes: R all rows, B rows of a batch, K replies of a row (the best first, the worst last),
N = B * K sequences, T tokens, M reply tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.agents.tokens import encode_prompt, encode_reply
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Row

from .config import LearnConfig, PreferenceConfig
from .rows import best_first

Metrics = dict[str, float]
Progress = Callable[[Mapping[str, float]], None]

WARMUP = 10
"""Steps in which the learning rate grows to its peak: AdamW's first steps are its largest."""

LAST = 10
"""Steps at the end over which `metrics["last"]` is the mean."""


@dataclass(frozen=True)
class Example:
    """One row in tokens."""

    prompt: list[int]
    replies: list[list[int]]
    rewards: tuple[float, ...] | None
    flip_prob: float


@dataclass(frozen=True)
class Batch:
    """Rows side by side. Padding stands on the right, where causal attention never looks."""

    rows_B: Tensor
    """Which of all rows these are."""
    ids_N_T: Tensor
    mask_N_T: Tensor
    """True on the tokens of replies, their end token included."""
    flip_prob_B: Tensor
    rewards_B_K: Tensor | None

    @property
    def tokens_B_K(self) -> Tensor:
        return self.mask_N_T.sum(-1).view(len(self.rows_B), -1)


def load(base: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """A policy in float32, on the GPU if there is one. No dropout: it would be noise in h."""
    local = {"trust_remote_code": False, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **local)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # pyright: ignore[reportArgumentType]  # its wrapper hides the signature
    return model.eval(), AutoTokenizer.from_pretrained(base, **local)


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


def collate(examples: Sequence[Example], rows: Sequence[int], device: torch.device) -> Batch:
    chosen = [examples[i] for i in rows]
    pairs = [(example.prompt, reply) for example in chosen for reply in example.replies]
    width = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids_N_T = torch.zeros(len(pairs), width, dtype=torch.long)
    mask_N_T = torch.zeros(len(pairs), width, dtype=torch.bool)
    for n, (prompt, reply) in enumerate(pairs):
        end = len(prompt) + len(reply)
        ids_N_T[n, :end] = torch.tensor(prompt + reply)
        mask_N_T[n, len(prompt) : end] = True
    rewards = None if chosen[0].rewards is None else torch.tensor([e.rewards for e in chosen])
    return Batch(
        rows_B=torch.tensor(rows, device=device),
        ids_N_T=ids_N_T.to(device),
        mask_N_T=mask_N_T.to(device),
        flip_prob_B=torch.tensor([e.flip_prob for e in chosen], device=device),
        rewards_B_K=None if rewards is None else rewards.to(device),
    )


def sequence_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """logprobs_B_K: log-probability of each reply, summed over its tokens with the end token."""
    logits_N_T_V = model(input_ids=batch.ids_N_T, use_cache=False).logits
    at_N_T = batch.mask_N_T[:, 1:]
    logits_M_V = logits_N_T_V[:, :-1][at_N_T].float()
    logprobs_M = -F.cross_entropy(logits_M_V, batch.ids_N_T[:, 1:][at_N_T], reduction="none")
    sequence_M = at_N_T.nonzero()[:, 0]
    logprobs_N = logprobs_M.new_zeros(len(at_N_T)).index_add(0, sequence_M, logprobs_M)
    return logprobs_N.view(len(batch.rows_B), -1)


@torch.no_grad()
def reference_logprobs(
    model: PreTrainedModel, examples: Sequence[Example], config: LearnConfig
) -> Tensor:
    """ref_R_K: what the policy says before its update. The reference is never run again."""
    parts = torch.arange(len(examples)).split(config.micro_batch)
    batches = (collate(examples, part.tolist(), model.device) for part in parts)
    return torch.cat([sequence_logprobs(model, batch) for batch in batches])


def steps(
    examples: Sequence[Example], config: LearnConfig, device: torch.device
) -> Iterator[list[Batch]]:
    """The micro-batches of every step: rows shuffled, dealt out, and shuffled anew when gone."""
    generator = torch.Generator().manual_seed(config.seed)
    deck: list[int] = []
    for _ in range(config.steps):
        while len(deck) < config.batch:
            deck += torch.randperm(len(examples), generator=generator).tolist()
        hand, deck = deck[: config.batch], deck[config.batch :]
        cuts = range(0, config.batch, config.micro_batch)
        yield [collate(examples, hand[i : i + config.micro_batch], device) for i in cuts]


def check_start(
    logprobs_B_K: Tensor, ref_B_K: Tensor, losses_B: Tensor, expected_B: Tensor
) -> None:
    """Before the first update policy and reference are one: h is 0, and so the loss is known."""
    if not torch.allclose(logprobs_B_K, ref_B_K, rtol=1e-4, atol=1e-3):
        gap = (logprobs_B_K - ref_B_K).abs().max().item()
        raise SuperalignError(
            f"step 0: policy and reference differ by up to {gap:.4g} nats on a reply before "
            "anything was learnt: the reference is not the policy that is being updated"
        )
    loss, expected = losses_B.mean().item(), expected_B.mean().item()
    if not math.isclose(loss, expected, abs_tol=1e-4):
        raise SuperalignError(f"step 0: the preference loss is {loss:.6f}, not {expected:.6f}")


def pair_metrics(logprobs_B_K: Tensor, h_B_K: Tensor, config: PreferenceConfig) -> Metrics:
    """What happened to better and worse replies: this batch's share of the step's means."""
    values_B = {
        "chosen_logprob": logprobs_B_K[:, 0],
        "rejected_logprob": logprobs_B_K[:, -1],
        "chosen_gain": h_B_K[:, 0],
        "rejected_gain": h_B_K[:, -1],
        "margin": config.beta * (h_B_K[:, 0] - h_B_K[:, -1]),
        "accuracy": (h_B_K[:, 0] > h_B_K[:, -1]).float(),
    }
    return {name: value_B.sum().item() / config.batch for name, value_B in values_B.items()}


class Trainer:
    """AdamW with warm-up and clipping over one policy, and the log of its steps."""

    def __init__(
        self, model: PreTrainedModel, config: LearnConfig, progress: Progress | None
    ) -> None:
        self.model, self.config, self.progress = model, config, progress
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
        self.log: list[Metrics] = []
        self._sums: Counter[str] = Counter()
        self._began = time.perf_counter()

    def imitate(self, parts: Sequence[Batch], weight: float = 1.0) -> None:
        """Add `weight` times the mean negative log-probability per token of the first replies."""
        tokens = sum(part.tokens_B_K[:, 0].sum() for part in parts)
        for part in parts:
            chosen_B = sequence_logprobs(self.model, part)[:, 0]
            sft = -chosen_B.sum() / tokens
            accepted = chosen_B.sum().item() / self.config.batch
            self.backward(weight * sft, {"sft": sft.item(), "accepted_logprob": accepted})

    def backward(self, loss: Tensor, parts: Mapping[str, float]) -> None:
        """Add one micro-batch's share to the step: its gradient and its metrics."""
        loss.backward()
        self._sums.update({"loss": loss.item(), **parts})

    def step(self) -> None:
        """Change the weights, and log what the step's micro-batches added up to."""
        number = len(self.log)
        lr = self.config.lr * min(1.0, (number + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise SuperalignError(
                f"step {number}: gradient norm is {norm}, loss {self._sums['loss']:.4g}; "
                f"a smaller learn.lr than {self.config.lr:g} may help"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - self._began
        self.log.append(
            {"step": number, **self._sums, "grad_norm": norm, "lr": lr, "seconds": seconds}
        )
        self._sums.clear()
        self._began += seconds
        if self.progress:
            self.progress(self.log[-1])

    def save(self, tokenizer: Tokenizer, rows: Sequence[Row], out: Path) -> dict[str, Any]:
        """Write weights, tokenizer and `steps.jsonl` to `out`; the update in a few numbers."""
        self.model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        lines = "".join(json.dumps(metrics) + "\n" for metrics in self.log)
        (out / "steps.jsonl").write_text(lines)
        tail = self.log[-LAST:]
        return {
            "rows": len(rows),
            "steps": len(self.log),
            "seconds": sum(metrics["seconds"] for metrics in self.log),
            "first": self.log[0],
            "last": {name: sum(m[name] for m in tail) / len(tail) for name in tail[0]},
        }
