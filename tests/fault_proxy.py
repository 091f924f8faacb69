"""
A TCP proxy that injects network faults, for any protocol; loopback only.

Faults apply to connections that are open and to those that come, until `fault` is set again. `only_open()`
limits the present fault to the connections that are open now: a half-open link beside a healthy network.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from types import TracebackType
from typing import Self


class Fault(enum.Enum):
    """What happens to bytes on their way."""

    PASS = "pass"
    BLACKHOLE = "blackhole"  # both directions are swallowed; the connection stays open
    DROP_TO_CLIENT = "drop_to_client"  # half open: the client talks, and hears nothing
    DROP_TO_SERVER = "drop_to_server"
    PAUSE = "pause"  # nothing is read: both ends feel back-pressure
    LOSE_REPLY = "lose_reply"  # the next request arrives; its reply does not, and the connection is reset
    REFUSE = "refuse"  # new connections are closed at once


class FaultProxy:
    """
    Forwards connections to one server.

    latency: seconds each chunk is held back. throttle: bytes per second and direction; None: as fast as it goes.
    slice_bytes: chunks are cut into pieces of so many bytes, each sent in a write of its own.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.fault = Fault.PASS
        self.latency = 0.0
        self.throttle: float | None = None
        self.slice_bytes: int | None = None
        self.accepted = 0
        self.swallowed = 0  # chunks that went nowhere
        self.changed = asyncio.Event()  # wakes those who are paused

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        return len(self._links)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        while self._links:
            link = next(iter(self._links))
            link.stop()
            await link.ended.wait()

    def inject(self, fault: Fault) -> None:
        """From now on this fault, for all connections."""
        self.fault = fault
        for link in self._links:
            link.fault = None
        self.changed.set()
        self.changed = asyncio.Event()

    def only_open(self, fault: Fault) -> None:
        """This fault for the connections that are open now; new ones pass."""
        self.inject(Fault.PASS)
        for link in self._links:
            link.fault = fault

    def reset(self) -> None:
        """RST to both ends of every open connection."""
        for link in list(self._links):
            link.reset()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.fault is Fault.REFUSE:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), (server_reader, server_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.ended.set()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, client: Stream, server: Stream) -> None:
        self.ended = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []
        self.fault: Fault | None = None  # of this connection alone
        self._proxy = proxy
        self._client = client
        self._server = server
        self._lost_reply_due = False

    async def run(self) -> None:
        self._pumps = [
            asyncio.create_task(self._pump(self._client[0], self._server[1], to_server=True)),
            asyncio.create_task(self._pump(self._server[0], self._client[1], to_server=False)),
        ]
        try:
            await asyncio.wait(self._pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            for _, writer in (self._client, self._server):
                writer.close()

    def stop(self) -> None:
        """Carry nothing more; both ends are closed by `run`."""
        for pump in self._pumps:
            pump.cancel()

    def reset(self) -> None:
        """Close both ends with RST: linger on, for no time at all."""
        for _, writer in (self._client, self._server):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError, AttributeError):  # it may be closed already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    @property
    def _fault(self) -> Fault:
        return self.fault or self._proxy.fault

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        """Carry one direction until its source ends."""
        swallowing = {Fault.BLACKHOLE, Fault.DROP_TO_SERVER if to_server else Fault.DROP_TO_CLIENT}
        with contextlib.suppress(ConnectionError):
            while True:
                await self._unpaused()
                chunk = await reader.read(65536)
                await self._unpaused()
                if self._fault is Fault.LOSE_REPLY:
                    if not to_server and self._lost_reply_due:
                        self.reset()
                        return
                    self._lost_reply_due = self._lost_reply_due or to_server
                if self._fault in swallowing:
                    self._proxy.swallowed += 1
                    if not chunk:  # not even the end of the connection gets through
                        await asyncio.Event().wait()
                    continue
                if not chunk:
                    return
                await self._forward(chunk, writer)

    async def _unpaused(self) -> None:
        while self._fault is Fault.PAUSE:
            await self._proxy.changed.wait()

    async def _forward(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        proxy = self._proxy
        if proxy.latency:
            await asyncio.sleep(proxy.latency)
        size = proxy.slice_bytes or len(chunk)
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            if proxy.throttle is not None:
                await asyncio.sleep(len(piece) / proxy.throttle)
            writer.write(piece)
            await writer.drain()
            if proxy.slice_bytes is not None:
                await asyncio.sleep(0)
