"""SIGKILL at random moments, then on from the journal: the same words as without any.

50 kills of a run of 200 episodes on SQLite, 20 of one of 100 on PostgreSQL.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.store import Store
from superalign.store.verify import verify

SEED = 1
BOTH = [
    pytest.param(("sqlite", 50, 200), marks=pytest.mark.slow, id="sqlite"),
    pytest.param(("postgresql", 20, 100), marks=pytest.mark.postgres, id="postgresql"),
]


@pytest.fixture(scope="module", params=BOTH)
def crashed(request, tmp_path_factory):
    """How many kills were wanted, and what happened."""
    kind, kills, episodes = request.param
    places = str(tmp_path_factory.mktemp("crash") / "{}.sqlite")
    if kind == "postgresql":
        places = re.sub("store[0-9]+", "{}", request.getfixturevalue("postgres")())
    words = [sys.executable, "-P", Path(__file__).with_name("crash.py"), places]
    done = subprocess.run(
        [*words, *map(str, (episodes, kills, SEED))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return kills, json.loads(done.stdout)


def hashes(place):
    with Store.open(place) as store:
        return [(e.id, e.status, e.transcript_hash) for e in store.episodes("run")]


def test_kills_change_no_transcript(crashed, capsys):
    wanted, facts = crashed
    with capsys.disabled():
        print(f"\n{facts['kills']} kills, {facts['reused']} journalled turns reused,", end=" ")
        print(f"{facts['calls'] - facts['turns']} of {facts['turns']} calls made twice")
    assert facts["kills"] >= wanted
    assert facts["reused"] > wanted
    whole, *others = map(hashes, facts["stores"])
    assert {status for _, status, _ in whole} == {"done", "failed"}
    assert others == [whole] * facts["runs"]


def test_a_kill_damages_nothing(crashed):
    _, facts = crashed
    assert facts["damaged"] == 0
    for place in facts["stores"]:
        with Store.open(place) as store:
            assert verify(store)[1] == []


def test_no_call_is_made_twice_but_those_in_flight_and_not_yet_committed(crashed):
    """16 episodes in flight, four calls of each at once, and what comes in the 50 ms of a group."""
    _, facts = crashed
    assert facts["calls"] - facts["turns"] <= facts["kills"] * (16 * 4 + 128)
