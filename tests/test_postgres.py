"""The store on PostgreSQL: the same rows, several writers, one a run, and every command."""

import json
import runpy
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from superalign.agents import clean
from superalign.protocols.kernel import run_many
from superalign.protocols.replay import replay as replayed
from superalign.scenarios.labelling import answer, open_cases, queue
from superalign.store import BadInput, Case, Label, Message, Run, Store, StoreError, schema
from superalign.store.jsonl import read_jsonl, write_jsonl
from superalign.store.labels import LabelBook, Mark
from superalign.store.verify import verify

pytestmark = pytest.mark.postgres

HERE = Path(__file__).parent
SERVER = runpy.run_path(str(HERE / "postgres.py"))["Server"]
RUN = Run(id="run", scenario={}, origin="", protocol_hash="", version="")
WRITER = """
import sys
from superalign.store import Message, Run, Store, Turn
place, run, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store.open(place, write=True) as store:
    store.put_run(Run(id=run, scenario={}, origin="", protocol_hash="", version=""))
    for i in range(n):
        shared = Message(role="user", content=str(i if run == "a" else n - 1 - i))
        store.put_message(shared, shared.hash)
        about = {"seat": "s", "kind": "answer", "policy": "p", "sampling": {}, "seed": 2**63 - 1}
        store.put_turn(run, f"e{i}", Turn(key="k", text=run, messages=(shared.hash,), **about))
        if i % 7 == 0:
            store.flush()
"""


@pytest.fixture
def kind():
    return "postgresql"


def changed(place: str, statement: str) -> None:
    """Change a store behind its back."""
    engine = create_engine(place)
    with engine.begin() as db:
        assert db.exec_driver_sql(statement).rowcount != 0
    engine.dispose()


def emptied(store: Store) -> None:
    """Forget what is pending, so that closing does not try it again."""
    store._pending.clear()
    store._count = 0


# The same rows.


def test_rows_go_there_and_back_unchanged(place, tmp_path):
    """All tables of a store of SQLite, through PostgreSQL, line for line."""
    old = tmp_path / "old.sqlite"
    with sqlite3.connect(old) as db:
        db.executescript((HERE / "schema_4.sql").read_text())
    db.close()
    schema.migrate(str(old))
    with Store.open(old) as there, Store.open(place, write=True) as here:
        read = write_jsonl(there, tmp_path / "there.jsonl")
        assert read_jsonl(tmp_path / "there.jsonl", here) == read
        write_jsonl(here, tmp_path / "here.jsonl")
        assert verify(here) == verify(there) == (sum(read.values()), [])
        assert list(here.episodes("run")) == list(there.episodes("run"))
    lines = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("there", "here")]
    assert sorted(lines[0]) == sorted(lines[1])


def test_extreme_values_come_back_as_they_were(store, make):
    text = "\N{GRINNING FACE}\u202e\x1b[2J\r\n'; DROP TABLE turns; --%s %(x)s {}" + "x" * 1_000_000
    logprobs = (-0.1, -1e-300, -1.7976931348623157e308)
    numbers = {"seed": 2**63 - 1, "seconds": 0.1 + 0.2, "at": 5e-324, "logprobs": logprobs}
    said = make.turn(text=text, sampling={"a": [None, True, "\0"]}, **numbers)
    store.put_turn("run", "e", said)
    store.flush()
    assert [entry.turn for entry in store.journal("run", ["e"])["e"]] == [said]
    assert verify(store)[1] == []


def test_keys_sort_by_their_code_points(store, make):
    """Whatever the collation of the database: rows come as they come from SQLite."""
    names = ["b", "B", "a", "\u00e9", "Z", "~", "-", "a-", "ab", "\N{GRINNING FACE}"]
    about = {"run": "run", "episode": "e", "turn": "t", "correct": True, "source": "human"}
    store.put_labels([Label(**about, author=name, why="x") for name in names])
    assert [label.author for label in store.labels("run")] == sorted(names)


def test_an_episode_is_found_by_the_beginning_of_its_id(store, make):
    make.put(store, id="abc")
    make.put(store, id="abd")
    assert store.find("run/abc") == store.find("abc") == ("run", "abc")
    for wrong in ("ab", "x", "%", "_bc", "ABC"):
        with pytest.raises(BadInput, match="superalign list episodes"):
            store.find(wrong)


@pytest.mark.parametrize(
    "raw", ["a\0b", "a\ud800b", "\u202eabc\u200f", "\x1b[2J\r\n", "x" * 2_000_000]
)
async def test_whatever_a_model_says_is_stored_and_replays(raw, setting, play, forbidden, store):
    (ended,) = await play(setting(attacker=[raw]))
    (read,) = store.episodes("run")
    assert read == ended and read.turns[0].normalised == (clean(raw) != (raw, False))
    stage = setting(attacker=forbidden, learner=forbidden, critic=forbidden)
    assert await replayed(stage, read) is None
    assert verify(store)[1] == []


async def test_an_error_with_hostile_text_is_stored_too(setting, play, store):
    def refuse(request):
        raise ValueError("a\0b\ud800")

    (ended,) = await play(setting(attacker=refuse))
    assert ended.error == "ValueError: a\ufffdb\ufffd"
    assert list(store.episodes("run")) == [ended]


@pytest.mark.parametrize(
    ("statement", "damaged"),
    [
        ("UPDATE turns SET text = 'x' WHERE seat = 'critic'", 2),
        ("UPDATE verdicts SET value = 'x'", 3),
        ("DELETE FROM turns WHERE seat = 'critic'", 2),
        ("UPDATE messages SET content = 'x'", 1),
    ],
)
def test_what_was_altered_is_named(store, make, place, statement, damaged):
    make.put(store)
    assert verify(store)[1] == []
    changed(place, statement)
    with Store.open(place) as reader:
        assert len(verify(reader)[1]) == damaged


def test_nul_is_refused_and_nothing_else_is_lost(store, make):
    """The kernel cleans what models say; what else brings a NUL is told that it cannot."""
    message = make.message("a\0b")
    store.put_message(message, message.hash)
    with pytest.raises(StoreError, match="NUL"):
        store.flush()
    emptied(store)


# Several writers.


def test_processes_write_one_database_at_once_a_run_each(place):
    """They share messages, in opposite order: without an order they would wait in a circle."""
    Store.open(place, write=True).close()
    words = [sys.executable, "-P", "-c", WRITER, place]
    running = [subprocess.Popen([*words, run, "300"], stderr=subprocess.PIPE) for run in "ab"]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    with Store.open(place) as store:
        assert {run.id for run in store.runs()} == {"a", "b"}
        count, damaged = verify(store)
        assert (count, damaged) == (2 + 300 + 600, [])


def test_processes_that_open_an_empty_database_at_once_make_one_schema(place):
    words = [sys.executable, "-P", "-c", WRITER, place]
    running = [subprocess.Popen([*words, run, "1"], stderr=subprocess.PIPE) for run in "abcd"]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * 4, said


def test_a_run_has_one_writer_and_the_second_is_told_who(store, place):
    code = WRITER.replace("store.put_run(", "store.put_labels or (")
    words = [sys.executable, "-P", "-c", code, place, "run", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "StoreError" in done.stderr
    assert "another process writes the run 'run' (superalign: process " in done.stderr
    store.close()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_run_may_be_written_meanwhile(store, place, make):
    with Store.open(place, write=True) as other:
        other.put_run(RUN.model_copy(update={"id": "other"}))
        make.put(other, run="other")
        make.put(store)
    assert verify(store)[1] == []


def test_a_lost_session_loses_no_row_and_wins_its_lock_again(store, place, make):
    store.put_turn("run", "e", make.turn("0000:n:0000/judge:00"))
    kill = """SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND a.datname = current_database()"""
    changed(place, kill)
    with pytest.raises(StoreError, match="cannot write"):
        store.flush()
    store.flush()
    assert store.ended("run") == set() and store.unfinished("run") == {"e"}
    with Store.open(place, write=True) as other:
        other.put_labels([])
        other.put_turn("run", "e2", make.turn())
        with pytest.raises(StoreError, match="another process writes the run"):
            other.flush()
        emptied(other)


def test_who_lost_its_lock_to_another_writes_no_more(store, place, make):
    changed(place, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    with Store.open(place, write=True) as other:
        other.put_turn("run", "e", make.turn())
        other.flush()
        store.put_turn("run", "e2", make.turn())
        for what in ("cannot write", "another process writes the run"):
            with pytest.raises(StoreError, match=what):
                store.flush()
        emptied(store)
        assert store.unfinished("run") == {"e"}


async def test_a_server_that_dies_in_a_run_loses_no_episode(setting, play, make, postgres):
    """It is killed as soon as an episode has ended. The run ends with an error, and goes on later
    to the same words as without."""
    whole = await play(setting(learner=make.jittered(make.chance("4", "5"))), 40)
    ended: list = []
    with SERVER() as server:
        place = server.new_database()
        with (
            pytest.raises(StoreError, match="cannot write"),
            Store.open(place, write=True) as store,
        ):
            store.put_run(RUN)

            def end(episode) -> None:
                ended.append(episode)
                server.kill()

            stage = setting(learner=make.jittered(make.chance("4", "5")), to=store)
            await run_many(stage, make.plans(40), end, 8)
        assert 0 < len(ended) < 40
        server.start()
        with Store.open(place, write=True) as store:
            stage = setting(learner=make.jittered(make.chance("4", "5")), to=store)
            over = store.ended("run")
            assert over >= {episode.id for episode in ended}
            rest = [plan for plan in make.plans(40) if stage.episode_id(plan) not in over]
            await play(stage, rest)
            said = [episode.transcript_hash for episode in store.episodes("run")]
            assert said == [episode.transcript_hash for episode in whole]
            assert verify(store)[1] == []


def test_a_store_that_was_upgraded_since_it_was_opened_is_not_written(place, make):
    with Store.open(place, write=True) as store:
        changed(place, "UPDATE meta SET value = '99'")
        store.put_turn("run", "e", make.turn())
        with pytest.raises(StoreError, match="its schema is being changed"):
            store.flush()
        emptied(store)


def test_a_reader_cannot_write(store, place):
    with Store.open(place) as reader:
        assert [run.id for run in reader.runs()] == ["run"]
        with pytest.raises(StoreError, match="read-only"):
            reader.put_run(RUN.model_copy(update={"id": "other"}))
        emptied(reader)


# Opening.


def test_an_empty_database_is_no_store_to_a_reader(place):
    with pytest.raises(StoreError, match="not a store of superalign"):
        Store.open(place)


def test_another_program_s_database_is_left_alone(place):
    engine = create_engine(place)
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE runs_of_mine (name TEXT)")
    with pytest.raises(StoreError, match="it holds runs_of_mine; name an empty one"):
        Store.open(place, write=True)
    with engine.begin() as db:
        names = db.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert names.scalars().all() == ["runs_of_mine"]
    engine.dispose()


def test_a_server_that_is_not_there_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match=r"cannot be opened: (.|\n)*No such file"):
        Store.open(f"postgresql+psycopg://x@/y?host={tmp_path}")


def test_a_password_is_shown_nowhere_and_what_is_shown_opens(store, place):
    secret = make_url(place).set(password="hunter2").render_as_string(hide_password=False)
    with Store.open(secret) as reader:
        assert "hunter2" not in reader.url
        with pytest.raises(BadInput) as error:
            reader.run("none")
        assert "hunter2" not in str(error.value)
        with Store.open(reader.url) as again:
            assert [run.id for run in again.runs()] == ["run"]
        assert LabelBook.beside(reader.url).marks("run") == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:hunter2@host:port/store",
        "postgresql+nodriver://anna:hunter2@host/store",
        "postgresql+asyncpg://anna:hunter2@host/store",
        "mysql://anna:hunter2@host/store",
        "postgresql://anna@host/store?password=hunter2",
        "postgresql://anna:hunter2@127.0.0.1:1/store",
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_password(url, superalign):
    for words in (("list", "runs", "--store"), ("migrate",), ("doctor",), ("verify",), ("view",)):
        code, out, err = superalign(*words, url)
        assert code in (1, 2) and "hunter2" not in out + err


# Labels.


def test_people_label_while_a_run_is_played(store, place, make):
    ended = make.put(store)
    message = Message(role="question", content="2+2")
    store.put_message(message, message.hash)
    about = {"run": "run", "episode": ended.id, "turn": ended.turns[0].key, "seat": "learner"}
    store.put_cases([Case(**about, kind="label", why="audit", messages=(message.hash,) * 2)])
    with Store.open(place) as reader:
        book = LabelBook.beside(reader.url)
        (sheet,) = queue(reader, book, "run", "anna")
        answer(reader, book, "run", "anna", sheet.place, "right")
        assert open_cases(store, LabelBook.beside(place), "run") == []
    assert [mark.value for mark in book.marks("run")] == ["right"]
    changed(place, "UPDATE marks SET value = 'wrong'")
    with pytest.raises(StoreError, match="mark 1 was altered"):
        book.answers("run")


def test_many_people_write_marks_at_once(place):
    Store.open(place, write=True).close()
    code = """
import sys
from superalign.store.labels import LabelBook, Mark
book = LabelBook.beside(sys.argv[1])
for i in range(20):
    about = {"run": "r", "episode": "e", "turn": str(i), "kind": "label"}
    book.add(Mark(**about, author=sys.argv[2], what="answer", value="right", seconds=0.1))
"""
    words = [sys.executable, "-P", "-c", code, place]
    running = [subprocess.Popen([*words, name], stderr=subprocess.PIPE) for name in "abc"]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * 3, said
    marks: list[Mark] = LabelBook.beside(place).marks("r")
    assert len(marks) == 60 and {mark.seconds for mark in marks} == {0.1}


# Every command.


def test_a_scenario_is_run_resumed_replayed_forked_and_exported(
    place, folder, superalign, tmp_path_factory, monkeypatch
):
    def facts(*words):
        code, out, err = superalign(*words, "--store", place, "--json")
        assert code == 0, err
        return json.loads(out)

    ran = facts("run", "players.yaml")
    run = ran["run"]
    assert ran["episodes"] and not list(Path("runs").rglob("*.sqlite"))
    assert [line["id"] for line in facts("list", "runs")] == [run]
    again = facts("run", "players.yaml", "--resume")
    assert (again["run"], again["episodes"]) == (run, ran["episodes"])
    second = facts("run", "players.yaml")["run"]
    assert second != run
    replayed = facts("replay", run)
    assert (replayed["divergences"], replayed["model_calls"]) == ([], 0)
    episode = facts("list", "episodes", "--run", run)[0]["id"]
    assert facts("show", f"{run}/{episode}")["turns"]
    assert facts("fork", f"{run}/{episode}", "--at", "1")["parent"] == f"{run}/{episode}"
    assert facts("rejudge", run, "--seat", "critic")["divergences"] == []
    assert facts("report", run)["iterations"]
    monkeypatch.chdir(tmp_path_factory.mktemp("another-machine"))
    assert facts("report", run)["iterations"]
    assert superalign("export", run, "--to", "jsonl", "out.jsonl", "--store", place)[0] == 0
    code, out, _ = superalign("verify", place, "--json")
    assert (code, json.loads(out)["damaged"]) == (0, [])
    with Store.open("back.sqlite", write=True) as back:
        read_jsonl(Path("out.jsonl"), back)
        assert back.count(run) == ran["episodes"]


def test_the_viewer_says_that_it_wants_a_file(store, place, superalign):
    code, _, err = superalign("view", place)
    assert code == 2
    assert "wants files" in err
