"""
The events of a WebSocket for those who cannot have one (G-5, G-6): an event stream, or a long poll.

The same session hands over the same frames; what differs is that they wait here until they are taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import structlog

from core.errors import ServiceError
from core.identity import Identity
from core.ids import uuid7
from hub import disconnect, protocol
from hub.disconnect import Disconnect
from hub.node import Node, Transport
from hub.positions import Vector
from hub.session import Session

log = structlog.stdlib.get_logger("hub.feed")

#: Frames that wait for a reader; one who lets more wait begins anew, resumable.
MAX_WAITING_BYTES = 256 * 1024


class Event(NamedTuple):
    """One frame, and where the client stands when it has it."""

    type: str
    payload: bytes
    vector: Vector


class _Head(msgspec.Struct):
    """What a feed reads of a frame: where it moves the client."""

    type: str
    stream: str | None = None
    seq: int = 0
    epoch: str | None = None
    positions: dict[str, int] | None = None
    topic: str | None = None
    joined_seq: int | None = None


_head = msgspec.json.Decoder(_Head)


class Feed:
    """One reader. A Member of streams; the sweep ends it when its token does."""

    wire = None  # it takes payloads

    def __init__(self, node: Node, identity: Identity, resume: Vector | None) -> None:
        self.identity: Identity = identity
        self.failure: ServiceError | None = None  # why the session could not go on, when it could not
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended: Disconnect | None = None
        self._jobs: asyncio.Queue[str | tuple[str, bytes]] = asyncio.Queue()
        # Until everything it missed was handed over, a reader stands where it stood, and in the streams that it
        # knew: what ends before must not move it past a `resync`, or past what a new topic has held.
        self._resume = resume
        self._settled = resume is None
        self._epoch, known = resume or Vector(node.hub.epoch, {})
        self._positions = dict(known)
        self._session = Session(
            hub=node.hub,
            inbox=node.inbox,
            identity=identity,
            member=self,
            send=self._put,
            rules=node.channels,
            settings=node.session_settings,
        )

    async def run(self, connection_id: str) -> None:
        """Keep the session going until it is cancelled; what it cannot go on from ends the feed."""
        try:
            await self._session.begin(connection_id, self._resume)
            while True:
                match await self._jobs.get():
                    case (kind, payload):
                        await self._session.on_membership(kind, payload)
                    case _:
                        await self._session.resync()
        except ConnectionError:
            pass
        except ServiceError as error:
            self.failure = error
            self._put(protocol.error(None, error))
            self.close(disconnect.OVERLOADED)
        except Exception:
            log.exception("feed_failed", connection_id=connection_id)
            self.close(disconnect.INTERNAL)

    async def events(self) -> list[Event]:
        """What has come since the last call; waits for the first. Empty when the feed has ended."""
        while not self._waiting and self._ended is None:
            self._news.clear()
            await self._news.wait()
        return self.take()

    def take(self) -> list[Event]:
        """What is there."""
        taken = [self._event(payload) for payload in self._waiting]
        self._waiting.clear()
        self._bytes = 0
        self._room.set()
        return taken

    @property
    def ended(self) -> Disconnect | None:
        """Why there will be no more, once there will not."""
        return self._ended

    @property
    def vector(self) -> Vector:
        """Where the client stands with everything that was taken."""
        return Vector(self._epoch, dict(self._positions))

    def close(self, why: Disconnect) -> None:
        if self._ended is None:
            self._ended = why
            self._session.end()
            self._room.set()
            self._news.set()

    # -- Member

    def deliver(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self._put(payload)

    def on_membership(self, kind: str, payload: bytes) -> None:
        self._jobs.put_nowait((kind, payload))

    def on_resync(self) -> None:
        self._jobs.put_nowait("resync")

    async def drained(self) -> None:
        await self._room.wait()
        if self._ended is not None:
            raise ConnectionError("the client has gone")

    def _put(self, payload: bytes) -> None:
        if self._ended is not None:
            return
        self._waiting.append(payload)
        self._bytes += len(payload)
        self._news.set()
        if self._bytes > MAX_WAITING_BYTES // 2:
            self._room.clear()
        if self._bytes > MAX_WAITING_BYTES:
            # Nobody may touch the members of a stream while it is handing over.
            asyncio.get_running_loop().call_soon(self.close, disconnect.OVERLOADED)

    def _event(self, payload: bytes) -> Event:
        head = _head.decode(payload)
        if head.positions is not None and (
            head.type == "resync" or (head.type == "welcome" and self._settled)
        ):
            self._epoch = head.epoch or self._epoch
            self._positions = dict(head.positions)
            self._settled = True
        elif head.positions is not None and head.type == "resumed":
            self._positions.update(head.positions)
            self._settled = True
        elif head.stream is not None:
            if self._settled or head.stream in self._positions:
                self._positions[head.stream] = head.seq
            if head.topic is not None and head.joined_seq is not None:
                name = f"topic:{head.topic}"
                self._positions[name] = max(head.joined_seq, self._positions.get(name, 0))
        return Event(head.type, payload, self.vector)


@asynccontextmanager
async def feed(
    node: Node,
    identity: Identity,
    *,
    address: str,
    transport: Transport,
    resume: Vector | None,
) -> AsyncIterator[Feed]:
    """
    A feed for as long as the block lasts, counted and limited like any connection.

    Raises ServiceError: overloaded, rate_limited.
    """
    node.room()
    place = node.counts.arrive(address)
    opened_at, opened_on = node.clock.now(), node.clock.monotonic()
    connection_id = uuid7()
    reader = None
    try:
        place.identify(identity.tenant_id, identity.user_id)
        reader = Feed(node, identity, resume)
        node.attend(reader)
        session = node.spawn(reader.run(str(connection_id)))
        try:
            yield reader
        finally:
            reader.close(disconnect.NORMAL)
            session.cancel()
    finally:
        place.leave()
        if reader is not None:
            node.forget(reader)
            ended = reader.ended or disconnect.NORMAL
            node.record(connection_id, identity, transport, opened_at, opened_on, ended.code)
