"""GenRM and GenRM-CoT, generative verifiers. Zhang et al. 2024, arXiv 2408.15240.

    loss = NLL(verdicts) + solutions * NLL(right replies)     GenRM
           + NLL(rationales)                                  GenRM-CoT, verdicts behind rationales

Verdicts are `yes` on replies known to be right and `no` on the others, as many of each in the long
run: of the rarer kind every one comes more often. Writing right replies besides is what the paper
found to help. NLL is the mean over reply tokens. `scoring.verdict` reads the probability of `yes`
from what is learnt, `scoring.vote` behind rationales; the same weights still answer questions.

A rationale is a critique of the reply that agrees with its label: the paper's filter. The critic
is not shown the label. Where the paper takes a rationale and its verdict for one text, we ask
twice and weigh both alike, so that the one token of a verdict does not drown in a long rationale.

Axes: B rows of a micro-batch, K = 1 reply of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.store.errors import BadInput
from superalign.store.records import Row

from . import scoring
from .config import GenrmConfig
from .learner import Batch, Progress, Trainer, alone, encode, load, sequence_logprobs, steps
from .rationales import Rationale, Rationales
from .scoring import NO, TOLD, YES, Prompt, asked_about


def learn(
    base: Path,
    rows: Sequence[Row],
    config: GenrmConfig,
    out: Path,
    progress: Progress | None = None,
    explain: Rationales | None = None,
) -> dict[str, Any]:
    """Teach the policy in `base` verdicts on the replies of `reward` rows, 1 or 0, into `out`.

    Behind rationales, where `explain` or else `config.rationales` gives some.
    """
    alone(config)
    model, tokenizer = load(base, config)
    judged = [row for row in rows if row.kind in config.kinds]
    if explain is None and config.rationales:
        explain = _drawn(model, tokenizer, config)
    taught = explained(judged, explain) if explain else judged
    verdicts = encode(balanced(taught), "sft", model, tokenizer)
    thoughts = encode(balanced(taught, _copied), "sft", model, tokenizer) if explain else []
    right = [_copied(row) for row in judged if _is_right(row)]
    solutions = encode(right, "sft", model, tokenizer)
    trainer = Trainer(model, config, progress)

    lessons, reasons = (steps(some, config, model.device) for some in (solutions, thoughts))
    for parts in steps(verdicts, config, model.device):
        _copy(trainer, parts, "verdict", 1.0)
        if thoughts:
            _copy(trainer, next(reasons), "rationale", 1.0)  # of the same rows, as dealt alike
        if config.solutions:
            _copy(trainer, next(lessons), "solution", config.solutions)
        trainer.step()

    told = trainer.save(tokenizer, rows, out)
    votes = config.votes if explain else 0
    (out / TOLD).write_text(
        json.dumps({"kind": "genrm", "votes": votes, "max_tokens": config.max_tokens})
    )
    return told | ({"rationales": len(taught)} if explain else {})


def _drawn(model: PreTrainedModel, tokenizer: Tokenizer, config: GenrmConfig) -> Rationales:
    """The critic's critiques, those that ended and can be read."""
    critic = (model, tokenizer) if config.critic is None else load(Path(config.critic))

    def explain(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[Rationale]]:
        said = scoring.rationales(*critic, prompts, replies, config.rationales, config.max_tokens)
        read = [[(t, scoring.found_right(t)) for t in texts if t is not None] for texts in said]
        return [[Rationale(t, bool(r)) for t, r in texts if r is not None] for texts in read]

    return explain


def explained(rows: Sequence[Row], explain: Rationales) -> list[Row]:
    """Each reply's critiques that agree with its label, as replies of their own, labelled alike.

    One that is given twice is learnt twice. A reply of which every critique errs teaches nothing.
    """
    said = explain([row.prompt for row in rows], [row.replies[0] for row in rows])
    found = []
    for row, critiques in zip(rows, said, strict=True):
        asked = asked_about(row.prompt, row.replies[0], "critique")
        for text in [one.text for one in critiques if one.right == _is_right(row)]:
            more = {"prompt": asked, "replies": (text,), "token_ids": None, "token_rewards": None}
            found.append(row.model_copy(update=more))
    if lost := {_is_right(row) for row in rows} - {_is_right(row) for row in found}:
        replies = f"{sum(_is_right(row) in lost for row in rows)} of {len(rows)} replies"
        raise BadInput(
            f"learn.rationales: no critique agrees with the label of {replies}, "
            f"{' or '.join('right' if label else 'wrong' for label in sorted(lost))}; "
            "draw more, or name a better learn.critic"
        )
    return found


def _is_right(row: Row) -> bool:
    if row.rewards not in ((1.0,), (0.0,)):
        raise BadInput(
            f"row of {', '.join(row.turns)}: rewards are {row.rewards}; a verifier learns from "
            "replies that are right, 1, or wrong, 0: make others one of the two"
        )
    return row.rewards == (1.0,)


def _copy(trainer: Trainer, parts: Sequence[Batch], name: str, weight: float) -> None:
    """Add `weight` times the mean negative log-probability per token of what is to be written."""
    tokens = sum(part.tokens_B_K.sum() for part in parts)
    for part in parts:
        nll = -sequence_logprobs(trainer.model, part).sum() / tokens
        trainer.backward(weight * nll, {name: nll})


def balanced(rows: Sequence[Row], taught: Callable[[Row], Row] | None = None) -> list[Row]:
    """A verdict on every reply, of the rarer kind again and again until there are as many; or
    what else is taught of a row, in the same order."""
    said: dict[bool, list[Row]] = {True: [], False: []}
    for row in rows:
        said[_is_right(row)].append((taught or _judged)(row))
    if not all(said.values()):
        counts = f"{len(said[True])} right, {len(said[False])} wrong"
        raise BadInput(f"`reward` rows: {counts}; a verifier needs both")
    most = max(map(len, said.values()))
    return [found[i % len(found)] for i in range(most) for found in said.values()]


def _judged(row: Row) -> Row:
    asked = asked_about(row.prompt, row.replies[0], "verdict")
    return _copied(row, prompt=asked, replies=(YES if _is_right(row) else NO,))


def _copied(row: Row, **more: Any) -> Row:
    return row.model_copy(
        update={"kind": "sft", "rewards": None, "token_ids": None, "token_rewards": None, **more}
    )
