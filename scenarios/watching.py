"""Alarms and stop rules in the loop: what a run has stored, looked at after every play.

An iteration is looked at when it has been played and labelled, before anything learns from it. What
fired is written to `alarms.json` in the run's folder, by iteration, so that a paused run goes on
when it is run again. A stop rule needs no such note: it holds while it stands in the scenario.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from superalign.learners.alarms import Alarm, Panel, panel_of, panels_of, watch
from superalign.learners.stopping import Broken, StopRules, broken
from superalign.store import Store

from .scenario import Scenario

FILE = "alarms.json"

SHOWN = (
    "reward frozen exploitability gold heldout mcc informedness false_positive diversity questions"
    " gap"
).split()
"""Numbers of a panel that the report shows."""


@dataclass
class Watch:
    """The panels of one run so far, and which alarms it has told."""

    run: str
    store: Store
    folder: Path
    scenario: Scenario
    panels: list[Panel] = field(default_factory=list)

    def look(self, iteration: int) -> tuple[tuple[Alarm, ...], tuple[Broken, ...]]:
        """The alarms of an iteration that was played, and the limits that it has passed."""
        for number in range(len(self.panels) + 1, iteration + 1):
            self.panels.append(panel_of(self.store, self.run, number, self.scenario.tested))
        seen = self.panels[:iteration]
        return watch(seen).alarms, broken(self.scenario.stop, seen)

    def is_new(self, iteration: int, alarms: Sequence[Alarm]) -> bool:
        """Note the alarms of an iteration; whether that had not been done before."""
        told = told_in(self.folder)
        if str(iteration) in told:
            return False
        told[str(iteration)] = [str(alarm) for alarm in alarms]
        text = json.dumps(told, indent=2, ensure_ascii=False)
        (self.folder / FILE).write_text(text + "\n", encoding="utf-8")
        return True


def told_in(folder: Path) -> dict[str, list[str]]:
    """Iteration -> what fired there, of a run in a folder."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def alarm_facts(store: Store, run: str, seat: str) -> dict[str, Any]:
    """For the report: every panel, what fires at each, and why the run stopped. Safe as JSON."""
    panels, lines = panels_of(store, run, seat), []
    for p in panels:
        line: dict[str, Any] = {"iteration": p.iteration, "audited": p.audited}
        for name in SHOWN:
            found = getattr(p, name)
            line[name] = found and found.value
            bounded = found and math.isfinite(found.high - found.low)
            line[f"{name}_ci"] = [found.low, found.high] if found and bounded else None
        lines.append(line)
    fired = [str(a) for i in range(1, len(panels) + 1) for a in watch(panels[:i]).alarms]
    blind = list(dict.fromkeys(watch(panels).blind)) if panels else []
    told = {"panels": lines, "fired": list(dict.fromkeys(fired)), "blind": blind}
    return told | {"stopped": _stopped(store, run, panels)}


def _stopped(store: Store, run: str, panels: Sequence[Panel]) -> list[str]:
    """The limits of the scenario, as the run began, that its last iteration passed. A run that
    learnt from that iteration all the same went on with others."""
    rules = StopRules(**(store.run(run).scenario.get("stop") or {}))
    played = [p for p in panels if p.reward or p.frozen]
    if not played or any(v.iteration >= played[-1].iteration for v in store.versions(run)):
        return []
    return [str(found) for found in broken(rules, played)]
