"""Messages for the tests of channels."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from delivery.channel import Address, Message

CREATED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def message(channel: str, value: str, *, secret: str | None = None, **changed: Any) -> Message:
    """A message to one address, with whatever is changed."""
    made = Message(
        tenant_id="school",
        delivery_id=UUID(int=7),
        attempt=1,
        reference="018f-7",
        address=Address(id=None, channel=channel, value=value, hint="***", secret=secret),
        title="Grüße an Ada",
        text="The plan\n.is <ready> & waits.",
        notification_id=UUID(int=8),
        notification_type="plan_ready",
        priority="normal",
        action_url="https://app.example/plans/7?a=1&b=2",
        metadata={"plan": 7},
        created_at=CREATED,
        recipient_id="ada",
        recipient_name="Ada Lovelace",
        locale="en",
        unsubscribe_url="https://hub.example/u/token",
    )
    return replace(made, **changed)
