"""SIGKILL at 50 random moments, then on from the journal: the same words as without any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.store import Store
from superalign.store.verify import verify

pytestmark = pytest.mark.slow

KILLS, EPISODES, SEED = 50, 200, 1


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """The folder of the stores, and what happened."""
    folder = tmp_path_factory.mktemp("crash")
    words = [sys.executable, "-P", Path(__file__).with_name("crash.py"), folder]
    words += map(str, (EPISODES, KILLS, SEED))
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def hashes(path):
    with Store.open(path) as store:
        return [(e.id, e.status, e.transcript_hash) for e in store.episodes("run")]


def test_kills_change_no_transcript(crashed, capsys):
    folder, facts = crashed
    with capsys.disabled():
        print(f"\n{facts['kills']} kills, {facts['reused']} journalled turns reused,", end=" ")
        print(f"{facts['calls'] - facts['turns']} of {facts['turns']} calls made twice")
    assert facts["kills"] >= KILLS
    assert facts["reused"] > KILLS
    whole = hashes(folder / "whole.sqlite")
    assert {status for _, status, _ in whole} == {"done", "failed"}
    for killed in folder.glob("killed-*.sqlite"):
        assert hashes(killed) == whole


def test_a_kill_damages_nothing(crashed):
    folder, facts = crashed
    assert facts["damaged"] == 0
    for path in folder.glob("*.sqlite"):
        with Store.open(path) as store:
            assert verify(store)[1] == []


def test_no_call_is_made_twice_but_those_in_flight_and_not_yet_committed(crashed):
    """16 episodes in flight, four calls of each at once, and what comes in the 50 ms of a group."""
    _, facts = crashed
    assert facts["calls"] - facts["turns"] <= facts["kills"] * (16 * 4 + 128)
