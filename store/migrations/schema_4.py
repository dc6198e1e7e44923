"""Schema 4: the first that migrations know. It stays as it is, whatever `tables.py` becomes."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "4", None

TYPES = {
    "name": sa.Text(collation="C").with_variant(sa.String(), "sqlite"),
    "text": sa.Text(collation="C").with_variant(sa.Text(), "sqlite"),
    "integer": sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    "real": sa.Float(),
}
TABLES = {
    "meta": """
        name* value
    """,
    "runs": """
        id* scenario:text origin:text protocol_hash version parent? author reason:text at:real
        record_hash
    """,
    "messages": """
        role content:text hash*
    """,
    "turns": """
        run* episode* key* seat kind text:text visible_to:text? trainable:integer source policy
        messages:text sampling:text seed:integer token_ids:text? logprobs:text? finish
        error:text? normalised:integer prompt_tokens:integer seconds:real at:real
        record_hash
    """,
    "episodes": """
        run* id* index:integer iteration:integer protocol protocol_hash params:text task:text
        seed:integer status error:text? question:text rewards:text truth:text? facts:text
        parent? fork? tags:text seconds:real transcript_hash chain record_hash
    """,
    "critiques": """
        run* episode* turn* about* fault:integer? confidence:real? record_hash
    """,
    "verdicts": """
        run* episode* value:text seat turn? confidence:real? answer:text? record_hash
    """,
    "labels": """
        run* episode* turn* author* correct:integer source why note:text seconds:real? at:real
        record_hash
    """,
    "rows": """
        run* id* kind seat prompt:text replies:text rewards:text? token_ids:text?
        token_rewards:text? flip_prob:real source judge turns:text iteration:integer record_hash
    """,
    "versions": """
        run* id* seat parent? method config:text rows? path:text iteration:integer metrics:text
        record_hash
    """,
    "versionrows": """
        run* version* row* record_hash
    """,
    "evaluations": """
        run* policy* item* iteration:integer cell text:text correct:integer tokens:integer
        record_hash
    """,
    "scores": """
        run* episode* name* author reason:text at:real verdict:text? rewards:text error:text?
        record_hash
    """,
    "cases": """
        run* episode* turn* seat kind why raters:integer messages:text at:real record_hash
    """,
    "retractions": """
        run* row* author reason:text at:real record_hash
    """,
}
"""Columns as `name:type`, then `?` where it may be NULL, and `*` where it is part of the key."""


def upgrade() -> None:
    for table, columns in TABLES.items():
        op.create_table(table, *map(column, columns.split()))
    op.create_index("episodes_by_iteration", "episodes", ["run", "iteration", "index"])
    meta = sa.table("meta", sa.column("name"), sa.column("value"))
    op.bulk_insert(meta, [{"name": "schema", "value": revision}])


def column(spelt: str) -> sa.Column:
    name, _, kind = spelt.rstrip("?*").partition(":")
    key = spelt.endswith("*")
    return sa.Column(name, TYPES[kind or "name"], primary_key=key, nullable="?" in spelt)
