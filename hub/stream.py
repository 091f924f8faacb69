"""
A stream as one node knows it while somebody listens (pure: no await, no clock, no socket).

Invariant: every member has been handed everything up to `flushed`, and nothing after it. So fanning
out needs no check per connection, and joining is a matter of reaching `flushed` and entering in the
same turn of the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from core.streams import StreamKey
from hub.framing import text_frame
from hub.history import Entry

RING_SIZE = 256
#: So many entries may wait to be flushed; a group that begins meanwhile finds them in the ring.
MAX_UNFLUSHED = RING_SIZE // 2
#: Publications that may wait for an earlier one before the store is asked anyway.
EARLY_LIMIT = 1024
MAX_FILTERS = 16
#: After so many entries that its filter held back, a client is told where it stands.
POSITION_EVERY = 64


class Filter(NamedTuple):
    """What a member wants of a channel: these types (None: all), from this priority on (inclusive)."""

    types: frozenset[str] | None = None
    min_rank: int = 0

    def accepts(self, entry: Entry) -> bool:
        """Only notifications are judged: what happens to one concerns whoever might have received it."""
        if entry.kind != "notification":
            return True
        return entry.rank >= self.min_rank and (self.types is None or entry.notification_type in self.types)


EVERYTHING = Filter()


class FrameSink(Protocol):
    """The part of a Wire that fanning out needs."""

    write: Callable[[bytes], None]  # may be replaced at any time: read it for every write


class Member(Protocol):
    """
    Who listens: one connection. The methods that are not awaited may neither block nor raise, and
    being handed frames changes no stream's members.
    """

    @property
    def wire(self) -> FrameSink | None:
        """Where prepared WebSocket frames go; None when this one takes payloads instead."""
        ...

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Takes the JSON texts of frames, where there is no wire."""
        ...

    def on_membership(self, kind: str, payload: bytes) -> None:
        """Its person followed, left or muted a topic; it was handed this frame."""
        ...

    def on_resync(self) -> None:
        """It has been taken out of a stream whose positions are void: it must begin anew."""
        ...

    async def drained(self) -> None:
        """Returns when it can take more. Raises ConnectionError when it cannot any longer."""
        ...


class Batch:
    """What one group is handed in one turn; joined once for all who take prepared frames."""

    __slots__ = ("_frames", "payloads")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._frames: list[bytes] = []

    @classmethod
    def joined(cls, first: Batch, second: Batch) -> Batch:
        """One after the other."""
        both = cls()
        both.payloads = [*first.payloads, *second.payloads]
        both._frames = [first.frames(), second.frames()]
        return both

    def add(self, payload: bytes, frame: bytes) -> None:
        self.payloads.append(payload)
        self._frames.append(frame)

    def frames(self) -> bytes:
        """All of it as prepared frames: the same bytes object for every caller."""
        if len(self._frames) > 1:
            self._frames = [b"".join(self._frames)]
        return self._frames[0]


class Group:
    """The members of a stream that have one filter."""

    __slots__ = ("batch", "filter", "members", "skipped")

    def __init__(self, wanted: Filter) -> None:
        self.filter = wanted
        self.members: dict[Member, None] = {}
        self.batch: Batch | None = None
        self.skipped = 0  # entries held back since the group was last told a position

    def take(self, payload: bytes, frame: bytes) -> None:
        if self.batch is None:
            self.batch = Batch()
        self.batch.add(payload, frame)

    def handover(self) -> Batch | None:
        batch, self.batch = self.batch, None
        return batch


class TooManyFilters(ValueError):
    """A stream has as many distinct filters as it may."""


class _Framed(NamedTuple):
    entry: Entry
    frame: bytes


class LiveStream:
    """One stream of this node: its position, its newest frames, its members."""

    __slots__ = ("_early", "_ring", "flushed", "groups", "key", "max_filters", "position", "reserved")

    def __init__(self, key: StreamKey, *, max_filters: int = MAX_FILTERS) -> None:
        self.key = key
        self.max_filters = max_filters
        self.position = -1  # unknown until open()
        self.flushed = -1
        self.groups: list[Group] = []
        self.reserved = 0  # joins under way; a stream that somebody joins is not closed
        self._ring: deque[_Framed] | None = None
        self._early: dict[int, Entry] | None = None

    # -- what happens to it

    @property
    def is_open(self) -> bool:
        return self.position >= 0

    @property
    def has_gap(self) -> bool:
        """A later publication has come, the next one has not."""
        return bool(self._early) and self.is_open

    def open(self, head: int) -> bool:
        """Its head was `head` at some moment after the node began to listen. True: something to flush."""
        self.position = self.flushed = head
        return self._take_early()

    def offer(self, entry: Entry) -> bool:
        """A publication. True: it, and perhaps others that waited for it, are to be flushed."""
        if entry.seq == self.position + 1 and self.position >= 0:
            self._append(entry)
            if self._early:
                self._take_early()
            return True
        if entry.seq > self.position:
            if self._early is None:
                self._early = {}
            if len(self._early) < EARLY_LIMIT:
                self._early[entry.seq] = entry
        return False

    def fill(self, entries: Iterable[Entry]) -> bool:
        """Entries from the store, in order; those already known are passed over. True: something to flush."""
        moved = False
        for entry in entries:
            if entry.seq == self.position + 1:
                self._append(entry)
                moved = True
        return self._take_early() or moved

    def forget_early(self) -> None:
        """What waits for an earlier publication does so in vain: the store does not have that one."""
        self._early = None

    def _take_early(self) -> bool:
        early, moved = self._early, False
        if not early:
            return False
        while (entry := early.pop(self.position + 1, None)) is not None:
            self._append(entry)
            moved = True
        for seq in [seq for seq in early if seq <= self.position]:
            del early[seq]
        if not early:
            self._early = None
        return moved

    def _append(self, entry: Entry) -> None:
        frame = text_frame(entry.payload)
        self.position = entry.seq
        if self._ring is None:
            self._ring = deque(maxlen=RING_SIZE)
        self._ring.append(_Framed(entry, frame))
        for group in self.groups:
            if group.filter is EVERYTHING or group.filter.accepts(entry):
                group.take(entry.payload, frame)
            else:
                group.skipped += 1

    # -- members

    @property
    def is_idle(self) -> bool:
        """Nobody listens and nobody is about to."""
        return not self.groups and not self.reserved

    def since(self, after: int) -> list[Entry] | None:
        """The flushed entries after a position, or None when that reaches back beyond what is kept."""
        if after == self.flushed:
            return []
        ring = self._ring
        if not ring or after > self.flushed or ring[0].entry.seq > after + 1:
            return None
        first = after + 1 - ring[0].entry.seq
        last = self.flushed + 1 - ring[0].entry.seq
        return [ring[index].entry for index in range(first, last)]

    def newer(self, after: int) -> list[Entry]:
        """The entries after a position, flushed or not, of those that are kept; in order."""
        if after >= self.position or not self._ring:
            return []
        fresh: list[Entry] = []
        for framed in reversed(self._ring):
            if framed.entry.seq <= after:
                break
            fresh.append(framed.entry)
        return fresh[::-1]

    def enter(self, member: Member, wanted: Filter = EVERYTHING) -> None:
        """
        From now on the member is handed everything after `flushed`: it must have everything before.

        Raises TooManyFilters.
        """
        for group in self.groups:
            if group.filter == wanted:
                group.members[member] = None
                return
        if len(self.groups) >= self.max_filters and wanted != EVERYTHING:
            raise TooManyFilters(self.key.name)
        group = Group(EVERYTHING if wanted == EVERYTHING else wanted)
        if self._ring is not None:  # what is appended but not flushed is part of its first batch
            for framed in self._ring:
                if framed.entry.seq > self.flushed and group.filter.accepts(framed.entry):
                    group.take(framed.entry.payload, framed.frame)
        group.members[member] = None
        self.groups.append(group)

    def leave(self, member: Member) -> int | None:
        """Take a member out; its position, or None when it was none."""
        for group in self.groups:
            if member in group.members:
                del group.members[member]
                if not group.members:
                    self.groups.remove(group)
                return self.flushed
        return None

    def held_back(self) -> bool:
        """Some group's filter has held back what came last."""
        return any(group.skipped for group in self.groups)

    def members(self) -> list[Member]:
        return [member for group in self.groups for member in group.members]
