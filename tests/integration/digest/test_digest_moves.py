"""Whoever changes their wishes loses no digest by it, and has none twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from core.notification import Priority
from digest.job import DigestJob
from digest.store import Digests, DigestSettings, Subscription
from digest.timetable import Run
from tests.integration.digest.test_digest_job import Desk
from tests.stores import open_stores
from tests.submissions import TENANT_ID

DAY = timedelta(days=1)


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


async def ada(desk: Desk) -> Subscription:
    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    return one


async def coming(desk: Desk) -> Run:
    run = (await ada(desk)).next_run
    assert run is not None
    return run


async def now(desk: Desk) -> datetime:
    [row] = await desk.stores.query("SELECT now()")
    at: datetime = row[0]
    return at


async def is_next(desk: Desk, at: datetime, day: date, slot: int) -> None:
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = $1, next_date = $2, next_slot = $3", at, day, slot
    )


def zone_in_which_it_is(hour: int, at: datetime) -> str:
    """A zone whose clocks show this hour now: what a test says of a day holds at any time of it."""
    offset = (hour - at.hour + 12) % 24 - 12
    return "UTC" if offset == 0 else f"Etc/GMT{-offset:+}"


async def sent_at_nine(desk: Desk, **wanted: Any) -> tuple[str, date]:
    """Ada has had the first of today's digests, at nine o'clock where she is, which is now."""
    at = await now(desk)
    zone = zone_in_which_it_is(9, at)
    today = at.astimezone(ZoneInfo(zone)).date()
    await desk.subscribe(timezone=zone, **wanted)
    await desk.stores.send("ada", title="one")
    await is_next(desk, at, today, 0)
    assert await desk.job.run_due() == 1
    return zone, today


TIMES = (time(8), time(12), time(23, 50))


@pytest.mark.parametrize(
    "changes",
    [
        [{"channels": ("in_app", "email")}],
        [{"is_enabled": False}, {}],
        [{"frequency": "off"}, {}],
        [{"delivery_times": (time(6),)}, {}],
        [{"exclude_weekends": True}, {}],
    ],
)
async def test_who_changes_anything_and_their_times_not_in_the_end_has_the_rest_of_the_day(
    desk: Desk, changes: list[dict[str, Any]]
) -> None:
    zone, today = await sent_at_nine(desk, delivery_times=TIMES)

    for change in changes:
        await desk.subscribe(**{"timezone": zone, "delivery_times": TIMES, **change})

    run = await coming(desk)
    assert (run.date, run.slot) == (today, 1)


async def test_an_hourly_digest_goes_on_for_the_day_when_something_else_is_changed(desk: Desk) -> None:
    zone, today = await sent_at_nine(desk, frequency="hourly")

    await desk.subscribe(frequency="hourly", timezone=zone, is_enabled=False)
    await desk.subscribe(frequency="hourly", timezone=zone, min_priority=Priority.NORMAL)

    run = await coming(desk)
    assert (run.date, run.slot) == (today, 2)


@pytest.mark.parametrize("frequency", ["daily", "weekdays"])
async def test_who_moves_after_a_digest_has_the_next_one_on_another_date_whatever_the_slot(
    desk: Desk, frequency: str
) -> None:
    """The first slot of the date is over; the second, at another time, would be a second digest."""
    zone, today = await sent_at_nine(desk, delivery_times=TIMES, frequency=frequency)

    await desk.subscribe(timezone=zone, delivery_times=(time(8), time(22)), frequency=frequency)

    assert (await coming(desk)).date > today


async def test_who_moves_has_no_digest_within_twelve_hours_although_it_is_tomorrow(desk: Desk) -> None:
    at = await now(desk)
    evening = zone_in_which_it_is(21, at)
    here = at.astimezone(ZoneInfo(evening)).date()
    await desk.subscribe(timezone=evening, delivery_times=(time(21),))
    await desk.stores.send("ada")
    await is_next(desk, at, here, 0)
    await desk.job.run_due()

    await desk.subscribe(timezone=evening, delivery_times=(time(1), time(6), time(20)))

    run = await coming(desk)
    assert run.date == here + DAY
    assert run.slot == 2, "those at one and at six come too soon"


async def test_who_moves_on_a_day_without_anything_to_tell_still_has_the_digest_of_that_day(
    desk: Desk,
) -> None:
    """Nothing was sent (D-7): one row, which says in the end what was."""
    at = await now(desk)
    zone = zone_in_which_it_is(9, at)
    today = at.astimezone(ZoneInfo(zone)).date()
    await desk.subscribe(timezone=zone, delivery_times=(time(8),))
    await desk.stores.query(
        "UPDATE digest_subscriptions SET sent_date = $1, sent_due_at = $2",
        today - DAY,
        at - timedelta(hours=25),
    )
    await is_next(desk, at, today, 0)
    await desk.job.run_due()
    assert [row["state"] for row in await desk.runs()] == ["skipped_empty"]

    await desk.subscribe(timezone=zone, delivery_times=(time(22),))
    await desk.stores.send("ada", title="one")
    run = await coming(desk)
    await desk.due_now()
    await desk.job.run_due()

    assert (run.date, run.slot) == (today, 0)
    [row] = await desk.runs()
    assert (row["state"], row["local_date"], row["total"]) == ("sent", today, 1)
    assert (await coming(desk)).date == today + DAY


async def test_where_nothing_was_sent_at_last_but_before_the_date_has_had_its_digest(desk: Desk) -> None:
    zone, today = await sent_at_nine(desk, delivery_times=TIMES)
    await desk.due_now()
    await desk.job.run_due()
    assert [row["state"] for row in await desk.runs()] == ["sent", "skipped_empty"]

    await desk.subscribe(timezone=zone, delivery_times=(time(22),))

    assert (await coming(desk)).date > today


async def test_a_digest_that_was_sent_is_never_replaced(desk: Desk) -> None:
    """Even where a row says that it is due once more, and nobody looks at what has happened."""
    _, today = await sent_at_nine(desk, delivery_times=TIMES)
    before = [dict(row) for row in await desk.runs()]
    await desk.stores.send("ada", title="two")
    await is_next(desk, await now(desk), today, 0)
    take_due = desk.digests.take_due

    async def blind(*arguments: Any) -> Any:
        due = await take_due(*arguments)
        for one in due.people:
            object.__setattr__(one, "is_done", False)
        return due

    desk.digests.take_due = blind  # type: ignore[assignment,method-assign]  # a fault that nobody has made yet
    await desk.job.run_due()

    assert [dict(row) for row in await desk.runs()] == before
    assert len(await desk.sent()) == 1
    assert desk.job.stats.failed == 1


async def due_a_moment_ago(desk: Desk, late: timedelta, **wanted: Any) -> tuple[str, date]:
    at = await now(desk)
    zone = zone_in_which_it_is(9, at)
    today = (at - late).astimezone(ZoneInfo(zone)).date()
    await desk.subscribe(timezone=zone, delivery_times=(time(7), time(8), time(20)))
    await desk.stores.send("ada", title="one", priority=Priority.LOW)
    await is_next(desk, at - late, today, 1)
    return zone, today


@pytest.mark.parametrize("late", [timedelta(seconds=1), timedelta(hours=3)])
@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"min_priority": Priority.NORMAL},
        {"delivery_times": (time(8, 1), time(20))},
        {"delivery_times": (time(22),)},
        {"timezone": "Pacific/Kiritimati"},
        {"timezone": "Etc/GMT+12"},
        {"frequency": "hourly", "delivery_times": (time(0, 30),)},
    ],
)
async def test_what_is_due_and_not_sent_yet_goes_out_with_the_new_wishes_and_no_second_one_that_day(
    desk: Desk, wanted: dict[str, Any], late: timedelta
) -> None:
    zone, today = await due_a_moment_ago(desk, late)
    due = await coming(desk)

    await desk.subscribe(**{"timezone": zone, "delivery_times": (time(7), time(8), time(20)), **wanted})

    assert await coming(desk) == due
    assert await desk.job.run_due() == 1
    [row] = await desk.runs()
    is_low = "min_priority" not in wanted
    assert (row["local_date"], row["slot"]) == (today, 1)
    assert row["state"] == ("sent" if is_low else "skipped_empty"), "as it is wanted now"
    following = await coming(desk)
    if set(wanted) & {"delivery_times", "timezone"}:
        assert following.date > today
        assert following.at >= due.at + timedelta(hours=12)
    else:
        assert (following.date, following.slot) == (today, 2)


async def test_who_switches_off_when_it_is_due_has_none(desk: Desk) -> None:
    await due_a_moment_ago(desk, timedelta(seconds=1))

    await desk.subscribe(is_enabled=False)

    assert (await ada(desk)).next_run is None
    assert await desk.job.run_due() == 0


async def test_another_spread_leaves_what_is_stored_at_its_minute(desk: Desk) -> None:
    wide = Digests(desk.stores.database, DigestSettings(spread=timedelta(hours=1)))
    narrow = DigestSettings(spread=timedelta(seconds=10))
    desk.digests = wide
    await desk.subscribe(delivery_times=(time(7),), timezone="UTC")
    before = await coming(desk)

    desk.digests = Digests(desk.stores.database, narrow)

    assert await coming(desk) == before
    assert (before.at.hour, before.at.minute, before.at.second, before.at.microsecond) == (7, 0, 0, 0)
    await desk.due_now()
    await desk.stores.send("ada")
    job = DigestJob(
        desk.stores.database, desk.digests, desk.stores.heard, lambda *_: ("A", "B"), desk.job._clock, narrow
    )
    await job.run_due()
    after = await coming(desk)
    assert (after.at.minute, after.at.second, after.at.microsecond) == (0, 0, 0)


@pytest.mark.parametrize(("hours", "titles"), [(23, {"before", "meanwhile", "after"}), (25, {"after"})])
async def test_who_is_back_within_a_day_has_missed_nothing(desk: Desk, hours: int, titles: set[str]) -> None:
    await desk.subscribe()
    await desk.stores.send("ada", title="before")
    for _ in range(2):  # switching off what is off begins nothing anew
        await desk.subscribe(is_enabled=False)
        await desk.stores.query(
            "UPDATE digest_subscriptions SET off_since = off_since - make_interval(hours => $1) / 2", hours
        )
    await desk.stores.send("ada", title="meanwhile")

    await desk.subscribe()
    await desk.stores.send("ada", title="after")

    assert {item.title for item in await desk.job.pending(TENANT_ID, "ada")} == titles
    assert (await ada(desk)).off_since is None
