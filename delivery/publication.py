"""Stored notifications become entries of their audience's streams, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from core.database import Connection
from core.notification import RANKS, SHOWN, Content
from core.sql import load
from core.streams import StreamKey
from delivery.draft import Audience, Batching, Everyone, Topic, Users
from delivery.outbox import cancel, enqueue
from hub import frames
from hub.history import Draft, Entry
from hub.history_postgres import Columns, append

SQL = load("delivery", "ingest.sql")


class Publication(NamedTuple):
    """A notification that is due, and whom it is for."""

    tenant_id: str
    content: Content
    data: bytes  # the content, encoded once for every frame and answer
    keys: Sequence[StreamKey]
    audience: Audience
    batching: Batching | None = None


def audience(row: Columns) -> Audience:
    """Whom a notification is for, from its columns."""
    match row["audience"]:
        case "user":
            return Users((row["user_id"],))
        case "users":
            return Users(tuple(row["user_ids"]))
        case "topic":
            return Topic(row["topic"])
        case _:
            return Everyone()


def audience_keys(row: Columns) -> list[StreamKey]:
    """The streams of a notification, from the columns of its audience and its channels: none, when it shows nowhere."""
    if SHOWN.isdisjoint(row["channels"]):
        return []
    return [StreamKey(row["tenant_id"], name) for name in audience(row).streams()]


def batching(row: Columns) -> Batching | None:
    """How it waits for more, from its column."""
    return None if row["batching"] is None else msgspec.json.decode(row["batching"], type=Batching)


async def publish(
    connection: Connection, publications: Sequence[Publication], now: datetime
) -> list[list[Entry]]:
    """
    Append what is due, put what other channels carry into the outbox, and recall what it replaces (same
    collapse key, same audience); the entries of each publication, and last those of the recalls. Locks the
    counters: nothing may follow but the commit.

    now: the time of the transaction, which is that of its entries. What two publications of one call
    replace goes by the order of their ids.
    """
    collapsing = [p for p in publications if p.content.collapse_key is not None]
    recalls: list[Draft] = []
    if collapsing:
        tenants = [p.tenant_id for p in collapsing]
        await connection.execute(
            SQL["lock_collapse_keys"], tenants, [p.content.collapse_key for p in collapsing]
        )
        rows = await connection.fetch(SQL["collapse"], tenants, [p.content.id for p in collapsing])
        await cancel(connection, [(row["tenant_id"], row["id"]) for row in rows], "replaced by a later one")
        recalls = [Draft(key, "recalled", row["id"]) for row in rows for key in audience_keys(row)]
    await enqueue(connection, publications)
    drafts = [
        Draft(key, "notification", p.content.id, None, p.content.notification_type, RANKS[p.content.priority])
        for p in publications
        for key in p.keys
    ]
    if not drafts and not recalls:
        return [[] for _ in range(len(publications) + 1)]
    seqs = iter(await append(connection, drafts + recalls))
    happened = frames.timestamp(now)
    entries = [
        [
            Entry(
                key,
                seq := next(seqs),
                "notification",
                frames.notification(key, seq, p.data, happened),
                p.content.notification_type,
                RANKS[p.content.priority],
            )
            for key in p.keys
        ]
        for p in publications
    ]
    entries.append([recalled(draft.key, next(seqs), draft.notification_id) for draft in recalls])
    return entries


def recalled(key: StreamKey, seq: int, notification_id: UUID | None) -> Entry:
    return Entry(key, seq, "recalled", frames.recalled(key, seq, str(notification_id)))
