"""
The outbox: deliveries are claimed for a while, attempted, and completed by the attempt that did it.

No row is owned for ever and no transaction is open while something is sent. What the database clock and the
attempt number decide, no worker can undo, however late it wakes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg

from core.database import Connection, Database
from core.ids import uuid7
from core.notification import RANKS, SHOWN, Content, Priority
from core.sql import load
from delivery.batching import Held, hold
from delivery.channel import PROVIDER_CHANNELS
from delivery.draft import Audience, Batching, Users

SQL = load("delivery", "outbox.sql")

#: For tests: attempts are completed by whoever comes, also late, also after another.
NO_FENCE = "no_fence"

_FENCE = "AND d.attempt = o.attempt"
_UNFENCED = (
    SQL["complete"]
    .replace(_FENCE, "")
    .replace("d.state = 'processing'", "true")
    .replace("d.state <> 'processing'", "false")
)
assert SQL["complete"].count(_FENCE) == 1, "what is taken away is there"

PROVIDED = frozenset(PROVIDER_CHANNELS)

#: Who goes first (0) and last (4). What is for many waits behind what is for one.
_LANES = {RANKS["urgent"]: 0, RANKS["high"]: 1, RANKS["normal"]: 2, RANKS["low"]: 3}
_CAMPAIGN_LANES = {RANKS["urgent"]: 1, RANKS["high"]: 2}
CAMPAIGN_LANE = 4

#: How many tenants one claim looks at per channel; the next goes on after them.
TENANTS_PER_CLAIM = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """
    A delivery that is ours until its lease runs out.

    attempt: the fence, counted from 1. is_orphan: the attempt before this one has no end: its worker died or
    was too slow, and what it did is not known. was_unknown: it has waited for a receipt that has not come.
    unknowns: attempts of which the end is not known. queued_at: since when it waits to go out: written, or
    replayed.
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
    was_unknown: bool
    expires_at: datetime | None
    created_at: datetime
    queued_at: datetime
    edited: bytes | None
    fallback_of: UUID | None


class Room(NamedTuple):
    """How many deliveries of a channel a worker can take, of which lanes."""

    channel: str
    room: int
    last_lane: int  # this one and the more urgent ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """
    What became of one attempt.

    wait: until it is due again, on the clock of the database; None: it is finished. retries, deferrals,
    unknowns: what is added to the counts. gates: JSON.
    """

    tenant_id: str
    id: UUID
    attempt: int
    state: str
    outcome: str
    wait: timedelta | None = None
    retries: int = 0
    deferrals: int = 0
    unknowns: int = 0
    provider: str | None = None
    account: str | None = None
    address_id: UUID | None = None
    provider_ref: str | None = None
    code: str | None = None
    reason: str | None = None
    gates: str | None = None


class Outgoing(Protocol):
    """A notification that is due."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def content(self) -> Content: ...
    @property
    def audience(self) -> Audience: ...
    @property
    def batching(self) -> Batching | None: ...


class Cancelled(NamedTuple):
    """A delivery that does not go out any more."""

    tenant_id: str
    id: UUID
    notification_id: UUID
    user_id: str
    channel: str


class Reached(NamedTuple):
    """What a delivery by push is that ended while some browser had it."""

    state: str
    reason: str | None


def lane(priority: str, *, is_campaign: bool = False) -> int:
    """Which queue a delivery waits in."""
    rank = RANKS[priority]
    return _CAMPAIGN_LANES.get(rank, CAMPAIGN_LANE) if is_campaign else _LANES[rank]


async def enqueue(connection: Connection, outgoing: Sequence[Outgoing]) -> None:
    """
    Write the deliveries of notifications for named people, and note those for many, which are expanded by and
    by; in the caller's transaction.
    """
    rows: list[tuple[object, ...]] = []
    held: list[Held] = []
    broadcasts: list[tuple[object, ...]] = []
    for one in outgoing:
        content = one.content
        channels = [channel for channel in content.channels if channel not in SHOWN]
        if not channels:
            continue
        if isinstance(one.audience, Users):
            queue = lane(content.priority)
            if one.batching is not None and content.priority != Priority.URGENT:
                held += (
                    Held(one.tenant_id, user_id, channel, queue, content, one.batching)
                    for user_id in one.audience.user_ids
                    for channel in channels
                )
                continue
            rows += (
                (one.tenant_id, uuid7(), content.id, user_id, channel, queue, content.expires_at, None)
                for user_id in one.audience.user_ids
                for channel in channels
            )
        else:
            broadcasts.append((one.tenant_id, content.id, ",".join(channels)))
    if rows:
        await connection.execute(SQL["enqueue"], *map(list, zip(*rows, strict=True)))
    if held:
        await hold(connection, held)
    if broadcasts:
        await connection.execute(SQL["enqueue_broadcasts"], *map(list, zip(*broadcasts, strict=True)))


async def fall_back(connection: Connection, claimed: Claimed, channel: str) -> bool:
    """
    Write a delivery by another channel in place of this one, in the caller's transaction; False when the
    person is sent this by that channel already.
    """
    row = (
        claimed.tenant_id,
        uuid7(),
        claimed.notification_id,
        claimed.user_id,
        channel,
        claimed.lane,
        claimed.expires_at,
        claimed.id,
    )
    return await connection.fetchval(SQL["enqueue"], *([value] for value in row)) is not None


async def cancel(
    connection: Connection, notifications: Sequence[tuple[str, UUID]], reason: str
) -> list[Cancelled]:
    """Let nothing more of these (tenant id, notification id) go out; in the caller's transaction."""
    if not notifications:
        return []
    tenants, ids = zip(*notifications, strict=True)
    rows = await connection.fetch(SQL["cancel_notifications"], list(tenants), list(ids), reason)
    over = [Cancelled(*row) for row in rows]
    await reach(connection, [(one.tenant_id, one.id) for one in over if one.channel == "push"])
    return over


async def reach(connection: Connection, ended: Sequence[tuple[str, UUID]]) -> dict[tuple[str, UUID], Reached]:
    """
    Let deliveries by push (tenant id, id) that have ended in the caller's transaction be what browsers have of them;
    those that are another thing now than what ended them.
    """
    if not ended:
        return {}
    tenants, ids = zip(*ended, strict=True)
    rows = await connection.fetch(SQL["reach"], list(tenants), list(ids))
    return {(row["tenant_id"], row["id"]): Reached(row["state"], row["reason"]) for row in rows}


class Outbox:
    """The claims and completions of one worker."""

    def __init__(self, database: Database, worker: str, lease: timedelta) -> None:
        """worker: its name in attempts. lease: how long a claim lasts without a completion."""
        self._database = database
        self._worker = worker
        self._lease = lease
        # Of channels that are not looked through: the tenant after which the next claim looks.
        self._after: dict[str, str] = {}
        self._again: set[str] = set()  # of those: to be looked through once more
        self._contended: Set[str] = frozenset()  # channels in which others claimed the same rows

    @property
    def unlooked(self) -> Set[str]:
        """
        Channels in which there may be more that is due: claims have not looked at every tenant yet, or others
        have claimed the same rows in the same moment.
        """
        return self._after.keys() | self._contended

    def look_anew(self) -> None:
        """Something may have come for a tenant that claims have passed already."""
        self._again.update(self._after)

    async def claim(self, rooms: Sequence[Room]) -> list[Claimed]:
        """Take what is due, the most urgent first. Raises ServiceError (unavailable)."""
        channels = [room.channel for room in rooms]
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                SQL["claim"],
                channels,
                [room.room for room in rooms],
                [room.last_lane for room in rooms],
                [self._after.get(channel, "") for channel in channels],
                self._worker,
                self._lease,
                TENANTS_PER_CLAIM,
            )
        for channel, after in {row["looked_channel"]: row["look_after"] for row in rows}.items():
            if after or channel in self._again:
                self._after[channel] = after
            else:
                self._after.pop(channel, None)
            if not after:
                self._again.discard(channel)
        claimed = [_claimed(row) for row in rows if row["id"] is not None]
        taken = Counter(one.channel for one in claimed)
        # Where others were at the same rows in the same moment, there may be more behind them.
        self._contended = frozenset(
            row["looked_channel"] for row in rows if row["candidates"] > taken[row["looked_channel"]]
        )
        claimed.sort(key=lambda one: (one.lane, one.id))
        return claimed

    async def peek(self, channels: Sequence[str], limit: int) -> list[Claimed]:
        """What a claim would find now; nothing is taken."""
        async with self._database.connection() as connection:
            return [_claimed(row) for row in await connection.fetch(SQL["peek"], list(channels), limit)]

    async def unknown_rules(self, tenants: Sequence[str]) -> dict[str, str]:
        """What tenants have said about messages whose end is not known: retry_once or give_up."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["unknown_rules"], list(tenants))
        return {row["tenant_id"]: row["unknown_outcome"] for row in rows}


async def expire(connection: Connection, limit: int) -> list[Cancelled]:
    """End what was to be gone by now and is not on its way, in the caller's transaction; what that was."""
    return [Cancelled(*row) for row in await connection.fetch(SQL["expire"], limit)]


async def complete(
    connection: Connection, completions: Sequence[Completion], *, fenced: bool = True
) -> set[tuple[str, UUID, int]]:
    """
    Write down what became of attempts, in the caller's transaction; those that decided: tenant id,
    delivery id, attempt.

    fenced: False in tests only, which show what happens then.
    """
    columns = zip(
        *(
            (
                one.tenant_id,
                one.id,
                one.attempt,
                one.state,
                one.wait,
                one.retries,
                one.deferrals,
                one.unknowns,
                one.outcome,
                one.provider,
                one.account,
                one.address_id,
                one.provider_ref,
                one.code,
                one.reason,
                one.gates,
            )
            for one in completions
        ),
        strict=True,
    )
    rows = await connection.fetch(SQL["complete"] if fenced else _UNFENCED, *map(list, columns))
    return {(row["tenant_id"], row["id"], row["attempt"]) for row in rows}


#: What a row of `claim` or `peek` says of a delivery.
_FIELDS = tuple(Claimed.__dataclass_fields__)


def _claimed(row: asyncpg.Record) -> Claimed:
    return Claimed(**{name: row[name] for name in _FIELDS})
