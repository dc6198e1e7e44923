"""What is compared, played for real: both orders of every task, shipped protocols, the docs."""

import asyncio
import dataclasses
import json
import math
import os
import re
import shlex
from pathlib import Path

import pytest

from superalign.scenarios import cli
from superalign.scenarios.loop import Experiment
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import Question, Store, Task

CHOICES = ("yes", "no")
SHARED = Path(__file__).parents[2] / "shared" / "data"
NYU = Path(os.environ.get("SUPERALIGN_DATA") or SHARED) / "nyu_debate"
DOCS = Path(__file__).parent.parent / "docs" / "compare.md"


@pytest.fixture
def compared(superalign):
    """`compared(*names)` -> what `superalign compare` tells: arms by name, and pairs."""

    def run(*names):
        code, out, err = superalign("compare", "--json", *names)
        assert code == 0, err
        facts = json.loads(out)
        return {arm["name"]: arm for arm in facts["arms"]}, facts["pairs"]

    return run


class YesOrNo:
    """Two-choice questions of which `yes` is always right, whatever order it stands in."""

    name, cells = "yes-or-no", ()

    def tasks(self, n, seed):
        questions = (Question(topic="t", text=f"question {i}", choices=CHOICES) for i in range(n))
        return [Task(question=question, target="yes") for question in questions]

    def cell(self, question):
        return "t"

    def truth(self, question):
        return "yes"

    def correct(self, question, answer):
        return answer == "yes"

    def fault(self, question, answer):
        return None


def play_scenario(name, protocol, cast, judge="0", **more):
    """Run a scripted scenario on YesOrNo into runs/NAME."""
    models = {
        "judge": {"engine": "scripted", "replies": [judge]},
        "talks": {"engine": "scripted", "replies": ["It is so."]},
    }
    used = {seat: {"model": model} for seat, model in cast.items()}
    models = {model: models[model] for model in set(cast.values())}
    scenario = {"name": name, "world": {"kind": "arithmetic"}, "models": models, "cast": used}
    scenario |= {"protocol": protocol, "episodes": 8, "concurrency": 4, **more}
    resolved = resolve(Loaded.stored(Path("s.yaml"), scenario))
    resolved = dataclasses.replace(resolved, world=YesOrNo())
    return play_out(name, resolved)


def play_out(name, resolved):
    """Run a scenario into runs/NAME."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    with Store.open(folder / "store.sqlite", write=True) as store:
        asyncio.run(Experiment(name, resolved, store, folder, lambda *_: None).go())
        return list(store.episodes(name))


def test_swap_plays_every_task_in_both_orders(compared, tmp_path, monkeypatch):
    """A judge that always takes the first choice is right half of the time, and never agrees."""
    monkeypatch.chdir(tmp_path)
    episodes = play_scenario("swapped", {"name": "blind"}, {"judge": "judge"}, swap=True)
    assert [e.tags for e in episodes] == [(), ("swapped",)] * 4
    assert [e.question.choices for e in episodes] == [CHOICES, CHOICES[::-1]] * 4
    assert len({e.id for e in episodes}) == 8 and {e.status for e in episodes} == {"done"}
    play_scenario("plain", {"name": "blind"}, {"judge": "judge"}, swap=False)
    arms, pairs = compared("swapped", "plain")
    arm = arms["swapped"]
    assert (arm["n"], arm["accuracy"], arm["swap_consistency"], arm["mcc"]) == (4, 0.5, 0.0, 0.0)
    assert arms["plain"]["accuracy"] == 1.0, "of its eight items all are right"
    pair = next(p for p in pairs if p["metric"] == "accuracy")
    assert (pair["n"], pair["left_out"], pair["diff"]) == (4, 4, 0.5)


def test_shipped_protocols_are_compared(compared, tmp_path, monkeypatch):
    """Debate, consultancy and votes on the same items; the first choice always wins."""
    monkeypatch.chdir(tmp_path)
    sides = {"debater_a": "talks", "debater_b": "talks", "judge": "judge"}
    play_scenario("debates", {"name": "debate", "rounds": 2}, sides, swap=True)
    advice = {"consultant": "talks", "judge": "judge"}
    play_scenario("advice", {"name": "consultancy", "side": 0}, advice, swap=True)
    play_scenario("votes", {"name": "vote", "samples": 9}, {"learner": "judge"}, swap=True)
    arms, pairs = compared("debates", "advice", "votes")
    names = list(arms)
    assert names[:3] == ["advice", "debates", "votes"]
    assert names[3:] == ["votes at the calls of advice", "votes at the calls of debates"]
    assert arms["debates"]["calls"] == 5
    assert {arm["accuracy"] for arm in arms.values()} == {0.5}
    # the consultant always wins: truth earns it nothing
    assert arms["advice"]["asd"] == pytest.approx(0)
    assert {pair["p"] for pair in pairs} == {1.0}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("episodes=3",), "make it even"),
        (("models.answers={engine: scripted, play: recording}",), "leave swap out"),
        ((), "the attacker writes the questions"),
    ],
)
def test_what_cannot_be_swapped_is_refused(folder, superalign, words, what):
    sets = [part for word in ("swap=true", *words) for part in ("--set", word)]
    code, _, err = superalign("run", "players.yaml", *sets)
    assert code == 2 and "swap" in err and what in err, err


def test_the_first_comparison_of_the_docs(compared, superalign, tmp_path, monkeypatch):
    """Every block of it, in order in an empty folder, with fewer episodes."""
    monkeypatch.chdir(tmp_path)
    text = DOCS.read_text()
    for title, block in re.findall(r"```\w+ title=(\S+)\n(.*?)```", text, re.DOTALL):
        Path(title).write_text(block)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in commands.splitlines():
        name, *words = shlex.split(line)
        fewer = ["--set", "episodes=60"] if words[0] == "run" else []
        code, _, err = superalign(*words, *fewer)
        assert (name, code) == ("superalign", 0), err
    assert Path("compare.html").read_text().startswith("<!doctype html>")
    arms, _ = compared("debate-1", "consultancy-1", "vote-1")
    assert {arm["n"] for arm in arms.values()} == {30}
    assert {arm["failed"] for arm in arms.values()} == {0}
    assert {name: arms[name]["calls"] for name in ("consultancy-1", "debate-1")} == {
        "consultancy-1": 2,
        "debate-1": 3,
    }
    assert min(arms["debate-1"]["accuracy"], arms["consultancy-1"]["accuracy"]) > 0.5


@pytest.mark.skipif(
    not (NYU / "debates.jsonl.gz").is_file(),
    reason="needs nyu_debate/debates.jsonl.gz; set $SUPERALIGN_DATA",
)
def test_the_figures_of_human_debates(compared, tmp_path, monkeypatch):
    """What SOURCE.md says of the rooms in the paper: right answers, mean probability, log2 score.

    Judges who ended at 0.5 settled on nothing: they are counted apart, and come back in here.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUPERALIGN_DATA", str(NYU.parent))
    play_out("nyu", resolve(Loaded.read(Path(cli.__file__).parent / "nyu-debate.yaml")))
    oracle = {
        "human debate": (154, 130, 0.7941, -0.7533),
        "human consultancy": (96, 71, 0.6973, -1.0343),
        "GPT-4 debate": (87, 68, 0.7539, -1.0062),
        "GPT-4 consultancy": (76, 61, 0.7650, -0.9529),
    }
    arms, _ = compared(*(f"nyu:{cell}" for cell in oracle))
    for cell, (rooms, right, p_true, log2) in oracle.items():
        arm = arms[f"nyu:{cell}"]
        decided, ties = arm["n"], rooms - arm["n"]
        assert round(arm["accuracy"] * decided) == right
        assert (arm["p_true"] * decided + 0.5 * ties) / rooms == pytest.approx(p_true, abs=5e-5)
        told = arm["log_score"] / math.log(2) * decided - ties
        assert told / rooms == pytest.approx(log2, abs=5e-5)
        assert arm["p_true_from"] == {"stated": decided}
        assert (arm["asd"] is None) is ("consultancy" in cell), "one room argues one side"
