"""What a producer does with a notification that it handed in: look, say something else, recall, cancel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from core.database import Connection, Database
from core.errors import ServiceError, invalid, not_found
from core.identity import Identity
from core.notification import DEFAULT_CHANNELS, DELIVERY_CHANNELS, RANKS, Content, Priority
from core.sql import load
from delivery.batching import leave
from delivery.draft import Audience, Submission
from delivery.outbox import cancel, lane
from delivery.publication import audience, audience_keys, batching, recalled
from hub import frames
from hub.history import Draft, Entry
from hub.history_postgres import Columns, append, content
from hub.publisher import Publisher

SQL = load("delivery", "store.sql")

#: What may be said anew. A schedule only while it has not been kept.
CHANGEABLE = frozenset(
    {"title", "message", "priority", "action_url", "metadata", "group_key", "expires_at", "scheduled_for"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A notification as its producer sees it."""

    tenant_id: str
    content: Content
    audience: Audience
    status: str  # scheduled, published, cancelled or recalled
    created_by: str  # the client that submitted it
    scheduled_for: datetime | None
    local_time: datetime | None  # of each person's clock; scheduled_for is when it comes first
    published_at: datetime | None


class Notifications:
    """
    For the clients of the sending tenant that may submit for others, and for the one that submitted it
    itself. For everybody else a notification is not there.
    """

    def __init__(
        self, database: Database, publisher: Publisher, *, wake: Callable[[], None] = lambda: None
    ) -> None:
        """wake: told after a commit that has brought work for the workers."""
        self._database = database
        self._publisher = publisher
        self._wake = wake

    async def get(self, identity: Identity, notification_id: UUID, *, tenant_id: str | None = None) -> Record:
        """tenant_id: of the notification, when it is not the caller's. Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            return _record(await _find(connection, identity, notification_id, tenant_id))

    async def update(
        self,
        identity: Identity,
        notification_id: UUID,
        changes: Mapping[str, Any],
        *,
        tenant_id: str | None = None,
    ) -> Record:
        """
        Say something else from now on; whoever received it is told. What waits for others to go out with waits no more
        when it is urgent.

        changes: values by the names of CHANGEABLE; what is not named stays.

        Raises ServiceError: not_found, conflict when it is recalled or cancelled, invalid.
        """
        if unknown := changes.keys() - CHANGEABLE:
            raise invalid(min(unknown), "cannot be changed")
        is_hurried = False
        async with self._database.transaction() as connection:
            row = await _find(connection, identity, notification_id, tenant_id, lock=True)
            status = row["status"]
            if status not in ("published", "scheduled"):
                raise ServiceError("conflict", f"The notification is {status}.")
            if "scheduled_for" in changes and status != "scheduled":
                raise ServiceError("conflict", "The notification is published already.")
            if "scheduled_for" in changes and changes["scheduled_for"] is None:
                raise invalid("scheduled_for", "must be a moment; cancel what is not to be published")
            said = _changed(row, changes)
            updated_at = await connection.fetchval(
                SQL["change"],
                row["tenant_id"],
                notification_id,
                said.title,
                said.message,
                said.priority.value,
                said.action_url,
                msgspec.json.encode(said.metadata).decode(),
                said.group_key,
                said.expires_at,
                said.scheduled_for,
            )
            now_says = msgspec.structs.replace(
                content(row["id"], row),
                title=said.title,
                message=said.message,
                priority=said.priority.value,
                action_url=said.action_url,
                metadata=dict(said.metadata),
                group_key=said.group_key,
                expires_at=said.expires_at,
                updated_at=updated_at,
            )
            if status == "published" and said.batching is not None and said.priority == Priority.URGENT:
                urgent = lane(Priority.URGENT)
                is_hurried = await leave(connection, row["tenant_id"], notification_id, urgent)
            entries = await _append_updated(connection, row, now_says) if status == "published" else []
        self._publisher.publish(entries)
        if is_hurried:
            self._wake()
        return _record(row, now_says, scheduled_for=said.scheduled_for)

    async def recall(
        self, identity: Identity, notification_id: UUID, *, tenant_id: str | None = None
    ) -> Record:
        """
        Take it back from everybody; recalling twice is recalling once.

        Raises ServiceError: not_found, conflict when it is not published (then cancel it) or cancelled.
        """
        async with self._database.transaction() as connection:
            row = await _find(connection, identity, notification_id, tenant_id, lock=True)
            if row["status"] == "recalled":
                return _record(row)
            if row["status"] != "published":
                raise ServiceError("conflict", f"The notification is {row['status']}.")
            await connection.execute(SQL["set_status"], row["tenant_id"], notification_id, "recalled")
            await cancel(connection, [(row["tenant_id"], notification_id)], "recalled")
            keys = audience_keys(row)
            seqs = await append(connection, [Draft(key, "recalled", notification_id) for key in keys])
            entries = [recalled(key, seq, notification_id) for key, seq in zip(keys, seqs, strict=True)]
        self._publisher.publish(entries)
        return _record(row, status="recalled")

    async def cancel(
        self, identity: Identity, notification_id: UUID, *, tenant_id: str | None = None
    ) -> Record:
        """
        See to it that a scheduled notification is never published; cancelling twice is cancelling once.

        Raises ServiceError: not_found, conflict when it is published already: the row decides, whoever locks
        it first.
        """
        async with self._database.transaction() as connection:
            row = await _find(connection, identity, notification_id, tenant_id, lock=True)
            if row["status"] == "cancelled":
                return _record(row)
            if row["status"] != "scheduled":
                raise ServiceError("conflict", f"The notification is {row['status']}.")
            await connection.execute(SQL["set_status"], row["tenant_id"], notification_id, "cancelled")
        return _record(row, status="cancelled")


async def _find(
    connection: Connection,
    identity: Identity,
    notification_id: UUID,
    tenant_id: str | None,
    *,
    lock: bool = False,
) -> Columns:
    tenant_id = tenant_id or identity.tenant_id
    if not identity.may_enter(tenant_id):
        raise not_found()
    query = SQL["find"] + "\nFOR UPDATE" if lock else SQL["find"]
    row = await connection.fetchrow(query, tenant_id, notification_id)
    if row is None or not (identity.has("notifications:write") or row["created_by"] == identity.client):
        raise not_found()
    return row


async def _append_updated(connection: Connection, row: Columns, says: Content) -> list[Entry]:
    keys = audience_keys(row)
    seqs = await append(connection, [Draft(key, "updated", says.id) for key in keys])
    data = frames.content(says)
    return [
        Entry(key, seq, "updated", frames.updated(key, seq, data))
        for key, seq in zip(keys, seqs, strict=True)
    ]


def _changed(row: Columns, changes: Mapping[str, Any]) -> Submission:
    """The whole notification with the changes, checked as if it were handed in so."""
    said: dict[str, Any] = {
        "title": row["title"],
        "message": row["message"],
        "priority": row["priority"],
        "action_url": row["action_url"],
        "metadata": msgspec.json.decode(row["metadata"]),
        "group_key": row["group_key"],
        "expires_at": row["expires_at"],
        "scheduled_for": row["scheduled_for"],
    }
    said |= changes
    if said["priority"] not in RANKS:
        raise invalid("priority", f"must be among {', '.join(RANKS)}")
    said["priority"] = Priority(said["priority"])
    channels = tuple(one for one in row["channels"] if one in DELIVERY_CHANNELS)  # a plugin's may be gone
    return Submission(
        tenant_id=row["tenant_id"],
        audience=audience(row),
        notification_type=row["notification_type"],
        channels=channels or DEFAULT_CHANNELS,
        collapse_key=row["collapse_key"],
        batching=batching(row),
        local_time=row["local_time"] if said["scheduled_for"] == row["scheduled_for"] else None,
        **said,
    )


def _record(
    row: Columns,
    says: Content | None = None,
    *,
    status: str | None = None,
    scheduled_for: datetime | None = None,
) -> Record:
    return Record(
        tenant_id=row["tenant_id"],
        content=says or content(row["id"], row),
        audience=audience(row),
        status=status or row["status"],
        created_by=row["created_by"],
        scheduled_for=scheduled_for or row["scheduled_for"],
        local_time=row["local_time"] if scheduled_for in (None, row["scheduled_for"]) else None,
        published_at=row["published_at"],
    )
