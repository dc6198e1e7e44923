"""The published figures of the NYU debates, recomputed from a store, and every quote checked.

    python benchmarks/nyu.py [--store runs/nyu-debate-1/store.sqlite] [--rejudge] [--json]

Without --store the debates are imported first, from $SUPERALIGN_DATA/nyu_debate or from
../shared/data beside the project. Michael et al. 2023 (arXiv:2311.08702): human debate 84.4%, human
consultancy 74.0% right, over the rooms of the paper whose judge decided. --rejudge puts another
judge into every room, one that counts quotes (`quote_judge.py`), and prints the same of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from shutil import copy2
from typing import Any

from superalign.agents.quotes import is_quote, quotes
from superalign.protocols.recorded import SIDES, parse_belief
from superalign.scenarios.branching import rejudge_run
from superalign.scenarios.exchange import import_nyu_debate
from superalign.scenarios.nyu_debate import STORY
from superalign.scenarios.progress import counting
from superalign.store import Episode, Store

RUN = "nyu-debate-1"
JUDGE = Path(__file__).with_name("quote_judge.py")
GROUPS = ("human debate", "human consultancy", "GPT-4 debate", "GPT-4 consultancy")
BESIDE = Path(__file__).parent.parent.parent / "shared" / "data"


def facts_of(store: Store, run: str) -> dict[str, Any]:
    """What a run's judges believed at the end, by group, and how many quotes are none."""
    believed: dict[str, list[float]] = defaultdict(list)
    quoted, total = {True: 0, False: 0}, {"episodes": 0, "speeches": 0, "beliefs": 0}
    for episode in store.episodes(run):
        total["episodes"] += 1
        total["speeches"] += sum(len(episode.by(seat)) for seat in SIDES)
        total["beliefs"] += len(episode.by("judge", "belief"))
        for words, story in said(episode):
            quoted[is_quote(words, story)] += 1
        if (p := belief_in_truth(episode)) is not None:
            believed[episode.facts["cell"]].append(p)
    groups = {name: group(believed[name]) for name in GROUPS}
    return {**total, "groups": groups, "verified": quoted[True], "unverified": quoted[False]}


def said(episode: Episode) -> list[tuple[str, str]]:
    """Every quote of an episode, and the story that it must stand in."""
    found = []
    for seat in SIDES:
        _, _, story = episode.task.private.get(seat, "").partition(STORY)
        found += [(words, story) for turn in episode.by(seat) for words, _ in quotes(turn.text)]
    return found


def belief_in_truth(episode: Episode) -> float | None:
    """The probability that the judge at last gave the right answer; None where none decided."""
    if episode.verdict is None or episode.verdict.turn is None:
        return None
    choices = episode.question.choices
    held = parse_belief(episode.turn(episode.verdict.turn).text, len(choices))
    return held[choices.index(episode.truth or "")]


def group(held: list[float]) -> dict[str, Any]:
    n, right = len(held), sum(p > 0.5 for p in held)
    if not n:
        return {"right": 0, "n": 0}
    return {
        "right": right,
        "n": n,
        "accuracy": right / n,
        "mean_probability": sum(held) / n,
        "mean_log2": sum(map(math.log2, held)) / n,
    }


def rejudged(store: Path) -> str:
    """The run in which the counting judge has taken the judge's seat."""
    copy2(JUDGE, store.parent)  # a scenario runs code of its own folder alone
    model = f"models.counts={{engine: scripted, function: './{JUDGE.name}:believe'}}"
    changes = (model, "cast.judge.model=counts")
    with counting("rejudge") as told:
        facts = rejudge_run(RUN, "judge", changes, None, "counts quotes", False, str(store), told)
    return facts["run"]


def table(facts: dict[str, Any]) -> str:
    lines = ["| group | right | accuracy | mean probability | mean log2 |", "|---|---|---|---|---|"]
    for name, found in facts["groups"].items():
        share, p, log2 = found["accuracy"], found["mean_probability"], found["mean_log2"]
        count = f"{found['right']}/{found['n']}"
        lines.append(f"| {name} | {count} | {100 * share:.1f}% | {p:.4f} | {log2:.4f} |")
    counts = ", ".join(f"{facts[what]} {what}" for what in ("episodes", "speeches", "beliefs"))
    quoted = f"quotes: {facts['verified']} verified, {facts['unverified']} unverified"
    return "\n".join([*lines, "", f"{counts}; {quoted}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--rejudge", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = given.store
        if path is None:
            data = Path(os.environ.get("SUPERALIGN_DATA") or BESIDE) / "nyu_debate"
            os.chdir(scratch)
            path = Path(import_nyu_debate(data.resolve(), None)["store"])
        run = rejudged(path) if given.rejudge else RUN
        with Store.open(path) as store:
            facts = facts_of(store, run)
    print(json.dumps(facts, indent=2) if given.json else table(facts))


if __name__ == "__main__":
    main()
