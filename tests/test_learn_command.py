"""`superalign learn`: which of a run's stored rows suffice for a method, and what it is told."""

from pathlib import Path

import pytest

from superalign.learners import CONFIGS, LEARNERS
from superalign.scenarios import commands
from superalign.scenarios.commands import learn_run, list_things
from superalign.scenarios.resolve import ORGANISMS
from superalign.scenarios.scenario import Loaded
from superalign.store import BadInput, Message, PolicyVersion, Row, Run, Store

MAIN = Path(__file__).parent.parent / "scenarios" / "arithmetic.yaml"
BASE = ORGANISMS / "arithmetic"


def rows_of(kind, iteration, n=8):
    """As a run stores them: a right and a wrong answer, a right one, one with its reward, four."""
    right, wrong = "7+5=12;4+8+1=13;3+2+1=6;632", "7+5=12;4+8=12;3+2+1=6;622"
    replies, rewards = {
        "pref": ((right, wrong), None),
        "sft": ((right,), None),
        "reward": ((wrong,), (0.0,)),
        "rank": ((right, wrong), (1.0, 0.0)),
    }[kind]
    for i in range(n):
        asked = (Message(role="question", content=f"{347 + i}+285"),)
        told = {
            "seat": "learner",
            "prompt": asked,
            "iteration": iteration,
            "turns": (f"r/{iteration}/e{i}",),
        }
        told |= {"source": "ai", "judge": "critic", "rewards": rewards}
        yield Row(kind=kind, replies=replies, **told)


@pytest.fixture
def run(tmp_path):
    """A stored run: pairs and copies in its first iteration, copies alone in its second."""
    folder = tmp_path / "taught"
    folder.mkdir()
    scenario = Loaded.read(MAIN).scenario.model_dump(mode="json")
    base = {"id": "tiny", "seat": "learner", "parent": None, "method": "base", "config": {}}
    with Store.open(folder / "store.sqlite", write=True) as store:
        told = {"id": "taught", "scenario": scenario, "origin": str(MAIN)}
        store.put_run(Run(protocol_hash="", version="0", **told))
        store.put_version("taught", PolicyVersion(rows=None, path=str(BASE), iteration=0, **base))
        store.put_rows("taught", [*rows_of("pref", 1), *rows_of("sft", 1), *rows_of("sft", 2)])
    return folder


def learnt(run, method, iteration=1, *keys):
    return learn_run(str(run), method, iteration, run / "out", keys, None)


def test_kto_learns_from_a_run_that_has_pairs_alone(run):
    told = learnt(run, "kto", 1, "steps=1", "batch=8", "micro_batch=8")
    assert (told["good"], told["bad"], told["steps"]) == (8, 8, 1)
    assert (run / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "needed"),
    [("kto", "reward or pref"), ("dpo", "pref"), ("exo_rw", "rank"), ("reward", "pref or rank")],
)
def test_copies_alone_do_not_suffice_for_what_compares(run, method, needed):
    with pytest.raises(BadInput, match=f"iteration 2 has no {needed} rows of learner"):
        learnt(run, method, 2)


def test_a_weaker_model_in_a_folder_labels_a_run_s_pairs(run, base):
    keys = ("steps=1", "batch=8", "micro_batch=8", "lr=1e-6")
    with pytest.raises(BadInput, match=r"learn\.weak"):
        learnt(run, "weak_to_strong", 1, *keys)
    told = learnt(run, "weak_to_strong", 1, *keys, f"weak={BASE}")
    assert (told["rows"], told["steps"]) == (8, 1)


def test_what_is_listed_says_which_rows_suffice():
    listed = {one["name"]: one["rows"] for one in list_things("learners", None, None)}
    assert set(listed) == set(CONFIGS)
    assert (listed["kto"], listed["sft"], listed["rso"]) == ("reward or pref", "sft", "rank")


def test_progress_counts_the_steps_that_star_takes(run, monkeypatch):
    shown = []

    class Shown:
        def __enter__(self):
            return lambda what, iteration, done, total, facts: shown.append((done, total))

        def __exit__(self, *_):
            """Nothing to end."""

    monkeypatch.setattr(commands, "Display", Shown)
    told = learnt(run, "star", 2, "steps=2", "growth=1.5", "batch=4", "micro_batch=4")
    assert told["steps"] == 3
    assert shown == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("method", sorted(CONFIGS))
def test_every_method_needs_rows_that_it_takes(method):
    needed = CONFIGS[method].needs()
    assert needed and set(needed) <= set(CONFIGS[method].kinds)
    assert method in LEARNERS
