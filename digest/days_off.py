"""(pure) The days on which a tenant's people do not work: their weekend, dates of their own, a country's holidays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import cache, lru_cache

from holidays import country_holidays, list_supported_countries

#: Of who says nothing else: Saturday and Sunday; 0 is Monday.
WEEKEND = frozenset({5, 6})


@dataclass(frozen=True, slots=True, kw_only=True)
class DaysOff:
    """weekend: 0 is Monday. calendar: a country, or a part of one, as in RW and DE-BY (ISO 3166); None: no country's."""

    weekend: frozenset[int] = WEEKEND
    dates: frozenset[date] = frozenset()
    calendar: str | None = None

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and (
            day.weekday() in self.weekend
            or day in self.dates
            or (self.calendar is not None and day in public_holidays(self.calendar, day.year))
        )


#: ISO 3166-2; the data has cities and school zones beside them.
_CODE = re.compile("[A-Z0-9]{1,3}")

#: Nobody has any, or nobody heeds them.
NONE = DaysOff(weekend=frozenset())


def is_calendar(text: str) -> bool:
    """Whether we know the holidays of this country, or of this part of one."""
    return text in _calendars()


@lru_cache(maxsize=1024)
def public_holidays(calendar: str, year: int) -> frozenset[date]:
    """
    By law, with the days that stand in for those that fall on a weekend. None of a calendar that the data does not
    have (any more), and none of years that it does not reach. Feasts that the moon decides are as astronomers expect
    them.
    """
    if not is_calendar(calendar):
        return frozenset()
    country, _, part = calendar.partition("-")
    return frozenset(country_holidays(country, subdiv=part or None, years=year))


@cache
def _calendars() -> frozenset[str]:
    known = list_supported_countries(include_aliases=False)
    parts = {
        f"{country}-{part}" for country, parts in known.items() for part in parts if _CODE.fullmatch(part)
    }
    return frozenset(known) | parts
