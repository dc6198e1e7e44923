"""A store of an older schema is refused, says how it is brought up to date, and loses nothing."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import String
from sqlmodel import SQLModel

from superalign.protocols.replay import replay as replayed
from superalign.store import BadInput, Store, StoreError, schema, tables
from superalign.store.database import connect
from superalign.store.jsonl import write_jsonl
from superalign.store.verify import verify

OLD = Path(__file__).with_name("schema_4.sql")
"""Two episodes with a row, a version, an evaluation and a label, as schema 4 wrote them."""
both = pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
ADDED = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "7", "6"
def upgrade():
    op.add_column("turns", sa.Column("mood", sa.Text, server_default="good"))
    op.execute({then!r})
"""


@pytest.fixture
def old(tmp_path):
    """An SQLite store of schema 4."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(OLD.read_text())
    db.close()
    return path


@pytest.fixture
def next_schema(monkeypatch, tmp_path):
    """`next_schema(SQL)` makes it schema 7 that is known, whose migration ends with this."""

    def known(then: str = "SELECT 1") -> None:
        folder = Path(shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations"))
        (folder / "schema_7.py").write_text(ADDED.format(then=then))
        monkeypatch.setattr(schema, "MIGRATIONS", folder)
        monkeypatch.setattr(tables, "SCHEMA", 7)

    return known


def columns(place, table="turns"):
    engine, writer = connect(str(place), write=False)
    with engine.connect() as db:
        found = list(db.exec_driver_sql(f"SELECT * FROM {table}").keys())
    writer.close()
    return found


def differs(context, inspected, column, there, ours):
    """Whether texts sort otherwise; None leaves it to alembic, which sees other types alone."""
    return (
        isinstance(there, String)
        and there.compile(context.dialect) != ours.compile(context.dialect)
    ) or None


# Every schema, on both.


@both
def test_the_migrations_end_at_the_tables_of_today(new_place, kind):
    engine, writer = connect(str(new_place()), write=True)
    with engine.connect() as db:
        schema.change(db, 0)
        options = {"compare_type": differs, "compare_server_default": True}
        context = MigrationContext.configure(db, opts=options)
        assert compare_metadata(context, SQLModel.metadata) == []
    assert schema.found_schema(engine) == str(tables.SCHEMA)
    writer.close()


@both
@pytest.mark.parametrize("then", ["INSERT INTO meta VALUES ('a', 'b')", "no SQL at all"])
def test_a_migration_is_all_or_nothing(then, place, store, kind, next_schema):
    store.close()
    next_schema(then)
    if then.startswith("INSERT"):
        assert schema.migrate(str(place))[:2] == (6, 7)
        assert columns(place)[-1] == "mood"
        return
    with pytest.raises(StoreError, match=r"cannot be upgraded: (.|\n)*syntax error"):
        schema.migrate(str(place))
    assert "mood" not in columns(place)
    with pytest.raises(
        StoreError, match=r"schema '6', but this superalign knows 7; `superalign mi"
    ):
        Store.open(place)


@both
def test_a_store_that_is_being_written_is_not_migrated(place, store, kind, next_schema):
    next_schema()
    with pytest.raises(StoreError, match="write"):
        schema.migrate(str(place))
    assert "mood" not in columns(place)


@both
def test_a_store_of_today_stays_as_it_is(place, store, kind):
    store.close()
    assert schema.migrate(str(place)) == (tables.SCHEMA, tables.SCHEMA, None)


# Schema 4, as it was written.


def test_an_older_store_is_refused_and_told_how_to_upgrade(old):
    for write in (False, True):
        with pytest.raises(StoreError, match=f"schema '4', .*`superalign migrate {old}`"):
            Store.open(old, write=write)
    assert "attempts" not in columns(old)


async def test_an_upgraded_store_verifies_and_replays(old, setting, forbidden, tmp_path):
    before, after, kept = schema.migrate(str(old))
    assert kept is not None and (before, after) == (4, tables.SCHEMA)
    with Store.open(old) as store:
        count, damaged = verify(store)
        assert (count, damaged) == (40, [])
        seats = dict.fromkeys(("attacker", "learner", "critic"), forbidden)
        stage = setting(params={"samples": 2}, to=store, **seats)
        assert [await replayed(stage, e) for e in store.episodes("run")] == [None, None]
        assert write_jsonl(store, tmp_path / "out.jsonl")["turns"] == 14
    with sqlite3.connect(kept) as db:
        assert "\n".join(db.iterdump()) + "\n" == OLD.read_text()


def test_what_was_altered_before_the_upgrade_is_still_found_after_it(old):
    with sqlite3.connect(old) as db:
        db.execute("UPDATE turns SET text = 'other' WHERE seat = 'attacker'")
    db.close()
    schema.migrate(str(old))
    with Store.open(old) as store:
        assert len(verify(store)[1]) == 4  # two turns and the transcripts that hold them


def test_attempts_that_are_added_later_are_under_the_hash(old):
    schema.migrate(str(old))
    with sqlite3.connect(old) as db:
        said = '[{"status": "200", "seconds": 1.0}]'
        db.execute("UPDATE turns SET attempts = ? WHERE seat = 'attacker'", [said])
    db.close()
    with Store.open(old) as store:
        assert len(verify(store)[1]) == 2


def test_a_copy_that_is_there_already_is_not_overwritten(old):
    kept = old.with_name("old.schema-4.sqlite")
    kept.write_text("precious")
    with pytest.raises(BadInput, match="is there already"):
        schema.migrate(str(old))
    assert kept.read_text() == "precious"
    assert "attempts" not in columns(old)


@pytest.mark.parametrize(("version", "error"), [("3", "that wrote it"), ("x", "that wrote it")])
def test_a_schema_from_which_no_way_leads_is_refused(old, version, error):
    with sqlite3.connect(old) as db:
        db.execute("UPDATE meta SET value = ?", [version])
    db.close()
    with pytest.raises(StoreError, match=error):
        schema.migrate(str(old))


def test_migrating_what_is_no_store_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no store here"):
        schema.migrate(str(tmp_path / "none.sqlite"))
    (tmp_path / "text.sqlite").write_text("text" * 1000)
    with pytest.raises(StoreError, match="not a store"):
        schema.migrate(str(tmp_path / "text.sqlite"))
    assert not list(tmp_path.glob("none*"))


def test_the_command_says_what_it_did(old, superalign):
    code, out, _ = superalign("migrate", old, "--json")
    kept = str(old.with_name("old.schema-4.sqlite"))
    assert (code, json.loads(out)) == (0, {"from": 4, "to": tables.SCHEMA, "kept": kept})
    code, out, _ = superalign("migrate", old)
    assert (code, out.strip()) == (0, f"schema {tables.SCHEMA}: nothing to do")
