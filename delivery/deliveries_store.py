"""
Deliveries as operators, producers and people see them, and what an operator does with one.

A dead letter is a delivery that ended as failed or undelivered. It can be looked at, edited and replayed, one by
one or many at once; who did that stands in the audit log, in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

import asyncpg
import msgspec

from core.database import Connection, Database
from core.errors import ServiceError, invalid, not_found
from core.identity import Identity
from core.sql import load
from core.vault import Vault
from delivery import audit_store
from delivery.audit_store import Entry, actor_of
from delivery.channel import PROVIDER_CHANNELS
from delivery.mail import header_faults
from delivery.outbox import reach

_TEXT = load("delivery", "deliveries.sql")
SQL = {name: text.replace("{shown}", _TEXT["shown"]) for name, text in _TEXT.items()}

State = Literal[
    "queued",
    "processing",
    "deferred",
    "unknown",
    "sent",
    "delivered",
    "read",
    "failed",
    "undelivered",
    "cancelled",
    "expired",
    "suppressed",
]
STATES: tuple[State, ...] = get_args(State)

DEAD: Final = ("failed", "undelivered")
_REPLAYABLE: Final = (*DEAD, "suppressed")
_CANCELLABLE: Final = ("queued", "deferred", "unknown")

#: Deliveries that one list looks at; where fewer match, the page is short and says how to go on.
_SCAN_LIMIT = 5000
_COUNTED = 10_000  # dead letters of each state, at most
_EVENTS = 200  # reports of providers that a timeline shows

MAX_REPLAY = 1000  # deliveries named in one request, and replayed in one transaction
_MAX_BATCHES = 10  # of one replay by selection
_BATCH_DEADLINE = timedelta(seconds=10)

#: Ids carry their time of birth, made on a machine whose clock is this close to the database's.
_CLOCK_SLACK = timedelta(hours=1)
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which deliveries are meant; None: any. since: written then or later."""

    state: str | None = None
    channel: str | None = None
    user_id: str | None = None
    notification_id: UUID | None = None
    code: str | None = None
    since: datetime | None = None


class Page(NamedTuple):
    """
    Deliveries as JSON members.

    next_cursor: None: nothing more matches; else there may be more, also behind a short page.
    """

    deliveries: list[dict[str, Any]]
    next_cursor: UUID | None


class Replayed(NamedTuple):
    """
    What a replay did.

    skipped: not dead letters any more, expired, or of a notification that was taken back. more: of a replay by
    selection; more may match: repeat it.
    """

    replayed: int
    skipped: int
    more: bool = False


class Deliveries:
    """The deliveries of the tenants. Whose eyes they are for is judged where the caller is known."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    # -- looking

    async def list(
        self, tenant_id: str, selection: Selection, *, cursor: UUID | None = None, limit: int = 50
    ) -> Page:
        """
        One page, the newest first; of one notification, person by person.

        Raises ServiceError (invalid) for a cursor of another notification.
        """
        if selection.notification_id is not None:
            return await self._of_notification(
                tenant_id, selection.notification_id, selection, cursor=cursor, limit=limit
            )
        before, first = cursor or _LAST, _FIRST
        if selection.since is not None:
            first = _born(selection.since - _CLOCK_SLACK)
        column, value = "tenant_id", tenant_id
        if selection.user_id is not None:
            column, value = "user_id", selection.user_id
        elif selection.state is not None:
            column, value = "state", selection.state
        page, end = (SQL[name].replace("{column}", column) for name in ("page", "page_end"))
        scan = tenant_id, before, first, value, _SCAN_LIMIT
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                page,
                *scan,
                selection.state,
                selection.user_id,
                selection.channel,
                selection.code,
                selection.since,
                limit,
            )
            return await _page(connection, rows, limit, end, scan)

    async def of_notification(
        self,
        tenant_id: str,
        notification_id: UUID,
        *,
        user_id: str | None = None,
        cursor: UUID | None = None,
        limit: int = 50,
    ) -> Page:
        """
        The deliveries of one notification with all their attempts, person by person. user_id: of one alone.

        Raises ServiceError: not_found when there is no such notification, invalid for a cursor of another.
        """
        async with self._database.connection() as connection:
            if not await connection.fetchval(SQL["is_there"], tenant_id, notification_id):
                raise not_found()
        chosen = Selection(user_id=user_id)
        page = await self._of_notification(tenant_id, notification_id, chosen, cursor=cursor, limit=limit)
        async with self._database.connection() as connection:
            tried = await _attempts(connection, tenant_id, [one["id"] for one in page.deliveries])
        return Page([one | {"attempts": tried[one["id"]]} for one in page.deliveries], page.next_cursor)

    async def _of_notification(
        self,
        tenant_id: str,
        notification_id: UUID,
        chosen: Selection,
        *,
        cursor: UUID | None,
        limit: int,
    ) -> Page:
        async with self._database.connection() as connection:
            after = "", ""
            if cursor is not None:
                place = await connection.fetchrow(SQL["place"], tenant_id, notification_id, cursor)
                if place is None:
                    raise invalid("cursor", "is not a cursor of ours")
                after = place["user_id"], place["channel"]
            scan = tenant_id, notification_id, *after
            rows = await connection.fetch(
                SQL["of_notification"],
                *scan,
                chosen.state,
                chosen.user_id,
                chosen.channel,
                chosen.code,
                chosen.since,
                _SCAN_LIMIT,
                limit,
            )
            return await _page(
                connection, rows, limit, SQL["of_notification_end"], (*scan, chosen.user_id, _SCAN_LIMIT)
            )

    async def get(self, tenant_id: str, delivery_id: UUID) -> dict[str, Any]:
        """One delivery, as lists show it. Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            return await _one(connection, tenant_id, delivery_id)

    async def timeline(self, tenant_id: str, delivery_id: UUID) -> dict[str, Any]:
        """
        A delivery with its attempts and what the policy saw at each, what providers reported since, and for push what
        became of it in each browser.

        Raises ServiceError (not_found).
        """
        async with self._database.connection() as connection:
            found = await _one(connection, tenant_id, delivery_id)
            tried = await _attempts(connection, tenant_id, [delivery_id])
            events = await connection.fetch(SQL["provider_events"], tenant_id, delivery_id, _EVENTS)
            browsers = await connection.fetch(SQL["browsers"], tenant_id, delivery_id)
        return found | {
            "attempts": tried[delivery_id],
            "provider_events": [dict(event) for event in events],
            "browsers": [dict(browser) for browser in browsers],
        }

    async def dead_letters(
        self,
        tenant_id: str,
        *,
        channel: str | None = None,
        code: str | None = None,
        cursor: UUID | None = None,
        limit: int = 50,
    ) -> Page:
        """One page of what has failed or was not delivered, the newest first."""
        before = cursor or _LAST
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                SQL["dead_page"], tenant_id, before, channel, code, _SCAN_LIMIT, limit
            )
            return await _page(
                connection, rows, limit, SQL["dead_page_end"], (tenant_id, before, _SCAN_LIMIT)
            )

    async def dead_counts(self, tenant_id: str) -> Sequence[dict[str, Any]]:
        """The newest 10,000 dead letters of each state by channel, state and code, the most frequent first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["dead_counts"], tenant_id, _COUNTED)
        return [dict(row) for row in rows]

    # -- doing

    async def cancel(self, identity: Identity, delivery_id: UUID) -> dict[str, Any]:
        """
        See to it that a delivery which has not gone out does not go out; twice is once.

        Raises ServiceError: not_found, conflict when a worker has it in hand or it has ended otherwise.
        """
        async with self._database.transaction() as connection:
            row = await _lock(connection, identity.tenant_id, delivery_id)
            if row["state"] in _CANCELLABLE:
                await connection.execute(
                    SQL["cancel"], identity.tenant_id, delivery_id, "cancelled by an operator"
                )
                if row["channel"] == "push":
                    await reach(connection, [(identity.tenant_id, delivery_id)])
                await _remember(connection, identity, row, "delivery.cancelled", {"was": row["state"]})
            elif row["state"] == "processing":
                raise ServiceError("conflict", "A worker has the delivery in hand.", retry_after=1)
            elif row["state"] != "cancelled":
                raise ServiceError("conflict", f"The delivery is {row['state']}.")
            return await _one(connection, identity.tenant_id, delivery_id)

    async def retry(self, identity: Identity, delivery_id: UUID) -> dict[str, Any]:
        """
        Begin a delivery anew that failed, was not delivered or was held back; wake the worker afterwards.

        Raises ServiceError: not_found; conflict when it is in another state, has expired, or its notification
        was taken back.
        """
        async with self._database.transaction() as connection:
            row = await _lock(connection, identity.tenant_id, delivery_id)
            if row["state"] not in _REPLAYABLE:
                raise ServiceError("conflict", f"The delivery is {row['state']}.")
            if not await _replay(connection, identity, [delivery_id], _REPLAYABLE):
                raise ServiceError("conflict", "The notification has expired or was taken back.")
            return await _one(connection, identity.tenant_id, delivery_id)

    async def replay(self, identity: Identity, delivery_ids: Sequence[UUID]) -> Replayed:
        """Begin dead letters anew: at most MAX_REPLAY, each named once. Wake the worker afterwards."""
        async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
            done = await _replay(connection, identity, delivery_ids, DEAD)
        return Replayed(done, len(delivery_ids) - done)

    async def replay_where(
        self,
        identity: Identity,
        *,
        channel: str | None = None,
        code: str | None = None,
        before: datetime | None = None,
    ) -> Replayed:
        """
        Begin the dead letters of a selection anew, the oldest first, in transactions of MAX_REPLAY; wake the
        worker afterwards. before: finished before this.
        """
        done = looked = batches = 0
        for state in DEAD:
            after = _FIRST
            while True:
                if batches >= _MAX_BATCHES:
                    return Replayed(done, looked - done, more=True)
                async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
                    rows = await connection.fetch(
                        SQL["dead"], identity.tenant_id, state, after, channel, code, before, MAX_REPLAY
                    )
                    if not rows:
                        break
                    after = rows[-1]["id"]
                    done += await _replay(connection, identity, [row["id"] for row in rows], DEAD)
                    looked += len(rows)
                    batches += 1
        return Replayed(done, looked - done)

    async def edit(self, identity: Identity, delivery_id: UUID, changes: Mapping[str, Any]) -> dict[str, Any]:
        """
        Change what a dead letter says or where it goes, for its replay.

        changes: title, text and address_id by their names; None: as the notification has it; what is not named
        stays as edited before.

        Raises ServiceError: not_found, conflict when it is no dead letter, invalid when the address is not
        this person's for this channel, or the title of a mail is no text for its header.
        """
        tenant_id = identity.tenant_id
        async with self._database.transaction() as connection:
            row = await _lock(connection, tenant_id, delivery_id)
            if row["state"] not in DEAD or row["kind"] != "notification":
                raise ServiceError("conflict", f"Only dead letters are edited; this one is {row['state']}.")
            title = changes.get("title")
            if row["channel"] == "email" and title is not None and (fault := header_faults(title)):
                raise invalid("title", fault)
            address_id = changes.get("address_id")
            if address_id is not None and not await connection.fetchval(
                SQL["is_address"], tenant_id, row["user_id"], row["channel"], address_id
            ):
                raise invalid("address_id", "is no address of this person for this channel")
            edited = self._edited(tenant_id, delivery_id, row["edited"])
            edited |= {
                name: str(value) if isinstance(value, UUID) else value for name, value in changes.items()
            }
            kept = {name: value for name, value in edited.items() if value is not None}
            context = "delivery-edit", tenant_id, str(delivery_id)
            sealed = self._vault.seal(json.dumps(kept), *context) if kept else None
            await connection.execute(SQL["edit"], tenant_id, delivery_id, sealed)
            details: dict[str, Any] = {"changed": sorted(changes)}
            if address_id is not None:
                details["address_id"] = str(address_id)
            await _remember(connection, identity, row, "delivery.edited", details)
            return await _one(connection, tenant_id, delivery_id)

    def _edited(self, tenant_id: str, delivery_id: UUID, sealed: bytes | None) -> dict[str, Any]:
        """What was changed before."""
        if sealed is None:
            return {}
        opened: dict[str, Any] = json.loads(
            self._vault.open(sealed, "delivery-edit", tenant_id, str(delivery_id))
        )
        return opened


async def _lock(connection: Connection, tenant_id: str, delivery_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(SQL["lock"], tenant_id, delivery_id)
    if row is None:
        raise not_found("delivery")
    return row


async def _one(connection: Connection, tenant_id: str, delivery_id: UUID) -> dict[str, Any]:
    row = await connection.fetchrow(SQL["one"], tenant_id, delivery_id)
    if row is None:
        raise not_found("delivery")
    return _told(row)


async def _page(
    connection: Connection, rows: list[asyncpg.Record], limit: int, end: str, scan: tuple[Any, ...]
) -> Page:
    """The rows, and where to go on: behind the last of them, or behind the last that was looked at."""
    if len(rows) == limit:
        return Page([_told(row) for row in rows], rows[-1]["id"])
    return Page([_told(row) for row in rows], await connection.fetchval(end, *scan))


def _told(row: asyncpg.Record) -> dict[str, Any]:
    """A delivery as it is shown: one by a channel whose plugin is gone waits until it is back."""
    told = dict(row)
    if row["channel"] not in PROVIDER_CHANNELS and row["finished_at"] is None:
        told["reason"] = "the channel is not installed"
    return told


async def _attempts(
    connection: Connection, tenant_id: str, delivery_ids: Sequence[UUID]
) -> dict[UUID, list[dict[str, Any]]]:
    """The attempts by delivery, the first first."""
    found: dict[UUID, list[dict[str, Any]]] = {delivery_id: [] for delivery_id in delivery_ids}
    for row in await connection.fetch(SQL["attempts"], tenant_id, delivery_ids):
        attempt = dict(row)
        gates = msgspec.json.decode(attempt["gates"] or "[]")
        attempt["gates"] = [{"until": None, **gate} for gate in gates]
        found[attempt.pop("delivery_id")].append(attempt)
    return found


async def _replay(
    connection: Connection, identity: Identity, delivery_ids: Sequence[UUID], states: Sequence[str]
) -> int:
    """Set back what may be, and remember who did; how many."""
    rows = await connection.fetch(SQL["replay"], identity.tenant_id, delivery_ids, states)
    await audit_store.append_many(
        connection,
        [
            Entry(
                tenant_id=identity.tenant_id,
                actor=actor_of(identity),
                action="delivery.replayed",
                subject=f"delivery:{row['id']}",
                details={"channel": row["channel"], "was": row["was"], "code": row["last_code"]},
                notification_id=row["notification_id"],
            )
            for row in rows
        ],
    )
    return len(rows)


async def _remember(
    connection: Connection, identity: Identity, row: asyncpg.Record, action: str, details: Mapping[str, Any]
) -> None:
    await audit_store.append(
        connection,
        identity.tenant_id,
        actor_of(identity),
        action,
        f"delivery:{row['id']}",
        {"channel": row["channel"], **details},
        row["notification_id"],
    )


def _born(moment: datetime) -> UUID:
    """The least id of that millisecond (RFC 9562 section 5.7)."""
    return UUID(int=(max(0, int(moment.timestamp() * 1000)) & 0xFFFF_FFFF_FFFF) << 80)
