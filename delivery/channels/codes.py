"""
What the providers' own codes mean to us: codes.json, read once (pure).

The table is data, so that a new code is a line in it. A code it does not know is judged by the status of the
answer: 5xx may go better, any other refusal will not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Literal

import msgspec

from core.outcome import Defer, Fail, Fallback, Halt, Outcome, Retry, Suppress

#: A code larger than this is none: a number that stands for something else, a phone number perhaps.
_LARGEST = 9_999_999


class Code(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One line of the table.

    code: the provider's number, or an inclusive range of them, "200-299". says: words of the answer's
    description that tell this line from others of the same code. wait_s: seconds not to try again for, by
    attempt; the last holds for all later ones. throttled: it concerns the whole account.
    address_is_dead: this address will never be reached.
    """

    provider: str
    code: str
    outcome: Literal["retry", "defer", "fallback", "suppress", "halt", "fail"]
    meaning: str
    source: str
    says: str = ""
    wait_s: tuple[int, ...] = ()
    throttled: bool = False
    address_is_dead: bool = False

    def wait(self, attempt: int) -> timedelta | None:
        """How long not to try again. attempt: counted from 1."""
        if not self.wait_s:
            return None
        return timedelta(seconds=self.wait_s[min(attempt, len(self.wait_s)) - 1])


def _read() -> Sequence[Code]:
    text = files("delivery").joinpath("channels", "codes.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[Code, ...])


CODES = _read()


def _by_number() -> Mapping[tuple[str, int], Sequence[Code]]:
    """The lines of each number; those that ask for words come first."""
    found: dict[tuple[str, int], list[Code]] = {}
    for line in CODES:
        first, _, last = line.code.partition("-")
        for number in range(int(first), int(last or first) + 1):
            found.setdefault((line.provider, number), []).append(line)
    return {key: sorted(lines, key=lambda line: not line.says) for key, lines in found.items()}


_LINES = _by_number()


def find(provider: str, code: int | str | None, said: str = "") -> Code | None:
    """The line of a provider's code; None where the table has none. said: the provider's description."""
    number = _number(code)
    if number is None:
        return None
    lines = _LINES.get((provider, number), ())
    said = said.casefold()
    return next((line for line in lines if line.says.casefold() in said), None)


def outcome(
    provider: str,
    code: int | str | None,
    *,
    status: int | None = None,
    said: str = "",
    attempt: int = 1,
    after: timedelta | None = None,
) -> Outcome:
    """
    How an attempt ended that the provider refused, or whose failure it reported later.

    code: of the provider, as it came. status: of the HTTP answer, None for a receipt. said: its description,
    read and not repeated. attempt: counted from 1. after: what Retry-After asked for.
    """
    number = _number(code)
    line = find(provider, code, said)
    if line is None:
        return by_status(status, code=None if number is None else str(number), after=after)
    told = str(number)
    wait = max((one for one in (line.wait(attempt), after) if one is not None), default=None)
    match line.outcome:
        case "retry":
            return Retry(reason=line.meaning, code=told, after=wait, throttled=line.throttled)
        case "defer":
            return Defer(reason=line.meaning, code=told, after=wait, throttled=line.throttled)
        case "fallback":
            return Fallback(reason=line.meaning, code=told, address_is_dead=line.address_is_dead)
        case "suppress":
            return Suppress(reason=line.meaning, code=told)
        case "halt":
            return Halt(reason=line.meaning, code=told)
        case "fail":
            return Fail(reason=line.meaning, code=told, address_is_dead=line.address_is_dead)


def by_status(status: int | None, *, code: str | None = None, after: timedelta | None = None) -> Outcome:
    """How an attempt ended by the HTTP status alone (RFC 9110 §15). code: the provider's, not in the table."""
    told = code or (None if status is None else str(status))
    if status is None:
        return Fail(reason="a code that is not in the table", code=told)
    reason = f"answered {status}"
    if status == 429:
        return Retry(reason=reason, code=told, after=after, throttled=True)
    if status >= 500 or status in (408, 425):
        return Retry(reason=reason, code=told, after=after)
    if 300 <= status < 400:
        return Halt(reason=f"{reason}, a redirect, which is not followed: is the address right?", code=told)
    if status in (401, 402, 407):
        return Halt(reason=f"{reason}: are the credentials right?", code=told)
    return Fail(reason=reason, code=told)


def _number(code: int | str | None) -> int | None:
    if isinstance(code, str):
        code = int(code) if code.isascii() and code.isdigit() and len(code) < 9 else None
    if isinstance(code, bool) or not isinstance(code, int):
        return None
    return code if 0 <= code <= _LARGEST else None
