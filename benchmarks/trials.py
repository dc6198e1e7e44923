"""What the benchmarks of learners share: one run's transcripts, one budget of tokens, one test.

Every arm starts from the shipped organism, learns from rows of the same stored transcripts, spends
the same tokens, and answers the same held-out questions. Results that lie in the folder already
are not made again.

Axes: S seeds, I held-out items.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superalign.agents import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt, encode_reply
from superalign.learners import LEARNERS, LearnConfig
from superalign.learners.estimates import Estimate, mean_interval
from superalign.learners.learner import Example, collate, load, sequence_logprobs
from superalign.scenarios import arithmetic
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.commands import run_scenario
from superalign.store import Store
from superalign.store.records import Episode, Message, Row, Task, Turn

SCENARIO = Path(arithmetic.__file__).parent / "arithmetic.yaml"
BASE = SCENARIO.parent / "organisms" / "arithmetic"
WORLD = Arithmetic()
ANSWER = 40
"""Tokens of an answer at most, as in the scenario."""


@dataclass(frozen=True)
class Transcripts:
    """Episodes as a store holds them, and what was shown in them."""

    episodes: list[Episode]
    shown: dict[str, Message]

    def prompt_of(self, turn: Turn) -> tuple[Message, ...]:
        return tuple(self.shown[key] for key in turn.messages)


def play(folder: Path, seed: int = 0) -> Transcripts:
    """One iteration of scenarios/arithmetic.yaml, played once into the folder."""
    stores = list(folder.glob("arithmetic-*/store.sqlite"))
    if not stores:
        only = ("iterations=1", "learn=null", "cast.learner.learn=false", "evaluate=null")
        overrides = (*only, "labels.human=null", f"seed={seed}")
        facts, _ = run_scenario(SCENARIO, overrides, folder, None, False)
        stores = [Path(facts["store"])]
    with Store.open(stores[0]) as store:
        found = list(store.episodes(stores[0].parent.name))
        shown = store.messages({key for e in found for turn in e.turns for key in turn.messages})
    return Transcripts([e for e in found if e.status == "done"], shown)


def revises(row: Row) -> bool:
    """Whether its prompt shows a critique."""
    return any(message.role == "critique" for message in row.prompt)


@dataclass(frozen=True)
class Arm:
    """Rows, and how to learn from them."""

    name: str
    method: str
    rows: Sequence[Row]
    config: LearnConfig


@dataclass(frozen=True)
class Result:
    """One arm under one seed, tested."""

    name: str
    seed: int
    steps: int
    tokens: int
    """Tokens that it learnt from, prompts included, each as often as it was gone through."""
    correct_I: list[bool]
    kl_I: list[float]
    """log pi - log pi_base of one drawn reply to each item: its mean is the KL to the base. Empty
    where it was not asked for."""


class Exam:
    """Held-out questions: answered greedily, and drawn once for the divergence from the base."""

    def __init__(self, items: int) -> None:
        self.base, self.tokenizer = load(BASE)
        self.tasks = WORLD.heldout(items)
        self.prompts = [encode_prompt(self.tokenizer, ask(task)) for task in self.tasks]

    def correct(self, folder: Path) -> list[bool]:
        greedy = self._answers(load(folder)[0], 0.0)
        texts = (decode(self.tokenizer, row.ids) for row in greedy)
        pairs = zip(self.tasks, texts, strict=True)
        return [WORLD.correct(task.question, text) for task, text in pairs]

    @torch.no_grad()
    def divergence(self, folder: Path) -> list[float]:
        drawn = self._answers(load(folder)[0], 1.0)
        examples = [
            Example(prompt, [list(row.ids)], None, 0.0)
            for prompt, row in zip(self.prompts, drawn, strict=True)
        ]
        parts = torch.arange(len(examples)).split(256)
        batches = (collate(examples, part.tolist(), self.base.device) for part in parts)
        base_I = torch.cat([sequence_logprobs(self.base, batch)[:, 0] for batch in batches])
        own_I = torch.tensor([sum(row.logprobs) for row in drawn])
        return (own_I - base_I).tolist()

    def _answers(self, model: Any, temperature: float) -> Any:
        policy = policy_of("learner", model, self.tokenizer)
        sampling = Sampling(temperature=temperature, max_tokens=ANSWER)
        return draw(policy, self.prompts, range(len(self.prompts)), sampling)

    def tokens(self, row: Row) -> int:
        """Tokens of a row that a learner goes through: each reply after its prompt."""
        prompt = len(encode_prompt(self.tokenizer, row.prompt))
        return sum(prompt + len(encode_reply(self.tokenizer, reply)) for reply in row.replies)


def ask(task: Task) -> tuple[Message, ...]:
    question = task.question.text
    return Message(role="question", content=question), Message(role="answer", content="")


def step_tokens(arm: Arm, exam: Exam) -> float:
    """What one update goes through on average: its rows, and the accepted answers beside them."""
    kinds = {row.kind for row in arm.rows}
    used = [next(kind for kind in arm.config.kinds if kind in kinds)]
    if getattr(arm.config, "sft", 0) and "sft" in kinds:
        used.append("sft")
    of_kind = ([exam.tokens(row) for row in arm.rows if row.kind == kind] for kind in used)
    return arm.config.batch * sum(float(np.mean(counts)) for counts in of_kind)


def run(arm: Arm, seed: int, tokens: int, exam: Exam, out: Path, kl: bool = True) -> Result:
    """Learn from so many tokens and be tested, unless that is done already."""
    file = out / f"{arm.name.replace(' ', '_').replace('/', '-')}-seed{seed}.json"
    if file.is_file():
        return Result(**json.loads(file.read_text()))
    each = step_tokens(arm, exam)
    steps = max(1, round(tokens / each))
    config = arm.config.model_copy(update={"steps": steps, "seed": seed})
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "weights"
        LEARNERS[arm.method](BASE, list(arm.rows), config, weights)
        correct_I = exam.correct(weights)
        kl_I = exam.divergence(weights) if kl else []
    result = Result(arm.name, seed, steps, round(each * steps), correct_I, kl_I)
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(vars(result)))
    print(f"done: {arm.name}, seed {seed}: {np.mean(correct_I):.3f}", file=sys.stderr, flush=True)
    return result


def difference(a_S_I: Sequence[Sequence[bool]], b_S_I: Sequence[Sequence[bool]]) -> Estimate:
    """How much oftener `a` is right, paired by item; the interval is over items, seeds averaged."""
    per_item = np.mean(np.array(a_S_I, float), axis=0) - np.mean(np.array(b_S_I, float), axis=0)
    found = mean_interval(per_item.tolist())
    assert found is not None  # there are items
    return found


def summary(
    results: Sequence[Result], base_I: Sequence[bool], rival_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Arm by arm: accuracy, gain over the base, difference to another arm, KL."""
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result.name, []).append(result)
    lines = []
    for name, some in arms.items():
        mine = [r.correct_I for r in some]
        rival = [r.correct_I for r in arms.get(rival_of(name), ())]
        kl = mean_interval(np.mean([r.kl_I for r in some], axis=0).tolist())  # None if not asked
        lines.append(
            {
                "arm": name,
                "steps": some[0].steps,
                "tokens": some[0].tokens,
                "accuracy": float(np.mean(mine)),
                "by_seed": [float(np.mean(r.correct_I)) for r in some],
                "gain": difference(mine, [base_I]),
                "versus": difference(mine, rival) if rival not in ([], mine) else None,
                "kl": kl,
            }
        )
    return lines


def table(lines: Sequence[Mapping[str, Any]], against: str = "sft") -> str:
    """A table in Markdown: points of accuracy with 95% intervals, nats of KL."""

    def told(estimate: Estimate | None, scale: float, sign: str) -> str:
        if estimate is None:
            return ""
        value, low, high = (scale * number for number in estimate)
        return f"{value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"

    head = ("arm", "steps", "k tokens", "accuracy (by seed)", "gain", f"minus {against}", "KL")
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in lines:
        seeds = ", ".join(f"{100 * value:.1f}" for value in one["by_seed"])
        cells = (
            one["arm"],
            one["steps"],
            f"{one['tokens'] / 1000:.0f}",
            f"{100 * one['accuracy']:.1f} ({seeds})",
            told(one["gain"], 100, "+"),
            told(one["versus"], 100, "+"),
            told(one["kl"], 1, ""),
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def versions() -> dict[str, str]:
    packages = ("superalign", "torch", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def options(about: str, name: str, tokens: int, arms: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all of these benchmarks have. From here on there is one thread."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=360, help="held-out questions")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens that an arm learns from")
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms, metavar="ARM")
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--json", action="store_true")
    torch.set_num_threads(1)  # two on busy cores are slower than one
    return parser
