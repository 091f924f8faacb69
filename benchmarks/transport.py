"""
Our WebSocket class beside uvicorn's websockets-sansio: CPU of one handshake, CPU of one small inbound message,
memory of one idle connection.

    python -m benchmarks.transport [--connections 2000] [--messages 100000] [--rounds 5]

Each figure is the server process's own: CPU from its clock, memory from its resident set. The servers take turns
within a round, in one run, and the ratio to the first one is what carries over to another machine. Neither checks
a token and neither does anything with a message: this is the transport alone.
"""

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import uvicorn

KINDS = {
    "uvicorn": "uvicorn's websockets-sansio",
    "ours-httptools": "ours behind uvicorn's httptools class",
    "ours": "ours behind our HTTP class",
}
REQUEST = (
    b"GET /ws/notify?ticket=0123456789abcdef HTTP/1.1\r\nHost: 127.0.0.1:8003\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0\r\n"
    b"Origin: http://127.0.0.1:8003\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_TEXT = b'{"type":"mark_read","id":"1","notification_id":"0190163d-8694-739b-aea5-966c26f8ad91"}'
MESSAGE = b"\x81" + bytes([0x80 | len(_TEXT)]) + bytes(4) + _TEXT  # a mask of zeros costs what any does
PING, PONG = b"\x89\x80\x00\x00\x00\x00", b"\x8a\x00"


# --- The server ------------------------------------------------------------------------------------------------------


class Listener:
    """Does nothing with what it hears."""

    __slots__ = ()

    def on_message(self, data: str) -> None: ...

    def on_closed(self, code: int, reason: str) -> None: ...

    def on_paused(self) -> None: ...

    def on_resumed(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Attaches where it can, else receives until the end."""
    await receive()
    await send({"type": "websocket.accept"})
    wire = scope["extensions"].get("carillon.wire")
    if wire is not None:
        wire.attach(Listener())
        return
    while (await receive())["type"] == "websocket.receive":
        pass


def serve(kind: str) -> None:
    from app.http_protocol import HttpProtocol  # noqa: PLC0415  only what a server runs counts as its memory
    from hub.transport import WebSocketProtocol  # noqa: PLC0415  as above

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        http=HttpProtocol if kind == "ours" else "httptools",
        ws="websockets-sansio" if kind == "uvicorn" else WebSocketProtocol,
        loop="uvloop",
        lifespan="off",
        log_config=None,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


# --- The clients -----------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@contextmanager
def running(kind: str) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.transport", "--serve", kind], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()), psutil.Process(process.pid))
        finally:
            process.kill()


def read_until(connection: socket.socket, end: bytes) -> None:
    data = b""
    while not data.endswith(end):
        received = connection.recv(4096)
        if not received:
            raise ConnectionError(f"closed after {data!r}")
        data += received


def opened(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(REQUEST)
    read_until(connection, b"\r\n\r\n")
    return connection


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    sockets = [opened(server) for _ in range(count)]
    try:
        yield sockets
    finally:
        for connection in sockets:
            connection.close()


class Measured(NamedTuple):
    handshake_us: float
    message_us: float
    idle_kb: float


def measure(kind: str, *, count: int, messages: int) -> Measured:
    """One server from its start to its end."""
    with running(kind) as server:
        with connections(server, 200):
            pass  # warm: modules, pools, arenas
        resident, cpu = server.resident_bytes(), server.cpu_seconds()
        with connections(server, count) as sockets:
            handshake = (server.cpu_seconds() - cpu) / count
            idle = (server.resident_bytes() - resident) / count

            cpu = server.cpu_seconds()
            for _ in range(messages // count):
                for connection in sockets:
                    connection.sendall(MESSAGE)
                sockets[-1].sendall(PING)  # the server keeps pace, so that each message is a read of its own
                read_until(sockets[-1], PONG)
            message = (server.cpu_seconds() - cpu) / (messages // count * count)
    return Measured(handshake * 1e6, message * 1e6, idle / 1024)


def table(results: dict[str, list[Measured]], figure: Callable[[Measured], float], unit: str) -> None:
    first = statistics.median(map(figure, results["uvicorn"]))
    for kind, measured in results.items():
        values = sorted(map(figure, measured))
        median = statistics.median(values)
        print(
            f"  {KINDS[kind]:40} {median:8.1f} {unit:3} ({values[0]:.1f}-{values[-1]:.1f})   x {median / first:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if arguments.serve:
        serve(arguments.serve)
        return

    results: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind, measured in results.items():
            measured.append(measure(kind, count=arguments.connections, messages=arguments.messages))
    print(f"{arguments.rounds} rounds, median (least-most), on {os.cpu_count()} cores")
    print("CPU of one handshake")
    table(results, lambda measured: measured.handshake_us, "us")
    print(f"CPU of one inbound text message of {len(_TEXT)} bytes, a packet of its own")
    table(results, lambda measured: measured.message_us, "us")
    print(f"Memory of one idle connection, of {arguments.connections}")
    table(results, lambda measured: measured.idle_kb, "KB")


if __name__ == "__main__":
    main()
