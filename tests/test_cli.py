"""The command line end to end on a scripted scenario: what it prints, where, and how it exits."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.scenarios.stored import printable

HEAVY = ("torch", "transformers", "trl", "langgraph", "sqlalchemy", "pydantic", "networkx")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder in which the scripted scenario was run once; tests work on copies."""
    here, folder = Path(__file__).parent, tmp_path_factory.mktemp("played")
    for name in ("players.py", "players.yaml"):
        shutil.copy(here / name, folder / name)
    words = [
        sys.executable,
        "-P",
        "-m",
        "superalign.scenarios.cli",
        "run",
        "players.yaml",
        "--json",
    ]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(played, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(played, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def facts(superalign):
    """`facts(code, *words)`: the one JSON value that a command prints."""

    def run(code, *words):
        exit_code, out, _ = superalign(*words, "--json")
        assert exit_code == code
        return json.loads(out)

    return run


def alter(folder, statement, *values):
    with sqlite3.connect(folder / "runs" / "players-1" / "store.sqlite") as db:
        assert db.execute(statement, values).rowcount == 1
    db.close()


# run


def test_run_prints_its_facts_alone_on_stdout(played):
    found = json.loads((played / "stdout").read_text())
    counts, told = (
        "episodes failed unanswered waiting seconds",
        "alarms paused stopped kept lacks price",
    )
    assert set(found) == {"run", "store", *counts.split(), "folder", *told.split()}
    assert (found["run"], found["episodes"], found["failed"]) == ("players-1", 12, 0)


def test_run_reports_its_progress_on_stderr(played):
    assert "iteration 1: play 12 in" in (played / "stderr").read_text()


def test_run_leaves_scenario_store_and_report(here):
    names = {path.name for path in (here / "runs" / "players-1").iterdir()}
    assert {"scenario.json", "store.sqlite", "report.html", "report.json"} <= names


def test_the_same_scenario_twice_makes_two_folders_and_the_same_words(here, facts):
    assert facts(0, "run", "players.yaml")["run"] == "players-2"
    said = [
        [(e["id"], e["turns"]) for e in facts(0, "list", "episodes", "--run", run)]
        for run in ("players-1", "players-2")
    ]
    assert said[0] == said[1]


def test_resume_of_a_finished_run_changes_nothing(here, facts):
    before = facts(0, "list", "episodes", "--run", "players-1")
    assert facts(0, "run", "players.yaml", "--resume")["episodes"] == 12
    assert facts(0, "list", "episodes", "--run", "players-1") == before


def test_resume_plays_what_is_missing(here, facts):
    before = facts(0, "show", facts(0, "list", "episodes", "--run", "players-1")[3]["id"])
    with sqlite3.connect(here / "runs" / "players-1" / "store.sqlite") as db:
        for table, column in (
            ("episodes", "id"),
            ("verdicts", "episode"),
            ("critiques", "episode"),
        ):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", [before["id"]])
        db.execute("DELETE FROM turns WHERE episode = ? AND seat = 'critic'", [before["id"]])
    db.close()
    assert facts(0, "run", "players.yaml", "--resume")["episodes"] == 12
    after = facts(0, "show", before["id"])
    assert after["transcript_hash"] == before["transcript_hash"]


def test_resume_of_another_scenario_is_refused(here, superalign):
    code, out, err = superalign("run", "players.yaml", "--resume", "--set", "seed=1")
    assert (code, out) == (2, "")
    assert "was another scenario" in err


def test_resume_of_nothing_is_refused(folder, superalign):
    code, _, err = superalign("run", "players.yaml", "--resume")
    assert (code, "leave --resume out" in err) == (2, True)


def test_too_many_failures_exit_with_1(folder, superalign):
    words = "run", "players.yaml", "--set", "models.truth={engine: scripted, replies: [well]}"
    code, out, _ = superalign(*words, "--json")
    assert (code, json.loads(out)["failed"] > 6) == (1, True)
    assert superalign(*words, "--set", "limits.failed_share=1")[0] == 0


def test_failures_are_counted_and_replay(folder, facts):
    talk = "models.truth={engine: scripted, function: './players.py:gibberish'}"
    found = facts(0, "run", "players.yaml", "--set", talk, "--set", "limits.failed_share=1")
    assert 0 < found["failed"] < 12
    assert facts(0, "replay", "players-1")["divergences"] == []


def test_a_user_s_protocol_is_run_by_its_path(folder, facts):
    (folder / "duet.yaml").write_text(
        "name: duet\nworld: {kind: arithmetic}\nmodels:\n"
        '  m: {engine: scripted, replies: ["it is so\\nVerdict: 1"]}\n'
        "protocol: {path: ./duet.py, name: duet, rounds: 1}\n"
        "cast: {left: {model: m}, right: {model: m}, judge: {model: m}}\nepisodes: 5\n"
    )
    assert facts(0, "run", "duet.yaml")["failed"] == 0
    assert facts(0, "replay", "duet-1") == {
        "episodes": 5,
        "model_calls": 0,
        "divergences": [],
        "protocol_changed": False,
    }
    (folder / "duet.py").write_text((folder / "duet.py").read_text() + "# changed\n")
    assert facts(0, "replay", "duet-1")["protocol_changed"] is True


def test_a_store_of_one_s_own(folder, facts):
    assert facts(0, "run", "players.yaml", "--store", "mine.sqlite")["store"] == "mine.sqlite"
    assert facts(0, "replay", "players-1", "--store", "mine.sqlite")["episodes"] == 12
    assert facts(0, "list", "runs", "--store", "mine.sqlite")[0]["id"] == "players-1"


# list, show


@pytest.mark.parametrize("what", ["protocols", "scenarios", "worlds", "learners", "runs"])
def test_list_names_things(what, here, facts):
    found = facts(0, "list", what)
    assert found
    assert all("name" in thing or "id" in thing for thing in found)


def test_list_says_what_can_be_listed(here, superalign):
    code, out, err = superalign("list", "everything")
    assert (code, out) == (2, "")
    assert "choose one of protocols, " in err


def test_show_prints_a_transcript(here, superalign, facts):
    episode = facts(0, "list", "episodes", "--run", "players-1")[1]
    code, out, _ = superalign("show", episode["id"][:8])
    assert code == 0
    assert episode["question"] in out
    assert f"verdict: {episode['verdict']}" in out


def test_show_as_a_seat_prints_what_it_was_given(here, superalign, facts):
    episode = facts(0, "list", "episodes", "--run", "players-1")[1]
    whole = facts(0, "show", episode["id"])
    seen = facts(0, "show", episode["id"], "--as", "critic")
    assert [call["turn"] for call in seen["calls"]] == [
        turn["key"] for turn in whole["turns"] if turn["seat"] == "critic"
    ]
    assert episode["question"] in seen["calls"][0]["given"][-1]["content"]
    assert superalign("show", episode["id"], "--as", "judge")[0] == 2


@pytest.mark.parametrize("words", [["show", "zzz"], ["replay", "zzz"], ["report", "zzz"]])
def test_what_is_not_there_is_bad_input(words, here, superalign):
    code, out, err = superalign(*words)
    assert (code, out) == (2, "")
    assert err.startswith("superalign: zzz: no ")


# replay, verify, check, report, export


def test_replay_calls_no_model_and_finds_nothing(here, facts):
    found = facts(0, "replay", "players-1")
    assert (found["episodes"], found["model_calls"], found["divergences"]) == (12, 0, [])


def test_replay_needs_no_weights_and_runs_no_scripted_code(here, facts):
    (here / "players.py").write_text("raise SystemExit('it ran')")
    assert facts(0, "replay", "players-1")["episodes"] == 12


def test_replay_of_an_altered_answer_exits_with_1_and_its_place(here, facts):
    episode = facts(0, "list", "episodes", "--run", "players-1")[1]["id"]
    turn = facts(0, "show", episode)["turns"][0]
    alter(
        here, "UPDATE turns SET text = '12+34' WHERE episode = ? AND key = ?", episode, turn["key"]
    )
    (found,) = facts(1, "replay", "players-1")["divergences"]
    assert set(found) == {"episode", "turn", "what", "diff"}
    assert (found["episode"], found["turn"]) == (f"players-1/{episode}", turn["key"])
    assert turn["text"] in found["diff"]
    assert "12+34" in found["diff"]
    assert facts(1, "replay", episode)["episodes"] == 1


# branches


@pytest.fixture
def third(here, facts):
    """An episode of seven turns."""
    episodes = facts(0, "list", "episodes", "--run", "players-1")
    return next(e["id"] for e in episodes if e["turns"] == 7)


def test_rejudge_keeps_the_old_score_and_says_what_changed(here, facts, third):
    words = ("rejudge", "players-1", "--seat", "critic", "--author", "anna", "--reason", "why not")
    models = 'models.lenient={"engine": "scripted", "replies": ["ok"]}'
    found = facts(0, *words, "--set", models, "--set", "cast.critic.model=lenient")
    assert (found["run"], found["episodes"]) == ("players-1-rejudge-1", 12)
    assert found["changed"] > 0
    assert found["failed"] == len(found["divergences"])
    shown = facts(0, "show", f"players-1/{third}")
    (score,) = shown["scores"]
    assert (score["author"], score["reason"]) == ("anna", "why not")
    assert score["name"] == "players-1-rejudge-1"
    assert shown["branches"][0].startswith("players-1-rejudge-1/")
    assert shown["verdict"] is not None  # the old one


def test_rejudge_with_the_same_judge_changes_nothing_and_replays(here, facts):
    found = facts(0, "rejudge", "players-1", "--seat", "critic")
    assert (found["changed"], found["both"], found["divergences"]) == (0, 12, [])
    again = facts(0, "replay", "players-1-rejudge-1")
    assert (again["episodes"], again["model_calls"], again["divergences"]) == (12, 0, [])


def test_a_rejudgement_can_be_resumed(here, facts):
    first = facts(0, "rejudge", "players-1", "--seat", "critic")
    again = facts(0, "rejudge", "players-1", "--seat", "critic", "--resume")
    assert again["run"] == first["run"]
    assert facts(0, "verify", "runs/players-1/store.sqlite")["ok"]


def test_a_fork_goes_on_from_a_turn_and_diff_tells_where(here, facts, third):
    found = facts(0, "fork", third, "--at", "2", "--set", "protocol.revisions=0")
    assert (found["parent"], found["status"]) == (f"players-1/{third}", "done")
    assert facts(0, "replay", found["run"])["divergences"] == []
    told = facts(0, "diff", third, found["episode"])
    assert told["shared"] >= 1
    assert told["a"] == f"players-1/{third}"
    twice = facts(0, "fork", found["episode"], "--at", "2")
    assert twice["parent"] == found["episode"]


def test_a_fork_that_would_need_other_words_before_its_turn_diverges(here, superalign, third):
    code, _, err = superalign("fork", third, "--at", "3", "--set", "protocol.samples=4")
    assert code == 2 or "Traceback" not in err


def test_rescore_applies_the_score_as_it_is_now(here, facts, third):
    found = facts(0, "rescore", "players-1", "--reason", "check")
    assert (found["score"], found["episodes"], found["changed"]) == ("rescore-1", 12, 0)
    assert facts(0, "rescore", "players-1")["score"] == "rescore-2"
    assert len(facts(0, "show", third)["scores"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("rejudge", "players-1", "--seat", "nobody"),
        ("rejudge", "nothing", "--seat", "critic"),
        ("rejudge", "players-1", "--seat", "critic", "--set", "cast.critic.model=nobody"),
        ("rejudge", "players-1", "--seat", "critic", "--resume"),
        ("fork", "zzz", "--at", "1"),
        ("diff", "zzz", "zzz"),
        ("rescore", "nothing"),
    ],
)
def test_what_cannot_be_branched_is_said_in_one_line(here, superalign, words):
    code, out, err = superalign(*words)
    assert (code, out) == (2, "")
    assert err.startswith("superalign: ") and err.count("\n") == 1


def test_verify_names_what_was_altered_and_exits_with_1(here, facts):
    store = "runs/players-1/store.sqlite"
    found = facts(0, "verify", store)
    assert (found["ok"], found["damaged"]) == (True, [])
    assert found["records"] > 50
    alter(here, "UPDATE turns SET seed = 7 WHERE rowid = 1")
    assert {d["what"] for d in facts(1, "verify", store)["damaged"]} >= {
        "a column of the table turns was changed"
    }


@pytest.mark.parametrize("target", ["critique", "players.yaml"])
def test_check_passes_what_is_sound(target, here, facts):
    found = facts(0, "check", target)
    assert (found["ok"], found["problems"]) == (True, [])
    assert found["max_calls"] in (9, 17)


def test_check_draws_the_protocol(here, superalign):
    code, out, _ = superalign("check", "critique")
    assert (code, "attack" in out, out.splitlines()[-1]) == (
        0,
        True,
        "critique: ok, at most 17 calls an episode",
    )


def test_check_of_a_broken_protocol_exits_with_1(folder, superalign):
    broken = (folder / "duet.py").read_text().replace('"verdict": verdict', '"round": 9')
    (folder / "duet.py").write_text(broken)
    (folder / "duet.yaml").write_text(
        "name: duet\nworld: {kind: arithmetic}\nmodels: {m: {engine: scripted, replies: [x]}}\n"
        "protocol: {path: ./duet.py, name: duet}\n"
        "cast: {left: {model: m}, right: {model: m}, judge: {model: m}}\nepisodes: 5\n"
    )
    code, out, _ = superalign("check", "duet.yaml", "--json")
    assert code == 1
    assert set(json.loads(out)["problems"][0]) == {"kind", "where", "message"}
    code, out, _ = superalign("check", "duet.yaml", "--no-code", "--json")
    assert (code, json.loads(out)["max_calls"]) == (0, None)


def test_report_prints_its_iterations(here, facts):
    found = facts(0, "report", "players-1")
    assert found["run"] == "players-1"
    assert {"iteration", "heldout_accuracy", "attacker_hit_rate", "diversity"} <= set(
        found["iterations"][0]
    )


def test_export_writes_parquet(here, facts):
    found = facts(0, "export", "players-1", "rows")
    assert found["rows"] > 0
    assert list((here / "rows").rglob("*.parquet"))


# Manners.


@pytest.mark.parametrize("words", [[], ["run"], ["nonsense"], ["run", "x.yaml", "--nonsense"]])
def test_wrong_usage_exits_with_2(words, superalign):
    assert superalign(*words)[0] == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom superalign.scenarios import cli\nsys.argv = ['superalign', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "replay" in done.stdout


@pytest.mark.parametrize("store", ["runs/players-1/scenario.json", "gone.sqlite", "alien://x"])
def test_what_is_no_store_is_named(store, here, superalign):
    code, out, err = superalign("verify", store)
    assert (code, out) == (2, "")
    assert store.rsplit("/", 1)[-1] in err
    assert "Traceback" not in err


def test_a_transcript_cannot_move_the_cursor_or_turn_the_text():
    hostile = "\x1b[2J\x07\r\x00\u202eabc\u2066\x9b1m\ta\nb"
    assert printable(hostile) == "\ufffd[2J\ufffd\ufffd\ufffd\ufffdabc\ufffd\ufffd1m\ta\nb"


@pytest.mark.parametrize("command", ["show", "replay", "list"])
def test_hostile_text_is_printed_harmlessly(command, here, superalign, facts):
    episode = facts(0, "list", "episodes", "--run", "players-1")[1]["id"]
    (answer, *_) = [t for t in facts(0, "show", episode)["turns"] if t["seat"] == "learner"]
    hostile = "12+34\x1b[2J\u202e"
    where = "WHERE key = ? AND episode = ?"
    alter(here, f"UPDATE turns SET text = ? {where}", hostile, answer["key"], episode)
    question = json.dumps({"topic": "\x1b", "text": hostile, "choices": []}, ensure_ascii=False)
    alter(here, "UPDATE episodes SET question = ? WHERE id = ?", question, episode)
    words = {"show": [episode], "replay": [episode], "list": ["episodes", "--run", "players-1"]}
    _, out, err = superalign(command, *words[command])
    assert "12+34" in out
    assert not {"\x1b", "\u202e"} & set(out + err)
