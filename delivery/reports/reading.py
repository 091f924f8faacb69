"""Reading JSON of which only the sender is known: what is not as documented is absent. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

_NUMBER = re.compile(r"\+[1-9][0-9]{5,14}", re.ASCII)

#: Of an id, a status or a code; real ones have less than half of it.
_LONGEST_NAME = 512

#: The last second that a moment may have: the year 2200. What lies beyond is no report of anything.
_LATEST = 7_258_118_400


def members(value: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a list."""
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, list):
        yield from (one for one in found if isinstance(one, dict))


def text(value: Mapping[str, Any], name: str) -> str | None:
    """A text, without the character NUL, which PostgreSQL does not take."""
    found = value.get(name)
    return found.replace("\0", "") if isinstance(found, str) else None


def name(value: Mapping[str, Any], member: str) -> str | None:
    """What a provider calls something: a short text that is not empty."""
    found = text(value, member)
    return found if found and len(found) <= _LONGEST_NAME else None


def number(text: str) -> str | None:
    """A phone number with its + (E.164); None for a short code or a name."""
    return text if _NUMBER.fullmatch(text) else None


def moment(value: Any) -> datetime | None:
    """Seconds since the epoch, a number or decimal digits, as a time."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:15])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        return None
    return datetime.fromtimestamp(value, UTC)
