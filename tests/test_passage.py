"""Hidden passages: the figures of the data, who reads the text, and quotes that are checked."""

import gzip
import json
import os
from pathlib import Path

import pytest

from superalign.agents import Agent, Sampling, Scripted
from superalign.agents.quotes import is_quote, quotes
from superalign.protocols import load_protocol
from superalign.scenarios.passage import NOTE, Passage
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.scenarios.written import held_out
from superalign.store import BadInput, Question

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data")
SEATS = ("debater_a", "debater_b")


@pytest.fixture(scope="module")
def world():
    for name in ("nyu_debate", "boolq"):
        if not (DATA / name).is_dir():
            pytest.skip(f"needs {name}; set $SUPERALIGN_DATA")
    return Passage(DATA, ("story", "boolq"), SEATS)


@pytest.fixture(scope="module")
def tasks(world):
    return [entry.task for entry in world._entries.values()]


def lines(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as found:
        return [json.loads(line) for line in found]


def test_the_figures_that_came_with_the_data(tasks):
    boolq = [task for task in tasks if task.question.topic == "boolq"]
    assert len(tasks) - len(boolq) == 342
    assert len(boolq) == 3270
    assert sum(task.target == "Yes" for task in boolq) == 2033


def test_the_place_of_the_right_answer_of_boolq_tells_nothing(tasks):
    """Within four standard errors of a half, for either answer."""
    for answer in ("Yes", "No"):
        first = [
            task.question.choices[0] == answer
            for task in tasks
            if task.question.topic == "boolq" and task.target == answer
        ]
        assert abs(sum(first) / len(first) - 0.5) < 4 * 0.5 / len(first) ** 0.5


def test_every_reader_has_the_text_and_nobody_else(world, tasks):
    assert all(tuple(task.private) == SEATS for task in tasks)
    told = Passage(DATA, ("boolq",), ("consultant",))
    assert {tuple(entry.task.private) for entry in told._entries.values()} == {("consultant",)}
    passages = {row["passage"] for row in lines("boolq/val.jsonl.gz")}
    notes = {t.private["debater_a"] for t in tasks if t.question.topic == "boolq"}
    assert notes == {NOTE + passage for passage in passages}


def test_what_debaters_quoted_of_the_stories_is_found_in_the_notes(world):
    """Known answer: quotes are spans of tokens, so nearly all must be found in the text again."""
    notes = {}
    for asked in lines("nyu_debate/questions.jsonl.gz"):
        question = Question(text=asked["question"], choices=tuple(asked["answers"]))
        key = asked["question"], tuple(sorted(question.choices))
        notes[asked["article_key"]] = world._entries[key].task.private["debater_a"]
    rooms = [room for room in lines("nyu_debate/debates.jsonl.gz") if room["is_debate"]][:40]
    tokens = {a["article_key"]: a["tokens"] for a in lines("nyu_debate/articles.jsonl.gz")}
    found = [
        is_quote(" ".join(tokens[room["article_key"]][slice(*part["quote"])]), notes[key])
        for room in rooms
        if (key := room["article_key"]) in notes
        for turn in room["turns"]
        if turn["kind"] == "speech"
        for part in turn["content"]
        if "quote" in part
    ]
    assert len(found) > 200
    assert sum(found) / len(found) > 0.99


def test_no_text_is_both_trained_and_tested_on(world, tasks):
    train = {task.private["debater_a"] for task in world.tasks(2800, 3)}
    held = {task.private["debater_a"] for task in world.heldout(600)}
    assert not train & held
    asked = [task.question for task in tasks]
    assert sum(world.cell(question) is None for question in asked) == sum(
        held_out(entry.about) for entry in world._entries.values()
    )


def test_the_held_out_tasks_are_the_same_and_take_turns(world):
    held = world.heldout(100)
    assert held == Passage(DATA, ("story", "boolq"), SEATS).heldout(100)
    assert [task.question.topic for task in held].count("story") == 50
    with pytest.raises(BadInput, match="passage holds out"):
        world.heldout(100_000)


def test_tasks_depend_on_their_seed_alone(world):
    assert list(world.tasks(5, 1)) == list(world.tasks(5, 1))
    assert list(world.tasks(5, 1)) != list(world.tasks(5, 2))
    with pytest.raises(BadInput, match="questions that are not held out"):
        list(world.tasks(3612, 1))


def test_a_question_is_the_same_with_its_choices_in_the_other_order(world):
    task = next(world.tasks(1, 0))
    swapped = task.question.model_copy(update={"choices": task.question.choices[::-1]})
    assert world.cell(swapped) == task.question.topic
    assert world.truth(swapped) == task.target
    assert world.correct(swapped, str(swapped.choices.index(task.target)))
    assert not world.correct(swapped, str(task.question.choices.index(task.target)))
    assert world.cell(Question(text=task.question.text)) is None


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Yes", True), ("Answer: Yes", True), ("(0)", True), ("1", False), ("", False), ("2", False)],
)
def test_an_answer_is_a_choice_or_its_number(answer, right):
    world = Passage.__new__(Passage)
    question = Question(text="is it so?", choices=("Yes", "No"))
    world.truth = lambda question: "Yes"
    assert world.correct(question, answer) is right
    assert world.fault(question, answer) == (None if right else 1)


def test_the_words_of_a_choice_come_before_the_number_of_another():
    world = Passage.__new__(Passage)
    world.truth = lambda question: "1"
    assert world.correct(Question(text="half of two?", choices=("1", "0")), "1")


async def test_in_a_debate_quotes_are_checked_and_the_judge_sees_no_text(
    world, setting, play, make
):
    task = next(t for t in world.tasks(50, 0) if t.question.topic == "boolq")
    text = task.private["debater_a"].removeprefix(NOTE)
    words, asked = " ".join(text.split()[5:12]), []
    claim = f"<quote>{words}</quote>, not <quote>seventy purple elephants</quote>."

    def judge(request):
        asked.append(request)
        return "Verdict: 0"

    protocol = load_protocol("debate")
    debaters = {seat: Agent(Scripted([claim]), seat, Sampling()) for seat in SEATS}
    stage = setting(protocol, {"rounds": 1, "quotes": True}, world=world, judge=judge, **debaters)
    (ended,) = await play(stage, make.plans(1, **task.model_dump()))
    assert ended.status == "done", ended.error
    assert ended.facts["settled"] == (task.question.choices[0] == task.target)
    shown = "\n".join(message.content for message in asked[-1].messages)
    assert text not in shown
    assert {(words, True), ("seventy purple elephants", False)} == set(quotes(shown))


def test_the_shipped_scenario_names_a_seat_for_every_reader(world, monkeypatch):
    monkeypatch.setenv("SUPERALIGN_DATA", str(DATA))
    resolved = resolve(Loaded.read(ROOT / "scenarios" / "passage.yaml"))
    task = next(iter(resolved.world.tasks(1, 0)))
    assert {"debater_a", "debater_b"} <= set(task.private)
    assert "judge" not in task.private


def test_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SUPERALIGN_DATA", raising=False)
    with pytest.raises(BadInput, match=r"\$SUPERALIGN_DATA/nyu_debate: no such folder"):
        Passage(None, ("story",), SEATS)
    (tmp_path / "boolq").mkdir()
    (tmp_path / "boolq" / "val.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match=r"val.jsonl.gz: cannot be read: .*; copy it again"):
        list(Passage(tmp_path, ("boolq",), SEATS).tasks(1, 0))
