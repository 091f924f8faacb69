"""
(pure) What time it is where somebody is: local dates and wall times in, instants out.

Days are never added up as 24 hours. A wall time that a clock change skips comes at the first instant after the gap; one
that comes twice comes the first time.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_MIDNIGHT = time(0)


def instant(day: date, wall: time, zone: tzinfo) -> datetime | None:
    """
    When this wall time comes on this date, UTC; None for a date that the zone has never had (Pacific/Apia,
    2011-12-30).

    zoneinfo does not say that a time is skipped (PEP 495): it is when its instant shows another time.
    """
    local = datetime.combine(day, wall, tzinfo=zone)
    at = local.astimezone(UTC)
    if at.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return at
    if not exists(day, zone):
        return None
    return _gap_end(local)


def exists(day: date, zone: tzinfo) -> bool:
    """Whether the zone has this date at all."""
    return start(day, zone) < start(day + _DAY, zone)


def start(day: date, zone: tzinfo) -> datetime:
    """The first instant whose local date is `day` or later, UTC. A day begins at 01:00 where 00:00 is skipped."""
    midnight = datetime.combine(day, _MIDNIGHT, tzinfo=zone)
    at = midnight.astimezone(UTC)
    if at.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return at
    return _gap_end(midnight)


def clocks_change(day: date, zone: tzinfo) -> bool:
    """Whether the offset changes on this date: at its first instant, or at any later one."""
    before, last = (start(one, zone) - _SECOND for one in (day, day + _DAY))
    return before.astimezone(zone).utcoffset() != last.astimezone(zone).utcoffset()


def alike(one: tzinfo, other: tzinfo, now: datetime) -> bool:
    """Whether clocks show the same in both for a year from now on, whatever their names (Asia/Calcutta, Asia/Kolkata)."""
    moments = (now.astimezone(UTC) + week * timedelta(weeks=1) for week in range(53))
    return all(at.astimezone(one).utcoffset() == at.astimezone(other).utcoffset() for at in moments)


def _gap_end(local: datetime) -> datetime:
    """
    The first instant after the gap that this local time lies in, UTC.

    In a gap fold=1 is read by the offset after it, an instant before it, and fold=0 the other way round
    (PEP 495); the change lies between the two. Offsets change at whole seconds.
    """
    before = int(local.replace(fold=1).astimezone(UTC).timestamp())
    behind = int(local.replace(fold=0).astimezone(UTC).timestamp())
    zone = local.tzinfo
    offset = datetime.fromtimestamp(before, zone).utcoffset()
    while behind - before > 1:
        middle = (before + behind) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            before = middle
        else:
            behind = middle
    return datetime.fromtimestamp(behind, UTC)
