"""Methods against each other on stored rows: equal tokens, drift, accuracy, and bad input."""

import json
import random
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from superalign.agents import tags
from superalign.scenarios.arithmetic import CELLS, Arithmetic, draw, mistake
from superalign.scenarios.exam import Exam, Taken
from superalign.scenarios.resolve import ORGANISMS
from superalign.scenarios.scenario import CastMember, Loaded
from superalign.scenarios.sweep import Plan, nearest, sweep_run, until
from superalign.scenarios.sweep_facts import (
    Point,
    as_text,
    expected_share,
    reached_by_all,
    sweep_facts,
)
from superalign.store import BadInput, Message, PolicyVersion, Question, Row, Run, Store

MAIN = Path(__file__).parent.parent / "scenarios" / "arithmetic.yaml"
BASE = ORGANISMS / "arithmetic"
WORLD = Arithmetic()


def lessons(n=24):
    """A right and a wrong answer to each of some questions, and the right one to copy."""
    rng = random.Random(0)
    for i in range(n):
        text = draw(CELLS[i % len(CELLS)], rng)
        right = WORLD.solution(Question(text=text))
        told = {"seat": "learner", "prompt": (Message(role="question", content=text),)}
        told |= {"source": "ai", "judge": "critic", "iteration": 1, "turns": (f"r/e{i}/k",)}
        yield Row(kind="pref", replies=(right, mistake(text, rng)), **told)
        yield Row(kind="sft", replies=(right,), **told)


ROWS = list(lessons())


@pytest.fixture
def run(tmp_path):
    """A stored run with rows of its learner."""
    folder = tmp_path / "taught"
    folder.mkdir()
    scenario = Loaded.read(MAIN).scenario.model_dump(mode="json")
    base = {"id": "tiny", "seat": "learner", "parent": None, "method": "base", "config": {}}
    with Store.open(folder / "store.sqlite", write=True) as store:
        told = {"id": "taught", "scenario": scenario, "origin": str(MAIN)}
        store.put_run(Run(protocol_hash="", version="0", **told))
        store.put_version("taught", PolicyVersion(rows=None, path=str(BASE), iteration=0, **base))
        store.put_rows("taught", ROWS)
    return folder


def plan(run, **more):
    told = {"methods": ("sft", "dpo"), "steps": 4, "seeds": 1, "points": 1, "iteration": 1}
    told |= {"seat": None, "heldout": 12, "samples": 8, "run": str(run)}
    return Plan(**told | more)


def silent(*_):
    """No progress."""


def test_a_sweep_trains_all_on_the_same_tokens_and_says_what_it_measured(run, tmp_path):
    out, told = tmp_path / "out", []
    keys = ("batch=8", "micro_batch=8", "lr=1e-2")
    facts = sweep_run(plan(run, steps=6), keys, out, None, lambda *n: told.append(n))
    assert json.loads((out / "sweep.json").read_text()) == facts
    assert (out / "sweep.svg").read_text().startswith("<?xml")
    copied, preferred = (
        next(a for a in facts["arms"] if a["method"] == m and a["share"] == 1)
        for m in ("sft", "dpo")
    )
    assert (copied["steps"], copied["tokens"]) == (6, facts["tokens"])
    assert preferred["steps"] == 2  # a pair and a copy are three sequences
    assert preferred["tokens"] == pytest.approx(copied["tokens"], rel=0.1)
    assert told == [(i + 1, 4 if i < 2 else len(facts["arms"])) for i in range(len(facts["arms"]))]
    for arm in facts["arms"]:
        low, high = arm["accuracy_ci"]
        assert low <= arm["accuracy"] <= high
        assert arm["gain"] == pytest.approx(arm["accuracy"] - facts["base_accuracy"])
    assert copied["kl"] > 0.05  # six large steps move it far
    at = facts["equal_kl"]
    assert [arm["method"] for arm in at["arms"]] == ["sft", "dpo"]
    assert at["kl"] == pytest.approx(min(copied["kl"], preferred["kl"]))
    assert "nats a reply; `ahead` of the first method" in as_text(facts)
    assert facts["settings"]["dpo"]["beta"] == 0.5  # of the run's own block


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(1, (1, 10)), (10, (1, 10)), (14, (1, 10)), (16, (2, 20)), (30, (3, 30)), (99, (4, 40))],
)
def test_steps_are_those_whose_tokens_come_nearest_to_the_budget(budget, wanted):
    counts = until(count(10, 10), 35)
    assert counts == [10, 20, 30, 40]
    assert nearest(counts, budget) == wanted


def test_star_and_ppo_on_stored_replies_can_be_swept(run):
    scored = [
        row.model_copy(update={"kind": "reward", "rewards": (1.0,)})
        for row in ROWS
        if row.kind == "sft"
    ]
    with Store.open(run / "store.sqlite", write=True) as store:
        store.put_rows("taught", scored)
    wanted = plan(run, methods=("sft", "star", "ppo"), steps=3)
    facts = sweep_run(wanted, ("batch=8", "growth=2"), None, None, silent)
    full = {a["method"]: a for a in facts["arms"] if a["share"] == 1}
    assert [full[m]["steps"] for m in ("sft", "star")] == [3, 3]
    assert full["sft"]["tokens"] == full["star"]["tokens"]
    assert full["sft"]["by_seed"] == full["star"]["by_seed"]
    assert full["ppo"]["tokens"] == pytest.approx(facts["tokens"], rel=0.35)


def test_the_base_has_no_kl_to_itself():
    member = CastMember(model="tiny", max_tokens=40)
    tasks = WORLD.heldout(6)
    taken = Exam(BASE, WORLD, tasks, "learner", member, tags, 16).take(BASE)
    assert len(taken.correct) == 6
    assert taken.kl == pytest.approx([0.0] * 16, abs=1e-3)


def at(method, share, right, kl, seed=0):
    return Point(method, share, seed, 1, round(100 * share), Taken(tuple(right), tuple(kl)))


def test_accuracy_at_equal_kl_lies_between_the_nearest_points():
    before = Taken((False, False, True, True), (0.0, 0.0))
    near = at("slow", 0.5, [True, False, True, True], [0.5, 0.5])
    far = at("slow", 1.0, [True, True, True, True], [1.0, 1.0])
    other = [at("fast", 0.5, [True] * 4, [3.0, 5.0]), at("fast", 1.0, [True] * 4, [8.0, 8.0])]
    points = [near, far, *other]
    assert reached_by_all(points) == 1.0
    slow, fast = sweep_facts(before, points, 1.0)["equal_kl"]["arms"]
    assert (slow["accuracy"], slow["tokens"], slow["ahead"]) == (1.0, 100, None)
    assert fast["accuracy"] == pytest.approx(0.75 * 0.5 + 0.25 * 1.0)
    assert fast["tokens"] == round(0.25 * 50)
    assert fast["ahead"] == pytest.approx(fast["accuracy"] - slow["accuracy"])
    low, high = fast["ahead_ci"]
    assert low < fast["ahead"] < high


def test_a_method_is_trained_once_more_where_it_should_have_drifted_as_far():
    points = [at("m", 0.5, [True], [4.0, 4.0]), at("m", 1.0, [True], [16.0, 16.0])]
    assert expected_share(points, "m", 1.0) == pytest.approx(0.25)
    assert expected_share(points, "m", 9.0) == pytest.approx(0.75)
    assert expected_share(points, "m", 4.0) is None  # it was there
    assert expected_share(points, "m", 17.0) is None  # it never got there
    back = [at("m", 0.5, [True], [-0.5, -0.5]), *points[1:]]  # by chance
    assert expected_share(back, "m", 4.0) == pytest.approx(0.75)
    noisy = [at("m", 0.5, [True], [1.0, 3.0])]
    assert expected_share(noisy, "m", 1.5) is None  # it may be there already


def test_who_did_not_drift_as_far_as_was_asked_is_named():
    before = Taken((False, True), (0.0, 0.0))
    points = [at("slow", 1.0, [True, True], [0.5, 0.5]), at("fast", 1.0, [True, True], [4, 4])]
    at_kl = sweep_facts(before, points, 2.0)["equal_kl"]
    assert [arm["method"] for arm in at_kl["arms"]] == ["fast"]
    assert at_kl["short"] == ["slow"]


def test_an_uncertain_kl_widens_the_interval_at_equal_kl():
    before = Taken((False,) * 60 + (True,) * 60, (0.0,) * 50)

    def width(spread):
        drift = [1.0 - spread, 1.0 + spread] * 25
        far = [at("m", 1.0, [True] * 120, drift)]
        (arm,) = sweep_facts(before, far, 0.8)["equal_kl"]["arms"]
        return arm["accuracy_ci"][1] - arm["accuracy_ci"][0]

    assert width(2.0) > 1.5 * width(0.0) > 0


def test_where_a_method_stood_still_there_is_no_equal_kl():
    before = Taken((False, True), (0.0, 0.0))
    points = [at("still", 1.0, [False, True], [-0.1, 0.1]), at("moved", 1.0, [True, True], [1, 1])]
    assert reached_by_all(points) == 0.0
    assert sweep_facts(before, points, 0.0)["equal_kl"] is None


def test_seeds_are_averaged_before_items_are_resampled():
    before = Taken((False,) * 4, (0.0,))
    seeds = [
        at("m", 1.0, right, (1.0,), s)
        for s, right in enumerate([(True, True, False, False), (False, False, True, True)])
    ]
    (arm,) = sweep_facts(before, seeds, 0.0)["arms"]
    assert arm["by_seed"] == [0.5, 0.5]
    assert np.allclose(arm["accuracy_ci"], 0.5)  # on average all items are equally hard


@pytest.mark.parametrize(
    ("more", "keys", "message"),
    [
        ({"methods": ()}, (), "--methods: names none; name learners"),
        ({"methods": ("sft", "foo")}, (), "--methods foo: no such learner; there are sft,"),
        ({"methods": ("grpo",)}, (), "it learns from replies that it draws on its way"),
        ({"methods": ("ppo",)}, ("scorer=x",), "it learns from replies that it draws on its way"),
        ({"methods": ("reward",)}, (), "it makes a model that scores replies, and no policy"),
        ({"methods": ("verifier",)}, (), "it makes a model that scores replies, and no policy"),
        ({"methods": ("kto",), "iteration": 2}, (), "iteration 2 has no reward or pref rows"),
        ({"methods": ("exo_rw",)}, (), "iteration 1 has no rank rows for exo_rw; leave it out"),
        ({"iteration": 2}, (), "iteration 2 has no sft rows for sft"),
        ({"seat": "judge"}, (), "--seat judge: taught has no such seat; it has attacker, learner"),
        ({}, ("bta=1",), "--set bta: none of sft, dpo has this key"),
    ],
)
def test_what_cannot_be_swept_is_told(run, more, keys, message):
    with pytest.raises(BadInput, match=message):
        sweep_run(plan(run, **more), keys, None, None, silent)
