"""
SendGrid's Event Webhook: a list of events. Pure.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from delivery.inbound import Report
from delivery.receipts import Effect, Receipt, ReportedState
from delivery.reports.reading import moment, name, text

PROVIDER = "sendgrid"

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


def read(body: Any) -> Report:
    """The delivery is told by the custom arguments that were sent along; only our account can have set them."""
    events = [event for event in body if isinstance(event, dict)] if isinstance(body, list) else []
    return Report(receipts=[one for event in events if (one := _receipt(event))])


def _receipt(event: Mapping[str, Any]) -> Receipt | None:
    event_id, said = name(event, "sg_event_id"), name(event, "event")
    if not event_id or not said:
        return None
    status = name(event, "status")
    return Receipt(
        provider=PROVIDER,
        event_id=event_id,
        status=said,
        state=_STATES.get(said),
        # The id that the API answered with, and after the first dot which machine it went through.
        ref=(name(event, "sg_message_id") or "").partition(".")[0] or None,
        delivery=_delivery(event),
        code=status[:16] if said == "bounce" and status else None,
        effect=_effect(event, said),
        occurred_at=moment(event.get("timestamp")),
    )


def _delivery(event: Mapping[str, Any]) -> tuple[str, UUID] | None:
    tenant_id, delivery_id = name(event, "tenant"), name(event, "delivery_id")
    try:
        return None if tenant_id is None or delivery_id is None else (tenant_id, UUID(delivery_id))
    except ValueError:
        return None


def _effect(event: Mapping[str, Any], said: str) -> Effect | None:
    if said == "bounce":  # the type "blocked" is about this message, or about us, not about the address
        return "bounced" if text(event, "type") == "bounce" else None
    if said == "dropped":
        return _DROPPED.get((text(event, "reason") or "").casefold())
    return _EFFECTS.get(said)
