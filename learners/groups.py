"""What GRPO and RLOO share: TRL's trainers, told by our settings, rewarded by our scorers.

Each draws `group` replies to a prompt and holds them against each other, with no value head. TRL
draws them by `generate`. A reply that could not be scored, or was cut off and does not pay for it,
gets the mean of its group, which makes its advantage 0; TRL itself would make its reward a zero.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import PrinterCallback, TrainerCallback

from superalign.agents.tokens import decode, encode_prompt
from superalign.agents.weights import base_of, load_adapter
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Row

from .config import GroupConfig
from .learner import LAST, LEARNT, WARMUP, Metrics, Progress, load
from .scoring import Prompt, Scorer, after_cut, load_scorer

LOGGED = {
    "loss": "loss",
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "frac_reward_zero_std": "tied",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
}
"""TRL's name of a metric -> ours."""

START = 1e-3
"""KL that rounding may leave between a policy and its twin."""


def learn_groups(
    base: Path,
    rows: Sequence[Row],
    config: GroupConfig,
    out: Path,
    progress: Progress | None,
    score: Scorer | None,
    make: Callable[..., Any],
) -> dict[str, Any]:
    """Update the policy in `base` on own replies to the prompts of `reward` rows, into `out`.

    `make(arguments, model=…, …)` is the TRL trainer with the arguments that both methods share.
    """
    if score is None and config.scorer is not None:
        score = load_scorer(config.scorer)
    if score is None:
        raise BadInput(
            "learn.scorer: null, but fresh replies must be scored: name a folder that the learner "
            "`reward` or `genrm` has written"
        )
    model, tokenizer = load(base, config)
    prompts = list(dict.fromkeys(row.prompt for row in rows if row.kind in config.kinds))
    if not prompts:
        raise BadInput("`reward` rows: none; the learner needs some, if only their prompts")
    asked = [{"prompt": spelt(tokenizer, p), "nth": i} for i, p in enumerate(prompts)]
    asked *= math.ceil(config.batch / config.group / len(asked))  # TRL drops an incomplete batch
    log = Log(progress)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make(
            arguments(config, scratch),
            model=model,
            reward_funcs=rewarded(score, prompts, tokenizer, config),
            train_dataset=Dataset.from_list(asked),
            processing_class=copy.deepcopy(tokenizer),  # TRL turns its padding round
            callbacks=[log],
        )
        if trainer.ref_model is not None and base_of(base) != base.resolve():
            load_adapter(trainer.ref_model, base, LEARNT)  # TRL's is the model under the adapter
        trainer.remove_callback(PrinterCallback)  # who learns is told by `progress`
        trainer.train()
    if trainer.accelerator.is_main_process:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        (out / "steps.jsonl").write_text("".join(json.dumps(m) + "\n" for m in log.steps))
    tail = log.steps[-LAST:]
    return {
        "rows": len(rows),
        "steps": len(log.steps),
        "seconds": sum(metrics["seconds"] for metrics in log.steps),
        "first": log.steps[0],
        "last": {name: fmean(metrics[name] for metrics in tail) for name in tail[0]},
    }


def arguments(config: GroupConfig, scratch: str) -> dict[str, Any]:
    """What both TRL configurations are told. Its defaults suit one large GPU."""
    size = min(config.micro_batch, config.batch)
    if config.batch % size or config.batch % config.group:
        raise BadInput(
            f"learn.batch: {config.batch} is no multiple of both learn.group, {config.group}, and "
            f"learn.micro_batch, {size}: TRL cuts no group and no batch"
        )
    return {
        "output_dir": scratch,
        "max_steps": config.steps,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": config.batch // size,
        "num_generations": config.group,
        "max_completion_length": config.max_tokens,
        "mask_truncated_completions": config.cut is None,
        "beta": config.kl,
        "learning_rate": config.lr,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": WARMUP,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def spelt(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """A prompt as the one string that TRL's call of the tokenizer turns into our tokens."""
    ids = encode_prompt(tokenizer, prompt)
    for first in (0, 1):  # some tokenizers write the token of the beginning themselves
        text: Any = tokenizer.decode(ids[first:], clean_up_tokenization_spaces=False)
        if tokenizer(text)["input_ids"] == ids:
            return text
    raise BadInput(
        f"prompt {prompt[-2:]}: as one string it would be other tokens, for it spells a control "
        "token or the tokenizer is not reversible; leave such rows out, or learn by ppo"
    )


def rewarded(
    score: Scorer, prompts: Sequence[Prompt], tokenizer: Tokenizer, config: GroupConfig
) -> Callable[..., list[float]]:
    """A scorer as the function that TRL asks for rewards, a group after another."""

    def reward(completion_ids: list[list[int]], nth: list[int], **_: Any) -> list[float]:
        texts = [decode(tokenizer, ids) for ids in completion_ids]
        scores = score([prompts[i] for i in nth], texts)
        paid = [
            s if tokenizer.eos_token_id in ids else after_cut(s, config.cut)
            for s, ids in zip(scores, completion_ids, strict=True)
        ]
        found: list[float] = []
        for first in range(0, len(paid), config.group):
            group = paid[first : first + config.group]
            known = [s for s in group if s is not None]
            mean = fmean(known) if known else 0.0  # a group of equals, which teaches nothing
            found += [mean if s is None else s for s in group]
        return found

    return reward


class Log(TrainerCallback):
    """The metrics of every step under our names, and our guards."""

    def __init__(self, progress: Progress | None) -> None:
        self.steps: list[Metrics] = []
        self.progress = progress
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "grad_norm" not in logs:  # what TRL says at the end
            return
        number, now = len(self.steps), time.perf_counter()
        metrics = {ours: float(logs[theirs]) for theirs, ours in LOGGED.items() if theirs in logs}
        if "kl" in metrics:  # TRL's is per token
            metrics["kl"] *= metrics["length"]
        if not math.isfinite(metrics["grad_norm"]):
            raise SuperalignError(
                f"step {number}: gradient norm is {metrics['grad_norm']}; a smaller learn.lr than "
                f"{args.learning_rate:g} may help"
            )
        if not number and not abs(metrics.get("kl", 0.0)) < START:
            raise SuperalignError(
                f"step 0: KL to the reference is {metrics['kl']:.4g} before anything was learnt: "
                "the reference is not the policy that is being updated"
            )
        self.steps.append({"step": number, **metrics, "seconds": now - self._began})
        self._began = now
        if self.progress and state.is_world_process_zero:
            self.progress(self.steps[-1])
