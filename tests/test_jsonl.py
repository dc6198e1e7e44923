"""JSON Lines: what is exported comes back row for row, and what was altered does not come in."""

import json

import orjson
import pytest
from sqlalchemy import update

from superalign.store import (
    BadInput,
    Case,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Retraction,
    Row,
    Score,
    Store,
)
from superalign.store.database import core
from superalign.store.jsonl import read_jsonl, write_jsonl
from superalign.store.records import digest
from superalign.store.tables import SCHEMA, Meta, Turns
from superalign.store.verify import HASHED, verify


@pytest.fixture
def full(store, make):
    """A store with a row in every table, and two runs."""
    first = store.run("run")
    store.put_run(first.model_copy(update={"id": "run-fork-1", "parent": "run", "at": 5.0}))
    make.put(store)
    make.put(store, run="run-fork-1", text='\u00e4\u2028\U0001f600 \\ " \x7f')
    key = "0001:answer:0000/learner:00"
    who = {"run": "run", "episode": "e1", "turn": key}
    common = {"source": "human", "author": "ann", "why": "audit", "seconds": 1.5}
    store.put_labels([Label.model_validate({**who, **common, "correct": True, "note": "fine"})])
    row = Row(
        kind="rank",
        seat="learner",
        prompt=(Message(role="user", content="2+2"),),
        replies=("4", "5"),
        rewards=(1.0, 0.0),
        flip_prob=1e-3,
        source="ai",
        judge="critic",
        turns=(f"run/e1/{key}",),
    )
    store.put_rows("run", [row])
    version = {"seat": "learner", "parent": None, "method": "exo", "config": {"beta": 0.1}}
    taught = digest(sorted([row.id]))
    store.put_version(
        "run", PolicyVersion(id="v", **version, rows=taught, path="w", iteration=1), [row]
    )
    seen = {"policy": "v", "item": "i", "cell": "easy", "text": "4", "correct": True, "tokens": 1}
    store.put_evaluations("run", [Evaluation(iteration=1, **seen)])
    score = {"name": "rescore-1", "author": "ann", "reason": "why not", "at": 6.0}
    store.put_scores([Score(run="run", episode="e1", **score, rewards={"critic": 0.5})])
    case = Case.model_validate({**who, "seat": "learner", "kind": "label", "why": "audit"})
    store.put_cases([case])
    store.put_retractions([Retraction(run="run", row=row.id, author="ann", reason="bad", at=8.0)])
    assert all(store.raw(table) for table in HASHED)
    return store


@pytest.fixture
def exported(full, tmp_path):
    path = tmp_path / "all.jsonl"
    write_jsonl(full, path)
    return path


@pytest.fixture
def read(tmp_path):
    """`read(path)` or `read(path, bytes)` -> a new store that the file was read into."""
    opened = []

    def build(path, lines=None):
        if lines is not None:
            path = path.with_name("altered.jsonl")
            path.write_bytes(lines)
        new = Store.open(tmp_path / f"new-{len(opened)}.sqlite", write=True)
        opened.append(new)
        read_jsonl(path, new)
        return new

    yield build
    for new in opened:
        new.close()


def everything(store):
    return {core(table).name: sorted(map(repr, store.raw(table))) for table in [Meta, *HASHED]}


def test_a_store_comes_back_row_for_row(full, exported, read):
    new = read(exported)
    assert everything(new) == everything(full)
    assert verify(new) == verify(full)
    assert verify(new)[1] == []


def test_a_run_comes_back_with_its_rows_alone(full, tmp_path, read):
    path = tmp_path / "one.jsonl"
    assert write_jsonl(full, path, "run-fork-1")["turns"] == 2
    new = read(path)
    assert [run.id for run in new.runs()] == ["run-fork-1"]
    assert next(new.episodes("run-fork-1")) == next(full.episodes("run-fork-1"))
    assert len(new.raw(core_table("messages"))) == 1
    assert verify(new)[1] == []


def core_table(name):
    return next(table for table in HASHED if core(table).name == name)


def test_export_of_an_import_is_the_same_file(exported, read, tmp_path):
    again = tmp_path / "again.jsonl"
    write_jsonl(read(exported), again)
    assert sorted(again.read_bytes().splitlines()) == sorted(exported.read_bytes().splitlines())


def test_every_line_is_json_with_the_schema_first_and_the_count_last(exported):
    header, *rows, last = map(json.loads, exported.read_bytes().splitlines())
    assert header == {"format": "superalign", "schema": SCHEMA}
    assert last == {"rows": len(rows)}
    turn = next(row for row in rows if row["table"] == "turns")
    assert (turn["trainable"], turn["sampling"], turn["text"]) == (False, {}, "4")


def altered_values(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int | float):
        return value + 1
    return "x" if value is None else [value]


def test_every_field_of_every_table_is_held_to_its_hash(exported, tmp_path):
    lines, tried = exported.read_bytes().splitlines(keepends=True), 0
    first = {}
    for number, line in enumerate(lines[1:-1], 2):
        first.setdefault(json.loads(line)["table"], (number, json.loads(line)))
    with Store.open(tmp_path / "new.sqlite", write=True) as new:
        for number, row in first.values():
            for key in row.keys() - {"table"}:
                forged = orjson.dumps({**row, key: altered_values(row[key])}) + b"\n"
                exported.write_bytes(b"".join([*lines[: number - 1], forged, *lines[number:]]))
                with pytest.raises(BadInput, match=rf"all\.jsonl:{number}: "):
                    read_jsonl(exported, new)
                tried += 1
        assert not any(new.raw(table) for table in HASHED)
    assert tried > 120


def refused(lines, number, what, exported, read):
    with pytest.raises(BadInput, match=rf"altered\.jsonl:{number}: .*{what}"):
        read(exported, b"".join(lines))


def test_what_is_no_export_is_refused_with_its_line(exported, read):
    lines = exported.read_bytes().splitlines(keepends=True)
    head, run, *rest = lines
    n = len(lines)
    cases = [
        ([], 0, "must name the format"),
        ([b"[]\n"], 1, "no JSON object"),
        (
            [b'{"format": "superalign", "schema": 1}\n', *lines[1:]],
            1,
            f"schema 1, .* knows {SCHEMA}",
        ),
        ([head, b"{nonsense}\n", *rest], 2, "is no JSON"),
        ([head, b"\xff\xfe\n", *rest], 2, "is no JSON"),
        ([head, b"[" * 5000 + b"\n", *rest], 2, "is no JSON"),
        ([head, b'{"table": "meta"}\n', *rest], 2, "unknown table 'meta'"),
        ([head, b'{"table": ["runs"]}\n', *rest], 2, "unknown table"),
        ([head, b'{"table": "runs", "id": "x"}\n', *rest], 2, "unknown or missing: at, author"),
        (lines[:-1], n - 1, "ends before its last line"),
        ([*lines[:5], *lines[6:]], n - 1, "rows were read, but"),
        ([*lines, b"{}\n"], n + 1, "rows were read, but"),
        ([head, run, run, *rest], 3, "cannot be stored: UNIQUE"),
    ]
    for altered, number, what in cases:
        refused(altered, number, what, exported, read)


@pytest.mark.parametrize(
    ("key", "value"),
    [("status", "won"), ("index", 1.5), ("index", 2**70), ("error", 1), ("rewards", {"a": "b"})],
)
def test_a_forged_hash_does_not_make_a_row_readable(key, value, exported, read):
    lines = exported.read_bytes().splitlines(keepends=True)
    number, row = next(
        (i, json.loads(line)) for i, line in enumerate(lines) if b'"table":"episodes"' in line
    )
    row[key] = value
    held = [v for k, v in row.items() if k not in ("table", "record_hash")]
    spelt = [orjson.dumps(v).decode() if isinstance(v, dict | list) else v for v in held]
    row["record_hash"] = digest(*spelt) if value != 2**70 else ""
    lines[number] = json.dumps(row).encode() + b"\n"
    refused(lines, number + 1, key, exported, read)


def test_a_run_that_no_scenario_could_be_is_refused(exported, superalign):
    code, _, err = superalign("import", "jsonl", exported, "--store", exported.parent / "n.sqlite")
    assert code == 2
    assert "all.jsonl:2: runs: " in err
    with Store.open(exported.parent / "n.sqlite") as left:
        assert left.runs() == []


def test_a_refused_file_leaves_nothing_behind(exported, read, tmp_path):
    with pytest.raises(BadInput):
        read(exported, exported.read_bytes()[:-20])
    with Store.open(tmp_path / "new-0.sqlite") as left:
        assert not any(left.raw(table) for table in HASHED)
        assert left.runs() == []


def test_a_store_with_runs_is_not_written_over(exported, full):
    with pytest.raises(BadInput, match="holds runs already; name a new store"):
        read_jsonl(exported, full)


def test_a_turn_that_is_left_out_is_told(exported, read):
    lines = exported.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines[:-1] if not (b'"turns"' in line and b"critic:00" in line[:200])]
    new = read(exported, b"".join([*kept, b'{"rows": %d}\n' % (len(kept) - 1)]))
    assert len(kept) == len(lines) - 3
    assert {damage.record for damage in verify(new)[1]} == {"run/e1", "run-fork-1/e1"}


def test_from_the_command_line(folder, superalign):
    assert superalign("run", "players.yaml", "--json")[0] == 0
    code, out, _ = superalign("export", "players-1", "out/p.jsonl", "--to", "jsonl", "--json")
    facts = json.loads(out)
    assert (code, facts["tables"]["episodes"]) == (0, 12)
    words = "import", "jsonl", "out/p.jsonl", "--store", "new/players-1/store.sqlite"
    code, out, _ = superalign(*words, "--json")
    assert (code, json.loads(out)["damaged"]) == (0, [])
    assert json.loads(out)["rows"] == facts["rows"]
    with Store.open("runs/players-1/store.sqlite") as a, Store.open(words[-1]) as b:
        assert everything(a) == everything(b)
    code, out, _ = superalign("replay", "new/players-1", "--json")
    assert (code, json.loads(out)["divergences"]) == (0, [])
    assert superalign(*words)[0] == 2


def test_a_changed_turn_is_not_exported_as_if_it_were_whole(full, tmp_path, read):
    with full.connect() as db, db.begin():
        db.execute(update(core(Turns)).values(text="5"))
    path = tmp_path / "x.jsonl"
    write_jsonl(full, path)
    with pytest.raises(BadInput, match="was altered"):
        read(path)
