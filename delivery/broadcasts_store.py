"""
Notifications for a tenant or a topic, on their way into the outbox page by page.

A page is one transaction that holds the row of its broadcast: what kills a worker in the middle of it leaves the
page unwritten, and the next worker writes it; what is cancelled is cancelled between two pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import structlog

from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.identity import Identity
from core.ids import uuid7
from core.locale import is_timezone
from core.sql import load
from core.streams import topic_stream
from delivery import audit_store
from delivery.audit_store import actor_of
from delivery.local_time import moment
from delivery.outbox import lane, reach

SQL = load("delivery", "broadcasts.sql")
_EVERYONE = SQL["everyone"].format(channels=SQL["channels"])
_FOLLOWERS = SQL["followers"].format(channels=SQL["channels"])

log = structlog.stdlib.get_logger("delivery")

State = Literal["running", "paused", "cancelled", "done"]

#: Counting how far the deliveries are stops here.
COUNTED = 100_000
_COUNT_DEADLINE = timedelta(seconds=10)

_CANCEL_BATCH = 5000
_BATCH_DEADLINE = timedelta(seconds=10)
_LAST = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastSettings:
    """How notifications for many are written into the outbox. From DELIVERY_BROADCAST_*."""

    page: int = 500  # people in one transaction
    ahead: int = 20_000  # deliveries of one tenant that wait in a channel; then its broadcasts wait too
    hold: timedelta = timedelta(seconds=1)  # until a broadcast that waits is looked at again
    timezone: str = (
        "UTC"  # of people who have named none, where a notification is to come at a time of their clock
    )

    def __post_init__(self) -> None:
        if self.page < 1 or self.ahead < 1:
            raise ValueError("must be at least 1")
        if not is_timezone(self.timezone):
            raise ValueError("DELIVERY_TIMEZONE must be a zone of the IANA database, as Africa/Kigali")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """
    How far a broadcast is. people: looked at so far; deliveries: written so far. by_state: of at most COUNTED
    deliveries; None in lists.
    """

    notification_id: UUID
    channels: Sequence[str]
    state: State
    people: int
    deliveries: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    by_state: dict[str, int] | None = None


class Listing(NamedTuple):
    """One page, the newest first. next_cursor: None: nothing older."""

    broadcasts: list[Broadcast]
    next_cursor: UUID | None


class Broadcasts:
    """Writes pages, for the worker; shows and steers, for operators."""

    def __init__(self, database: Database, settings: BroadcastSettings | None = None) -> None:
        self._database = database
        self._settings = settings or BroadcastSettings()

    # -- for the worker

    async def expand_once(self) -> int:
        """
        Write the next page of the broadcast whose turn it is.

        Returns 1 when one has moved on, 0 when there is nothing to do now. Any number of workers may do it. One
        whose page fails is left alone for a while, so that it does not stand before the others; the error is raised.
        """
        row = None
        try:
            async with self._database.transaction() as connection:
                if (row := await connection.fetchrow(SQL["take"])) is None:
                    return 0
                moved, written = await self._expand(connection, row)
        except Exception:
            if row is not None:
                await self._leave(row)
            raise
        if written:
            log.info(
                "NOTIFY_QUEUE",
                tenant_id=row["tenant_id"],
                notification_id=str(row["notification_id"]),
                channels=row["channels"],
                deliveries=written,
            )
        return moved

    async def _leave(self, row: asyncpg.Record) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["hold"], row["tenant_id"], row["notification_id"], self._settings.hold
            )

    async def _expand(self, connection: Connection, row: asyncpg.Record) -> tuple[int, int]:
        """In an open transaction: whether it has moved on, and how many deliveries were written."""
        key = row["tenant_id"], row["notification_id"]
        if (end := _end(row)) is not None:
            await connection.execute(SQL["move"], *key, row["position"], 0, 0, end)
            return 1, 0
        if row["local_time"] is None and await connection.fetchval(
            SQL["is_far_ahead"], row["tenant_id"], row["channels"], self._settings.ahead
        ):
            await connection.execute(SQL["hold"], *key, self._settings.hold)
            return 0, 0
        people = await self._people(connection, row)
        written = await _write(connection, row, people, self._settings.timezone)
        position = people[-1]["user_id"] if people else row["position"]
        state = "running" if len(people) == self._settings.page else "done"
        await connection.execute(SQL["move"], *key, position, len(people), written, state)
        return 1, written

    async def _people(self, connection: Connection, row: asyncpg.Record) -> list[asyncpg.Record]:
        page = row["tenant_id"], row["position"], row["channels"], self._settings.page
        if row["audience"] == "topic":
            return list(await connection.fetch(_FOLLOWERS, *page, topic_stream(row["topic"])))
        return list(await connection.fetch(_EVERYONE, *page))

    # -- for producers

    async def moments(
        self, tenant_id: str, user_ids: Sequence[str], local: datetime
    ) -> Mapping[str, datetime]:
        """When the clock of each of these people shows this time (without an offset), UTC."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["zones"], tenant_id, user_ids)
        zones = {row["user_id"]: row["timezone"] for row in rows}
        default = self._settings.timezone
        return {user_id: moment(local, zones.get(user_id, default)) for user_id in user_ids}

    # -- for operators

    async def list(self, tenant_id: str, *, cursor: UUID | None = None, limit: int = 50) -> Listing:
        """One page, the newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["page"], tenant_id, cursor or _LAST, limit)
        found = [Broadcast(**row) for row in rows]
        return Listing(found, found[-1].notification_id if len(found) == limit else None)

    async def progress(self, tenant_id: str, notification_id: UUID) -> Broadcast:
        """How far it is. Raises ServiceError (not_found)."""
        async with self._database.transaction(deadline=_COUNT_DEADLINE) as connection:
            await connection.execute("SET LOCAL statement_timeout = 8000")
            row = await connection.fetchrow(SQL["one"], tenant_id, notification_id)
            if row is None:
                raise not_found("broadcast")
            counts = await connection.fetch(SQL["by_state"], tenant_id, notification_id, COUNTED)
        return Broadcast(**row, by_state={count["state"]: count["count"] for count in counts})

    async def pause(self, identity: Identity, notification_id: UUID) -> Broadcast:
        """
        Write no more of it for now; what is written goes out. Twice is once.

        Raises ServiceError: not_found, conflict when it has ended.
        """
        await self._steer(identity, notification_id, "paused")
        return await self.progress(identity.tenant_id, notification_id)

    async def resume(self, identity: Identity, notification_id: UUID) -> Broadcast:
        """
        Go on with it; wake the worker afterwards. Twice is once.

        Raises ServiceError: not_found, conflict when it has ended.
        """
        await self._steer(identity, notification_id, "running")
        return await self.progress(identity.tenant_id, notification_id)

    async def cancel(self, identity: Identity, notification_id: UUID) -> Broadcast:
        """
        Write no more of it, and let what has not gone out not go out, also when all of it was written. What a
        worker has in hand is not called back. Twice is once, and goes on where the first time was cut short.

        Raises ServiceError (not_found).
        """
        tenant_id = identity.tenant_id
        await self._steer(identity, notification_id, "cancelled")
        while True:
            async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
                over = await connection.fetch(
                    SQL["cancel_deliveries"],
                    tenant_id,
                    notification_id,
                    "the broadcast was cancelled",
                    _CANCEL_BATCH,
                )
                await reach(connection, [(tenant_id, row["id"]) for row in over if row["channel"] == "push"])
            if len(over) < _CANCEL_BATCH:
                return await self.progress(tenant_id, notification_id)

    async def _steer(self, identity: Identity, notification_id: UUID, state: State) -> None:
        async with self._database.transaction() as connection:
            was = await connection.fetchval(SQL["lock"], identity.tenant_id, notification_id)
            if was is None:
                raise not_found("broadcast")
            if was == state:
                return
            if state != "cancelled" and was in ("cancelled", "done"):
                raise ServiceError("conflict", f"The broadcast is {was}.")
            await connection.execute(SQL["set_state"], identity.tenant_id, notification_id, state)
            await audit_store.append(
                connection,
                identity.tenant_id,
                actor_of(identity),
                f"broadcast.{'resumed' if state == 'running' else state}",
                f"broadcast:{notification_id}",
                {"was": was},
                notification_id,
            )


def _end(row: asyncpg.Record) -> State | None:
    """How it ends when its notification was taken back, has expired or is gone; None: go on."""
    if row["status"] in ("recalled", "cancelled"):
        return "cancelled"
    if row["status"] is None or row["is_expired"]:
        return "done"
    return None


async def _write(
    connection: Connection, row: asyncpg.Record, people: Sequence[asyncpg.Record], default_zone: str
) -> int:
    """Put the deliveries of one page into the outbox; how many are new."""
    local = row["local_time"]
    wanted = [
        (
            person["user_id"],
            channel,
            None if local is None else moment(local, person["timezone"] or default_zone),
        )
        for person in people
        for channel in person["channels"]
    ]
    if not wanted:
        return 0
    written: int = await connection.fetchval(
        SQL["write"],
        row["tenant_id"],
        row["notification_id"],
        [uuid7() for _ in wanted],
        [user_id for user_id, _, _ in wanted],
        [channel for _, channel, _ in wanted],
        lane(row["priority"], is_campaign=True),
        row["expires_at"],
        [due for _, _, due in wanted],
    )
    return written
