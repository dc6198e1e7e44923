"""Any data set: what is read, and that hostile rows are refused with their place."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superalign.scenarios import dataset as module
from superalign.scenarios.dataset import Dataset
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.scenarios.world_kinds import Columns
from superalign.store import BadInput, Question

ROWS = [
    {
        "id": f"r{i}",
        "q": f"Is {i} even?",
        "right": ("yes", "no")[i % 2],
        "wrong": ("no", "yes")[i % 2],
    }
    | {
        "options": ["yes", "no"],
        "index": i % 2,
        "kind": ("even", "odd")[i % 2],
        "hint": f"hint {i}",
    }
    for i in range(40)
]
PAIR = Columns(text="q", choices=("right", "wrong"), target="right")
LISTED = Columns(text="q", choices="options", target="index", cell="kind", id="id")
OPEN = Columns(text="q", target="right", private={"debater_a": "hint"})


@pytest.fixture
def write(tmp_path):
    """`write(rows, name)` -> path. A row that is text or bytes is written as it stands."""

    def build(rows, name="rows.jsonl"):
        path = tmp_path / name
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            return path
        told = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
        content = b"\n".join(told) + b"\n"
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return build


def questions(world):
    return [entry.task for entry in world._entries.values()]


# What is read.


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("columns", [PAIR, LISTED, OPEN], ids=["pair", "listed", "open"])
def test_every_format_gives_the_same_tasks(name, columns, write):
    told = questions(Dataset(write(ROWS, name), columns))
    assert [task.question.text for task in told] == [row["q"] for row in ROWS]
    assert [task.target for task in told] == [row["right"] for row in ROWS]
    assert told == questions(Dataset(write(ROWS), columns))


def test_a_folder_that_datasets_saved_is_read(tmp_path, write):
    from datasets import Dataset as Table
    from datasets import DatasetDict

    table = Table.from_list(ROWS)
    table.save_to_disk(tmp_path / "saved")
    told = questions(Dataset(tmp_path / "saved", LISTED))
    assert told == questions(Dataset(write(ROWS), LISTED))
    DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "both")
    with pytest.raises(BadInput, match="holds the splits train, test; name the folder of one"):
        Dataset(tmp_path / "both", LISTED)
    assert questions(Dataset(tmp_path / "both" / "test", LISTED)) == told


def test_a_list_of_choices_keeps_its_order_and_columns_do_not_tell_which_is_right(write):
    listed = questions(Dataset(write(ROWS), LISTED))
    assert {task.question.choices for task in listed} == {("yes", "no")}
    first = [t.question.choices[0] == t.target for t in questions(Dataset(write(ROWS), PAIR))]
    assert 5 < sum(first) < 35


def test_cells_private_notes_and_answers(write):
    world = Dataset(write(ROWS), LISTED)
    assert world.cells == ("even", "odd")
    question = Question(text="Is 3 even?", choices=("yes", "no"))
    assert world.cell(question) in ("odd", None)
    assert world.truth(question) == "no"
    assert world.correct(question, "1")
    assert not world.correct(question, "yes")
    opened = Dataset(write(ROWS), OPEN)
    assert opened.cells == ("all",)
    assert questions(opened)[7].private == {"debater_a": "hint 7"}
    assert opened.correct(Question(text="Is 3 even?"), "It is odd.\nAnswer: no")
    assert not opened.correct(Question(text="Is 3 even?"), "Answer: yes")


def test_a_target_is_a_text_before_it_is_a_number(write):
    row = {"q": "half of two?", "options": [1, 0], "index": 1}
    (task,) = questions(Dataset(write([row]), Columns(text="q", choices="options", target="index")))
    assert (task.question.choices, task.target) == (("1", "0"), "1")


def test_blank_lines_are_no_rows_but_count(write):
    path = write([ROWS[0], b"", b"  ", {"q": 1.5}])
    with pytest.raises(BadInput, match=r"rows.jsonl:4: q: 1.5 is no text"):
        Dataset(path, PAIR)


# What is refused.


def one(**more):
    return {**ROWS[1], **more}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"{", "is no JSON: "),
        (b"[1]", "is no JSON object"),
        (b"\xff\xfe", "is no JSON: .*utf-8"),
        (b'{"q": NaN}', "NaN is no JSON value"),
        (b'{"q": -Infinity}', "-Infinity is no JSON value"),
        (b'{"q": "a", "q": "b"}', "a key is there twice"),
        (b"[" * 100_000, "is no JSON: .*recursion"),
        (b'{"q": ' + b"9" * 5000 + b"}", "is no JSON: .*digits"),
        ({"question": "x"}, "no column 'q'; there are 'question'"),
        ({}, "no column 'q'; there are none"),
        (one(q=None), "q: None is no text"),
        (one(q=True), "q: True is no text"),
        (one(q=1.0), "q: 1.0 is no text; write it as one"),
        (one(q=["x"]), "q: 'list' is no text"),
        (one(q=" \n"), "q: is empty"),
        (one(q="a\0b"), "q: holds NUL or half a surrogate"),
        (one(q="\ud800"), "q: holds NUL or half a surrogate"),
        (one(q="x" * 1_000_001), "q: 1,000,001 characters; at most 1,000,000"),
        (one(options="yes no"), "options: 'yes no' is no list of 2 to 100 answers"),
        (one(options=["yes"]), "options: 'list' is no list of 2 to 100"),
        (one(options=["x"] * 2), "options: two choices read the same"),
        (one(options=[str(i) for i in range(101)]), "is no list of 2 to 100"),
        (one(options=["yes", None]), "options: None is no text"),
        (one(index=2), "index: '2' is none of the choices, nor a number below 2"),
        (one(index=-1), "index: '-1' is none of the choices"),
        (one(index="maybe"), "index: 'maybe' is none of the choices"),
        (one(index="\N{SUPERSCRIPT TWO}"), "is none of the choices"),
        (one(index="0" * 30 + "7"), "index: .* is none of the choices"),
        (one(kind=""), "kind: is empty"),
        (one(q="Is 0 even?"), "asks what 1 asks"),
        (one(q="Is 0 even?", options=["no", "yes"]), "asks what 1 asks"),
        (one(id="r0"), "id: 'r0' is the name of 1 too"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_line(row, said, write):
    with pytest.raises(BadInput, match=rf"rows\.jsonl:2: (?s:.*){said}"):
        Dataset(write([ROWS[0], row, ROWS[2]]), LISTED)


@pytest.mark.parametrize("row", [one(q=None), one(q=float("nan")), one(index=7)])
def test_rows_of_parquet_are_held_to_the_same(row, write):
    with pytest.raises(BadInput, match=r"rows\.parquet:1: (q|index): "):
        Dataset(write([row], "rows.parquet"), LISTED)


def test_a_column_that_parquet_lacks_is_named(write):
    with pytest.raises(BadInput, match=r"rows.parquet:1: no column 'question'"):
        Dataset(write(ROWS, "rows.parquet"), Columns(text="question", target="right"))


def test_too_much_is_refused(write, monkeypatch):
    monkeypatch.setattr(module, "LINE", 1000)
    with pytest.raises(BadInput, match=r"rows.jsonl:2: too long; at most 1,000 bytes a line"):
        Dataset(write([ROWS[0], one(q="x" * 2000)]), PAIR)
    monkeypatch.setattr(module, "ROWS", 10)
    for name in ("rows.jsonl", "rows.parquet"):
        with pytest.raises(BadInput, match="more than 10 rows"):
            Dataset(write(ROWS, name), PAIR)
    monkeypatch.setattr(module, "BYTES", 500)
    with pytest.raises(BadInput, match="too long"):
        Dataset(write(ROWS, "rows.jsonl.gz"), PAIR)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", b"", "there are no rows"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read: "),
        ("rows.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "cannot be read: "),
        ("rows.parquet", b"", "cannot be read: "),
        ("rows.parquet", b"PAR1" + bytes(99) + b"PAR1", "cannot be read: "),
        ("rows.csv", b"q,right", "name a .jsonl, .jsonl.gz or .parquet file"),
    ],
)
def test_a_file_that_is_none_is_refused(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        Dataset(path, PAIR)


def test_a_folder_that_nobody_saved_is_refused(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(BadInput, match="`datasets` cannot load it"):
        Dataset(tmp_path, PAIR)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(content, tmp_path):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        Dataset(path, PAIR)


def test_a_damaged_parquet_is_read_or_refused(write):
    path = write(ROWS, "rows.parquet")
    whole = path.read_bytes()
    outcomes = set()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            outcomes.add(len(questions(Dataset(path, PAIR))))
        except BadInput:
            outcomes.add("refused")
    assert "refused" in outcomes


# In a scenario.

SCENARIO = """name: mine
world:
  kind: dataset
  path: rows.jsonl
  columns: {text: q, choices: [right, wrong], target: right}
models:
  coin: {engine: scripted, replies: ["Verdict: 0"]}
protocol: {name: blind}
cast: {judge: {model: coin}}
episodes: 4
"""


def test_a_scenario_names_its_columns(write, tmp_path):
    write(ROWS)
    (tmp_path / "mine.yaml").write_text(SCENARIO)
    resolved = resolve(Loaded.read(tmp_path / "mine.yaml"))
    assert len(list(resolved.world.tasks(4, 0))) == 4


def test_what_is_wrong_has_a_place_in_scenario_and_data(write, tmp_path):
    write([ROWS[0], one(q="")])
    (tmp_path / "mine.yaml").write_text(SCENARIO)
    with pytest.raises(BadInput, match=r"mine.yaml:2:1: world: .*rows.jsonl:2: q: is empty"):
        resolve(Loaded.read(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(SCENARIO.replace("text: q", "text: q, txt: q"))
    with pytest.raises(BadInput, match=r"mine.yaml:5:.*columns.txt: .*did you mean 'text'"):
        Loaded.read(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(SCENARIO.replace("rows.jsonl", "../rows.jsonl"))
    with pytest.raises(BadInput, match="lies outside"):
        resolve(Loaded.read(tmp_path / "mine.yaml"))
