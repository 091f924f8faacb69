"""
Notifications that wait for each other: what comes to one person by one channel under one key within a window goes out
as one message.

Inboxes and connections show each at once. What goes through a provider is written into the outbox as ever, due only
when the last window must have closed; the scheduler that closes the batch in time takes those rows, and writes one
notification in their place. So a batch that nobody closes is late, and not lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID

from core.database import Connection
from core.ids import uuid7
from core.notification import RANKS, Content, Priority
from core.sql import load
from delivery.draft import MAX_TITLE_LENGTH, Batching, Submission, Users
from hub.history_postgres import Columns, content

SQL = load("delivery", "batching.sql")

#: A sliding window ends after so many times its length, however many still come.
LONGEST = 10

#: How long after the last moment a batch that no scheduler has closed goes out one by one.
_GRACE = timedelta(minutes=5)

#: How many notifications the words of a batch name; the others are counted.
#: With so many characters of each they fit beside the ids, in whatever script.
_NAMED, _TITLE, _EXCERPT = 10, 80, 140


class Held(NamedTuple):
    """One notification for one person by one channel, and how it waits."""

    tenant_id: str
    user_id: str
    channel: str
    lane: int
    content: Content
    batching: Batching


async def hold(connection: Connection, held: Sequence[Held]) -> None:
    """Write deliveries that wait for their batches, which are opened, or joined; in the caller's transaction."""
    together: dict[tuple[str, str, str, str, str], list[Held]] = {}
    for one in held:
        name = one.tenant_id, one.user_id, one.channel, one.content.notification_type, one.batching.key
        together.setdefault(name, []).append(one)
    batches = []
    for name in sorted(together):  # two transactions lock what they share in one order
        batching = together[name][-1].batching
        window = batching.window
        batches.append(
            (
                *name,
                uuid7(),
                len(together[name]),
                window,
                LONGEST * window,
                batching.is_sliding,
                batching.limit,
            )
        )
    rows = await connection.fetch(SQL["join"], *map(list, zip(*batches, strict=True)))
    found = {
        (row["tenant_id"], row["user_id"], row["channel"], row["notification_type"], row["key"]): row
        for row in rows
    }
    deliveries = [
        (
            one.tenant_id,
            uuid7(),
            one.content.id,
            one.user_id,
            one.channel,
            one.lane,
            one.content.expires_at,
            found[name]["latest_at"] + _GRACE,
            found[name]["id"],
        )
        for name, ones in together.items()
        for one in ones
    ]
    await connection.execute(SQL["hold"], *map(list, zip(*deliveries, strict=True)))


#: What goes out together: deliveries, and what their notifications say.
Part: TypeAlias = Sequence[tuple[UUID, Content]]


@dataclass(frozen=True, slots=True)
class Batch:
    """
    A batch whose window has closed.

    waiting: what is still to be sent of it, the oldest first. settled: deliveries that the policy is to end, each
    for its reason: read, recalled, expired.
    """

    tenant_id: str
    user_id: str
    channel: str
    key: str
    limit: int
    waiting: Part
    settled: Sequence[UUID]

    def parts(self) -> Iterator[Part]:
        """What goes out together: at most `limit` each."""
        for first in range(0, len(self.waiting), self.limit):
            yield self.waiting[first : first + self.limit]


async def take_closed(connection: Connection, limit: int) -> list[Batch]:
    """
    Batches whose window has closed, with their deliveries locked; what comes under their keys from now on opens new
    ones. In the caller's transaction, which is to see to every delivery.
    """
    closed = await connection.fetch(SQL["take_closed"], limit)
    if not closed:
        return []
    locked = await connection.fetch(
        SQL["lock"], [row["tenant_id"] for row in closed], [row["id"] for row in closed]
    )
    held = sorted(locked, key=lambda row: row["notification_id"])  # ids carry their time
    said = await connection.fetch(
        SQL["said"],
        [row["tenant_id"] for row in held],
        [row["notification_id"] for row in held],
        [row["user_id"] for row in held],
    )
    of: dict[UUID, list[tuple[UUID, Columns]]] = {row["id"]: [] for row in closed}
    for delivery, row in zip(held, said, strict=True):
        of[delivery["batch_id"]].append((delivery["delivery_id"], row))
    return [
        Batch(
            row["tenant_id"],
            row["user_id"],
            row["channel"],
            row["key"],
            row["size_limit"],
            [(delivery, content(one["id"], one)) for delivery, one in of[row["id"]] if not one["is_settled"]],
            [delivery for delivery, one in of[row["id"]] if one["is_settled"]],
        )
        for row in closed
    ]


async def release(connection: Connection, deliveries: Sequence[tuple[str, UUID]]) -> None:
    """Let these (tenant id, delivery id) go out by themselves, now; in the transaction that has taken them."""
    if deliveries:
        await connection.execute(SQL["release"], *map(list, zip(*deliveries, strict=True)))


async def leave(connection: Connection, tenant_id: str, notification_id: UUID, lane: int) -> bool:
    """
    Let what waits of one notification go out by itself, now and in this lane, and be counted in no batch; whether
    anything did. In the caller's transaction, which is to wake the workers after its commit.

    It locks deliveries and then batches, as a create does that replaces some and joins others.
    """
    rows = await connection.fetch(SQL["leave"], tenant_id, notification_id, lane)
    left = Counter(row["batch_id"] for row in rows)
    if left:
        await connection.execute(SQL["lock_batches"], tenant_id, list(left))
        await connection.execute(SQL["discount"], tenant_id, list(left), list(left.values()))
    return bool(rows)


async def finish(connection: Connection, deliveries: Sequence[tuple[str, UUID, str]]) -> None:
    """End these (tenant id, delivery id, reason): another goes out in their place; in the same transaction."""
    if deliveries:
        await connection.execute(SQL["finish"], *map(list, zip(*deliveries, strict=True)))


async def stand_for(connection: Connection, one_for: Sequence[tuple[str, UUID, Part]]) -> None:
    """Note what a notification (tenant id, id) goes out in the place of; in the same transaction."""
    rows = [(tenant_id, one, ",".join(str(each.id) for _, each in part)) for tenant_id, one, part in one_for]
    if rows:
        await connection.execute(SQL["stand_for"], *map(list, zip(*rows, strict=True)))


def together(tenant_id: str, user_id: str, channel: str, key: str, contents: Sequence[Content]) -> Submission:
    """
    One notification that says what several say, for one channel.

    It is as urgent as the most urgent, and lives as long as the longest.
    """
    latest = contents[-1]
    title, message = words(contents)
    links = {one.action_url for one in contents}
    ends = [one.expires_at for one in contents]
    return Submission(
        tenant_id=tenant_id,
        audience=Users.of(user_id),
        title=title,
        message=message,
        notification_type=latest.notification_type,
        priority=Priority(max((one.priority for one in contents), key=lambda name: RANKS[name])),
        channels=(channel,),
        action_url=links.pop() if len(links) == 1 else None,
        metadata={
            "batch": {
                "key": key,
                "count": len(contents),
                "notification_ids": [str(one.id) for one in contents],
            }
        },
        group_key=key,
        expires_at=max(end for end in ends if end is not None) if None not in ends else None,
    )


def words(contents: Sequence[Content]) -> tuple[str, str]:
    """
    Title and message of several: the title of the latest, and a line for each, of which too many are counted. No
    language has anything to do with it: these are their own words.
    """
    if len(contents) == 1:
        return contents[0].title, contents[0].message
    more = f" (+{len(contents) - 1})"
    lines = [_line(one) for one in contents[-_NAMED:]]
    if len(contents) > _NAMED:
        lines.append(f"+ {len(contents) - _NAMED}")
    return contents[-1].title[: MAX_TITLE_LENGTH - len(more)] + more, "\n".join(lines)


def _line(content: Content) -> str:
    return f"• {_cut(content.title, _TITLE)}: {_cut(content.message, _EXCERPT)}"


def _cut(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
