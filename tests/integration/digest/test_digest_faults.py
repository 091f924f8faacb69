"""One person whose digest cannot be made keeps back nobody else's, and is not tried in vain at every tick."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
import structlog

from core.clock import SystemClock
from digest.job import DigestJob
from digest.store import DigestSettings
from digest.summary import Digest
from tests.integration.digest.test_digest_job import Desk
from tests.integration.digest.test_digest_job import words as plain_words
from tests.stores import open_stores

OTHERS = ("bob", "eve", "zoe")


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


async def subscribed(desk: Desk, **wanted: Any) -> None:
    """Ada, whose turn is before that of the others, and what all of them are to be told."""
    for name in ("ada", *OTHERS):
        await desk.subscribe(name, **wanted)
    await desk.stores.send("*", title="for all")
    await desk.due_now(timedelta(minutes=1))
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = next_run_at - interval '1 minute' WHERE user_id = 'ada'"
    )


async def refuse(desk: Desk, table: str, change: str, condition: str) -> None:
    """From now on the database does not let this happen to a table."""
    await desk.stores.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {condition} THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$"
    )
    await desk.stores.query(
        f"CREATE TRIGGER refuse BEFORE {change} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


async def states(desk: Desk) -> dict[str, str]:
    return {row["user_id"]: row["state"] for row in await desk.runs()}


async def is_due(desk: Desk) -> bool:
    """Whether Ada's turn is still to come at the next tick."""
    return bool(
        await desk.stores.query(
            "SELECT FROM digest_subscriptions WHERE user_id = 'ada' AND next_run_at <= now()"
        )
    )


FAULTS = [
    ("notifications", "INSERT", "NEW.notification_type = 'digest' AND NEW.metadata::text LIKE '%user:ada%'"),
    ("digest_runs", "INSERT", "NEW.user_id = 'ada' AND NEW.state = 'sent'"),
]


@pytest.mark.parametrize("batch", [200, 2, 1])
@pytest.mark.parametrize(("table", "change", "condition"), FAULTS)
async def test_what_the_database_refuses_of_one_is_recorded_and_the_others_have_theirs(
    desk: Desk, table: str, change: str, condition: str, batch: int
) -> None:
    await subscribed(desk)
    await refuse(desk, table, change, condition)
    job = desk.another_job(batch=batch)

    with structlog.testing.capture_logs() as logs:
        assert await job.run_due() == 4

    assert await states(desk) == {"ada": "failed", **dict.fromkeys(OTHERS, "sent")}
    assert (job.stats.failed, job.stats.sent) == (1, 3)
    assert sum(line["event"] == "digest_failed" for line in logs) == 1
    assert len(desk.stores.heard.entries) == 4, "each digest is told of once, and the notification for all"
    assert not await is_due(desk)


async def test_what_a_failed_digest_would_have_held_stands_in_the_next_one(desk: Desk) -> None:
    await subscribed(desk)
    await refuse(desk, *FAULTS[1])
    await desk.job.run_due()
    await desk.stores.query("DROP TRIGGER refuse ON digest_runs")

    await desk.due_now()
    await desk.job.run_due()

    rows = await desk.stores.query(
        "SELECT state, total FROM digest_runs WHERE user_id = 'ada' ORDER BY local_date"
    )
    assert [tuple(row) for row in rows] == [("failed", 0), ("sent", 1)]


@pytest.mark.parametrize("batch", [200, 1])
async def test_of_whom_not_even_a_failure_can_be_recorded_is_put_off(desk: Desk, batch: int) -> None:
    await subscribed(desk)
    await refuse(desk, "digest_runs", "INSERT", "NEW.user_id = 'ada'")
    job = desk.another_job(batch=batch)

    await job.run_due()
    await job.run_due()

    assert await states(desk) == dict.fromkeys(OTHERS, "sent")
    assert job.stats.failed == 1
    assert not await is_due(desk)


class Faulty(Exception):
    """A fault in code."""


def faulty_words(digest: Digest, locale: str | None) -> tuple[str, str]:
    if digest.document["timezone"] == "Asia/Tokyo":
        raise Faulty
    return plain_words(digest, locale)


async def test_a_fault_in_code_that_one_person_meets_keeps_back_nobody(desk: Desk) -> None:
    await subscribed(desk)
    await desk.stores.query("UPDATE digest_subscriptions SET timezone = 'Asia/Tokyo' WHERE user_id = 'ada'")
    job = DigestJob(
        desk.stores.database, desk.digests, desk.stores.heard, faulty_words, SystemClock(), DigestSettings()
    )

    await job.run_due()

    assert await states(desk) == {"ada": "failed", **dict.fromkeys(OTHERS, "sent")}
    assert not await is_due(desk)


async def test_a_row_that_cannot_be_read_is_put_off_and_the_others_have_theirs(desk: Desk) -> None:
    await subscribed(desk)
    await desk.stores.query(
        "UPDATE digest_subscriptions SET positions = '{\"tenant\": \"many\"}' WHERE user_id = 'ada'"
    )

    with structlog.testing.capture_logs() as logs:
        await desk.job.run_due()
        await desk.job.run_due()

    assert await states(desk) == dict.fromkeys(OTHERS, "sent")
    assert [line["event"] for line in logs] == ["digest_subscription_unreadable"]
    assert desk.job.stats.failed == 1
    assert not await is_due(desk)


@pytest.mark.parametrize("days", [-400, -4, 4, 400])
async def test_a_zone_that_is_gone_and_an_offset_that_cannot_be_leave_the_digest_as_it_is(
    desk: Desk, days: int
) -> None:
    await subscribed(desk)
    await desk.stores.query(
        "UPDATE digest_subscriptions SET timezone = 'Mars/Phobos', next_date = next_date + $1::int WHERE user_id = 'ada'",
        days,
    )

    await desk.job.run_due()

    assert await states(desk) == dict.fromkeys(("ada", *OTHERS), "sent")


@pytest.mark.parametrize(
    ("spread", "tick", "seconds", "is_late"),
    [
        (0, 5, 50, False),
        (0, 5, 70, True),
        (120, 5, 170, False),
        (120, 5, 190, True),
        (0, 60, 110, False),
        (0, 60, 130, True),
    ],
)
async def test_a_digest_is_late_when_more_has_passed_than_the_spread_and_the_ticks_take(
    desk: Desk, spread: int, tick: int, seconds: int, is_late: bool
) -> None:
    settings = DigestSettings(spread=timedelta(seconds=spread), tick=timedelta(seconds=tick))
    job = DigestJob(
        desk.stores.database, desk.digests, desk.stores.heard, plain_words, SystemClock(), settings
    )
    await desk.subscribe(delivery_times=(time(7),))
    await desk.stores.send("ada")
    await desk.due_now(timedelta(seconds=seconds))

    await job.run_due()

    [run] = await desk.runs()
    assert (run["state"], run["is_late"]) == ("sent", is_late)
    assert run["due_at"] < datetime.now(UTC)


async def test_who_was_served_meanwhile_is_not_put_off(desk: Desk) -> None:
    """Whoever comes too late with a fault of theirs must not move what another scheduler has set."""
    await desk.subscribe()
    before = await desk.digests.get("school", "ada")

    async with desk.stores.database.transaction() as connection:
        await desk.digests.put_off(connection, [("school", "ada")])

    assert before is not None
    assert await desk.digests.get("school", "ada") == before
