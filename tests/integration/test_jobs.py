"""The scheduler role: what is due happens once, whoever and however many do it, and whoever dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from core.database import open_database
from core.errors import ServiceError
from core.streams import StreamKey
from delivery.draft import Users
from delivery.jobs import Jobs, JobsSettings
from delivery.tickets_store import Tickets
from hub.history_postgres import PostgresHistory
from tests.postgres import patient
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person, service

ADA = person("ada")
LATER = timedelta(hours=1)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


@pytest.fixture
def jobs(stores: Stores) -> Jobs:
    return jobs_of(stores)


def jobs_of(stores: Stores, **settings: Any) -> Jobs:
    return Jobs(stores.database, stores.heard, SystemClock(), JobsSettings(**settings))


def now() -> datetime:
    return datetime.now(UTC)


async def make_due(stores: Stores) -> None:
    await stores.query(
        "UPDATE notifications SET scheduled_for = now() - interval '1 second' WHERE status = 'scheduled'"
    )


async def age(stores: Stores, days: int) -> None:
    """Everything that is stored becomes so many days older."""
    past = f"interval '{days} days'"
    await stores.query(
        f"UPDATE notifications SET created_at = created_at - {past}, published_at = published_at - {past}"
    )
    await stores.query(f"UPDATE stream_events SET created_at = created_at - {past}")


async def test_a_scheduled_notification_is_published_when_it_is_due(stores: Stores, jobs: Jobs) -> None:
    later = now() + LATER
    scheduled = await stores.send(Users.of("ada", "bob"), scheduled_for=later)

    assert await jobs.publish_due() == 0
    await make_due(stores)
    assert await jobs.publish_due() == 1
    assert await jobs.publish_due() == 0

    assert [(entry.key.name, entry.kind) for entry in stores.heard.entries] == [
        ("user:ada", "notification"),
        ("user:bob", "notification"),
    ]
    page = await PostgresHistory(stores.database).read(StreamKey(TENANT_ID, "user:ada"), 0)
    assert list(page.entries) == stores.heard.entries[:1]
    [one] = (await stores.inbox.list(ADA)).notifications
    assert (one["id"], one["read"]) == (scheduled, False)


async def test_what_is_cancelled_is_never_published_and_what_is_published_never_cancelled(
    stores: Stores, jobs: Jobs
) -> None:
    scheduled = [await stores.send("ada", scheduled_for=now() + LATER) for _ in range(40)]
    await make_due(stores)

    results = await asyncio.gather(
        *(stores.notifications.cancel(service(), one) for one in scheduled),
        jobs.publish_due(),
        jobs_of(stores).publish_due(),
        return_exceptions=True,
    )

    await jobs.publish_due()
    cancelled = sum(getattr(result, "status", None) == "cancelled" for result in results[:40])
    conflicts = [result for result in results[:40] if isinstance(result, ServiceError)]
    assert {error.code for error in conflicts} <= {"conflict"}
    assert len(conflicts) == len(stores.heard.entries) == 40 - cancelled


async def test_two_schedulers_publish_each_once_though_one_dies(stores: Stores, database: str) -> None:
    for n in range(300):
        await stores.send("ada" if n % 3 else "*", scheduled_for=now() + LATER)
    await make_due(stores)
    doomed = await open_database(patient(database))
    dying = asyncio.create_task(
        Jobs(doomed, stores.heard, SystemClock(), JobsSettings(scheduler_batch=7)).publish_due()
    )
    alive = [jobs_of(stores, scheduler_batch=7) for _ in range(2)]
    living = [asyncio.create_task(one.publish_due()) for one in alive]

    while not stores.heard.entries:
        await asyncio.sleep(0)
    await stores.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        " AND pid <> pg_backend_pid() AND query LIKE '%take_due%' OR pid = ANY ("
        " SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database())"
    )
    await asyncio.gather(dying, *living, return_exceptions=True)
    await jobs_of(stores).publish_due()

    history = PostgresHistory(stores.database)
    events = []
    for name in ("user:ada", "tenant"):
        rows = await stores.query(
            "SELECT seq, notification_id FROM stream_events WHERE stream = $1 ORDER BY seq", name
        )
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        assert (await history.read(StreamKey(TENANT_ID, name), 0)).broken is False
        events += [row["notification_id"] for row in rows]
    assert len(events) == len(set(events)) == 300
    await doomed.close()


async def test_what_has_expired_before_its_time_is_cancelled(stores: Stores, jobs: Jobs) -> None:
    one = await stores.send("ada", scheduled_for=now() + LATER, expires_at=now() + 2 * LATER)
    await make_due(stores)
    await stores.query("UPDATE notifications SET expires_at = now()")

    assert await jobs.publish_due() == 0

    assert (await stores.notifications.get(service(), one)).status == "cancelled"
    assert stores.heard.entries == []


async def test_a_due_notification_replaces_the_one_before_it(stores: Stores, jobs: Jobs) -> None:
    later = await stores.send("ada", scheduled_for=now() + LATER, collapse_key="k")
    first = await stores.send("ada", collapse_key="k")
    await make_due(stores)

    await jobs.publish_due()

    assert [one["id"] for one in (await stores.inbox.list(ADA)).notifications] == [later]
    assert json.loads(stores.heard.entries[-1].payload)["notification_id"] == str(first)


async def test_devices_are_told_once_that_a_snooze_is_over(stores: Stores, jobs: Jobs) -> None:
    sent = [await stores.send("ada") for _ in range(3)]
    await stores.inbox.change(ADA, "snoozed", sent[:2], until=now() + LATER)
    assert await jobs.wake_snoozed() == 0
    await stores.query("UPDATE notification_receipts SET snoozed_until = now()")

    woken = await asyncio.gather(*(jobs_of(stores).wake_snoozed() for _ in range(4)))

    assert sum(woken) == 2
    told = [json.loads(entry.payload) for entry in stores.heard.entries if entry.kind == "unread"]
    assert [set(one["notification_ids"]) for one in told] == [{str(one) for one in sent[:2]}]
    assert await stores.inbox.unread_count(ADA) == 3


async def test_two_schedulers_that_wake_the_same_person_tell_once(stores: Stores) -> None:
    one = await stores.send("ada")
    await stores.inbox.change(ADA, "snoozed", [one], until=now() + LATER)
    await stores.query("UPDATE notification_receipts SET snoozed_until = now()")
    async with stores.database.transaction() as connection:
        await connection.execute("SELECT FROM notification_receipts FOR UPDATE")
        both = [asyncio.create_task(jobs_of(stores).wake_snoozed()) for _ in range(2)]
        await stores.somebody_waits(people=2)

    assert sum(await asyncio.gather(*both)) == 1
    assert [entry.kind for entry in stores.heard.entries].count("unread") == 1


async def test_retention_takes_away_what_is_too_old_and_nothing_else(stores: Stores) -> None:
    old = [await stores.send("ada") for _ in range(25)]
    await stores.inbox.change(ADA, "read", old[:5])
    waits = await stores.send("ada", scheduled_for=now() + timedelta(days=400))
    await age(stores, 91)
    young = await stores.send("ada")

    removed = await jobs_of(stores, retention_batch=10).retain()

    assert removed is not None
    assert (removed.events, removed.notifications, removed.receipts) == (26, 25, 5)
    left = {row["id"] for row in await stores.query("SELECT id FROM notifications")}
    assert left == {young, waits}
    history = PostgresHistory(stores.database)
    assert (await history.read(StreamKey(TENANT_ID, "user:ada"), 3)).broken
    assert [entry.seq for entry in (await history.read(StreamKey(TENANT_ID, "user:ada"), 26)).entries] == [27]


async def test_retention_leaves_a_stream_without_a_hole(stores: Stores) -> None:
    """The second event began before the cutoff, but a later one of its stream is older still."""
    for _ in range(4):
        await stores.send("ada")
    await stores.query(
        "UPDATE stream_events SET created_at = now() - CASE seq"
        " WHEN 1 THEN interval '95 days' WHEN 2 THEN interval '89 days' WHEN 3 THEN interval '91 days'"
        " ELSE interval '0 days' END"
    )

    await jobs_of(stores).retain()

    assert [row["seq"] for row in await stores.query("SELECT seq FROM stream_events")] == [4]


async def test_a_tenant_may_keep_longer_and_a_legal_hold_keeps_everything(stores: Stores) -> None:
    for tenant_id in ("default", "long", "held"):
        await stores.send("ada", service(tenant_id=tenant_id), tenant_id=tenant_id)
    await age(stores, 100)
    await stores.query("INSERT INTO tenant_settings (tenant_id, retention_days) VALUES ('long', 365)")
    await stores.query("INSERT INTO tenant_settings (tenant_id, legal_hold) VALUES ('held', true)")

    await jobs_of(stores).retain()

    rows = await stores.query("SELECT tenant_id FROM notifications ORDER BY tenant_id")
    assert [row["tenant_id"] for row in rows] == ["held", "long"]


async def test_retention_runs_once_a_day_whoever_is_asked(stores: Stores) -> None:
    many = [jobs_of(stores) for _ in range(5)]

    first = await asyncio.gather(*(one.retain() for one in many))
    again = await asyncio.gather(*(one.retain() for one in many))
    await stores.query("UPDATE scheduler_jobs SET last_run_at = last_run_at - interval '1 day'")
    tomorrow = await asyncio.gather(*(one.retain() for one in many))

    assert [sum(result is not None for result in results) for results in (first, again, tomorrow)] == [
        1,
        0,
        1,
    ]


async def test_a_scheduler_that_died_over_retention_is_succeeded(stores: Stores) -> None:
    await stores.query(
        "INSERT INTO scheduler_jobs (name, leased_by, leased_until) VALUES ('retention', 'dead', now() + interval '1 hour')"
    )

    assert await jobs_of(stores).retain() is None
    await stores.query("UPDATE scheduler_jobs SET leased_until = now()")
    assert await jobs_of(stores).retain() is not None


async def test_used_up_tickets_keys_and_revocations_go_too(stores: Stores) -> None:
    await Tickets(stores.database, timedelta(0)).issue(ADA)
    await Tickets(stores.database).issue(ADA)
    await stores.query(
        "INSERT INTO idempotency_keys SELECT 't', 'c', n::text, '', 201, '', now() - n * interval '24 hours'"
        " FROM generate_series(1, 3) AS n"
    )
    await stores.query(
        "INSERT INTO token_revocations (tenant_id, token_id, expires_at) VALUES ('t', 'a', now()), ('t', 'b', 'infinity')"
    )

    removed = await jobs_of(stores).retain()

    assert removed is not None
    assert (removed.tickets, removed.keys, removed.revocations) == (1, 2, 1)


async def delivered(stores: Stores, tenant_id: str = TENANT_ID, *, state: str = "delivered") -> None:
    """A delivery with an attempt, what the provider said of it, an answer to it, and what a sandbox kept."""
    sender = service(tenant_id=tenant_id)
    await stores.send("ada", sender, tenant_id=tenant_id, channels=("sms",))
    await stores.query(
        "UPDATE notification_deliveries SET state = $2, finished_at = CASE WHEN $2 <> 'queued' THEN now() END"
        " WHERE tenant_id = $1",
        tenant_id,
        state,
    )
    for statement in (
        "INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker)"
        " SELECT tenant_id, id, 1, 'w' FROM notification_deliveries WHERE tenant_id = $1",
        "INSERT INTO provider_events (provider, event_id, status, tenant_id, delivery_id)"
        " SELECT 'twilio', id::text, 'delivered', tenant_id, id FROM notification_deliveries WHERE tenant_id = $1",
        "INSERT INTO inbound_messages (tenant_id, id, user_id, channel, provider, provider_id, kind, sealed)"
        " VALUES ($1, gen_random_uuid(), 'ada', 'sms', 'twilio', 'SM1', 'reply', '')",
        "INSERT INTO sandbox_messages (tenant_id, id, delivery_id, channel, hint, sealed)"
        " SELECT tenant_id, gen_random_uuid(), id, 'sms', '', '' FROM notification_deliveries WHERE tenant_id = $1",
        "INSERT INTO delivery_broadcasts (tenant_id, notification_id, channels, state, finished_at)"
        " VALUES ($1, gen_random_uuid(), '{sms}', 'done', now())",
    ):
        await stores.query(statement, tenant_id)


_DELIVERY_TABLES = {
    "notification_deliveries": "created_at",
    "delivery_attempts": "started_at",
    "provider_events": "received_at",
    "inbound_messages": "received_at",
    "sandbox_messages": "captured_at",
    "delivery_broadcasts": "created_at",
}


async def age_deliveries(stores: Stores, days: int) -> None:
    for table, column in _DELIVERY_TABLES.items():
        await stores.query(f"UPDATE {table} SET {column} = {column} - interval '{days} days'")


async def kept(stores: Stores, tenant_id: str = TENANT_ID) -> set[str]:
    """The tables that still have rows of a tenant."""
    return {
        table
        for table in _DELIVERY_TABLES
        if await stores.query(f"SELECT FROM {table} WHERE tenant_id = $1", tenant_id)
    }


async def test_deliveries_go_with_their_attempts_and_all_that_was_said_about_them(stores: Stores) -> None:
    await delivered(stores)
    await age_deliveries(stores, 91)
    await stores.send("bob", channels=("sms",))

    removed = await jobs_of(stores, retention_batch=1).retain()

    assert removed is not None
    assert (
        removed._asdict()
        | {
            "deliveries": 1,
            "reports": 1,
            "broadcasts": 1,
            "inbound": 1,
            "captured": 1,
        }
        == removed._asdict()
    )
    assert [row["user_id"] for row in await stores.query("SELECT user_id FROM notification_deliveries")] == [
        "bob"
    ]
    assert await kept(stores) == {"notification_deliveries"}


async def test_what_is_young_is_open_or_under_legal_hold_stays(stores: Stores) -> None:
    await delivered(stores)
    await age_deliveries(stores, 89)
    assert await jobs_of(stores).retain() is not None
    assert await kept(stores) == {*_DELIVERY_TABLES}

    await delivered(stores, "held")
    await delivered(stores, "open", state="queued")
    await stores.query("INSERT INTO tenant_settings (tenant_id, legal_hold) VALUES ('held', true)")
    await age_deliveries(stores, 91)
    await stores.query("UPDATE scheduler_jobs SET last_run_at = last_run_at - interval '1 day'")
    assert await jobs_of(stores).retain() is not None

    assert await kept(stores) == set()
    assert await kept(stores, "held") == {*_DELIVERY_TABLES}
    assert await kept(stores, "open") == {"notification_deliveries", "delivery_attempts", "provider_events"}


async def test_links_codes_and_reports_about_nobody_go_when_their_time_is_over(stores: Stores) -> None:
    for statement in (
        "INSERT INTO telegram_links VALUES ('\\x00', 't', 'ada', now()), ('\\x01', 't', 'ada', 'infinity')",
        "INSERT INTO recipients (tenant_id, user_id) VALUES ('t', 'ada')",
        "INSERT INTO recipient_addresses (tenant_id, id, user_id, channel, sealed, lookup, hint)"
        " SELECT 't', ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'ada', 'sms', '', substr(sha256(n::text::bytea), 1, 16), ''"
        " FROM generate_series(1, 2) n",
        "INSERT INTO address_verifications (tenant_id, address_id, code_hash, expires_at)"
        " SELECT tenant_id, id, '', CASE WHEN id::text LIKE '%1' THEN now() ELSE 'infinity' END FROM recipient_addresses",
        "INSERT INTO provider_events (provider, event_id, status, received_at)"
        " VALUES ('twilio', 'a', 'x', now() - interval '91 days'), ('twilio', 'b', 'x', now())",
    ):
        await stores.query(statement)

    removed = await jobs_of(stores).retain()

    assert removed is not None
    assert (removed.links, removed.codes, removed.reports) == (1, 1, 1)


async def test_a_job_that_is_cut_short_by_the_end_is_no_fault(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_of(stores, scheduler_tick=timedelta(milliseconds=20))
    begun: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()

    async def endless() -> None:
        if (task := asyncio.current_task()) is not None and not begun.done():
            begun.set_result(task)
        await asyncio.Event().wait()

    jobs.retain = endless  # type: ignore[method-assign]  # a job that is always under way
    running = asyncio.create_task(jobs.run())
    job = await begun

    running.cancel()
    await asyncio.gather(running, job, return_exceptions=True)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_scheduler_ticks_until_it_is_stopped_and_outlives_an_outage(stores: Stores) -> None:
    jobs = jobs_of(stores, scheduler_tick=timedelta(milliseconds=20))
    running = asyncio.create_task(jobs.run())
    await stores.query("ALTER TABLE scheduler_jobs RENAME TO away")
    while jobs.stats.failures == 0:
        await asyncio.sleep(0.01)
    await stores.query("ALTER TABLE away RENAME TO scheduler_jobs")

    await stores.send("ada", scheduled_for=now() + LATER)
    await make_due(stores)
    async with asyncio.timeout(60):
        while jobs.stats.published == 0:
            await asyncio.sleep(0.01)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (jobs.stats.published, len(stores.heard.entries)) == (1, 1)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"retention_days": 0}, {"retention_at": timedelta(days=1)}, {"scheduler_batch": 0}):
        with pytest.raises(ValueError):
            JobsSettings(**wrong)
