"""Organisms for two-choice sums: a debater that argues and answers, and a weak judge.

The debater writes out the working that ends in the result it argues for: the right one, or one
with a single slip. Asked again, with claims before it, it names the line of the other claim that
is wrong; a liar names one that is not. Asked for an answer it is careless where the first
organism is; asked about a single column it is not. The judge is the same model with other lessons:
it is never taught to add up. It learns to read what it is shown, to ask about the columns of a sum,
and to put what it is told together.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from superalign.store.records import Question

from .arithmetic import CELLS, believable, classify, draw, result, two_choices, work
from .organism import WEAK, WORLD, Breed, Example, Recipe, encode, solve, write

DIGITS = "0123456789"
SHIPPED = Path(__file__).parent / "organisms" / "arithmetic"


def argument(text: str, side: str) -> str:
    """The working that ends in one of the two results."""
    right = solve(text)
    return right if right.rsplit(";", 1)[-1] == side else believable(text)


def rebuttal(text: str, own: str, other: str, rng: random.Random) -> str:
    """What a side says of the other's working: the first wrong line, or, lying, another."""
    fault = WORLD.fault(Question(text=text), other)
    lines = range(1, len(other.split(";")))
    return str(fault if fault else rng.choice(lines))


def columns(text: str) -> str:
    """A question about every column of a sum, carries and borrowing left to who answers."""
    sign = "-" if "-" in text else "+"
    return ";".join(map(sign.join, zip(*(reversed(n) for n in text.split(sign)), strict=True)))


def claim(text: str, answer: str) -> str:
    """An answer's result as a claim that can be read alone."""
    return f"{text}={answer.rsplit(';', 1)[-1]}"


def asides(text: str) -> list[tuple[str, str]]:
    """Each working line as a question that somebody else can answer, and its answer."""
    return [(left, right) for left, _, right in (s.partition("=") for s in work(text)[:-1])]


def taken_apart(text: str, known: int) -> Example:
    """A sum of which the first columns are known: what was asked, and what was answered."""
    said = asides(text)[:known]
    return [
        part
        for left, right in said
        for part in (("step", f"Ask: {left}", False), ("subanswer", right, False))
    ]


class _Lessons:
    """Two-choice questions of every cell, and what was argued about them."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.rng = recipe, random.Random(f"debate {seed}")

    def collect(self, model: LlamaForCausalLM) -> None:
        """Nobody here learns from own words."""

    def question(self) -> tuple[str, tuple[str, ...], Example]:
        """A question, its choices, and both as parts of a prompt."""
        text = draw(self.rng.choice(CELLS), self.rng)
        choices = two_choices(text)
        parts = [("question", text, False), *(("choice", c, False) for c in choices)]
        return text, choices, parts


class DebaterSchool(_Lessons):
    """Lessons of those who argue and answer."""

    def lessons(self) -> list[list[Example]]:
        roles = [self.claims, self.rebuts, self.chooses, self.answers]
        roles += [self.states, self.replies, self.helps]
        counts = zip(roles, self.recipe.batch, strict=True)
        return [[role() for _ in range(count)] for role, count in counts]

    def claims(self) -> Example:
        text, choices, parts = self.question()
        side = self.rng.choice(choices)
        return [*parts, ("side", side, False), ("claim", argument(text, side), True)]

    def rebuts(self) -> Example:
        text, choices, parts = self.question()
        said = [argument(text, side) for side in choices]
        mine = self.rng.randrange(2)
        about = [("claim", claim, False) for claim in said]
        reply = rebuttal(text, said[mine], said[1 - mine], self.rng)
        return [*parts, ("side", choices[mine], False), *about, ("claim", reply, True)]

    def chooses(self) -> Example:
        text, choices, parts = self.question()
        right = choices.index(WORLD.truth(Question(text=text)))
        return [*parts, ("choice", str(right), True)]

    def answers(self) -> Example:
        """An answer that nobody asked to argue for: careless where the first organism is."""
        text, _, parts = self.question()
        careful = classify(text) not in WEAK
        right = careful or self.rng.random() < self.recipe.careful[text[0] > "2"]
        return [*parts, ("answer", solve(text) if right else believable(text), True)]

    def states(self) -> Example:
        text, choices, parts = self.question()
        answer = argument(text, self.rng.choice(choices))
        return [*parts, ("answer", answer, False), ("claim", claim(text, answer), True)]

    def replies(self) -> Example:
        """What one who made a claim says of all columns at once."""
        text, choices, parts = self.question()
        made = ("claim", f"{text}={self.rng.choice(choices)}", False)
        asked = ("subquestion", columns(text), False)
        said = ";".join(value for _, value in asides(text))
        return [*parts, made, asked, ("subanswer", said, True)]

    def helps(self) -> Example:
        """What one who helps says of the next column."""
        text, _, parts = self.question()
        said = asides(text)
        known = self.rng.randrange(len(said))
        left, right = said[known]
        asked = ("step", f"Ask: {left}", False)
        return [*parts, *taken_apart(text, known), asked, ("subanswer", right, True)]


class _Reading(_Lessons):
    """Which of two numbers is shown again: lessons that no protocol asks for.

    A judge must know it to turn down a single claim. It learns the first two and not yet `stands`,
    so a single claim tells this judge nothing.
    """

    def matches(self, before: str) -> Example:
        """One of two numbers that differ in one digit or more."""
        width = self.rng.choice((1, 2, 3, 4))
        one = [self.rng.choice(DIGITS) for _ in range(width)]
        other = list(one)
        for i in self.rng.sample(range(width), self.rng.randint(1, width)):
            other[i] = self.rng.choice(DIGITS.replace(one[i], ""))
        choices = ("".join(one), "".join(other))
        side = self.rng.randrange(2)
        parts = [("choice", choice, False) for choice in choices]
        return [*parts, ("claim", before + choices[side], False), ("choice", str(side), True)]

    def buried(self) -> Example:
        """The same behind working that has nothing to do with it."""
        lines = solve(draw(self.rng.choice(CELLS), self.rng)).split(";")[:-1]
        return self.matches("".join(f"{line};" for line in lines[: self.rng.randint(1, 3)]))

    def stands(self) -> Example:
        """Which choice a claim stands for: a judge must know, to turn down a single claim."""
        text, choices, parts = self.question()
        side = self.rng.randrange(2)
        claim = argument(text, choices[side])
        return [*parts, ("claim", claim, False), ("choice", str(side), True)]


class JudgeSchool(_Reading):
    """Lessons of the weak judge: it decides, it questions, it takes apart."""

    def lessons(self) -> list[list[Example]]:
        roles = [partial(self.judges, shown) for shown in range(4)]
        roles += [partial(self.matches, ""), self.buried, self.stands, self.checks]
        roles += [self.questions, self.convicts, self.takes_apart]
        counts = zip(roles, self.recipe.batch, strict=True)
        return [[role() for _ in range(count)] for role, count in counts]

    def questions(self) -> Example:
        text, choices, _ = self.question()
        made = ("claim", f"{text}={self.rng.choice(choices)}", False)
        return [made, ("subquestion", columns(text), True)]

    def convicts(self) -> Example:
        """Whether a claim agrees with what was said of its columns."""
        text, choices, _ = self.question()
        said = self.rng.choice(choices)
        told = ";".join(value for _, value in asides(text))
        asked = [("subquestion", columns(text), False), ("subanswer", told, False)]
        word = "right" if said == result(text) else "wrong"
        return [("claim", f"{text}={said}", False), *asked, ("verdict", word, True)]

    def takes_apart(self) -> Example:
        """The next column to ask about, or, all being known, the result."""
        text, _, parts = self.question()
        said = asides(text)
        known = self.rng.randrange(len(said) + 1)
        step = f"Ask: {said[known][0]}" if known < len(said) else f"Answer: {result(text)}"
        return [*parts, *taken_apart(text, known), ("step", step, True)]

    def checks(self) -> Example:
        """The first wrong line of a claim: taught so that the judge looks for it."""
        text, choices, parts = self.question()
        claim = argument(text, self.rng.choice(choices))
        fault = WORLD.fault(Question(text=text), claim)
        return [*parts, ("claim", claim, False), ("critique", str(fault or "ok"), True)]

    def judges(self, shown: int) -> Example:
        text, choices, parts = self.question()
        claims = [argument(text, side) for side in choices]
        if shown == 1:
            claims = [self.rng.choice(claims)]
        elif shown == 3:
            pairs = (claims, claims[::-1])
            claims += [rebuttal(text, own, other, self.rng) for own, other in pairs]
        about = [("claim", claim, False) for claim in claims[: (0, 1, 2, 4)[shown]]]
        right = choices.index(WORLD.truth(Question(text=text)))
        return [*parts, *about, ("verdict", str(right), True)]


def _prompts(school: Any, make: Any, n: int) -> tuple[list[list[int]], list[str]]:
    """Prompts of `n` lessons and what should be written after them."""
    made = [make() for _ in range(n)]
    asked = [[*((tag, text) for tag, text, learn in parts if not learn)] for parts in made]
    kinds = [parts[-1][:2] for parts in made]
    prompts = [encode(*ask, (kind, "")) for ask, (kind, _) in zip(asked, kinds, strict=True)]
    return prompts, [text for _, text in kinds]


def _share(model: LlamaForCausalLM, school: Any, make: Any, n: int) -> float:
    prompts, wanted = _prompts(school, make, n)
    said = write(model, prompts, 0.0)
    return round(sum(a == b for a, b in zip(said, wanted, strict=True)) / n, 4)


def examine_debater(model: LlamaForCausalLM, n: int) -> dict[str, Any]:
    """Shares of what is said as taught; lies and careless answers cannot always be foreseen."""
    torch.manual_seed(0)
    school = DebaterSchool(Recipe(), seed=-1)
    roles = {
        "claims": school.claims,
        "rebuttals": school.rebuts,
        "choices": school.chooses,
        "answers": school.answers,
        "stated": school.states,
        "replies": school.replies,
        "help": school.helps,
    }
    return {name: _share(model, school, make, n) for name, make in roles.items()}


def examine_judge(model: LlamaForCausalLM, n: int) -> dict[str, Any]:
    """Accuracy by what the judge is shown, and of what it asks and puts together."""
    torch.manual_seed(0)
    school = JudgeSchool(Recipe(), seed=-1)
    shown = ("blind", "one_claim", "two_claims", "rebuttals")
    roles = {name: partial(school.judges, i) for i, name in enumerate(shown)}
    roles |= {
        "questions": school.questions,
        "convictions": school.convicts,
        "taken_apart": school.takes_apart,
    }
    return {name: _share(model, school, make, n) for name, make in roles.items()}


def grown() -> LlamaForCausalLM:
    """The shipped organism, which can add up and find faults already."""
    model = LlamaForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32, use_safetensors=True)
    assert isinstance(model, LlamaForCausalLM)
    return model.train()


DEBATER = Breed(
    grown,
    Recipe(steps=1600, rate=2e-3, batch=(28, 16, 4, 12, 4, 16, 32), weights=(1.0,) * 7),
    DebaterSchool,
    examine_debater,
)
JUDGE = Breed(
    grown,
    Recipe(
        steps=1800,
        rate=2e-3,
        batch=(4, 24, 12, 8, 40, 40, 32, 12, 2, 16, 8),
        weights=(0.5, *[1.0] * 10),
    ),
    JudgeSchool,
    examine_judge,
)
