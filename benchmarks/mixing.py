"""What labels of people are worth beside a judge's: gold win rate by budget, for each policy.

    python benchmarks/mixing.py [--seeds 100] [--json]

A simulated world without models. Replies are points; gold quality is linear in all of their
features but the first, length. A judge compares pairs of replies. Its errors are `uniform`: a label
is flipped with probability 0.3, and its confidence says nothing; or `structured`: it likes long
replies, and is sure of it. People err at 0.05. A learner fits a linear reward to the pairs' labels
and picks the best of four new replies: the gold win rate is how often that beats one drawn at
random, 0.8 for a perfect reward and 0.5 for a useless one.

    people      the people's labels alone
    random      people's labels on pairs drawn evenly, the judge's on the others
    weights     the same, weighted by (1 - 2 error)^2 as audited
    escalate    half audits; the judge where it passes the threshold (alpha 0.2, delta 0.1), then
                people for the least sure, then nobody
    route       half audits; people where they are predicted to contradict the judge; weighted

Beside it, the share of pairs whose longer reply people prefer: by the judge, by people alone, and
prediction-powered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from superalign.learners import Judgement
from superalign.learners.mixing import escalate, prediction_powered, route, weights
from superalign.learners.selective import find_threshold

PAIRS, FEATURES, BUDGETS = 800, 40, (0, 50, 100, 200, 400, 800)
FLIPPED, HUMAN = 0.3, 0.05
ALPHA, DELTA = 0.2, 0.1
NOISE = ("uniform", "structured")


class World(NamedTuple):
    """Pairs of replies with what the judge says of them and what people would."""

    gold_F: np.ndarray
    apart_I_F: np.ndarray
    """Features of the first reply less those of the second."""
    judge_I: np.ndarray
    """Whether the judge finds the first better."""
    sure_I: np.ndarray
    human_I: np.ndarray


def world(noise: str, rng: np.random.Generator) -> World:
    gold_F = np.append(0.0, rng.normal(size=FEATURES - 1))
    gold_F /= np.linalg.norm(gold_F)
    apart_I_F = rng.normal(size=(PAIRS, FEATURES))
    better_I = apart_I_F @ gold_F > 0
    if noise == "uniform":
        judge_I, sure_I = better_I ^ (rng.random(PAIRS) < FLIPPED), 0.5 + rng.random(PAIRS) / 2
    else:
        leaning_I = 1.5 * apart_I_F @ gold_F + 1.5 * apart_I_F[:, 0]
        judge_I, sure_I = rng.random(PAIRS) < expit(leaning_I), expit(abs(leaning_I))
    return World(gold_F, apart_I_F, judge_I, sure_I, better_I ^ (rng.random(PAIRS) < HUMAN))


def judgement(made: World, i: Any, source: Any, error: float) -> Judgement:
    said = made.human_I[i] if source == "human" else made.judge_I[i]
    return Judgement(turn=str(i), correct=bool(said), source=source, judge=source, error=error)


def posterior_mean(wrong_I: np.ndarray) -> float:
    """The judge's error rate, as `measure_flips` has it."""
    return min(0.5, (int(wrong_I.sum()) + 1) / (len(wrong_I) + 2))


# Policies: which judgements the learner is given.


def mixed(made: World, asked_I: np.ndarray, error: float) -> list[Judgement]:
    """People's labels where they were asked, else the judge's."""
    human = [judgement(made, i, "human", HUMAN) for i in np.flatnonzero(asked_I)]
    return human + [judgement(made, i, "ai", error) for i in np.flatnonzero(~asked_I)]


def contradicted(made: World, known: np.ndarray) -> np.ndarray:
    return (made.judge_I != made.human_I)[known]


def people(made: World, order: np.ndarray, budget: int) -> list[Judgement]:
    return [judgement(made, i, "human", HUMAN) for i in order[:budget]]


def randomly(made: World, order: np.ndarray, budget: int) -> list[Judgement]:
    return mixed(made, np.isin(np.arange(PAIRS), order[:budget]), HUMAN)  # one error: equal weights


def weighted(made: World, order: np.ndarray, budget: int) -> list[Judgement]:
    known = order[:budget]
    error = posterior_mean(contradicted(made, known))
    return mixed(made, np.isin(np.arange(PAIRS), known), error)


def escalated(made: World, order: np.ndarray, budget: int) -> list[Judgement]:
    known, others = order[: budget // 2], order[budget // 2 :]
    threshold = find_threshold(made.sure_I[known], contradicted(made, known), ALPHA, DELTA)
    said = [judgement(made, i, "ai", 0.0) for i in others]
    fate = escalate(said, made.sure_I[others].tolist(), threshold, budget - len(known))
    asked = [int(judged.turn) for judged in fate.asked]
    return people(made, np.append(known, asked).astype(int), budget) + fate.trusted


def routed(made: World, order: np.ndarray, budget: int) -> list[Judgement]:
    known, others = order[: budget // 2], order[budget // 2 :]
    # what the judge preferred, feature by feature, and how far the replies are apart
    toward_I_F = made.apart_I_F * np.where(made.judge_I, 1, -1)[:, None]
    told_I_F = np.column_stack([toward_I_F, made.sure_I])
    wrong = contradicted(made, known)
    picked = route(told_I_F[known], wrong, told_I_F[others], budget - len(known))
    asked = np.append(known, others[picked])
    # audited over all pairs, so more than what it errs where people were not asked
    left = ~np.isin(np.arange(PAIRS), asked)
    return mixed(made, ~left, posterior_mean(wrong))


POLICIES: dict[str, Callable[[World, np.ndarray, int], list[Judgement]]] = {
    "people": people,
    "random": randomly,
    "weights": weighted,
    "escalate": escalated,
    "route": routed,
}
NEEDS = {"people": 50, "random": 0, "weights": 50, "escalate": 50, "route": 50}
"""The smallest budget that a policy can be run with; all judges' labels are `random` with none."""


def win_rate(made: World, believed: list[Judgement], rng: np.random.Generator) -> float:
    """How often the best of four replies by the learnt reward beats another one."""
    rows = [int(judged.turn) for judged in believed]
    labels = np.array([judged.correct for judged in believed])
    # a pair and its mirror image are one: both classes are there whatever the labels
    x, y = made.apart_I_F[rows], np.concatenate([labels, ~labels])
    learner = LogisticRegression(fit_intercept=False)
    learner.fit(np.concatenate([x, -x]), y, np.tile(weights(believed), 2))
    replies = rng.normal(size=(4000, 5, FEATURES))
    best = (replies[:, :4] @ learner.coef_[0]).argmax(1)
    quality = replies @ made.gold_F
    return float((quality[np.arange(len(best)), best] > quality[:, 4]).mean())


def longer(made: World, order: np.ndarray, budget: int) -> dict[str, float]:
    """Errors in the share of pairs whose longer reply people prefer; whether intervals cover."""
    is_first = made.apart_I_F[:, 0] > 0
    judge, human = made.judge_I == is_first, made.human_I == is_first
    known, others = order[:budget], order[budget:]
    given = judge[others], judge[known], human[known]
    found, tuned = prediction_powered(*given), prediction_powered(*given, tuned=True)
    truth = 0.5  # length has no part in gold, and people err evenly
    return {
        "judge": abs(judge.mean() - truth),
        "people": abs(human[known].mean() - truth),
        "powered": abs(found.value - truth),
        "tuned": abs(tuned.value - truth),
        "covered": float(found.low <= truth <= found.high),
        "tuned_covered": float(tuned.low <= truth <= tuned.high),
    }


def measure(seeds: int) -> dict[str, Any]:
    rows, shares = [], []
    for noise in NOISE:
        rates: dict[tuple[str, int], list[float]] = {}
        means: dict[int, list[dict[str, float]]] = {}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            made, order = world(noise, rng), rng.permutation(PAIRS)
            for name, policy in POLICIES.items():
                for budget in BUDGETS:
                    if budget >= NEEDS[name]:
                        rate = win_rate(made, policy(made, order, budget), rng)
                        rates.setdefault((name, budget), []).append(rate)
            for budget in BUDGETS[1:-1]:
                means.setdefault(budget, []).append(longer(made, order, budget))
        for (name, budget), values in rates.items():
            error = float(np.std(values, ddof=1) / np.sqrt(seeds))
            mean = float(np.mean(values))
            row = {"noise": noise, "policy": name, "budget": budget, "win_rate": mean}
            rows.append({**row, "standard_error": error})
        for budget, values in means.items():
            found = {key: float(np.mean([v[key] for v in values])) for key in values[0]}
            shares.append({"noise": noise, "budget": budget, **found})
    names = ("superalign", "numpy", "scikit-learn")
    return {
        "seeds": seeds,
        "win_rates": rows,
        "longer": shares,
        "versions": {name: version(name) for name in names},
    }


def show(facts: dict[str, Any]) -> None:
    worst = max(row["standard_error"] for row in facts["win_rates"])
    print(f"Gold win rate, mean of {facts['seeds']} seeds; standard errors at most {worst:.4f}")
    for noise in NOISE:
        found = {
            (row["policy"], row["budget"]): f"{row['win_rate']:.3f}"
            for row in facts["win_rates"]
            if row["noise"] == noise
        }
        print(f"\n| {noise}: labels of people | {' | '.join(map(str, BUDGETS))} |")
        print("|---" * (len(BUDGETS) + 1) + "|")
        for name in POLICIES:
            cells = (found.get((name, budget), "-") for budget in BUDGETS)
            print(f"| {name} | {' | '.join(cells)} |")
    print("\nShare of longer replies preferred: mean error, and how often the interval covers")
    print(
        "| noise | labels of people | judge | people | powered | tuned | covered | tuned covered |"
    )
    print("|---|---|---|---|---|---|---|---|")
    names = ("judge", "people", "powered", "tuned", "covered", "tuned_covered")
    for row in facts["longer"]:
        values = " | ".join(f"{row[n]:.3f}" for n in names)
        print(f"| {row['noise']} | {row['budget']} | {values} |")
    print("\n" + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    facts = measure(args.seeds)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)


if __name__ == "__main__":
    main()
