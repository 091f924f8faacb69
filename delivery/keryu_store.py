"""Notifications as Keryu's clients know them: one person, one WhatsApp message, one status (KER-3, KER-7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

import msgspec

from core.database import Database
from core.errors import not_found
from core.sql import load
from hub.history_postgres import Columns

SQL = load("delivery", "keryu.sql")

#: The kind of notification that they are: their system has this one template (KER-10).
TYPE = "notification_alert"

#: Where a notification keeps what its words were made from (X-54).
TEMPLATE = "message_template"

#: Its five, and ours that its diagram leaves out (X-56).
Status = Literal[
    "created",
    "queued",
    "processing",
    "sent",
    "failed",
    "delivered",
    "read",
    "undelivered",
    "cancelled",
    "expired",
    "suppressed",
    "deferred",
]
STATUSES: tuple[Status, ...] = get_args(Status)

#: A list ends here: what lies further back is found by its id.
FARTHEST = 10_000

#: States of ours that have another name there: nobody knows yet how the sending ended.
_STATES: dict[str, Status] = {"unknown": "processing"}

#: Notifications without a delivery, and what they are called there: validated, and waiting for their time.
_WITHOUT: dict[str, Status] = {"scheduled": "queued", "cancelled": "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeryuNotification:
    """retry_count: tries after the first. sent_at: when the provider took it."""

    id: UUID
    subject_id: str
    message_template: str = field(repr=False)
    status: Status
    created_at: datetime
    scheduled_for: datetime | None
    sent_at: datetime | None
    retry_count: int
    delivery_id: UUID | None  # of the outbox; None while it waits for its time


class KeryuPage(NamedTuple):
    """total: of all pages; counting stops at FARTHEST."""

    notifications: list[KeryuNotification]
    total: int


class KeryuNotifications:
    """What a tenant's services have sent to one person by WhatsApp."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, notification_id: UUID) -> KeryuNotification:
        """Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find"], tenant_id, notification_id)
        if row is None:
            raise not_found()
        return _notification(row)

    async def page(self, tenant_id: str, status: Status | None, *, limit: int, offset: int) -> KeryuPage:
        """The newest first. status: only those that have it."""
        states = (
            None if status is None else [status, *(ours for ours, name in _STATES.items() if name == status)]
        )
        without = next((ours for ours, name in _WITHOUT.items() if name == status), None)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                SQL["page"], tenant_id, TYPE, states, without, FARTHEST, limit, offset
            )
        found = [_notification(row) for row in rows if row["id"] is not None]
        return KeryuPage(found, rows[0]["total"])


def _notification(row: Columns) -> KeryuNotification:
    metadata: dict[str, Any] = msgspec.json.decode(row["metadata"])
    template = metadata.get(TEMPLATE)  # somebody else's may be anything
    return KeryuNotification(
        id=row["id"],
        subject_id=row["user_id"],
        message_template=template if isinstance(template, str) else row["message"],
        status=_status(row["status"], row["state"]),
        created_at=row["created_at"],
        scheduled_for=row["scheduled_for"],
        sent_at=row["sent_at"],
        retry_count=max((row["attempt"] or 0) - 1, 0),
        delivery_id=row["delivery_id"],
    )


def _status(notification: str, state: str | None) -> Status:
    if notification in _WITHOUT:
        return _WITHOUT[notification]
    known = _STATES.get(state or "created", state or "created")
    return next(status for status in STATUSES if status == known)
