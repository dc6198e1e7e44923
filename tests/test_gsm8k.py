"""Real solutions of real problems: published accuracies come out exactly."""

import os
from pathlib import Path

import pytest

from superalign.agents import Agent, Sampling, recording
from superalign.scenarios.gsm8k import FILE, SOLVERS, Gsm8k, number
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import BadInput, Question

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="module")
def world():
    if not (DATA / "gsm8k" / FILE).is_file():
        pytest.skip(f"needs {FILE}; set $SUPERALIGN_DATA")
    return Gsm8k(DATA / "gsm8k")


@pytest.mark.parametrize(
    ("solver", "accuracy"), list(zip(SOLVERS, (0.2168, 0.3904, 0.3472, 0.5625), strict=True))
)
def test_the_four_solvers_are_as_good_as_published(solver, accuracy, world):
    right = [
        world.correct(Question(text=item["question"]), item[solver]["solution"])
        for item in world._items
    ]
    assert len(right) == 1319
    assert round(sum(right) / len(right), 4) == accuracy


def test_our_marks_are_those_that_came_with_the_data(world):
    for item in world._items:
        for solver in SOLVERS:
            right = world.correct(Question(text=item["question"]), item[solver]["solution"])
            assert right == item[solver]["is_correct"]


def test_the_recording_plays_each_problem_and_its_four_solutions(world):
    said = world.recordings()
    assert len(said) == 2 * 1319
    assert said["gsm8k/0", "attacker"] == (world._items[0]["question"],)
    assert said["gsm8k/7", "learner"] == tuple(world._items[7][s]["solution"] for s in SOLVERS)


async def test_an_episode_plays_the_recording(world, setting, play, make):
    agent = Agent(recording(world.recordings()), "solvers", Sampling())
    wanted = [
        make.plans(1, **task.model_dump())[0].model_copy(update={"index": i})
        for i, task in enumerate(world.tasks(5, 0))
    ]

    def oracle(request):
        fault = world.fault(request.view.question, request.view.ask.about[0].text)
        return f"Critique: {fault or 'ok'}"

    cast = {"attacker": agent, "learner": agent, "critic": oracle}
    ended = await play(setting(params={"revisions": 0}, world=world, **cast), wanted)
    assert {episode.status for episode in ended} == {"done"}
    marks = [[item[s]["is_correct"] for s in SOLVERS] for item in world._items[:5]]
    assert [list(episode.facts["correct"].values()) for episode in ended] == marks


def test_too_many_episodes_are_refused(world):
    with pytest.raises(BadInput, match="1319 recordings"):
        list(world.tasks(1320, 0))


def test_missing_data_is_named(folder, monkeypatch):
    monkeypatch.delenv("SUPERALIGN_DATA", raising=False)
    with pytest.raises(BadInput, match=r"\$SUPERALIGN_DATA/gsm8k: .* is not there"):
        Gsm8k()
    with pytest.raises(BadInput, match=r"gsm8k\.yaml:5:1: world: .*SUPERALIGN_DATA"):
        resolve(Loaded.read(ROOT / "scenarios" / "gsm8k.yaml"))


@pytest.mark.parametrize(
    ("solution", "result"),
    [
        ("x\nA: 18", "18"),
        ("A: 1\nA: 1,000 ", "1000"),
        ("no result", ""),
        ("A:\nA:", ""),
        ("A: $5", "$5"),
    ],
)
def test_the_result_follows_the_last_mark(solution, result):
    assert number(solution) == result
