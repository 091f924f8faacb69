"""What follows from how an attempt ended."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.outcome import Defer, Fail, Fallback, Halt, Outcome, Retry, Sent, Suppress, Unknown
from delivery.channel import UnknownPolicy
from delivery.conclusion import Conclusion, RetrySettings, conclude, settle
from delivery.outbox import Claimed

SETTINGS = RetrySettings()
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def claimed(**members: Any) -> Claimed:
    given: dict[str, Any] = {
        "tenant_id": "school",
        "id": UUID(int=1),
        "kind": "notification",
        "notification_id": UUID(int=2),
        "user_id": "ada",
        "endpoint_id": None,
        "event": None,
        "channel": "sms",
        "lane": 2,
        "attempt": 1,
        "retries": 0,
        "deferrals": 0,
        "unknowns": 0,
        "is_orphan": False,
        "was_unknown": False,
        "expires_at": None,
        "created_at": datetime(2026, 11, 22, tzinfo=UTC),
        "queued_at": datetime(2026, 11, 22, tzinfo=UTC),
        "edited": None,
        "fallback_of": None,
    }
    return Claimed(**given | members)


def concluded(outcome: Outcome, unknown: UnknownPolicy = "repeat", **members: Any) -> Conclusion:
    jitter = members.pop("jitter", 1.0)
    is_probe = members.pop("is_probe", False)
    return conclude(claimed(**members), outcome, unknown, SETTINGS, jitter, is_probe=is_probe)


def test_what_receipts_have_said_before_the_answer_counts() -> None:
    assert concluded(Sent(reached="delivered")).state == "delivered"
    assert concluded(Sent(reached="read")).outcome == "sent"


@pytest.mark.parametrize("kind", [Retry, Unknown])
def test_what_was_partly_sent_ends_as_sent(kind: type[Retry] | type[Unknown]) -> None:
    partly = kind(reason="one browser is away", partly=True)

    assert concluded(partly, retries=3).wait is not None
    last = concluded(partly, retries=4)
    assert (last.state, last.outcome, last.wait) == ("sent", "sent", None)
    assert concluded(kind(reason="away"), retries=4).state == "failed"


def test_what_was_sent_is_finished_and_keeps_the_providers_name_for_it() -> None:
    assert concluded(Sent(provider_ref="SM1")) == Conclusion(state="sent", outcome="sent", provider_ref="SM1")


def test_retries_wait_twice_as_long_each_time_up_to_the_cap_and_end_after_five_attempts() -> None:
    waits = [concluded(Retry(reason="busy"), retries=n).wait for n in range(5)]

    assert waits == [30 * SECOND, 60 * SECOND, 120 * SECOND, 240 * SECOND, None]
    assert concluded(Retry(reason="busy"), retries=4).state == "failed"
    assert RetrySettings(attempts=20).retry_cap == 15 * MINUTE
    long = conclude(claimed(retries=15), Retry(reason="busy"), "repeat", RetrySettings(attempts=20), 1.0)
    assert long.wait == 15 * MINUTE


@given(retries=st.integers(0, 3), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_is_full_and_never_beyond_the_wait(retries: int, jitter: float) -> None:
    wait = concluded(Retry(reason="busy"), retries=retries, jitter=jitter).wait

    assert wait is not None
    assert timedelta(0) <= wait <= 30 * SECOND * 2**retries


@given(after=st.integers(0, 100_000), jitter=st.floats(0, 1, exclude_max=True))
def test_nothing_is_tried_before_the_provider_allows_it(after: int, jitter: float) -> None:
    for outcome in (
        Retry(reason="429", after=after * SECOND),
        Retry(reason="429", after=after * SECOND, throttled=True),
        Defer(reason="later", after=after * SECOND),
    ):
        wait = concluded(outcome, jitter=jitter).wait
        assert wait is not None
        assert wait >= after * SECOND


def test_deferrals_wait_from_five_to_sixty_minutes_and_end_too() -> None:
    waits = [concluded(Defer(reason="80007"), deferrals=n).wait for n in range(5)]

    assert waits == [5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE, None]
    assert concluded(Defer(reason="80007"), deferrals=3).deferrals == 1


def test_a_throttled_account_and_a_probe_are_not_counted_against_the_delivery() -> None:
    for outcome, is_probe in (
        (Retry(reason="429", throttled=True), False),
        (Retry(reason="down"), True),
        (Defer(reason="429", throttled=True), False),
    ):
        conclusion = concluded(outcome, retries=4, deferrals=4, is_probe=is_probe)
        assert (conclusion.retries, conclusion.deferrals) == (0, 0)
        assert conclusion.wait is not None


def test_what_could_not_be_sent_for_a_day_because_of_the_account_is_a_dead_letter() -> None:
    for outcome, is_probe in ((Retry(reason="429", throttled=True), False), (Retry(reason="down"), True)):
        for waited, state in ((timedelta(hours=23), "queued"), (timedelta(hours=24), "failed")):
            conclusion = conclude(
                claimed(), outcome, "repeat", SETTINGS, 1.0, is_probe=is_probe, waited=waited
            )
            assert conclusion.state == state


@pytest.mark.parametrize("partly", [False, True])
def test_the_last_attempt_waits_for_who_had_no_turn_and_for_a_day_at_most(partly: bool) -> None:
    end = "sent" if partly else "failed"
    outcome = Retry(reason="it fails", untried=10 * MINUTE, partly=partly)
    early = concluded(outcome, retries=2)
    last = concluded(outcome, retries=4, jitter=0.0)
    over = conclude(claimed(retries=4), outcome, "repeat", SETTINGS, 1.0, waited=timedelta(days=1))

    assert (early.state, early.retries) == ("queued", 1)
    assert (last.state, last.retries, last.wait) == ("queued", 0, 10 * MINUTE)
    assert (over.state, over.wait) == (end, None)
    assert concluded(Retry(reason="it fails", partly=partly), retries=4).state == end


def test_what_cannot_reach_the_person_falls_back_to_the_next_channel() -> None:
    conclusion = concluded(Fallback(reason="not on WhatsApp", code="131026"), channel="whatsapp")

    assert (conclusion.state, conclusion.fallback, conclusion.wait) == ("suppressed", "sms", None)
    assert concluded(Fallback(reason="no"), channel="sms").state == "failed"


def test_what_was_put_in_place_of_a_notification_goes_by_no_other_channel() -> None:
    conclusion = concluded(Fallback(reason="not on WhatsApp"), channel="whatsapp", edited=b"sealed")

    assert (conclusion.state, conclusion.fallback) == ("failed", None)


def test_who_has_stopped_us_is_remembered() -> None:
    conclusion = concluded(Suppress(reason="STOP", code="21610"))

    assert (conclusion.state, conclusion.is_stopped) == ("suppressed", True)


def test_a_halted_account_makes_deliveries_wait_and_not_fail() -> None:
    for retries in range(5):
        conclusion = concluded(Halt(reason="no credit"), retries=retries, deferrals=4)
        assert (conclusion.state, conclusion.wait, conclusion.retries) == ("deferred", MINUTE, 0)


def test_a_dead_address_is_named_only_where_it_is_dead() -> None:
    assert concluded(Fail(reason="hard bounce", address_is_dead=True)).dead_because == "gone"
    assert concluded(Fail(reason="550", address_is_dead=True), channel="email").dead_because == "bounced"
    assert concluded(Fail(reason="too long")).dead_because is None
    assert concluded(Fail(reason="too long")).wait is None


def test_an_unknown_end_is_repeated_where_the_other_side_recognises_it() -> None:
    conclusion = concluded(Unknown(reason="reset"), "repeat")

    assert (conclusion.state, conclusion.unknowns, conclusion.retries) == ("queued", 1, 1)
    assert concluded(Unknown(reason="reset"), "repeat", retries=4).state == "failed"


def test_an_unknown_end_waits_ten_minutes_for_a_receipt_where_it_does_not() -> None:
    conclusion = concluded(Unknown(reason="reset"), "reconcile")

    assert (conclusion.state, conclusion.wait, conclusion.unknowns) == ("unknown", 10 * MINUTE, 1)


@pytest.mark.parametrize(
    ("lane", "rule", "unknowns", "is_sent"),
    [
        (0, None, 1, True),
        (1, None, 1, True),
        (2, None, 1, False),
        (4, None, 1, False),
        (2, "retry_once", 1, True),
        (0, "give_up", 1, False),
        (0, None, 2, False),
        (0, "retry_once", 2, False),
    ],
)
def test_without_a_receipt_it_is_sent_at_most_once_more(
    lane: int, rule: str | None, unknowns: int, is_sent: bool
) -> None:
    settled = settle(claimed(lane=lane, unknowns=unknowns, was_unknown=True), rule, SETTINGS)

    if is_sent:
        assert settled == "send"
    else:
        assert isinstance(settled, Conclusion)
        assert (settled.state, settled.code) == ("failed", "unknown_outcome")


def test_what_a_dead_worker_had_in_hand_waits_for_a_receipt_first() -> None:
    settled = settle(claimed(is_orphan=True, unknowns=1, lane=0), None, SETTINGS)

    assert isinstance(settled, Conclusion)
    assert (settled.state, settled.wait) == ("unknown", 10 * MINUTE)


@pytest.mark.parametrize("text", ["whatsapp", "whatsapp:", "sms:sms", "a:b:c", ":"])
def test_crooked_fallbacks_stop_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="must be channel:channel"):
        RetrySettings(fallback=text)
