"""From a version to the sentences that taught it and back; what is retracted teaches no more."""

import importlib.util
import json
import random
import re
import shutil
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from superalign.learners import LEARNERS
from superalign.scenarios.commands import learn_run, run_scenario
from superalign.scenarios.lineage_page import svg
from superalign.scenarios.transcripts import verify_store
from superalign.store import BadInput, PolicyVersion, Retraction, Row, Run, Store, StoreError
from superalign.store.lineage import find, lineage, standing, summary, to_retract
from superalign.store.records import digest
from superalign.store.verify import verify

ROOT = Path(__file__).parent.parent
KEY = "0001:answer:0000/learner:0"


def row(*turns, text="4", **more):
    told = {"kind": "sft", "seat": "learner", "prompt": (), "replies": (text,), "judge": "critic"}
    return Row(**{**told, "source": "ai", "turns": turns, "iteration": 1, **more})


def version(store, id, parent, rows=(), iteration=0):
    made = {"seat": "learner", "config": {}, "path": id, "iteration": iteration}
    method = "exo" if parent else "base"
    hash = digest(sorted(r.id for r in rows)) if rows else None
    kept = PolicyVersion(id=id, parent=parent, method=method, rows=hash, **made)
    store.put_version("run", kept, rows)


@pytest.fixture
def taught(store, make):
    """Three episodes; learner-1 learnt from two, learner-2 from the third; `other` is its sister.

    `a1` and `a2` begin alike; the first answer of `a1` made an sft row and a pair.
    """
    store.put_run(Run(id="other", scenario={}, origin="", protocol_hash="", version=""))
    for id in ("a1", "a2", "b1"):
        turns = [make.turn(f"{KEY}{n}", text=f"{id} says {n}") for n in range(3)]
        for turn in turns:
            store.put_turn("run", id, turn)
        store.put_episode(make.episode(*turns, id=id))
    sft, pair = row(f"run/a1/{KEY}0"), row(f"run/a1/{KEY}0", f"run/a1/{KEY}1", kind="pref")
    second, third = row(f"run/a2/{KEY}0", source="human"), row(f"run/b1/{KEY}2", text="5")
    store.put_rows("run", [sft, pair, second, third])
    version(store, "tiny", None)
    version(store, "learner-1", "tiny", [sft, pair, second], 1)
    version(store, "learner-2", "learner-1", [third], 2)
    version(store, "sister", "tiny", [second], 1)
    return store


def names(graph, kind):
    return {name for name, facts in graph.nodes(data=True) if facts["kind"] == kind}


# Reading.


def test_a_version_leads_to_all_that_taught_it_and_its_parents(taught):
    graph = lineage(taught, "learner-2")
    assert names(graph, "version") == {"run/tiny", "run/learner-1", "run/learner-2"}
    assert names(graph, "turn") == {
        f"run/{place}" for place in (f"a1/{KEY}0", f"a1/{KEY}1", f"a2/{KEY}0", f"b1/{KEY}2")
    }
    assert names(graph, "episode") == {"run/a1", "run/a2", "run/b1"}
    facts = summary(graph)
    assert (facts["rows"], facts["turns"], facts["episodes"], facts["retracted"]) == (4, 4, 3, 0)
    assert facts["made"] == {"pref ai": 1, "sft ai": 2, "sft human": 1}
    assert [v["version"] for v in facts["versions"]] == [
        "run/tiny",
        "run/learner-1",
        "run/learner-2",
    ]
    assert [v["rows"] for v in facts["versions"]] == [0, 3, 1]
    assert graph.nodes[f"run/b1/{KEY}2"]["text"] == "b1 says 2"


def test_a_sentence_leads_to_its_rows_the_versions_they_taught_and_their_children(taught):
    graph = lineage(taught, f"a1/{KEY}0")
    assert names(graph, "turn") == {f"run/a1/{KEY}0"}
    assert len(names(graph, "row")) == 2
    assert names(graph, "version") == {"run/learner-1", "run/learner-2"}


def test_an_episode_leads_to_the_versions_of_all_its_turns(taught):
    graph = lineage(taught, "run/a2")
    assert names(graph, "version") == {"run/learner-1", "run/learner-2", "run/sister"}
    assert names(graph, "turn") == {f"run/a2/{KEY}0"}


def test_there_and_back_again(taught):
    """A turn is among a version's ancestors exactly if the version is among its descendants."""
    below = {v: names(lineage(taught, v), "turn") for v in ("learner-1", "learner-2", "sister")}
    for episode in ("a1", "a2", "b1"):
        for n in range(3):
            turn = f"run/{episode}/{KEY}{n}"
            reached = names(lineage(taught, turn), "version")
            assert reached == {f"run/{v}" for v, turns in below.items() if turn in turns}


def test_what_taught_nothing_is_there_alone(taught):
    assert summary(lineage(taught, f"b1/{KEY}0"))["versions"] == []
    assert set(lineage(taught, f"b1/{KEY}0")) == {f"run/b1/{KEY}0", "run/b1"}


def test_a_key_that_begins_like_another_is_not_that_turn(taught, make):
    taught.put_turn("run", "b1", make.turn(f"{KEY}22"))
    taught.put_rows("run", [row(f"run/b1/{KEY}22", text="7")])
    taught.put_rows("run", [row(f"run/B1/{KEY}2", text="8")])
    graph = lineage(taught, f"run/b1/{KEY}22")
    assert len(names(graph, "row")) == 1
    assert len(names(lineage(taught, "run/b1"), "row")) == 2


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("run/learner-1", ["run/learner-1"]),
        ("b", ["run/b1"]),
        ("run/a1", ["run/a1"]),
        ("a", ["run/a1", "run/a2"]),
        (f"b/{KEY}1", [f"run/b1/{KEY}1"]),
        ("b/0001", [f"run/b1/{KEY}{n}" for n in range(3)]),
        ("other/b1", []),
        ("%", []),
        ("", []),
        ("run/", []),
    ],
)
def test_references(ref, meant, taught):
    assert [place.ref for place in find(taught, ref)] == meant
    if len(meant) != 1:
        with pytest.raises(BadInput, match="name"):
            lineage(taught, ref)


# Retracting.


def test_of_a_version_only_its_own_rows_are_retracted(taught):
    assert len(to_retract(lineage(taught, "learner-2"))) == 1
    assert len(to_retract(lineage(taught, "learner-1"))) == 3
    assert len(to_retract(lineage(taught, f"a1/{KEY}0"))) == 2


def test_what_is_retracted_is_counted_and_not_retracted_again(taught):
    for run, name in to_retract(lineage(taught, "a1")):
        taught.put_retractions([Retraction(run=run, row=name, author="me", reason="wrong")])
    assert to_retract(lineage(taught, "a1")) == []
    assert summary(lineage(taught, "learner-2"))["retracted"] == 2
    assert {r.turns[0] for r in standing(taught, "run", taught.rows("run"))} == {
        f"run/a2/{KEY}0",
        f"run/b1/{KEY}2",
    }


SMALL = ("iterations=1", "episodes=12", "learn.steps=1", "evaluate.heldout=2")


def test_the_next_update_leaves_out_what_was_retracted(tmp_path, monkeypatch, superalign, capsys):
    """A run ends at its first update; an episode is retracted; the run goes on without it."""
    real, scenario, taught = LEARNERS["exo"], ROOT / "scenarios" / "arithmetic.yaml", []

    def killed(*_):
        raise RuntimeError("killed")

    def recorded(base, rows, *more):
        taught[:] = rows
        return real(base, rows, *more)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(LEARNERS, "exo", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run_scenario(scenario, SMALL, Path("runs"), None, False)
    with Store.open("runs/arithmetic-1/store.sqlite") as store:
        rows = store.rows("arithmetic-1")
    episode = rows[0].turns[0].rpartition("/0")[0].split("/")[1]
    gone = {r.id for r in rows if episode in r.turns[0]}
    capsys.readouterr()

    words = ["lineage", episode, "--retract", "--author", "me", "--reason", "wrong", "--json"]
    code, out, _ = superalign(*words)
    assert (code, json.loads(out)["newly_retracted"]) == (0, len(gone))
    code, out, _ = superalign(*words)
    assert (code, json.loads(out)["newly_retracted"]) == (0, 0)
    assert json.loads(out)["retracted"] == len(gone)

    monkeypatch.setitem(LEARNERS, "exo", recorded)
    run_scenario(scenario, SMALL, Path("runs"), None, True)
    assert taught
    assert not gone & {r.id for r in taught}
    with Store.open("runs/arithmetic-1/store.sqlite") as store:
        assert set(store.taught("arithmetic-1", "learner-1")) == {r.id for r in taught}
        assert verify(store)[1] == []
    monkeypatch.setitem(LEARNERS, "exo", lambda base, rows, *_: {"n": rows})
    told = learn_run("arithmetic-1", "exo", 1, tmp_path / "out", ("steps=1",), None)
    assert told["n"]
    assert not gone & {r.id for r in told["n"]}

    words[1] = "arithmetic-1/learner-1"
    assert superalign(*words)[0] == 0
    with pytest.raises(BadInput, match="retracted"):
        learn_run("arithmetic-1", "sft", 1, tmp_path / "out", (), None)


# The command and the drawing.


@pytest.fixture
def here(taught, path, tmp_path, monkeypatch):
    """A working folder whose one run has the taught store."""
    taught.flush()
    (tmp_path / "runs" / "run").mkdir(parents=True)
    shutil.copy(path, tmp_path / "runs" / "run" / "store.sqlite")
    for beside in tmp_path.glob("store.sqlite-wal"):
        shutil.copy(beside, tmp_path / "runs" / "run" / beside.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tree_is_short_and_names_what_matters(here, superalign):
    code, out, err = superalign("lineage", "learner-2")
    assert (code, err) == (0, "")
    assert "run/learner-1  exo  rows: 3" in out
    assert "a1 says 0" in out
    assert len(out.splitlines()) < 30


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "no such version, episode or turn"),
        (["a"], "could be run/a1, run/a2"),
        (["a1", "--retract"], "--author NAME --reason TEXT"),
        (["a1", "--reason", "x"], "belong to --retract"),
        (["a1", "--out", "x.png"], "ends in .svg"),
        (["a1", "--out", "no/x.svg"], "name a file in a folder"),
    ],
)
def test_bad_input_is_one_line(words, told, here, superalign):
    code, out, err = superalign("lineage", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_version_of_two_runs_must_be_named_with_its_run(here, superalign):
    shutil.copytree(here / "runs" / "run", here / "runs" / "again")
    assert "could be" in superalign("lineage", "learner-1")[2]


def test_the_drawing_is_one_safe_element(here, superalign):
    assert superalign("lineage", "learner-2", "--out", "a.svg")[0] == 0
    text = Path("a.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert not re.search(r"<script|style|href|url\(|\bon\w+=", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}


HOSTILE = "<script>alert(1)</script>&\"'\x00\x1b[2J\u202e\ufffe]]>\ud83d<svg onload=x>" + "W" * 400


def test_hostile_text_stays_text(taught):
    graph = lineage(taught, "learner-2")
    for name in graph:
        graph.nodes[name].update(text=HOSTILE, label=HOSTILE)
    root = ElementTree.fromstring(svg(graph))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "g", "text", "rect", "path"}
    assert all(len(found.text or "") < 60 for found in root.iter() if found.tag.endswith("}text"))


def test_thousands_of_sentences_are_a_few_boxes(taught, make):
    turns = [f"run/b1/{n:04}:answer:0000/learner:00" for n in range(3000)]
    rows = [row(turn, text=turn) for turn in turns]
    taught.put_rows("run", rows)
    version(taught, "learner-3", "learner-2", rows, 3)
    graph = lineage(taught, "learner-3")
    assert summary(graph)["turns"] == 3004
    drawn = svg(graph)
    assert drawn.count("<rect") < 20
    assert "and 2997 more" in drawn


def test_boxes_do_not_overlap(taught):
    for ref in ("learner-2", "a1", f"b1/{KEY}0", "tiny"):
        boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg(lineage(taught, ref)))
        assert boxes
        for x in {x for x, _ in boxes}:
            ys = sorted(float(y) for at, y in boxes if at == x)
            assert all(b - a >= 46 for a, b in pairwise(ys))


# Bits.


@pytest.fixture(scope="module")
def bitflips(tmp_path_factory):
    """The benchmark's functions, and a store in which every table is filled."""
    spec = importlib.util.spec_from_file_location("bitflips", ROOT / "benchmarks" / "bitflips.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("bits") / "store.sqlite"
    module.make_store(path)
    return module, path


@pytest.mark.parametrize("flips", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_every_flip_that_changes_a_stored_field_is_noticed(flips, bitflips):
    module, path = bitflips
    found = module.measure(path, flips, seed=1)
    assert found["missed"] == []
    assert found["changed"]["noticed"] == found["changed"]["flips"] > 0


def test_a_damaged_file_is_refused_or_named_and_never_a_traceback(bitflips, tmp_path):
    _, path = bitflips
    original, copy, rng = path.read_bytes(), tmp_path / "copy.sqlite", random.Random(0)
    for _ in range(40):
        at, data = rng.randrange(len(original)), bytearray(original)
        size = min(rng.choice([1, 16, 512, 4096]), len(data) - at)
        for beside in tmp_path.glob("copy.sqlite-*"):
            beside.unlink()
        data[at : at + size] = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), b""])
        copy.write_bytes(data)
        try:
            verify_store(str(copy))
        except (StoreError, BadInput):
            continue


@pytest.mark.parametrize("damage", ["cut", "empty", "schema"])
def test_what_cannot_be_opened_is_one_line(damage, bitflips, tmp_path, superalign):
    _, path = bitflips
    data = path.read_bytes()
    broken = {
        "cut": data[:5000],
        "empty": b"",
        "schema": data.replace(b"CREATE TABLE meta", b"CREATE TABLE \xce\xff\xce\xff"),
    }
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(broken[damage])
    code, out, err = superalign("verify", copy)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_episode_s_id_is_missed_wherever_it_is_changed(bitflips, tmp_path):
    """In a table or in an index, which then leads to what nobody asked for."""
    module, path = bitflips
    with Store.open(path) as store:
        episode = next(store.episodes(module.RUN)).id.encode()
    original, copy = path.read_bytes(), tmp_path / "copy.sqlite"
    places = [found.start() for found in re.finditer(episode, original)]
    assert len(places) > 5
    for at in places:
        module.flip(original, copy, at * 8 + 1)
        assert module.noticed(copy)
