"""An HTTP proxy on loopback that makes tunnels (CONNECT, RFC 9110 §9.3.6), and breaks on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

#: What it does with a request for a tunnel: makes it; answers 403, 407 or no HTTP; never answers; resets the connection.
Behaviour = Literal["tunnel", "403", "407", "garbage", "silence", "reset"]


class ConnectProxy:
    """
    A proxy that leads every name to one port of this machine.

    credentials: `user:password` that it wants. asked: the names and ports that it was asked for.
    """

    def __init__(self, port: int, credentials: str | None = None) -> None:
        self.behaviour: Behaviour = "tunnel"
        self.asked: list[str] = []
        self.tunnels = 0
        self._target = port
        self._credentials = credentials
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For PUSH_PROXY."""
        assert self._server is not None
        user = f"{self._credentials}@" if self._credentials is not None else ""
        return f"http://{user}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Nobody listens any more, and every tunnel is closed."""
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):  # streams of 3.11 stumble over the last
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, name, _ = head.partition("\r\n")[0].split(" ")
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            return
        self.asked.append(name)
        match self.behaviour:
            case "silence":
                await asyncio.Event().wait()
            case "reset":
                _reset(writer)
            case "garbage":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            case "403":
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            case "407":
                writer.write(_WHO)
            case _ if not self._knows(head):
                writer.write(_WHO)
            case _:
                await self._tunnel(reader, writer)

    def _knows(self, head: str) -> bool:
        if self._credentials is None:
            return True
        wanted = f"proxy-authorization: basic {b64encode(self._credentials.encode()).decode()}"
        return any(line.lower() == wanted.lower() for line in head.split("\r\n"))

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self.tunnels += 1
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        out = asyncio.create_task(_carry(reader, far_writer))
        try:
            await _carry(far_reader, writer)
        finally:
            out.cancel()
            await asyncio.gather(out, return_exceptions=True)
            far_writer.close()


_WHO = b'HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
