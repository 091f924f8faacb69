"""JSON where a second meaning would be a way in: tokens and key documents."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def read_object(text: bytes) -> dict[str, Any]:
    """
    One JSON object (RFC 8259) in UTF-8. Give it text of bounded size.

    Raises ValueError for anything else, for a member that stands twice in an object (RFC 7515 section 4
    allows refusing it; readers that keep the first and readers that keep the last disagree), for NaN
    and Infinity, and for nesting deeper than the reader goes.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member stands twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
