"""What one critique teaches, by the way it is compiled: the accuracy that equal tokens buy.

    python benchmarks/compilers.py [--seeds 2] [--items 360] [--tokens 50000] [--json]

One iteration of scenarios/arithmetic.yaml is played and stored, and its critiques are compiled by
learners/compilers.py. Each kind of row goes to the learner that is made for it, all at one
learning rate and for the same tokens gone through. `sft` copies the answers that the critic
accepts. Two arms are controls: one has no critic, one is told the answer. The last column is what
a thousand tokens of critique were worth in points of accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
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

from superalign.agents.tokens import decode
from superalign.learners import compilers, learn_config
from superalign.learners.rows import rows
from superalign.store.records import Episode, Row

SETTINGS = {"lr": 5e-5, "batch": 32}
LEARNER: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "scalar": ("ppo", {}),
    "tokens": ("ppo", {}),
    "rubric": ("ppo", {}),
    "refined": ("dpo", {"beta": 0.5}),
    "conditioned": ("sft", {}),
    "uncriticised": ("sft", {}),
    "leaked": ("sft", {}),
}
"""Way of compiling -> the learner of its rows, and what that is told besides."""


def compiled(name: str, transcripts: Transcripts, exam: Exam) -> list[Row]:
    """Rows about first answers, and, of `conditioned`, about what follows a critique."""
    shown: dict[str, Any] = {"prompt_of": transcripts.prompt_of}
    lines: dict[str, Any] = {**shown, "separator": ";"}
    ways: dict[str, Callable[[Episode], list[Row]]] = {
        "sft": partial(rows, **shown),
        "scalar": partial(compilers.scalar, **shown),
        "tokens": partial(compilers.tokens, decode=partial(decode, exam.tokenizer), **lines),
        "rubric": partial(compilers.rubric, **lines),
        "refined": partial(compilers.refined, **shown),
        "conditioned": partial(compilers.conditioned, **shown),
        "uncriticised": partial(compilers.uncriticised, **shown),
        "leaked": partial(compilers.leaked, control=True, **shown),
    }
    kind = {"ppo": "reward", "dpo": "pref", "sft": "sft"}[LEARNER[name][0]]
    found = [row for e in transcripts.episodes for row in ways[name](e) if row.kind == kind]
    return [row for row in found if name == "conditioned" or not revises(row)]


def critique_tokens(transcripts: Transcripts) -> int:
    """Of all critiques of first answers and revisions."""
    said = (turn for episode in transcripts.episodes for turn in episode.by("critic"))
    return sum(len(turn.token_ids or ()) for turn in said)


def main() -> None:
    args = options(__doc__ or "", "compilers", 50_000, list(LEARNER)).parse_args()
    transcripts, exam = play(args.out), Exam(args.items)
    arms = []
    for name in args.arms:
        method, more = LEARNER[name]
        config = learn_config({"method": method, **SETTINGS, **more})
        arms.append(Arm(name, method, compiled(name, transcripts, exam), config))
    results = [
        run(arm, seed, args.tokens, exam, args.out, kl=False)
        for seed in range(args.seeds)
        for arm in arms
    ]
    lines = summary(results, exam.correct(BASE), lambda _: "sft")
    counts = {arm.name: len(arm.rows) for arm in arms}
    spent = critique_tokens(transcripts)
    for line in lines:
        told = line["arm"] not in ("uncriticised", "leaked")
        line["rows"] = counts[line["arm"]]
        line["per_k_critique_tokens"] = 1e5 * line["gain"].value / spent if told else None
    if args.json:
        print(json.dumps({"arms": lines, "critique_tokens": spent, "versions": versions()}))
        return
    print(table(lines))
    print(f"\nrows: {counts}; tokens of critiques: {spent}; points a thousand of them:")
    print({one["arm"]: one["per_k_critique_tokens"] for one in lines})
    print(", ".join(f"{name} {number}" for name, number in versions().items()))


if __name__ == "__main__":
    main()
