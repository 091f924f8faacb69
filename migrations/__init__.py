"""
The schema, as Alembic revisions that hold SQL.

A revision is two files: `versions/0007_pre_add_lease.py` and, beside it, the `.sql` it runs. `pre` runs before
the new code starts, `post` after the old is gone; both codes work with the schema between. There is no way back.
"""

from pathlib import Path
from types import ModuleType

from alembic import context
from sqlalchemy.util import await_only

SQL = Path(__file__).parent / "versions"


def run_sql(op: ModuleType, file: str) -> None:
    """
    Run a file of `versions` within the transaction of the revision; it may hold any number of statements.

    op: `alembic.op`, as the revision imports it.

    SQLAlchemy prepares whatever it sends through asyncpg, and PostgreSQL prepares one statement at a time. So the
    file goes to the driver itself, in the simple protocol. With `--sql` it is printed instead.
    """
    script = (SQL / file).read_text(encoding="utf-8")
    if context.is_offline_mode():
        op.get_context().impl.static_output(script)  # op.execute would double every percent sign
        return
    connection = op.get_bind()
    connection.exec_driver_sql(
        "SELECT 1"
    )  # SQLAlchemy begins a transaction with the first statement of its own
    driver = connection.connection.driver_connection
    assert driver is not None, "a connection that is in a transaction has a driver connection"
    await_only(driver.execute(script))
