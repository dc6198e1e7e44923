"""Runs on the same items against each other: the scorecard.

    stores -> cases -> Arm, one for each run -> facts   cases.py, scorecard.py
              vote arms at equal cost                   matched.py
              paired tests between arms                 statistics.py
           -> facts as JSON, tables, one HTML page

No model is called. All is the same in whatever order the runs are named: arms stand by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from superalign.learners.estimates import mean_interval
from superalign.store import BadInput

from .cases import METRICS, SOURCES
from .compare_plots import compare_plots
from .console import table
from .plots import FORMATS
from .scorecard import Arm, arm_facts, matched_arm, pair_values, ratings
from .statistics import bradley_terry, holm, sign_flip_p
from .stored import open_run

ARM_COLUMNS = {
    "name": "arm",
    "n": "items",
    "accuracy": "accuracy",
    "accuracy_ci": "95%",
    "p_true": "p(true)",
    "brier": "brier",
    "log_score": "log",
    "asd": "asd",
    "swap_consistency": "swap",
    "mcc": "mcc",
    "ece": "ece",
    "refusals": "refused",
    "concessions": "conceded",
    "calls": "calls",
    "tokens": "tokens",
    "failed": "failed",
}
"""Fact of an arm -> the head of its column in the terminal."""


def compare_runs(named: Sequence[str], store: str | None, out: Path | None) -> dict[str, Any]:
    """Compare what was named; write the page if a path is given. Raises BadInput."""
    if out is not None and out.suffix != ".html":
        raise BadInput(f"--out {out}: the page is HTML; name a file that ends in .html")
    facts = compare([read_arm(name, store) for name in named])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render(facts), encoding="utf-8", errors="replace")
    return facts


def read_arm(named: str, store: str | None) -> Arm:
    """A run, or several joined by `+` that count as one arm; of `RUN:CELL` only what lies in that
    cell. Raises BadInput."""
    arm, parts = Arm(""), []
    for part in [named] if Path(named).exists() else named.split("+"):
        one, _, cell = part.partition(":")
        with open_run(one, store) as (opened, run, _):
            part = f"{run}:{cell}" if cell else run
            if part in parts:
                raise BadInput(f"{named}: {part} is named twice in one arm; name it once")
            parts.append(part)
            cells = set[str]()
            for episode in opened.episodes(run):
                found = episode.facts.get("cell")
                cells.add(str(found))
                if cell in ("", found):
                    arm.add(episode)
            if cell and cell not in cells:
                raise BadInput(f"{part}: no such cell; there are {', '.join(sorted(cells))}")
    arm.runs = tuple(sorted(parts))
    arm.name = "+".join(arm.runs)
    return arm.close()


def compare(arms: Sequence[Arm]) -> dict[str, Any]:
    """All that is known of the arms and of every two of them. Safe as JSON. Raises BadInput."""
    arms = sorted(arms, key=lambda arm: arm.name)
    for one, other in pairwise(arms):
        if one.name == other.name:
            raise BadInput(f"{one.name}: two arms have this name; compare it with other runs")
    found = matched(arms)
    facts = {
        "arms": [arm_facts(arm) for arm in [*arms, *(vote for _, vote in found)]],
        "pairs": pairs([*combinations(arms, 2), *found]),
        "elo": ratings(arms, bradley_terry),
    }
    return {**facts, "notes": notes(arms, facts, found)}


def matched(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Every arm that is no vote, with each vote that is computed at its cost."""
    votes = [arm for arm in arms if arm.votes]
    tried = [(arm, matched_arm(arm, vote)) for arm in arms if arm not in votes for vote in votes]
    return [(arm, vote) for arm, vote in tried if vote is not None]


def pairs(arms: Sequence[tuple[Arm, Arm]]) -> list[dict[str, Any]]:
    """Paired tests of every metric that both have, corrected together by Holm's method."""
    found = []
    for a, b in arms:
        for metric in METRICS:
            differences, left_out = pair_values(a, b, metric)
            change, p = mean_interval(differences), sign_flip_p(differences)
            if change is None or p is None:
                continue
            pair = {"a": a.name, "b": b.name, "metric": metric, "n": len(differences)}
            pair |= {"left_out": left_out, "diff": change.value, "ci": change.ci, "p": p}
            found.append(pair)
    for pair, corrected in zip(found, holm([pair["p"] for pair in found]), strict=True):
        pair["p_holm"] = corrected
    return found


def notes(
    arms: Sequence[Arm], facts: Mapping[str, Any], found: Sequence[tuple[Arm, Arm]]
) -> list[str]:
    """What a reader must know before believing a number."""
    said = []
    for arm in facts["arms"]:
        for key, what in (
            ("failed", "failed and are left out"),
            ("waiting", "wait for people and are left out"),
            ("undecided", "settled on no answer and are left out"),
            ("unknown", "settled on an answer of which nobody knows whether it is right"),
        ):
            if arm[key]:
                said.append(f"{arm['name']}: {arm[key]} of {arm['episodes']} episodes {what}")
        if arm["p_true_from"]:
            how = "; ".join(f"{SOURCES[s]} ({n:,})" for s, n in arm["p_true_from"].items())
            said.append(f"{arm['name']}: probabilities are {how}")
        if arm["derived"]:
            said.append(f"{arm['name']}: computed, {arm['derived']}")
    shared = {(pair["a"], pair["b"]) for pair in facts["pairs"]}
    for a, b in combinations(arms, 2):
        if (a.name, b.name) not in shared:
            said.append(f"{a.name} and {b.name} have no item in common: nothing is tested")
    for pair in facts["pairs"]:
        if pair["metric"] == "accuracy" and pair["left_out"]:
            who = f"{pair['a']} and {pair['b']}: {pair['left_out']} items"
            said.append(f"{who} are in one of them only and leave the tests")
    return [*said, *_unmatched(arms, found)]


def _unmatched(arms: Sequence[Arm], found: Sequence[tuple[Arm, Arm]]) -> list[str]:
    """Which arms have no vote at their cost beside them, and why."""
    votes, done = [arm for arm in arms if arm.votes], {arm.name for arm, _ in found}
    left = [arm for arm in arms if arm not in votes and arm.scores and arm.name not in done]
    if left and not votes:
        return ["no run of `vote` is among these: nothing is compared at equal cost"]
    most = max((v.n for arm in votes for some in arm.votes.values() for v in some), default=0)
    return [
        f"{arm.name}: no vote at its {arm.calls:.1f} calls, for no question has more than {most}"
        f" votes; play `vote` with more"
        for arm in left
        if arm.calls is not None
    ]


def as_text(facts: Mapping[str, Any]) -> str:
    """The tables of the terminal."""
    arms = [{head: arm[key] for key, head in ARM_COLUMNS.items()} for arm in facts["arms"]]
    kept = [head for head in ARM_COLUMNS.values() if any(arm[head] is not None for arm in arms)]
    parts = [table([{head: arm[head] for head in kept} for arm in arms])]
    if facts["pairs"]:
        parts.append("Differences, a less b, over the items of both:\n" + table(facts["pairs"]))
    if facts["elo"]["ratings"]:
        parts.append("Debates between policies:\n" + table(facts["elo"]["ratings"]))
    parts.append("\n".join(f"- {note}" for note in facts["notes"]))
    return "\n\n".join(part for part in parts if part)


def render(facts: Mapping[str, Any]) -> str:
    """The page. Everything that a model or a scenario wrote is escaped."""
    here = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= FORMATS
    figures = [figure._replace(svg=Markup(figure.svg)) for figure in compare_plots(facts)]
    return jinja.get_template("compare.html").render(
        facts=facts, figures=figures, data=json.dumps(facts, indent=2, allow_nan=False)
    )
