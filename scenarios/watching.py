"""Alarms in the loop: what a run has stored, after every play, against what it was at its best.

An iteration is looked at when it has been played and labelled, before anything learns from it. What
fired is written to `alarms.json` in the run's folder, by iteration, so that a paused run goes on
when it is run again. Opponents that did not play as their newest version count as frozen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from superalign.learners.alarms import Alarm, Panel, panel, watch
from superalign.store import Episode, Store

from .policies import newest, spoke_as
from .scenario import Scenario

FILE = "alarms.json"

SHOWN = "reward frozen gold heldout mcc informedness false_positive diversity questions gap".split()
"""Numbers of a panel that the report shows."""


@dataclass
class Watch:
    """The panels of one run so far, and which alarms it has told."""

    run: str
    store: Store
    folder: Path
    scenario: Scenario
    panels: list[Panel] = field(default_factory=list)

    def look(self, iteration: int) -> tuple[Alarm, ...]:
        """The alarms of an iteration that was played."""
        for number in range(len(self.panels) + 1, iteration + 1):
            self.panels.append(panel_of(self.store, self.run, self.scenario, number))
        return watch(self.panels[:iteration]).alarms

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


def panel_of(store: Store, run: str, scenario: Scenario, iteration: int) -> Panel:
    """The numbers of one iteration: of the tested seat's newest version at the time."""
    return _panel(store, run, scenario.tested, newest(scenario, iteration - 1), iteration)


def _panel(store: Store, run: str, seat: str, now: Mapping[str, str], iteration: int) -> Panel:
    own = list(store.episodes(run, iteration=iteration))
    if seat in now:
        own = [e for e in own if spoke_as(e, seat, now[seat]) or not e.by(seat)]
    frozen = [e for e in own if _met_frozen(e, seat, now)]
    fresh = [e for e in own if not _met_frozen(e, seat, now)]
    tested = store.evaluations(run, iteration - 1)
    return panel(iteration, fresh, store.labels(run), tested, frozen, seat)


def _met_frozen(episode: Episode, seat: str, now: Mapping[str, str]) -> bool:
    others = (turn for turn in episode.turns if turn.seat != seat and turn.seat in now)
    return any(turn.policy != now[turn.seat] for turn in others)


def alarm_facts(store: Store, run: str, seat: str) -> dict[str, Any]:
    """For the report: every panel, and what fires at each. Safe as JSON."""
    versions, panels = store.versions(run), list[Panel]()
    for iteration in range(1, store.run(run).scenario["iterations"] + 1):
        now = {v.seat: v.id for v in versions if v.seat and v.iteration < iteration}
        panels.append(_panel(store, run, seat, now, iteration))
    panels = [p for p in panels if p.reward or p.frozen or p.heldout]
    lines = []
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
    return {"panels": lines, "fired": fired, "blind": blind}
