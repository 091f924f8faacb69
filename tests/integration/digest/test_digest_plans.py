"""
What a claim costs is what is due, whatever the statistics say. Plans are those of the service's own connections.
"""

from __future__ import annotations

import re

import asyncpg
import pytest

from benchmarks.digest import subscribe
from core.database import open_database
from digest.store import SQL
from tests.postgres import patient

PEOPLE = 20_000

#: Runs of yesterday, by which the statistics know what the table looks like.
YESTERDAY = """
INSERT INTO digest_runs (tenant_id, user_id, local_date, slot, state, due_at, timezone, after, until)
SELECT 'bench', 'person-' || n, current_date - 1, 0, 'skipped_empty', now() - interval '1 day', 'UTC', '{}', '{}'
FROM generate_series(1, 20000) AS n
"""


async def plan(dsn: str) -> list[str]:
    """Of the claim, as a connection of the service runs it."""
    database = await open_database(patient(dsn))
    try:
        async with database.connection() as connection:
            await connection.execute("PREPARE claim (int) AS " + SQL["take_due"])
            lines = [row[0] for row in await connection.fetch("EXPLAIN EXECUTE claim (200)")]
            await connection.execute("DEALLOCATE claim")
            return lines
    finally:
        await database.close()


@pytest.mark.parametrize("people", [50, PEOPLE])
@pytest.mark.parametrize("is_due", [False, True], ids=["nobody is due", "everybody is due"])
@pytest.mark.parametrize("past", ["", YESTERDAY], ids=["no run yet", "a day of runs"])
async def test_a_claim_reads_the_indexes_that_hold_what_is_due_and_sorts_nothing(
    database: str, people: int, past: str, *, is_due: bool
) -> None:
    """Whatever the moment at which the statistics were gathered."""
    connection = await asyncpg.connect(database)
    if past:
        await connection.execute(past)
    await connection.execute("VACUUM ANALYZE")
    hours = -1 if is_due else 1
    await subscribe(connection, 1, people, f"now() + {hours} * (1 + 20 * random()) * interval '1 hour'")
    await connection.close()

    lines = "\n".join(await plan(database))

    read = set(re.findall(r"Index (?:Only )?Scan using (\w+)", lines))
    assert read == {"idx_digest_subscriptions_due", "digest_runs_pkey", "tenant_settings_pkey"}, lines
    assert not re.search("Seq Scan|Bitmap|Sort|Hash", lines), lines
    assert "Index Cond: (next_run_at <=" in lines
    assert re.search(r"Index Cond: .*user_id.*local_date.*slot", lines), lines
