"""The durable streams in PostgreSQL, over queries.sql."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec

from core.database import Connection, Database
from core.notification import RANKS, Content
from core.sql import load
from core.streams import StreamKey
from hub import frames
from hub.history import PAGE_SIZE, Draft, Entry, Heads, Page

SQL = load("hub")


async def append(connection: Connection, drafts: Sequence[Draft]) -> list[int]:
    """
    Append events in the caller's open transaction; their seqs, in the order of the drafts.

    The counters are locked until the caller commits: call this last, with everything there is to append.
    """
    counts = Counter(draft.key for draft in drafts)
    keys = list(counts)
    heads = await connection.fetch(
        SQL["append"], [key.tenant_id for key in keys], [key.name for key in keys], list(counts.values())
    )
    position = {(key := StreamKey(row["tenant_id"], row["name"])): row["seq"] - counts[key] for row in heads}
    seqs = []
    for draft in drafts:
        position[draft.key] += 1
        seqs.append(position[draft.key])
    await connection.execute(
        SQL["insert_events"],
        [draft.key.tenant_id for draft in drafts],
        [draft.key.name for draft in drafts],
        seqs,
        [draft.kind for draft in drafts],
        [draft.notification_id for draft in drafts],
        [None if draft.data is None else frames.encode(draft.data).decode() for draft in drafts],
    )
    return seqs


class PostgresHistory:
    """The streams, read."""

    def __init__(self, database: Database, *, synchronous_failover: bool = False) -> None:
        """synchronous_failover: no commit is lost in a failover, so a new timeline is the same life."""
        self._database = database
        self._ignore_timeline = synchronous_failover

    async def heads(self, keys: Sequence[StreamKey]) -> Heads:
        async with self._database.connection() as connection:
            # The epoch first: positions read after it can only be of this epoch or a later one.
            epoch = await self._epoch(connection)
            rows = await connection.fetch(SQL["heads"], *_columns(keys))
        positions = dict.fromkeys(keys, 0)
        positions.update((StreamKey(row["tenant_id"], row["name"]), row["seq"]) for row in rows)
        return Heads(epoch, positions)

    async def changed(self, believed: Sequence[tuple[StreamKey, int]]) -> Heads:
        """The epoch, and the heads of those streams that are not where they are believed to be."""
        async with self._database.connection() as connection:
            epoch = await self._epoch(connection)
            rows = await connection.fetch(
                SQL["changed_heads"], *_columns([key for key, _ in believed]), [seq for _, seq in believed]
            )
        return Heads(epoch, {StreamKey(row["tenant_id"], row["name"]): row["seq"] for row in rows})

    async def read(self, key: StreamKey, after: int, limit: int = PAGE_SIZE) -> Page:
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["read"], key.tenant_id, key.name, after, limit)
        if rows and rows[-1]["seq"] != after + len(rows):  # seqs only grow: then they are all there
            return Page((), complete=True, broken=True)
        return Page([_entry(key, row) for row in rows], complete=len(rows) < limit)

    async def _epoch(self, connection: Connection) -> str:
        row = await connection.fetchrow(SQL["epoch"])
        if row is None:  # the migration writes it, nothing deletes it
            raise RuntimeError("the table cluster is empty")
        timeline = "0" if self._ignore_timeline else row["timeline"]
        return f"{row['system']}-{timeline}-{row['bump']}"


def _columns(keys: Sequence[StreamKey]) -> tuple[list[str], list[str]]:
    return [key.tenant_id for key in keys], [key.name for key in keys]


def _entry(key: StreamKey, row: asyncpg.Record) -> Entry:
    """What a reader of the past is given: as it was sent, except that what is gone stays gone."""
    seq, kind = row["seq"], row["kind"]
    if kind in ("notification", "updated"):
        if row["status"] != "published" or row["expired"]:
            reason = "expired" if row["status"] == "published" else "recalled"
            return Entry(key, seq, kind, frames.recalled(key, seq, str(row["notification_id"]), reason))
        data = frames.content(content(row["notification_id"], row))
        if kind == "updated":
            return Entry(key, seq, kind, frames.updated(key, seq, data))
        payload = frames.notification(key, seq, data, frames.timestamp(row["happened_at"]))
        return Entry(key, seq, kind, payload, row["notification_type"], RANKS[row["priority"]])
    if kind == "recalled":
        return Entry(key, seq, kind, frames.recalled(key, seq, str(row["notification_id"])))
    data = msgspec.json.decode(row["data"])
    return Entry(key, seq, kind, frames.state(key, seq, kind, data))


class Columns(Protocol):
    """Columns of a row by their names."""

    def __getitem__(self, column: str, /) -> Any: ...


def content(notification_id: UUID, row: Columns) -> Content:
    """The content of a notification from its columns, whatever the row calls its id."""
    return Content(
        id=notification_id,
        title=row["title"],
        message=row["message"],
        notification_type=row["notification_type"],
        action_url=row["action_url"],
        priority=row["priority"],
        channels=row["channels"],
        metadata=msgspec.json.decode(row["metadata"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        collapse_key=row["collapse_key"],
        group_key=row["group_key"],
        updated_at=row["updated_at"],
    )


async def envelope_key(database: Database) -> bytes:
    """The key with which the nodes of this cluster sign what they tell each other: 32 bytes."""
    async with database.connection() as connection:
        key: bytes = await connection.fetchval("SELECT envelope_key FROM cluster")
    return key


async def bump_epoch(database: Database) -> int:
    """Void all positions: every client is told to begin anew. Returns the new bump."""
    async with database.connection() as connection:
        bump: int = await connection.fetchval(
            "UPDATE cluster SET epoch_bump = epoch_bump + 1 RETURNING epoch_bump"
        )
    return bump
