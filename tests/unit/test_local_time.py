"""One time of the clock, wherever each person is."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import available_timezones

import pytest

from delivery.local_time import first, last, moment

MORNING = datetime.fromisoformat("2027-03-01T09:00")


@pytest.mark.parametrize(
    ("local", "zone", "utc"),
    [
        ("2027-03-01T09:00", "Africa/Kigali", "2027-03-01T07:00"),
        ("2027-03-01T09:00", "Asia/Kathmandu", "2027-03-01T03:15"),
        ("2027-03-01T09:00", "UTC", "2027-03-01T09:00"),
        # Clocks go from 02:00 to 03:00, and in the autumn from 03:00 to 02:00.
        ("2027-03-28T02:30", "Europe/Berlin", "2027-03-28T01:00"),
        ("2027-10-31T02:30", "Europe/Berlin", "2027-10-31T00:30"),
        # Samoa went over the date line, from Thursday to Saturday.
        ("2011-12-30T09:00", "Pacific/Apia", "2011-12-30T10:00"),
    ],
)
def test_a_time_of_the_clock_is_a_moment_in_each_zone(local: str, zone: str, utc: str) -> None:
    assert moment(datetime.fromisoformat(local), zone) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


def test_no_clock_shows_it_before_the_first_or_after_the_last() -> None:
    moments = [moment(MORNING, zone) for zone in available_timezones()]

    assert first(MORNING) == min(moments)
    assert last(MORNING) == max(moments)
