"""Methods against each other, taught by the same stored rows, at equal tokens and at equal KL.

    rows of one seat and iteration -> every method, from the same base, for the same tokens
    each at several shares of the tokens, with several seeds -> accuracy and KL on held-out items
    -> a table, facts as JSON, accuracy against KL as a plot

Tokens are those of the sequences that a step reads with gradients, prompt and reply, as expected
from the rows' mean lengths: a method that reads more in a step takes fewer steps. The learning rate
does not fall with the steps, so that half the tokens is a checkpoint of all of them. Accuracy at
equal KL lies on the straight line between a method's two nearest points, at the largest KL that
every method has reached; a method moved by nothing has no such point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from superalign.learners import CONFIGS, LEARNERS, LearnConfig
from superalign.learners.config import OnlineConfig
from superalign.learners.estimates import mean_interval
from superalign.store import BadInput, PolicyVersion, Row, Store

from .exam import Exam, Taken
from .policies import taught_by
from .resolve import build_models, resolve
from .scenario import Loaded
from .stored import open_run
from .yaml_source import apply_override, parse_override

Told = Callable[[int, int], None]
"""Told (done, total) whenever one training has been measured."""

UNFIT = {
    "spin": "draws replies of its own",
    "reward": "makes a reward model, no policy",
    "genrm": "makes a verifier, no policy",
}
"""Methods that no sweep can hold, besides those that learn online, and why."""

PAIRED = ("rso", "self_rewarding")
"""Methods that make pairs of longer rows."""


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


class Lesson(NamedTuple):
    """What teaches and what is taught."""

    rows: list[Row]
    base: PolicyVersion
    folder: Path
    loaded: Loaded
    seat: str


class Point(NamedTuple):
    """One method, at one share of the tokens, with one seed."""

    method: str
    share: float
    seed: int
    steps: int
    taken: Taken


def sweep_run(
    plan: Plan, overrides: Sequence[str], out: Path | None, store_url: str | None, told: Told
) -> dict[str, Any]:
    """Train and measure every method; write facts and plot to `out`. Raises BadInput."""
    with open_run(plan.run, store_url) as (store, run, folder):
        lesson = _lesson(store, run, folder, plan)
    configs = _configs(plan, overrides, lesson.loaded)
    _check_rows(configs, lesson.rows, plan)
    exam = _exam(lesson, plan)
    cost = {method: tokens_per_step(c, lesson.rows, exam.base) for method, c in configs.items()}
    budget = plan.steps * cost[plan.methods[0]]
    before, points = exam.take(exam.base), list[Point]()
    shares = [2.0**-i for i in range(plan.points)][::-1]
    total = len(configs) * len(shares) * plan.seeds
    for method, config in configs.items():
        for seed in range(plan.seeds):
            for share in shares:
                steps = max(1, round(share * budget / cost[method]))
                seeded = {"seed": config.seed + seed, "steps": steps}
                taken = _train(config.model_copy(update=seeded), lesson.rows, exam, seed)
                points.append(Point(method, share, seed, steps, taken))
                told(len(points), total)
    facts = sweep_facts(before, points, cost)
    facts |= {"run": run, "iteration": plan.iteration, "seat": lesson.seat}
    facts |= {"base": lesson.base.id, "seeds": plan.seeds, "tokens": round(budget)}
    facts |= {"settings": {m: c.model_dump(mode="json") for m, c in configs.items()}}
    if out is not None:
        _write(facts, out)
    return facts


def _train(config: LearnConfig, rows: list[Row], exam: Exam, seed: int) -> Taken:
    method = str(config.model_dump()["method"])
    kept = [row for row in rows if row.kind in config.kinds]
    with TemporaryDirectory() as folder:
        LEARNERS[method](exam.base, kept, config, Path(folder) / method)
        return exam.take(Path(folder) / method, seed)


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
    found = {}
    for method in dict.fromkeys(plan.methods):
        config = CONFIGS.get(method)
        if config is None:
            raise BadInput(f"--methods {method}: no such learner; there are {', '.join(CONFIGS)}")
        online = issubclass(config, OnlineConfig)
        if why := UNFIT["spin"] if online else UNFIT.get(method):
            what = f"it {why}; sweep methods that learn from rows alone"
            raise BadInput(f"--methods {method}: {what}")
        known = config.model_fields
        told = {key: value for key, value in {**shared, **given}.items() if key in known}
        found[method] = config.model_validate(told)
    for key in given:
        if not any(key in config.model_fields for config in map(CONFIGS.__getitem__, found)):
            raise BadInput(f"--set {key}: none of {', '.join(found)} has this key")
    return found


def _check_rows(configs: Mapping[str, LearnConfig], rows: Sequence[Row], plan: Plan) -> None:
    for method, config in configs.items():
        if not any(row.kind == config.kinds[0] for row in rows):
            what = f"iteration {plan.iteration} has no {config.kinds[0]} rows for {method}"
            raise BadInput(f"{plan.run}: {what}; leave it out, or name another --iteration")


def _exam(lesson: Lesson, plan: Plan) -> Exam:
    resolved = resolve(lesson.loaded)
    member = lesson.loaded.scenario.cast[lesson.seat]
    dialect = build_models(resolved, frozenset())[member.model].dialect
    tasks = resolved.world.heldout(plan.heldout)
    base = lesson.folder / lesson.base.path
    return Exam(base, resolved.world, tasks, lesson.seat, member, dialect, plan.samples)


def tokens_per_step(config: LearnConfig, rows: Sequence[Row], base: Path) -> float:
    """How many tokens one step is expected to read with gradients, prompts and replies alike."""
    from transformers import AutoTokenizer

    from superalign.agents.tokens import encode_prompt, encode_reply

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    method = str(config.model_dump()["method"])

    def length(row: Row) -> float:
        prompt = len(encode_prompt(tokenizer, row.prompt))
        replies = [prompt + len(encode_reply(tokenizer, reply)) for reply in row.replies]
        used = 2 if method in PAIRED else len(replies)
        return fmean(replies) * used

    def mean(kind: str) -> float:
        found = [length(row) for row in rows if row.kind == kind]
        return fmean(found) if found else 0.0

    read = mean(config.kinds[0])
    copies = "sft" in config.kinds[1:] and getattr(config, "sft", 0.0) > 0
    return config.batch * (read + mean("sft") * copies)


def sweep_facts(
    before: Taken, points: Sequence[Point], cost: Mapping[str, float]
) -> dict[str, Any]:
    """All that was measured. Safe as JSON. Intervals are over items, and over replies of the KL;
    seeds are averaged first."""
    base = np.array(before.correct, dtype=float)
    shares = sorted({point.share for point in points})
    methods = list(dict.fromkeys(point.method for point in points))
    arms, curves = [], {}
    for method in methods:
        curve = [(0.0, base)]
        for share in shares:
            same = [p for p in points if (p.method, p.share) == (method, share)]
            right = np.mean([p.taken.correct for p in same], axis=0)
            kl = [value for point in same for value in point.taken.kl]
            curve.append((fmean(kl), right))
            told = {"method": method, "share": share, "steps": same[0].steps}
            told |= {"tokens": round(same[0].steps * cost[method])}
            told |= _estimate("accuracy", right) | _estimate("gain", right - base)
            told |= _estimate("kl", np.array(kl))
            told |= {"by_seed": [fmean(p.taken.correct) for p in same]}
            arms.append(told)
        curves[method] = curve
    facts = {"items": len(base), "arms": arms}
    return facts | _estimate("base_accuracy", base) | {"equal_kl": _at_equal_kl(curves, base)}


def _estimate(name: str, values: np.ndarray) -> dict[str, Any]:
    found = mean_interval(values.tolist())
    assert found is not None  # an exam has items
    return {name: found.value, f"{name}_ci": found.ci}


def _at_equal_kl(
    curves: Mapping[str, Sequence[tuple[float, np.ndarray]]], base: np.ndarray
) -> dict[str, Any] | None:
    """Every method's accuracy where all have drifted equally far; None where one has not moved."""
    reached = min(max(kl for kl, _ in curve) for curve in curves.values())
    if reached <= 0:
        return None
    found = []
    for method, curve in curves.items():
        far = next(i for i, (kl, _) in enumerate(curve) if kl >= reached)
        (low, left), (high, right) = curve[far - 1], curve[far]
        weight = (reached - low) / (high - low)
        at = (1 - weight) * left + weight * right
        found.append(
            {"method": method, **_estimate("accuracy", at), **_estimate("gain", at - base)}
        )
    return {"kl": reached, "arms": found}


def _write(facts: Mapping[str, Any], out: Path) -> None:
    from .policy_plots import draw_sweep

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=2, allow_nan=False)
    (out / "sweep.json").write_text(text + "\n", encoding="utf-8")
    draw_sweep(facts, out / "sweep.svg")


def as_text(facts: Mapping[str, Any]) -> str:
    """The tables of the terminal."""
    from .console import table

    kept = "method steps tokens accuracy accuracy_ci gain gain_ci kl kl_ci".split()
    parts = [
        f"{facts['run']}: rows of iteration {facts['iteration']}, seat {facts['seat']}, from "
        f"{facts['base']} (accuracy {facts['base_accuracy']:.3f}); {facts['items']} held-out "
        f"items, {facts['seeds']} seeds; intervals are 95%",
        table([{key: arm[key] for key in kept} for arm in facts["arms"]]),
    ]
    if facts["equal_kl"] is None:
        parts.append("No KL that every method reached: one of them did not move.")
    else:
        at = facts["equal_kl"]
        parts.append(f"At equal KL, {at['kl']:.3f} nats a reply:\n{table(at['arms'])}")
    return "\n\n".join(parts)
