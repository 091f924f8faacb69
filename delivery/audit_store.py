"""
Who did what: one chain of rows per tenant, only ever added to.

The hash of a row is SHA-256 over the hash before it and the row, so nothing in the middle can be changed, taken
out, put in or moved without every later hash being wrong. Who can rewrite the whole chain and its head leaves no
trace here: `carillon audit verify` prints the heads, and a head kept elsewhere shows that too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import groupby
from typing import Any, Self
from uuid import UUID

from core.database import Connection, Database
from core.identity import Identity
from core.sql import load

SQL = load("delivery", "audit.sql")

#: Rows that are looked at together when a chain is verified.
_PAGE = 2000
_PAGE_DEADLINE = timedelta(seconds=30)
_NOTHING = b""  # what the first hash of a chain follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    Something that is to be remembered.

    actor: see actor_of(). action: what was done, `delivery.replayed`. subject: to what, `delivery:<id>`.
    details: JSON values without addresses, secrets and words of messages.
    """

    tenant_id: str
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any] = field(default_factory=dict)
    notification_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry in its place. details: JSON, as it was written."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    notification_id: UUID | None
    details: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: how many rows it has, and the hash of the last."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def read(cls, text: str) -> Self:
        """What str() wrote. Raises ValueError."""
        seq, _, digest = text.partition(":")
        return cls(int(seq), bytes.fromhex(digest))


def actor_of(identity: Identity) -> str:
    """The caller as the log names them: `person:<id>`, or the stable name of a program."""
    return f"person:{identity.user_id}" if identity.kind == "user" else identity.client


async def append(
    connection: Connection,
    tenant_id: str,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, Any],
    notification_id: UUID | None = None,
) -> None:
    """
    Add one row in the caller's transaction, so that it stands exactly when what it tells of does.

    The tenant's head stays locked until that transaction ends: append last, after the rows it is about.
    """
    entry = Entry(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        subject=subject,
        details=details,
        notification_id=notification_id,
    )
    await append_many(connection, [entry])


async def append_many(connection: Connection, entries: Iterable[Entry]) -> None:
    """
    Add rows in the caller's transaction, each tenant's in the order given.

    Tenants are locked in the order of their names, so that two who append for several do not wait in a circle.
    """
    in_order = sorted(entries, key=lambda entry: entry.tenant_id)
    for tenant_id, group in groupby(in_order, key=lambda entry: entry.tenant_id):
        await _append_to(connection, tenant_id, list(group))


async def _append_to(connection: Connection, tenant_id: str, entries: list[Entry]) -> None:
    head = await connection.fetchrow(SQL["lock_head"], tenant_id)
    assert head is not None, "an upsert returns its row"
    at, seq, last = head["at"], head["seq"], head["hash"]
    details = [_canonical(entry.details) for entry in entries]
    hashes = []
    for number, (entry, text) in enumerate(zip(entries, details, strict=True), seq + 1):
        row = Row(
            seq=number,
            at=at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            notification_id=entry.notification_id,
            details=text,
            hash=b"",
        )
        hashes.append(last := digest(last, tenant_id, row))
    await connection.execute(
        SQL["add"],
        tenant_id,
        seq + 1,
        at,
        [entry.actor for entry in entries],
        [entry.action for entry in entries],
        [entry.subject for entry in entries],
        [entry.notification_id for entry in entries],
        details,
        hashes,
    )


def digest(last: bytes, tenant_id: str, row: Row) -> bytes:
    """
    The hash of a row: SHA-256 over the hash before it and a JSON array of the rest, UTF-8, without white space.

    [tenant, seq, at in UTC with microseconds, actor, action, subject, notification id or null, details as text]
    """
    at = row.at.astimezone(UTC).isoformat(timespec="microseconds")
    notification_id = None if row.notification_id is None else str(row.notification_id)
    said = [tenant_id, row.seq, at, row.actor, row.action, row.subject, notification_id, row.details]
    return sha256(last + _canonical(said).encode()).digest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Audit:
    """The chains of one database: read, and held against their hashes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tenants(self) -> list[str]:
        """Every tenant that has a chain."""
        async with self._database.connection(deadline=_PAGE_DEADLINE) as connection:
            rows = await connection.fetch(SQL["tenants"])
        return [row["tenant_id"] for row in rows]

    async def list(
        self, tenant_id: str, *, before: int | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Row]:
        """The newest rows of a tenant, the newest first. before: a seq. subject: of one thing alone."""
        arguments = [tenant_id, 2**63 - 1 if before is None else before, limit]
        async with self._database.connection() as connection:
            if subject is None:
                rows = await connection.fetch(SQL["newest"], *arguments)
            else:
                rows = await connection.fetch(SQL["newest_of_subject"], *arguments, subject)
        return [Row(**row) for row in rows]

    async def head(self, tenant_id: str) -> Head | None:
        """None: nothing was ever written."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["head"], tenant_id)
        return None if row is None else Head(row["seq"], row["hash"])

    async def verify(self, tenant_id: str, anchor: Head | None = None) -> int | None:
        """
        The first seq that is not what was written, or None.

        Rows that are added meanwhile are left to the next time. anchor: a head that was seen earlier.
        """
        head = await self.head(tenant_id) or Head(0, _NOTHING)
        seq, last = 0, _NOTHING
        while seq < head.seq:
            async with self._database.connection(deadline=_PAGE_DEADLINE) as connection:
                rows = await connection.fetch(SQL["rows_after"], tenant_id, seq, head.seq, _PAGE)
            for record in rows:
                row = Row(**record)
                seq, last = seq + 1, digest(last, tenant_id, row)
                if row.seq != seq or row.hash != last:
                    return seq
                if anchor is not None and anchor.seq == seq and anchor.hash != last:
                    return seq
            if not rows:
                return seq + 1
        if last != head.hash:
            return seq
        if anchor is not None and anchor.seq > head.seq:
            return head.seq + 1
        async with self._database.connection() as connection:
            beyond: int | None = await connection.fetchval(SQL["beyond_head"], tenant_id)
        return beyond
