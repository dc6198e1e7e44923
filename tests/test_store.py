"""What is written is what is read; what was altered is named; one writer, in order, or an error."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from superalign.agents import clean
from superalign.store import (
    BadInput,
    Case,
    Critique,
    Episode,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Question,
    Retraction,
    Row,
    Run,
    Score,
    Store,
    StoreError,
    Task,
    Turn,
    Verdict,
    tables,
)
from superalign.store.access import BATCH_ROWS
from superalign.store.records import digest
from superalign.store.store import chain, transcript_hash
from superalign.store.verify import verify

TURN = Turn(
    key="0001:answer:0000/learner:00",
    seat="learner",
    kind="answer",
    text="7+5=12\n\N{GRINNING FACE}\u200f'; DROP TABLE turns; --",
    visible_to=("learner", "critic"),
    trainable=True,
    source="human",
    policy="learner-2",
    messages=("a", "b"),
    sampling={"temperature": 0.1, "max_tokens": 4},
    seed=2**63 - 1,
    token_ids=(1, 2),
    logprobs=(-0.1, -1e-300),
    finish="length",
    normalised=True,
    prompt_tokens=17,
    seconds=0.1 + 0.2,
    at=1.7e9,
)
FAILED = TURN.model_copy(
    update={
        "key": "0002:x:0000/critic:00",
        "seat": "critic",
        "error": "boom",
        "text": "",
        "visible_to": None,
    }
)
EPISODE = Episode(
    run="run",
    id="e1",
    index=3,
    iteration=2,
    protocol="critique",
    protocol_hash="h",
    params={"samples": 4},
    task=Task(question=Question(topic="t", choices=("a", "b")), target="a", private={"x": "y"}),
    seed=2**62,
    status="done",
    question=Question(topic="t", text="q"),
    verdict=Verdict(value="failed", seat="critic", turn=TURN.key, confidence=0.25),
    rewards={"learner": 0.5, "critic": None},
    truth="a",
    facts={"cell": "t", "fault": {TURN.key: None}},
    parent="run/e0",
    tags=("explore",),
    seconds=1.5,
    turns=(TURN, FAILED),
    critiques=(Critique(turn=FAILED.key, about=TURN.key, fault=1, confidence=1 / 3),),
)
ROW = Row(
    kind="rank",
    seat="learner",
    prompt=(Message(role="question", content="1+1"),),
    replies=("a", "b"),
    rewards=(1.0, 0.0),
    flip_prob=0.01,
    source="ai",
    judge="critic",
    turns=("run/e1/k",),
    iteration=1,
)
LABEL = Label(
    run="run", episode="e1", turn="k", correct=True, source="human", author="anna", why="audit"
)
VERSION = PolicyVersion(
    id="learner-1",
    seat="learner",
    parent="base",
    method="exo",
    config={"beta": 0.1},
    rows=digest([ROW.id]),
    path="weights/learner-1",
    iteration=1,
    metrics={"loss": 0.25},
)
EVALUATION = Evaluation(
    iteration=1, policy="learner-1", item="i", cell="c", text="t", correct=False, tokens=3
)
RUN = Run(
    id="other", scenario={"name": "x"}, origin="/x.yaml", protocol_hash="h", version="1", at=2e9
)


def write(store: Store, episode: Episode = EPISODE) -> Episode:
    """Store an episode as the kernel does."""
    said = transcript_hash(episode.turns, episode.verdict, episode.error)
    episode = episode.model_copy(update={"transcript_hash": said})
    hashes = [store.put_turn(episode.run, episode.id, turn) for turn in episode.turns]
    episode = episode.model_copy(update={"chain": chain(vars(episode), hashes)})
    store.put_episode(episode)
    store.flush()
    return episode


def altered(path: Path, statement: str, *values: object) -> None:
    """Change a store behind its back."""
    with sqlite3.connect(path) as db:
        assert db.execute(statement, values).rowcount >= 1
    db.close()


def reread(path: Path, table: str) -> list[tuple]:
    """What another process would find on the disk."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        found = db.execute(f"SELECT * FROM {table}").fetchall()
    db.close()
    return found


# Round trips.


def test_an_episode_comes_back_as_it_was(store, path):
    written = write(store)
    with Store.open(path) as other:
        assert list(other.episodes("run")) == [written]


@pytest.mark.parametrize(
    ("put", "get", "record"),
    [
        (lambda s: s.put_run(RUN), lambda s: s.run("other"), RUN),
        (lambda s: s.put_labels([LABEL]), lambda s: s.labels("run")[0], LABEL),
        (lambda s: s.put_rows("run", [ROW]), lambda s: s.rows("run", 1)[0], ROW),
        (lambda s: s.put_version("run", VERSION, [ROW]), lambda s: s.versions("run")[0], VERSION),
        (
            lambda s: s.put_evaluations("run", [EVALUATION]),
            lambda s: s.evaluations("run", 1)[0],
            EVALUATION,
        ),
    ],
    ids=["run", "label", "row", "version", "evaluation"],
)
def test_a_record_comes_back_as_it_was(store, path, put, get, record):
    put(store)
    with Store.open(path) as other:
        assert get(other) == record


def test_a_message_is_found_by_its_hash(store, make):
    message = make.message("x" * 2_000_000)
    store.put_message(message, message.hash)
    store.flush()
    assert store.messages([message.hash, "missing"]) == {message.hash: message}


HERE = {"run", "episode"}


@pytest.mark.parametrize(
    ("table", "record", "more", "less"),
    [
        (tables.Runs, Run, set(), set()),
        (tables.Turns, Turn, HERE, set()),
        (tables.Episodes, Episode, set(), {"turns", "critiques", "verdict"}),
        (tables.Critiques, Critique, HERE, set()),
        (tables.Verdicts, Verdict, HERE, set()),
        (tables.Scores, Score, set(), set()),
        (tables.Cases, Case, set(), set()),
        (tables.Labels, Label, set(), set()),
        (tables.Rows, Row, {"run", "id"}, set()),
        (tables.Retractions, Retraction, set(), set()),
        (tables.Versions, PolicyVersion, {"run"}, set()),
        (tables.Evaluations, Evaluation, {"run"}, set()),
    ],
)
def test_columns_are_the_fields_and_where_they_lie(table, record, more, less):
    columns = list(table.model_fields)
    assert set(columns[:-1]) == (set(record.model_fields) | more) - less
    assert columns[-1] == "record_hash"


def test_every_column_of_a_turn_is_under_its_hash():
    changed = {name: digest(name) for name in Turn.model_fields}
    turns = [TURN, *(TURN.model_copy(update={name: new}) for name, new in changed.items())]
    assert len({digest(turn.__dict__) for turn in turns}) == len(turns)


# Group commit.


def test_what_was_flushed_is_there_and_what_was_not_is_lost(store, path, make):
    for n in range(3):
        store.put_turn("run", "e", make.turn(f"000{n}:n:0000/judge:00"))
    store.flush()
    store.put_turn("run", "e", make.turn("0003:n:0000/judge:00"))
    shutil.copy(path, path.with_suffix(".copy"))  # the crash
    shutil.copy(f"{path}-wal", f"{path.with_suffix('.copy')}-wal")
    assert [row[2][:4] for row in reread(path.with_suffix(".copy"), "turns")] == [
        "0000",
        "0001",
        "0002",
    ]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(1, 600), max_size=6))
async def test_the_disk_always_holds_a_prefix_of_what_was_put(tmp_path, make, batches):
    path = tmp_path / f"{digest(batches)}.sqlite"
    with Store.open(path, write=True) as store:
        total = 0
        for size in batches:
            for _ in range(size):
                store.put_turn("run", "e", make.turn(f"{total:04}:n:0000/judge:00"))
                total += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            keys = [row[2] for row in reread(path, "turns")]
            assert sorted(keys) == [f"{n:04}:n:0000/judge:00" for n in range(len(keys))]
            assert len(keys) > total - BATCH_ROWS - size
    path.unlink()


async def test_committed_waits_for_the_disk(store, path, make):
    store.put_turn("run", "e", make.turn())
    assert reread(path, "turns") == []
    await store.committed()
    assert len(reread(path, "turns")) == 1


async def test_many_wait_for_one_commit(store, path, make):
    async def one(n: int) -> int:
        store.put_turn("run", f"e{n}", make.turn())
        await store.committed()
        return len(reread(path, "turns"))

    assert await asyncio.gather(*map(one, range(10))) == [10] * 10


def test_closing_writes_what_is_pending(path, make):
    with Store.open(path, write=True) as store:
        store.put_turn("run", "e", make.turn())
    assert len(reread(path, "turns")) == 1


def test_rows_that_belong_together_are_written_together_or_not_at_all(store, path):
    store.put_version("run", VERSION)
    with pytest.raises(StoreError):
        store.put_labels([LABEL, LABEL])
    assert reread(path, "labels") == []
    store._pending.clear()  # so that closing does not try again
    store._count = 0


def test_a_message_is_stored_once(store, path, make):
    message = make.message("hello")
    for _ in range(3):
        store.put_message(message, message.hash)
    store.close()
    with Store.open(path, write=True) as again:
        again.put_message(message, message.hash)
        again.flush()
        assert len(reread(path, "messages")) == 1


# Opening.


def test_a_second_writer_is_refused_and_told_who_writes(store, path):
    with pytest.raises(StoreError, match=r"another process writes this store \(process \d+: "):
        Store.open(path, write=True)


def test_a_writer_in_another_process_is_refused_too(store, path):
    code = f"from superalign.store import Store; Store.open({str(path)!r}, write=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StoreError" in done.stderr


def test_readers_are_not_refused_and_cannot_write(store, path):
    with Store.open(path) as reader:
        assert [run.id for run in reader.runs()] == ["run"]
        with pytest.raises(StoreError, match="readonly"):
            reader.put_run(RUN)
        reader._pending.clear()
        reader._count = 0


def test_the_lock_ends_with_the_writer(path):
    Store.open(path, write=True).close()
    Store.open(path, write=True).close()


def test_an_unknown_schema_is_refused(store, path):
    store.close()
    altered(path, "UPDATE meta SET value = '99'")
    for write_too in (False, True):
        with pytest.raises(StoreError, match="schema '99'"):
            Store.open(path, write=write_too)


@pytest.mark.parametrize("write_too", [False, True])
def test_a_file_that_is_no_database_is_refused(path, write_too):
    path.write_text("name: arithmetic\n" * 100)
    with pytest.raises(StoreError, match="not a store of superalign"):
        Store.open(path, write=write_too)
    assert path.read_text().startswith("name")


def test_a_refused_store_is_not_left_locked(path):
    path.write_text("x" * 4096)
    with pytest.raises(StoreError, match="not a store"):
        Store.open(path, write=True)
    path.unlink()
    Store.open(path, write=True).close()


def test_another_program_s_database_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE things (name TEXT)")
    with pytest.raises(StoreError, match="not a store of superalign"):
        Store.open(path)


def test_a_missing_store_is_bad_input(path):
    with pytest.raises(BadInput, match="superalign run"):
        Store.open(path)
    assert not path.exists()


@pytest.mark.parametrize("url", ["alien://x", "postgresql+nodriver://x", "://"])
def test_a_url_that_nothing_serves_is_bad_input(url):
    with pytest.raises(BadInput, match="SQLAlchemy URL"):
        Store.open(url)


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(tmp_path / "file" / "store.sqlite", write=True)


# A full disk.


def fill(store: Store, pages: int) -> None:
    """No more than this many pages from now on."""

    @event.listens_for(store._engine, "connect")
    def limit(connection, _):
        connection.execute(f"PRAGMA max_page_count={pages}")

    store._engine.dispose()


def test_a_full_disk_is_a_store_error_and_nothing_stored_is_lost(store, path, make):
    store.put_turn("run", "e", make.turn("0000:n:0000/judge:00"))
    store.flush()
    fill(store, 1)
    store.put_turn("run", "e", make.turn("0001:n:0000/judge:00", text="x" * 1_000_000))
    with pytest.raises(StoreError, match="full"):
        store.flush()
    assert [row[2][:4] for row in reread(path, "turns")] == ["0000"]
    fill(store, 100_000)
    store.flush()  # nothing was dropped
    assert [row[2][:4] for row in reread(path, "turns")] == ["0000", "0001"]


async def test_who_waits_for_a_full_disk_is_told(store, make):
    fill(store, 1)
    store.put_turn("run", "e", make.turn(text="x" * 1_000_000))
    with pytest.raises(StoreError, match="full"):
        await store.committed()
    fill(store, 100_000)


# Integrity.


@pytest.fixture(scope="module")
def clean_store(tmp_path_factory):
    """A store with three episodes, of which tests alter copies."""
    path = tmp_path_factory.mktemp("verify") / "store.sqlite"
    with Store.open(path, write=True) as store:
        store.put_run(RUN.model_copy(update={"id": "run"}))
        message = Message(role="user", content="hi")
        store.put_message(message, message.hash)
        for n in range(3):
            said = tuple(t.model_copy(update={"messages": (message.hash,)}) for t in EPISODE.turns)
            write(store, EPISODE.model_copy(update={"id": f"e{n}", "turns": said}))
        store.put_turn("run", "open", TURN)
        store.put_rows("run", [ROW])
        store.put_version("run", VERSION, [ROW])
    return path


@pytest.fixture
def copy(clean_store, tmp_path):
    return Path(shutil.copy(clean_store, tmp_path / "copy.sqlite"))


def damaged(path: Path) -> set[str]:
    with Store.open(path) as store:
        return {damage.record for damage in verify(store)[1]}


def test_an_untouched_store_is_not_damaged(copy):
    with Store.open(copy) as store:
        assert verify(store) == (21, [])


WRONG = {
    "visible_to": '["judge"]',
    "messages": "[]",
    "sampling": "{}",
    "token_ids": "[1,3]",
    "logprobs": "[-0.1,-0.2]",
    "finish": "stop",
    "source": "ai",
    "trainable": 0,
    "normalised": 0,
}
"""Believable values of the columns that are not free text or numbers."""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(sorted(set(Turn.model_fields) - {"key"} | {"record_hash"})),
    which=st.sampled_from([TURN, FAILED]),
    episode=st.integers(0, 2),
    garbage=st.booleans(),
)
def test_a_changed_column_names_its_turn(clean_store, tmp_path, column, which, episode, garbage):
    path = Path(shutil.copy(clean_store, tmp_path / "altered.sqlite"))
    free = 12345 if isinstance(getattr(which, column, ""), int | float) else "12345 other"
    new = "no \N{SNOWMAN} such thing" if garbage else WRONG.get(column, free)
    if garbage and column in ("trainable", "normalised"):
        new = 0
    where = f"UPDATE turns SET {column} = ? WHERE episode = ? AND key = ?"
    altered(path, where, new, f"e{episode}", which.key)
    found = damaged(path)
    assert f"run/e{episode}/{which.key}" in found
    assert found <= {f"run/e{episode}/{which.key}", f"run/e{episode}"} | {
        f"run/e{episode}: message {new}"
    }


@pytest.mark.parametrize(
    ("column", "new"),
    [
        ("truth", "b"),
        ("rewards", '{"learner": 1.0}'),
        ("facts", "{}"),
        ("status", "failed"),
        ("params", '{"samples": 5}'),
        ("task", "{}"),
        ("seed", 1),
        ("error", "boom"),
        ("question", '{"text": "other"}'),
        ("tags", "no JSON"),
        ("transcript_hash", "0"),
        ("record_hash", "0"),
        ("protocol", "debate"),
        ("parent", None),
    ],
)
def test_a_changed_episode_is_named(copy, column, new):
    altered(copy, f"UPDATE episodes SET {column} = ? WHERE id = 'e1'", new)
    assert damaged(copy) == {"run/e1"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdicts SET value = 'solved' WHERE episode = 'e1'",
        "UPDATE verdicts SET confidence = 1.0 WHERE episode = 'e1'",
        "DELETE FROM verdicts WHERE episode = 'e1'",
        "UPDATE critiques SET fault = NULL WHERE episode = 'e1'",
        "DELETE FROM critiques WHERE episode = 'e1'",
        "DELETE FROM turns WHERE episode = 'e1'",
        "DELETE FROM turns WHERE episode = 'e1' AND seat = 'critic'",
    ],
)
def test_what_was_cut_or_judged_otherwise_is_named(copy, statement):
    altered(copy, statement)
    assert {record[:6] for record in damaged(copy)} == {"run/e1"}
    assert "run/e1" in damaged(copy)


def test_a_turn_forged_with_its_own_hash_does_not_fit_the_chain(copy, make):
    with Store.open(copy, write=True) as store:
        store.put_turn("run", "e1", make.turn("9999:n:0000/judge:00"))
    assert damaged(copy) == {"run/e1"}


def test_a_changed_message_is_named(copy):
    hash = Message(role="user", content="hi").hash
    altered(copy, "UPDATE messages SET content = 'bye'")
    assert damaged(copy) == {hash}


def test_turns_of_an_episode_that_never_ended_are_checked(copy):
    altered(copy, "UPDATE turns SET text = 'other' WHERE episode = 'open'")
    assert damaged(copy) == {f"run/open/{TURN.key}"}


def test_a_changed_row_is_named_and_so_is_a_version_with_another_teacher(copy):
    altered(copy, "UPDATE rows SET flip_prob = 0.5")
    altered(copy, "UPDATE versionrows SET row = 'x'")
    found = damaged(copy)
    assert f"run/{ROW.id}" in found
    assert "run: version learner-1" in found


def test_a_broken_page_is_damage_and_no_traceback(copy):
    raw = bytearray(copy.read_bytes())
    raw[4096 * 3 : 4096 * 3 + 64] = b"\xff" * 64
    copy.write_bytes(raw)
    assert damaged(copy)


# Identity and text.


def test_ids_do_not_depend_on_time(setting, make, monkeypatch):
    plan = make.plans(1)[0]
    first = setting().episode_id(plan), ROW.id, EPISODE.task.key
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert (setting().episode_id(plan), ROW.id, EPISODE.task.key) == first


def test_the_task_s_key_does_not_tell_its_target():
    question = Question(text="1+1")
    assert Task(question=question, target="2").key == Task(question=question, target="3").key


HOSTILE = {
    "nul": ("a\0b", "a\ufffdb"),
    "surrogate": ("a\ud800b", "a\ufffdb"),
    "pair": ("\ud83d\ude00", "\ufffd\ufffd"),
    "rtl": ("\u202eabc\u200f", None),
    "emoji": ("\N{GRINNING FACE}\u200d\N{FIRE}", None),
    "controls": ("\x1b[2J\x07\r\n", None),
    "combining": ("e\u0301" * 1000, None),
    "huge": ("x" * 2_000_000, None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("raw", "stored"), HOSTILE.values(), ids=list(HOSTILE))
async def test_hostile_text_is_normalised_once_and_said_to_be(raw, stored, setting, play, store):
    (ended,) = await play(setting(attacker=[raw]))
    (read,) = store.episodes("run")
    question = next(turn for turn in read.turns if turn.seat == "attacker")
    assert (question.text, question.normalised) == (stored or raw, stored is not None)
    assert read == ended
    assert verify(store)[1] == []


@given(st.text(st.characters(codec=None, categories=None)))
def test_cleaning_twice_changes_nothing_more(text):
    cleaned, changed = clean(text)
    assert clean(cleaned) == (cleaned, False)
    assert changed == (cleaned != text)
    cleaned.encode()


async def test_an_error_with_hostile_text_is_stored_too(setting, play, store):
    def refuse(request):
        raise ValueError("a\0b\ud800")

    (ended,) = await play(setting(attacker=refuse))
    assert ended.error == "ValueError: a\ufffdb\ufffd"
    assert list(store.episodes("run")) == [ended]


def test_an_infinite_logprob_is_refused_before_it_is_stored():
    with pytest.raises(ValueError, match="finite"):
        TURN.model_validate({**TURN.model_dump(), "logprobs": (float("-inf"),)})


def test_an_episode_is_found_by_the_beginning_of_its_id(copy):
    with Store.open(copy) as store:
        assert store.find("run/e1") == store.find("e1") == ("run", "e1")
        for wrong in ("e", "x", "run/e", "other/e1", "%"):
            with pytest.raises(BadInput, match="superalign list episodes"):
                store.find(wrong)
