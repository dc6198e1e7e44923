"""Out of the store: pages that run nothing, logs that Inspect reads, TRL's folder, bad words."""

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

import pytest

from superalign.scenarios.page import write_page
from superalign.store import Retraction, Score, Store
from superalign.store.inspect_log import write_inspect

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "]]>&lt;b&gt;\u202eevil\u2066\x1b[2J",
    '"><svg onload=alert(1)>',
)


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
        make.put(store, run="h", id=f"e{i}", text=text, **more)
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


def test_a_page_allows_exactly_its_own_style(store, tmp_path):
    scenario = {"protocol": {"name": "p"}, "world": {"kind": "w"}, "cast": {}, "seed": 0}
    store.put_run(store.run("run").model_copy(update={"id": "r", "scenario": scenario}))
    assert write_page(store, "r", tmp_path / "page.html", None) == {"episodes": 0, "failed": 0}
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
    make.put(store, run="r", id="a")
    make.put(store, run="r", id="b", rewards={"critic": None})
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
    make.put(store, run="r", text=f"attachment://{'0' * 32}")
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
