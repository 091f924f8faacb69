"""A server of the test's own in its event loop, and a WebSocket client that says exactly what it is told."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import uvicorn

T = TypeVar("T")

PING = 0x89  # the first byte of one
DEADLINE_SECONDS = 60.0  # of any single wait: a hang is a failure
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"


@asynccontextmanager
async def serving(app: Any, **config: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """uvicorn on a free port of the loopback interface; yields the server and its port."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, **{"lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 1, **config}
        )
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    await server.startup(sockets=[listener])
    try:
        yield server, listener.getsockname()[1]
    finally:
        await _stop(server)


async def _stop(server: uvicorn.Server) -> None:
    """What uvicorn's own shutdown does, without its pauses; it is awaited by tests that are about it."""
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()
    for task in list(server.server_state.tasks):
        task.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while server.server_state.connections or server.server_state.tasks:
            await asyncio.sleep(0.001)


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A client's frame, masked."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    stretched = (MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
    return head + MASK + masked.to_bytes(size, "big")


def text(payload: str) -> bytes:
    return frame(1, payload.encode())


def pong(payload: bytes) -> bytes:
    return frame(0xA, payload)


def close(code: int | None = 1000, reason: str = "") -> bytes:
    return frame(8, b"" if code is None else struct.pack("!H", code) + reason.encode())


def request(
    target: bytes = b"/", *headers: tuple[bytes, bytes], omit: frozenset[bytes] = frozenset()
) -> bytes:
    """An opening handshake; a header given replaces the usual one of its name."""
    fields = [
        (b"Host", b"127.0.0.1"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", KEY),
        (b"Sec-WebSocket-Version", b"13"),
    ]
    given = {name.lower() for name, _ in headers} | omit
    fields = [field for field in fields if field[0].lower() not in given] + list(headers)
    return b"".join(
        [
            b"GET " + target + b" HTTP/1.1\r\n",
            *[name + b": " + value + b"\r\n" for name, value in fields],
            b"\r\n",
        ]
    )


class RawClient:
    """One connection. Each read has the deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    @classmethod
    async def connect(
        cls,
        port: int,
        data: bytes = b"",
        *,
        receive_buffer_bytes: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connect and send `data`, without waiting for an answer."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = 2**16 if receive_buffer_bytes is None else receive_buffer_bytes
        name = None if tls is None else "localhost"
        client = cls(*await asyncio.open_connection(sock=sock, limit=limit, ssl=tls, server_hostname=name))
        client.send(data)
        return client

    @classmethod
    async def open(
        cls, port: int, target: bytes = b"/", *headers: tuple[bytes, bytes], **options: Any
    ) -> Self:
        """Connect, shake hands, and read the answer, whatever it is."""
        client = await cls.connect(port, request(target, *headers), **options)
        await client.answer()
        return client

    async def answer(self) -> int:
        """Read an HTTP answer; the body of one that is not 101."""
        head = await self._within(self._reader.readuntil(b"\r\n\r\n"))
        status, *lines = head.decode("latin-1").split("\r\n")[:-2]
        self.status = int(status.split()[1])
        self.headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        if self.status != 101:
            size = int(dict(self.headers).get("content-length", "0"))
            self.body = await self._within(self._reader.readexactly(size))
        return self.status

    def send(self, data: bytes) -> None:
        if not self._writer.is_closing():  # the server may have reset the connection
            self._writer.write(data)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's first byte and payload."""
        first, size = await self._within(self._reader.readexactly(2))
        if size == 126:
            size = int.from_bytes(await self._within(self._reader.readexactly(2)), "big")
        elif size == 127:
            size = int.from_bytes(await self._within(self._reader.readexactly(8)), "big")
        return first, await self._within(self._reader.readexactly(size))

    async def text(self) -> str:
        first, payload = await self.frame()
        assert first == 0x81, f"expected text, got {first:#x} {payload!r}"
        return payload.decode()

    async def closed(self) -> tuple[int | None, str]:
        """The server's close frame, which must come next."""
        first, payload = await self.frame()
        assert first == 0x88, f"expected a close frame, got {first:#x} {payload!r}"
        return (int.from_bytes(payload[:2], "big") if payload else None), payload[2:].decode()

    async def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        return await self._within(self._reader.read())

    def vanish(self) -> None:
        """Reset the connection, as a process that is killed."""
        if not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()

    async def leave(self) -> None:
        """Close the socket and wait until it is."""
        self._writer.close()
        try:
            await self._within(self._writer.wait_closed())
        except ConnectionError:
            pass  # the server was faster

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()

    async def _within(self, wait: Awaitable[T]) -> T:
        return await asyncio.wait_for(wait, DEADLINE_SECONDS)
