"""Languages and time zones, by the names that standards give them."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from zoneinfo import ZoneInfo, available_timezones, reset_tzpath

#: The release of the time zone data: that of the pinned package, not the machine's.
TZDATA = version("tzdata")

#: The same, sorting behind every earlier one (2009.21 comes after 2009.9), as in 2026.02.
TZDATA_RELEASE = ".".join(f"{int(part):02}" for part in TZDATA.split(".")[:2])

#: A well-formed tag (RFC 5646 section 2.1): language, script, region, variants, extensions, private use.
_TAG = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"
    r"(?:-[a-z]{4})?(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[0-9a-wy-z](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?",
    re.IGNORECASE | re.ASCII,
)
_MAX_TAG = 63

#: In the data, and where nobody is: what a machine shows before somebody has set its zone, and the machine's own.
_NO_PLACES = frozenset({"Factory", "localtime"})


def is_language_tag(text: str) -> bool:
    """Whether it is a well-formed tag of BCP 47, as in `de` and `pt-BR`."""
    return len(text) <= _MAX_TAG and _TAG.fullmatch(text) is not None


def is_timezone(text: str) -> bool:
    """Whether it names a zone of the IANA database, as in `Europe/Vienna`."""
    return text in _zones()


def use_pinned_zones() -> None:
    """From now on zones are those of the package `tzdata`, on whatever machine. Called when a process begins."""
    reset_tzpath(to=())
    ZoneInfo.clear_cache()
    _zones.cache_clear()


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_PLACES
