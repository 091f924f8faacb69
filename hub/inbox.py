"""What the hub needs of a person's inbox; implemented by delivery, handed over by app/build.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

from core.identity import Identity
from core.streams import StreamKey

StateChange = Literal["read", "unread", "seen", "archived", "unarchived", "snoozed"]
TopicChange = Literal["followed", "unfollowed", "muted", "unmuted"]


class Membership(NamedTuple):
    """
    The streams one person listens to: their own, their tenant's, and those of the topics they follow and
    have not muted. All members are read in one snapshot of the database: the count is the count at the
    positions, so events after them are exactly what is missing.
    """

    positions: Mapping[StreamKey, int]  # the heads; 0 for a stream without a row
    unread_count: int  # at most UNREAD_CAP


class Snapshot(NamedTuple):
    """What a client needs that cannot be given continuity; read in one snapshot of the database."""

    positions: Mapping[StreamKey, int]  # as in Membership
    unread_count: int
    newest: Sequence[Mapping[str, Any]]  # as the list of notifications shows them, newest first


#: Counting stops here; clients show "999+".
UNREAD_CAP = 1000


class Inbox(Protocol):
    """
    One person's notifications and what they did with them. Every change is an event in their own
    stream, written in the same transaction and told to all their devices.

    Each method raises ServiceError: not_found for what is not theirs, unavailable when the store is away.
    """

    async def membership(self, identity: Identity) -> Membership:
        """Their streams. A person not seen before joins `tenant` at its present head."""
        ...

    async def snapshot(self, identity: Identity, newest: int) -> Snapshot:
        """The unread count and the newest entries."""
        ...

    async def unread_count(self, identity: Identity) -> int: ...

    async def change(
        self,
        identity: Identity,
        change: StateChange,
        notification_ids: Sequence[UUID],
        *,
        until: datetime | None = None,
    ) -> int:
        """Apply one change to some notifications; the new unread count. `until` belongs to snoozed."""
        ...

    async def read_all(self, identity: Identity, positions: Mapping[str, int] | None) -> int:
        """Mark everything read up to positions (wire names; None: up to now); the new unread count."""
        ...

    async def change_topic(self, identity: Identity, topic: str, change: TopicChange) -> None:
        """
        Follow, leave or mute a topic. Following twice is following once.

        The events `followed` and `unmuted` say {topic, joined_seq}: the position in the topic's stream
        from which it concerns the person. `unfollowed` and `muted` say {topic}.
        """
        ...
