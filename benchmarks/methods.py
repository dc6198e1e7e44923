"""Which learner makes the most of the same transcripts: accuracy held out, against KL to the base.

    python benchmarks/methods.py [--seeds 2] [--items 360] [--tokens 40000] [--json]

One iteration of scenarios/arithmetic.yaml is played and stored. Every method learns from rows of
these episodes, all labelled by the critic alone, for the same number of tokens gone through, at
two learning rates: the scenario's and five times that. Seeds differ in the order of rows. The gain
is over the base and the difference is to SFT at the same rate, both paired by held-out item.
"""

from __future__ import annotations

import json
from typing import Any

from trials import (
    BASE,
    Arm,
    Exam,
    Transcripts,
    options,
    play,
    revises,
    run,
    summary,
    table,
    versions,
)

from superalign.learners import compilers, learn_config
from superalign.learners.rows import rows
from superalign.store.records import Row

RATES = {"": 1e-5, " fast": 5e-5}
COMMON = {"batch": 32}
PREFERENCE = {**COMMON, "beta": 0.5}
METHODS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "sft": (("sft",), COMMON),
    "dpo": (("pref", "sft"), PREFERENCE),
    "exo": (("pref", "sft"), PREFERENCE),
    "exo_rw": (("rank", "sft"), PREFERENCE),
    "kto": (("reward", "sft"), PREFERENCE),
    "ppo": (("reward",), COMMON),
}
"""Method -> the rows it is given, and its settings: those of scenarios/arithmetic.yaml."""


def rows_of(kinds: tuple[str, ...], transcripts: Transcripts) -> list[Row]:
    """Accepted answers and pairs as the main job has them; rankings by the share of right lines;
    rewards of first answers as they were drawn, each as often."""
    told: dict[str, Any] = {"prompt_of": transcripts.prompt_of}
    found: list[Row] = []
    for episode in transcripts.episodes:
        found += [row for row in rows(episode, **told) if row.kind in ("sft", "pref")]
        graded = compilers.rubric(episode, separator=";", **told)
        found += [ends(row) for row in graded if row.kind == "rank"]
        marked = compilers.scalar(episode, **told)
        found += [row for row in marked if not revises(row)]
    return [row for row in found if row.kind in kinds]


def ends(ranking: Row) -> Row:
    """The best and the worst reply of a ranking: most episodes have no third text."""
    assert ranking.rewards is not None  # rankings have them
    last = len(ranking.replies) - 1
    two = {"replies": ranking.replies[::last], "rewards": ranking.rewards[::last]}
    return ranking.model_copy(update=two)


def main() -> None:
    args = options(__doc__ or "", "methods", 40_000, list(METHODS)).parse_args()
    transcripts, exam = play(args.out), Exam(args.items)
    arms = [
        Arm(
            method + speed,
            method,
            rows_of(kinds, transcripts),
            learn_config({"method": method, "lr": rate, **settings}),
        )
        for method, (kinds, settings) in METHODS.items()
        for speed, rate in RATES.items()
        if method in args.arms
    ]
    results = [
        run(arm, seed, args.tokens, exam, args.out) for seed in range(args.seeds) for arm in arms
    ]
    lines = summary(
        results, exam.correct(BASE), lambda arm: "sft" + arm.removeprefix(arm.split()[0])
    )
    if args.json:
        print(json.dumps({"arms": lines, "versions": versions()}, indent=2))
        return
    print(table(lines))
    print(", ".join(f"{name} {number}" for name, number in versions().items()))


if __name__ == "__main__":
    main()
