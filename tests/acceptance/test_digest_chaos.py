"""
Schedulers that are killed while many digests are due, that wake up too late, or whose machine has another time: each
person has one digest per local date all the same. And what says so can say otherwise.

CARILLON_CHAOS_DIGESTS says how many are due at once (2000); `python -m benchmarks.digest` is the large form.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks.digest import furnish, subscribe
from tests.process import nodes

PEOPLE = int(os.environ.get("CARILLON_CHAOS_DIGESTS", "2000"))
TICK: dict[str, Any] = {"DIGEST_TICK": "0.2", "DIGEST_BATCH": "20", "HUB_DATABASE_CONNECTIONS": "3"}

#: Taken out, a second run of one person, date and slot can be committed.
UNGUARDED = "ALTER TABLE digest_runs DROP CONSTRAINT digest_runs_pkey"

#: Before each of several due runs is recorded, everybody waits for whoever else has taken the same rows.
SLOW = """
CREATE FUNCTION wait_a_moment() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE INSERT ON digest_runs FOR EACH STATEMENT EXECUTE FUNCTION wait_a_moment();
"""


@dataclass
class Town:
    """People who are all due, and how it is with them."""

    dsn: str
    connection: asyncpg.Connection[asyncpg.Record]

    async def due(self, ago: str = "0 seconds") -> None:
        await self.connection.execute(
            "UPDATE digest_subscriptions SET next_run_at = now() - $1::text::interval", ago
        )

    async def settled(self, runs: int, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while await self.connection.fetchval("SELECT count(*) FROM digest_runs") < runs:
                await asyncio.sleep(0.05)  # other processes: there is no event to await

    async def digests(self) -> dict[str, int]:
        """How many each person has."""
        rows = await self.connection.fetch(
            "SELECT s.user_id, count(n.id) AS count FROM digest_subscriptions s"
            " LEFT JOIN notifications n ON n.tenant_id = s.tenant_id AND n.user_id = s.user_id"
            " AND n.notification_type = 'digest' GROUP BY s.user_id"
        )
        return {row["user_id"]: row["count"] for row in rows}


@pytest.fixture
async def town(database: str) -> AsyncIterator[Town]:
    connection = await asyncpg.connect(database)
    await furnish(connection, PEOPLE)
    await subscribe(connection, 1, PEOPLE, "now() + interval '1 day'")
    yield Town(database, connection)
    await connection.close()


async def test_each_digest_comes_once_while_schedulers_are_killed(town: Town) -> None:
    async with nodes(town.dsn, 3, role="scheduler", allow_faults=True, **TICK) as (first, second, third):
        await town.due()
        await town.settled(PEOPLE // 5)
        await first.kill()
        await town.settled(PEOPLE * 2 // 5)
        await asyncio.gather(second.kill(), first.start())
        await town.settled(PEOPLE)
        await asyncio.gather(*(node.logged("ready") for node in (first, third)))
        await ticks()

    counts = await town.digests()
    assert len(counts) == PEOPLE
    assert set(counts.values()) == {1}
    states = await town.connection.fetch("SELECT state, count(*) FROM digest_runs GROUP BY state")
    assert [tuple(row) for row in states] == [("sent", PEOPLE)]
    entries = await town.connection.fetchval(
        "SELECT count(*) FROM stream_events e JOIN notifications n ON n.id = e.notification_id AND n.tenant_id = e.tenant_id"
        " WHERE n.notification_type = 'digest'"
    )
    deliveries = await town.connection.fetchval("SELECT count(*) FROM notification_deliveries")
    assert (entries, deliveries) == (PEOPLE, PEOPLE), "inbox and mail of each, together with its run"


async def ticks(count: int = 5) -> None:
    """Whoever would send one a second time has the time for it."""
    await asyncio.sleep(float(TICK["DIGEST_TICK"]) * count)


#: Rows as they were before each other's commit, and no lock: what a SELECT without FOR UPDATE sees.
CARELESS = """
import digest.store
text = digest.store.SQL["take_due"]
assert "FOR UPDATE SKIP LOCKED" in text
digest.store.SQL = {**digest.store.SQL, "take_due": text.replace("FOR UPDATE SKIP LOCKED", "")}
from app.__main__ import main
raise SystemExit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("is_guarded", [False, True], ids=["without the key", "with the key"])
async def test_without_lock_and_key_people_get_two_and_the_key_alone_prevents_it(
    town: Town, tmp_path: Path, *, is_guarded: bool
) -> None:
    """The mutant: the same count of digests goes wrong when nothing holds it."""
    await town.connection.execute(SLOW)
    if not is_guarded:
        await town.connection.execute(UNGUARDED)
    careless = tmp_path / "careless.py"
    careless.write_text(CARELESS)
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 60"
    )
    settings: dict[str, Any] = {**TICK, "DIGEST_BATCH": "60", "PYTHONPATH": str(Path(__file__).parents[2])}
    async with nodes(town.dsn, 3, role="scheduler", allow_faults=True, entry=(str(careless),), **settings):
        await town.due()
        await town.settled(60)
        await ticks(10)

    counts = await town.digests()
    assert (max(counts.values()) > 1) is not is_guarded
    assert min(counts.values()) >= 1


@pytest.mark.parametrize("off", ["+1d", "-1d"])
async def test_a_scheduler_whose_machine_is_a_day_off_sends_each_digest_once_and_on_time(
    town: Town, off: str
) -> None:
    """Due is what the database says: its own clock is beside the point."""
    library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    if not library.exists():
        pytest.skip("no libfaketime")
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 200"
    )
    await town.connection.execute(
        "UPDATE digest_subscriptions SET next_run_at = now() + interval '6 hours' WHERE user_id LIKE '%7'"
    )
    wrong: dict[str, Any] = {"LD_PRELOAD": str(library), "FAKETIME": off, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    async with (
        nodes(town.dsn, 1, role="scheduler", allow_faults=True, **TICK, **wrong),
        nodes(town.dsn, 1, role="scheduler", **TICK),
    ):
        await town.connection.execute(
            "UPDATE digest_subscriptions SET next_run_at = now() WHERE user_id NOT LIKE '%7'"
        )
        await town.settled(180)
        await ticks(10)

    counts = await town.digests()
    assert {name for name, count in counts.items() if count == 0} == {
        name for name in counts if name.endswith("7")
    }
    assert max(counts.values()) == 1
    ahead = await town.connection.fetch(
        "SELECT DISTINCT next_date - last_date AS days FROM digest_subscriptions WHERE last_date IS NOT NULL"
    )
    assert [row["days"] for row in ahead] == [1], "the next one is tomorrow's"


async def test_after_an_hour_without_schedulers_each_digest_comes_late_and_once(town: Town) -> None:
    await town.due("1 hour 10 minutes")
    await town.connection.execute(
        "UPDATE digest_subscriptions SET next_run_at = now() - interval '5 hours' WHERE user_id LIKE '%9'"
    )
    async with nodes(town.dsn, 2, role="scheduler", **TICK):
        await town.settled(PEOPLE)
        await ticks()

    counts = await town.digests()
    too_late = {name for name in counts if name.endswith("9")}
    assert {name for name, count in counts.items() if count == 0} == too_late
    assert max(counts.values()) == 1
    rows = await town.connection.fetch(
        "SELECT state, is_late, count(*) AS count FROM digest_runs GROUP BY 1, 2 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [
        ("sent", True, PEOPLE - len(too_late)),
        ("skipped_late", True, len(too_late)),
    ]
