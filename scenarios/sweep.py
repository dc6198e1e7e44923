"""Methods against each other, taught by the same stored rows, at equal tokens and at equal KL.

    rows of one seat and iteration -> every method, from the same base, for the same tokens
    each at several shares of the tokens, with several seeds -> accuracy and KL on held-out items
    where it is expected to have drifted as far as all others -> the same once more
    -> a table, facts as JSON, accuracy against KL as a plot

Tokens are those of the sequences that a method reads with gradients, counted row by row
(`learners/spending.py`): a method that reads more in a step takes fewer steps. The learning rate
does not fall with the steps, so that half the tokens is a checkpoint of all of them.
`sweep_facts.py` says what accuracy at equal KL is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from superalign.learners import CONFIGS, LEARNERS, LearnConfig
from superalign.learners.config import OnlineConfig, StarConfig
from superalign.store import BadInput, PolicyVersion, Row, Store

from .exam import Exam
from .policies import taught_by
from .resolve import build_models, resolve
from .scenario import Loaded
from .stored import open_run
from .sweep_facts import Point, expected_share, reached_by_all, sweep_facts
from .yaml_source import apply_override, parse_override

Told = Callable[[int, int], None]
"""Told (done, total) whenever one training has been measured."""


class Plan(NamedTuple):
    """What is swept."""

    run: str
    methods: Sequence[str]
    steps: int
    """Steps of the first method; its tokens are everybody's."""
    seeds: int
    points: int
    """Shares of the tokens at which each is measured: all, a half, a quarter …"""
    iteration: int
    seat: str | None
    heldout: int
    samples: int
    kl: float | None = None
    """Nats a reply at which methods are compared; None: the most that all have reached."""


class Lesson(NamedTuple):
    """What teaches and what is taught."""

    rows: list[Row]
    base: PolicyVersion
    folder: Path
    loaded: Loaded
    seat: str


def sweep_run(
    plan: Plan, overrides: Sequence[str], out: Path | None, store_url: str | None, told: Told
) -> dict[str, Any]:
    """Train and measure every method; write facts and plot to `out`. Raises BadInput."""
    with open_run(plan.run, store_url) as (store, run, folder):
        lesson = _lesson(store, run, folder, plan)
    configs = _configs(plan, overrides, lesson.loaded)
    _check_rows(configs, lesson.rows, plan)
    trials = _Trials(configs, lesson.rows, _exam(lesson, plan), plan, told)
    before = trials.exam.take(trials.exam.base)
    points = trials.at_equal_tokens()
    kl = reached_by_all(points) if plan.kl is None else plan.kl
    if kl > 0:
        points += trials.at_equal_kl(points, kl)
    facts = sweep_facts(before, points, kl)
    facts |= {"run": run, "iteration": plan.iteration, "seat": lesson.seat}
    facts |= {"base": lesson.base.id, "seeds": plan.seeds, "tokens": trials.budget}
    facts |= {"settings": {m: c.model_dump(mode="json") for m, c in configs.items()}}
    if out is not None:
        _write(facts, out)
    return facts


class _Trials:
    """Trains and measures one method after another."""

    def __init__(
        self,
        configs: Mapping[str, LearnConfig],
        rows: Sequence[Row],
        exam: Exam,
        plan: Plan,
        told: Told,
    ) -> None:
        self.configs, self.exam, self.plan, self.told = configs, exam, plan, told
        self.rows = {m: [r for r in rows if r.kind in c.kinds] for m, c in configs.items()}
        self.done, self.total = 0, len(configs) * plan.seeds * (plan.points + 1)
        self.counts: dict[tuple[str, int], list[int]] = {}
        """Tokens after each step of a method with a seed, as far as the budget reaches."""
        self.budget = [*islice(self._spent(plan.methods[0], 0), plan.steps)][-1]
        """Tokens of everybody."""

    def at_equal_tokens(self) -> list[Point]:
        """Every method at every share of the tokens."""
        shares = [2.0**-i for i in range(self.plan.points)][::-1]
        return [
            self._point(method, share, seed)
            for method in self.configs
            for seed in range(self.plan.seeds)
            for share in shares
        ]

    def at_equal_kl(self, points: Sequence[Point], kl: float) -> list[Point]:
        """Every method once more where it should have drifted that far, unless it was just there
        or never got there."""
        shares = {method: expected_share(points, method, kl) for method in self.configs}
        wanted = {method: share for method, share in shares.items() if share is not None}
        self.total = self.done + len(wanted) * self.plan.seeds
        return [
            self._point(method, share, seed)
            for method, share in wanted.items()
            for seed in range(self.plan.seeds)
        ]

    def _spent(self, method: str, seed: int) -> Iterator[int]:
        from superalign.learners.spending import spent

        return spent(self._config(method, seed), self.rows[method], self.exam.base)

    def _config(self, method: str, seed: int, **more: int) -> LearnConfig:
        config = self.configs[method]
        return config.model_copy(update={"seed": config.seed + seed, **more})

    def _point(self, method: str, share: float, seed: int) -> Point:
        """Trains for the number of steps whose tokens come nearest to a share of all."""
        if (method, seed) not in self.counts:  # SPIN must draw to know
            self.counts[method, seed] = until(self._spent(method, seed), self.budget)
        steps, tokens = nearest(self.counts[method, seed], share * self.budget)
        config = self._config(method, seed, steps=steps)
        with TemporaryDirectory() as folder:
            LEARNERS[method](self.exam.base, self.rows[method], config, Path(folder) / method)
            taken = self.exam.take(Path(folder) / method, seed)
        self.done += 1
        self.told(self.done, self.total)
        return Point(method, share, seed, steps, tokens, taken)


def until(counts: Iterable[int], budget: int) -> list[int]:
    """Rising counts, up to the first that reaches the budget."""
    found = []
    for count in counts:
        found.append(count)
        if count >= budget:
            break
    return found


def nearest(counts: Sequence[int], budget: float) -> tuple[int, int]:
    """Steps, one at least, and their tokens, which come nearest to a budget."""
    steps = min(range(len(counts)), key=lambda step: abs(counts[step] - budget))
    return steps + 1, counts[steps]


def _lesson(store: Store, run: str, folder: Path, plan: Plan) -> Lesson:
    stored = store.run(run)
    loaded = Loaded.stored(Path(stored.origin), stored.scenario)
    seat = plan.seat or loaded.scenario.tested
    rows, versions = taught_by(store, run, seat, plan.iteration)
    return Lesson(rows, versions[-1], folder, loaded, seat)


def _configs(plan: Plan, overrides: Sequence[str], loaded: Loaded) -> dict[str, LearnConfig]:
    """Method -> settings: the defaults, what the run's own block says of the same keys, then each
    `--set`, which is for all methods that have its key."""
    seat = plan.seat or loaded.scenario.tested
    own = loaded.scenario.learning.get(seat)
    shared = own.model_dump(mode="json", exclude={"method", "steps"}) if own else {}
    given: dict[str, Any] = {}
    for text in overrides:
        apply_override(given, *parse_override(text))
    if not plan.methods:
        raise BadInput("--methods: names none; name learners, e.g. sft,dpo")
    found = {}
    for method in dict.fromkeys(plan.methods):
        config = CONFIGS.get(method)
        if config is None:
            raise BadInput(f"--methods {method}: no such learner; there are {', '.join(CONFIGS)}")
        known = config.model_fields
        told = {key: value for key, value in {**shared, **given}.items() if key in known}
        found[method] = _fit(method, config.model_validate(told))
    for key in given:
        if not any(key in config.model_fields for config in map(CONFIGS.__getitem__, found)):
            raise BadInput(f"--set {key}: none of {', '.join(found)} has this key")
    return found


def _fit(method: str, config: LearnConfig) -> LearnConfig:
    """The settings as a sweep takes them. Raises BadInput for a method that it cannot hold."""
    why = None
    if not config.speaks or method == "genrm":
        why = "makes a model that scores replies, and no policy"
    elif isinstance(config, OnlineConfig) and (method != "ppo" or config.scorer is not None):
        why = "learns from replies that it draws on its way, whose tokens nobody knows before"
    if why:
        raise BadInput(f"--methods {method}: it {why}; sweep methods that learn from rows alone")
    if isinstance(config, StarConfig):
        return config.model_copy(update={"growth": 1.0})  # steps follow from the tokens here
    return config


def _check_rows(configs: Mapping[str, LearnConfig], rows: Sequence[Row], plan: Plan) -> None:
    for method, config in configs.items():
        if not any(row.kind in config.needs() for row in rows):
            kinds = " or ".join(config.needs())
            what = f"iteration {plan.iteration} has no {kinds} rows for {method}"
            raise BadInput(f"{plan.run}: {what}; leave it out, or name another --iteration")


def _exam(lesson: Lesson, plan: Plan) -> Exam:
    resolved = resolve(lesson.loaded)
    member = lesson.loaded.scenario.cast[lesson.seat]
    dialect = build_models(resolved, frozenset())[member.model].dialect
    tasks = resolved.world.heldout(plan.heldout)
    base = lesson.folder / lesson.base.path
    return Exam(base, resolved.world, tasks, lesson.seat, member, dialect, plan.samples)


def _write(facts: Mapping[str, Any], out: Path) -> None:
    from .policy_plots import draw_sweep

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=2, allow_nan=False)
    (out / "sweep.json").write_text(text + "\n", encoding="utf-8")
    draw_sweep(facts, out / "sweep.svg")
