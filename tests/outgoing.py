"""Messages as the worker hands them to a provider."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from delivery.channel import Address, Message

#: Where they go, by channel; none of these may appear anywhere but in the request itself.
ADDRESSES = {
    "email": "anna.canary@example.org",
    "sms": "+14155550199",
    "whatsapp": "+14155550199",
    "telegram": "7001001",
    "push": "canary-person",
    "webhook": "https://hooks.example/canary-path",
}


def message(channel: str, *, value: str | None = None, **changes: Any) -> Message:
    """
    A notification on its way out by one channel.

    value: of its address. secret and window_until belong to the address too; the rest to the message.
    """
    address = Address(
        id=UUID(int=7),
        channel=channel,
        value=value or ADDRESSES[channel],
        hint="***",
        secret=changes.pop("secret", None),
        window_until=changes.pop("window_until", None),
    )
    given: dict[str, Any] = {
        "tenant_id": "acme",
        "delivery_id": UUID("0199f3a4-0000-7000-8000-000000000001"),
        "attempt": 1,
        "reference": "0199f3a4-0000-7000-8000-000000000001",
        "address": address,
        "title": "Disk almost full",
        "text": "db-1 has 3 % left.",
        "notification_id": UUID("0199f3a4-0000-7000-8000-000000000002"),
        "notification_type": "disk.full",
        "priority": "high",
        "created_at": datetime(2026, 11, 22, 6, 0, tzinfo=UTC),
        **changes,
    }
    return Message(**given)
