"""What an SMTP server answers decides what becomes of a mail; each row of the table is met by somebody."""

from __future__ import annotations

import pytest

from core.outcome import Defer, Fail, Halt, Outcome, Retry
from delivery.channels.smtp_answers import TABLE, Phase, outcome_of

ANSWERS: list[tuple[Phase, int, str, type[Outcome], bool]] = [
    ("auth", 454, "4.7.0 Temporary authentication failure", Retry, False),
    ("auth", 432, "4.7.12 A password transition is needed", Retry, False),
    ("auth", 535, "5.7.8 Authentication credentials invalid", Halt, False),
    ("auth", 534, "5.7.9 Authentication mechanism is too weak", Halt, False),
    ("mail", 530, "5.7.0 Must issue a STARTTLS command first", Halt, False),
    ("rcpt", 530, "5.7.1 Authentication required", Halt, False),
    ("mail", 535, "authentication failed", Halt, False),
    ("mail", 538, "5.7.11 Encryption required", Halt, False),
    ("mail", 550, "5.7.1 Sender not allowed", Halt, False),
    ("mail", 550, "hub@example.org is blocked", Halt, False),
    ("mail", 553, "sender not owned", Halt, False),
    ("mail", 501, "5.1.7 Bad sender address syntax", Halt, False),
    ("connect", 554, "No SMTP service here", Halt, False),
    ("connect", 521, "does not accept mail", Halt, False),
    ("rcpt", 450, "4.2.0 Recipient address rejected: Greylisted, see http://postgrey", Defer, False),
    ("rcpt", 451, "Graylisted, try again", Defer, False),
    ("rcpt", 450, "4.7.1 try later", Defer, False),
    ("content", 451, "4.7.1 try later", Defer, False),
    ("rcpt", 452, "4.2.2 Mailbox full", Defer, False),
    ("rcpt", 552, "5.2.2 Mailbox full", Defer, False),
    ("content", 550, "5.2.2 over quota", Defer, False),
    ("connect", 421, "4.3.2 shutting down", Retry, False),
    ("rcpt", 450, "4.2.1 mailbox busy", Retry, False),
    ("content", 451, "4.3.0 local error", Retry, False),
    ("rcpt", 452, "4.3.1 out of memory", Retry, False),
    ("mail", 455, "parameters", Retry, False),
    ("rcpt", 550, "5.1.8 sender's domain does not exist", Halt, False),
    ("rcpt", 550, "5.1.7 bad sender's address", Halt, False),
    ("rcpt", 550, "5.1.1 <ada@example.com> User unknown", Fail, True),
    ("content", 550, "5.1.10 RESOLVER.ADR.RecipientNotFound", Fail, True),
    ("rcpt", 550, "5.2.1 mailbox disabled", Fail, True),
    ("rcpt", 554, "5.7.1 Relay access denied", Fail, False),
    ("content", 550, "5.7.26 unauthenticated mail is not accepted", Fail, False),
    ("content", 552, "5.3.4 Message too big", Fail, False),
    ("mail", 552, "5.3.4 Message size exceeds fixed limit", Fail, False),
    ("rcpt", 552, "5.2.3 Message length exceeds limit", Fail, False),
    ("content", 552, "Too much mail data", Fail, False),
    ("rcpt", 552, "quota", Defer, False),
    ("rcpt", 550, "No such user here", Fail, True),
    ("rcpt", 550, "5.0.0 unknown", Fail, True),
    ("rcpt", 551, "User not local; please try elsewhere", Fail, True),
    ("rcpt", 553, "mailbox name not allowed", Fail, True),
    ("content", 550, "rejected as spam", Fail, False),
    ("content", 554, "Transaction failed", Fail, False),
    ("rcpt", 501, "syntax", Fail, False),
    ("data", 503, "bad sequence", Fail, False),
    ("data", 250, "what?", Retry, False),
    ("mail", -1, "Malformed", Retry, False),
]


@pytest.mark.parametrize(("phase", "code", "text", "kind", "is_dead"), ANSWERS)
def test_an_answer_decides(phase: Phase, code: int, text: str, kind: type[Outcome], is_dead: bool) -> None:
    outcome = outcome_of(phase, code, text)

    assert type(outcome) is kind
    assert getattr(outcome, "address_is_dead", False) is is_dead
    assert "example" not in repr(outcome)


def test_every_row_of_the_table_decides_something() -> None:
    said = {getattr(outcome_of(phase, code, text), "reason", None) for phase, code, text, _, _ in ANSWERS}

    assert said == {row.reason for row in TABLE}


def test_the_code_shows_both_numbers_and_none_of_the_words() -> None:
    outcome = outcome_of("rcpt", 550, "5.1.1 <ada@example.com> unknown")

    assert outcome == Fail(reason="there is no such mailbox", code="550 5.1.1", address_is_dead=True)


def test_greylisting_is_waited_out() -> None:
    outcome = outcome_of("rcpt", 450, "4.7.1 Greylisted for 300 seconds")

    assert isinstance(outcome, Defer)
    assert outcome.after is not None
    assert outcome.after.total_seconds() > 300
