"""When the next digest is due: every zone, every change of its clocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from core.wall_time import clocks_change, exists, instant, start
from digest.timetable import LEAST_GAP, Run, Timetable, next_run, runs, spread

DAY = timedelta(days=1)
MINUTE, QUARTER = timedelta(minutes=1), timedelta(minutes=15)
EVERY_DAY = frozenset(range(7))
HALF_HOURS = [time(minute // 60, minute % 60) for minute in range(0, 24 * 60, 30)]

Rule = Callable[[date, time, ZoneInfo], datetime | None]


def daily(zone: str, *times: time, weekdays: frozenset[int] = EVERY_DAY) -> Timetable:
    return Timetable(times=times or (time(7),), weekdays=weekdays, zone=ZoneInfo(zone))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # a test says its dates shortly


@pytest.mark.parametrize(
    ("zone", "day", "wall", "at"),
    [
        ("Asia/Kolkata", date(2026, 6, 1), time(7, 30), utc(2026, 6, 1, 2)),
        ("Asia/Kathmandu", date(2026, 6, 1), time(7), utc(2026, 6, 1, 1, 15)),
        ("Europe/Berlin", date(2027, 3, 28), time(2, 30), utc(2027, 3, 28, 1)),  # 03:00, after the gap
        ("Europe/Berlin", date(2026, 10, 25), time(2, 30), utc(2026, 10, 25, 0, 30)),  # the first of two
        (
            "Australia/Lord_Howe",
            date(2026, 10, 4),
            time(2, 15),
            utc(2026, 10, 3, 15, 30),
        ),  # a gap of 30 minutes
        ("Africa/Cairo", date(2026, 4, 24), time(0, 15), utc(2026, 4, 23, 22)),  # midnight is skipped
        ("Pacific/Apia", date(2011, 12, 30), time(7), None),  # that Friday never was
        ("Pacific/Apia", date(2011, 12, 31), time(0), utc(2011, 12, 30, 10)),
        ("America/New_York", date(2026, 3, 8), time(2), utc(2026, 3, 8, 7)),
        ("Pacific/Kiritimati", date(2026, 1, 1), time(0), utc(2025, 12, 31, 10)),
        ("Etc/GMT+12", date(2026, 1, 1), time(23, 59), utc(2026, 1, 2, 11, 59)),
    ],
)
def test_a_wall_time_comes_when_the_clocks_say(zone: str, day: date, wall: time, at: datetime | None) -> None:
    assert instant(day, wall, ZoneInfo(zone)) == at


def test_a_day_begins_where_its_first_instant_is() -> None:
    assert start(date(2026, 4, 24), ZoneInfo("Africa/Cairo")) == utc(2026, 4, 23, 22)
    assert not exists(date(2011, 12, 30), ZoneInfo("Pacific/Apia"))
    assert exists(date(2011, 12, 31), ZoneInfo("Pacific/Apia"))


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Africa/Cairo", date(2026, 4, 24)),
        ("Asia/Beirut", date(2026, 3, 29)),
        ("America/Santiago", date(2026, 9, 6)),
        ("America/Havana", date(2026, 3, 8)),
        ("Atlantic/Azores", date(2026, 3, 29)),
        ("Europe/Berlin", date(2026, 10, 25)),
    ],
)
def test_clocks_change_on_the_day_whose_midnight_is_skipped_and_not_on_the_one_before(
    zone: str, day: date
) -> None:
    around = [day + n * DAY for n in range(-2, 3)]

    assert [one for one in around if clocks_change(one, ZoneInfo(zone))] == [day]


# --- the sweep -------------------------------------------------------------------------------------------------------


def changes(zone: ZoneInfo, first: int = 2020, last: int = 2037) -> list[datetime]:
    """Every instant at which the zone's offset changes, found without the code under test."""
    found: list[datetime] = []
    step = timedelta(days=7)
    at, end = utc(first, 1, 1), utc(last + 1, 1, 1)
    while at < end:
        low, high = at, at + step
        while low < high:  # changes lie more than a week apart, or come in pairs that the halves show
            if low.astimezone(zone).utcoffset() == high.astimezone(zone).utcoffset():
                break
            left, right = low, high
            offset = left.astimezone(zone).utcoffset()
            while right - left > timedelta(seconds=1):
                middle = left + (right - left) / 2
                middle = middle.replace(microsecond=0)
                if middle == left:
                    break
                if middle.astimezone(zone).utcoffset() == offset:
                    left = middle
                else:
                    right = middle
            found.append(right)
            low = right
        at += step
    return found


Walk = list[tuple[datetime, datetime]]


def walk(day: date, zone: ZoneInfo, step: timedelta) -> Walk:
    """The instants around a day, a step apart, each with what the clocks show."""
    at = datetime.combine(day, time(0), tzinfo=UTC) - timedelta(hours=16)
    moments = (at + number * step for number in range(timedelta(hours=57) // step))
    return [(moment, moment.astimezone(zone).replace(tzinfo=None)) for moment in moments]


def expected(day: date, wall: time, around: Walk) -> datetime | None:
    """
    By walking over the instants: the first that shows this date and this time or a later one; where the rest of
    the date was skipped, the first after it; None when nothing shows the date.
    """
    shown = False
    for at, local in around:
        shown = shown or local.date() == day
        if local.date() == day and local.time() >= wall:
            return at
        if local.date() > day:
            return at if shown else None
    raise AssertionError("the walk is long enough")


def plus_24_hours(day: date, wall: time, zone: ZoneInfo) -> datetime | None:
    """The usual mistake: yesterday's instant and a day."""
    return datetime.combine(day - DAY, wall, tzinfo=zone).astimezone(UTC) + DAY


def as_zoneinfo_says(day: date, wall: time, zone: ZoneInfo) -> datetime | None:
    """The other: what a library maps a skipped time to."""
    return datetime.combine(day, wall, tzinfo=zone).astimezone(UTC)


def as_cron_says(day: date, wall: time, zone: ZoneInfo) -> list[datetime]:
    """When a daily job of APScheduler's fires on a date."""
    trigger = CronTrigger(hour=wall.hour, minute=wall.minute, timezone=zone)
    end = start(day + DAY, zone)
    fired = trigger.get_next_fire_time(None, start(day, zone))
    found: list[datetime] = []
    while (
        fired is not None and fired.astimezone(UTC) < end and len(found) < 2
    ):  # in a fold it goes round in circles
        found.append(fired.astimezone(UTC))
        fired = trigger.get_next_fire_time(fired, fired + timedelta(seconds=1))
    return found


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    """
    Every half hour of three dates at every change of every zone, 2020-2037, with when it comes; zones with the
    same changes stand once.
    """
    alike: dict[tuple[object, ...], ZoneInfo] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        moments = [utc(2020, 1, 1), *changes(zone)]
        alike.setdefault(tuple((at, at.astimezone(zone).utcoffset()) for at in moments), zone)
    found: list[Check] = []
    for zone in alike.values():
        known = changes(zone)
        days = {at.astimezone(zone).date() + n * DAY for at in known for n in (-1, 0, 1)} | {
            date(2026, 6, 15)
        }
        for day in sorted(days):
            around = walk(day, zone, step_of(known))
            found += ((zone, day, wall, expected(day, wall, around)) for wall in HALF_HOURS)
    return found


def step_of(known: list[datetime]) -> timedelta:
    """A quarter of an hour, or a minute where somebody changed their clocks at 00:01 (Antarctica/Casey)."""
    return QUARTER if all(at.timestamp() % QUARTER.total_seconds() == 0 for at in known) else MINUTE


Check = tuple[ZoneInfo, date, time, datetime | None]


def test_a_cron_trigger_leaves_digests_out_and_sends_others_twice(checks: list[Check]) -> None:
    """APScheduler's, by the same sweep: every seventh of it, because it is slow."""
    shown = checks[::7]
    missed, double, moved = 0, 0, 0
    for zone, day, wall, at in shown:
        if at is None or not start(day, zone) <= at < start(day + DAY, zone):
            continue  # a date that does not exist, or a digest that a gap moves into the next one
        fired = as_cron_says(day, wall, zone)
        missed += not fired
        double += len(fired) > 1
        moved += len(fired) == 1 and fired != [at]
    print(
        f"\n  {len(shown)} checks of a CronTrigger, missed: {missed}, double: {double}, at another time: {moved}"
    )

    assert missed + double + moved > 100, "the sweep catches who leaves it to cron"


def test_every_half_hour_at_every_change_of_every_zone_is_right(checks: list[Check]) -> None:
    rules: tuple[Rule, ...] = (instant, plus_24_hours, as_zoneinfo_says)
    wrong = {
        rule.__name__: sum(rule(day, wall, zone) != at for zone, day, wall, at in checks) for rule in rules
    }
    print(f"\n  {len(checks)} checks, wrong: {wrong}")

    assert len(checks) > 100_000
    assert wrong["instant"] == 0
    assert wrong["plus_24_hours"] > 10_000, "the sweep catches who adds 24 hours"
    assert wrong["as_zoneinfo_says"] > 500, "the sweep catches who believes the library"


# --- the next run ----------------------------------------------------------------------------------------------------


def test_runs_follow_each_other_one_for_each_date_that_exists() -> None:
    found = [
        run.date for run, _ in zip(runs(daily("Pacific/Apia"), date(2011, 12, 28)), range(4), strict=False)
    ]

    assert found == [date(2011, 12, 28), date(2011, 12, 29), date(2011, 12, 31), date(2012, 1, 1)]


def test_weekdays_are_the_persons_own() -> None:
    table = daily("Asia/Dubai", weekdays=frozenset({6, 0, 1, 2, 3}))

    run = next_run(table, utc(2026, 11, 19, 12))  # a Thursday

    assert run == Run(utc(2026, 11, 22, 3), date(2026, 11, 22), 0)


def test_several_times_a_day_are_slots() -> None:
    table = daily("Europe/London", time(7), time(19))
    first = next_run(table, utc(2026, 11, 22, 0))
    assert first is not None

    second = next_run(table, first.at, last=first)

    assert (first.slot, second and second.slot) == (0, 1)


def test_two_slots_in_one_gap_are_one_digest() -> None:
    table = daily("Europe/Berlin", time(2, 15), time(2, 45))

    found = [run.date for run, _ in zip(runs(table, date(2027, 3, 28)), range(2), strict=False)]

    assert found == [date(2027, 3, 28), date(2027, 3, 29)]


def test_moving_on_the_day_of_a_digest_does_not_bring_a_second_one() -> None:
    sent = Run(utc(2026, 11, 22, 6), date(2026, 11, 22), 0)
    west = daily("America/Los_Angeles", time(7))

    run = next_run(west, utc(2026, 11, 22, 8), last=sent, changed=True)

    assert run == Run(utc(2026, 11, 23, 15), date(2026, 11, 23), 0)


def test_exactly_twelve_hours_after_a_digest_the_next_one_may_come() -> None:
    sent = Run(utc(2026, 11, 22, 19), date(2026, 11, 22), 0)
    table = daily("UTC", time(6, 59), time(7))

    run = next_run(table, utc(2026, 11, 22, 20), last=sent, changed=True)

    assert run == Run(utc(2026, 11, 23, 7), date(2026, 11, 23), 1)


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(
                ["Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin", "Asia/Kathmandu", "Africa/Cairo"]
            ),
            st.times().map(lambda t: t.replace(second=0, microsecond=0)),
            st.integers(0, 40),
        ),
        max_size=8,
    )
)
def test_however_somebody_moves_no_date_has_two_digests_and_none_comes_within_twelve_hours(
    moves: list[tuple[str, time, int]],
) -> None:
    now = utc(2026, 3, 25)
    last: Run | None = None
    sent: list[Run] = []
    table = daily("Europe/Berlin")
    for zone, wall, hours in moves:
        until = now + timedelta(hours=hours)
        changed = True
        while (run := next_run(table, now, last=last, changed=changed)) is not None and run.at <= until:
            sent.append(run)
            last, now, changed = run, run.at, False
        now, table = until, daily(zone, wall)

    assert len({run.date for run in sent}) == len(sent)
    assert all(later.at - one.at >= LEAST_GAP for one, later in pairwise(sent))


def test_ten_thousand_moves_near_the_minute_bring_no_date_two_digests() -> None:
    chance = random.Random(30)
    zones = (
        "Pacific/Kiritimati",
        "Etc/GMT+12",
        "Europe/Berlin",
        "Asia/Kathmandu",
        "America/New_York",
        "Africa/Cairo",
    )
    now, last, sent = utc(2026, 3, 25), None, list[Run]()
    run = next_run(daily("Europe/Berlin"), now)
    for _ in range(10_000):
        now += timedelta(seconds=chance.randrange(1, 3 * 3600))
        if run is not None and run.at <= now:
            sent.append(run)
            last = run
        zone = chance.choice(zones)
        soon = (now + timedelta(minutes=chance.randrange(-2, 3))).astimezone(ZoneInfo(zone)).time()
        run = next_run(
            daily(zone, soon.replace(second=0, microsecond=0)), now, last=last, changed=last is not None
        )

    assert len(sent) > 100
    assert len({one.date for one in sent}) == len(sent)
    assert all(later.at - one.at >= LEAST_GAP for one, later in pairwise(sent))


def test_the_spread_is_a_persons_own_and_even() -> None:
    limit = timedelta(seconds=120)
    values = [spread(f"person-{n}", limit) for n in range(2000)]

    assert spread("person-1", limit) == values[1]
    assert all(timedelta(0) <= value < limit for value in values)
    assert 55 < sum(value.total_seconds() for value in values) / len(values) < 65
