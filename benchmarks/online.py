"""Learners from own replies on the arithmetic organism, and the scorers that reward them.

    python benchmarks/online.py [--questions 256] [--batches 30] [--seed 0] [--json]
                                [--arms "ppo critic,grpo critic"]

The organism answers training questions; its own critic, frozen, is the only judge. Of what it says
a reward model (pairs of accepted and rejected answers) and a verifier (verdicts on answers) are
made. First each scorer is held against the truth on answers to held-out questions: the share of
pairs of a right and a wrong answer to one question that it orders rightly (half a point for a tie).
Then each learner updates the policy with a scorer, and held-out questions are answered greedily.
All draw as many replies; PPO makes 4 updates of each batch and the others one. `ppo stored` draws
none, and makes PPO's updates from the answers that the base gave in the beginning.
Intervals are 95% of the paired difference to the base. `kl` and `reward` are the last batches'
means: nats per reply from the base, and what the scorer paid.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl

from superalign.agents.model import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt
from superalign.learners import genrm, grpo, learn_config, learner, ppo, reward, rloo, scoring
from superalign.learners.estimates import Z
from superalign.learners.scoring import Prompt, Scorer
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.resolve import ORGANISMS
from superalign.store import Message, Question, Row, Task

BASE = ORGANISMS / "arithmetic"
WORLD = Arithmetic()
TOKENS = 48
"""Room for the longest right answer."""
LEARN = {"ppo": ppo.learn, "grpo": grpo.learn, "rloo": rloo.learn}
UPDATES = {"ppo": 4, "grpo": 1, "rloo": 1}
"""From one batch."""


def asked(task: Task) -> Prompt:
    return (
        Message(role="question", content=task.question.text),
        Message(role="answer", content=""),
    )


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


def ordered(score: Scorer, tasks: Sequence[Task], seed: int) -> dict[str, Any]:
    """How well a scorer tells right from wrong answers to one question."""
    several = [task for task in tasks for _ in range(8)]
    texts = answers(BASE, several, seed + 1, 1.0)
    scores = score([asked(task) for task in several], texts)
    won = []
    for i, task in enumerate(tasks):
        found = dict(zip(texts[8 * i : 8 * i + 8], scores[8 * i : 8 * i + 8], strict=True))
        truth = {text: WORLD.correct(task.question, text) for text in found}
        pairs = [(found[a], found[b]) for a in found for b in found if truth[a] > truth[b]]
        won += [(a > b) + 0.5 * (a == b) for a, b in pairs if a is not None and b is not None]
    return {"pairs": len(won), "ordered": float(np.mean(won))}


def difference(after: np.ndarray, before: np.ndarray) -> list[float]:
    """Mean gain with the ends of its 95% interval, in points."""
    gains = 100 * (after.astype(float) - before)
    half = Z * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return [round(float(gains.mean()) + end, 1) for end in (0, -half, half)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lessons", type=int, default=120, help="updates of a scorer")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--heldout", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--arms", default="ppo critic,ppo reward,ppo genrm,ppo stored,grpo critic,rloo critic"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = run(args)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


def run(args: Any) -> dict[str, Any]:
    tasks, heldout = list(WORLD.tasks(args.questions, args.seed)), WORLD.heldout(args.heldout)
    common = {"batch": args.batch, "lr": args.lr, "seed": args.seed}
    critic = scoring.critic(scoring.critic_in(BASE))
    rows = lessons(tasks, critic, args.seed)
    before = correct(BASE, heldout)
    scorers: dict[str, Scorer] = {"critic": critic}
    judges, arms = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, learn in (("reward", reward.learn), ("genrm", genrm.learn)):
            if any(name in arm for arm in args.arms.split(",")):
                out = Path(scratch, name)
                settings: Any = learn_config({"method": name, **common, "steps": args.lessons})
                learn(BASE, rows, settings, out)
                scorers[name] = scoring.load_scorer(out)
        for name, score in scorers.items():
            judges.append({"scorer": name, **ordered(score, heldout, args.seed)})
        for arm in args.arms.split(","):
            method, scorer = arm.split()
            out, began = Path(scratch, arm), time.perf_counter()
            steps = args.batches * UPDATES[method]
            config: Any = learn_config(
                {"method": method, **common, "steps": steps, "max_tokens": TOKENS}
            )
            told = LEARN[method](BASE, rows, config, out, None, scorers.get(scorer))
            after = correct(out, heldout)
            arms.append(
                {
                    "arm": arm,
                    "accuracy": round(100 * float(after.mean()), 1),
                    "gain": difference(after, before),
                    "reward": [told[when]["reward"] for when in ("first", "last")],
                    "kl": told["last"]["kl"],
                    "seconds": round(time.perf_counter() - began),
                }
            )
    pairs = sum(one.kind == "pref" for one in rows)
    return {
        "rows": {"pref": pairs, "reward": len(rows) - pairs},
        "base": round(100 * float(before.mean()), 1),
        "scorers": judges,
        "arms": arms,
        "versions": versions(),
    }


def correct(folder: Path, tasks: Sequence[Task]) -> np.ndarray:
    texts = answers(folder, tasks, 0, 0.0)
    questions: list[Question] = [task.question for task in tasks]
    return np.array([WORLD.correct(q, text) for q, text in zip(questions, texts, strict=True)])


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def show(found: dict[str, Any]) -> None:
    print("rows by the critic:", ", ".join(f"{n} {kind}" for kind, n in found["rows"].items()))
    print(f"\n{'scorer':8} {'pairs':>6}  orders rightly")
    for judge in found["scorers"]:
        print(f"{judge['scorer']:8} {judge['pairs']:6}  {judge['ordered']:.3f}")
    print(f"\nheld out, greedy; the base: {found['base']}")
    print(f"{'arm':12} {'right':>6}  {'gain (95% interval)':24} {'reward':>15} {'kl':>6} {'s':>5}")
    for arm in found["arms"]:
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*arm["gain"])
        paid = "{:.2f} to {:.2f}".format(*arm["reward"])
        print(
            f"{arm['arm']:12} {arm['accuracy']:6.1f}  {gain:24} {paid:>15} {arm['kl']:6.2f} "
            f"{arm['seconds']:5}"
        )
    print("\n" + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))


if __name__ == "__main__":
    main()
