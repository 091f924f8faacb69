"""Digests on a real PostgreSQL: who is due, what stands in them, and that it happens once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec
import pytest

from core.clock import SystemClock
from core.errors import ServiceError
from core.notification import Priority
from digest.job import DigestJob
from digest.schedule import DigestTicker
from digest.store import Digests, DigestSettings
from digest.subscription import Wanted
from digest.summary import Digest
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person, service

SETTINGS = DigestSettings(spread=timedelta(0))


def words(digest: Digest, locale: str | None) -> tuple[str, str]:
    return "Your day", f"{digest.total} notifications"


class Desk:
    """Everything that makes digests over one database."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.digests = Digests(stores.database, SETTINGS)
        self.job = self.another_job()

    def another_job(self, **settings: Any) -> DigestJob:
        given = DigestSettings(**{"spread": timedelta(0), **settings})
        return DigestJob(self.stores.database, self.digests, self.stores.heard, words, SystemClock(), given)

    async def subscribe(self, user_id: str = "ada", **wanted: Any) -> None:
        given: dict[str, Any] = {"timezone": "Europe/Berlin", "channels": ("in_app",), **wanted}
        await self.digests.put(TENANT_ID, user_id, Wanted(**given), "test")

    async def due_now(self, late: timedelta = timedelta(0)) -> None:
        """The next runs are due now, or were some time ago."""
        await self.stores.query(
            "UPDATE digest_subscriptions SET next_run_at = now() - $1::interval WHERE next_run_at IS NOT NULL",
            late,
        )

    async def runs(self) -> list[Any]:
        return await self.stores.query("SELECT * FROM digest_runs ORDER BY user_id, local_date, slot")

    async def sent(self) -> list[dict[str, Any]]:
        """The documents of all digests."""
        rows = await self.stores.query(
            "SELECT metadata FROM notifications WHERE notification_type = 'digest' ORDER BY created_at, id"
        )
        return [msgspec.json.decode(row["metadata"])["digest"] for row in rows]


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


async def test_somebody_who_subscribes_is_due_at_their_next_minute(desk: Desk) -> None:
    await desk.subscribe(delivery_times=(time(7, 30),), timezone="Asia/Kathmandu")

    one = await desk.digests.get(TENANT_ID, "ada")

    assert one is not None
    assert one.next_run is not None
    assert (one.next_run.at.hour, one.next_run.at.minute) == (1, 45)
    assert one.next_run.at > datetime.now(UTC)


async def test_a_digest_holds_what_came_in_and_the_next_one_what_came_after(desk: Desk) -> None:
    await desk.stores.send("ada", title="before")
    await desk.subscribe()
    await desk.stores.send("ada", title="one", priority=Priority.HIGH)
    await desk.stores.send("*", title="for all")
    await desk.due_now()
    await desk.job.run_due()
    await desk.stores.send("ada", title="two")
    await desk.stores.query("UPDATE digest_runs SET local_date = local_date - 1")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET last_date = last_date - 1, next_date = next_date"
    )
    await desk.due_now()
    await desk.job.run_due()

    first, second = await desk.sent()
    assert {one["title"] for one in first["top_notifications"]} == {"one", "for all"}
    assert {one["title"] for one in second["top_notifications"]} == {"two"}
    assert [row["state"] for row in await desk.runs()] == ["sent", "sent"]


async def test_filters_read_recalled_expired_and_digests_are_left_out(desk: Desk) -> None:
    await desk.subscribe(
        include_types=("iep_update",), exclude_types=("system",), min_priority=Priority.NORMAL
    )
    kept = await desk.stores.send("ada", title="kept")
    read = await desk.stores.send("ada", title="read")
    recalled = await desk.stores.send("ada", title="recalled")
    await desk.stores.send("ada", title="other", notification_type="other")
    await desk.stores.send("ada", title="system", notification_type="system")
    await desk.stores.send("ada", title="low", priority=Priority.LOW)
    await desk.stores.inbox.change(person("ada"), "read", [read])
    await desk.stores.notifications.recall(service(), recalled)
    await desk.due_now()
    await desk.job.run_due()

    [document] = await desk.sent()
    assert document["summary"]["total_notifications"] == 2
    assert [one["id"] for one in document["top_notifications"]] == [str(kept)]


async def test_nothing_to_tell_is_recorded_and_not_sent(desk: Desk) -> None:
    await desk.subscribe()
    await desk.due_now()

    await desk.job.run_due()

    assert await desk.sent() == []
    [run] = await desk.runs()
    assert (run["state"], run["notification_id"]) == ("skipped_empty", None)


async def test_a_late_digest_is_sent_and_a_very_late_one_is_merged_into_the_next(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.send("ada", title="one")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = now() - interval '5 hours', next_date = current_date - 1"
    )
    await desk.job.run_due()
    assert [row["state"] for row in await desk.runs()] == ["skipped_late"]

    await desk.due_now(timedelta(hours=3, minutes=50))
    await desk.job.run_due()

    [document] = await desk.sent()
    assert document["summary"]["total_notifications"] == 1
    assert [(row["state"], row["is_late"]) for row in await desk.runs()] == [
        ("skipped_late", True),
        ("sent", True),
    ]


async def test_twenty_schedulers_send_each_digest_once(desk: Desk) -> None:
    names = [f"person-{number}" for number in range(120)]
    for name in names:
        await desk.subscribe(name)
    await desk.stores.send("*", title="for all")
    await desk.due_now()

    async def tick(job: DigestJob) -> None:
        """As the ticker does: what the database has no room for is done at the next tick."""
        while True:
            try:
                await job.run_due()
            except ServiceError:
                continue
            return

    await asyncio.gather(*(tick(desk.another_job(batch=7)) for _ in range(20)))

    assert len(await desk.sent()) == 120
    assert {row["state"] for row in await desk.runs()} == {"sent"}


async def test_a_run_that_happened_already_does_not_happen_again(desk: Desk) -> None:
    """A scheduler whose clock or row is wrong: the key of the run stands in its way."""
    await desk.subscribe()
    await desk.stores.send("ada")
    before = await desk.stores.query("SELECT next_date, next_slot FROM digest_subscriptions")
    await desk.due_now()
    await desk.job.run_due()

    await desk.stores.send("ada")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = now(), next_date = $1, next_slot = $2", *before[0]
    )
    await desk.job.run_due()

    assert len(await desk.sent()) == 1
    assert len(await desk.runs()) == 1
    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    assert one.next_run is not None
    assert one.next_run.date > before[0]["next_date"]


async def test_other_time_zone_data_computes_every_next_run_anew(desk: Desk) -> None:
    await desk.subscribe()
    right = await desk.stores.query("SELECT next_run_at, next_date FROM digest_subscriptions")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET tzdata = '2009.21', next_run_at = next_run_at + interval '1 hour'"
    )

    assert await desk.job.recompute_zones() == 1

    assert await desk.stores.query("SELECT next_run_at, next_date FROM digest_subscriptions") == right
    assert await desk.job.recompute_zones() == 0


async def test_a_node_leaves_to_others_what_newer_time_zone_data_than_its_own_has_computed(
    desk: Desk,
) -> None:
    """While nodes of two versions run, the newer one has the last word, and they do not take turns."""
    await desk.subscribe()
    await desk.stores.query(
        "UPDATE digest_subscriptions SET tzdata = '2999.01', next_run_at = next_run_at + interval '1 hour'"
    )
    before = await desk.stores.query("SELECT next_run_at, tzdata FROM digest_subscriptions")

    assert await desk.job.recompute_zones() == 0

    assert await desk.stores.query("SELECT next_run_at, tzdata FROM digest_subscriptions") == before


@pytest.mark.parametrize("late", [timedelta(0), timedelta(hours=1)])
async def test_newer_time_zone_data_takes_no_digest_away_that_is_due(desk: Desk, late: timedelta) -> None:
    """As when the service was upgraded over the minute of somebody's digest."""
    await desk.subscribe()
    await desk.stores.send("ada")
    await desk.stores.query("UPDATE digest_subscriptions SET tzdata = '2009.21'")
    await desk.due_now(late)

    await desk.job.recompute_zones()
    await desk.job.run_due()

    assert len(await desk.sent()) == 1


async def test_a_run_that_newer_data_puts_before_now_comes_at_once_and_once(desk: Desk) -> None:
    """The clocks of a zone were moved, as its government decided the week before."""
    now = (await desk.stores.query("SELECT now() AT TIME ZONE 'UTC'"))[0][0]
    await desk.subscribe(timezone="UTC", delivery_times=(time(now.hour, now.minute),))
    await desk.stores.send("ada")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET tzdata = '2009.21', next_run_at = now() + interval '1 hour', next_date = $1",
        now.date(),
    )

    assert await desk.job.recompute_zones() == 1
    await desk.job.run_due()
    await desk.job.run_due()

    assert [row["local_date"] for row in await desk.runs()] == [now.date()]
    assert len(await desk.sent()) == 1


async def test_a_scheduler_that_runs_computes_anew_what_an_older_node_leaves_behind(desk: Desk) -> None:
    await desk.subscribe()
    right = await desk.stores.query("SELECT next_run_at, tzdata FROM digest_subscriptions")
    ticker = asyncio.create_task(DigestTicker(desk.job, SETTINGS, zones=timedelta(milliseconds=20)).run())
    try:
        for _ in range(2):  # the second time it has long begun
            await desk.stores.query(
                "UPDATE digest_subscriptions SET tzdata = '2009.21', next_run_at = next_run_at + interval '1 hour'"
            )
            async with asyncio.timeout(20):
                while (
                    await desk.stores.query("SELECT next_run_at, tzdata FROM digest_subscriptions") != right
                ):
                    await asyncio.sleep(0.01)  # it says nothing when it has looked
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)


async def test_a_zone_that_is_gone_goes_on_by_its_last_offset(desk: Desk) -> None:
    await desk.subscribe(timezone="Asia/Kolkata")
    await desk.stores.query("UPDATE digest_subscriptions SET timezone = 'Mars/Phobos'")
    before = await desk.digests.get(TENANT_ID, "ada")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = next_run_at - interval '1 day', next_date = next_date - 1"
    )
    await desk.job.run_due()

    after = await desk.digests.get(TENANT_ID, "ada")

    assert before is not None
    assert after is not None
    assert after.next_run == before.next_run
    assert await desk.digests.zones() == {"Mars/Phobos": 1}


async def test_send_me_one_now_does_not_move_the_window(desk: Desk) -> None:
    await desk.subscribe()
    with pytest.raises(ServiceError, match="Nothing unread has come in"):
        await desk.job.run_now(TENANT_ID, "ada")
    await desk.stores.send("ada", title="one")

    await desk.job.run_now(TENANT_ID, "ada")
    await desk.due_now()
    await desk.job.run_due()

    assert [one["summary"]["total_notifications"] for one in await desk.sent()] == [1, 1]


async def test_send_me_one_now_moves_the_window_where_that_is_asked_for(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.send("ada", title="one")
    await desk.stores.send("*", title="for all")

    await desk.job.run_now(TENANT_ID, "ada", moves_window=True)
    await desk.stores.send("ada", title="two")
    await desk.due_now()
    await desk.job.run_due()

    first, second = await desk.sent()
    assert {one["title"] for one in first["top_notifications"]} == {"one", "for all"}
    assert [one["title"] for one in second["top_notifications"]] == ["two"]
    assert second["window"]["after"] == first["window"]["until"], "they touch"


async def test_weekly_types_that_were_sent_now_wait_for_their_next_week_where_the_window_moves(
    desk: Desk,
) -> None:
    await desk.subscribe(weekly_types=("social",), weekly_day=0)
    await desk.stores.query("UPDATE digest_subscriptions SET weekly_on = current_date - 8")
    await desk.stores.send("ada", title="one", notification_type="social")

    await desk.job.run_now(TENANT_ID, "ada", moves_window=True)
    await desk.stores.send("ada", title="two", notification_type="social")
    await desk.stores.send("ada", title="three")
    await desk.due_now()
    await desk.job.run_due()

    first, second = await desk.sent()
    assert [each["title"] for each in first["top_notifications"]] == ["one"]
    assert [each["title"] for each in second["top_notifications"]] == ["three"], "two has a week to wait"


async def test_what_cannot_be_sent_now_moves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refusing(*_: Any) -> list[Exception]:
        return [ServiceError("overloaded")]

    await desk.subscribe()
    await desk.stores.send("ada", title="one")
    monkeypatch.setattr("digest.job.write", refusing)
    before = await desk.stores.query("SELECT positions FROM digest_subscriptions")

    with pytest.raises(ServiceError) as caught:
        await desk.job.run_now(TENANT_ID, "ada", moves_window=True)

    assert caught.value.code == "overloaded"
    assert await desk.stores.query("SELECT positions FROM digest_subscriptions") == before


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("timezone", {"timezone": "Mars/Phobos"}),
        ("include_types", {"include_types": ()}),
        ("delivery_times", {"delivery_times": ()}),
        ("frequency", {"frequency": "fortnightly"}),
        ("channels", {"channels": ("pigeon",)}),
        ("weekly_day", {"frequency": "weekly", "weekly_day": 7}),
        ("weekly_types", {"frequency": "weekly", "weekly_types": ("social",)}),
        ("weekly_day", {"frequency": "daily", "weekly_day": 1}),
        ("weekly_day", {"frequency": "weekly", "weekly_day": 6, "exclude_weekends": True}),
    ],
)
async def test_what_cannot_be_is_refused_by_its_name(desk: Desk, path: str, wanted: dict[str, Any]) -> None:
    with pytest.raises(ServiceError) as caught:
        await desk.subscribe(**wanted)

    assert path in [fault.path for fault in caught.value.faults]
    assert await desk.digests.get(TENANT_ID, "ada") is None


async def test_aliases_of_zones_are_kept_as_they_were_chosen(desk: Desk) -> None:
    await desk.subscribe(timezone="EST5EDT")

    one = await desk.digests.get(TENANT_ID, "ada")

    assert one is not None
    assert one.wanted.timezone == "EST5EDT"


async def test_a_day_too_large_for_a_notification_is_cut_until_it_fits_and_keeps_back_nobody(
    desk: Desk,
) -> None:
    for name in ("ada", "bob"):
        await desk.subscribe(name)
    for number in range(40):
        long = f"{number} " + "ä" * 4000
        await desk.stores.send("ada", title=long, message=long, notification_type=f"type_{number}")
    await desk.stores.send("bob", title="short")
    await desk.due_now()

    assert await desk.job.run_due() == 2

    assert [row["state"] for row in await desk.runs()] == ["sent", "sent"]
    large, small = sorted(await desk.sent(), key=lambda one: -one["summary"]["total_notifications"])
    assert large["summary"]["total_notifications"] == 40
    assert 0 < len(large["top_notifications"]) <= 5
    assert all(len(one["title"]) <= 200 for one in large["top_notifications"])
    assert len(msgspec.json.encode(large)) < 16 * 1024
    assert small["top_notifications"][0]["title"] == "short"


async def test_runs_are_forgotten_with_the_history_of_their_tenant(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.query(
        "INSERT INTO tenant_settings (tenant_id, retention_days, legal_hold) VALUES ('short', 7, false), ('held', 7, true)"
    )
    await desk.stores.query(
        "INSERT INTO digest_runs (tenant_id, user_id, local_date, slot, state, due_at, ran_at, timezone, after, until)"
        " SELECT t, 'ada', current_date - days, 0, 'skipped_empty', now(), now() - make_interval(days => days), 'UTC', '{}', '{}'"
        " FROM unnest(ARRAY['school', 'short', 'held']) AS t, unnest(ARRAY[1, 30, 100]) AS days"
    )

    gone = [await desk.digests.prune(2, 90) for _ in range(3)]

    assert gone == [2, 1, 0]
    kept = await desk.stores.query(
        "SELECT tenant_id, current_date - local_date FROM digest_runs ORDER BY 1, 2"
    )
    assert [tuple(row) for row in kept] == [
        *(("held", days) for days in (1, 30, 100)),
        *(("school", days) for days in (1, 30)),
        ("short", 1),
    ]


async def test_how_late_each_is_sent_is_told_and_nothing_of_what_is_not_sent(desk: Desk) -> None:
    told: list[float] = []
    late = DigestJob(
        desk.stores.database,
        desk.digests,
        desk.stores.heard,
        words,
        SystemClock(),
        SETTINGS,
        on_lateness=told.append,
    )
    for name in ("ada", "bob", "eve"):
        await desk.subscribe(name)
    await desk.stores.send("ada")
    await desk.stores.send("bob")
    await desk.due_now(timedelta(minutes=5))

    await late.run_due()

    assert len(told) == 2
    assert all(300 <= seconds < 360 for seconds in told)


async def test_a_quiet_week_is_told_of_once_a_week_to_who_wants_to_hear(desk: Desk) -> None:
    for name, wants in (("ada", True), ("bob", False)):
        await desk.subscribe(name, all_quiet=wants)
    states = []
    for day in range(9):
        await desk.stores.query(
            "UPDATE digest_subscriptions SET next_run_at = now(), next_date = created_at::date + $1::int, next_slot = 0",
            day,
        )
        await desk.job.run_due()
        [row] = await desk.stores.query(
            "SELECT r.state FROM digest_runs r JOIN digest_subscriptions s USING (tenant_id, user_id)"
            " WHERE user_id = 'ada' AND local_date = s.created_at::date + $1::int",
            day,
        )
        states.append(row["state"])

    assert states == [*["skipped_empty"] * 7, "sent", "skipped_empty"]
    [document] = await desk.sent()
    assert document["summary"]["total_notifications"] == 0
    bobs = await desk.stores.query("SELECT DISTINCT state FROM digest_runs WHERE user_id = 'bob'")
    assert [row["state"] for row in bobs] == ["skipped_empty"]


@pytest.mark.parametrize(
    ("wants", "reads", "looks", "channels"),
    [
        (True, False, False, {"in_app", "email"}),
        (True, True, False, {"in_app"}),
        (True, False, True, {"in_app"}),
        (False, True, True, {"in_app", "email"}),
    ],
)
async def test_who_is_in_the_application_has_it_there_only_if_they_want_so(
    desk: Desk, wants: bool, reads: bool, looks: bool, channels: set[str]
) -> None:
    async def looking(tenant_id: str, user_id: str) -> bool:
        return looks and (tenant_id, user_id) == (TENANT_ID, "ada")

    job = DigestJob(
        desk.stores.database, desk.digests, desk.stores.heard, words, SystemClock(), SETTINGS, looking=looking
    )
    await desk.subscribe(channels=("in_app", "email"), inbox_when_active=wants)
    long_ago, one, _ = [await desk.stores.send("ada") for _ in range(3)]
    await desk.stores.inbox.change(person("ada"), "read", [long_ago])
    await desk.stores.query("UPDATE notification_receipts SET read_at = now() - interval '6 minutes'")
    if reads:
        await desk.stores.inbox.change(person("ada"), "read", [one])
    await desk.due_now()

    await job.run_due()

    [row] = await desk.stores.query("SELECT channels FROM notifications WHERE notification_type = 'digest'")
    assert set(row["channels"]) == channels


async def test_what_is_for_somebody_goes_before_what_is_for_all(desk: Desk) -> None:
    await desk.subscribe()
    for title, who in (("for all", "*"), ("for ada", "ada"), ("for all again", "*")):
        await desk.stores.send(who, title=title)
    await desk.due_now()

    await desk.job.run_due()

    [document] = await desk.sent()
    assert document["top_notifications"][0]["title"] == "for ada"


# --- types that come weekly ------------------------------------------------------------------------------------------


class Diary:
    """What Ada's digest of each day tells; `social` comes weekly, on the third day."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def begin(self, **wanted: Any) -> None:
        [row] = await self.desk.stores.query("SELECT (now() AT TIME ZONE 'UTC')::date AS today")
        self.today: date = row["today"]
        await self.want(**wanted)

    async def want(self, **wanted: Any) -> None:
        given = {
            "weekly_types": ("social",),
            "weekly_day": (self.today + timedelta(days=2)).weekday(),
            **wanted,
        }
        await self.desk.subscribe(timezone="UTC", **given)

    async def day(self, number: int, late: timedelta = timedelta(0)) -> set[str]:
        """What is told of on one day, on which a piece of news and a social one have come in."""
        for kind in ("news", "social"):
            await self.desk.stores.send("ada", title=f"{kind} {number}", notification_type=kind)
        await self.desk.stores.query(
            "UPDATE digest_subscriptions SET next_run_at = now() - $2::interval, next_date = $1, next_slot = 0",
            self.today + timedelta(days=number),
            late,
        )
        before = len(await self.desk.sent())
        await self.desk.job.run_due()
        sent = await self.desk.sent()
        if len(sent) == before:
            return set()
        document = sent[-1]
        kinds = document["notifications_by_type"].values()
        told = {one["title"] for kind in kinds for one in kind["notifications"]}
        assert document["summary"]["total_notifications"] >= len(told)
        return told


async def test_weekly_types_stand_in_the_digest_of_their_day_and_every_one_of_them_once(desk: Desk) -> None:
    diary = Diary(desk)
    await diary.begin()

    told = [await diary.day(number) for number in range(8)]

    assert told[:2] == [{"news 0"}, {"news 1"}]
    assert told[2] == {"news 2", "social 0", "social 1", "social 2"}
    assert told[3:] == [{f"news {number}"} for number in range(3, 8)]
    assert await diary.day(9) == {"news 9", *(f"social {number}" for number in (9, 7, 6, 5, 4))}, (
        "the first five of seven"
    )
    [row] = await desk.stores.query("SELECT total FROM digest_runs ORDER BY local_date DESC LIMIT 1")
    assert row["total"] == 7, "six social ones since the last turn, and a piece of news"


async def test_weekly_types_whose_day_was_missed_stand_in_the_next_digest(desk: Desk) -> None:
    diary = Diary(desk)
    await diary.begin()
    assert await diary.day(1) == {"news 1"}

    assert await diary.day(2, late=timedelta(hours=5)) == set()

    assert await diary.day(3) == {"news 2", "news 3", "social 1", "social 2", "social 3"}
    assert await diary.day(4) == {"news 4"}


async def test_a_type_that_is_not_weekly_any_more_is_told_next_and_one_that_becomes_so_is_held(
    desk: Desk,
) -> None:
    diary = Diary(desk)
    await diary.begin()
    assert await diary.day(0) == {"news 0"}

    await diary.want(weekly_types=("news",))

    assert await diary.day(1) == {"social 0", "social 1"}
    assert await diary.day(2) == {"news 1", "news 2", "social 2"}
    await diary.want(weekly_types=(), weekly_day=None)
    assert await diary.day(3) == {"news 3", "social 3"}
    [row] = await desk.stores.query("SELECT weekly_positions FROM digest_subscriptions")
    assert row["weekly_positions"] == "{}"


async def test_what_came_while_its_topic_was_muted_is_in_no_weekly_digest_either(desk: Desk) -> None:
    diary = Diary(desk)
    await diary.begin()
    await desk.stores.query("UPDATE stream_members SET muted = true")
    await diary.day(0)
    await desk.stores.query("UPDATE stream_members SET muted = false")

    assert await diary.day(2) == {"news 2", "social 2"}


async def test_filters_hold_for_weekly_types_too(desk: Desk) -> None:
    diary = Diary(desk)
    await diary.begin(include_types=("news",))

    assert await diary.day(2) == {"news 2"}


# --- days off -------------------------------------------------------------------------------------------------------


async def tenant_says(
    desk: Desk, *, weekend: list[int] | None = None, holidays: list[date] | None = None
) -> None:
    await desk.stores.query(
        "INSERT INTO tenant_settings (tenant_id, weekend_days, holidays) VALUES ($1, $2, $3)"
        " ON CONFLICT (tenant_id) DO UPDATE SET weekend_days = excluded.weekend_days, holidays = excluded.holidays",
        TENANT_ID,
        weekend,
        holidays or [],
    )


async def today_is_next(desk: Desk) -> date:
    """The next run is that of today, in the person's zone, and due."""
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = now(), next_slot = 0, next_date = (now() AT TIME ZONE timezone)::date"
    )
    [row] = await desk.stores.query("SELECT next_date FROM digest_subscriptions")
    today: date = row["next_date"]
    return today


@pytest.mark.parametrize("wanted", [{"exclude_weekends": True}, {"frequency": "weekdays"}])
async def test_a_day_off_has_a_row_and_no_digest_and_what_came_in_stands_in_the_next_one(
    desk: Desk, wanted: dict[str, Any]
) -> None:
    await desk.subscribe(delivery_times=(time(7), time(12), time(19)), **wanted)
    await desk.stores.send("ada", title="on a day off")
    today = await today_is_next(desk)
    await tenant_says(desk, holidays=[today, today + timedelta(days=1)])

    assert await desk.job.run_due() == 1

    [row] = await desk.runs()
    assert (row["state"], row["local_date"], row["slot"], row["notification_id"]) == (
        "skipped_weekend",
        today,
        0,
        None,
    )
    assert desk.job.stats.skipped_weekend == 1
    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    assert one.next_run is not None
    assert one.next_run.date == today + timedelta(days=1), "a day off has one row, however many slots it has"
    sent = one.next_sent()
    assert sent is not None
    assert sent.date > today + timedelta(days=1), "what people are told of is sent"

    await tenant_says(desk, weekend=[])
    await desk.due_now()
    await desk.job.run_due()
    [document] = await desk.sent()
    assert [one["title"] for one in document["top_notifications"]] == ["on a day off"]


async def test_who_does_not_leave_weekends_out_has_a_digest_on_every_day(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.send("ada")
    today = await today_is_next(desk)
    await tenant_says(desk, holidays=[today], weekend=[0, 1, 2, 3, 4, 5])

    await desk.job.run_due()

    assert [row["state"] for row in await desk.runs()] == ["sent"]


async def test_months_without_a_scheduler_leave_one_row_and_not_one_for_every_weekend(desk: Desk) -> None:
    await desk.subscribe(exclude_weekends=True)
    await tenant_says(desk, weekend=[0, 1, 2, 3, 4, 5])
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = now() - interval '200 days', next_date = current_date - 200"
    )

    await desk.job.run_due()
    await desk.job.run_due()

    assert len(await desk.runs()) <= 2, "the one that was due, and perhaps that of the last four hours"


async def test_what_is_said_of_the_content_leaves_the_next_run_where_it_is(desk: Desk) -> None:
    """Today's second digest is not lost by a change of the least priority after the first."""
    await desk.subscribe(delivery_times=(time(0), time(23, 59)), timezone="UTC")
    before = await desk.digests.get(TENANT_ID, "ada")
    await desk.stores.query(
        "UPDATE digest_subscriptions SET last_date = next_date, last_slot = 0, last_due_at = now(), next_slot = 1"
    )

    await desk.subscribe(delivery_times=(time(0), time(23, 59)), timezone="UTC", min_priority=Priority.HIGH)

    after = await desk.digests.get(TENANT_ID, "ada")
    assert before is not None
    assert after is not None
    assert before.next_run is not None
    assert after.next_run is not None
    assert (after.next_run.date, after.next_run.slot) == (before.next_run.date, 1)


async def test_a_weekly_day_that_becomes_weekend_is_skipped_and_comes_again_when_it_is_none(
    desk: Desk,
) -> None:
    await desk.subscribe(frequency="weekly", weekly_day=4, exclude_weekends=True)
    await tenant_says(desk, weekend=[4, 5])
    await desk.due_now()

    await desk.job.run_due()

    assert [row["state"] for row in await desk.runs()] == ["skipped_weekend"]
    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    assert one.next_run is not None
    assert one.next_sent() is None
    await tenant_says(desk)
    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    assert one.next_sent() == one.next_run
