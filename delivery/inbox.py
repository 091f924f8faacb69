"""
A person's inbox in PostgreSQL: what reached them and what they did with it.

Nothing is written when a notification reaches a person. A baseline for each of their streams says up to where
everything is read; a receipt says what is otherwise. The rules of one notification's state:

- read: seen too; a snooze ends. unread: seen, for whoever marks it has seen it; a snooze ends.
- archived: out of the list and not counted, read or not; a snooze ends. unarchived: as it was before.
- snoozed: out of the list and not counted until then, then unread again.
- read_all: everything up to a position in each stream, except what is snoozed, is read and seen.

A muted topic gives nothing live and counts nowhere, but stays in the list. What came until it is unmuted is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

import asyncpg
import msgspec

from core.database import Connection, Database
from core.errors import ServiceError, invalid, not_found
from core.identity import Identity
from core.notification import RANKS
from core.sql import load
from core.streams import StreamKey, is_topic, store_name, topic_stream, user_stream, wire_name
from hub import frames
from hub.history import Draft, Entry
from hub.history_postgres import append
from hub.inbox import UNREAD_CAP, Membership, Snapshot, StateChange, TopicChange
from hub.publisher import Publisher

SQL = load("delivery", "inbox.sql")
_UNREAD = SQL["count"].format(seen="", unseen="")
_UNSEEN = SQL["count"].format(seen="OR r.seen_at IS NOT NULL", unseen="AND r.seen_at IS NULL")
_MEMBERSHIP = SQL["membership"].format(count=_UNREAD)

_UNREAD_OF_ALL = SQL["count_all"].format(
    count=_UNREAD.replace("$1", "p.tenant_id").replace("$2", "p.user_id")
)
_PAGE = SQL["page"].format(hit=SQL["hit"])
_ONE = SQL["one"].format(hit=SQL["hit"])

State = Literal["all", "unread", "read", "unseen", "archived", "snoozed"]
STATES: tuple[State, ...] = get_args(State)

MAX_PAGE = 500
MAX_CHANGES = 1000  # notifications in one change

#: Entries that one list looks at; where fewer match, the page is short and says how to go on.
_SCAN_LIMIT = 5000

#: Counting looks at no more entries of a stream than this.
_COMPACT_ENTRIES = 2 * UNREAD_CAP
_COMPACT_EVERY = 64  # changes, about

_END = (datetime.max.replace(tzinfo=UTC), UUID(int=(1 << 128) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """What one person may have. From HUB_INBOX_*."""

    follow_limit: int = 1000  # topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Which notifications of a person are meant.

    state: `all` is neither archived nor snoozed; so are unread, read and unseen.
    types: these only; None: every type. min_priority: this and above.
    streams: these only, by wire names (`user`, `tenant`, `topic:<name>`); None: every stream.
    """

    state: State = "all"
    types: Sequence[str] | None = None
    min_priority: str | None = None
    streams: Sequence[str] | None = None


EVERYTHING = Selection()


class Listing(NamedTuple):
    """One page, newest first."""

    notifications: list[dict[str, Any]]
    next_cursor: str | None  # None: nothing older matches; else there may be more, also behind a short page
    unread_count: int


class Counts(NamedTuple):
    """At most UNREAD_CAP each."""

    unread: int
    unseen: int


class BulkChange(NamedTuple):
    """What a change by selection did."""

    changed: int
    unread_count: int
    more: bool  # more may match: repeat it


class FollowedTopic(NamedTuple):
    topic: str
    muted: bool
    followed_at: datetime


class PostgresInbox:
    """Implements hub.inbox.Inbox; what lists and counts need besides."""

    def __init__(
        self, database: Database, publisher: Publisher, settings: InboxSettings | None = None
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._settings = settings or InboxSettings()

    # -- looking

    async def membership(self, identity: Identity) -> Membership:
        person = identity.tenant_id, identity.user_id
        async with self._database.connection() as connection:
            rows = await connection.fetch(_MEMBERSHIP, *person, UNREAD_CAP)
            if len(rows) < 2:
                await connection.execute(SQL["join"], *person)
                rows = await connection.fetch(_MEMBERSHIP, *person, UNREAD_CAP)
        positions = {StreamKey(identity.tenant_id, row["stream"]): row["head"] for row in rows}
        return Membership(positions, rows[0]["unread"])

    async def unread_count(self, identity: Identity) -> int:
        return (await self.counts(identity)).unread

    async def unread_counts(self, people: Sequence[tuple[str, str]]) -> list[int]:
        """The unread counts of these people (tenant id, user id), each named once, in their order; in one query."""
        tenants, users = [tenant_id for tenant_id, _ in people], [user_id for _, user_id in people]
        async with self._database.connection() as connection:
            await connection.execute(SQL["join_all"], tenants, users)
            return [
                row["unread"] for row in await connection.fetch(_UNREAD_OF_ALL, tenants, users, UNREAD_CAP)
            ]

    async def counts(self, identity: Identity) -> Counts:
        """Unread and unseen notifications."""
        async with self._database.connection() as connection:
            await _join(connection, identity)
            return Counts(await _count(connection, identity), await _count(connection, identity, _UNSEEN))

    async def snapshot(self, identity: Identity, newest: int) -> Snapshot:
        async with self._database.connection() as connection:
            await _join(connection, identity)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                rows = await connection.fetch(_MEMBERSHIP, identity.tenant_id, identity.user_id, UNREAD_CAP)
                entries, _ = await _scan(connection, identity, EVERYTHING, _END, newest)
        positions = {StreamKey(identity.tenant_id, row["stream"]): row["head"] for row in rows}
        return Snapshot(positions, rows[0]["unread"], [_shown(row) for row in entries])

    async def list(
        self,
        identity: Identity,
        *,
        selection: Selection = EVERYTHING,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Listing:
        """
        A person's notifications by the time they were published, newest first; not those recalled or expired.

        cursor: the next_cursor of the page before. limit: 1 to 500.

        Raises ServiceError (invalid) for a cursor that is none of ours.
        """
        before = _END if cursor is None else _position(cursor)
        async with self._database.connection() as connection:
            await _join(connection, identity)
            unread = await _count(connection, identity)
            rows, after = await _scan(connection, identity, selection, before, limit)
        next_cursor = None if after is None else _cursor(after)
        return Listing([_shown(row) for row in rows], next_cursor, unread)

    async def get(self, identity: Identity, notification_id: UUID) -> dict[str, Any]:
        """One notification as `list` shows it, archived and snoozed too. Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            await _join(connection, identity)
            row = await connection.fetchrow(
                _ONE, identity.tenant_id, identity.user_id, "any", None, None, notification_id
            )
        if row is None:
            raise not_found()
        return _shown(row)

    async def topics(self, identity: Identity) -> Sequence[FollowedTopic]:
        """The topics a person follows, by name."""
        async with self._database.connection() as connection:
            rows = await _members(connection, identity)
        return [
            FollowedTopic(row["stream"].removeprefix("topic:"), row["muted"], row["created_at"])
            for row in rows
            if row["stream"].startswith("topic:")
        ]

    # -- changing

    async def change(
        self,
        identity: Identity,
        change: StateChange,
        notification_ids: Sequence[UUID],
        *,
        until: datetime | None = None,
    ) -> int:
        """
        Apply one change to at most 1,000 notifications, all or none; the new unread count.

        What is so already stays so and tells nobody. Raises ServiceError: not_found when one of them is
        not theirs; invalid for too many, or a snooze that does not end in the future.
        """
        ids = list(dict.fromkeys(notification_ids))
        if not 0 < len(ids) <= MAX_CHANGES:
            raise invalid("notification_ids", f"must name 1-{MAX_CHANGES} notifications")
        async with self._database.transaction() as connection:
            await _lock(connection, identity)
            theirs = await connection.fetch(SQL["theirs"], identity.tenant_id, identity.user_id, ids)
            if len(theirs) < len(ids):
                raise not_found()
            _, unread, entry = await _apply(connection, identity, change, ids, until)
        self._tell(entry)
        return unread

    async def change_where(
        self,
        identity: Identity,
        change: StateChange,
        selection: Selection,
        *,
        until: datetime | None = None,
    ) -> BulkChange:
        """
        Apply one change to what is selected, the newest 1,000 at a time. Raises ServiceError as `change` does.
        """
        async with self._database.transaction() as connection:
            await _lock(connection, identity)
            rows, after = await _scan(connection, identity, selection, _END, MAX_CHANGES)
            ids = [row["notification_id"] for row in rows]
            changed, unread, entry = await _apply(connection, identity, change, ids, until)
        self._tell(entry)
        return BulkChange(changed, unread, after is not None)

    async def read_all(self, identity: Identity, positions: Mapping[str, int] | None) -> int:
        """
        Mark everything read up to positions (wire names; None: up to now); the new unread count.

        A position beyond a stream's head means its head. Raises ServiceError (not_found) for a stream that
        is not theirs, invalid for a negative position.
        """
        async with self._database.transaction() as connection:
            await _lock(connection, identity)
            heads = {row["stream"]: row["head"] for row in await _members(connection, identity)}
            wanted = heads if positions is None else _stored_positions(positions, heads, identity)
            await _read_up_to(connection, identity, wanted)
            unread = await _count(connection, identity)
            said = {wire_name(name): seq for name, seq in wanted.items()}
            entry = await _append(connection, identity, "read_all", {"positions": said})
        self._tell(entry)
        return unread

    async def change_topic(self, identity: Identity, topic: str, change: TopicChange) -> None:
        """
        Follow, leave, mute or unmute a topic; what is so already stays so and tells nobody.

        Following begins at the topic's present head. Raises ServiceError: invalid for what is no topic's
        name, not_found for muting what is not followed, conflict for following too many.
        """
        if not is_topic(topic):
            raise invalid("topic", "is no name of a topic")
        stream = topic_stream(topic)
        async with self._database.transaction() as connection:
            await _lock(connection, identity)
            members = await _members(connection, identity)
            known = next((row for row in members if row["stream"] == stream), None)
            if known is None and change in ("muted", "unmuted"):
                raise not_found("topic among those you follow")
            if known is None and change == "followed":
                followed = sum(row["stream"].startswith("topic:") for row in members)
                if followed >= self._settings.follow_limit:
                    raise ServiceError("conflict", f"One may follow {self._settings.follow_limit} topics.")
            if not _changes(known, change):
                return
            data = await _change_member(connection, identity, stream, change)
            entry = await _append(connection, identity, change, {"topic": topic, **data})
        self._tell(entry)

    def _tell(self, entry: Entry | None) -> None:
        if entry is not None:
            self._publisher.publish([entry])


def _changes(known: asyncpg.Record | None, change: TopicChange) -> bool:
    """Whether a change makes a difference to a membership, or to none."""
    if known is None:
        return change == "followed"
    return change == "unfollowed" or ((change == "muted") != known["muted"] and change != "followed")


async def _change_member(
    connection: Connection, identity: Identity, stream: str, change: TopicChange
) -> dict[str, int]:
    """Write one change of membership; what its event says besides."""
    person = identity.tenant_id, identity.user_id
    if change == "unfollowed":
        await connection.execute(SQL["unfollow"], *person, stream)
        return {}
    head: int = await connection.fetchval(SQL["head"], identity.tenant_id, stream)
    if change == "muted":
        await connection.execute(SQL["mute"], *person, stream, True, head)
        return {}
    if change == "followed":
        await connection.execute(SQL["follow"], *person, stream, head)
    else:
        await connection.execute(SQL["mute"], *person, stream, False, head)
        await _read_up_to(connection, identity, {stream: head})
    return {"joined_seq": head}


async def _lock(connection: Connection, identity: Identity) -> None:
    """Be the only one who changes anything of this person, who is known from now on."""
    await connection.execute(SQL["lock_person"], identity.tenant_id, identity.user_id)
    await _join(connection, identity)


async def _members(connection: Connection, identity: Identity) -> list[asyncpg.Record]:
    return await connection.fetch(SQL["members"], identity.tenant_id, identity.user_id)


async def _join(connection: Connection, identity: Identity) -> None:
    """Give a person not seen before their baselines; nothing is written for anybody else."""
    person = identity.tenant_id, identity.user_id
    if not await connection.fetchval(SQL["is_member"], *person):
        await connection.execute(SQL["join"], *person)


async def _count(connection: Connection, identity: Identity, query: str = _UNREAD) -> int:
    count: int = await connection.fetchval(query, identity.tenant_id, identity.user_id, UNREAD_CAP)
    return count


async def _apply(
    connection: Connection,
    identity: Identity,
    change: StateChange,
    ids: Sequence[UUID],
    until: datetime | None,
) -> tuple[int, int, Entry | None]:
    """Write receipts of a locked person: how many changed, what is unread now, and the event to tell."""
    person = identity.tenant_id, identity.user_id
    changed: list[asyncpg.Record]
    if change == "snoozed":
        if until is None or until.tzinfo is None or until <= await connection.fetchval("SELECT now()"):
            raise invalid("until", "must be in the future")
        try:
            until = until.astimezone(UTC)
        except OverflowError:  # the last day of the calendar, west of Greenwich
            raise invalid("until", "must be within the years 1 to 9999") from None
        changed = await connection.fetch(SQL[change], *person, ids, until)
    else:
        changed = await connection.fetch(SQL[change], *person, ids)
    different = {row["notification_id"] for row in changed}
    if not different:
        return 0, await _count(connection, identity), None
    unread = await _count(connection, identity)
    names = [str(notification_id) for notification_id in ids if notification_id in different]
    entry = await _append(connection, identity, change, frames.changed_notifications(names, until))
    if entry.seq % _COMPACT_EVERY < len(different):
        await _compact(connection, identity)
    return len(different), unread, entry


async def _compact(connection: Connection, identity: Identity) -> None:
    """Keep counting cheap for somebody who reads one by one and never all (see `compact`)."""
    for row in await _members(connection, identity):
        if row["head"] - row["read_all_seq"] < _COMPACT_ENTRIES:
            continue
        raised: int | None = 0
        while raised is not None:
            raised = await connection.fetchval(
                SQL["compact"],
                identity.tenant_id,
                identity.user_id,
                row["stream"],
                _COMPACT_ENTRIES,
                UNREAD_CAP,
            )


async def _read_up_to(connection: Connection, identity: Identity, positions: Mapping[str, int]) -> None:
    columns = identity.tenant_id, identity.user_id, list(positions), list(positions.values())
    await connection.execute(SQL["raise_baselines"], *columns)
    await connection.execute(SQL["read_marked"], *columns)


def _stored_positions(
    positions: Mapping[str, int], heads: Mapping[str, int], identity: Identity
) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for wire, seq in positions.items():
        name = store_name(wire, identity.user_id)
        if name is None or name not in heads:
            raise not_found("stream")
        if seq < 0:
            raise invalid(f"positions.{wire}", "must not be negative")
        wanted[name] = min(seq, heads[name])
    return wanted


async def _append(connection: Connection, identity: Identity, kind: str, data: Mapping[str, Any]) -> Entry:
    """One event of the person's own stream. The transaction must end soon: its counter is locked."""
    key = StreamKey(identity.tenant_id, user_stream(identity.user_id))
    [seq] = await append(connection, [Draft(key, kind, data=data)])
    return Entry(key, seq, kind, frames.state(key, seq, kind, data))


async def _scan(
    connection: Connection,
    identity: Identity,
    selection: Selection,
    before: tuple[datetime, UUID],
    limit: int,
) -> tuple[list[asyncpg.Record], tuple[datetime, UUID] | None]:
    """
    The newest matching entries before a position, and the position to go on from, if any may be left.

    Looks at a few entries first and at more when few match, but never at so many that others wait.
    """
    if not 0 < limit <= MAX_CHANGES:
        raise invalid("limit", f"must be 1-{MAX_PAGE}")
    streams = _stored_streams(selection.streams, identity)
    wanted = list(selection.types) if selection.types is not None else None
    matching: dict[UUID, asyncpg.Record] = {}
    budget, step = max(_SCAN_LIMIT, limit + 1), limit + 1
    while True:
        rows = await connection.fetch(
            _PAGE,
            identity.tenant_id,
            identity.user_id,
            selection.state,
            wanted,
            _priorities(selection.min_priority),
            *before,
            step,
            streams,
        )
        for row in rows:
            if row["id"] is not None and row["id"] not in matching:
                if len(matching) == limit:
                    return list(matching.values()), before
                matching[row["id"]] = row
            before = row["listed_at"], row["notification_id"]
        if len(rows) < step:
            return list(matching.values()), None
        budget -= step
        if budget <= 0:
            return list(matching.values()), before
        step = min(4 * step, budget)


def _priorities(least: str | None) -> list[str] | None:
    if least is None:
        return None
    return [name for name, rank in RANKS.items() if rank >= RANKS[least]]


def _stored_streams(wire: Iterable[str] | None, identity: Identity) -> list[str] | None:
    """The stored names; what is no stream of anybody matches nothing."""
    if wire is None:
        return None
    return [stored for name in wire if (stored := store_name(name, identity.user_id)) is not None]


def _cursor(position: tuple[datetime, UUID]) -> str:
    listed_at, notification_id = position
    text = f"{listed_at.isoformat()} {notification_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, notification_id = text.partition(" ")
        listed_at, last = datetime.fromisoformat(moment), UUID(notification_id)
    except (ValueError, binascii.Error):
        raise invalid("cursor", "is not a cursor of ours") from None
    if listed_at.tzinfo is None:
        raise invalid("cursor", "is not a cursor of ours")
    return listed_at, last


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    """A notification and its state, as lists show it."""
    return {
        "id": row["id"],
        "title": row["title"],
        "message": row["message"],
        "notification_type": row["notification_type"],
        "action_url": row["action_url"],
        "priority": row["priority"],
        "channels": row["channels"],
        "metadata": msgspec.json.decode(row["metadata"]),
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "collapse_key": row["collapse_key"],
        "group_key": row["group_key"],
        "updated_at": row["updated_at"],
        "stream": wire_name(row["stream"]),
        "seq": row["seq"],
        "read": row["read"],
        "seen": row["seen"],
        "archived": row["archived"],
        "snoozed_until": row["snoozed_until"],
    }
