"""The round loop on the shipped organism: small, but nothing in it is a stand-in."""

import asyncio
import json
from pathlib import Path

import pytest

from superalign.protocols.replay import replay
from superalign.scenarios.archive import Archive, spread
from superalign.scenarios.loop import Experiment
from superalign.scenarios.report import report_facts
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.scenarios.stored import stored_setting
from superalign.store import Store

MAIN = Path(__file__).parent.parent / "scenarios" / "arithmetic.yaml"
SMALL = ("episodes=24", "evaluate.heldout=60", "learn.steps=3", "learn.batch=8", "iterations=2")


def silent(*_: object) -> None:
    """No progress."""


def go(folder: Path, *overrides: str, progress=silent) -> Path:
    """Run the main scenario, made small, in a folder; what is there already is not done again."""
    resolved = resolve(Loaded.read(MAIN, (*SMALL, *overrides)))
    with Store.open(folder / "store.sqlite", write=True) as store:
        asyncio.run(Experiment("main", resolved, store, folder, progress).go())
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go(tmp_path_factory.mktemp("finished"))


def hashes(folder: Path) -> dict[str, str]:
    with Store.open(folder / "store.sqlite") as store:
        return {e.id: e.transcript_hash for e in store.episodes("main")}


def test_every_iteration_leaves_a_version_with_parent_and_rows(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        versions = store.versions("main")
        rows = store.rows("main")
    assert [(v.id, v.parent) for v in versions] == [
        ("tiny", None),
        ("learner-1", "tiny"),
        ("learner-2", "learner-1"),
    ]
    assert all((finished / v.path / "model.safetensors").is_file() for v in versions)
    assert {row.iteration for row in rows} == {1, 2}


def test_every_row_traces_to_stored_turns(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        said = {f"{e.ref}/{t.key}": t for e in store.episodes("main") for t in e.turns}
        rows = store.rows("main")
    assert rows
    for row in rows:
        replies = [said[ref].text for ref in row.turns if said[ref].kind == "answer"]
        assert set(row.replies) <= set(replies)


def test_no_oracle_label_trains_outside_a_control(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        assert {row.source for row in store.rows("main")} <= {"ai", "human"}
        assert sum(label.source == "human" for label in store.labels("main")) == 32


def test_the_learner_speaks_as_the_version_of_its_iteration(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        spoke = {(e.iteration, t.policy) for e in store.episodes("main") for t in e.by("learner")}
    assert spoke == {(1, "tiny"), (2, "learner-1")}


def test_replay_meets_the_record(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        setting = stored_setting(store, "main")
        episodes = list(store.episodes("main"))
        found = [asyncio.run(replay(setting, episode)) for episode in episodes]
    assert len(episodes) == 48
    assert found == [None] * 48


@pytest.mark.parametrize("concurrency", [1, 7])
def test_transcripts_do_not_depend_on_concurrency(
    finished: Path, tmp_path: Path, concurrency: int
) -> None:
    alone = go(tmp_path, "iterations=1", f"concurrency={concurrency}", "labels.human=null")
    with Store.open(finished / "store.sqlite") as store:
        first = {e.id: e.transcript_hash for e in store.episodes("main", iteration=1)}
    assert hashes(alone) == first


class Killed(Exception):
    """Stands for a SIGKILL at a chosen moment."""


@pytest.mark.parametrize(
    "moment",
    [("play", 1, 3), ("play", 1, 20), ("learn", 1, 2), ("evaluate", 1, 60), ("play", 2, 9)],
)
def test_a_killed_run_goes_on_and_ends_the_same(
    finished: Path, tmp_path: Path, moment: tuple[str, int, int]
) -> None:
    def kill(what: str, iteration: int, done: int, total: int, facts: dict) -> None:
        if (what, iteration, done) == moment:
            raise Killed

    with pytest.raises(Killed):
        go(tmp_path, progress=kill)
    assert hashes(go(tmp_path)) == hashes(finished)


def test_the_report_of_a_run_is_json_with_every_iteration(finished: Path) -> None:
    with Store.open(finished / "store.sqlite") as store:
        facts = json.loads(json.dumps(report_facts(store, "main"), allow_nan=False))
    assert [i["iteration"] for i in facts["iterations"]] == [0, 1, 2]
    assert all(0 <= i["heldout_accuracy"] <= 1 for i in facts["iterations"])


def test_the_archive_steers_to_where_the_learner_fails() -> None:
    archive = Archive(("easy", "hard"))
    archive.attacks.update(easy=20, hard=20)
    archive.hits.update(easy=1, hard=15)
    steered = archive.steer(100)
    assert len(steered) == 100
    assert steered.count("hard") > 90


def test_exploration_is_even() -> None:
    assert sorted(spread(("a", "b", "c"), 8)) == ["a", "a", "a", "b", "b", "b", "c", "c"]
