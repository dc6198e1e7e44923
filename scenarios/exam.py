"""Held-out questions as a policy is asked them, and how well weights answer them.

    asked, untold     what an examinee is shown: the loop and `sweep` ask alike
    HeldOut           greedy answers of a run's version, each stored when it is given
    Exam              greedy answers of weights in a folder, and their KL to the base's

The KL is estimated on fresh replies at temperature 1: the mean of log pi - log pi_ref, summed over
a reply's tokens, is KL(pi || pi_ref) of whole replies in nats, without bias. It can be below 0 by
chance alone. Loads torch when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from superalign.agents import Ask, Model, Request, Sampling, View, complete, pressure, view
from superalign.agents.dialects import Dialect
from superalign.agents.model import Completion
from superalign.protocols.flow import Flow
from superalign.protocols.stage import describe
from superalign.store import Store
from superalign.store.errors import SuperalignError
from superalign.store.records import Evaluation, Message, Question, Task

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


@dataclass
class HeldOut:
    """One run's held-out items. A call that fails for good is counted and leaves no answer, so the
    item is asked again when the run is resumed; what fails is never averaged in."""

    run: str
    store: Store
    world: World
    seat: str
    member: CastMember
    model: Model
    tasks: Sequence[Task]
    failed: dict[int, list[str]] = field(default_factory=dict)
    """Iteration -> why calls failed."""

    def left(self, iteration: int) -> list[Task]:
        """Items that no answer of an iteration's version is stored of."""
        done = {evaluation.item for evaluation in self.store.evaluations(self.run, iteration)}
        return [task for task in self.tasks if task.key not in done]

    async def ask(
        self, iteration: int, policy: str, cap: int, told: Callable[[int, int], None]
    ) -> None:
        """Put what is left to a version, as many at a time as its engine can use; `told` gets how
        many of all items are over."""
        left, failed = self.left(iteration), []
        self.failed[iteration], over = failed, len(self.tasks) - len(left)

        async def one(task: Task) -> None:
            nonlocal over
            try:
                completion = await complete(self.model, self._request(task, policy))
            except Exception as error:
                failed.append(describe(error))
            else:
                evaluation = self._evaluation(task, iteration, policy, completion)
                self.store.put_evaluations(self.run, [evaluation])
            flow.answered(pressure(self.model))
            over += 1
            told(over, len(self.tasks))

        flow = Flow(cap, one)
        await flow.run(left)

    def _request(self, task: Task, policy: str) -> Request:
        shown, messages = asked(self.model.dialect, self.seat, untold(task))
        return Request(
            messages=messages,
            sampling=Sampling(temperature=0.0, max_tokens=self.member.max_tokens),
            seed=0,
            policy=policy,
            view=shown,
            episode="",
            nth=0,
            task=task.key,
        )

    def _evaluation(
        self, task: Task, iteration: int, policy: str, completion: Completion
    ) -> Evaluation:
        return Evaluation(
            iteration=iteration,
            policy=policy,
            item=task.key,
            cell=task.question.topic,
            text=completion.text,
            correct=self.world.correct(untold(task), completion.text),
            tokens=completion.completion_tokens or 0,
            attempts=completion.attempts,
        )


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
