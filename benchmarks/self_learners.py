"""What the arithmetic organism learns from its own samples, in one update.

    python benchmarks/self_learners.py [--rate 1e-5] [--beta 0.5] [--questions 240] [--json]

Questions of the three cells in which it forgets to carry; each answered eight times. Every method
takes as many steps, at the same rate, and is tested greedily on held-out questions of all cells:

    base            before
    sft             copies gold answers
    spin            gold answers against its own samples
    star            copies its first answer to each question that has the right result
    rso             pairs of the eight, by how likely its own critic calls them ok
    self_rewarding  the best against the worst of the eight, by the same critic

The two last see no truth. The defaults are those of scenarios/arithmetic.yaml. No target: it is a
measurement, of one seed and one update.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from superalign import scenarios
from superalign.agents.model import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt
from superalign.learners import CONFIGS, LEARNERS, learn_config, weak_to_strong
from superalign.learners.estimates import wilson
from superalign.learners.learner import load
from superalign.scenarios import arithmetic
from superalign.scenarios.organism import WEAK
from superalign.store.records import Message, Question, Row

BASE = Path(scenarios.__file__).parent / "organisms" / "arithmetic"
WORLD = arithmetic.Arithmetic()
SAMPLES, PER_CELL, TOKENS = 8, 60, 48
TAUGHT = {"steps": 40, "batch": 32}
OWN: dict[str, dict[str, Any]] = {
    "sft": {},
    "spin": {"max_tokens": TOKENS},
    "star": {},
    "rso": {"keep": 4},
    "self_rewarding": {},
}
BLAMES = ("ok", *"12345")
"""What the critic may say: no fault, or in which line."""


def prompt(text: str, answer: str | None = None) -> tuple[Message, ...]:
    """What the learner is asked, or, of an answer, the critic."""
    asked = [Message(role="question", content=text), Message(role="answer", content=answer or "")]
    return (*asked, Message(role="critique", content="")) if answer is not None else tuple(asked)


def row(kind: Any, text: str, replies: Sequence[str], **more: Any) -> Row:
    asked = {"seat": "learner", "prompt": prompt(text), "replies": tuple(replies)}
    return Row(**{"source": "ai", "judge": "own", **asked, "kind": kind, "turns": (text,), **more})


def answers(policy: Path, texts: Sequence[str], temperature: float, seed: int = 0) -> list[str]:
    """One answer to each."""
    model, tokenizer = load(policy)
    prompts = [encode_prompt(tokenizer, prompt(text)) for text in texts]
    seeds = [seed + i for i in range(len(texts))]
    drawn = draw(policy_of("own", model, tokenizer), prompts, seeds, Sampling(temperature, TOKENS))
    return [decode(tokenizer, one.ids) for one in drawn]


def lessons(questions: int, seed: int) -> dict[str, list[Row]]:
    """The rows of every method."""
    rng = random.Random(seed)
    texts = [arithmetic.draw(WEAK[i % len(WEAK)], rng) for i in range(questions)]
    said = answers(BASE, [text for text in texts for _ in range(SAMPLES)], 1.0, seed)
    asked = [prompt(texts[i // SAMPLES], answer) for i, answer in enumerate(said)]
    cases = [row("rank", "", BLAMES).model_copy(update={"prompt": one}) for one in asked]
    ok = weak_to_strong.predict(BASE, cases)[:, 0].tolist()
    own, ranked = [], []
    for i, text in enumerate(texts):
        eight = slice(i * SAMPLES, (i + 1) * SAMPLES)
        ranked.append(row("rank", text, said[eight], rewards=tuple(ok[eight])))
        right = [one for one in said[eight] if WORLD.correct(Question(text=text), one)]
        own += [row("sft", text, right[:1], iteration=1)] if right else []
    gold = [row("sft", text, (WORLD.solution(Question(text=text)),)) for text in texts]
    return {"sft": gold, "spin": gold, "star": own, "rso": ranked, "self_rewarding": ranked}


def examine(policy: Path) -> dict[str, Any]:
    """Greedy accuracy on held-out questions, with its interval; of weak cells, and of others."""
    right = {}
    for cell in arithmetic.CELLS:
        texts = arithmetic.heldout_texts(cell)[:PER_CELL]
        said = zip(texts, answers(policy, texts, 0.0), strict=True)
        right[cell] = sum(WORLD.correct(Question(text=text), answer) for text, answer in said)
    weak = sum(right[cell] for cell in WEAK)
    return {
        "weak": wilson(weak, PER_CELL * len(WEAK)),
        "strong": wilson(sum(right.values()) - weak, PER_CELL * (len(right) - len(WEAK))),
    }


def measure(questions: int, rate: float, beta: float, seed: int = 0) -> dict[str, Any]:
    found, taught = {"base": examine(BASE)}, lessons(questions, seed)
    for method, given in OWN.items():
        told = {"beta": beta} if "beta" in CONFIGS[method].model_fields else {}
        config = learn_config({"method": method, "lr": rate, **TAUGHT, **told, **given})
        with TemporaryDirectory() as folder:
            metrics = LEARNERS[method](BASE, taught[method], config, Path(folder))
            found[method] = examine(Path(folder))
        counts = {k: v for k, v in metrics.items() if k not in ("first", "last", "seconds")}
        found[method] |= {"told": counts, "margin": metrics["last"].get("margin")}
        print(method, found[method], file=sys.stderr, flush=True)
    return found


def show(found: dict[str, Any]) -> None:
    print("greedy accuracy in per cent, held out")
    print(f"{'':15}{'weak cells':>22}{'other cells':>24}   learnt from")
    for method, facts in found.items():
        ends = [facts[kind] for kind in ("weak", "strong")]
        shown = (f"{100 * e.value:5.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})" for e in ends)
        told = facts.get("told", {})
        what = f"{told.get('pairs', told.get('rows'))} {'pairs' if 'pairs' in told else 'rows'}"
        print(
            f"{method:15}" + "".join(f"{one:>23}" for one in shown) + f"   {what if told else ''}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(args.questions, args.rate, args.beta)
    names = ("superalign", "torch", "transformers")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    if args.json:
        print(json.dumps({"methods": found, "versions": versions}, indent=2))
    else:
        show(found)
        print(", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
