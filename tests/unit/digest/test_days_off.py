"""Days on which a tenant's people do not work."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from digest.days_off import NONE, DaysOff, is_calendar, public_holidays
from digest.timetable import Run, Timetable, kept, next_run, runs, slots

EVERY_DAY = frozenset(range(7))


def table(off: DaysOff, *times: time, weekdays: frozenset[int] = EVERY_DAY) -> Timetable:
    return Timetable(times=times or (time(7),), weekdays=weekdays, zone=ZoneInfo("Africa/Kigali"), off=off)


def test_saturday_and_sunday_are_off_where_nobody_says_anything_else() -> None:
    week = [date(2026, 11, 23) + timedelta(days=n) for n in range(7)]

    assert [day for day in week if day in DaysOff()] == [date(2026, 11, 28), date(2026, 11, 29)]
    assert [day for day in week if day in DaysOff(weekend=frozenset({4, 5}))] == [
        date(2026, 11, 27),
        date(2026, 11, 28),
    ]
    assert [day for day in week if day in DaysOff(weekend=frozenset(), dates=frozenset({week[1]}))] == [
        week[1]
    ]
    assert not any(day in NONE for day in week)


@pytest.mark.parametrize(
    ("calendar", "day", "is_off"),
    [
        ("RW", date(2026, 4, 7), True),  # Genocide Memorial Day
        ("RW", date(2026, 7, 1), True),  # Independence Day
        ("RW", date(2026, 7, 2), False),
        ("DE", date(2026, 1, 6), False),
        ("DE-BY", date(2026, 1, 6), True),  # Epiphany, in Bavaria and not everywhere
        ("DE", date(2026, 4, 6), True),  # Easter Monday moves
        ("DE", date(2027, 3, 29), True),
        ("US", date(2026, 11, 26), True),  # the fourth Thursday
        ("XX", date(2026, 1, 1), False),
    ],
)
def test_a_countrys_holidays_are_off(calendar: str, day: date, is_off: bool) -> None:
    assert (day in DaysOff(weekend=frozenset(), calendar=calendar)) is is_off


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("RW", True),
        ("DE-BY", True),
        ("GB-SCT", True),
        ("DE-ZZ", False),
        ("XX", False),
        ("DE-", False),
        ("", False),
    ],
)
def test_a_calendar_is_known_by_its_code(text: str, known: bool) -> None:
    assert is_calendar(text) is known


def test_the_holidays_of_any_year_can_be_asked_for() -> None:
    assert all(isinstance(public_holidays("RW", year), frozenset) for year in (1, 1900, 2026, 2100, 9999))


def test_days_off_are_due_once_and_sent_never() -> None:
    wanted = table(DaysOff(dates=frozenset({date(2026, 11, 24)})), time(7), time(19))

    due = [(run.date, run.slot) for run in islice(slots(wanted, date(2026, 11, 23)), 6)]
    sent = [run.date for run in islice(runs(wanted, date(2026, 11, 28)), 3)]

    assert due == [
        *((date(2026, 11, 23), slot) for slot in (0, 1)),
        (date(2026, 11, 24), 0),
        *((date(2026, 11, 25), slot) for slot in (0, 1)),
        (date(2026, 11, 26), 0),
    ]
    assert sent == [date(2026, 11, 30), date(2026, 11, 30), date(2026, 12, 1)]


def test_the_next_run_may_be_for_a_day_off_and_the_one_that_people_are_told_of_is_not() -> None:
    wanted = table(DaysOff())
    run = next_run(wanted, datetime(2026, 11, 27, 12, tzinfo=UTC))

    assert run is not None
    assert run.date == date(2026, 11, 28)
    assert kept(wanted, run) == Run(datetime(2026, 11, 30, 5, tzinfo=UTC), date(2026, 11, 30), 0)
    assert kept(wanted, kept(wanted, run)) == kept(wanted, run)


def test_where_every_day_is_off_there_is_no_next_digest_to_tell_of() -> None:
    never = table(DaysOff(weekend=frozenset({0})), weekdays=frozenset({0}))
    run = next_run(never, datetime(2026, 11, 27, 12, tzinfo=UTC))

    assert run is not None
    assert kept(never, run) is None
    assert kept(never, None) is None
    assert list(runs(never, date(9990, 1, 1))) == []
