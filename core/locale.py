"""Languages and time zones, by the names that standards give them."""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import available_timezones

#: A well-formed tag (RFC 5646 section 2.1): language, script, region, variants, extensions, private use.
_TAG = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"
    r"(?:-[a-z]{4})?(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[0-9a-wy-z](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?",
    re.IGNORECASE | re.ASCII,
)
_MAX_TAG = 63


def is_language_tag(text: str) -> bool:
    """Whether it is a well-formed tag of BCP 47, as in `de` and `pt-BR`."""
    return len(text) <= _MAX_TAG and _TAG.fullmatch(text) is not None


def is_timezone(text: str) -> bool:
    """Whether it names a zone of the IANA database, as in `Europe/Vienna`."""
    return text in _zones()


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
