"""What a tenant's own webhooks are told: one type, one body for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from core.ids import uuid7

EventType = Literal[
    "delivery.sent",
    "delivery.delivered",
    "delivery.read",
    "delivery.failed",
    "delivery.undelivered",
    "delivery.suppressed",
    "delivery.expired",
    "delivery.cancelled",
    "inbound.reply",
    "inbound.tap",
    "opt_out.added",
    "opt_out.lifted",
    "webhook.test",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    Something happened that a tenant may want to know.

    data: ids and states; no addresses, no words of messages. notification_id: where it belongs to one.
    """

    tenant_id: str
    type: EventType
    occurred_at: datetime
    data: Mapping[str, Any]
    notification_id: UUID | None = None
    id: UUID = field(default_factory=uuid7)


def delivery_event(
    *,
    tenant_id: str,
    delivery_id: UUID,
    notification_id: UUID,
    user_id: str | None,
    channel: str,
    state: str,
    occurred_at: datetime,
    code: str | None = None,
    reason: str | None = None,
) -> Event | None:
    """The event of a delivery that has come to a state; None for a state nobody is told of (queued, …)."""
    kind = _OF_STATE.get(state)
    if kind is None:
        return None
    data = {
        "delivery_id": delivery_id,
        "notification_id": notification_id,
        "user_id": user_id,
        "channel": channel,
        "state": state,
        "code": code,
        "reason": reason,
    }
    return Event(
        tenant_id=tenant_id, type=kind, occurred_at=occurred_at, data=data, notification_id=notification_id
    )


_OF_STATE: Mapping[str, EventType] = {
    "sent": "delivery.sent",
    "delivered": "delivery.delivered",
    "read": "delivery.read",
    "failed": "delivery.failed",
    "undelivered": "delivery.undelivered",
    "suppressed": "delivery.suppressed",
    "expired": "delivery.expired",
    "cancelled": "delivery.cancelled",
}


def body(event: Event) -> bytes:
    """As Standard Webhooks advises: type, timestamp (RFC 3339), data."""
    return msgspec.json.encode({"type": event.type, "timestamp": event.occurred_at, "data": event.data})
