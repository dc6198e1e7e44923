"""Are judges as right as promised when they are trusted? Real judges, many random splits.

    python benchmarks/selective.py [--splits 1000] [--delta 0.1] [--json]

Trust or Escalate (arXiv 2407.18370) on LLMBar and PandaLM: thresholds are calibrated on labelled
items so that at most a share delta of all calibrations leads to an error above alpha. Beside it,
from the same judges: how often 95% intervals of Bayesian win rates (arXiv 2411.04424) cover, and
how sure Dawid-Skene may be of what several judges say.

The promise is about the population that items come from, so they are split in two ways. Calibration
items drawn with replacement, and the error over all items, which then are the population. And
halves, with the error over the other half: a sample itself, unlucky whenever the first half is
lucky, of which nothing is promised. Exit code 0 if the promise holds.

The data hold verdicts and no probabilities, so a judge's confidence is the share of its verdicts
that agree: under several prompts in both orders (LLMBar), or of two judges (PandaLM).

Data: $SUPERALIGN_DATA, or ../shared/data beside the project.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superalign.learners.dawid_skene import sample
from superalign.learners.selective import (
    NONE,
    Cascade,
    Threshold,
    Verdicts,
    calibrate,
    find_threshold,
    simulated_annotators,
)
from superalign.learners.win_rate import Audit, bwrs
from superalign.store.errors import BadInput

BESIDE = Path(__file__).parent.parent.parent / "shared" / "data"
JUDGES = ("ChatGPT", "PaLM2", "GPT-4")
"""The cascade on LLMBar, the cheapest first."""
PROMPTS = ("Vanilla", "CoT", "Swap", "Swap_CoT", "Metrics_Reference")
"""What all judges were asked with on the items of LLMBar's authors."""
FEW_PROMPTS = ("Vanilla_NoRules", "Metrics_Reference")
"""What all judges were asked with on its items from other sets."""
ALPHAS = {
    "LLMBar, its own items": (0.10, 0.15, 0.20),
    "LLMBar, human preferences": (0.15, 0.20, 0.25),
    "PandaLM": (0.20, 0.25, 0.30),
}
WAYS = ("population", "halves")
"""How calibration items are drawn: with replacement from all, or half of them without."""
DRAWS = 4000


class Case(NamedTuple):
    """Judged items with their truth."""

    names: tuple[str, ...]
    judges: tuple[Verdicts, ...]
    truth_I: np.ndarray
    said_I_J: np.ndarray
    """One plain verdict of each judge, all in the same order; NONE where it could not be read."""


def load(data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def one_hot(said: Sequence[int | None], labels: int) -> np.ndarray:
    """p_I_L of verdicts without probabilities; NaN where none could be read."""
    label_I = np.array([NONE if label is None else label for label in said])
    return np.where(label_I[:, None] == NONE, np.nan, np.eye(labels)[label_I])


def llmbar(data: Path) -> tuple[Case, Case]:
    """Items of LLMBar's authors, whose truth is objective, and those with human preferences."""
    items = load(data, "llmbar/items")
    said = {(j["item"], j["judge"], j["strategy"]): j for j in load(data, "llmbar/judgments")}

    def heard(judge: str, items: list[dict[str, Any]], prompt: str, order: str) -> np.ndarray:
        words = [said[item["id"], judge, prompt][order] for item in items]
        return one_hot([None if word is None else word - 1 for word in words], 2)

    def case(items: list[dict[str, Any]], prompts: Sequence[str]) -> Case:
        orders = ("winner", "winner_swapped")
        asked = [[heard(j, items, p, o) for p in prompts for o in orders] for j in JUDGES]
        plain = [simulated_annotators(heard_N_I_L[:1]).label_I for heard_N_I_L in asked]
        truth_I = np.array([item["label"] - 1 for item in items])
        judges = tuple(simulated_annotators(heard_N_I_L) for heard_N_I_L in asked)
        return Case(JUDGES, judges, truth_I, np.stack(plain, axis=1))

    foreign = [item for item in items if item["subset"].startswith("Processed/")]
    own = [item for item in items if not item["subset"].startswith("Processed/")]
    return case(own, PROMPTS), case(foreign, FEW_PROMPTS)


def pandalm(data: Path) -> tuple[Case, dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """A panel of two judges; judge -> pair of models -> its verdicts and the majority of people.

    Labels: 0 tie, 1 and 2 the better response. Win rates leave out ties of either side.
    """
    rows = load(data, "pandalm/testset")
    people = [[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows]
    truth_I = np.array([Counter(three).most_common(1)[0][0] for three in people])
    words = {"1": 1, "2": 2, "Tie": 0, "garbage": None}
    said = {
        "GPT-3.5": one_hot([words[row["gpt_result_raw"]] for row in rows], 3),
        "PandaLM-7B": one_hot([int(row["pandalm_result_raw"]) for row in rows], 3),
    }
    plain = np.stack([simulated_annotators([p_I_L]).label_I for p_I_L in said.values()], axis=1)
    panel = Case(("both",), (simulated_annotators(list(said.values())),), truth_I, plain)
    pair_I, found = np.array([row["cmp_key"] for row in rows]), {}
    for name, p_I_L in said.items():
        label_I = simulated_annotators([p_I_L]).label_I
        clear_I = (label_I > 0) & (truth_I > 0)
        found[name] = {
            str(pair): (label_I[kept] - 1, truth_I[kept] - 1)
            for pair in np.unique(pair_I)
            for kept in [clear_I & (pair_I == pair)]
        }
    return panel, found


# Trust or escalate.


def guarded(case: Case, rows: np.ndarray, alpha: float, delta: float) -> Cascade:
    return calibrate(chosen(case, rows), case.truth_I[rows], alpha, delta)


def raw(case: Case, rows: np.ndarray, alpha: float, delta: float) -> Cascade:
    """Thresholds by the error rate that was counted, without a bound."""
    left, thresholds = np.ones(len(rows), bool), []
    for said in chosen(case, rows):
        wrong = (said.label_I != case.truth_I[rows])[left]
        sure = said.confidence_I[left]
        passed = [c for c in np.unique(sure) if c >= 0 and wrong[sure >= c].mean() <= alpha]
        thresholds.append(Threshold(passed[0], alpha, 0) if passed else None)
        if passed:
            left &= ~(said.confidence_I >= passed[0])
    return Cascade(tuple(thresholds))


def released(case: Case, rows: np.ndarray, alpha: float, delta: float) -> Cascade:
    """As the paper's code: delta in full for each judge, the highest threshold where none holds,
    and that of the judge before where no items are left."""
    left, thresholds = np.ones(len(rows), bool), []
    for said in chosen(case, rows):
        sure, wrong = said.confidence_I[left], (said.label_I != case.truth_I[rows])[left]
        found = find_threshold(sure, wrong, alpha, delta)
        if found is None and len(sure) and not np.isnan(sure).all():
            found = Threshold(float(np.nanmax(sure)), alpha, 0)
        thresholds.append(found or thresholds[-1])
        left &= ~(said.confidence_I >= thresholds[-1].confidence)
    return Cascade(tuple(thresholds))


RULES: dict[str, Callable[[Case, np.ndarray, float, float], Cascade]] = {
    "ours": guarded,
    "raw": raw,
    "released": released,
}


def chosen(case: Case, rows: np.ndarray) -> list[Verdicts]:
    return [Verdicts(said.label_I[rows], said.confidence_I[rows]) for said in case.judges]


def trust(case: Case, alpha: float, delta: float, splits: int, seed: int) -> dict[str, Any]:
    """How often each rule breaks the promise, and how much the judges decide."""
    rng, items = np.random.default_rng(seed), len(case.truth_I)
    broken: Counter[tuple[str, str]] = Counter()
    coverage: dict[str, list[float]] = {rule: [] for rule in RULES}
    wrong, shares = [], np.zeros(len(case.judges))
    for _ in range(splits):
        mixed = rng.permutation(items)
        drawn = (
            (rng.integers(0, items, items // 2), np.arange(items)),
            (mixed[: items // 2], mixed[items // 2 :]),
        )
        for way, (rows, new) in zip(WAYS, drawn, strict=True):
            for rule, find in RULES.items():
                said = find(case, rows, alpha, delta).decide(chosen(case, new))
                kept = said.decided_I
                errors = (said.label_I != case.truth_I[new])[kept]
                broken[way, rule] += bool(kept.any()) and errors.mean() > alpha
                if way == "population":
                    coverage[rule].append(kept.mean())
                    if rule == "ours":
                        wrong += [errors.mean()] if kept.any() else []
                        shares += np.bincount(said.judge_I[kept], minlength=len(shares)) / items
    return {
        "alpha": alpha,
        "violations": {way: {r: broken[way, r] / splits for r in RULES} for way in WAYS},
        "decided": {rule: float(np.mean(values)) for rule, values in coverage.items()},
        "agreement": 1 - float(np.mean(wrong)) if wrong else None,
        "deciding": dict(zip(case.names, (shares / splits).tolist(), strict=True)),
        "never_trusted": 1 - len(wrong) / splits,
    }


# Win rates.


def audit(said: np.ndarray, truth: np.ndarray) -> Audit:
    agreed = said == truth
    return Audit(
        int((truth == 0).sum()),
        int(agreed[truth == 0].sum()),
        int((truth == 1).sum()),
        int(agreed[truth == 1].sum()),
    )


class Score:
    """Intervals and errors over many tries."""

    def __init__(self) -> None:
        self.tries = self.refused = self.covered = 0
        self.off: list[float] = []
        self.naive: list[float] = []
        self.width: list[float] = []

    def add(self, said: np.ndarray, audited: Audit, p: float, seed: int) -> None:
        self.tries += 1
        k = int((said == 0).sum())
        try:
            found = bwrs(k, len(said), audited, DRAWS, seed)
        except BadInput:
            self.refused += 1
            return
        self.covered += found.low <= p <= found.high
        self.off.append(abs(found.mean - p))
        self.naive.append(abs(k / len(said) - p))
        self.width.append(found.high - found.low)

    def told(self, **more: Any) -> dict[str, Any]:
        n = self.tries - self.refused
        means = {"off": self.off, "naive": self.naive, "width": self.width}
        found = {name: float(np.mean(values)) if n else None for name, values in means.items()}
        share = self.covered / n if n else None
        return {**more, "coverage": share, **found, "refused": self.refused / self.tries}


def planted(
    said: np.ndarray, truth: np.ndarray, p: float, splits: int, seed: int
) -> dict[str, Any]:
    """A judge's true verdicts on items drawn so that A is better in a share p: 100 audited, 400
    judged only."""
    rng, score = np.random.default_rng(seed), Score()
    sides = [np.flatnonzero(truth == side) for side in (0, 1)]
    for split in range(splits):
        side = (rng.random(500) >= p).astype(int)
        rows = np.where(side == 0, rng.choice(sides[0], 500), rng.choice(sides[1], 500))
        score.add(said[rows[100:]], audit(said[rows[:100]], truth[rows[:100]]), p, split)
    return score.told(p=p)


def between_models(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], splits: int, seed: int
) -> list[dict[str, Any]]:
    """Win rates of real models: the audit on half of the pair's own items, or on all other pairs'
    items. The truth is what people said of the other half."""
    rng = np.random.default_rng(seed)
    scores = {"the same models": Score(), "other models": Score()}
    for pair, (said, truth) in pairs.items():
        others = [value for name, value in pairs.items() if name != pair]
        elsewhere = audit(*(np.concatenate(part) for part in zip(*others, strict=True)))
        for split in range(splits // len(pairs)):
            mixed = rng.permutation(len(said))
            known, new = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
            p = float((truth[new] == 0).mean())
            here = audit(said[known], truth[known])
            scores["the same models"].add(said[new], here, p, split)
            scores["other models"].add(said[new], elsewhere, p, split)
    return [score.told(audited=name) for name, score in scores.items()]


# Several judges.


def together(case: Case, known: float, seed: int) -> dict[str, Any]:
    """Dawid-Skene over all judges, a share `known` of the truth given; counted on the others."""
    given_I = np.random.default_rng(seed).random(len(case.truth_I)) < known
    found = sample(case.said_I_J, 2, np.where(given_I, case.truth_I, NONE), seed=seed).mean
    said_I_J, truth_I = case.said_I_J[~given_I], case.truth_I[~given_I]
    wrong_I_J, read_I_J = said_I_J != truth_I[:, None], said_I_J != NONE
    votes = (said_I_J == 1).sum(1) - (said_I_J == 0).sum(1)
    flip_I_J = found.flip_prob(case.said_I_J)[~given_I]
    sure = read_I_J & (flip_I_J < 0.1)
    return {
        "known": known,
        "best": 1 - float(wrong_I_J.mean(0).min()),
        "majority": float(((votes > 0) == truth_I)[votes != 0].mean()),
        "dawid_skene": float((found.p_I_T[~given_I].argmax(1) == truth_I).mean()),
        "sure": float(sure[read_I_J].mean()),
        "believed": float(flip_I_J[sure].mean()),
        "wrong": float(wrong_I_J[sure].mean()),
    }


def measure(data: Path, splits: int, delta: float, seed: int) -> dict[str, Any]:
    own, human = llmbar(data)
    panel, pairs = pandalm(data)
    cases = dict(zip(ALPHAS, (own, human, panel), strict=True))
    return {
        "splits": splits,
        "delta": delta,
        "trust": [
            {"data": name, "items": len(case.truth_I), **trust(case, alpha, delta, splits, seed)}
            for name, case in cases.items()
            for alpha in ALPHAS[name]
        ],
        "planted": [
            {"judge": name, **planted(said_I[read], human.truth_I[read], p, splits, seed)}
            for name, said_I in zip(human.names, human.said_I_J.T, strict=True)
            for read in [said_I != NONE]
            for p in (0.3, 0.5, 0.7)
        ],
        "models": [
            {"judge": name, **row}
            for name, found in pairs.items()
            for row in between_models(found, splits, seed)
        ],
        "together": [
            {"data": name, **together(case, known, seed)}
            for name, case in list(cases.items())[:2]
            for known in (0.0, 0.2)
        ],
        "versions": {name: version(name) for name in ("superalign", "numpy", "scipy")},
    }


def show(facts: dict[str, Any]) -> None:
    print(f"Trust or escalate, delta {facts['delta']:g}, {facts['splits']} calibrations each")
    print("share of them whose error is above alpha: over all items / over the other half")
    print("| data | alpha | ours | raw | released | decided by ours | agreement | by judge |")
    print("|---|---|---|---|---|---|---|---|")
    for row in facts["trust"]:
        ways = row["violations"]
        shares = " | ".join(
            f"{ways['population'][rule]:.3f} / {ways['halves'][rule]:.3f}" for rule in RULES
        )
        agreement = "-" if row["agreement"] is None else f"{row['agreement']:.3f}"
        by = ", ".join(f"{name} {share:.2f}" for name, share in row["deciding"].items())
        print(
            f"| {row['data']} ({row['items']}) | {row['alpha']:.2f} | {shares} "
            f"| {row['decided']['ours']:.3f} | {agreement} | {by} |"
        )
    print("\nBayesian win rates: 95% intervals, errors of their mean and of the judge's own rate")
    print("| judge | win rate | covered | error | naive error | width | refused |")
    print("|---|---|---|---|---|---|---|")
    for row in facts["planted"] + facts["models"]:
        kind = f"planted {row['p']:g}" if "p" in row else f"audit on {row['audited']}"
        names = ("coverage", "off", "naive", "width", "refused")
        values = " | ".join("-" if row[n] is None else f"{row[n]:.3f}" for n in names)
        print(f"| {row['judge']} | {kind} | {values} |")
    print("\nDawid-Skene over three judges; surest verdicts: flip_prob below 0.1")
    print("| data | known | best judge | majority | Dawid-Skene | surest | flip_prob | wrong |")
    print("|---|---|---|---|---|---|---|---|")
    for row in facts["together"]:
        names = ("best", "majority", "dawid_skene", "sure", "believed", "wrong")
        values = " | ".join(f"{row[name]:.3f}" for name in names)
        print(f"| {row['data']} | {row['known']:g} | {values} |")
    print("\n" + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = Path(os.environ.get("SUPERALIGN_DATA") or BESIDE)
    facts = measure(data, args.splits, args.delta, args.seed)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
    slack = 3 * (args.delta * (1 - args.delta) / args.splits) ** 0.5  # of a share that is delta
    shares = [row["violations"]["population"]["ours"] for row in facts["trust"]]
    sys.exit(0 if max(shares) <= args.delta + slack else 1)


if __name__ == "__main__":
    main()
