"""People at the command line: cases wait, are answered at the terminal, and come back as rows."""

import asyncio
import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.scenarios.labelling import answer, queue
from superalign.scenarios.loop import Experiment
from superalign.scenarios.report import report_facts, write_report
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import Store
from superalign.store.labels import LabelBook

SCENARIOS = Path(__file__).parent.parent / "scenarios"
PERSON = """
models:
  asks: {engine: scripted, function: "./players.py:attack"}
  answers: {engine: scripted, function: "./players.py:answer"}
  critic: {engine: scripted, replies: [ok, "1", ok]}
  me: {engine: human}
world: {kind: arithmetic}
protocol: {name: critique, samples: 2}
cast: {attacker: {model: asks}, learner: {model: answers}, critic: {model: critic}}
name: people
episodes: 8
"""
LABELS = ("--set", "labels={human: {source: person, budget: 8, policy: random, double: 0.5}}")
SEAT = ("--set", "cast.critic.model=me")


@pytest.fixture
def people(folder, superalign, monkeypatch):
    """`people(words…, keys="yn")` -> facts; stdin holds a line for every key."""
    (folder / "people.yaml").write_text(PERSON)

    def run(*words, keys="", code=0):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        found, out, err = superalign(*words, "--json")
        assert found == code, err
        return json.loads(out)

    return run


def opened():
    return Store.open("runs/people-1/store.sqlite")


def book():
    return LabelBook.beside("runs/people-1/store.sqlite")


def test_a_run_waits_for_labels_and_goes_on(people, superalign):
    code, _, err = superalign("run", "people.yaml", *LABELS)
    assert code == 0
    assert "waiting for people: 8; `superalign label people-1`, then" in err
    assert people("label", "people-1", "--author", "anna", keys="y" * 20)["waiting"] == 2
    again = people("run", "people.yaml", *LABELS, "--resume")
    assert (again["waiting"], again["episodes"]) == (2, 8)
    with opened() as store:
        assert store.labels("people-1") == store.rows("people-1") == []
    done = people("label", "people-1", "--author", "ben", keys="yn")
    assert (done["waiting"], done["cases"], done["label_agreement"]["n"]) == (0, 8, 2)
    assert people("run", "people.yaml", *LABELS, "--resume")["waiting"] == 0
    with opened() as store:
        labels, rows = store.labels("people-1"), store.rows("people-1")
        assert len(labels) == 8 + 2
        assert {x.source for x in labels} == {"human"}
        assert {x.author for x in labels} == {"anna", "ben"}
        assert {x.why for x in labels} == {"audit", "random"}
        assert all(x.seconds is not None and x.seconds >= 0 and x.at for x in labels)
        assert "human" in {row.source for row in rows}
        assert any(row.source == "human" and row.judge == "anna" for row in rows)
        assert report_facts(store, "people-1")["label_agreement"] == done["label_agreement"]
    assert people("verify", "runs/people-1/store.sqlite")["ok"]
    assert people("replay", "people-1")["divergences"] == []


def test_no_update_before_its_people_have_labelled(tmp_path):
    """The shipped organism learns in two iterations; each waits for its share of the budget."""
    small = ("episodes=12", "iterations=2", "learn.steps=2", "learn.batch=8", "evaluate=null")
    person = "labels.human={source: person, budget: 6, policy: expected_gain, double: 0}"
    loaded = Loaded.read(SCENARIOS / "arithmetic.yaml", (*small, person))
    versions, parked = [], []
    for _ in range(3):
        with Store.open(tmp_path / "store.sqlite", write=True) as store:
            experiment = Experiment("run", resolve(loaded), store, tmp_path, lambda *_: None)
            asyncio.run(experiment.go())
            versions.append([version.id for version in store.versions("run")])
            parked.append(experiment.parked)
            marks = LabelBook.beside(store.url)
            for sheet in queue(store, marks, "run", "anna"):
                answer(store, marks, "run", "anna", sheet.place, "wrong")
    assert parked == [True, True, False]
    assert versions == [["tiny"], ["tiny", "learner-1"], ["tiny", "learner-1", "learner-2"]]
    with Store.open(tmp_path / "store.sqlite") as store:
        labels = store.labels("run")
    assert sorted(x.why for x in labels) == ["audit"] * 4 + ["expected_gain"] * 2
    assert {(x.author, x.correct) for x in labels} == {("anna", False)}


def test_the_cases_are_chosen_once(people):
    people("run", "people.yaml", *LABELS)
    with opened() as store:
        before = store.cases("people-1")
    people("run", "people.yaml", *LABELS, "--resume")
    with opened() as store:
        assert store.cases("people-1") == before


def test_no_budget_asks_nobody(people):
    assert people("run", "people.yaml", *LABELS, "--set", "labels.human.budget=0")["waiting"] == 0


def test_a_person_sits_in_the_critic_s_seat(people):
    found = people("run", "people.yaml", *SEAT)
    rounds = 0
    while found["waiting"]:
        assert people("label", "people-1", "--author", "anna", keys="o1" * 40)["waiting"] == 0
        found = people("run", "people.yaml", *SEAT, "--resume")
        rounds += 1
    assert (found["episodes"], found["failed"]) == (8, 0)
    assert rounds >= 2  # explored first, and revisions are criticised, too
    with opened() as store:
        critics = [t for e in store.episodes("people-1") for t in e.by("critic")]
        rows = store.rows("people-1")
    assert {t.text for t in critics} == {"ok", "1"}
    assert {(t.policy, t.source) for t in critics} == {("anna", "human")}
    assert {(row.source, row.judge) for row in rows} == {("human", "anna")}
    assert people("replay", "people-1")["divergences"] == []
    assert people("verify", "runs/people-1/store.sqlite")["ok"]


def test_a_line_of_text_where_no_keystroke_suffices(people):
    asks = ("--set", "cast.attacker.model=me", "--set", "episodes=2", "--set", "attack.explore=1.0")
    people("run", "people.yaml", *asks)
    keys = ["", ":c", "a note", ":x", ":s", "12+34", ":u", "1+1", "u"]
    facts = people("label", "people-1", "--author", "anna", keys=keys)
    said = [mark.value for at in book().answers("people-1").values() for mark in at]
    assert (facts["waiting"], sorted(said)) == (0, ["1+1", "u"])


def test_keys_of_a_sitting(people):
    people("run", "people.yaml", *LABELS)
    keys = ["u", "x", "c", "not so sure", "n", "y", "u", "s", "q", "y"]
    (anna,) = people("label", "people-1", "--author", "anna", keys=keys)["people"]
    assert (anna["answers"], anna["skipped"]) == (1, 1)
    first, *others = book().marks("people-1")
    assert (first.value, first.note) == ("wrong", "not so sure")
    assert [(m.what, m.value) for m in others] == [("answer", "right"), ("undo", ""), ("skip", "")]


def test_the_last_answer_can_be_taken_back(people):
    people("run", "people.yaml", *LABELS)
    people("label", "people-1", "--author", "anna", keys="y" * 8 + "un")
    what = [(mark.what, mark.value) for mark in book().marks("people-1")]
    assert what == [*[("answer", "right")] * 8, ("undo", ""), ("answer", "wrong")]


def test_one_keystroke_without_enter_on_a_terminal(people):
    people("run", "people.yaml", *LABELS)
    words = [sys.executable, "-P", "-m", "superalign.scenarios.cli", "label", "people-1"]
    keyboard, terminal = pty.openpty()
    sitting = subprocess.Popen([*words, "--author", "anna"], stdin=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    try:
        for _ in range(600):  # what is typed before it is asked for is dropped
            os.write(keyboard, b"y")
            with contextlib.suppress(subprocess.TimeoutExpired):
                sitting.communicate(timeout=0.1)
                break
    finally:
        sitting.kill()
        os.close(keyboard)
    assert sitting.returncode == 0
    assert [mark.value for mark in book().marks("people-1")] == ["right"] * 8


def test_nothing_of_what_is_shown_tells_who_or_why(people, superalign, monkeypatch):
    people("run", "people.yaml", *LABELS)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\nq\n"))
    _, _, shown = superalign("label", "people-1", "--author", "anna")
    assert "Is this answer right?" in shown
    for word in ("critic", "answers", "learner", "audit", "random", "ok", "ben"):
        assert word not in shown


def test_status_changes_nothing(people, superalign):
    people("run", "people.yaml", *LABELS)
    assert people("label", "people-1", "--status")["waiting"] == 8
    assert not book().path.exists()
    _, out, _ = superalign("label", "people-1", "--status")
    assert out == "waiting: 8 of 8 cases (8 label)\n"


def test_hostile_text_is_made_printable(people, folder, superalign, monkeypatch):
    (folder / "evil.py").write_text(
        "def say(request):\n    return '\\x1b[2J[bold]x[/bold]\\x07\\u202e<b>'\n"
    )
    evil = ("--set", "models.answers.function=./evil.py:say")
    people("run", "people.yaml", *LABELS, *evil)
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    _, _, shown = superalign("label", "people-1", "--author", "anna")
    assert "\ufffd[2J[bold]x[/bold]\ufffd\ufffd<b>" in shown
    assert not set("\x1b\x07\u202e") & set(shown)


def test_a_name_that_is_none(people, superalign, monkeypatch):
    people("run", "people.yaml", *LABELS)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = superalign("label", "people-1", "--author", "a\x1bb")
    assert (code, "--author" in err) == (0, True)
    assert book().marks("people-1") == []


def test_a_fork_waits_for_its_people_too(people):
    found = people("run", "people.yaml", *SEAT)
    while found["waiting"]:
        people("label", "people-1", "--author", "anna", keys="o" * 40)
        found = people("run", "people.yaml", *SEAT, "--resume")
    with opened() as store:
        episode = next(e for e in store.episodes("people-1") if e.critiques)
    fork = ("fork", episode.id, "--at", episode.by("critic")[0].key)
    assert people(*fork)["status"] == "waiting"
    while people(*fork, "--resume")["status"] == "waiting":
        people("label", "people-1-fork-1", "--author", "ben", keys="1" * 40)
    with opened() as store:
        (forked,) = store.episodes("people-1-fork-1")
    assert {t.policy for t in forked.by("critic")} == {"ben"}
    assert people("replay", "people-1-fork-1")["divergences"] == []


def test_the_report_shows_agreement(people):
    people("run", "people.yaml", *LABELS)
    people("label", "people-1", "--author", "anna", keys="y" * 8)
    people("label", "people-1", "--author", "ben", keys="yn")
    people("run", "people.yaml", *LABELS, "--resume")
    with opened() as store:
        _, page = write_report(store, "people-1", store_folder())
    assert "Answers labelled by two or more people: 2." in page.read_text()


def store_folder():
    return book().path.parent
