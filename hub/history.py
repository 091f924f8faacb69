"""What the hub needs of the durable streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from core.streams import StreamKey

PAGE_SIZE = 200


class Draft(NamedTuple):
    """One event to append to one stream; the stream gives it its seq."""

    key: StreamKey
    kind: str
    notification_id: UUID | None = None
    data: Mapping[str, Any] | None = None  # what a state event says besides its kind
    notification_type: str | None = None  # of a notification: what filters judge
    rank: int = 0  # of its priority


class Entry(NamedTuple):
    """
    One event of a stream as it goes to clients.

    payload: the JSON text of its frame, UTF-8, encoded once for every connection of every node.
    notification_type, rank: what subscription filters judge; None and 0 for other kinds.
    """

    key: StreamKey
    seq: int
    kind: str
    payload: bytes
    notification_type: str | None = None
    rank: int = 0


class Page(NamedTuple):
    """Entries in order, without a hole after the position they were asked for."""

    entries: Sequence[Entry]
    complete: bool  # no entry was committed after these when the page was read
    broken: bool = False  # the first entry is not the next one: retention has passed the reader by


class Heads(NamedTuple):
    """The positions of streams at one moment; a stream without a row stands at 0."""

    epoch: str
    positions: Mapping[StreamKey, int]


class History(Protocol):
    """The durable streams, read."""

    async def heads(self, keys: Sequence[StreamKey]) -> Heads:
        """The heads of many streams in one query. Raises ServiceError (unavailable) when the store is away."""
        ...

    async def changed(self, believed: Sequence[tuple[StreamKey, int]]) -> Heads:
        """
        The epoch, and the heads of only those streams that are not where they are believed to be.
        Raises ServiceError (unavailable) when the store is away.
        """
        ...

    async def read(self, key: StreamKey, after: int, limit: int = PAGE_SIZE) -> Page:
        """At most `limit` entries after a position. Raises ServiceError (unavailable) when the store is away."""
        ...
