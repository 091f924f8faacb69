"""
The streams of one node: who listens to what, fanned out with one write per connection and turn.

Everything between a publication and the sockets is here and in stream.py. Nothing on that way awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import structlog

from core.clock import Clock
from core.errors import ServiceError
from core.streams import StreamKey, topic_stream
from hub import frames
from hub.broker import Broker, BrokerUnavailable
from hub.envelope import BadEnvelope, Envelope, Seal
from hub.framing import text_frame
from hub.history import Entry, History, Page
from hub.stream import EVERYTHING, MAX_UNFLUSHED, POSITION_EVERY, Batch, Filter, LiveStream, Member

T = TypeVar("T")

log = structlog.stdlib.get_logger("hub")

#: The channel on which nodes speak to nodes.
CONTROL = "control"

#: Pages that are read at the same time, of the connections of the store: whoever returns to a thousand topics, or
#: a node that doubts ten thousand streams, leaves the others some.
_READS = 4

#: Kinds of events that change which streams a person's connections listen to.
_MEMBERSHIP = frozenset({"followed", "unfollowed", "muted", "unmuted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """How long a doubt may last. From HUB_*."""

    gap_patience: timedelta = timedelta(milliseconds=5)  # how long a publication waits for an earlier one
    audit_interval: timedelta = timedelta(seconds=1)  # between two comparisons of all streams with the store
    audit_batch: int = 2000  # streams in one query
    audit_patience: timedelta = timedelta(milliseconds=200)  # how long an entry may be on its way
    audit_share: float = 0.25  # of the time: the most that comparing may take of the database
    stall: timedelta = timedelta(seconds=2)  # an event loop that stood still so long doubts everything
    max_filters: int = 16  # distinct filters per stream
    synchronous_failover: bool = False  # no commit is lost in a failover: a new timeline is the same life


@dataclass(slots=True)
class HubStats:
    """Counts since the start; for metrics."""

    published: int = 0  # entries of this node's own commits
    received: int = 0  # publications of other nodes
    deliveries: int = 0  # frames handed to connections
    writes: int = 0  # batches handed to connections: deliveries share them
    gaps: int = 0  # publications that came before an earlier one and outwaited the patience
    repairs: int = 0  # times a stream was read from the store
    repaired: int = 0  # entries that came from the store instead of the broker
    resyncs: int = 0  # times members were told that continuity is lost
    audits: int = 0
    bad_envelopes: int = 0
    audit_seconds: float = 0.0  # the last comparison's time in the database


class Lost(NamedTuple):
    """A join without continuity: the position does not belong to this stream's life, or is too old."""


class Hub:
    """The live streams of this node."""

    def __init__(
        self,
        *,
        node: str,
        history: History,
        broker: Broker,
        seal: Seal,
        clock: Clock,
        settings: HubSettings | None = None,
        on_control: Callable[[Envelope], None] | None = None,
        on_latency: Callable[[float], None] | None = None,
    ) -> None:
        """
        node: this process's id, unique in the cluster. on_control: what other nodes say to this one.
        on_latency: seconds from the commit of an entry to its frames in the hands of the transports.
        """
        self.node = node
        self.settings = settings or HubSettings()
        self.stats = HubStats()
        self.epoch = ""
        self._history = history
        self._broker = broker
        self._seal = seal
        self._clock = clock
        self._on_control = on_control
        self._on_latency = on_latency
        self._commits: list[float] = []  # of what waits for the flush
        self._streams: dict[StreamKey, LiveStream] = {}
        self._opening: dict[LiveStream, asyncio.Task[None]] = {}
        self._repairs: dict[LiveStream, asyncio.Task[None]] = {}
        self._channels: dict[tuple[str, str], dict[Member, None]] = {}
        self._dirty: list[LiveStream] = []
        self._flushing = False
        self._messages: dict[tuple[str, str], Batch] = {}
        self._reads: dict[tuple[StreamKey, int], asyncio.Task[Page]] = {}
        self._reading = asyncio.Semaphore(_READS)
        self._heads_wanted: dict[StreamKey, asyncio.Future[int]] = {}
        self._heads_task: asyncio.Task[None] | None = None
        #: Whoever is told to begin anew reads a snapshot: a few at a time, when it is everybody.
        self.snapshots = asyncio.Semaphore(_READS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._audit_now = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._running = False

    # -- life

    async def start(self) -> None:
        """Learn the epoch, begin to listen. Raises ServiceError (unavailable) when the store is away."""
        self.epoch = (await self._history.heads([])).epoch
        self._running = True
        await self._broker.start(self)
        await self._listen(CONTROL)
        self._spawn(self._audit_loop())
        self._spawn(self._watch_loop())

    async def close(self) -> None:
        """Stop comparing and listening. Connections are closed by whoever opened them."""
        self._running = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._broker.close()

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def in_doubt(self) -> int:
        """Streams that are being brought to their heads from the store."""
        return len(self._repairs)

    @property
    def live(self) -> bool:
        """Publications of other nodes arrive at once; otherwise the audit brings them."""
        return self._broker.healthy

    # -- publishing

    def publish(self, entries: Sequence[Entry]) -> None:
        now = self._clock.now().timestamp()
        for entry in entries:
            self.stats.published += 1
            self._take(entry, now)
            envelope = Envelope(
                origin=self.node,
                kind="entry",
                tenant_id=entry.key.tenant_id,
                name=entry.key.name,
                payload=entry.payload,
                epoch=self.epoch,
                seq=entry.seq,
                committed=now,
                event_kind=entry.kind,
                notification_type=entry.notification_type,
                rank=entry.rank,
            )
            self._broker.publish(_stream_channel(entry.key), self._seal.close(envelope))

    def publish_message(self, tenant_id: str, channel: str, data: bytes) -> None:
        payload = frames.message(channel, data)
        envelope = Envelope(
            origin=self.node, kind="message", tenant_id=tenant_id, name=channel, payload=payload
        )
        self._take_message(tenant_id, channel, payload)
        self._broker.publish(_message_channel(tenant_id, channel), self._seal.close(envelope))

    def publish_control(self, tenant_id: str, name: str, payload: bytes) -> None:
        """Say something to all nodes, this one included: `name` is what, `payload` its JSON."""
        envelope = Envelope(
            origin=self.node,
            kind="control",
            tenant_id=tenant_id,
            name=name,
            payload=payload,
            epoch=self.epoch,
        )
        if self._on_control is not None:
            self._on_control(envelope)
        self._broker.publish(CONTROL, self._seal.close(envelope))

    # -- what the broker says

    def on_message(self, channel: str, message: bytes) -> None:
        try:
            envelope = self._seal.open(message)
        except BadEnvelope as error:
            self.stats.bad_envelopes += 1
            log.warning("bad_envelope", reason=str(error))
            self._doubt_channel(channel)
            return
        if envelope.origin == self.node:
            return
        self.stats.received += 1
        if envelope.kind == "control":
            if channel == CONTROL and self._on_control is not None:
                self._on_control(envelope)
        elif envelope.kind == "message":
            if channel == _message_channel(envelope.tenant_id, envelope.name):
                self._take_message(envelope.tenant_id, envelope.name, envelope.payload)
        else:
            key = StreamKey(envelope.tenant_id, envelope.name)
            if channel != _stream_channel(key):
                return  # somebody repeats a true envelope where it does not belong
            if envelope.epoch != self.epoch:
                self._audit_now.set()
                return
            self._take(
                Entry(
                    key,
                    envelope.seq,
                    envelope.event_kind,
                    envelope.payload,
                    envelope.notification_type,
                    envelope.rank,
                ),
                envelope.committed,
            )

    def on_lost(self, reason: str) -> None:
        log.warning("broker_lost", reason=reason)

    def on_restored(self) -> None:
        """Everything may have been missed until this moment."""
        if self._running:
            log.info("broker_live", streams=len(self._streams))
            self._audit_now.set()

    def tell_positions(self) -> None:
        """Clients whose filter holds everything back learn where they stand; called now and then."""
        for stream in self._streams.values():
            if stream.held_back():
                self._touch(stream)

    # -- from a publication to the sockets

    def _take(self, entry: Entry, committed: float) -> None:
        stream = self._streams.get(entry.key)
        if stream is None:
            return
        before = stream.position
        if stream.offer(entry):
            self._commits.append(committed)
            self._move_members(stream, before)
            self._touch(stream)
        elif stream.has_gap and stream not in self._repairs:
            self._loop.call_later(self.settings.gap_patience.total_seconds(), self._mind_gap, stream)

    def _take_message(self, tenant_id: str, channel: str, payload: bytes) -> None:
        key = (tenant_id, channel)
        if key not in self._channels:
            return
        batch = self._messages.get(key)
        if batch is None:
            batch = self._messages[key] = Batch()
            self._schedule_flush()
        batch.add(payload, text_frame(payload))

    def _touch(self, stream: LiveStream) -> None:
        """Its members are handed what is new at the end of this turn of the event loop, together."""
        self._dirty.append(stream)
        if stream.position - stream.flushed >= MAX_UNFLUSHED:
            self._flush()
        else:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        dirty, self._dirty = self._dirty, []
        batches: list[tuple[Batch, dict[Member, None]]] = []
        for stream in dirty:
            quiet = stream.flushed == stream.position  # touched twice, or only to tell positions
            stream.flushed = stream.position
            for group in stream.groups:
                if group.skipped and (quiet or group.skipped >= POSITION_EVERY):
                    payload = frames.position(stream.key, stream.position)
                    group.take(payload, text_frame(payload))
                    group.skipped = 0
                batch = group.handover()
                if batch is not None:
                    batches.append((batch, group.members))
        if self._messages:
            messages, self._messages = self._messages, {}
            batches.extend(
                (batch, self._channels[key]) for key, batch in messages.items() if key in self._channels
            )
        if len(batches) == 1:
            self._hand_over(*batches[0])
        elif batches:
            self._hand_over_merged(batches)
        if self._commits:
            commits, self._commits = self._commits, []
            if self._on_latency is not None:
                now = self._clock.now().timestamp()
                for committed in commits:
                    self._on_latency(max(now - committed, 0.0))

    def _hand_over(self, batch: Batch, members: dict[Member, None]) -> None:
        data = batch.frames()
        self.stats.writes += len(members)
        self.stats.deliveries += len(members) * len(batch.payloads)
        for member in members:
            wire = member.wire
            if wire is not None:
                wire.write(data)
            else:
                member.deliver(batch.payloads)

    def _hand_over_merged(self, batches: list[tuple[Batch, dict[Member, None]]]) -> None:
        """Several batches, one write for each member; members of the same ones share the joined bytes."""
        mine: dict[Member, Any] = {}
        joined: dict[tuple[int, int], Batch] = {}
        for batch, members in batches:
            for member in members:
                before = mine.get(member)
                if before is None:
                    mine[member] = batch
                    continue
                pair = (id(before), id(batch))
                both = joined.get(pair)
                if both is None:
                    both = joined[pair] = Batch.joined(before, batch)
                mine[member] = both
        self.stats.writes += len(mine)
        for member, batch in mine.items():
            self.stats.deliveries += len(batch.payloads)
            wire = member.wire
            if wire is not None:
                wire.write(batch.frames())
            else:
                member.deliver(batch.payloads)

    def _move_members(self, stream: LiveStream, after: int) -> None:
        """The connections of a person follow what the person follows: each new entry is told once, in order."""
        for entry in stream.newer(after):
            if entry.kind in _MEMBERSHIP:
                for member in stream.members():
                    self._loop.call_soon(member.on_membership, entry.kind, entry.payload)

    # -- joining and leaving

    async def join(
        self,
        member: Member,
        key: StreamKey,
        since: int | None = None,
        wanted: Filter = EVERYTHING,
        moves: list[Entry] | None = None,
        *,
        certain: bool = False,
    ) -> int | Lost:
        """
        Make a connection a member of a stream, handing it everything after `since` first.

        since: the position it has everything up to; None: from now on. Returns the position at which it
        entered, or Lost when continuity cannot be given; then it is no member. moves: gathers what is handed
        over here and changes which streams the person listens to; the member hears of later ones. certain: the
        store has been at `since`, so that the stream may begin there for everybody while the store is away.

        Raises ServiceError (unavailable) when the store is needed and away, TooManyFilters,
        ConnectionError when the connection cannot take what it is owed.
        """
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = LiveStream(key, max_filters=self.settings.max_filters)
        stream.reserved += 1
        try:
            if not stream.is_open:
                await self._open_at(stream, since if certain else None)
            return await self._join(stream, member, since, wanted, [] if moves is None else moves)
        finally:
            stream.reserved -= 1
            self._drop_if_idle(stream)

    async def _join(
        self, stream: LiveStream, member: Member, since: int | None, wanted: Filter, moves: list[Entry]
    ) -> int | Lost:
        after = stream.flushed if since is None else since
        if after > stream.position:
            # Perhaps this node is behind what the client has already seen elsewhere.
            await self._repair(stream)
        while self._streams.get(stream.key) is stream and after <= stream.position:
            # A move that waits for the flush was told to the members of its moment: it is handed over here.
            if after > stream.flushed or any(e.kind in _MEMBERSHIP for e in stream.newer(stream.flushed)):
                self._flush()
            rest = stream.since(after)
            if rest is not None:
                stream.enter(member, wanted)
                self._deliver(member, rest, wanted)
                moves += [entry for entry in rest if entry.kind in _MEMBERSHIP]
                return stream.flushed
            page = await self._read(stream.key, after)
            if page.broken or not page.entries:
                break
            self._fill(stream, page.entries)
            self._deliver(member, page.entries, wanted)
            moves += [entry for entry in page.entries if entry.kind in _MEMBERSHIP]
            after = page.entries[-1].seq
            await member.drained()
        return Lost()

    def leave(self, member: Member, key: StreamKey) -> int | None:
        """Take a member out; the position up to which it has everything, or None when it was none."""
        stream = self._streams.get(key)
        if stream is None:
            return None
        position = stream.leave(member)
        self._drop_if_idle(stream)
        return position

    def position(self, key: StreamKey) -> int:
        """Up to where every member of a stream has been handed everything."""
        stream = self._streams.get(key)
        return max(stream.flushed, 0) if stream is not None else 0

    async def listen(self, member: Member, tenant_id: str, channel: str) -> None:
        """Hand a member the ephemeral messages of a channel. Without a broker: those of this node."""
        listeners = self._channels.get((tenant_id, channel))
        if listeners is not None:
            listeners[member] = None
            return
        self._channels[tenant_id, channel] = {member: None}
        await self._listen(_message_channel(tenant_id, channel))

    def unlisten(self, member: Member, tenant_id: str, channel: str) -> None:
        listeners = self._channels.get((tenant_id, channel))
        if listeners is None or member not in listeners:
            return
        del listeners[member]
        if not listeners:
            del self._channels[tenant_id, channel]
            self._spawn(self._unlisten(_message_channel(tenant_id, channel), tenant_id, channel))

    def listeners(self, tenant_id: str, channel: str) -> int:
        """How many members of this node a channel has, on the live and on the durable side."""
        stream = self._streams.get(StreamKey(tenant_id, topic_stream(channel)))
        durable = stream.members() if stream is not None else []
        return len({*durable, *self._channels.get((tenant_id, channel), ())})

    def channel_counts(self) -> dict[tuple[str, str], int]:
        """The listeners of every channel that has some here: tenant and channel -> how many."""
        return {name: len(listeners) for name, listeners in self._channels.items()}

    def _deliver(self, member: Member, entries: Sequence[Entry], wanted: Filter) -> None:
        payloads = [entry.payload for entry in entries if wanted.accepts(entry)]
        if not payloads:
            return
        self.stats.deliveries += len(payloads)
        wire = member.wire
        if wire is not None:
            wire.write(b"".join(map(text_frame, payloads)))
        else:
            member.deliver(payloads)

    def _drop_if_idle(self, stream: LiveStream) -> None:
        if stream.is_idle and self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            self._spawn(self._unlisten_stream(stream.key))

    async def _open_at(self, stream: LiveStream, known: int | None) -> None:
        """
        Open a stream at its head. With the store away the head is not known: a position that it has been at is
        one to begin with, and what is behind it is found by the audit when the store is back.
        """
        try:
            await self._open(stream)
        except ServiceError:
            if known is None:
                raise
            if not stream.is_open and stream.open(known):
                self._touch(stream)

    async def _open(self, stream: LiveStream) -> None:
        """
        Listen first, then learn the head: what is published in between is not missed. Many wait for one, and
        none of them takes it along when it goes.
        """
        opening = self._opening.get(stream)
        if opening is None:
            opening = self._opening[stream] = self._spawn(self._listen_and_open(stream))
            opening.add_done_callback(lambda _: self._opening.pop(stream, None))
        await asyncio.shield(opening)

    async def _listen_and_open(self, stream: LiveStream) -> None:
        await self._listen(_stream_channel(stream.key))
        head = await self._head(stream.key)
        if not stream.is_open and stream.open(head):
            self._touch(stream)

    async def _listen(self, channel: str) -> None:
        try:
            await self._broker.subscribe(channel)
        except BrokerUnavailable:
            # Remembered by the broker; on_restored compares every stream. Until then the audit delivers.
            log.debug("subscribed_later", channel=channel)

    async def _unlisten(self, broker_channel: str, tenant_id: str, channel: str) -> None:
        await self._broker.unsubscribe(broker_channel)
        if (tenant_id, channel) in self._channels:  # somebody came while we left
            await self._listen(broker_channel)

    async def _unlisten_stream(self, key: StreamKey) -> None:
        await self._broker.unsubscribe(_stream_channel(key))
        if key in self._streams:
            await self._listen(_stream_channel(key))
            self._audit_now.set()

    # -- reading the store

    async def _head(self, key: StreamKey) -> int:
        """The head of one stream; those that are asked for together are read together."""
        wanted = self._heads_wanted.get(key)
        if wanted is None:
            wanted = self._heads_wanted[key] = self._loop.create_future()
            if self._heads_task is None:
                self._heads_task = self._spawn(self._read_heads())
        return await asyncio.shield(wanted)

    async def _read_heads(self) -> None:
        while self._heads_wanted:
            wanted, self._heads_wanted = self._heads_wanted, {}
            try:
                heads = await self._history.heads(list(wanted))
            except ServiceError as error:
                for future in wanted.values():
                    future.set_exception(error)
                    future.exception()  # seen: its waiter may have gone
                continue
            except BaseException as error:
                for future in wanted.values():
                    if isinstance(error, Exception):
                        future.set_exception(error)
                        future.exception()
                    else:
                        future.cancel()
                self._heads_task = None
                raise
            self._check_epoch(heads.epoch)
            for key, future in wanted.items():
                future.set_result(heads.positions[key])
        self._heads_task = None

    async def _read(self, key: StreamKey, after: int) -> Page:
        """A page of a stream; many who want the same one share the read."""
        task = self._reads.get((key, after))
        if task is None:
            task = self._reads[key, after] = self._spawn(self._read_in_turn(key, after))
            task.add_done_callback(lambda _: self._reads.pop((key, after), None))
        return await asyncio.shield(task)

    async def _read_in_turn(self, key: StreamKey, after: int) -> Page:
        async with self._reading:
            return await self._history.read(key, after)

    async def _repair(self, stream: LiveStream) -> None:
        """
        Bring a stream to its head from the store, once for all its members and all who wait for it.

        Raises ServiceError (unavailable).
        """
        repair = self._repairs.get(stream)
        if repair is None:
            repair = self._repairs[stream] = self._spawn(self._read_on(stream))
            repair.add_done_callback(lambda _: self._repairs.pop(stream, None))
        await asyncio.shield(repair)

    async def _read_on(self, stream: LiveStream) -> None:
        self.stats.repairs += 1
        patience = 1
        while True:
            page = await self._read(stream.key, stream.position)
            if page.broken:
                self._lose(stream)
                return
            self.stats.repaired += self._fill(stream, page.entries)
            if not page.complete:
                continue
            if not stream.has_gap:
                return
            if patience:  # the page may have been under way before what came early was committed
                patience -= 1
                continue
            stream.forget_early()  # it is of another life: the audit will tell
            return

    def _fill(self, stream: LiveStream, entries: Sequence[Entry]) -> int:
        """Entries from the store into the stream; how many it had not known."""
        before = stream.position
        if stream.fill(entries):
            self._move_members(stream, before)
            self._touch(stream)
        return sum(entry.seq > before for entry in entries)

    def _mind_gap(self, stream: LiveStream) -> None:
        if stream.has_gap and stream not in self._repairs and self._streams.get(stream.key) is stream:
            self.stats.gaps += 1
            self._spawn(self._repair_quietly(stream))

    async def _repair_quietly(self, stream: LiveStream) -> None:
        try:
            await self._repair(stream)
        except ServiceError as error:
            # The audit comes back to it; until then its members are late, not wrong.
            log.warning("repair_postponed", code=error.code)

    # -- doubt

    def _doubt_channel(self, channel: str) -> None:
        for stream in self._streams.values():
            if stream.is_open and _stream_channel(stream.key) == channel:
                self._spawn(self._repair_quietly(stream))
                return

    async def _audit_loop(self) -> None:
        """Compare every stream with the store, about once in an interval and within a share of the time."""
        interval = self.settings.audit_interval.total_seconds()
        while True:
            pause = max(interval, self.stats.audit_seconds / self.settings.audit_share)
            try:
                async with asyncio.timeout(pause):
                    await self._audit_now.wait()
            except TimeoutError:
                pass
            self._audit_now.clear()
            try:
                await self.audit()
            except ServiceError as error:
                log.warning("audit_postponed", code=error.code)
            except Exception:  # without it a lost publication stays lost: nothing may end it
                log.exception("audit_failed")

    async def audit(self) -> None:
        """One comparison of all streams. Raises ServiceError (unavailable) when the store is away."""
        self.stats.audits += 1
        spent = 0.0
        streams = [stream for stream in self._streams.values() if stream.is_open]
        size = self.settings.audit_batch
        for first in range(0, max(len(streams), 1), size):
            batch = streams[first : first + size]
            began = self._clock.monotonic()
            heads = await self._history.changed([(stream.key, stream.position) for stream in batch])
            spent += self._clock.monotonic() - began
            if self._check_epoch(heads.epoch):
                return
            for stream in batch:
                head = heads.positions.get(stream.key)
                if head is not None and head != stream.position:
                    self._spawn(self._settle(stream, head))
        self.stats.audit_seconds = spent

    async def _settle(self, stream: LiveStream, head: int) -> None:
        """A stream was not where the store says. An entry still on its way is no reason to read."""
        if head < stream.position:
            # The store has less than we handed out, in the same epoch: somebody put an old copy in its place.
            current = (await self._history.heads([stream.key])).positions[stream.key]
            if current < stream.position:
                self._lose(stream)
            return
        await self._clock.sleep(self.settings.audit_patience.total_seconds())
        if stream.position < head and self._streams.get(stream.key) is stream:
            await self._repair(stream)
            if stream.position < head and self._streams.get(stream.key) is stream:
                self._lose(stream)  # what its members miss is not kept any more

    def _check_epoch(self, epoch: str) -> bool:
        """True when the store lives another life than we thought: then everybody begins anew."""
        if epoch == self.epoch:
            return False
        log.warning("epoch_changed", before=self.epoch, now=epoch)
        self.epoch = epoch
        for stream in list(self._streams.values()):
            self._lose(stream)
        return True

    def _lose(self, stream: LiveStream) -> None:
        """Continuity of a stream is gone: its members are taken out and told to begin anew."""
        self.stats.resyncs += 1
        members = stream.members()
        for member in members:
            stream.leave(member)
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            self._spawn(self._unlisten_stream(stream.key))
        for member in members:
            self._loop.call_soon(member.on_resync)

    async def _watch_loop(self) -> None:
        """An event loop that stood still may have missed anything."""
        step, stall = 0.5, self.settings.stall.total_seconds()
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(step)
            late = self._clock.monotonic() - before - step
            if late > stall:
                log.warning("event_loop_stalled", seconds=round(late, 2))
                self._audit_now.set()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, ServiceError)
        ):
            log.error("hub_task_failed", exc_info=error)


def _stream_channel(key: StreamKey) -> str:
    """A tenant's id may have colons but no slash: two tenants never share a channel."""
    return f"s:{key.tenant_id}/{key.name}"


def _message_channel(tenant_id: str, channel: str) -> str:
    return f"m:{tenant_id}/{channel}"
