"""One connection: how history waits for a client that reads slowly."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import SystemClock
from hub.connection import Connection
from hub.limits import ConnectionCounts, LimitSettings
from hub.node import NodeSettings

KIB = 1024


class QuietWire:
    """A transport that holds less than its high water: it has nothing to tell about what it holds."""

    buffered = 100 * KIB


@pytest.fixture
def wire() -> QuietWire:
    return QuietWire()


@pytest.fixture
def connection(wire: Any) -> Connection:
    node: Any = SimpleNamespace(
        clock=SystemClock(),
        limits=LimitSettings(),
        drain_bytes=NodeSettings().drain_bytes,
        ping_after=lambda: timedelta(seconds=25).total_seconds(),
        ended=lambda _: None,
    )
    place = ConnectionCounts(node.limits).arrive("127.0.0.1")
    return Connection(node, wire, place, prepared=False, resume=None)


async def test_history_goes_on_when_the_client_has_read_although_the_transport_says_nothing(
    connection: Connection, wire: QuietWire
) -> None:
    waiting = asyncio.create_task(connection.drained())
    await asyncio.sleep(0)
    assert not waiting.done()

    wire.buffered = 10 * KIB

    await asyncio.wait_for(waiting, 60)


async def test_history_ends_with_the_connection(connection: Connection) -> None:
    waiting = asyncio.create_task(connection.drained())
    await asyncio.sleep(0)

    connection.on_closed(1006, "")

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(waiting, 60)
