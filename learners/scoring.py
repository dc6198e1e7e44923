"""What rewards a reply: scorers for learners that draw replies of their own, and for best-of-n.

A scorer is any function of prompts and replies. These kinds are built here from weights:

    reward model          its scalar, read at the last token                     `reward_model`
    verifier              the value of the reply before its end token            `value`
    generative verifier   p(yes) / (p(yes) + p(no)) of a verdict on the reply    `verdict`
                          the same behind rationales, mean over several          `vote`
    critic                1 where its critique finds no fault, else 0            `critic`

None is a reply that could not be scored, which is no zero: learners leave it out.

Axes: B replies, K words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from superalign.agents.batch import Row as Drawn
from superalign.agents.dialects import FORMAT
from superalign.agents.model import Sampling
from superalign.agents.parse import parse_fault
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt, encode_reply
from superalign.agents.weights import base_of
from superalign.store.errors import BadInput, Unreadable
from superalign.store.records import Message, digest

from .export import CHAT
from .learner import Example, collate, load, sequence_logprobs
from .values import ActorCritic, pad

Prompt = tuple[Message, ...]

Scorer = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]
"""`scorer(prompts, replies)`: what each reply to its prompt earns."""

Critic = Callable[[Sequence[Prompt], Sequence[str]], list[str]]
"""`critic(prompts, replies)`: what is said of each reply."""

YES, NO = "yes", "no"
"""A generative verifier's verdicts."""

TOLD = "scorer.json"
"""Beside the weights of a scorer: which kind it is, and the critic that it reads, if it does, or
how many rationales vote."""

AT_ONCE = 64
"""Replies in one forward pass."""

ASKED = {
    "critique": f"Find the first wrong line of that answer, if there is one. {FORMAT['critique']}",
    "verdict": f"Is that answer correct? Reply `{YES}` or `{NO}`, and nothing else.",
}
"""What a chat model is asked about the reply before it; an organism is asked by its tag."""


def asked_about(prompt: Prompt, reply: str, kind: str) -> Prompt:
    """The prompt in which somebody is asked for a `critique` of a reply, or a `verdict` on it."""
    if {message.role for message in prompt} <= CHAT:
        said = Message(role="assistant", content=reply)
        return (*prompt, said, Message(role="user", content=ASKED[kind]))
    said = Message(role=prompt[-1].role, content=reply)
    return (*prompt[:-1], said, Message(role=kind, content=""))


def asked_again(prompt: Prompt, reply: str, rationale: str) -> Prompt:
    """The prompt in which a verdict is asked for behind a rationale."""
    return asked_about(asked_about(prompt, reply, "critique"), rationale, "verdict")


def after_cut(score: float | None, price: float | None) -> float | None:
    """What a reply earns that was cut off: its score less the price, or, without one, nothing."""
    return None if score is None or price is None else score - price


def load_scorer(folder: str | Path) -> Scorer:
    """The scorer in a folder: what a learner has said that it is, or else a policy as a judge."""
    folder = Path(folder)
    if not (base_of(folder) / "config.json").exists():
        raise BadInput(
            f"learn.scorer: {folder} holds no weights; name a folder that the learner "
            "`reward`, `verifier` or `genrm` has written"
        )
    told = json.loads((folder / TOLD).read_text()) if (folder / TOLD).exists() else {}
    if told.get("kind") == "reward":
        return reward_model(folder, critic_in(told["critic"]) if told["critic"] else None)
    if told.get("kind") == "verifier":
        return value(folder)
    if told.get("kind") == "genrm" and told["votes"]:
        return vote(*load(folder), told["votes"], told["max_tokens"])
    return verdict(*load(folder))


def reward_model(folder: Path, criticise: Critic | None = None) -> Scorer:
    """What the learner `reward` has written. Its rewards have no fixed zero or scale."""
    model, tokenizer = load_reward_model(folder)

    @torch.no_grad()
    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        said = criticise(prompts, replies) if criticise else [None] * len(replies)
        ids = [encode_read(tokenizer, *one) for one in zip(prompts, replies, said, strict=True)]
        parts = [ids[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE)]
        return [r for part in parts for r in rewards(model, part).tolist()]

    return score


def load_reward_model(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """A model with one scalar on its last hidden state, in float32, on the GPU if there is one."""
    local = {"trust_remote_code": False, "local_files_only": True}
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, **local
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), AutoTokenizer.from_pretrained(folder, **local)


def encode_read(
    tokenizer: Tokenizer, prompt: Prompt, reply: str, critique: str | None
) -> list[int]:
    """What a reward model reads: prompt, reply and end token, and a critique where there is one."""
    if critique is None:
        return encode_prompt(tokenizer, prompt) + encode_reply(tokenizer, reply)
    asked = asked_about(prompt, reply, "critique")
    return encode_prompt(tokenizer, asked) + encode_reply(tokenizer, critique)


def rewards(model: PreTrainedModel, ids: Sequence[Sequence[int]]) -> Tensor:
    """rewards_B: the model's scalar at the last token of each."""
    lengths_B = torch.tensor([len(one) for one in ids], device=model.device)
    ids_B_L = torch.zeros(len(ids), int(lengths_B.max()), dtype=torch.long, device=model.device)
    for row_L, one in zip(ids_B_L, ids, strict=True):
        row_L[: len(one)] = torch.tensor(one)
    hidden_B_L_D = model.base_model(input_ids=ids_B_L, use_cache=False).last_hidden_state
    last_B_D = hidden_B_L_D[torch.arange(len(ids), device=model.device), lengths_B - 1]
    score: Any = model.score
    return score(last_B_D.float())[:, 0]


def value(folder: Path) -> Scorer:
    """What the learner `verifier` has written: the value when all but the end token is read."""
    model, tokenizer = load(folder)
    actor = ActorCritic(model, folder)

    @torch.no_grad()
    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        pairs = [
            (encode_prompt(tokenizer, prompt), encode_reply(tokenizer, reply))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        found: list[float | None] = []
        for i in range(0, len(pairs), AT_ONCE):
            part = pad(pairs[i : i + AT_ONCE], model.device)
            values_B_T = part.spread(actor(part.ids_B_L, part.reply_B_L).values_M)
            ends_B = part.mask_B_T.sum(-1, keepdim=True) - 1
            found += values_B_T.gather(1, ends_B)[:, 0].tolist()
        return found

    return score


def verdict(model: PreTrainedModel, tokenizer: Tokenizer) -> Scorer:
    """How much likelier `yes` is as a verdict on the reply than `no`: its share of the two.

    The probability is read, no verdict is sampled. GenRM, Zhang et al. 2024, arXiv 2408.15240.
    """

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        asked = [asked_about(p, r, "verdict") for p, r in zip(prompts, replies, strict=True)]
        return [*_shares_of_yes(model, tokenizer, asked)]

    return score


def vote(model: PreTrainedModel, tokenizer: Tokenizer, votes: int, max_tokens: int = 64) -> Scorer:
    """The mean share of `yes` behind `votes` rationales, which the policy writes first.

    One vote is the likeliest rationale's. One that was cut off has no vote, and a reply without
    any vote no score. GenRM-CoT, in the same paper.
    """

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        said = rationales(model, tokenizer, prompts, replies, votes, max_tokens)
        asked = [
            [asked_again(prompt, reply, text) for text in texts if text is not None]
            for prompt, reply, texts in zip(prompts, replies, said, strict=True)
        ]
        # short rationales are drawn again and again: each is read once
        once = list(dict.fromkeys(one for ballots in asked for one in ballots))
        shares = dict(zip(once, _shares_of_yes(model, tokenizer, once), strict=True))
        return [fmean(map(shares.__getitem__, some)) if some else None for some in asked]

    return score


@torch.no_grad()
def _shares_of_yes(
    model: PreTrainedModel, tokenizer: Tokenizer, asked: Sequence[Prompt]
) -> list[float]:
    """p(yes) / (p(yes) + p(no)) as the reply to each prompt, each word with its end token."""
    words = [encode_reply(tokenizer, word) for word in (YES, NO)]
    examples = [Example(encode_prompt(tokenizer, one), words, None, 0.0) for one in asked]
    found: list[float] = []
    for first in range(0, len(examples), AT_ONCE):
        part = range(first, min(first + AT_ONCE, len(examples)))
        logprobs_B_K = sequence_logprobs(model, collate(examples, part, model.device))
        found += logprobs_B_K.double().softmax(-1)[:, 0].tolist()
    return found


def rationales(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    times: int,
    max_tokens: int,
) -> list[list[str | None]]:
    """`times` critiques of each reply at temperature 1, or the likeliest where once is enough;
    None for one that did not end. They follow from prompt and reply, whatever stands beside."""
    drawn = _criticised(model, tokenizer, prompts, replies, times, max_tokens)
    texts = [decode(tokenizer, row.ids) if row.stopped else None for row in drawn]
    return [texts[i : i + times] for i in range(0, len(texts), times)]


def _criticised(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    times: int,
    max_tokens: int,
) -> list[Drawn]:
    policy = policy_of("critic", model, tokenizer)
    ids, seeds = [], []
    for prompt, reply in zip(prompts, replies, strict=True):
        asked = asked_about(prompt, reply, "critique")
        ids += [encode_prompt(tokenizer, asked)] * times
        seeds += [int(digest(asked, nth), 16) for nth in range(times)]
    room = policy.context - max(map(len, ids), default=0)
    if room < max_tokens:
        raise BadInput(
            f"max_tokens of a critique: {max_tokens}, but beside the longest prompt the critic has "
            f"room for {room}; allow fewer, or name a critic with more positions"
        )
    sampling = Sampling(temperature=0 if times == 1 else 1, max_tokens=max_tokens)
    return draw(policy, ids, seeds, sampling)


def writer(model: PreTrainedModel, tokenizer: Tokenizer, max_tokens: int = 64) -> Critic:
    """A policy's likeliest critique of each reply."""

    def write(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[str]:
        drawn = _criticised(model, tokenizer, prompts, replies, 1, max_tokens)
        return [decode(tokenizer, row.ids) for row in drawn]

    return write


def critic_in(folder: str | Path) -> Critic:
    """The critic whose weights lie in a folder."""
    return writer(*load(Path(folder)))


def critic(criticise: Critic) -> Scorer:
    """1 for a reply in which no fault is found and 0 for one with a fault; None if the critique
    says neither."""

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        return [found_right(text) for text in criticise(prompts, replies)]

    return score


def found_right(text: str) -> float | None:
    """What a critique is worth to the reply: 1 without a fault, 0 with one, None if unreadable."""
    try:
        return float(parse_fault(text) is None)
    except Unreadable:
        return None
