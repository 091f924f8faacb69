"""
(pure) When a person's next digest is due: local dates and wall times in, instants out.

Days are never added up as 24 hours. A wall time that a clock change skips is due at the first instant after the
gap; one that comes twice is due the first time; a date that a zone has never had is due not at all, and what
would have stood in its digest stands in the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from core.wall_time import instant
from digest.days_off import NONE, DaysOff

_DAY = timedelta(days=1)

#: Further ahead nobody looks: a weekly digest whose day falls into a skipped date is found two weeks on.
_HORIZON_DAYS = 16

#: How far ahead somebody can look.
_LONGEST = timedelta(days=800)

#: Between two digests to one person when they have moved their zone or their hour (D-7).
LEAST_GAP = timedelta(hours=12)

#: Many people share a date, a minute and a zone.
_instant = lru_cache(maxsize=1 << 15)(instant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """
    When digests are wanted.

    times: of the wall clock, sorted, each once; their places are the slots. weekdays: 0 is Monday. off: on these there
    is none.
    """

    times: tuple[time, ...]
    weekdays: frozenset[int]
    zone: tzinfo
    off: DaysOff = NONE

    def __post_init__(self) -> None:
        if not self.times or list(self.times) != sorted(set(self.times)):
            raise ValueError("times must be sorted, and at least one")
        if not self.weekdays or not self.weekdays <= frozenset(range(7)):
            raise ValueError("weekdays are 0-6, and at least one")


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """
    One digest that is due. at: UTC. date and slot name it: no two digests of a person have the same ones.

    `date` is the local date it is for, also where a gap over midnight moves it into the next.
    """

    at: datetime
    date: date
    slot: int


def runs(timetable: Timetable, first: date) -> Iterator[Run]:
    """Every digest from a local date on, in the order of their instants, for about two years."""
    return (run for run in slots(timetable, first) if run.date not in timetable.off)


def slots(timetable: Timetable, first: date) -> Iterator[Run]:
    """The same with days off, of which each has its first slot: what is due and not sent."""
    day, end = first, min(first, date.max - _LONGEST) + _LONGEST - _DAY
    while day < end:
        if day.weekday() in timetable.weekdays:
            wanted = timetable.times[:1] if day in timetable.off else timetable.times
            found = (
                Run(at, day, slot)
                for slot, wall in enumerate(wanted)
                if (at := _instant(day, wall, timetable.zone)) is not None
            )
            # Two slots inside one gap fall together: the first of them stands for both.
            seen: set[datetime] = set()
            for run in found:
                if run.at not in seen:
                    seen.add(run.at)
                    yield run
        day += _DAY


def kept(timetable: Timetable, run: Run | None) -> Run | None:
    """This run, or where it is for a day off the first one after it that is not; None: there is none."""
    if run is None or run.date not in timetable.off:
        return run
    return next(runs(timetable, run.date), None)


def next_run(
    timetable: Timetable, after: datetime, *, last: Run | None = None, changed: bool = False
) -> Run | None:
    """
    The first run that is due later than `after`, perhaps for a day off; None when there is none within two weeks.

    last: the last digest that went out, or was skipped. changed: the zone, the times or the days are others
    than those of `last`; then the next one is for a later date than `last` was, and at least 12 h after it.

    after: aware.
    """
    today = after.astimezone(timetable.zone).date()
    # A run may be due on the day after its own date (a gap over midnight), so look one day back.
    first = today - _DAY if last is None else max(today - _DAY, last.date)
    for run in slots(timetable, first):
        if run.date > today + _HORIZON_DAYS * _DAY:
            return None
        if run.at <= after:
            continue
        if last is not None and (run.date, run.slot) <= (last.date, last.slot):
            continue
        if last is not None and changed and (run.date <= last.date or run.at < last.at + LEAST_GAP):
            continue
        return run
    return None


def anew(timetable: Timetable, run: Run, last: Run | None) -> Run | None:
    """
    When this run is due since the clocks of its zone are said to show something else: the same date and slot, perhaps
    already over; the first one after it where the date is gone, or where it falls together with `last`.
    """
    for one in slots(timetable, run.date):
        if one.date > run.date + _HORIZON_DAYS * _DAY:
            return None
        if (one.date, one.slot) >= (run.date, run.slot) and (last is None or one.at > last.at):
            return one
    return None


def spread(subscription: str, limit: timedelta) -> timedelta:
    """
    How much later than its minute this person's digest is begun, so that those who share a minute do not all
    come at once (D-9): from 0 up to `limit`, always the same for the same person.
    """
    number = int.from_bytes(hashlib.sha256(subscription.encode()).digest()[:8])
    return limit * (number / 2**64)
