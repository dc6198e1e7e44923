"""What tells a right answer from a wrong one, on the arithmetic organism.

    python benchmarks/scorers.py [--questions 96] [--lessons 60] [--lr 2e-4] [--heldout 120]
                                 [--seeds 1] [--only "critic,reward,genrm"] [--json]

The organism answers training questions, four times each. Its own critic, frozen, is the only judge
of them; scorers are made of what it says, each in as many updates of the same weights:

    critic      the critic itself: 1 without a fault, 0 with one
    reward      a reward model, from pairs of an accepted and a rejected answer
    critiqued   the same, which reads the critic's critique beside the answer
    verifier    a value at every token, from accepted and rejected answers
    genrm       `yes` or `no`
    cot         `yes` or `no` behind critiques, 8 of them when it scores; it learns from those of
                4 drawn from the critic that agree with its likeliest one
    worked      `yes` or `no` behind a rationale that a program wrote: the right working

Then eight answers of the organism to each held-out question are scored and held against the truth.
`orders` is the share of pairs of a right and a wrong answer to one question that are in order, half
a point for a tie; `best` how often the best of the eight is right, of ties their mean. `mean` is
the answers' own share, `any` that of questions with a right answer. Seeds draw other questions,
answers and orders of rows; an interval is 95%, by resampling held-out questions with all that was
measured of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from superalign.agents.model import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt
from superalign.learners import genrm, learn_config, learner, reward, scoring, verifier
from superalign.learners.estimates import mean_interval
from superalign.learners.rationales import Rationale
from superalign.learners.scoring import Prompt, Scorer
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.resolve import ORGANISMS
from superalign.store import Message, Question, Row, Task

BASE = ORGANISMS / "arithmetic"
WORLD = Arithmetic()
TOKENS = 48
"""Room for the longest right answer."""
DRAWN = 8
"""Answers to a held-out question."""


def asked(task: Task) -> Prompt:
    return (
        Message(role="question", content=task.question.text),
        Message(role="answer", content=""),
    )


def worked(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[Rationale]]:
    """The right working, and whether it ends as the reply does."""
    questions = [Question(text=prompt[0].content) for prompt in prompts]
    return [
        [Rationale(WORLD.solution(question), WORLD.correct(question, reply))]
        for question, reply in zip(questions, replies, strict=True)
    ]


Make = tuple[str, Callable[..., Any], dict[str, Any]]
MADE: dict[str, Make] = {
    "reward": ("reward", reward.learn, {}),
    "critiqued": ("reward", reward.learn, {"critic": str(BASE)}),
    "verifier": ("verifier", verifier.learn, {}),
    "genrm": ("genrm", genrm.learn, {}),
    "cot": ("genrm", genrm.learn, {"rationales": 4, "votes": 8, "max_tokens": 8}),
    "worked": ("genrm", partial(genrm.learn, explain=worked), {"votes": 1, "max_tokens": TOKENS}),
}
"""Scorer -> method, learner and what it is told."""


def answers(folder: Path, tasks: Sequence[Task], seed: int, temperature: float) -> list[str]:
    model, tokenizer = learner.load(folder)
    ids = [encode_prompt(tokenizer, asked(task)) for task in tasks]
    seeds = [(seed << 32) + i for i in range(len(ids))]
    drawn = draw(policy_of("policy", model, tokenizer), ids, seeds, Sampling(temperature, TOKENS))
    return [decode(tokenizer, row.ids) for row in drawn]


def row(kind: Any, task: Task, *replies: str, **more: Any) -> Row:
    return Row(
        kind=kind,
        seat="learner",
        prompt=asked(task),
        replies=replies,
        source="ai",
        judge="critic",
        turns=(f"benchmark/{task.key}/answer",),
        **more,
    )


def lessons(tasks: Sequence[Task], critic: Scorer, seed: int) -> list[Row]:
    """What the critic says of four answers to each question, as `reward` and as `pref` rows."""
    four = [task for task in tasks for _ in range(4)]
    texts = answers(BASE, four, seed, 1.0)
    judged = critic([asked(task) for task in four], texts)
    rows = []
    for i, task in enumerate(tasks):
        said = dict(zip(texts[4 * i : 4 * i + 4], judged[4 * i : 4 * i + 4], strict=True))
        rows += [row("reward", task, t, rewards=(s,)) for t, s in said.items() if s is not None]
        right, wrong = ([t for t, s in said.items() if s == value] for value in (1.0, 0.0))
        rows += [row("pref", task, a, b) for a in right for b in wrong]
    return rows


def make(name: str, rows: Sequence[Row], common: dict[str, Any], out: Path) -> Scorer:
    """Learn a scorer from the rows and read it back from its folder."""
    method, learn, told = MADE[name]
    learn(BASE, rows, learn_config({"method": method, **common, **told}), out)
    return scoring.load_scorer(out)


Measured = list[dict[str, float | list[float]]]


def measure(score: Scorer, tasks: Sequence[Task], seed: int) -> Measured:
    """Of each question: which pairs are in order, and how right the best answers are."""
    several = [task for task in tasks for _ in range(DRAWN)]
    texts = answers(BASE, several, seed + 1, 1.0)
    scores = score([asked(task) for task in several], texts)
    found: Measured = []
    for i, task in enumerate(tasks):
        part = slice(DRAWN * i, DRAWN * (i + 1))
        truth = [WORLD.correct(task.question, text) for text in texts[part]]
        right = dict(zip(texts[part], truth, strict=True))
        earned = {t: s for t, s in zip(texts[part], scores[part], strict=True) if s is not None}
        pairs = [(earned[a], earned[b]) for a in earned for b in earned if right[a] > right[b]]
        told = [s for s in scores[part] if s is not None]
        best = [t for t, s in zip(truth, scores[part], strict=True) if told and s == max(told)]
        found.append(
            {
                "pairs": [(a > b) + 0.5 * (a == b) for a, b in pairs],
                "best": float(np.mean(best or truth)),  # who scores nothing chooses at random
                "mean": float(np.mean(truth)),
                "any": float(any(truth)),
            }
        )
    return found


def summed(seeds: Sequence[Measured]) -> dict[str, Any]:
    """Numbers of a scorer with their intervals, in per cent; a question counts as one."""
    questions = list(zip(*seeds, strict=True))
    won = [[win for one in some for win in one["pairs"]] for some in questions]
    told: dict[str, Any] = {"pairs": sum(map(len, won))}
    told["orders"] = percent([float(np.mean(some)) for some in won if some])
    for name in ("best", "mean", "any"):
        told[name] = percent([float(np.mean([one[name] for one in some])) for some in questions])
    return told


def percent(values: Sequence[float]) -> list[float] | None:
    found = mean_interval(values)
    return [round(100 * end, 1) for end in found] if found else None


def run(args: Any) -> dict[str, Any]:
    heldout, names = WORLD.heldout(args.heldout), args.only.split(",")
    critic = scoring.critic(scoring.critic_in(BASE))
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    counts = []
    for seed in range(args.seeds):
        rows = lessons(list(WORLD.tasks(args.questions, seed)), critic, seed)
        counts.append({kind: sum(r.kind == kind for r in rows) for kind in ("pref", "reward")})
        common = {"batch": 32, "lr": args.lr, "seed": seed, "steps": args.lessons}
        for name in names:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                made = critic if name == "critic" else make(name, rows, common, Path(out))
                measured[name].append(measure(made, heldout, seed))
            seconds[name] += time.perf_counter() - began
            print(seed, name, summed(measured[name]), file=sys.stderr, flush=True)
    scorers = [{"scorer": n, **summed(measured[n]), "seconds": round(seconds[n])} for n in names]
    return {"rows": counts, "scorers": scorers, "versions": versions()}


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def show(found: dict[str, Any]) -> None:
    for rows in found["rows"]:
        print("rows by the critic:", ", ".join(f"{n} {kind}" for kind, n in rows.items()))
    first = found["scorers"][0]
    print("an answer is right: {} ({} to {})".format(*first["mean"]), end="; ")
    print("one of {} is: {} ({} to {})".format(DRAWN, *first["any"]))
    print(f"\n{'scorer':10} {'pairs':>6}  {'orders (95%)':22} {'best (95%)':22} {'s':>5}")
    for one in found["scorers"]:
        shown = ["{:.1f} ({:.1f} to {:.1f})".format(*one[name]) for name in ("orders", "best")]
        told = f"{one['pairs']:6}  {shown[0]:22} {shown[1]:22} {one['seconds']:5}"
        print(f"{one['scorer']:10} {told}")
    print("\n" + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--lessons", type=int, default=60, help="updates of a scorer")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--heldout", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default=",".join(["critic", *MADE]))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = run(args)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
