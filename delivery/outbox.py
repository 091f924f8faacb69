"""The outbox: deliveries are claimed for a while, attempted, and completed by the attempt that did it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """
    A delivery that is ours until its lease runs out.

    attempt: the fence, counted from 1. is_orphan: the attempt before this one has no end: its worker died or
    was too slow, and what it did is not known. unknowns: how often that happened, or an answer was lost.
    """

    tenant_id: str
    id: UUID
    kind: str  # notification, or event
    notification_id: UUID
    user_id: str | None
    endpoint_id: UUID | None
    event: str | None  # JSON
    channel: str
    lane: int
    attempt: int
    retries: int
    deferrals: int
    unknowns: int
    is_orphan: bool
    was_unknown: bool  # it waited for a receipt that has not come
    expires_at: datetime | None
    created_at: datetime
    edited: bytes | None
    fallback_of: UUID | None
