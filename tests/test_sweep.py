"""Methods against each other on stored rows: equal tokens, drift, accuracy, and bad input."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from superalign.agents import tags
from superalign.learners.config import DpoConfig, SftConfig
from superalign.scenarios.arithmetic import CELLS, Arithmetic, draw, mistake
from superalign.scenarios.exam import Exam, Taken
from superalign.scenarios.resolve import ORGANISMS
from superalign.scenarios.scenario import CastMember, Loaded
from superalign.scenarios.sweep import Plan, Point, sweep_facts, sweep_run, tokens_per_step
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
    keys = ("batch=8", "micro_batch=8", "lr=1e-3")
    facts = sweep_run(plan(run, steps=6), keys, out, None, lambda *n: told.append(n))
    assert json.loads((out / "sweep.json").read_text()) == facts
    assert (out / "sweep.svg").read_text().startswith("<?xml")
    assert told == [(1, 2), (2, 2)]
    copied, preferred = facts["arms"]
    assert (copied["method"], copied["steps"]) == ("sft", 6)
    assert preferred["steps"] == 2  # a pair and a copy are three sequences
    assert preferred["tokens"] == pytest.approx(copied["tokens"], rel=0.1)
    for arm in facts["arms"]:
        low, high = arm["accuracy_ci"]
        assert low <= arm["accuracy"] <= high
        assert arm["gain"] == pytest.approx(arm["accuracy"] - facts["base_accuracy"])
    assert copied["kl"] > 0.05  # six large steps move it far
    assert facts["settings"]["dpo"]["beta"] == 0.5  # of the run's own block


def test_tokens_of_a_step_are_those_of_its_sequences():
    config = SftConfig(batch=4)
    alone = tokens_per_step(config, ROWS, BASE)
    assert tokens_per_step(config.model_copy(update={"batch": 8}), ROWS, BASE) == 2 * alone
    pairs = tokens_per_step(DpoConfig(batch=4, sft=0.0), ROWS, BASE)
    both = tokens_per_step(DpoConfig(batch=4), ROWS, BASE)
    assert both == pytest.approx(pairs + alone)
    assert 2 * alone <= pairs <= 3 * alone


def test_the_base_has_no_kl_to_itself():
    member = CastMember(model="tiny", max_tokens=40)
    tasks = WORLD.heldout(6)
    taken = Exam(BASE, WORLD, tasks, "learner", member, tags, 16).take(BASE)
    assert len(taken.correct) == 6
    assert taken.kl == pytest.approx([0.0] * 16, abs=1e-3)


def at(method, share, right, kl):
    return Point(method, share, 0, 1, Taken(tuple(right), tuple(kl)))


def test_accuracy_at_equal_kl_lies_between_the_nearest_points():
    before = Taken((False, False, True, True), (0.0, 0.0))
    near = at("slow", 0.5, [True, False, True, True], [0.5, 0.5])
    far = at("slow", 1.0, [True, True, True, True], [1.0, 1.0])
    other = [at("fast", 0.5, [True] * 4, [3.0, 5.0]), at("fast", 1.0, [True] * 4, [8.0, 8.0])]
    facts = sweep_facts(before, [near, far, *other], {"slow": 10.0, "fast": 10.0})
    found = {arm["method"]: arm["accuracy"] for arm in facts["equal_kl"]["arms"]}
    assert facts["equal_kl"]["kl"] == 1.0
    assert found == {"slow": 1.0, "fast": pytest.approx(0.75 * 0.5 + 0.25 * 1.0)}


def test_where_a_method_stood_still_there_is_no_equal_kl():
    before = Taken((False, True), (0.0, 0.0))
    points = [at("still", 1.0, [False, True], [-0.1, 0.1]), at("moved", 1.0, [True, True], [1, 1])]
    assert sweep_facts(before, points, {"still": 1.0, "moved": 1.0})["equal_kl"] is None


def test_seeds_are_averaged_before_items_are_resampled():
    before = Taken((False,) * 4, (0.0,))
    seeds = [
        Point("m", 1.0, s, 1, Taken(right, (1.0,)))
        for s, right in enumerate([(True, True, False, False), (False, False, True, True)])
    ]
    (arm,) = sweep_facts(before, seeds, {"m": 1.0})["arms"]
    assert arm["by_seed"] == [0.5, 0.5]
    assert np.allclose(arm["accuracy_ci"], 0.5)  # on average all items are equally hard


@pytest.mark.parametrize(
    ("more", "keys", "message"),
    [
        ({"methods": ("sft", "foo")}, (), "--methods foo: no such learner; there are sft,"),
        ({"methods": ("ppo",)}, (), "it draws replies of its own; sweep methods that learn from"),
        ({"methods": ("reward",)}, (), "it makes a reward model, no policy"),
        ({"methods": ("exo_rw",)}, (), "iteration 1 has no rank rows for exo_rw; leave it out"),
        ({"iteration": 2}, (), "iteration 2 has no sft rows for sft"),
        ({"seat": "judge"}, (), "--seat judge: taught has no such seat; it has attacker, learner"),
        ({}, ("bta=1",), "--set bta: none of sft, dpo has this key"),
    ],
)
def test_what_cannot_be_swept_is_told(run, more, keys, message):
    with pytest.raises(BadInput, match=message):
        sweep_run(plan(run, **more), keys, None, None, silent)
