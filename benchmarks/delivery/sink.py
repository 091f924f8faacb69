"""
The other side of every measured delivery: an HTTP API that takes what is POSTed and notes when it came.

    python -m benchmarks.delivery.sink PORT [SECONDS]

SECONDS: how long it thinks before it answers (default 0). GET / answers the list of arrivals: [nanoseconds of the
monotonic clock of the machine, the number that stood in the body as "#<number>"]. DELETE / forgets them.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_NUMBER = re.compile(rb"#(\d+)")
_OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n"
    b'{"success":true,"id":"sink"}'
)


class Sink(asyncio.Protocol):
    """One connection. It reads no more of HTTP than its clients here write."""

    def __init__(self, arrivals: list[tuple[int, int]], seconds: float) -> None:
        self._arrivals = arrivals
        self._seconds = seconds
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        assert self._transport is not None
        if request.startswith(b"POST"):
            number = _NUMBER.search(request)
            self._arrivals.append((time.monotonic_ns(), int(number[1]) if number else -1))
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, _OK)
            else:
                self._transport.write(_OK)
            return
        if request.startswith(b"DELETE"):
            self._arrivals.clear()
        body = json.dumps(self._arrivals).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def main(port: int, seconds: float) -> None:
    """Until it is ended."""
    arrivals: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(arrivals, seconds), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
