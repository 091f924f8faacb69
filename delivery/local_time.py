"""(pure) What is to come at one time of the clock, wherever each person is: at nine in the morning, of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from core.wall_time import instant, start

#: No clock on earth is further ahead of UTC (Pacific/Kiritimati), or further behind it (Etc/GMT+12).
AHEAD, BEHIND = timedelta(hours=14), timedelta(hours=12)


def first(local: datetime) -> datetime:
    """When a clock somewhere shows this time first. local: without an offset."""
    return local.replace(tzinfo=UTC) - AHEAD


def last(local: datetime) -> datetime:
    """When the last clock shows this time. local: without an offset."""
    return local.replace(tzinfo=UTC) + BEHIND


def moment(local: datetime, zone: str) -> datetime:
    """
    When the clocks of a zone show this time, UTC: where a change of the clocks skips it, the first moment after; where
    it comes twice, the first time; on a date that the zone does not have, when its next one begins.
    """
    where, day = ZoneInfo(zone), local.date()
    return instant(day, local.time(), where) or start(day + timedelta(days=1), where)
