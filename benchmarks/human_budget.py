"""Human labels beside a judge that errs: what each way of spending them buys.

`noise.py --budget` runs it. The answers of one iteration of scenarios/arithmetic.yaml are judged by
a simulated judge that is wrong about 30% of them: evenly (`uniform`), or in the hard cells alone,
where it is also less confident (`structured`). People, who are right, label a share of the answers.
What is then accepted is copied (SFT).

    random    people label answers drawn evenly, the judge the others
    weights   the same, and accepted answers are drawn by their judgement's reliability weight
    escalate  half of the labels calibrate a threshold; the judge is believed above it, the rest of
              the labels goes to the least sure answers below it, and what is left is dropped
    route     half of the labels teach where the judge is contradicted; the rest goes there

Axes: I answers, F features of an answer.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from trials import BASE, WORLD, Arm, Exam, Transcripts, difference, run, versions

from superalign.learners import Judgement, compilers, learn_config, mixing
from superalign.learners.selective import find_threshold
from superalign.scenarios.arithmetic import CELLS
from superalign.store.records import Question, Row, digest

BUDGETS = (0.0, 0.01, 0.05, 0.2, 1.0)
KINDS = ("uniform", "structured")
POLICIES = ("random", "weights", "escalate", "route")
WRONG = 0.3
"""Share of answers that the judge is wrong about."""
HARD = ("carries", "zeros", "length")
ALPHA, DELTA = 0.2, 0.1
"""Escalation believes a judge that is wrong at most so often, and says so wrongly so often."""
LEARN: dict[str, Any] = {"method": "sft", "lr": 5e-5, "batch": 32}
TOKENS = 30_000


class Judged(NamedTuple):
    """All answers, what they are, and what the judge said."""

    rows: list[Row]
    right_I: NDArray[np.bool_]
    said_I: NDArray[np.bool_]
    confidence_I: NDArray[np.float64]
    features_I_F: NDArray[np.float64]


class Labelled(NamedTuple):
    """What is accepted in the end, and how much each accepted answer counts."""

    accepted: list[int]
    weights: NDArray[np.float64]


def answers(transcripts: Transcripts) -> list[Row]:
    """Every distinct first answer to a question, as a row that would copy it."""
    found = {}
    for episode in transcripts.episodes:
        for row in compilers.uncriticised(episode, prompt_of=transcripts.prompt_of):
            found.setdefault((row.prompt, row.replies), row)
    return list(found.values())


def judged(rows: list[Row], kind: str, seed: int) -> Judged:
    rng = np.random.default_rng(seed)
    asked = [Question(text=row.prompt[0].content) for row in rows]
    pairs = zip(asked, rows, strict=True)
    right_I = np.array([WORLD.fault(q, row.replies[0]) is None for q, row in pairs])
    cells = [WORLD.cell(question) for question in asked]
    hard_I = np.array([cell in HARD for cell in cells])
    if kind == "uniform":
        error_I, sure_I = np.full(len(rows), WRONG), np.zeros(len(rows))
    else:  # as many errors, all of them in the hard cells
        error_I, sure_I = np.where(hard_I, WRONG / hard_I.mean(), 0.0), -4.0 * hard_I
    said_I = right_I ^ (rng.random(len(rows)) < error_I)
    confidence_I = 1 / (1 + np.exp(-(2 + sure_I + rng.normal(size=len(rows)))))
    of_cell = [[float(cell == name) for name in CELLS] for cell in cells]
    lengths = [
        [float(len(row.replies[0])), float(said)] for row, said in zip(rows, said_I, strict=True)
    ]
    features = np.column_stack([of_cell, lengths, confidence_I])
    return Judged(rows, right_I, said_I, confidence_I, features)


def label(found: Judged, policy: str, budget: float, rng: random.Random) -> Labelled:
    """What is accepted when people may label this share of the answers."""
    n = len(found.rows)
    labels = round(budget * n)
    order = rng.sample(range(n), n)
    audits = labels if policy in ("random", "weights") else (labels + 1) // 2
    human, rest = order[:audits], order[audits:]
    wrong_I = found.said_I != found.right_I
    if policy == "route" and len(human) > 1:
        known, gain = found.features_I_F[human], wrong_I[human].astype(float)
        best = mixing.route(known, gain, found.features_I_F[rest], labels - audits)
        human = human + [rest[i] for i in best]
    elif policy == "escalate":
        told = [believed(found, i) for i in rest]
        seen = found.confidence_I[human], wrong_I[human]
        threshold = find_threshold(*seen, ALPHA, DELTA) if human else None
        confidence = found.confidence_I[rest].tolist()
        sorted_out = mixing.escalate(told, confidence, threshold, labels - audits)
        human = human + [int(one.turn) for one in sorted_out.asked]
        rest = [int(one.turn) for one in sorted_out.trusted]
    asked = set(human)
    machine = [i for i in rest if i not in asked]
    accepted = [i for i in human if found.right_I[i]] + [i for i in machine if found.said_I[i]]
    errors = measured(found, human) if policy == "weights" else {}
    told = [
        believed(found, i, 0.0 if i in asked else errors.get(_sure(found, i), 0.0))
        for i in accepted
    ]
    return Labelled(accepted, mixing.weights(told) if told else np.zeros(0))


def believed(found: Judged, i: int, error: float = 0.0) -> Judgement:
    return Judgement(
        turn=str(i), correct=bool(found.said_I[i]), source="ai", judge="simulated", error=error
    )


def measured(found: Judged, audited: list[int]) -> dict[bool, float]:
    """The judge's error rate when it accepts, by whether it is sure: Beta posterior means."""
    errors = {}
    for sure in (False, True):
        some = [i for i in audited if found.said_I[i] and _sure(found, i) == sure]
        wrong = sum(not found.right_I[i] for i in some)
        errors[sure] = min(0.5, (wrong + 1) / (len(some) + 2))
    return errors


def _sure(found: Judged, i: int) -> bool:
    return bool(found.confidence_I[i] > np.median(found.confidence_I))


def drawn(found: Judged, labelled: Labelled, rng: random.Random) -> list[Row]:
    """As many rows as were accepted, drawn by weight where weights differ."""
    if len(set(labelled.weights.tolist())) > 1:
        chosen = rng.choices(labelled.accepted, labelled.weights.tolist(), k=len(labelled.accepted))
    else:
        chosen = labelled.accepted
    return [found.rows[i] for i in chosen]


def wrong_share(found: Judged, labelled: Labelled) -> float | None:
    """Share of wrong answers among what is copied, by weight; None where nothing is."""
    if not labelled.accepted:
        return None
    wrong = ~found.right_I[labelled.accepted]
    return float((wrong * labelled.weights).sum() / labelled.weights.sum())


def curves(transcripts: Transcripts, exam: Exam, seeds: int, out: Path) -> list[dict[str, Any]]:
    """What is copied and how well it teaches, for every kind of judge, policy and budget. Each seed
    has a judge, people's choice of answers, and an order of rows of its own."""
    rows, base_I = answers(transcripts), exam.correct(BASE)
    lines = []
    for kind, budget, policy in itertools.product(KINDS, BUDGETS, POLICIES):
        accepted, shares, correct_S_I = [], [], []
        for seed in range(seeds):
            found = judged(rows, kind, seed)
            labelled = label(found, policy, budget, random.Random(seed))
            accepted.append(len(labelled.accepted))
            if (share := wrong_share(found, labelled)) is not None:
                shares.append(share)
            correct_I = base_I  # where nothing is copied nothing is learnt
            if copied := drawn(found, labelled, random.Random(seed)):
                name = (
                    f"copied {digest([row.id for row in copied])}"  # the same rows teach the same
                )
                arm = Arm(name, "sft", copied, learn_config(LEARN))
                correct_I = run(arm, seed, TOKENS, exam, out, kl=False).correct_I
            correct_S_I.append(correct_I)
        line = {
            "judge": kind,
            "budget": budget,
            "policy": policy,
            "accepted": float(np.mean(accepted)),
            "wrong": float(np.mean(shares)) if shares else None,
            "accuracy": float(np.mean(correct_S_I)),
            "by_seed": np.mean(correct_S_I, axis=1).tolist(),
            "gain": difference(correct_S_I, [base_I]),
        }
        lines.append(line)
    return lines


def show(transcripts: Transcripts, exam: Exam, args: Any) -> None:
    lines = curves(transcripts, exam, args.seeds, args.out)
    if args.json:
        print(json.dumps({"lines": lines, "versions": versions()}, indent=2))
        return
    print(table(lines))
    draw(lines, args.out / "budget.png")
    print(", ".join(f"{name} {number}" for name, number in versions().items()))


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against the share of labels that people gave, a panel a judge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, len(KINDS), sharey=True)
    for kind, ax in zip(KINDS, axes, strict=True):
        for policy in POLICIES:
            some = [line for line in lines if (line["judge"], line["policy"]) == (kind, policy)]
            ax.plot(
                [100 * line["budget"] for line in some],
                [100 * line["accuracy"] for line in some],
                marker="o",
                label=policy,
            )
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks([100 * budget for budget in BUDGETS], [f"{100 * b:g}" for b in BUDGETS])
        ax.set(title=f"{kind} errors", xlabel="labels by people, %")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("held-out accuracy, %")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def table(lines: list[dict[str, Any]]) -> str:
    head = ("judge", "human labels", "policy", "copied", "of these wrong", "accuracy", "gain")
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in lines:
        wrong = "-" if one["wrong"] is None else f"{100 * one['wrong']:.1f}%"
        seeds = ", ".join(f"{100 * value:.1f}" for value in one["by_seed"])
        value, low, high = (100 * number for number in one["gain"])
        cells = (
            one["judge"],
            f"{100 * one['budget']:g}%",
            one["policy"],
            f"{one['accepted']:.0f}",
            wrong,
            f"{100 * one['accuracy']:.1f} ({seeds})",
            f"{value:+.1f} ({low:+.1f} to {high:+.1f})",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
