"""Digests: who wants one when, and every one that was due."""

from alembic import op

from migrations import run_sql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql(op, "0004_pre_digest.sql")
