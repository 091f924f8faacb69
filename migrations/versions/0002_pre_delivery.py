"""Recipients, the outbox with its attempts, receipts, preferences, the audit chain."""

from alembic import op

from migrations import run_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql(op, "0002_pre_delivery.sql")
