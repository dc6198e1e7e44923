"""In and out: what is exported comes back row for row, and other tools really read it."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser

import orjson
import pytest
from sqlalchemy import update

from superalign.scenarios.page import write_page
from superalign.store import (
    BadInput,
    Case,
    Critique,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Retraction,
    Row,
    Score,
    Store,
    Verdict,
)
from superalign.store.database import core
from superalign.store.inspect_log import write_inspect
from superalign.store.jsonl import read_jsonl, write_jsonl
from superalign.store.records import digest
from superalign.store.store import chain, transcript_hash
from superalign.store.tables import Meta, Turns
from superalign.store.verify import HASHED, verify

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "]]>&lt;b&gt;\u202eevil\u2066\x1b[2J",
    '"><svg onload=alert(1)>',
)


def put(store, make, run="run", id="e1", text="4", **more):
    """An ended episode of two turns: an answer, and a critique of it."""
    asked = Message(role="user", content=f"what is 2+2? {text}")
    answer = make.turn("0001:answer:0000/learner:00", text=text, messages=(asked.hash,), at=2.0)
    said = make.turn("0002:criticise:0000/critic:00", kind="critique", text="1", at=3.0)
    said = said.model_copy(update={"messages": (asked.hash,), "visible_to": ("critic",)})
    verdict = Verdict(value="failed", seat="critic", turn=said.key, confidence=0.5)
    critique = Critique(turn=said.key, about=answer.key, fault=1, confidence=0.75)
    told = {"verdict": verdict, "critiques": (critique,), "rewards": {"critic": 1, "learner": None}}
    hashed = transcript_hash((answer, said), verdict, None)
    e = make.episode(answer, said, id=id, run=run, transcript_hash=hashed, **{**told, **more})
    store.put_message(asked, asked.hash)
    hashes = [store.put_turn(run, id, turn) for turn in e.turns]
    store.put_episode(e.model_copy(update={"chain": chain(vars(e), hashes)}))
    store.flush()
    return e


@pytest.fixture
def full(store, make):
    """A store with a row in every table, and two runs."""
    first = store.run("run")
    store.put_run(first.model_copy(update={"id": "run-fork-1", "parent": "run", "at": 5.0}))
    put(store, make)
    put(store, make, run="run-fork-1", text='\u00e4\u2028\U0001f600 \\ " \x7f')
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


# JSON Lines.


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
    assert header == {"format": "superalign", "schema": 3}
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
        ([b'{"format": "superalign", "schema": 1}\n', *lines[1:]], 1, "schema 1, .* knows 3"),
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


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["export", "players-1", "x", "--to", "csv"], "there are trl, jsonl, inspect, html"),
        (["export", "players-1", "x", "--to", "html", "--whole-store"], "use --to jsonl"),
        (["export", "players-1", "players.yaml/x", "--to", "jsonl"], "name a place"),
        (["export", "gone", "x", "--to", "html"], "superalign list episodes"),
        (["import", "csv"], "there are jsonl, nyu-debate"),
        (["import", "jsonl", "x"], "--store is missing"),
        (["import", "jsonl", "--store", "x.sqlite"], "PATH is missing"),
        (["import", "jsonl", "gone.jsonl", "--store", "x.sqlite"], "there is no file here"),
    ],
)
def test_bad_words_are_told_in_one_line(words, what, folder, superalign):
    assert superalign("run", "players.yaml", "--set", "episodes=1", "--json")[0] == 0
    code, out, err = superalign(*words)
    assert (code, out) == (2, "")
    assert what in err.splitlines()[-1]


# HTML.


class Page(HTMLParser):
    """The tags of a page, its visible text, and the attributes that could load or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.risky, self.style = set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        names = {name for name, _ in attrs}
        self.risky += names & {"src", "href", "style", "action"}
        self.risky += [name for name in names if name.startswith("on")]

    def handle_data(self, data):
        if self.lasttag == "style" and not self.style:
            self.style = data
        self.words.append(data)


@pytest.mark.parametrize("one", [True, False])
def test_a_page_holds_hostile_text_as_text(one, store, make, tmp_path):
    scenario = {"protocol": {"name": HOSTILE[0]}, "world": {"kind": "w"}, "cast": {}, "seed": 0}
    store.put_run(store.run("run").model_copy(update={"id": "h", "scenario": scenario}))
    for i, text in enumerate(HOSTILE):
        question = {"topic": text, "text": text, "choices": (text,)}
        task = {"question": question, "target": text, "private": {text: text}}
        more = {"question": question, "truth": text, "task": task, "error": text}
        put(store, make, run="h", id=f"e{i}", text=text, **more)
    names = ("author", "name", "reason", "error")
    score = {"run": "h", "episode": "e0", **dict(zip(names, HOSTILE[:4], strict=True))}
    store.put_scores([Score.model_validate(score)])
    ids = [f"e{i}" for i in range(len(HOSTILE))] if one else None
    write_page(store, "h", tmp_path / "page.html", ids)
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert not page.tags & {"script", "img", "svg", "b", "iframe", "link", "object"} - {"b"}
    assert page.risky == []
    seen = "".join(page.words)
    assert all(hostile in seen for hostile in HOSTILE if "\x1b" not in hostile)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)


def test_a_page_allows_exactly_its_own_style(full, tmp_path):
    scenario = {"protocol": {"name": "p"}, "world": {"kind": "w"}, "cast": {}, "seed": 0}
    full.put_run(full.run("run").model_copy(update={"id": "r", "scenario": scenario}))
    assert write_page(full, "r", tmp_path / "page.html", None) == {"episodes": 0, "failed": 0}
    text = (tmp_path / "page.html").read_text()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    hashed = base64.b64encode(hashlib.sha256(Page(text).style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{hashed}'" in policy
    assert "unsafe" not in policy


def test_a_page_of_an_episode_or_a_run(folder, superalign):
    assert superalign("run", "players.yaml", "--json")[0] == 0
    assert superalign("export", "players-1", "run.html", "--to", "html")[0] == 0
    assert (folder / "run.html").read_text().count("<details id=") == 12
    with Store.open("runs/players-1/store.sqlite") as store:
        episode = max(store.episodes("players-1"), key=lambda e: len(e.turns))
    code, out, _ = superalign("export", episode.id[:9], "e.html", "--to", "html", "--json")
    assert (code, json.loads(out)["episodes"]) == (0, 1)
    page = (folder / "e.html").read_text()
    assert all(turn.key in page for turn in episode.turns)
    assert {f"c{n}" for n in range(3)} <= set(re.findall(r'class="turn (c\d)', page))


# Inspect.


@pytest.fixture
def log(folder, superalign):
    assert superalign("run", "players.yaml", "--json")[0] == 0
    code, out, err = superalign("export", "players-1", "log.eval", "--to", "inspect", "--json")
    assert code == 0, err
    return folder / "log.eval", json.loads(out)


def test_a_log_has_a_lane_a_seat_and_scores(log):
    path, facts = log
    with zipfile.ZipFile(path) as found, Store.open("runs/players-1/store.sqlite") as store:
        names = set(found.namelist())
        summaries = json.loads(found.read("summaries.json"))
        header = json.loads(found.read("header.json"))
        episodes = {e.id: e for e in store.episodes("players-1")}
        assert names >= {"_journal/start.json", "_journal/summaries/1.json"}
        assert [s["id"] for s in summaries] == list(episodes)
        for id, episode in episodes.items():
            sample = json.loads(found.read(f"samples/{id}_epoch_1.json"))
            kinds = [event["event"] for event in sample["events"]]
            assert kinds == ["span_begin", "model", "span_end"] * len(episode.turns)
            lanes = [e["name"] for e in sample["events"] if e["event"] == "span_begin"]
            assert lanes == [turn.seat for turn in episode.turns]
            rewards = {s: r for s, r in episode.rewards.items() if r is not None}
            told = {n: s["value"] for n, s in sample["scores"].items()}
            assert told.pop("verdict") == (episode.verdict and episode.verdict.value)
            assert told == {f"reward of {seat}": reward for seat, reward in rewards.items()}
    attacks = [e.rewards["attacker"] or 0.0 for e in episodes.values()]
    means = {s["name"]: s["metrics"] for s in header["results"]["scores"]}
    assert means["reward of attacker"]["mean"]["value"] == pytest.approx(sum(attacks) / 12)
    assert facts["episodes"] == header["results"]["total_samples"] == 12


def test_what_nobody_scored_is_not_counted(store, make, tmp_path):
    scenario = {
        "name": "s",
        "protocol": {"name": "p"},
        "world": {"kind": "w"},
        "cast": {"learner": {"model": "m"}},
        "seed": 0,
    }
    store.put_run(store.run("run").model_copy(update={"id": "r", "scenario": scenario}))
    put(store, make, run="r", id="a")
    put(store, make, run="r", id="b", rewards={"critic": None})
    assert write_inspect(store, "r", tmp_path / "x.eval") == {"episodes": 2, "failed": 0}
    with zipfile.ZipFile(tmp_path / "x.eval") as found:
        scores = json.loads(found.read("header.json"))["results"]["scores"]
    critic = next(score for score in scores if score["name"] == "reward of critic")
    assert (critic["scored_samples"], critic["unscored_samples"]) == (1, 1)
    assert critic["metrics"]["mean"]["value"] == 1.0


def test_a_message_cannot_stand_in_for_another(store, make, tmp_path):
    scenario = {"name": "s", "protocol": {"name": "p"}, "world": {"kind": "w"}, "cast": {}}
    scenario["seed"] = 0
    store.put_run(store.run("run").model_copy(update={"id": "r", "scenario": scenario}))
    put(store, make, run="r", text=f"attachment://{'0' * 32}")
    write_inspect(store, "r", tmp_path / "x.eval")
    with zipfile.ZipFile(tmp_path / "x.eval") as found:
        sample = json.loads(found.read("samples/e1_epoch_1.json"))
    (shown,) = next(e for e in sample["events"] if e["event"] == "model")["input"]
    assert sample["attachments"] == {shown["id"]: f"what is 2+2? attachment://{'0' * 32}"}
    assert shown["content"] == f"attachment://{shown['id']}"


def test_inspect_itself_reads_the_log(log):
    there = importlib.util.find_spec("inspect_ai")
    python = sys.executable if there else os.environ.get("INSPECT_PYTHON")
    if python is None:
        pytest.skip("inspect_ai needs older packages than ours; name its Python: $INSPECT_PYTHON")
    code = (
        "import sys; from inspect_ai.log import *; p = sys.argv[1]; log = read_eval_log(p);"
        "s = read_eval_log_sample(p, id=log.samples[0].id, resolve_attachments=True);"
        "print(log.status, len(log.samples), len(read_eval_log_sample_summaries(p)),"
        " *sorted({e.role for e in s.events if e.event == 'model'}))"
    )
    done = subprocess.run([python, "-c", code, log[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["success", "12", "12", "attacker", "critic", "learner"]


# TRL: the command. test_trl.py has the sets.


def test_retracted_rows_are_left_out(folder, superalign):
    assert superalign("run", "players.yaml", "--json")[0] == 0
    with Store.open("runs/players-1/store.sqlite", write=True) as store:
        all_of = store.rows("players-1")
        row = all_of[0].id
        retraction = Retraction(run="players-1", row=row, author="ann", reason="wrong")
        store.put_retractions([retraction])
    code, out, _ = superalign("export", "players-1", "d", "--license", "cc0-1.0", "--json")
    assert (code, json.loads(out)["rows"]) == (0, len(all_of) - 1)
    card = (folder / "d" / "README.md").read_text()
    for named in ("cc0-1.0", '"critique"', "**seed**: 0", "**judges**: ", "labels by source"):
        assert named in card


def test_a_changed_turn_is_not_exported_as_if_it_were_whole(full, tmp_path, read):
    with full.connect() as db, db.begin():
        db.execute(update(core(Turns)).values(text="5"))
    path = tmp_path / "x.jsonl"
    write_jsonl(full, path)
    with pytest.raises(BadInput, match="was altered"):
        read(path)
