"""
The tables of errors and of close codes in docs/errors.md and docs/protocol.md: `python -m app.error_tables`.

tests/unit/test_docs.py holds both pages to them.
"""

from __future__ import annotations

import sys

from core.errors import CODES
from hub.disconnect import TABLE, Return

_COMES_BACK: dict[Return, str] = {
    "never": "no",
    "with_new_token": "with a new token or ticket",
    "after_hint": "after the hint, else with jitter",
    "at_once": "yes",
}


def errors() -> str:
    """Every code of the service, as Markdown."""
    rows = [
        f"| `{code}` | {spec.status} | {'yes' if spec.temporary else 'no'} | {spec.title} |"
        for code, spec in CODES.items()
    ]
    return "\n".join(["| `error` | status | may succeed later | title |", "|---|---|---|---|", *rows, ""])


def close_codes() -> str:
    """Every close code that the server sends, as Markdown."""
    rows = [
        f"| {one.code} | {one.reason or '(none)'} | {_COMES_BACK[one.comes_back]} | {one.meaning} |"
        for one in TABLE
    ]
    return "\n".join(["| code | reason | reconnect | meaning |", "|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(f"{errors()}\n{close_codes()}")
