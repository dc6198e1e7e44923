"""What a run found out: its facts as JSON, and one HTML page that shows them.

    store -> report_facts -> report.json
                          -> plots and report.html

`docs/report.md` says what every number means. Failed episodes are counted and left out of all
else; what nothing was measured of is None, which is not zero.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import func, select

from superalign.learners.estimates import Estimate, wilson
from superalign.store import Episode, PolicyVersion, Run, Store, Turn
from superalign.store.tables import Rows

from .headline import headline
from .labelling import agreement
from .plots import FORMATS, at, plots
from .spent import spent_facts
from .statistics import Confusion, Paired, distinct_share
from .watching import alarm_facts

DOWN = -3.0
"""A cell is named as down when even the upper end of its change, in points, lies below."""

ARMS = {"exploit": "attacker", "explore": "uniform"}
"""Tag of an episode -> what steered its attack: the archive, or nothing."""

LEARNT = (
    "loss preference sft chosen_logprob rejected_logprob chosen_gain rejected_gain margin accuracy"
).split()
"""What is shown of an update's first step and of the mean over its last ones."""

EXAMPLES = {
    (True, True): "An attack that hit: the learner is wrong, and the critic says where",
    (False, True): "A wrong answer that the critic let pass",
    (True, False): "A right answer that the critic rejected",
}
"""(the critic found a fault, there is one) -> what such a case shows."""

EXAMPLE_LENGTH = 2000
"""Characters shown of each turn of an example."""

Held = dict[str, tuple[str, bool, int]]
"""Held-out item -> its cell, whether it was answered right, and the answer's tokens."""


class Play:
    """What the episodes of one iteration add up to. It keeps counts, never episodes."""

    def __init__(self) -> None:
        self.n: Counter[Any] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.judged: Counter[tuple[bool, bool]] = Counter()
        self.distinct: defaultdict[str, float] = defaultdict(float)
        self.examples: dict[str, dict[str, Any]] = {}
        self.began, self.ended = math.inf, -math.inf

    def add(self, episode: Episode) -> None:
        """Count one episode; of one that is not done, only that and what it cost."""
        self.n["episodes"] += 1
        self.n[episode.status] += 1
        for turn in episode.turns:
            self.n["calls"] += 1
            self.n["prompt_tokens"] += turn.prompt_tokens
            self.n["completion_tokens"] += turn.completion_tokens or 0
            self.began = min(self.began, turn.at - turn.seconds)
            self.ended = max(self.ended, turn.at)
        if episode.status == "done" and episode.verdict is not None:
            arm = next((ARMS[tag] for tag in episode.tags if tag in ARMS), "")
            self._attack(episode, arm, episode.verdict.value)
            self._answers(episode, arm)
            self._critiques(episode)

    def _attack(self, episode: Episode, arm: str, verdict: str) -> None:
        cell = episode.facts.get("cell")
        self.verdicts[verdict] += 1
        self.n["invalid"] += cell is None
        self.n[arm, "attacks"] += 1
        self.n[arm, "hits"] += is_hit(episode)
        self.n[arm, "believed"] += verdict == "failed"
        if arm and cell is not None:
            self.n["aimed"] += 1
            self.n["off"] += cell != episode.task.question.topic

    def _answers(self, episode: Episode, arm: str) -> None:
        right, first = episode.facts.get("correct", {}), originals(episode)
        answers = [turn for turn in episode.turns if turn.key in right]
        self.n["answers"] += len(answers)
        self.n["truncated"] += sum(turn.finish == "length" for turn in answers)
        self.n["originals"] += len(first)
        self.n["right"] += sum(right[turn.key] for turn in first)
        if first and arm != "attacker":
            self.n["spread"] += 1
            self.distinct["texts"] += distinct_share([turn.text for turn in first])
            self.distinct["results"] += distinct_share([result(turn.text) for turn in first])

    def _critiques(self, episode: Episode) -> None:
        truth = episode.facts.get("fault", {})
        for critique in episode.critiques:
            if critique.about not in truth:
                continue
            fault = truth[critique.about]
            case = critique.fault is not None, fault is not None
            self.judged[case] += 1
            self.n["exact"] += fault is not None and critique.fault == fault
            what = EXAMPLES.get(case)
            if what and what not in self.examples and (is_hit(episode) or not all(case)):
                self.examples[what] = _example(episode, what, critique.about, critique.turn)

    def facts(self) -> dict[str, Any]:
        """What play says, under the report's keys."""
        n, seen = self.n, Confusion.of(self.judged)
        attacker, uniform = self._rate("attacker", "hits"), self._rate("uniform", "hits")
        return {
            "attacker_hit_rate": _value(attacker),
            "uniform_hit_rate": _value(uniform),
            "hit_ratio": _share(_value(attacker), _value(uniform)),
            "critic_precision": _value(seen.precision),
            "critic_recall": _value(seen.recall),
            "diversity": _share(self.distinct["texts"], n["spread"]),
            "episodes": n["episodes"],
            "failed": n["failed"],
            "attack": {
                "attacker_ci": _ci(attacker),
                "uniform_ci": _ci(uniform),
                "attacker_believed": _value(self._rate("attacker", "believed")),
                "uniform_believed": _value(self._rate("uniform", "believed")),
                "invalid_share": _share(n["invalid"], self.verdicts.total()),
                "off_cell_share": _share(n["off"], n["aimed"]),
                "verdicts": dict(sorted(self.verdicts.items())),
            },
            "critic": {
                "precision_ci": _ci(seen.precision),
                "recall_ci": _ci(seen.recall),
                "mcc": seen.mcc,
                "exact_share": _share(n["exact"], seen.tp),
                "judged": sum(seen),
            },
            "answers": {
                "played_accuracy": _share(n["right"], n["originals"]),
                "truncated_share": _share(n["truncated"], n["answers"]),
                "distinct_results": _share(self.distinct["results"], n["spread"]),
            },
            "cost": {
                "calls": n["calls"],
                "prompt_tokens": n["prompt_tokens"] or None,
                "completion_tokens": n["completion_tokens"] or None,
                "play_seconds": self.ended - self.began if n["calls"] else None,
            },
        }

    def _rate(self, arm: str, what: str) -> Estimate | None:
        return wilson(self.n[arm, what], self.n[arm, "attacks"])


def originals(episode: Episode) -> list[Turn]:
    """The answers that the question got before anybody revised one: those of the first node that
    answered. Only answers that the oracle has judged."""
    answers = [turn for turn in episode.turns if turn.key in episode.facts.get("correct", {})]
    nodes = [turn.key.rpartition("/")[0] for turn in answers]
    return [turn for turn, node in zip(answers, nodes, strict=True) if node == nodes[0]]


def is_hit(episode: Episode) -> bool:
    """Whether an attack hit by the truth: the question is valid, the first answer is wrong, and so
    are at least half of the fresh ones."""
    wrong = [not episode.facts["correct"][turn.key] for turn in originals(episode)]
    return bool(wrong) and wrong[0] and 2 * sum(wrong[1:]) >= len(wrong[1:])


def result(text: str) -> str:
    """The last working line of an answer, which holds its result."""
    return re.split(r"[;\n]", text.strip())[-1].strip()


def _example(episode: Episode, what: str, *keys: str) -> dict[str, Any]:
    turns = [episode.turn(key) for key in keys]
    return {
        "what": what,
        "episode": episode.ref,
        "iteration": episode.iteration,
        "topic": episode.task.question.topic,
        "question": episode.question.text[:EXAMPLE_LENGTH],
        "truth": episode.truth,
        "turns": [{"seat": t.seat, "text": t.text[:EXAMPLE_LENGTH]} for t in turns],
    }


def report_facts(store: Store, run: str) -> dict[str, Any]:
    """All that is known of a run, finished or not. Safe as JSON."""
    stored, versions = store.run(run), store.versions(run)
    people = Counter(label.episode for label in store.labels(run) if label.source == "human")
    rows, human = _row_counts(store, run), 0
    iterations: list[dict[str, Any]] = []
    examples: dict[str, dict[str, Any]] = {}
    base, before = Held(), Held()
    for number in range(stored.scenario["iterations"] + 1):
        tested, play = store.evaluations(run, number), Play()
        held = {e.item: (e.cell, e.correct, e.tokens) for e in tested}
        for episode in store.episodes(run, iteration=number):
            play.add(episode)
            human += people[episode.id]
        if not held and not play.n["episodes"]:
            continue
        updates = [v for v in versions if v.iteration == number and v.parent]
        made = next((v for v in updates if v.seat == _tested(stored)), None)
        made = made or next(iter(updates), None)
        examples |= play.examples
        facts = {"iteration": number, **_heldout_facts(held, before), **play.facts()}
        asked = (stored.scenario.get("evaluate") or {}).get("heldout", 0)
        facts["heldout_unanswered"] = asked - len(held) if held else None
        tokens = sum(tokens for _, _, tokens in held.values()) or None
        facts["answers"]["heldout_tokens"] = _share(tokens, len(held))
        seconds = [v.metrics["seconds"] for v in updates if "seconds" in v.metrics]
        facts["cost"]["learn_seconds"] = sum(seconds) if seconds else None
        facts |= {"human_labels": human, "rows": rows[number], "learner": _learner_facts(made)}
        iterations.append(facts)
        base, before = (held if number == 0 else base), held or before
    updated = before if before is not base else {}
    facts = {"run": run, "iterations": iterations, **_gain_facts(base, updated)}
    facts |= _run_facts(stored, versions)
    facts |= {"complete": _is_complete(stored.scenario, iterations)}
    facts |= {"label_agreement": agreement(store.labels(run))}
    facts |= {"alarms": alarm_facts(store, run, _tested(stored)), "spent": spent_facts(store, run)}
    return _json_safe(facts | {"headline": headline(facts), "examples": [*examples.values()]})


def _heldout_facts(held: Held, before: Held) -> dict[str, Any]:
    """Accuracy, by cell too, and what has changed against the iteration before."""
    right, cells = Counter(), Counter(cell for cell, _, _ in held.values() if cell)
    for cell, correct, _ in held.values():
        right[cell] += correct
    overall, change = wilson(right.total(), len(held)), _paired(before, held)
    return {
        "heldout_accuracy": _value(overall),
        "heldout_ci": _ci(overall),
        "heldout_n": len(held),
        "cells": {
            cell: {"accuracy": right[cell] / n, "n": n, "ci": _ci(wilson(right[cell], n))}
            for cell, n in sorted(cells.items())
        },
        "change": {
            "fixed": _share(change.gained, change.n),
            "broken": _share(change.lost, change.n),
        },
    }


def _paired(before: Held, after: Held, cell: str | None = None) -> Paired:
    first, second = (
        {item: right for item, (of, right, _) in held.items() if cell in (None, of)}
        for held in (before, after)
    )
    return Paired.of(first, second)


def _gain_facts(base: Held, last: Held) -> dict[str, Any]:
    """The last version that was tested against the base, overall and by cell."""
    names = sorted({cell for cell, _, _ in last.values()} - {""})
    cells = {cell: _gain(_paired(base, last, cell)) for cell in names}
    down = [cell for cell, gain in cells.items() if gain and gain["ci"][1] < DOWN]
    return {"gain": _gain(_paired(base, last)), "cells": cells, "cells_down": down}


def _gain(paired: Paired) -> dict[str, Any] | None:
    """A change in points with its interval; None without items."""
    change, (kept, gained, lost, _) = paired.difference(), paired
    if change is None:
        return None
    value, low, high = (100 * share for share in change)
    shares = {"before": (kept + lost) / paired.n, "after": (kept + gained) / paired.n}
    return {"points": value, "ci": [low, high], "n": paired.n, **shares}


def _learner_facts(made: PolicyVersion | None) -> dict[str, Any] | None:
    """An update in numbers: its first step, and the mean over its last ones."""
    if made is None:
        return None
    kept = {name: made.metrics.get(name) for name in ("rows", "steps", "flips")}
    for name in ("first", "last"):
        step = made.metrics.get(name, {})
        kept[name] = {key: step[key] for key in LEARNT if key in step}
    return {"version": made.id, "parent": made.parent, "method": made.method, **kept}


def _row_counts(store: Store, run: str) -> dict[int, dict[str, dict[str, int]]]:
    """Iteration -> kind -> source -> how many rows."""
    columns = Rows.__table__.c  # type: ignore[attr-defined]
    keys = columns.iteration, columns.kind, columns.source
    query = select(*keys, func.count()).where(columns.run == run).group_by(*keys).order_by(*keys)
    found: dict[int, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    with store.connect() as db:
        for iteration, kind, source, count in db.execute(query):
            found[iteration][kind][source] = count
    return found


def _run_facts(stored: Run, versions: list[PolicyVersion]) -> dict[str, Any]:
    scenario, labels = stored.scenario, stored.scenario.get("labels") or {}
    learn, people = scenario.get("learn") or {}, labels.get("human")
    source = f"critic and {people['budget']} human labels" if people else "critic"
    return {
        "scenario": scenario["name"],
        "world": scenario["world"]["kind"],
        "protocol": scenario["protocol"]["name"],
        "method": learn.get("method") or _methods(learn),
        "label_source": "oracle, as a control" if labels.get("control") else source,
        "seed": scenario["seed"],
        "superalign": stored.version,
        "at": stored.at,
        "versions": [
            {"id": v.id, "parent": v.parent, "method": v.method, "iteration": v.iteration}
            for v in versions
        ],
    }


def _tested(stored: Run) -> str:
    """The seat that the report is about, as `Scenario.tested` says."""
    cast = stored.scenario.get("cast") or {}
    learning = [seat for seat, member in cast.items() if member.get("learn")]
    return "learner" if "learner" in learning or not learning else learning[0]


def _methods(learn: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{seat}: {how['method']}" for seat, how in learn.items()) or None


def _is_complete(scenario: Mapping[str, Any], iterations: list[dict[str, Any]]) -> bool:
    """Whether the last iteration has all that the scenario asks of it."""
    last = iterations[-1] if iterations else {"iteration": 0}
    learns, evaluate = scenario.get("learn") is not None, scenario.get("evaluate")
    return (
        last["iteration"] == scenario["iterations"]
        and last["episodes"] >= scenario["episodes"]
        and (not learns or last["learner"] is not None)
        and (not (learns and evaluate) or last["heldout_n"] >= evaluate["heldout"])
    )


def write_report(store: Store, run: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Write `report.json` and `report.html` into a folder; the facts and the page's path."""
    facts, page = report_facts(store, run), folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=2, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    page.write_text(render(facts, store.run(run).scenario), encoding="utf-8", errors="replace")
    return facts, page


def render(facts: Mapping[str, Any], scenario: Mapping[str, Any]) -> str:
    """The page. Everything that a model or a scenario wrote is escaped."""
    here = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= FORMATS | {"at": at}
    figures = [figure._replace(svg=Markup(figure.svg)) for figure in plots(facts)]
    return jinja.get_template("report.html").render(
        facts=facts,
        figures=figures,
        started=datetime.fromtimestamp(facts["at"], UTC),
        scenario=json.dumps(scenario, indent=2, ensure_ascii=False),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _value(estimate: Estimate | None) -> float | None:
    return estimate and estimate.value


def _ci(estimate: Estimate | None) -> list[float] | None:
    return estimate and estimate.ci


def _json_safe(value: Any) -> Any:
    """The value without NaN and infinities, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
