"""
SendGrid's Event Webhook: a list of events. Pure.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from delivery.inbound import Report
from delivery.receipts import Effect, Receipt, ReportedState
from delivery.reports.reading import moment, name, text

PROVIDER = "sendgrid"

#: The custom argument in which our delivery comes back.
ARGUMENT = "carillon_delivery"

_STATES: Mapping[str, ReportedState] = {
    "processed": "sent",
    "delivered": "delivered",
    "open": "read",
    "click": "read",
    "bounce": "undelivered",
    "dropped": "failed",
}

_EFFECTS: Mapping[str, Effect] = {
    "spamreport": "complained",
    "unsubscribe": "unsubscribed",
    "group_unsubscribe": "unsubscribed",
}

#: Why SendGrid has not even tried.
_DROPPED: Mapping[str, Effect] = {
    "bounced address": "bounced",
    "invalid": "bounced",
    "spam reporting address": "complained",
    "unsubscribed address": "unsubscribed",
}

ReadToken = Callable[[str], tuple[str, UUID] | None]


def read(body: Any, delivery_of: ReadToken) -> Report:
    """delivery_of: which delivery a token is about that we sent along as a custom argument."""
    events = [event for event in body if isinstance(event, dict)] if isinstance(body, list) else []
    return Report(receipts=[one for event in events if (one := _receipt(event, delivery_of))])


def _receipt(event: Mapping[str, Any], delivery_of: ReadToken) -> Receipt | None:
    event_id, said = name(event, "sg_event_id"), name(event, "event")
    if not event_id or not said:
        return None
    token, status = name(event, ARGUMENT), name(event, "status")
    return Receipt(
        provider=PROVIDER,
        event_id=event_id,
        status=said,
        state=_STATES.get(said),
        # The id that the API answered with, and after the first dot which machine it went through.
        ref=(name(event, "sg_message_id") or "").partition(".")[0] or None,
        delivery=delivery_of(token) if token else None,
        code=status[:16] if said == "bounce" and status else None,
        effect=_effect(event, said),
        occurred_at=moment(event.get("timestamp")),
    )


def _effect(event: Mapping[str, Any], said: str) -> Effect | None:
    if said == "bounce":  # the type "blocked" is about this message, or about us, not about the address
        return "bounced" if text(event, "type") == "bounce" else None
    if said == "dropped":
        return _DROPPED.get((text(event, "reason") or "").casefold())
    return _EFFECTS.get(said)
