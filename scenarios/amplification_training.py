"""Iterated amplification (Christiano et al. 2018, arXiv:1810.08575) of a small transformer.

A `Solver` reads facts as a set, one vector each, and a query, and gives the answer. Two teachers:

    truth    the right answer to every problem
    amplify  what `human` answers when a slow-moving average of the solver answers its sub-queries;
             nobody tells the solver one right answer to a whole problem

With `amplify` problems get harder as the solver comes to agree with its own amplification: a wrong
answer to an easy query would be taken over by every harder one.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import amplification as world
from .amplification import Ints, Problem, Read, Sub

OFFSET = 9
"""Numbers from -8 on are symbols from 1 on; 0 is no number at all."""
SYMBOLS = OFFSET + 10
Teacher = Literal["truth", "amplify"]


class Recipe(NamedTuple):
    """How a solver is taught."""

    steps: int = 2000
    batch: int = 128
    lr: float = 3e-3
    width: int = 64
    layers: int = 3
    heads: int = 4
    decay: float = 0.98
    """How slowly the average that answers sub-queries follows the solver, a step."""
    agree: float = 0.9
    """Share of hardest problems on which solver and teacher must agree before harder ones come."""
    pool: int = 20_000
    """Training problems, each drawn once."""


class Solver(nn.Module):
    """Attention over a set of facts and one query; reads the answer off the query's place."""

    def __init__(self, kind: str, recipe: Recipe) -> None:
        super().__init__()
        example = world.draw(kind, random.Random(0))
        self.slots = rows(example).shape[1]
        width = recipe.width
        self.facts = nn.EmbeddingBag(self.slots * SYMBOLS, width, mode="sum")
        self.query = nn.EmbeddingBag(len(example.query) * SYMBOLS, width, mode="sum")
        layer = nn.TransformerEncoderLayer(
            width, recipe.heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(
            layer, recipe.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, facts: Tensor, query: Tensor) -> Tensor:
        n, many, _ = facts.shape
        known = self.facts(_placed(facts).flatten(0, 1)).view(n, many, -1)
        asked = self.query(_placed(query)).unsqueeze(1)
        return self.head(self.body(torch.cat([asked, known], 1))[:, 0])

    @torch.no_grad()
    def answers(self, facts: Tensor, queries: Sequence[Ints]) -> list[int]:
        """The likeliest answer to each query."""
        return (self(facts, symbols(queries)).argmax(-1) - OFFSET).tolist()


def _placed(symbol: Tensor) -> Tensor:
    """The same symbol in another place is another entry of the table."""
    return symbol + SYMBOLS * torch.arange(symbol.shape[-1])


def symbols(numbers: Sequence[Ints]) -> Tensor:
    """Rows of numbers as symbols, short rows filled up."""
    longest = max(map(len, numbers))
    rows = [[n + OFFSET for n in row] + [0] * (longest - len(row)) for row in numbers]
    return torch.tensor(rows)


def rows(problem: Problem) -> Tensor:
    """A problem's facts as symbols. An edge is a row of its own, as each can be looked for."""
    if problem.kind == "path":
        return symbols([(u, v) for u, *ends in problem.facts for v in ends])
    return symbols(problem.facts)


class Pool(NamedTuple):
    """Problems of one kind with their facts as symbols; the truths only `truth` may read."""

    problems: list[Problem]
    facts: Tensor
    truths: Tensor
    levels: list[int]

    def at(self, places: Sequence[int]) -> Pool:
        """Some of them."""
        some = torch.tensor(places)
        problems = [self.problems[i] for i in places]
        levels = [self.levels[i] for i in places]
        return Pool(problems, self.facts[some], self.truths[some], levels)


def gather(problems: list[Problem], levels: Sequence[int] = ()) -> Pool:
    facts = torch.stack([rows(problem) for problem in problems])
    truths = torch.tensor([world.truth(problem) + OFFSET for problem in problems])
    return Pool(problems, facts, truths, list(levels))


def draw_pool(kind: str, n: int, seed: int) -> Pool:
    """Training problems, every level as often."""
    rng = random.Random(f"pool {kind} {seed}")
    span = levels_of(kind)
    levels = [span[i % len(span)] for i in range(n)]
    return gather([world.draw(kind, rng, level) for level in levels], levels)


def levels_of(kind: str) -> range:
    return range(1 if kind == "powering" else 0, world.LEVELS[kind] + 1)


def amplified(batch: Pool, answer: Callable[[Tensor, Sequence[Ints]], list[int]]) -> list[int]:
    """What `human` answers to each problem when `answer` answers all sub-queries of one step."""
    steps = [world.human(problem.kind, problem.query) for problem in batch.problems]
    sent: dict[int, Ints | None] = dict.fromkeys(range(len(steps)))
    results = [0] * len(steps)
    while sent:
        asked: dict[int, Sub] = {}
        for i, value in sent.items():
            try:
                step = next(steps[i]) if value is None else steps[i].send(value)
                while isinstance(step, Read):
                    step = steps[i].send(world.read(batch.problems[i].facts, step.start))
                asked[i] = step
            except StopIteration as end:
                results[i] = end.value
        queries = [step.query for step in asked.values()]
        replies = answer(batch.facts[list(asked)], queries) if asked else []
        sent = {i: (reply,) for i, reply in zip(asked, replies, strict=True)}
    return results


class Trained(NamedTuple):
    """A taught solver, and what happened."""

    solver: Solver
    level: int
    """The hardest level that was taught in the end."""
    reached: dict[int, int]
    """Level -> the step at which it was first taught."""
    questions: int
    """Problems taken apart by `human`."""


def train(kind: str, teacher: Teacher, pool: Pool, recipe: Recipe, seed: int) -> Trained:
    """Teach a new solver."""
    torch.manual_seed(seed)
    rng = random.Random(f"train {kind} {seed}")
    solver = Solver(kind, recipe)
    average = copy.deepcopy(solver)
    optimiser = torch.optim.AdamW(solver.parameters(), lr=recipe.lr, weight_decay=0.01)
    pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step / recipe.steps))
    by_level = {
        level: [i for i, at in enumerate(pool.levels) if at == level] for level in levels_of(kind)
    }
    top = max(by_level) if teacher == "truth" else min(by_level)
    reached, agreement, questions = {top: 0}, 0.0, 0
    for step in range(recipe.steps):
        batch = pool.at(_drawn(by_level, top, recipe.batch, rng))
        if teacher == "truth":
            targets = batch.truths
        else:
            targets = torch.tensor(amplified(batch, average.answers)) + OFFSET
            questions += recipe.batch
        logits = solver(batch.facts, symbols([problem.query for problem in batch.problems]))
        loss = nn.functional.cross_entropy(logits, targets.clamp(0, SYMBOLS - 1))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(solver.parameters(), 1.0)
        optimiser.step()
        pace.step()
        _follow(average, solver, recipe.decay)
        hardest = torch.tensor([level == top for level in batch.levels])
        same = (logits.argmax(-1) == targets)[hardest].float().mean().item()
        agreement = 0.9 * agreement + 0.1 * same
        if agreement > recipe.agree and top < max(by_level):
            top, agreement = top + 1, 0.0
            reached[top] = step + 1
    return Trained(solver, top, reached, questions)


def _pace(done: float) -> float:
    """Share of the learning rate: up, level, and down over the last third."""
    return min(1.0, (done + 0.002) / 0.05, 3 * (1 - done) + 0.01)


def _drawn(by_level: dict[int, list[int]], top: int, n: int, rng: random.Random) -> list[int]:
    """Places in the pool: every level up to `top` as often."""
    levels = [level for level in by_level if level <= top]
    return [rng.choice(by_level[levels[i % len(levels)]]) for i in range(n)]


@torch.no_grad()
def _follow(average: nn.Module, solver: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), solver.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def right(solver: Solver, pool: Pool) -> list[bool]:
    """Which problems a solver answers rightly."""
    solver.eval()
    said = solver.answers(pool.facts, [problem.query for problem in pool.problems])
    return [a + OFFSET == b for a, b in zip(said, pool.truths.tolist(), strict=True)]
