"""
One person's place in their streams, through one connection of whatever kind.

The steps of a session are taken one after the other by its connection; only `suspend` and `end` may come
in between. What is sent and what is joined always go together: a client that applies the frames in
their order has everything up to the positions it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from core.errors import ServiceError, invalid
from core.identity import Identity
from core.notification import RANKS
from core.streams import StreamKey, is_channel, store_name, topic_stream, wire_name
from hub import protocol
from hub.channels import Channels
from hub.history import Entry
from hub.hub import Hub, Lost
from hub.inbox import Inbox
from hub.positions import Vector
from hub.stream import EVERYTHING, Filter, Member, TooManyFilters


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What a client is told and may do. From HUB_*."""

    newest: int = 50  # notifications in a snapshot
    channels: int = 100  # subscribed channels of one connection
    heartbeat_ms: int = 25_000  # between two pings of the server


class Subscribed(NamedTuple):
    """A channel is listened to from `seq` on; recovered: nothing after the asked position is missing."""

    seq: int
    recovered: bool


class _TopicEvent(msgspec.Struct):
    topic: str
    joined_seq: int = 0


_topic_event = msgspec.json.Decoder(_TopicEvent)


class Session:
    """What one connection listens to."""

    __slots__ = (
        "_channels",
        "_ended",
        "_followed",
        "_hub",
        "_inbox",
        "_listening",
        "_member",
        "_parked",
        "_rules",
        "_send",
        "_settings",
        "identity",
    )

    def __init__(
        self,
        *,
        hub: Hub,
        inbox: Inbox,
        identity: Identity,
        member: Member,
        send: Callable[[bytes], None],
        rules: Channels,
        settings: SessionSettings,
    ) -> None:
        """send: takes the JSON text of one frame, in order with what the member is handed."""
        self._hub = hub
        self._inbox = inbox
        self._member = member
        self._send = send
        self._rules = rules
        self._settings = settings
        self.identity = identity
        self._followed: set[StreamKey] = set()
        self._channels: dict[str, Filter] = {}  # subscribed for the life of this connection
        self._listening: set[StreamKey] = set()
        self._parked: dict[StreamKey, int] | None = None  # where it left while it could not take more
        self._ended = False

    # -- beginning, resuming, beginning anew

    async def begin(self, connection_id: str, resume: Vector | None = None) -> None:
        """
        Greet and hand over what follows. resume: where the client stood when it left.

        Raises ServiceError (unavailable) when the store is away, ConnectionError when the client is gone.
        """
        membership = await self._inbox.membership(self.identity)
        self._followed = set(membership.positions)
        positions = dict(membership.positions)
        named: Mapping[StreamKey, int] = positions
        known = resume is not None and resume.epoch == self._hub.epoch
        if resume is not None and known:
            named = self._own(resume.positions)
            known = all(seq <= membership.positions[key] for key, seq in named.items())
        if resume is not None and known:
            positions.update(named)
        self._send(
            protocol.welcome(
                connection_id=connection_id,
                user_id=self.identity.user_id,
                tenant_id=self.identity.tenant_id,
                epoch=self._hub.epoch,
                positions=_wire(positions),
                unread_count=membership.unread_count,
                heartbeat_ms=self._settings.heartbeat_ms,
            )
        )
        if (resume is not None and not known) or not await self._join(positions, named):
            await self.resync()
        elif resume is not None:
            self._send(protocol.reply("resumed", None, positions=self.positions(), recovered=True))

    async def resume(self, command: protocol.Resume) -> None:
        """Hand over what came after positions, then say so; or begin anew."""
        if command.epoch is not None and command.epoch != self._hub.epoch:
            await self.resync()
            return
        positions = self._own(command.positions)
        for key in positions:
            self._leave(key)
        if await self._join(positions, certain=False):
            self._send(protocol.reply("resumed", command.id, positions=self.positions(), recovered=True))
        else:
            await self.resync()

    async def resync(self) -> None:
        """Tell the client how things stand, and go on from there. Raises as begin() does."""
        for _ in range(3):
            for key in [*self._listening, *(self._parked or ())]:
                self._leave(key)
            async with self._hub.snapshots:
                snapshot = await self._inbox.snapshot(self.identity, self._settings.newest)
            self._followed = set(snapshot.positions)
            self._send(
                protocol.resync(
                    self._hub.epoch, _wire(snapshot.positions), snapshot.unread_count, snapshot.newest
                )
            )
            if await self._join(dict(snapshot.positions)):
                for channel, wanted in list(self._channels.items()):
                    await self._enter(channel, None, wanted)
                return
        raise ServiceError("unavailable", "The streams are being restored.", retry_after=5)

    # -- channels and topics

    async def subscribe(self, command: protocol.Subscribe) -> Subscribed:
        """Raises ServiceError: not_found for what is not to be listened to, invalid, too_many_subscriptions."""
        channel = command.channel
        if not is_channel(channel) or not self._rules.may_subscribe(self.identity, channel):
            raise ServiceError("not_found", "There is no such channel.")
        if channel not in self._channels and len(self._channels) >= self._settings.channels:
            raise ServiceError("too_many_subscriptions")
        wanted = _filter(command)
        self._channels[channel] = wanted
        try:
            await self._listen(channel)
            return await self._subscribe(channel, command, wanted)
        except ServiceError:
            del self._channels[channel]
            self._hub.unlisten(self._member, self.identity.tenant_id, channel)
            raise

    async def _subscribe(self, channel: str, command: protocol.Subscribe, wanted: Filter) -> Subscribed:
        self._leave(self._topic(channel))
        recovered = command.epoch in (None, self._hub.epoch)
        entered = await self._enter(channel, command.since if recovered else None, wanted)
        if entered is None:
            recovered = False
            entered = await self._enter(channel, None, wanted)
        if entered is None:
            raise ServiceError("unavailable", "The stream is being restored.", retry_after=1)
        return Subscribed(entered, recovered)

    def unsubscribe(self, channel: str) -> None:
        """Raises ServiceError (not_found) when it is not subscribed."""
        if self._channels.pop(channel, None) is None:
            raise ServiceError("not_found", "This channel is not subscribed.")
        self._hub.unlisten(self._member, self.identity.tenant_id, channel)
        if self._topic(channel) not in self._followed:
            self._leave(self._topic(channel))

    def subscribes(self, channel: str) -> bool:
        return channel in self._channels

    async def on_membership(self, kind: str, payload: bytes) -> None:
        """The person followed, left or muted a topic, here or elsewhere."""
        event = _topic_event.decode(payload)
        key = self._topic(event.topic)
        if kind in ("unfollowed", "muted"):
            self._forget(event.topic)
            return
        if key in self._followed and key in self._listening:
            return
        begun = self._follow(key, event.joined_seq)
        if begun is None or not await self._join({key: begun}):
            await self.resync()

    # -- a client that reads too slowly

    def suspend(self) -> None:
        """Leave everything, remembering where: nothing more is handed over."""
        if self._parked is not None:
            return
        self._parked = {}
        for key in list(self._listening):
            position = self._leave(key)
            if position is not None:
                self._parked[key] = position
        for channel in self._channels:
            self._hub.unlisten(self._member, self.identity.tenant_id, channel)

    async def catch_up(self) -> None:
        """Go on where suspend() left. Ephemeral messages of the time between are gone."""
        parked, self._parked = self._parked, None
        if parked is None:
            return
        for channel in list(self._channels):
            await self._listen(channel)
        if not await self._join(parked):
            await self.resync()

    def end(self) -> None:
        """The connection is over."""
        self._ended = True
        for key in list(self._listening):
            self._leave(key)
        for channel in self._channels:
            self._hub.unlisten(self._member, self.identity.tenant_id, channel)

    # --

    def positions(self) -> dict[str, int]:
        """Where the client stands in each stream, by wire names."""
        live = {key: self._hub.position(key) for key in self._listening}
        return _wire({**(self._parked or {}), **live})

    async def _join(
        self,
        positions: Mapping[StreamKey, int],
        named: Collection[StreamKey] | None = None,
        *,
        certain: bool = True,
    ) -> bool:
        """
        Enter streams at positions. named: those whose position the client knew itself; None: all of them.
        certain: the store has been at all of them, whatever a client says. False: continuity is lost somewhere,
        nothing is promised.
        """
        moves: list[Entry] = []
        outcomes = await asyncio.gather(
            *(
                self._enter_stream(key, since, moves=moves, certain=certain)
                for key, since in positions.items()
            )
        )
        if None in outcomes:
            return False
        return not moves or await self._catch_up_with(moves, positions if named is None else named)

    async def _catch_up_with(self, moves: Sequence[Entry], named: Collection[StreamKey]) -> bool:
        """
        Listen as the person does after the moves that were just handed over. A topic that they came to
        follow while the client was away is the client's from its `joined_seq` on, not from now on.
        """
        events = [(entry.kind, _topic_event.decode(entry.payload)) for entry in moves]
        begun: dict[StreamKey, int] = {}
        for kind, event in {event.topic: (kind, event) for kind, event in events}.values():
            key = self._topic(event.topic)
            if kind in ("unfollowed", "muted"):
                self._forget(event.topic)
            elif key not in named:
                self._followed.add(key)
                self._leave(key)
                begun[key] = event.joined_seq
            elif key not in self._followed:
                since = self._follow(key, event.joined_seq)
                if since is None:
                    return False
                begun[key] = since
        return not begun or await self._join(begun)

    def _follow(self, key: StreamKey, joined_seq: int) -> int | None:
        """
        Leave a topic that is followed from now on; from where it is to be entered again. None: its
        subscription had a filter, which may have held back what the person should have.
        """
        self._followed.add(key)
        position = self._leave(key)
        if position is None:
            return joined_seq
        wanted = self._channels.get(key.name.removeprefix("topic:"), EVERYTHING)
        return position if wanted == EVERYTHING or position <= joined_seq else None

    def _forget(self, topic: str) -> None:
        """A topic is not followed any more; a subscription of this connection stays."""
        self._followed.discard(self._topic(topic))
        if topic not in self._channels:
            self._leave(self._topic(topic))

    async def _enter(self, channel: str, since: int | None, wanted: Filter) -> int | None:
        return await self._enter_stream(self._topic(channel), since, wanted)

    async def _enter_stream(
        self,
        key: StreamKey,
        since: int | None,
        wanted: Filter | None = None,
        moves: list[Entry] | None = None,
        certain: bool = False,
    ) -> int | None:
        if key in self._followed:
            wanted = EVERYTHING
        elif wanted is None:
            wanted = self._channels.get(key.name.removeprefix("topic:"), EVERYTHING)
        try:
            entered = await self._hub.join(self._member, key, since, wanted, moves, certain=certain)
        except TooManyFilters:
            raise invalid("types", "this channel has as many different filters as it may") from None
        if isinstance(entered, Lost):
            return None
        if self._ended:
            self._hub.leave(self._member, key)
            raise ConnectionError("the client has gone")
        self._listening.add(key)
        if self._parked is not None:  # suspended while it was on its way in
            self._leave(key)
            self._parked[key] = entered
        return entered

    def _leave(self, key: StreamKey) -> int | None:
        """Up to where it has the stream, also while it is suspended; None when it does not listen to it."""
        self._listening.discard(key)
        parked = self._parked.pop(key, None) if self._parked is not None else None
        position = self._hub.leave(self._member, key)
        return parked if position is None else position

    async def _listen(self, channel: str) -> None:
        """Take a channel's ephemeral messages; one who is suspended or gone by then does not."""
        await self._hub.listen(self._member, self.identity.tenant_id, channel)
        if self._ended or self._parked is not None:
            self._hub.unlisten(self._member, self.identity.tenant_id, channel)

    def _own(self, positions: Mapping[str, int]) -> dict[StreamKey, int]:
        """Those of some wire positions that are positions in this client's streams."""
        own: dict[StreamKey, int] = {}
        for wire, seq in positions.items():
            name = store_name(wire, self.identity.user_id)
            key = StreamKey(self.identity.tenant_id, name) if name is not None else None
            if key is not None and (key in self._followed or wire.removeprefix("topic:") in self._channels):
                own[key] = seq
        return own

    def _topic(self, channel: str) -> StreamKey:
        return StreamKey(self.identity.tenant_id, topic_stream(channel))


def _wire(positions: Mapping[StreamKey, int]) -> dict[str, int]:
    return {wire_name(key.name): seq for key, seq in positions.items()}


def _filter(command: protocol.Subscribe) -> Filter:
    if command.types is None and command.min_priority is None:
        return EVERYTHING
    if command.min_priority is not None and command.min_priority not in RANKS:
        raise invalid("min_priority", f"must be one of {', '.join(RANKS)}")
    types = None if command.types is None else frozenset(command.types)
    return Filter(types, RANKS[command.min_priority] if command.min_priority else 0)
