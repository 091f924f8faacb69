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


@pytest.mark.parametrize("count", [2, 5, 20])
async def test_of_any_number_of_schedulers_one_may_die(town: Town, count: int) -> None:
    settings: dict[str, Any] = {**TICK, "HUB_DATABASE_CONNECTIONS": "2"}
    async with nodes(town.dsn, count, role="scheduler", allow_faults=True, **settings) as [first, *_]:
        await town.due()
        await town.settled(PEOPLE // 5, 180)
        await first.kill()
        await town.settled(PEOPLE, 180)
        await ticks()

    counts = await town.digests()
    assert (len(counts), set(counts.values())) == (PEOPLE, {1})


def wrong(off: str) -> dict[str, Any]:
    """The environment of a process whose clock is so far off (libfaketime)."""
    library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    if not library.exists():
        pytest.skip("no libfaketime")
    return {"LD_PRELOAD": str(library), "FAKETIME": off, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


async def ticks(count: int = 5) -> None:
    """Whoever would send one a second time has the time for it."""
    await asyncio.sleep(float(TICK["DIGEST_TICK"]) * count)


#: Nor does it ask for the key, which is not there.
KEYLESS = """
assert "ON CONFLICT" in digest.store.SQL["record"]
digest.store.SQL["record"] = digest.store.SQL["record"].partition("ON CONFLICT")[0]
"""

#: Rows as they were before each other's commit, and no lock: what a SELECT without FOR UPDATE sees. Whoever has taken
#: some waits until another has the same, so that both are at it however long a machine stands still.
CARELESS = """
import asyncio
import digest.store
text = digest.store.SQL["take_due"]
assert "FOR UPDATE SKIP LOCKED" in text
digest.store.SQL = {**digest.store.SQL, "take_due": text.replace("FOR UPDATE SKIP LOCKED", "")}
real = digest.store.Digests.take_due
async def take_due(self, connection, limit):
    due = await real(self, connection, limit)
    if due.people:
        await connection.execute("SELECT nextval('taken')")
        while await connection.fetchval("SELECT last_value FROM taken") < 2:
            await asyncio.sleep(0.02)
    return due
digest.store.Digests.take_due = take_due
{also}from app.__main__ import main
raise SystemExit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("is_guarded", [False, True], ids=["without the key", "with the key"])
async def test_without_lock_and_key_people_get_two_and_the_key_alone_prevents_it(
    town: Town, tmp_path: Path, *, is_guarded: bool
) -> None:
    """The mutant: the same count of digests goes wrong when nothing holds it."""
    await town.connection.execute("CREATE SEQUENCE taken")
    if not is_guarded:
        await town.connection.execute(UNGUARDED)
    careless = tmp_path / "careless.py"
    careless.write_text(CARELESS.replace("{also}", "" if is_guarded else KEYLESS))
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 60"
    )
    settings: dict[str, Any] = {**TICK, "DIGEST_BATCH": "60", "PYTHONPATH": str(Path(__file__).parents[2])}
    async with nodes(town.dsn, 3, role="scheduler", allow_faults=True, entry=(str(careless),), **settings):
        await town.due()
        await town.settled(60 if is_guarded else 120)
        await ticks(10)

    counts = await town.digests()
    assert (max(counts.values()) > 1) is not is_guarded
    assert min(counts.values()) >= 1


#: What is sent is committed before the run that says so; in between a scheduler may die.
APART = """
import asyncio
import digest.job as job
real, init, made = job.write, job.DigestJob.__init__, []
def remembering(self, database, *given, **named):
    made.append(database)
    init(self, database, *given, **named)
async def apart(connection, orders, key_life):
    async with made[0].transaction() as own:
        written = await real(own, orders, key_life)
    await asyncio.sleep(10)
    return written
job.DigestJob.__init__, job.write = remembering, apart
from app.__main__ import main
raise SystemExit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("is_apart", [True, False], ids=["two transactions", "one transaction"])
async def test_a_scheduler_that_dies_between_two_transactions_would_have_sent_what_is_sent_again(
    town: Town, tmp_path: Path, *, is_apart: bool
) -> None:
    """The mutant: as it is, whoever dies while others see its digests has recorded them too."""
    apart = tmp_path / "apart.py"
    apart.write_text(APART)
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 60"
    )
    settings: dict[str, Any] = {
        **TICK,
        "HUB_DATABASE_CONNECTIONS": "8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    if is_apart:
        settings["entry"] = (str(apart),)
    async with nodes(town.dsn, 1, role="scheduler", allow_faults=True, **settings) as [node]:
        await town.due()
        async with asyncio.timeout(60):
            while max((await town.digests()).values()) == 0:
                await asyncio.sleep(0.01)  # another process: there is no event to await
        await node.kill()
    async with nodes(town.dsn, 1, role="scheduler", **TICK):
        await town.settled(60)
        await ticks()

    counts = await town.digests()
    assert (max(counts.values()) > 1) is is_apart
    assert min(counts.values()) >= 1


#: Due is what the scheduler's own clock says.
OWN_CLOCK = """
from datetime import UTC, datetime
from digest.store import SQL, Digests
async def take_due(self, connection, limit):
    text = SQL["take_due"].replace("<= now()", f"<= '{datetime.now(UTC).isoformat()}'")
    return await self._due(connection, await connection.fetch(text, limit))
assert "<= now()" in SQL["take_due"]
Digests.take_due = take_due
from app.__main__ import main
raise SystemExit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize(
    ("off", "by_own_clock"), [("+5s", False), ("-5s", False), ("+5s", True)], ids=["+5s", "-5s", "mutant"]
)
async def test_a_scheduler_whose_clock_is_seconds_off_sends_each_digest_once_and_none_before_its_time(
    town: Town, tmp_path: Path, off: str, *, by_own_clock: bool
) -> None:
    """People are due one after the other, so that five seconds too early would show."""
    mutant = tmp_path / "own_clock.py"
    mutant.write_text(OWN_CLOCK)
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 120"
    )
    settings: dict[str, Any] = {**TICK, **wrong(off), "PYTHONPATH": str(Path(__file__).parents[2])}
    if by_own_clock:
        settings["entry"] = (str(mutant),)
    async with (
        nodes(town.dsn, 1, role="scheduler", allow_faults=True, **settings),
        nodes(town.dsn, 1, role="scheduler", **TICK),
    ):
        await town.connection.execute(
            "UPDATE digest_subscriptions"
            " SET next_run_at = now() + split_part(user_id, '-', 2)::int * interval '0.1 seconds'"
        )
        await town.connection.execute(
            "CREATE TABLE promised AS SELECT user_id, next_run_at FROM digest_subscriptions"
        )
        await town.settled(120)
        await ticks()

    early = await town.connection.fetchval(
        "SELECT count(*) FROM digest_runs r JOIN promised p ON p.user_id = r.user_id WHERE r.ran_at < p.next_run_at"
    )
    assert (early > 0) is by_own_clock
    counts = await town.digests()
    assert (len(counts), set(counts.values())) == (120, {1})


@pytest.mark.parametrize("by_own_clock", [False, True], ids=["the database's clock", "mutant"])
@pytest.mark.parametrize("off", ["+1d", "-1d"])
async def test_a_scheduler_whose_machine_is_a_day_off_sends_each_digest_once_and_on_time(
    town: Town, tmp_path: Path, off: str, *, by_own_clock: bool
) -> None:
    """
    Due is what the database says: its own clock is beside the point. It is alone until all of them should have been
    served. A mutant that goes by its own clock is a day too early for some, or has served nobody.
    """
    mutant = tmp_path / "own_clock.py"
    mutant.write_text(OWN_CLOCK)
    await town.connection.execute(
        "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 200"
    )
    await town.connection.execute(
        "UPDATE digest_subscriptions SET next_run_at = now() + interval '6 hours' WHERE user_id LIKE '%7'"
    )
    due = {name for name in await town.digests() if not name.endswith("7")}
    settings: dict[str, Any] = {**TICK, **wrong(off), "PYTHONPATH": str(Path(__file__).parents[2])}
    runs = len(due)
    if by_own_clock:
        settings["entry"] = (str(mutant),)
        runs = 200 if off == "+1d" else 0
    async with nodes(town.dsn, 1, role="scheduler", allow_faults=True, **settings):
        await town.connection.execute(
            "UPDATE digest_subscriptions SET next_run_at = now() WHERE user_id NOT LIKE '%7'"
        )
        await town.settled(runs)
        await ticks(10)
        served = {name for name, count in (await town.digests()).items() if count > 0}
        if not by_own_clock:
            async with nodes(town.dsn, 1, role="scheduler", **TICK):
                await ticks(10)

    assert (served == due) is not by_own_clock
    if by_own_clock:
        return
    counts = await town.digests()
    assert counts == {name: int(name in due) for name in counts}
    ahead = await town.connection.fetch(
        "SELECT DISTINCT next_date - last_date AS days FROM digest_subscriptions WHERE last_date IS NOT NULL"
    )
    assert [row["days"] for row in ahead] == [1], "the next one is tomorrow's"


#: What was missed is missed, as for a ticker that lets a job be late by some seconds.
FORGETFUL = """
import digest.store
text = digest.store.SQL["take_due"]
assert "<= now()" in text
late = "BETWEEN now() - interval '10 seconds' AND now()"
digest.store.SQL = {**digest.store.SQL, "take_due": text.replace("<= now()", late)}
from app.__main__ import main
raise SystemExit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("flaw", ["", "forgets what it has missed", "knows no too late"])
async def test_after_an_hour_without_schedulers_each_digest_comes_late_and_once(
    town: Town, tmp_path: Path, flaw: str
) -> None:
    """One that was to come five hours ago is skipped. Two mutants tell nobody, and somebody too late."""
    settings: dict[str, Any] = {**TICK, "PYTHONPATH": str(Path(__file__).parents[2])}
    if flaw:
        await town.connection.execute(
            "DELETE FROM digest_subscriptions WHERE split_part(user_id, '-', 2)::int > 200"
        )
    runs = len(await town.digests())
    if flaw.startswith("forgets"):
        forgetful = tmp_path / "forgetful.py"
        forgetful.write_text(FORGETFUL)
        settings["entry"] = (str(forgetful),)
        runs = 0
    elif flaw:
        settings["DIGEST_CATCH_UP"] = "31536000"
    await town.due("1 hour 10 minutes")
    await town.connection.execute(
        "UPDATE digest_subscriptions SET next_run_at = now() - interval '5 hours' WHERE user_id LIKE '%9'"
    )
    async with nodes(town.dsn, 2, role="scheduler", **settings):
        await town.settled(runs)
        await ticks(10 if flaw else 5)

    counts = await town.digests()
    rows = await town.connection.fetch("SELECT state, user_id FROM digest_runs WHERE is_late")
    late = {(row["state"], row["user_id"]) for row in rows}
    too_late = {name for name in counts if name.endswith("9")}
    as_promised = {("skipped_late" if name in too_late else "sent", name) for name in counts}
    assert (late == as_promised) is (not flaw)
    assert (counts == {name: int(name not in too_late) for name in counts}) is (not flaw)
    remembered = await town.connection.fetch(
        "SELECT subject FROM audit_log WHERE action = 'digest.skipped_late'"
    )
    skipped = {f"recipient:{name}" for state, name in late if state == "skipped_late"}
    assert sorted(row["subject"] for row in remembered) == sorted(skipped)
