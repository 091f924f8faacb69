"""What watchers are told of deliveries: EasyMO's events and metrics by their names, and nothing about people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from app.api.metrics import Metrics
from core.clock import SystemClock
from core.notification import Content
from delivery.channel import Address
from delivery.conclusion import Conclusion
from delivery.draft import Everyone, Users
from delivery.outbox import Claimed
from delivery.policy import Decision, Drop, Facts, GateRecord, StoredAddress
from delivery.publication import Publication
from delivery.telemetry import EVENTS, DeliveryEvents, queued

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
WAIT = timedelta(seconds=30)
SECRET = "+250788123456"


CONTENT = Content(
    id=UUID(int=2),
    title=SECRET,
    message=SECRET,
    notification_type="x",
    action_url=None,
    priority="normal",
    channels=["sms"],
    metadata={"otp": SECRET},
    created_at=NOW,
)


class Minutes(SystemClock):
    """A clock that is set."""

    def __init__(self) -> None:
        self.minute = 0

    def monotonic(self) -> float:
        return self.minute * 60.0


def claimed(**members: Any) -> Claimed:
    given: dict[str, Any] = {
        "tenant_id": "school",
        "id": UUID(int=1),
        "kind": "notification",
        "notification_id": UUID(int=2),
        "user_id": "ada-whose-name-is-not-logged",
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
        "created_at": NOW,
        "queued_at": NOW,
        "edited": None,
        "fallback_of": None,
    }
    return Claimed(**given | members)


def facts() -> Facts:
    address = Address(id=UUID(int=3), channel="sms", value=SECRET, hint="+25***56")
    return Facts(
        now=NOW,
        claimed=claimed(),
        is_configured=True,
        content=CONTENT,
        status="published",
        addresses=(StoredAddress(address=address),),
    )


def stopped_by(gate: str) -> Any:
    """A policy of which this gate is the last that was asked."""
    return lambda facts: Decision(Drop("x"), (GateRecord("first", True, "x"), GateRecord(gate, False, "x")))


def concluded(
    conclusion: Conclusion, gate: str = "", provider: str | None = "twilio"
) -> tuple[Any, DeliveryEvents]:
    """The event that is logged, and who has counted it."""
    events = DeliveryEvents(SystemClock(), stopped_by(gate))
    with capture_logs() as logged:
        events.concluded(claimed(), facts(), provider, conclusion, 1.5)
    [event] = logged
    return event, events


@pytest.mark.parametrize(
    ("conclusion", "gate", "name"),
    [
        (Conclusion(state="sent", outcome="sent"), "", "NOTIFY_SEND_OK"),
        (Conclusion(state="queued", outcome="retry", wait=WAIT), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="deferred", outcome="defer", wait=WAIT), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="deferred", outcome="halt", wait=WAIT), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="unknown", outcome="unknown", wait=WAIT), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="failed", outcome="fail"), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="failed", outcome="fallback"), "", "NOTIFY_SEND_FAIL"),
        (Conclusion(state="suppressed", outcome="fallback", fallback="sms"), "", "NOTIFY_FALLBACK"),
        (Conclusion(state="suppressed", outcome="suppress"), "", "NOTIFY_FAILED_OPTOUT"),
        (Conclusion(state="queued", outcome="released", wait=WAIT), "", "NOTIFY_QUEUE"),
        (Conclusion(state="suppressed", outcome="policy_drop"), "not_opted_out", "NOTIFY_BLOCKED_OPTOUT"),
        (Conclusion(state="suppressed", outcome="policy_drop"), "switched_on", "NOTIFY_BLOCKED_OPTOUT"),
        (Conclusion(state="expired", outcome="policy_drop"), "in_time", "NOTIFY_EXPIRED"),
        (Conclusion(state="cancelled", outcome="policy_drop"), "published", "NOTIFY_CANCELLED"),
        (Conclusion(state="suppressed", outcome="policy_drop"), "unread", "NOTIFY_READ"),
        (Conclusion(state="suppressed", outcome="policy_drop"), "rate_limit", "NOTIFY_RATE_LIMIT_WARNING"),
        (Conclusion(state="failed", outcome="policy_drop"), "address_usable", "NOTIFY_SEND_FAIL"),
        (
            Conclusion(state="deferred", outcome="policy_defer", wait=WAIT),
            "quiet_hours",
            "NOTIFY_DEFERRED_QUIET_HOURS",
        ),
        (
            Conclusion(state="deferred", outcome="policy_defer", wait=WAIT),
            "rate_limit",
            "NOTIFY_DEFERRED_RATE_LIMIT",
        ),
        (Conclusion(state="deferred", outcome="policy_defer", wait=WAIT), "published", "NOTIFY_QUEUE"),
    ],
)
def test_how_an_attempt_ends_is_told_by_its_name(conclusion: Conclusion, gate: str, name: str) -> None:
    event, _ = concluded(conclusion, gate)

    assert event["event"] == name
    assert name in EVENTS
    assert (event["delivery_id"], event["channel"], event["outcome"]) == (
        str(UUID(int=1)),
        "sms",
        conclusion.outcome,
    )


def test_no_event_says_where_it_went_what_it_says_or_whom_it_is_for() -> None:
    event, _ = concluded(Conclusion(state="failed", outcome="fail", reason=SECRET))

    assert SECRET not in repr(event)
    assert "ada" not in repr(event)


def test_the_worker_and_what_providers_report_have_their_events() -> None:
    events = DeliveryEvents(SystemClock())
    about: dict[str, Any] = {
        "tenant_id": "school",
        "delivery_id": UUID(int=1),
        "channel": "sms",
        "provider": "twilio",
    }
    with capture_logs() as logged:
        events.started("w1")
        events.failed("unavailable")
        events.stopped(7)
        for state in ("delivered", "read", "undelivered"):
            events.reported(**about, state=state)
        events.repeated(provider="twilio", reports=1)
        queued(Publication("school", CONTENT, b"", [], Users.of("ada", "bob")))
        queued(Publication("school", structs.replace(CONTENT, channels=["in_app"]), b"", [], Everyone()))

    assert [event["event"] for event in logged] == [
        "NOTIFY_WORKER_START",
        "NOTIFY_WORKER_ERROR",
        "NOTIFY_WORKER_DONE",
        "NOTIFY_DELIVERED",
        "NOTIFY_READ",
        "NOTIFY_SEND_FAIL",
        "NOTIFY_DUPLICATE",
        "NOTIFY_QUEUE",
    ]
    assert logged[-1]["deliveries"] == 2


def samples(events: DeliveryEvents, depth: dict[str, int] | None = None) -> dict[tuple[str, ...], float]:
    metrics = Metrics()
    metrics.read_deliveries(events, lambda: depth or {})
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_the_ten_metrics_have_their_names() -> None:
    events = DeliveryEvents(SystemClock(), stopped_by("not_opted_out"))
    for conclusion in (
        Conclusion(state="sent", outcome="sent"),
        Conclusion(state="failed", outcome="fail", code="30005"),
        Conclusion(state="queued", outcome="retry", code="no such code", wait=WAIT),
        Conclusion(state="suppressed", outcome="policy_drop"),
    ):
        events.concluded(claimed(), facts(), "twilio", conclusion, 1.0)
    events.failed("x")

    shown = samples(events, {"sms": 3})
    assert (
        shown
        | {
            ("notification_queue_depth", "sms"): 3,
            ("notification_worker_processed_total",): 4,
            ("notification_worker_failures_total",): 1,
            ("notification_filtered_optout",): 1,
            ("notification_filtered_quiet_hours",): 0,
            ("notification_filtered_rate_limit",): 0,
            ("notification_sent", "sms", "none", "twilio"): 1,
            ("notification_failed", "sms", "30005", "twilio"): 1,
            ("notification_deferred", "sms", "other", "twilio"): 1,
            ("notification_success_rate", "sms"): 50,
            ("notifications_delivered_total", "sms", "sent"): 1,
            ("notifications_delivered_total", "sms", "failed"): 1,
            ("notifications_delivered_total", "sms", "suppressed"): 1,
            ("notifications_delivered_total", "in_app", "stored"): 0,
        }
        == shown
    )


def test_codes_that_nobody_has_listed_share_one_label() -> None:
    events = DeliveryEvents(SystemClock())
    for number in range(500):
        failed = Conclusion(state="failed", outcome="fail", code=f"made-up-{number}")
        events.concluded(claimed(), None, "twilio", failed, 1.0)

    assert len(events.counts.failed) == 1


@pytest.mark.parametrize(
    ("gate", "counted"), [("quiet_hours", "filtered_quiet_hours"), ("rate_limit", "filtered_rate_limit")]
)
def test_what_a_gate_puts_off_is_counted_under_its_name(gate: str, counted: str) -> None:
    _, events = concluded(Conclusion(state="deferred", outcome="policy_defer", wait=WAIT), gate)

    assert getattr(events.counts, counted) == 1


def test_the_policy_itself_says_which_gate_it_was() -> None:
    events = DeliveryEvents(SystemClock())
    with capture_logs() as logged:
        events.concluded(claimed(), facts(), None, Conclusion(state="failed", outcome="policy_drop"), 1.0)

    assert logged[0]["gate"] == "recipient_active"


def test_the_success_rate_forgets_after_five_minutes() -> None:
    clock = Minutes()
    events = DeliveryEvents(clock)
    events.concluded(claimed(), None, "twilio", Conclusion(state="failed", outcome="fail"), 1.0)
    clock.minute = 4
    events.concluded(claimed(), None, "twilio", Conclusion(state="sent", outcome="sent"), 1.0)

    rates = []
    for clock.minute in (4, 5, 9):
        rates.append(events.success_rates())

    assert rates == [{"sms": 50}, {"sms": 100}, {}]
