"""Schema 6: turns hold what a model wrote for itself before its text."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "6", "5"


def upgrade() -> None:
    kind = sa.Text(collation="C").with_variant(sa.Text(), "sqlite")
    op.add_column("turns", sa.Column("reasoning", kind, nullable=False, server_default=""))
