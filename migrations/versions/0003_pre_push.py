"""Web Push: keys, subscriptions, what was sent to which of them."""

from alembic import op

from migrations import run_sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql(op, "0003_pre_push.sql")
