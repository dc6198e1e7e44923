"""ARC, BBH and TruthfulQA as two choices: what comes from where, and that nothing gives it away."""

import csv
import gzip
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from superalign.scenarios.choice import FOLDERS, Choice
from superalign.scenarios.written import held_out
from superalign.store import BadInput

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data")
SOURCES = tuple(FOLDERS)


@pytest.fixture(scope="module")
def world():
    for folder in FOLDERS.values():
        if not (DATA / folder).is_dir():
            pytest.skip(f"needs {folder}; set $SUPERALIGN_DATA")
    return Choice(DATA, SOURCES)


@pytest.fixture(scope="module")
def tasks(world):
    return [entry.task for entry in world._entries.values()]


def lines(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as found:
        return [json.loads(line) for line in found]


def of(tasks, source):
    return [task for task in tasks if task.question.topic.split()[0] == source]


@pytest.mark.parametrize(
    ("source", "rows"), [("arc-easy", 570 + 2376), ("arc-challenge", 299 + 1172)]
)
def test_arc_is_all_there_with_its_right_answers(source, rows, tasks):
    """The rows that SOURCE.md counts, but for those that ask the same twice."""
    right, wrong, asked = {}, {}, 0
    for part in ("dev", "test"):
        for item in lines(f"arc/{source.replace('-', '_')}_{part}.jsonl.gz"):
            asked += 1
            stem = item["question"]["stem"].strip()
            for choice in item["question"]["choices"]:
                which = right if choice["label"] == item["answerKey"] else wrong
                which.setdefault(stem, set()).add(choice["text"].strip())
    assert asked == rows
    found = of(tasks, source)
    assert rows - 2 <= len(found) <= rows
    for task in found:
        other = next(c for c in task.question.choices if c != task.target)
        assert task.target in right[task.question.text]
        assert other in wrong[task.question.text]


def test_truthfulqa_has_its_best_answers_and_categories(tasks):
    with gzip.open(DATA / "truthfulqa/TruthfulQA.csv.gz", "rt", encoding="utf-8") as found:
        rows = list(csv.DictReader(found))
    wanted = {
        (
            f"truthfulqa {row['Category']}",
            row["Question"].strip(),
            row["Best Answer"].strip(),
            frozenset((row["Best Answer"].strip(), row["Best Incorrect Answer"].strip())),
        )
        for row in rows
    }
    assert len(wanted) == 790
    told = {
        (t.question.topic, t.question.text, t.target, frozenset(t.question.choices))
        for t in of(tasks, "truthfulqa")
    }
    assert told == wanted


def test_bbh_is_there_where_it_has_choices(tasks):
    """All of each task, but for items that ask the same twice, in either order of the choices, or
    are answered in two ways, or whose target is no option."""
    counts = Counter(t.question.topic.removeprefix("bbh ") for t in of(tasks, "bbh"))
    items = lines("bbh/items.jsonl.gz")
    rows, whole = Counter(i["task"] for i in items), {}
    for item in items:
        key = item["input"], item["target"]
        whole.setdefault(item["task"], set()).add(key)
    open_ended = {"dyck_languages", "multistep_arithmetic_two", "object_counting", "word_sorting"}
    assert set(rows) - set(counts) == open_ended
    short = {name: len(whole[name]) - n for name, n in counts.items() if len(whole[name]) > n}
    odd = {"movie_recommendation": 1, "ruin_names": 2}
    assert short == {**odd, "causal_judgement": 4, "snarks": 3}


def test_the_right_choice_of_bbh_is_what_its_letter_stands_for(tasks):
    """Read once more in another way: the line that begins with the target."""
    right = {}
    for item in lines("bbh/items.jsonl.gz"):
        text, _, options = item["input"].partition("\nOptions:\n")
        target = item["target"].strip()
        if re.fullmatch(r"\([A-Z]\)", target):
            named = [o[4:].strip() for o in options.split("\n") if o.startswith(f"{target} ")]
            right.setdefault(text, set()).update(named)
        else:
            right.setdefault(text, set()).add(target)
    assert all(task.target in right[task.question.text] for task in of(tasks, "bbh"))


def test_every_task_has_two_different_choices_and_one_is_right(tasks):
    for task in tasks:
        assert len(set(task.question.choices)) == 2
        assert task.target in task.question.choices
        assert all(choice.strip() for choice in (*task.question.choices, task.question.text))


@pytest.mark.parametrize("source", SOURCES)
def test_the_place_of_the_right_choice_tells_nothing(source, tasks):
    """Within four standard errors of a half."""
    first = [task.question.choices[0] == task.target for task in of(tasks, source)]
    assert abs(sum(first) / len(first) - 0.5) < 4 * 0.5 / len(first) ** 0.5


def test_a_fifth_of_each_source_is_held_out(world):
    for source in SOURCES:
        out = [
            held_out(entry.about)
            for entry in world._entries.values()
            if entry.task.question.topic.split()[0] == source
        ]
        assert abs(sum(out) / len(out) - 0.2) < 4 * (0.16 / len(out)) ** 0.5


def test_held_out_tasks_come_from_every_cell_in_turn(world, tasks):
    held = world.heldout(300)
    assert set(world.cells) == {task.question.topic for task in tasks}
    counts = Counter(task.question.topic for task in held)
    assert max(counts.values()) - min(counts.values()) <= max(counts.values()) - 1
    assert counts["arc-easy"] == counts["bbh snarks"] == max(counts.values())
    assert len(counts) >= len(world.cells) - 3  # a category of three questions may hold out none
    assert not {task.question for task in held} & {task.question for task in world.tasks(8000, 0)}
    assert world.heldout(300) == Choice(DATA, SOURCES).heldout(300)


def test_an_attacker_is_refused_by_name(world):
    with pytest.raises(BadInput, match="choice: its questions are written down"):
        world.topic("bbh snarks")


def test_one_source_needs_no_other(tmp_path):
    (tmp_path / "truthfulqa").mkdir()
    world = Choice(tmp_path, ("truthfulqa",))
    with pytest.raises(BadInput, match=r"TruthfulQA.csv.gz: cannot be read: .*; copy it again"):
        world.heldout(1)
    with pytest.raises(BadInput, match=r"bbh: no such folder; set world.path"):
        Choice(tmp_path, ("bbh",))
