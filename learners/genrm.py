"""GenRM, a generative verifier. Zhang et al. 2024, arXiv 2408.15240.

    loss = NLL(verdicts) + solutions * NLL(right replies)

Verdicts are `yes` on replies known to be right and `no` on the others, as many of each in the long
run: of the rarer kind every one comes more often. Writing right replies besides is what the paper
found to help. NLL is the mean over reply tokens. `scoring.verdict` reads the probability of `yes`
from what is learnt; the same weights still answer questions. No rationale is written before the
verdict: this is the paper's GenRM, not GenRM-CoT.

Axes: B rows of a micro-batch, K = 1 reply of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superalign.store.errors import BadInput
from superalign.store.records import Row

from .config import GenrmConfig
from .learner import Batch, Progress, Trainer, encode, load, sequence_logprobs, steps
from .scoring import NO, YES, asked_about


def learn(
    base: Path,
    rows: Sequence[Row],
    config: GenrmConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Teach the policy in `base` verdicts on the replies of `reward` rows, 1 or 0, into `out`."""
    model, tokenizer = load(base)
    judged = [row for row in rows if row.kind in config.kinds]
    verdicts = encode(balanced(judged), "sft", model, tokenizer)
    right = [_copied(row) for row in judged if row.rewards == (1.0,)]
    solutions = encode(right, "sft", model, tokenizer)
    trainer = Trainer(model, config, progress)

    lessons = steps(solutions, config, model.device)
    for parts in steps(verdicts, config, model.device):
        _copy(trainer, parts, "verdict", 1.0)
        if config.solutions:
            _copy(trainer, next(lessons), "solution", config.solutions)
        trainer.step()

    return trainer.save(tokenizer, rows, out)


def _copy(trainer: Trainer, parts: Sequence[Batch], name: str, weight: float) -> None:
    """Add `weight` times the mean negative log-probability per token of what is to be written."""
    tokens = sum(part.tokens_B_K.sum() for part in parts)
    for part in parts:
        nll = -sequence_logprobs(trainer.model, part).sum() / tokens
        trainer.backward(weight * nll, {name: nll})


def balanced(rows: Sequence[Row]) -> list[Row]:
    """A verdict on every reply, of the rarer kind again and again until there are as many."""
    said: dict[str, list[Row]] = {YES: [], NO: []}
    for row in rows:
        if row.rewards not in ((1.0,), (0.0,)):
            raise BadInput(
                f"row of {', '.join(row.turns)}: rewards are {row.rewards}; a verifier learns from "
                "replies that are right, 1, or wrong, 0: make others one of the two"
            )
        verdict = YES if row.rewards == (1.0,) else NO
        asked = asked_about(row.prompt, row.replies[0], "verdict")
        said[verdict].append(_copied(row, prompt=asked, replies=(verdict,)))
    if not all(said.values()):
        counts = f"{len(said[YES])} right, {len(said[NO])} wrong"
        raise BadInput(f"`reward` rows: {counts}; a verifier needs both")
    most = max(map(len, said.values()))
    return [found[i % len(found)] for i in range(most) for found in said.values()]


def _copied(row: Row, **more: Any) -> Row:
    return row.model_copy(
        update={"kind": "sft", "rewards": None, "token_ids": None, "token_rewards": None, **more}
    )
