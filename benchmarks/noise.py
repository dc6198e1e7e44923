"""Pairs that are the wrong way round: which loss bears them, what a measured flip_prob is worth.

    python benchmarks/noise.py [--seeds 3] [--items 360] [--tokens 30000] [--json]
    python benchmarks/noise.py --budget

Pairs of one iteration of scenarios/arithmetic.yaml whose order is right by the truth; then a share
of them is turned round: evenly (`uniform`), or only where the worse reply is the shorter one, as by
a judge who likes short answers (`short`). An audit of some pairs tells which were turned; from it
follows each row's `flip_prob`, the mean of a Beta(1 + turned, 1 + not) posterior of its kind: its
preferred reply is shorter than the other, as long, or longer. Seeds differ in the pairs that are
turned and audited, and in the order of rows.

    sft            copies the preferred replies
    dpo            takes every label at its word
    dpo surest     the same, of the two thirds of the pairs that are believed most
    exo            believes each label to be wrong once in a thousand
    exo measured, cdpo, rdpo     believe what the audit says

The statement that is tested: at 20% uniform flips a measured flip_prob beats plain DPO (paired
95% interval above 0). `--budget` asks instead what human labels are worth beside a judge.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import Any

import human_budget
from trials import (
    BASE,
    Arm,
    Exam,
    Result,
    Transcripts,
    options,
    play,
    run,
    summary,
    versions,
)

from superalign.learners import learn_config
from superalign.learners.rows import rows
from superalign.store.records import Row

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4)
KINDS = ("uniform", "short")
AUDIT = 100
"""Pairs that people look at."""
MOST = 0.45
"""The most that is believed of a pair's being turned: rDPO has no use for a coin."""
COMMON: dict[str, Any] = {"lr": 2e-5, "batch": 16}
PREFERENCE: dict[str, Any] = {**COMMON, "beta": 0.5}
METHODS: dict[str, str] = {
    "sft": "sft",
    "dpo": "dpo",
    "dpo surest": "dpo",
    "exo": "exo",
    "exo measured": "exo",
    "cdpo": "cdpo",
    "rdpo": "rdpo",
}


def gold_pairs(transcripts: Transcripts) -> list[Row]:
    """Pairs in the right order by the truth, each believed without doubt."""
    found = []
    for episode in transcripts.episodes:
        right = {
            f"{episode.ref}/{key}": fault is None
            for key, fault in episode.facts.get("fault", {}).items()
        }
        for row in rows(episode, prompt_of=transcripts.prompt_of):
            if row.kind == "pref":
                better, worse = (right[turn] for turn in row.turns if turn in right)
                found += [row] if better and not worse else []
    return found


def turned(row: Row) -> Row:
    return row.model_copy(update={"replies": row.replies[::-1]})


def flips(pairs: list[Row], kind: str, level: float, rng: random.Random) -> list[bool]:
    """Which pairs are turned round: `level` of all of them, or as many as the kind allows."""
    open_to = [i for i, row in enumerate(pairs) if kind == "uniform" or shape(row) > 0]
    chosen = set(rng.sample(open_to, min(len(open_to), round(level * len(pairs)))))
    return [i in chosen for i in range(len(pairs))]


def shape(row: Row) -> int:
    """1 if the preferred reply is the longer one, -1 if it is the shorter one."""
    better, worse = map(len, row.replies)
    return (better > worse) - (better < worse)


def measured(said: list[Row], wrong: list[bool], rng: random.Random) -> list[float]:
    """Each row's probability to be turned round, from an audit of some rows."""
    seen, found = Counter[int](), Counter[int]()
    for i in rng.sample(range(len(said)), AUDIT):
        seen[shape(said[i])] += 1
        found[shape(said[i])] += wrong[i]
    return [(found[shape(row)] + 1) / (seen[shape(row)] + 2) for row in said]


def arm(name: str, said: list[Row], errors: list[float], label: str) -> Arm:
    """What a method is given of the pairs, with what the audit says if it listens to that."""
    method, given = METHODS[name], said
    if name in ("exo measured", "cdpo", "rdpo"):
        given = [
            row.model_copy(update={"flip_prob": min(MOST, error)})
            for row, error in zip(said, errors, strict=True)
        ]
    elif name == "dpo surest":
        order = sorted(range(len(said)), key=lambda i: errors[i])
        given = [said[i] for i in sorted(order[: len(said) * 2 // 3])]
    elif name == "sft":
        kept = {"kind": "sft"}
        given = [row.model_copy(update={**kept, "replies": row.replies[:1]}) for row in said]
    settings = COMMON if method == "sft" else PREFERENCE
    config = learn_config({"method": method, **settings})
    return Arm(f"{name} {label}", method, given, config)


def trial(
    pairs: list[Row], kind: str, level: float, seed: int, exam: Exam, args: Any
) -> list[Result]:
    """Every arm on the same noisy pairs."""
    rng = random.Random(f"{kind} {level} {seed}")
    wrong = flips(pairs, kind, level, rng)
    said = [turned(row) if bad else row for row, bad in zip(pairs, wrong, strict=True)]
    errors = measured(said, wrong, rng)
    label = f"{kind} {100 * level:.0f}%"
    arms = [arm(name, said, errors, label) for name in args.arms]
    return [run(one, seed, args.tokens, exam, args.out, kl=False) for one in arms]


def grid(lines: list[dict[str, Any]], kind: str, args: Any) -> str:
    """Arms against levels, in Markdown."""
    by_name = {line["arm"]: line for line in lines}
    rows = [[kind, *(f"{100 * level:.0f}%" for level in args.levels)]]
    for name in args.arms:
        rows.append([name])
        for level in args.levels:
            line = by_name[f"{name} {kind} {100 * level:.0f}%"]
            cell = f"{100 * line['accuracy']:.1f}"
            if line["versus"]:
                more, low, high = (100 * number for number in line["versus"])
                cell += f", {more:+.1f} ({low:+.1f} to {high:+.1f})"
            rows[-1].append(cell)
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def main() -> None:
    parser = options(__doc__ or "", "noise", 30_000, list(METHODS))
    parser.add_argument("--budget", action="store_true", help="what human labels are worth")
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="shares of flips")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which flips")
    args = parser.parse_args()
    transcripts, exam = play(args.out), Exam(args.items)
    if args.budget:
        human_budget.show(transcripts, exam, args)
        return
    pairs = gold_pairs(transcripts)
    base_I, lines = exam.correct(BASE), list[dict[str, Any]]()
    for kind, level in itertools.product(args.kinds, args.levels):
        results = [
            result
            for seed in range(args.seeds)
            for result in trial(pairs, kind, level, seed, exam, args)
        ]
        lines += summary(results, base_I, lambda _, at=f"{kind} {100 * level:.0f}%": f"dpo {at}")
    if args.json:
        print(json.dumps({"pairs": len(pairs), "arms": lines, "versions": versions()}, indent=2))
        return
    print(f"{len(pairs)} pairs; accuracy, and points more than dpo's\n")
    for kind in args.kinds:
        print(grid(lines, kind, args) + "\n")
    print(", ".join(f"{name} {number}" for name, number in versions().items()))


if __name__ == "__main__":
    main()
