"""
The fan-out between nodes, and its form inside one process.

A broker is a wake-up that also carries the payload: fast, ordered per channel, at most once. Nothing is kept
in it. What it loses is repaired from the streams, as soon as it says that something may be lost.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog

log = structlog.stdlib.get_logger("hub.broker")


class BrokerUnavailable(Exception):
    """
    A subscription is not in force, because the broker is away or did not confirm it in time.

    It is remembered and put in force when the broker is back; `on_restored` says so.
    """


@dataclass(slots=True)
class BrokerStats:
    """Counts since the start; for metrics."""

    published: int = 0  # messages handed to the broker
    dropped: int = 0  # messages not handed over: the broker was away, or the queue was full
    received: int = 0  # messages of subscribed channels, our own echoes among them
    reconnects: int = 0  # times the live path was restored, the first one not counted
    canary_losses: int = 0  # times our own beat was not seen in time on a connection that looked well
    refused: int = 0  # messages the listener raised on; each is logged


class BrokerListener(Protocol):
    """What a node does with what it hears. Called in the event loop; must not block and must not raise."""

    def on_message(self, channel: str, message: bytes) -> None:
        """One message, as soon as it was read; in the order of publication per channel."""
        ...

    def on_lost(self, reason: str) -> None:
        """The live path is gone: from some moment before this call nothing is heard. Once per outage."""
        ...

    def on_restored(self) -> None:
        """
        The live path is proven and every wanted subscription is in force; anything before may have been missed.

        Also called for the first connection. What is compared with the store from here on misses nothing.
        """
        ...


class Broker(Protocol):
    """
    Fan-out between nodes, at most once.

    Whoever publishes hears their own messages too, when they listen. A message published in one turn of the
    event loop is never heard in the same turn.
    """

    stats: BrokerStats

    async def start(self, listener: BrokerListener) -> None:
        """Connect. Returns when the live path is proven, or when the first attempt has failed; never raises for it."""
        ...

    async def close(self) -> None:
        """Say goodbye. Nothing is heard after this; publishing is dropped."""
        ...

    async def subscribe(self, channel: str) -> None:
        """
        Listen to a channel: in force when this returns, so that what is read from the store afterwards leaves no hole.

        Raises BrokerUnavailable, soon, when it cannot be confirmed; the wish is remembered until `unsubscribe`.
        """
        ...

    async def unsubscribe(self, channel: str) -> None:
        """Nothing of the channel is heard after this returns. Unknown channels are ignored."""
        ...

    def publish(self, channel: str, message: bytes) -> None:
        """Hand a message over. Never blocks and never raises: what cannot go out is dropped and counted."""
        ...

    @property
    def healthy(self) -> bool:
        """The live path is proven: our own beats come back on it."""
        ...


def hear(listener: BrokerListener, channel: str, message: bytes, stats: BrokerStats) -> None:
    """Hand one message to the listener. A listener that raises loses that message, never the connection."""
    stats.received += 1
    try:
        listener.on_message(channel, message)
    except Exception as error:  # noqa: BLE001 - a bug in the handling of one message must not make the node deaf
        stats.refused += 1
        # Where, but neither the error's words nor its locals: they may hold the payload.
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error(
            "broker_message_refused", error=type(error).__name__, file=place.filename, line=place.lineno
        )


class MemoryBus:
    """What the brokers of one process talk over. Production has one broker on it; a test may run several nodes."""

    def __init__(self) -> None:
        self._members: set[MemoryBroker] = set()

    def join(self, broker: MemoryBroker) -> None:
        self._members.add(broker)

    def leave(self, broker: MemoryBroker) -> None:
        self._members.discard(broker)

    def publish(self, channel: str, message: bytes) -> None:
        for broker in self._members:
            broker.offer(channel, message)


class MemoryBroker:
    """A broker inside one process. It loses nothing, so after the start it never says that it did."""

    def __init__(self, bus: MemoryBus | None = None) -> None:
        self.stats = BrokerStats()
        self._bus = bus or MemoryBus()
        self._channels: set[str] = set()
        self._queue: deque[tuple[str, bytes]] = deque()
        self._listener: BrokerListener | None = None

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        self._bus.join(self)
        listener.on_restored()

    async def close(self) -> None:
        self._bus.leave(self)
        self._listener = None
        self._queue.clear()

    async def subscribe(self, channel: str) -> None:
        self._channels.add(channel)
        if self._listener is None:
            raise BrokerUnavailable("not started")

    async def unsubscribe(self, channel: str) -> None:
        self._channels.discard(channel)

    def publish(self, channel: str, message: bytes) -> None:
        if self._listener is None:
            self.stats.dropped += 1
            return
        self.stats.published += 1
        self._bus.publish(channel, message)

    @property
    def healthy(self) -> bool:
        return self._listener is not None

    def offer(self, channel: str, message: bytes) -> None:
        """Queue a message of the bus for the next turn of the loop; one wake-up serves all of a turn."""
        if channel not in self._channels:
            return
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._queue.append((channel, message))

    def _deliver(self) -> None:
        batch, self._queue = self._queue, deque()
        for channel, message in batch:
            if self._listener is not None and channel in self._channels:
                hear(self._listener, channel, message, self.stats)
