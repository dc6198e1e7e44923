"""Weak-to-strong learning. Burns et al. 2023, arXiv 2312.09390.

    loss = (1 - a) CE(f, weak) + a CE(f, hard(f)),  hard(f) = 1[f > t], without a gradient

f is the probability that the learner gives to the first of two replies, `weak` a weaker model's,
kept soft. a = 0 is naive fine-tuning; the second term lets a learner that knows better keep to
what it believes. t is such that a known share of each step's rows is called positive: else it
would agree with whatever class is ahead. a grows with the share of steps that are done:

    paper      evenly from 0 to `confidence` over the first 0.2, then stays
    released   confidence * done until 0.1, then `confidence`: it jumps

The learner stays a language model: CE is that of whole replies, -sum_k target_k log pi(y_k|x),
which is CE over the replies alone and -log of what all of them get together. So it learns to keep
to them, and any number of replies will do while a = 0.

    learn       one model from the labels that are the rewards of `rank` rows, or of `weak`
    unlabelled  what a run's rows ask: which of these replies?
    predict     a model's own probabilities; `relabel` makes them labels
    combine     labels of several weak models as one
    bootstrap   a chain of models, each taught by the one before

Labels must come from a model that has not learnt from the same rows. `pgr.py` says what was gained.

Axes: R all rows, B rows of a micro-batch, K replies of a row as they stand, J weak models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.store.errors import BadInput
from superalign.store.records import Row, digest

from .config import WeakToStrongConfig
from .dawid_skene import maximise
from .learner import (
    Batch,
    Example,
    Metrics,
    Progress,
    Trainer,
    alone,
    encode,
    load,
    reference_logprobs,
    sequence_logprobs,
    steps,
)

Floats = NDArray[np.float64]


def learn(
    base: Path,
    rows: Sequence[Row],
    config: WeakToStrongConfig,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on `rank` rows whose rewards are the weak model's probabilities
    of their replies, or on what `config.weak` says of the replies of `rank` or `pref` rows; write
    it to `out`."""
    taught = labelled(rows, config)
    alone(config)
    model, tokenizer = load(base, config)
    weak_R_K = torch.tensor(labels_of(taught), dtype=torch.float32, device=model.device)
    if config.confidence and weak_R_K.shape[1] != 2:
        raise BadInput(
            f"rank rows: {weak_R_K.shape[1]} replies each, and the confidence loss knows how to "
            "balance two; set learn.confidence: 0"
        )
    examples = encode_in_order(taught, model, tokenizer)
    trainer = Trainer(model, config, progress)

    for number, parts in enumerate(steps(examples, config, model.device)):
        weight = confidence_weight(config, number / config.steps)
        cut = _cut(model, parts, weak_R_K, config) if weight else 0.0
        for part in parts:
            logprobs_B_K = sequence_logprobs(model, part)
            weak_B_K = weak_R_K[part.rows_B]
            target_B_K = targets(logprobs_B_K.detach().softmax(-1), weak_B_K, weight, cut)
            losses_B = -(target_B_K * logprobs_B_K).sum(-1)
            values = {"confidence": weight / len(parts), **_metrics(logprobs_B_K, weak_B_K, config)}
            trainer.backward(losses_B.sum() / config.batch, values)
        trainer.step()

    return trainer.save(tokenizer, rows, out)


def confidence_weight(config: WeakToStrongConfig, done: float) -> float:
    """a, when this share of the steps is done."""
    if config.schedule == "paper":
        return config.confidence * min(1.0, done / 0.2)
    return config.confidence * (done if done <= 0.1 else 1.0)


def threshold(first_B: Tensor, weak_B: Tensor, prior: float | None) -> float:
    """t: above it lies the share of rows of which the first reply is right, as the prior or, for
    lack of one, the labels say."""
    positive = weak_B.mean().item() if prior is None else prior
    return first_B.quantile(1 - positive).item()


def targets(probs_B_K: Tensor, weak_B_K: Tensor, weight: float, cut: float) -> Tensor:
    """(1 - a) weak + a hard(f)."""
    if not weight:
        return weak_B_K
    first_B = (probs_B_K[:, 0] > cut).to(weak_B_K.dtype)
    return (1 - weight) * weak_B_K + weight * torch.stack([first_B, 1 - first_B], -1)


@torch.no_grad()
def _cut(
    model: PreTrainedModel, parts: Sequence[Batch], weak_R_K: Tensor, config: WeakToStrongConfig
) -> float:
    """The threshold of a whole step, however it is split."""
    first = torch.cat([sequence_logprobs(model, part).softmax(-1)[:, 0] for part in parts])
    weak = torch.cat([weak_R_K[part.rows_B, 0] for part in parts])
    return threshold(first, weak, config.prior)


@torch.no_grad()
def _metrics(logprobs_B_K: Tensor, weak_B_K: Tensor, config: WeakToStrongConfig) -> Metrics:
    values_B = {
        "cross_entropy": -(weak_B_K * logprobs_B_K.log_softmax(-1)).sum(-1),
        "mass": logprobs_B_K.exp().sum(-1),
        "fit": (logprobs_B_K.argmax(-1) == weak_B_K.argmax(-1)).float(),
        "first": (logprobs_B_K.argmax(-1) == 0).float(),
    }
    return {name: value_B.sum().item() / config.batch for name, value_B in values_B.items()}


def labels_of(rows: Sequence[Row]) -> Floats:
    """weak_R_K: the rewards of the rows, which are to be probabilities."""
    found = [row.rewards for row in rows if row.rewards is not None]
    if not rows or len(found) != len(rows) or len({len(label) for label in found}) != 1:
        raise BadInput(
            f"rows: {len(rows)}; give some, all with a label of as many probabilities, or name the "
            "model that gives them: learn.weak"
        )
    weak_R_K = np.array(found)
    wrong = ((weak_R_K < 0) | (abs(weak_R_K.sum(1, keepdims=True) - 1) > 1e-4)).any(1)
    if wrong.any():
        row = rows[int(wrong.argmax())]
        raise BadInput(
            f"row of {', '.join(row.turns)}: rewards {row.rewards}; weak_to_strong takes them for "
            "probabilities of the replies, which must sum to 1"
        )
    return weak_R_K


def encode_in_order(
    rows: Sequence[Row], model: PreTrainedModel, tokenizer: Tokenizer
) -> list[Example]:
    """Replies as they stand, not the best first: which is which must not depend on the labels."""
    return encode(
        [row.model_copy(update={"rewards": None}) for row in rows], "rank", model, tokenizer
    )


def predict(policy: Path, rows: Sequence[Row], micro_batch: int = 64) -> Floats:
    """p_R_K: how likely each reply is, if it is one of its row's."""
    model, tokenizer = load(policy)
    told = WeakToStrongConfig(micro_batch=micro_batch)
    logprobs_R_K = reference_logprobs(model, encode_in_order(rows, model, tokenizer), told)
    return logprobs_R_K.double().softmax(-1).cpu().numpy()


def labelled(rows: Sequence[Row], config: WeakToStrongConfig) -> list[Row]:
    """The rows that teach: as they were labelled, or as `config.weak` labels them."""
    if config.weak is None:
        return [row for row in rows if row.kind == "rank"]
    bare = unlabelled(rows)
    return relabel(bare, predict(Path(config.weak), bare, config.micro_batch), config.weak)


def unlabelled(rows: Sequence[Row]) -> list[Row]:
    """The replies that a run's rows hold against each other, without what was said of them: of
    `pref` rows or, for lack of any, of `rank` rows. Each question stands once, its replies in an
    order that their texts alone decide: that the better one came first must tell nothing."""
    pairs = [row for row in rows if row.kind == "pref"]
    found: dict[Any, Row] = {}
    for row in pairs or [row for row in rows if row.kind == "rank"]:
        replies = tuple(sorted(row.replies, key=digest))
        bare = {"kind": "rank", "replies": replies, "rewards": None, "flip_prob": 0.0}
        found.setdefault((row.prompt, replies), row.model_copy(update=bare))
    return list(found.values())


def relabel(rows: Sequence[Row], p_R_K: ArrayLike, judge: str) -> list[Row]:
    """The rows with what `judge`, a model, thinks of their replies."""
    told = {"judge": judge, "source": "ai"}
    labels = np.asarray(p_R_K).tolist()
    return [
        row.model_copy(update={"rewards": tuple(label), **told})
        for row, label in zip(rows, labels, strict=True)
    ]


def combine(p_J_R_K: ArrayLike, how: Literal["mean", "majority", "dawid_skene"]) -> Floats:
    """p_R_K: one label of what several weak models say.

    `mean` of their probabilities; `majority`, the share of models that hold a reply for the
    likeliest; `dawid_skene`, which finds out from what they say who errs how. The last two ask
    what each holds for likeliest, not how sure it is.
    """
    p = np.asarray(p_J_R_K, float)
    if p.ndim != 3:
        raise BadInput(f"probabilities of shape {p.shape}: give models x rows x replies")
    if how == "mean":
        return p.mean(0)
    said_R_J = p.argmax(-1).T
    if how == "majority":
        return np.eye(p.shape[-1])[said_R_J].mean(1)
    return maximise(said_R_J, p.shape[-1]).p_I_T


def bootstrap(
    bases: Sequence[Path],
    rows: Sequence[Row],
    config: WeakToStrongConfig,
    out: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Teach models of growing size on the same rows, the first by their labels, each other one by
    its predecessor's; write them to `out/0`, `out/1` and so on. The metrics of each."""
    told = []
    for number, base in enumerate(bases):
        told.append(learn(base, rows, config, out / str(number), progress))
        if number < len(bases) - 1:
            rows = relabel(rows, predict(out / str(number), rows, config.micro_batch), str(number))
    return told
