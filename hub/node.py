"""
This process among its peers: the connections it holds, their time limits, their presence, and how it leaves.

One sweep looks after all connections; none has a timer of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

import structlog

from core.clock import Clock
from core.errors import ServiceError
from core.identity import Identity
from hub import disconnect, protocol
from hub.channels import Channels
from hub.connection import Connection
from hub.disconnect import Disconnect
from hub.hub import Hub
from hub.inbox import Inbox
from hub.limits import ConnectionCounts, LimitSettings, TokenBucket
from hub.presence import Lease, Presence
from hub.session import SessionSettings

log = structlog.stdlib.get_logger("hub.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How this node treats its connections. From HUB_*."""

    ping_interval: timedelta = timedelta(seconds=25)  # with a tenth of jitter
    ping_timeout: timedelta = timedelta(seconds=10)  # silence after it: the client is gone
    expiry_warning: timedelta = timedelta(seconds=60)  # `token_expiring` so long before
    slow_patience: timedelta = timedelta(seconds=10)  # behind for so long: closed, resumable
    drain_bytes: int = 64 * 1024  # history is handed over while the transport holds less
    sweep_interval: timedelta = timedelta(milliseconds=500)
    presence_interval: timedelta = timedelta(seconds=20)  # between two renewals of the leases


@dataclass(slots=True)
class NodeStats:
    """Counts since the start; for metrics."""

    opened: int = 0
    closed: int = 0
    slow: int = 0  # times a connection left the live set because it read too slowly
    receipts: int = 0  # entries that clients have said to have received
    refused: int = 0  # handshakes turned away by a limit


Transport = Literal["websocket", "sse", "long_poll"]


class Ended(NamedTuple):
    """A connection that is over; for the sampled history and the metrics."""

    connection_id: UUID
    identity: Identity | None  # None: it never said who it was
    transport: Transport
    opened_at: datetime
    closed_at: datetime
    seconds: float
    close_code: int


class Attended(Protocol):
    """What the sweep looks after, besides WebSockets: event streams and long polls."""

    @property
    def identity(self) -> Identity | None: ...

    def close(self, why: Disconnect) -> None: ...


def channel_lease(channel: str) -> str:
    """The name under which the listeners of a channel are counted; no person can be called so."""
    return f"\0{channel}"


class Node:
    """The connections of this process."""

    def __init__(
        self,
        *,
        hub: Hub,
        inbox: Inbox,
        clock: Clock,
        authenticate: Callable[[str], Awaitable[Identity]],
        redeem: Callable[[str], Awaitable[Identity]],
        is_revoked: Callable[[Identity], bool],
        presence: Presence,
        on_ended: Callable[[Ended], None],
        settings: NodeSettings | None = None,
        limits: LimitSettings | None = None,
        channels: Channels | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        """
        authenticate: a token, redeem: a ticket to an Identity; both raise ServiceError.
        is_revoked: whether a verified identity has been revoked since.
        """
        self.hub = hub
        self.inbox = inbox
        self.clock = clock
        self.authenticate = authenticate
        self.redeem = redeem
        self.settings = settings or NodeSettings()
        self.limits = limits or LimitSettings()
        self.channels = channels or Channels()
        self.session_settings = session_settings or SessionSettings()
        self.stats = NodeStats()
        self.counts = ConnectionCounts(self.limits)
        self.draining = False
        self._is_revoked = is_revoked
        self._presence = presence
        self._on_ended = on_ended
        self._handshakes = TokenBucket(self.limits.handshakes, clock.monotonic())
        self._connections: dict[Connection, None] = {}
        self._feeds: dict[Attended, None] = {}
        self._people: dict[tuple[str, str], dict[Connection, None]] = {}
        self._looking: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()

    # -- life

    def start(self) -> None:
        self.spawn(self._sweep_loop())
        self.spawn(self._presence_loop())

    async def drain(self, spread: timedelta) -> None:
        """
        Send everybody elsewhere, spread over a time so that the others are not stormed, then close.

        New handshakes are refused from the first moment on.
        """
        self.draining = True
        for feed in list(self._feeds):
            feed.close(disconnect.GOING_AWAY)
        waiting = list(self._connections)
        random.shuffle(waiting)
        seconds = spread.total_seconds()
        slices = max(1, min(len(waiting), int(seconds * 10)))
        for number in range(slices):
            for connection in waiting[number::slices]:
                if connection in self._connections:
                    after = random.randrange(1000)
                    connection.send(protocol.reconnect(after))
                    connection.close(disconnect.GOING_AWAY)
            if number + 1 < slices:
                await self.clock.sleep(seconds / slices)

    async def close(self) -> None:
        """Close what is left and stop. Returns when every connection has ended or after the close timeout."""
        self.draining = True
        for feed in list(self._feeds):
            feed.close(disconnect.GOING_AWAY)
        for connection in list(self._connections):
            connection.close(disconnect.GOING_AWAY)
        try:
            async with asyncio.timeout(5):
                while self._connections:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this node; ended with it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    # -- connections

    @property
    def connections(self) -> int:
        return len(self._connections) + len(self._feeds)

    @property
    def people(self) -> int:
        return len(self._people)

    def room(self) -> None:
        """A handshake. Raises ServiceError (overloaded) when there are too many of them, or none any more."""
        if self.draining:
            self.stats.refused += 1
            raise ServiceError("overloaded", "This node is going away.", retry_after=1)
        wait = self._handshakes.take(self.clock.monotonic())
        if wait:
            self.stats.refused += 1
            raise ServiceError("overloaded", retry_after=wait + random.random())

    def arrived(self, connection: Connection) -> None:
        self.stats.opened += 1
        self._connections[connection] = None

    def admitted(self, connection: Connection, identity: Identity) -> None:
        person = (identity.tenant_id, identity.user_id)
        self._people.setdefault(person, {})[connection] = None
        self.spawn(self._tell_presence([person]))

    def ended(self, connection: Connection) -> None:
        self.stats.closed += 1
        self._connections.pop(connection, None)
        identity = connection.identity
        if identity is not None:
            person = (identity.tenant_id, identity.user_id)
            others = self._people.get(person, {})
            others.pop(connection, None)
            if not others:
                self._people.pop(person, None)
                self._looking.discard(person)
                self.spawn(self._tell_gone(person))
            else:
                self.presence_changed(connection)
        self.record(
            connection.id,
            identity,
            "websocket",
            connection.opened_at,
            connection.opened_on,
            connection.close_code or 1006,
        )

    def record(
        self,
        connection_id: UUID,
        identity: Identity | None,
        transport: Transport,
        opened_at: datetime,
        opened_on: float,
        close_code: int,
    ) -> None:
        """A connection of any kind is over. opened_on: monotonic."""
        self._on_ended(
            Ended(
                connection_id,
                identity,
                transport,
                opened_at,
                self.clock.now(),
                self.clock.monotonic() - opened_on,
                close_code,
            )
        )

    def attend(self, feed: Attended) -> None:
        """Look after an event stream or long poll, too."""
        self.stats.opened += 1
        self._feeds[feed] = None

    def forget(self, feed: Attended) -> None:
        if self._feeds.pop(feed, False) is None:
            self.stats.closed += 1

    def ping_after(self) -> float:
        """Seconds to the next ping of a connection."""
        return self.settings.ping_interval.total_seconds() * random.uniform(0.9, 1.0)

    @property
    def drain_bytes(self) -> int:
        return self.settings.drain_bytes

    def close_revoked(self) -> None:
        """Somebody's tokens have been revoked: their connections end."""
        for connection in list(self._connections):
            identity = connection.identity
            if identity is not None and self._is_revoked(identity):
                connection.refuse(ServiceError("unauthorized"), disconnect.BAD_TOKEN)
        for feed in list(self._feeds):
            if feed.identity is not None and self._is_revoked(feed.identity):
                feed.close(disconnect.BAD_TOKEN)

    # -- the sweep

    async def _sweep_loop(self) -> None:
        interval = self.settings.sweep_interval.total_seconds()
        while True:
            await self.clock.sleep(interval)
            now, wall = self.clock.monotonic(), self.clock.now().timestamp()
            for number, connection in enumerate(list(self._connections), 1):
                self.sweep(connection, now, wall)
                if number % 1000 == 0:
                    await asyncio.sleep(0)
            for feed in list(self._feeds):
                if feed.identity is not None and feed.identity.expires_at <= wall:
                    feed.close(disconnect.TOKEN_EXPIRED)
            self.hub.tell_positions()

    def sweep(self, connection: Connection, now: float, wall: float) -> None:
        """Judge one connection by the time. now: monotonic; wall: epoch seconds."""
        settings = self.settings
        identity = connection.identity
        if identity is None:
            if now - connection.opened_on > self.limits.authentication.total_seconds():
                connection.refuse(ServiceError("unauthorized"), disconnect.AUTH_TIMEOUT)
                return
        elif identity.expires_at <= wall:
            connection.refuse(
                ServiceError("unauthorized", "The token has expired."), disconnect.TOKEN_EXPIRED
            )
            return
        elif not connection.warned and identity.expires_at - wall <= settings.expiry_warning.total_seconds():
            connection.warned = True
            connection.send(protocol.token_expiring(datetime.fromtimestamp(identity.expires_at, UTC)))
        if connection.paused_at is not None:
            if now - connection.paused_at > settings.slow_patience.total_seconds():
                connection.close(disconnect.OVERLOADED)
            return
        if connection.pinged_at is not None:
            if connection.last_received >= connection.pinged_at:
                connection.pinged_at = None
            elif now - connection.pinged_at > settings.ping_timeout.total_seconds():
                connection.abort()
                return
        if now >= connection.next_ping:
            connection.ping(now)
            connection.next_ping = now + self.ping_after()

    # -- presence

    def presence_changed(self, connection: Connection) -> None:
        """A client says that somebody looks, or no longer does."""
        identity = connection.identity
        if identity is None:
            return
        person = (identity.tenant_id, identity.user_id)
        if self._is_looking(person) != (person in self._looking):
            self.spawn(self._tell_presence([person]))

    def _is_looking(self, person: tuple[str, str]) -> bool:
        return any(connection.client.visible for connection in self._people.get(person, ()))

    async def crowded(self, identity: Identity) -> bool:
        """Whether a person has more connections, here and elsewhere, than they may."""
        here = self.counts.of_user(identity.tenant_id, identity.user_id)
        elsewhere = await self._presence.connections(
            identity.tenant_id, identity.user_id, besides=self.hub.node
        )
        return here + elsewhere > self.limits.connections_per_user

    async def _presence_loop(self) -> None:
        while True:
            await self.clock.sleep(self.settings.presence_interval.total_seconds())
            await self._tell_presence(list(self._people))
            channels = [
                Lease(tenant_id, channel_lease(channel), self.hub.node, False, count)
                for (tenant_id, channel), count in self.hub.channel_counts().items()
            ]
            await self._presence.touch_many(channels)

    async def _tell_presence(self, people: list[tuple[str, str]]) -> None:
        leases = []
        for person in people:
            connections = self._people.get(person)
            if connections:
                looking = self._is_looking(person)
                (self._looking.add if looking else self._looking.discard)(person)
                leases.append(Lease(*person, self.hub.node, looking, len(connections)))
        if leases:
            await self._presence.touch_many(leases)

    async def _tell_gone(self, person: tuple[str, str]) -> None:
        if person not in self._people:
            await self._presence.leave(*person, self.hub.node)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("node_task_failed", exc_info=error)
