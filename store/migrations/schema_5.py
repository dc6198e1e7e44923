"""Schema 5: turns and evaluations hold the attempts that an endpoint was sent for them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "5", "4"


def upgrade() -> None:
    kind = sa.Text(collation="C").with_variant(sa.Text(), "sqlite")
    for table in ("turns", "evaluations"):
        op.add_column(table, sa.Column("attempts", kind, nullable=False, server_default="[]"))
