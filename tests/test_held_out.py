"""Held-out questions of a run: some calls fail, and are asked again."""

import json
from pathlib import Path

import pytest

from superalign.store import Store

PLAYERS = """
import os
from superalign.scenarios.arithmetic import Arithmetic

WORLD, MOST = Arithmetic(), [0, 0]


async def learner(request):
    import asyncio
    MOST[0] += 1
    MOST[1] = max(MOST)
    with open("most", "w") as file:
        file.write(str(MOST[1]))
    await asyncio.sleep(0)
    MOST[0] -= 1
    with open("asked", "a") as file:
        file.write(request.view.question.text + chr(10))
    if not request.episode and len(request.view.question.text) % 2 and os.path.exists("down"):
        raise ConnectionError("nobody is there")
    return WORLD.solution(request.view.question)


def critic(request):
    return "ok"
"""
SCENARIO = """
name: tested
world: {kind: arithmetic}
models:
  learns: {engine: scripted, function: "./players.py:learner"}
  other: {engine: scripted, function: "./players.py:critic"}
protocol: {name: vote, samples: 1}
cast:
  learner: {model: learns}
episodes: 4
evaluate: {heldout: 40}
"""


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("players.py").write_text(PLAYERS)
    Path("tested.yaml").write_text(SCENARIO)
    return "tested.yaml"


def answered() -> dict[str, bool]:
    with Store.open("runs/tested-1/store.sqlite") as store:
        return {e.item: e.correct for e in store.evaluations("tested-1", 0)}


def test_what_fails_is_reported_and_asked_again(superalign, scenario):
    Path("down").touch()
    code, out, err = superalign("run", scenario, "--json")
    first, facts = answered(), json.loads(out)
    assert 0 < len(first) < 40
    assert code == 1  # more than a twentieth
    (said,) = facts["unanswered"]
    missing = 40 - len(first)
    assert said.startswith(f"{missing} of 40 held-out questions after 0 updates: ")
    assert "nobody is there" in said
    assert "--resume asks them again" in err
    report = json.loads(Path("runs/tested-1/report.json").read_text())
    (line, _) = report["iterations"]
    assert (line["heldout_n"], line["heldout_unanswered"]) == (len(first), missing)
    assert line["heldout_accuracy"] == 1.0  # what failed is not wrong

    Path("down").unlink()
    before = Path("asked").read_text().count("\n")
    code, out, _ = superalign("run", scenario, "--resume", "--json")
    assert (code, json.loads(out)["unanswered"]) == (0, [])
    assert Path("asked").read_text().count("\n") - before == missing  # and nothing else is
    assert answered().keys() > first.keys()
    assert len(answered()) == 40
    report = json.loads(Path("runs/tested-1/report.json").read_text())
    assert report["iterations"][0]["heldout_unanswered"] == 0


def test_a_few_that_fail_are_told_and_no_failure(superalign, scenario):
    Path("down").touch()
    code, _, err = superalign("run", scenario, "--set", "limits.failed_share=1.0")
    assert code == 0
    assert "unanswered: " in err


def test_no_more_are_asked_at_once_than_the_scenario_says(superalign, scenario):
    code, _, err = superalign("run", scenario, "--set", "concurrency=3")
    assert code == 0, err
    assert 1 <= int(Path("most").read_text()) <= 3
