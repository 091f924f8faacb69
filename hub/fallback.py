"""A Wire over plain ASGI, for servers that do not run our protocol class: correct, and slower."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from hub.transport import WireListener

HIGH_WATER_BYTES = 256 * 1024


class AsgiWire:
    """
    One open WebSocket. `run` reads until it is over; a second task writes what waits.

    Prepared frames cannot be written here: the hub is told by the connection's `wire` being None.
    """

    def __init__(self, socket: WebSocket, *, max_message_bytes: int) -> None:
        self.last_received = time.monotonic()
        self.control_frames = 0
        self.buffered = 0
        self.write: Callable[[bytes], None] = self.send
        self._socket = socket
        self._max_bytes = max_message_bytes
        self._listener: WireListener | None = None
        self._queue: deque[bytes] = deque()
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._paused = False
        self._reader: asyncio.Task[None] | None = None

    def attach(self, listener: WireListener) -> None:
        self._listener = listener

    def send(self, payload: bytes) -> None:
        if self._closing is not None:
            return
        self._queue.append(payload)
        self.buffered += len(payload)
        self._wake.set()
        if self.buffered > HIGH_WATER_BYTES and not self._paused and self._listener is not None:
            self._paused = True
            asyncio.get_running_loop().call_soon(self._listener.on_paused)

    def ping(self, payload: bytes = b"") -> None:
        """The server pings by itself, and reports nothing of it: being open counts as being heard."""
        self.last_received = time.monotonic()

    def close(self, code: int, reason: str = "") -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()

    def abort(self) -> None:
        self.close(1011)
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Read until the client or we close; then tell the listener, exactly once."""
        listener = self._listener
        assert listener is not None, "attach first"
        self._reader = asyncio.create_task(self._read(listener))
        writer = asyncio.create_task(self._write(listener))
        code = 1006
        try:
            await asyncio.wait({self._reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if self._reader.done() and not self._reader.cancelled():
                error = self._reader.exception()
                if isinstance(error, WebSocketDisconnect):
                    code = error.code
                elif error is not None:
                    raise error
            elif self._closing is not None:
                code = self._closing[0]
        finally:
            for task in (self._reader, writer):
                task.cancel()
            await asyncio.gather(self._reader, writer, return_exceptions=True)
            listener.on_closed(code, "")

    async def _read(self, listener: WireListener) -> None:
        while True:
            text = await self._socket.receive_text()
            self.last_received = time.monotonic()
            if len(text) > self._max_bytes:
                self.close(1009, "message too big")
                return
            listener.on_message(text)

    async def _write(self, listener: WireListener) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                payload = self._queue.popleft()
                await self._socket.send_text(payload.decode())
                self.buffered -= len(payload)
                if self._paused and self.buffered < HIGH_WATER_BYTES // 4:
                    self._paused = False
                    listener.on_resumed()
            if self._closing is not None:
                if self._socket.application_state is not WebSocketState.DISCONNECTED:
                    await self._socket.close(*self._closing)
                return
