"""What an SMTP server answers -> an outcome: one table, read from above, the first row that fits. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, NamedTuple

from core.outcome import Defer, Fail, Halt, Outcome, Retry

#: Where in the conversation it was answered: greeting, EHLO and STARTTLS; AUTH; MAIL FROM; RCPT TO; the word DATA;
#: the mail itself, after its final dot.
Phase = Literal["connect", "auth", "mail", "rcpt", "data", "content"]


class Row(NamedTuple):
    """
    phases: "*" for any. code: of RFC 5321 §4.2. enhanced: of RFC 3463, "" where the server gives none; both with a
    dot for any digit, and "*" for anything. words: looked for in what the server says, in any case.
    """

    phases: str
    code: str
    enhanced: str
    words: str
    outcome: Literal["retry", "defer", "halt", "fail", "dead"]
    reason: str


# fmt: off
TABLE = (
    # --- the sender or its account -----------------------------------------------------------------------------------
    Row("auth",         "454", "*",     "", "retry", "the server cannot check credentials now"),
    Row("auth",         "4..", "*",     "", "retry", "the server cannot check credentials now"),
    Row("auth",         "5..", "*",     "", "halt",  "the server refuses the credentials"),
    Row("*",            "530", "*",     "", "halt",  "the server asks for credentials or for TLS"),
    Row("*",            "535", "*",     "", "halt",  "the server refuses the credentials"),
    Row("*",            "538", "*",     "", "halt",  "the server asks for TLS before credentials"),
    Row("mail",         "5..", "5.7..", "", "halt",  "the server refuses this sender"),
    Row("mail",         "550", "*",     "", "halt",  "the server refuses this sender"),
    Row("mail",         "553", "*",     "", "halt",  "the server refuses this sender"),
    Row("mail",         "5..", "5.1..", "", "halt",  "the server refuses this sender"),
    Row("connect",      "554", "*",     "", "halt",  "the server does not talk to this host"),
    Row("connect",      "5..", "*",     "", "halt",  "the server does not talk to this host"),
    # --- later -------------------------------------------------------------------------------------------------------
    Row("*",            "4..", "*",     "greylist", "defer", "the server has greylisted this sender"),
    Row("*",            "4..", "*",     "graylist", "defer", "the server has greylisted this sender"),
    Row("*",            "450", "4.7.1", "", "defer", "the server has greylisted this sender"),
    Row("*",            "451", "4.7.1", "", "defer", "the server has greylisted this sender"),
    Row("*",            "4..", "4.2.2", "", "defer", "the mailbox is full"),
    Row("rcpt content", "5..", "5.2.2", "", "defer", "the mailbox is full"),
    # --- soon --------------------------------------------------------------------------------------------------------
    Row("*",            "421", "*",     "", "retry", "the server is closing or has had enough"),
    Row("*",            "450", "*",     "", "retry", "the mailbox is not available now"),
    Row("*",            "451", "*",     "", "retry", "the server has an error of its own"),
    Row("*",            "452", "*",     "", "retry", "the server lacks room now"),
    Row("*",            "4..", "*",     "", "retry", "the server refuses for now"),
    # --- the address -------------------------------------------------------------------------------------------------
    Row("rcpt content", "5..", "5.1.8", "", "halt",  "the server refuses this sender"),
    Row("rcpt content", "5..", "5.1.7", "", "halt",  "the server refuses this sender"),
    Row("rcpt content", "5..", "5.1..", "", "dead",  "there is no such mailbox"),
    Row("rcpt content", "5..", "5.2.1", "", "dead",  "the mailbox is closed"),
    # --- the mail ----------------------------------------------------------------------------------------------------
    Row("*",            "5..", "5.7..", "", "fail",  "the server's policy refuses it"),
    Row("*",            "5..", "5.3.4", "", "fail",  "the mail is too big for the server"),
    Row("*",            "5..", "5.2.3", "", "fail",  "the mail is too big for the mailbox"),
    Row("content data mail", "552", "*", "", "fail", "the mail is too big for the server"),
    Row("rcpt",         "552", "*",     "", "defer", "the mailbox is full"),
    # --- without an enhanced code, or with one that says little ------------------------------------------------------
    Row("rcpt",         "550", "",      "", "dead",  "there is no such mailbox"),
    Row("rcpt",         "550", "5.0.0", "", "dead",  "there is no such mailbox"),
    Row("rcpt",         "551", "*",     "", "dead",  "the person has another mailbox now"),
    Row("rcpt",         "553", "",      "", "dead",  "the server does not take such an address"),
    Row("rcpt content", "5..", "*",     "", "fail",  "the server refuses it for good"),
    Row("*",            "5..", "*",     "", "fail",  "the server refuses it for good"),
    Row("*",            "...", "*",     "", "retry", "the server answered what this command has no answer for"),
)
# fmt: on

_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?=\s|$)")

#: Greylisting lasts some minutes: five is what most servers ask for, and what they remember is longer.
_GREYLISTED = timedelta(minutes=6)


def outcome_of(phase: Phase, code: int, text: str) -> Outcome:
    """
    What an answer that is no success means. text: what stands behind the code; nothing of it is repeated, since it
    may hold the address.
    """
    found = _ENHANCED.match(text)
    enhanced = found[1] if found else ""
    words = text.lower()
    row = next(row for row in TABLE if _fits(row, phase, f"{code:03}", enhanced, words))
    shown = f"{code} {enhanced}".strip()
    match row.outcome:
        case "retry":
            return Retry(reason=row.reason, code=shown)
        case "defer":
            return Defer(
                reason=row.reason, code=shown, after=_GREYLISTED if "greylisted" in row.reason else None
            )
        case "halt":
            return Halt(reason=row.reason, code=shown)
    return Fail(reason=row.reason, code=shown, address_is_dead=row.outcome == "dead")


def _fits(row: Row, phase: Phase, code: str, enhanced: str, words: str) -> bool:
    return (
        (row.phases == "*" or phase in row.phases.split())
        and _is_like(row.code, code)
        and _is_enhanced(row.enhanced, enhanced)
        and row.words in words
    )


def _is_like(pattern: str, code: str) -> bool:
    return all(one in (".", other) for one, other in zip(pattern, code, strict=False))


def _is_enhanced(pattern: str, enhanced: str) -> bool:
    """`5.1..` stands for every detail of 5.1."""
    if pattern.endswith(".."):
        return enhanced.startswith(pattern[:-1])
    return pattern in ("*", enhanced)
