"""What a delivery comes to, out of what became of it in each browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.ids import uuid7
from core.outcome import Fail, Fallback, Outcome, Retry, Sent, Unknown
from core.vault import SealBroken, Vault
from delivery.channels.push import Ticket, concluded
from push.outcome import Kind, PushResult
from push.store import Waiting


def outcome(*kinds: Kind, **waiting: Any) -> Outcome:
    return concluded(Waiting([], **waiting), [PushResult(kind=kind, reason=kind) for kind in kinds])


@pytest.mark.parametrize("other", ["gone", "refused", "blocked", "too_large"])
def test_what_one_browser_has_taken_is_sent_when_none_is_left_to_try(other: Kind):
    assert outcome("sent", other) == Sent()
    assert outcome(other, has_sent=True) == Sent()


def test_what_browsers_have_reported_before_the_end_counts():
    assert outcome("sent", is_shown=True) == Sent(reached="delivered")
    assert outcome("sent", is_shown=True, is_clicked=True) == Sent(reached="read")


@pytest.mark.parametrize("kind", ["retry", "throttled"])
def test_while_one_is_left_it_is_tried_again_and_is_partly_sent(kind: Kind):
    known = outcome("sent", kind)

    assert isinstance(known, Retry)
    assert (known.partly, known.elsewhere, known.throttled) == (True, True, False)
    alone = outcome(kind)
    assert isinstance(alone, Retry)
    assert not alone.partly


MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def after(*results: PushResult, **waiting: Any) -> timedelta | None:
    known = concluded(Waiting([], **waiting), results)
    assert isinstance(known, Retry)
    return known.after


def test_a_retry_waits_for_the_first_that_may_be_tried_and_for_nobody_elses_pause():
    asked = [PushResult(kind="throttled", status=429, retry_after=wait) for wait in (HOUR, MINUTE)]
    failed, lost = PushResult(kind="retry", status=500), PushResult(kind="unknown")

    assert after(*asked) == MINUTE
    assert after(asked[0], wait=MINUTE) == MINUTE
    assert after(*asked, wait=timedelta(seconds=1)) == timedelta(seconds=1)
    assert after(*asked, failed) is None, "its own time, which others do not lengthen"
    assert after(asked[0], lost) is None


def test_what_waits_for_the_end_of_a_pause_is_not_finished_and_not_counted():
    alone, partly = outcome(wait=HOUR), outcome("sent", wait=HOUR)

    assert isinstance(alone, Retry)
    assert (alone.after, alone.untried, alone.is_held_back, alone.partly) == (HOUR, HOUR, True, False)
    assert isinstance(partly, Retry)
    assert (partly.after, partly.untried, partly.partly) == (HOUR, HOUR, True)
    lost = outcome("unknown", wait=HOUR)
    assert isinstance(lost, Retry)
    assert not lost.is_held_back, "an attempt that may have arrived is counted"


def test_who_had_no_turn_keeps_a_delivery_from_ending_with_the_attempts_of_others():
    turned_away = PushResult(kind="throttled", retry_after=MINUTE, is_held_back=True)
    refused = PushResult(kind="throttled", status=429, retry_after=MINUTE)
    failed, sent = PushResult(kind="retry", status=500), PushResult(kind="sent", status=201)

    known = [concluded(Waiting([]), results) for results in ((turned_away, failed), (refused, failed))]
    partly = concluded(Waiting([]), (turned_away, failed, sent))

    assert [one.untried for one in known if isinstance(one, Retry)] == [MINUTE, None]
    assert isinstance(partly, Retry)
    assert partly.untried is None, "what one browser has is not worth a day for the others"


def test_an_answer_that_was_lost_is_unknown_unless_another_is_to_be_tried_again():
    assert isinstance(outcome("unknown", "sent"), Unknown)
    assert isinstance(outcome("unknown", "retry"), Retry)


def test_without_a_browser_another_channel_may_take_over():
    assert isinstance(outcome(), Fallback)
    assert isinstance(outcome("gone", "gone"), Fallback)


def test_what_every_browser_refuses_has_failed():
    assert isinstance(outcome("gone", "refused"), Fail)
    assert isinstance(outcome("gone", is_refused=True), Fail)
    assert isinstance(outcome(is_refused=True), Fail)
    assert outcome(is_refused=True, has_sent=True) == Sent()


def test_a_ticket_says_what_it_was_made_for_and_nothing_else_reads_it():
    vault, other = Vault({"a": b"a" * 32}), Vault({"a": b"b" * 32})
    ticket = Ticket("school", uuid7(), uuid7())

    token = ticket.seal(vault, "push-receipt")

    assert Ticket.read(vault, token, "push-receipt") == ticket
    for vault_, token_, use in (
        (vault, token, "push-fetch"),
        (other, token, "push-receipt"),
        (vault, token[:-4] + "AAAA", "push-receipt"),
        (vault, vault.token("short", "push-receipt"), "push-receipt"),
        (vault, "", "push-receipt"),
    ):
        with pytest.raises(SealBroken):
            Ticket.read(vault_, token_, use)
