"""Held-out questions as a policy is asked them, and how well weights answer them.

    asked, untold     what an examinee is shown: the loop and `sweep` ask alike
    Exam              greedy answers of weights in a folder, and their KL to the base's

The KL is estimated on fresh replies at temperature 1: the mean of log pi - log pi_ref, summed over
a reply's tokens, is KL(pi || pi_ref) of whole replies in nats, without bias. It can be below 0 by
chance alone. Loads torch when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from superalign.agents import Ask, Sampling, View, view
from superalign.agents.dialects import Dialect
from superalign.store.errors import SuperalignError
from superalign.store.records import Message, Question, Task

from .scenario import CastMember
from .world import World

SAME = 0.01
"""Nats a reply by which one set of weights, decoded and read at once, may differ from itself."""


def untold(task: Task) -> Question:
    """A held-out question as it is asked: no prompt tells the cell."""
    return task.question.model_copy(update={"topic": ""})


def asked(dialect: Dialect, seat: str, question: Question) -> tuple[View, tuple[Message, ...]]:
    """What a seat is shown when it is to answer a question of a test."""
    shown = view(seat, question, None, Ask(kind="answer"))
    return shown, dialect.render(shown, 0)


class Taken(NamedTuple):
    """What one set of weights did in the exam."""

    correct: tuple[bool, ...]
    """Item by item."""
    kl: tuple[float, ...]
    """log pi - log pi_ref of each fresh reply, in nats."""


@dataclass(frozen=True)
class Exam:
    """One world's held-out items for one seat, and the base that drift is measured from."""

    base: Path
    world: World
    tasks: Sequence[Task]
    seat: str
    member: CastMember
    dialect: Dialect
    samples: int
    """Fresh replies that measure the KL, spread over the items."""

    def take(self, folder: Path, seed: int = 0) -> Taken:
        """Answer every item greedily, then draw replies and read them with the base's weights."""
        from superalign.agents.rollouts import draw, policy_of
        from superalign.agents.tokens import decode, encode_prompt
        from superalign.learners.learner import load

        model, tokenizer = load(folder)
        policy = policy_of(folder.name, model, tokenizer)
        questions = [untold(task) for task in self.tasks]
        messages = [asked(self.dialect, self.seat, question)[1] for question in questions]
        prompts = [encode_prompt(tokenizer, shown) for shown in messages]
        most = self.member.max_tokens
        greedy = draw(policy, prompts, [0] * len(prompts), Sampling(0.0, most))
        texts = [decode(tokenizer, row.ids) for row in greedy]
        pairs = zip(questions, texts, strict=True)
        correct = tuple(self.world.correct(question, text) for question, text in pairs)
        chosen = [prompts[i % len(prompts)] for i in range(self.samples)]
        seeds = [seed * self.samples + i for i in range(self.samples)]
        fresh = draw(policy, chosen, seeds, Sampling(1.0, most))
        own = [sum(row.logprobs) for row in fresh]
        replies = [list(row.ids) for row in fresh]
        kl = [p - q for p, q in zip(own, self._read(chosen, replies), strict=True)]
        if folder == self.base and max(map(abs, kl), default=0.0) > SAME:
            raise SuperalignError(
                f"{folder}: its replies' log-probabilities differ by up to {max(map(abs, kl)):.4g} "
                "nats between drawing and reading; no KL can be measured with it"
            )
        return Taken(correct, tuple(kl))

    def _read(self, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> list[float]:
        """Log-probabilities of replies under the base."""
        import torch

        from superalign.learners.learner import Example, collate, load, sequence_logprobs

        model, _ = load(self.base)
        pairs = zip(prompts, replies, strict=True)
        examples = [Example(prompt, [reply], None, 0.0) for prompt, reply in pairs]
        found: list[Any] = []
        with torch.no_grad():
            for part in torch.arange(len(examples)).split(64):
                batch = collate(examples, part.tolist(), model.device)
                found += sequence_logprobs(model, batch)[:, 0].tolist()
        return found
