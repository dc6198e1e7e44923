"""What a strong model learns from a weak one's labels: whether an answer to a sum is right.

    python benchmarks/weak_to_strong.py [--seeds 3] [--json]

Questions are plain sums of two numbers, half of the answers right, half of the wrong ones rough (a
line too many or too few, or a column that no two digits add up to), the rest subtly wrong. The
weak model has 88 thousand random weights, reads the truth about half A of the questions and soon
knows the rough ones. The strong model is the arithmetic organism, which can tell every mistake as
a critic, but says which line is wrong and has never been asked to say no. It is taught to, with

    untaught    nothing: the half that is likeliest to be called ok counts as ok
    ceiling     the truth about half A
    naive       the weak model's soft labels of half B
    paper       the same, by the confidence loss: weight 0.5, the paper's schedule, half positive
    released    the same as in the released code: its schedule, as many positive as labels say
    of noise    labels of half B that are wrong as often as the weak model's, but at random (noise)

and all are tested on held-out questions. PGR is the share of the gap between supervisor and
ceiling that was recovered, with intervals of a bootstrap paired over seeds and questions. No
target: it is a measurement. A quarter of an hour on a busy core.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from superalign import scenarios
from superalign.learners import learn_config, pgr, weak_to_strong
from superalign.scenarios.arithmetic import Arithmetic, draw, heldout_texts, mistake
from superalign.scenarios.organism import newborn, tokenizer
from superalign.store.errors import BadInput
from superalign.store.records import Message, Question, Row

STRONG = Path(scenarios.__file__).parent / "organisms" / "arithmetic"
WORLD = Arithmetic()
HALF = 2000
"""Questions of each half."""
WEAK = {"confidence": 0, "steps": 240, "lr": 2e-3, "batch": 32}
TAUGHT = {"steps": 100, "lr": 3e-4, "batch": 32}
LOSSES: dict[str, dict[str, Any]] = {
    "naive": {"confidence": 0},
    "paper": {"confidence": 0.5, "schedule": "paper", "prior": 0.5},
    "released": {"confidence": 0.5, "schedule": "released", "prior": None},
}
SUPERVISORS = {**dict.fromkeys(LOSSES, "weak"), "of noise": "noise"}
ARMS = ("weak", "noise", "untaught", "ceiling", *SUPERVISORS)


def rough(text: str, answer: str) -> bool:
    """Whether a mistake shows without adding anything up."""
    lines, right = answer.split(";"), WORLD.solution(Question(text=text)).split(";")
    values = [line.rpartition("=")[2] for line in lines[:-1]]
    return len(lines) != len(right) or any(len(value) > 1 and value[0] > "1" for value in values)


def wrong(text: str, rng: random.Random) -> str:
    """A wrong answer, as often rough as not."""
    wanted = rng.random() < 0.5
    while True:
        answer = mistake(text, rng)
        if WORLD.fault(Question(text=text), answer) and rough(text, answer) == wanted:
            return answer


def rows(texts: Iterable[str], rng: random.Random) -> list[Row]:
    """Is the answer right? With the truth as the label."""
    made = []
    for i, text in enumerate(texts):
        right = rng.random() < 0.5
        answer = WORLD.solution(Question(text=text)) if right else wrong(text, rng)
        asked = (("question", text), ("answer", answer), ("critique", ""))
        made.append(
            Row(
                kind="rank",
                seat="judge",
                prompt=tuple(Message(role=role, content=content) for role, content in asked),
                replies=("ok", "no"),
                rewards=(float(right), float(not right)),
                source="oracle",
                judge="world",
                turns=(f"{text}/{i}",),
            )
        )
    return made


def seed_of(seed: int, folder: Path) -> dict[str, np.ndarray]:
    """What every arm says of the test answers: 0 for right, 1 for wrong."""
    rng = random.Random(seed)
    half_a, half_b = (rows([draw("plain", rng) for _ in range(HALF)], rng) for _ in range(2))
    test = tested()
    torch.manual_seed(seed)
    newborn(width=64, layers=2, heads=1).save_pretrained(folder / "newborn")
    tokenizer().save_pretrained(folder / "newborn")
    no_N = weak_to_strong.predict(STRONG, test)[:, 1]  # far below 1, where floats are dense
    said = {"untaught": (no_N > np.median(no_N)).astype(int)}

    def teach(name: str, base: Path, lessons: list[Row], **told: Any) -> Path:
        config = learn_config({"method": "weak_to_strong", "seed": seed, **told})
        assert isinstance(config, weak_to_strong.WeakToStrongConfig)
        weak_to_strong.learn(base, lessons, config, folder / name)
        said[name] = weak_to_strong.predict(folder / name, test).argmax(-1)
        right = (said[name] == truth(test)).mean()
        print(f"seed {seed}: {name} {right:.3f}", file=sys.stderr, flush=True)
        return folder / name

    weak = teach("weak", folder / "newborn", half_a, **WEAK)
    teach("ceiling", STRONG, half_a, confidence=0, **TAUGHT)
    p_R_K = weak_to_strong.predict(weak, half_b)
    labelled = weak_to_strong.relabel(half_b, p_R_K, "weak")
    for name, loss in LOSSES.items():
        teach(name, STRONG, labelled, **loss, **TAUGHT)
    noise = np.random.default_rng(seed)
    error = (p_R_K.argmax(-1) != truth(half_b)).mean()
    said["noise"] = truth(test) ^ (noise.random(len(test)) < error)
    heard_R = truth(half_b) ^ (noise.random(HALF) < error)
    soft = np.array([[1 - error, error], [error, 1 - error]])[heard_R]
    noisy = weak_to_strong.relabel(half_b, soft, "noise")
    teach("of noise", STRONG, noisy, confidence=0, **TAUGHT)
    return said


def tested() -> list[Row]:
    """The same for every seed: all held-out questions of the cell, with an answer each."""
    return rows(heldout_texts("plain"), random.Random("test"))


def truth(test: list[Row]) -> np.ndarray:
    return weak_to_strong.labels_of(test).argmax(-1)


def measure(seeds: int) -> dict[str, Any]:
    """Accuracies of all arms, and PGR and imitation of those who learnt from weak labels."""
    found = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            found.append(seed_of(seed, Path(folder)))
    test = tested()
    true_N = truth(test)
    shown = [(row.prompt[0].content, row.prompt[1].content) for row in test]
    rough_N = np.array([rough(*one) for one in shown])
    kinds = {"all": true_N >= 0, "right": true_N == 0}
    kinds |= {"rough": rough_N, "subtle": (true_N == 1) & ~rough_N}
    right = {arm: np.array([said[arm] == true_N for said in found]) for arm in ARMS}
    arms: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        arms[arm] = {kind: float(right[arm][:, among].mean()) for kind, among in kinds.items()}
        if arm in SUPERVISORS:
            arms[arm] |= supervised(right, arm, found, true_N)
    sizes = {kind: int(among.sum()) for kind, among in kinds.items()}
    return {"seeds": seeds, "items": sizes, "arms": arms}


def supervised(
    right: dict[str, np.ndarray], arm: str, found: list[dict[str, np.ndarray]], true_N: np.ndarray
) -> dict[str, Any]:
    """PGR of an arm, or why there is none, and how often it says what its supervisor says."""
    told, supervisor = {}, SUPERVISORS[arm]
    try:
        told["pgr"] = pgr.recovered(right[supervisor], right[arm], right["ceiling"]).pgr
    except BadInput as error:
        told["refused"] = str(error)
    strong, weak = (np.concatenate([said[name] for said in found]) for name in (arm, supervisor))
    agreed = pgr.agreement(strong, weak, np.tile(true_N, len(found)))
    return {**told, "agrees": agreed._asdict()}


def show(facts: dict[str, Any]) -> None:
    kinds = facts["items"]
    print(f"{facts['seeds']} seeds; accuracy in per cent of {kinds['all']} held-out answers")
    print(f"{'':10}" + "".join(f"{kind:>8}" for kind in kinds) + "   agrees with who taught it,")
    print(f"{'':45}where that is")
    print(f"{'':45}right  wrong   PGR")
    for arm, told in facts["arms"].items():
        line = f"{arm:10}" + "".join(f"{100 * told[kind]:8.1f}" for kind in kinds)
        if arm in SUPERVISORS:
            said = told["agrees"].values()
            line += " " + "".join(f"{100 * one.value:7.1f}" for one in said if one)
            line += "   " + (interval(told["pgr"]) if "pgr" in told else told["refused"])
        print(line)


def interval(found: pgr.Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = measure(args.seeds)
    names = ("superalign", "torch", "transformers", "numpy")
    facts["versions"] = {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
        print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))


if __name__ == "__main__":
    main()
