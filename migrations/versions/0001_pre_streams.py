"""Streams, notifications and what people did with them; identities; the scheduler's jobs."""

from alembic import op

from migrations import run_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql(op, "0001_pre_streams.sql")
