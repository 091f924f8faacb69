"""(pure) What somebody wants of their digest: a checked value, and the timetable that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta, tzinfo
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from core.errors import Fault, ServiceError
from core.locale import is_timezone
from core.notification import DELIVERY_CHANNELS, RANKS, Priority
from digest.days_off import NONE, DaysOff
from digest.timetable import Timetable

Frequency = Literal["daily", "weekdays", "weekly", "hourly", "off"]
FREQUENCIES: tuple[str, ...] = get_args(Frequency)

#: Where a digest goes when nothing else is said (X-8).
DEFAULT_CHANNELS = ("in_app", "email")

#: The hours of an hourly digest: nobody is to be woken by one.
WAKING_HOURS = range(8, 21)

MAX_TIMES = 24
MAX_TYPES = 50

_MONDAY = 0
_DIGEST = "digest"
_EVERY_DAY = frozenset(range(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    A person's wishes.

    delivery_times: of the wall clock, to the minute, sorted; of an hourly digest one, of which only the minute
    counts. weekly_day: 0 is Monday; of a weekly digest, and of weekly_types: these stand only in the first digest of that
    day, or in the next one that is sent. include_types: None is every type. all_quiet: a week without
    anything to tell is told. inbox_when_active: who has just been in the application has it there and nowhere else.
    """

    is_enabled: bool = True
    delivery_times: tuple[time, ...] = (time(7),)
    timezone: str = "UTC"
    frequency: Frequency = "daily"
    weekly_day: int | None = None
    include_types: tuple[str, ...] | None = None
    exclude_types: tuple[str, ...] = ()
    weekly_types: tuple[str, ...] = ()
    exclude_weekends: bool = False
    min_priority: Priority = Priority.LOW
    unread_only: bool = False
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    all_quiet: bool = False
    inbox_when_active: bool = False


def check(wanted: Wanted, off: DaysOff = NONE) -> None:
    """off: of their tenant. Raises ServiceError (invalid) with every fault that it finds."""
    if faults := list(_faults(wanted)):
        raise ServiceError("invalid", faults=faults)
    table = timetable(wanted, off)
    if table is not None and table.weekdays <= table.off.weekend:
        raise ServiceError(
            "invalid", faults=[Fault("weekly_day", "lies in the weekend, which exclude_weekends leaves out")]
        )


def timetable(wanted: Wanted, off: DaysOff = NONE, zone: tzinfo | None = None) -> Timetable | None:
    """
    When their digests are due; None: never.

    off: of their tenant. zone: in place of theirs, when that is gone from the data.
    """
    if not wanted.is_enabled or wanted.frequency == "off":
        return None
    days, times = _days_and_times(wanted)
    heeds = wanted.exclude_weekends or wanted.frequency == "weekdays"
    return Timetable(
        times=times, weekdays=days, zone=zone or ZoneInfo(wanted.timezone), off=off if heeds else NONE
    )


def rhythm(wanted: Wanted) -> str:
    """
    By what their runs are named and when they are due: the days, the times and the zone. Whoever changes it moves
    (D-7); whoever switches off, or leaves weekends out, does not.
    """
    days, times = _days_and_times(wanted)
    return " ".join(
        [",".join(map(str, sorted(days))), ",".join(f"{one:%H:%M}" for one in times), wanted.timezone]
    )


def _days_and_times(wanted: Wanted) -> tuple[frozenset[int], tuple[time, ...]]:
    days, times = _EVERY_DAY, wanted.delivery_times
    if wanted.frequency == "weekly":
        days = frozenset({_MONDAY if wanted.weekly_day is None else wanted.weekly_day})
    elif wanted.frequency == "hourly":
        times = tuple(time(hour, wanted.delivery_times[0].minute) for hour in WAKING_HOURS)
    return days, times


def is_weekly_turn(wanted: Wanted, day: date, last: date | None) -> bool:
    """
    Whether the weekly types stand in the digest of a local date: it is that of their day, or the first since.

    last: for which date they stood in one.
    """
    if not wanted.weekly_types:
        return False
    weekly_day = _MONDAY if wanted.weekly_day is None else wanted.weekly_day
    return last is None or day - timedelta(days=(day.weekday() - weekly_day) % 7) > last


def _faults(wanted: Wanted) -> Iterator[Fault]:
    times = wanted.delivery_times
    if not 0 < len(times) <= MAX_TIMES:
        yield Fault("delivery_times", f"must be 1-{MAX_TIMES} times")
    if list(times) != sorted(set(times)):
        yield Fault("delivery_times", "must be sorted, each once")
    if wanted.frequency == "hourly" and len(times) > 1:
        yield Fault("delivery_times", "must be one, whose minute counts, for the frequency hourly")
    if any(one.second or one.microsecond or one.tzinfo is not None for one in times):
        yield Fault("delivery_times", "must be times to the minute, without an offset")
    if not is_timezone(wanted.timezone):
        yield Fault("timezone", "must be a time zone of IANA's, as in Europe/Berlin")
    if wanted.frequency not in FREQUENCIES:
        yield Fault("frequency", f"must be among {', '.join(FREQUENCIES)}")
    if wanted.weekly_day is not None:
        if wanted.frequency != "weekly" and not wanted.weekly_types:
            yield Fault("weekly_day", "is for the frequency weekly, and for weekly_types")
        elif not 0 <= wanted.weekly_day <= 6:
            yield Fault("weekly_day", "must be 0 (Monday) to 6")
    if wanted.include_types is not None and not wanted.include_types:
        yield Fault(
            "include_types",
            "must name a type; to receive nothing set is_enabled to false, for all leave it out",
        )
    if _DIGEST in (wanted.include_types or ()):
        yield Fault("include_types", "must not name digest: none is part of another")
    if both := sorted({*(wanted.include_types or ())} & {*wanted.exclude_types}):
        yield Fault("exclude_types", f"must not name what include_types names: {', '.join(both)}")
    if wanted.weekly_types and wanted.frequency == "weekly":
        yield Fault("weekly_types", "is for digests that come more often than weekly")
    for path, types in (
        ("weekly_types", wanted.weekly_types),
        ("include_types", wanted.include_types or ()),
        ("exclude_types", wanted.exclude_types),
    ):
        if len(types) > MAX_TYPES:
            yield Fault(path, f"must be at most {MAX_TYPES} types")
        if any("," in one for one in types):
            yield Fault(path, "must be names of types")
    if wanted.min_priority not in RANKS:
        yield Fault("min_priority", f"must be among {', '.join(RANKS)}")
    if not wanted.channels or not set(wanted.channels) <= set(DELIVERY_CHANNELS):
        yield Fault("channels", f"must be some of {', '.join(DELIVERY_CHANNELS)}")
    elif len(set(wanted.channels)) < len(wanted.channels):
        yield Fault("channels", "must not name anything twice")
