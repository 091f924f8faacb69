"""The load generator counts what arrives: every delivery once, and every one that is lost, doubled or refused."""

import asyncio
import base64
import hashlib
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks.load import LoadError, Run, compiler, measure, percentile
from benchmarks.machine import Cores
from benchmarks.peer import Serving, post
from benchmarks.peers.c_limit import CLimit
from benchmarks.workload import W1, Workload, compact

SMALL = replace(W1, connections=20, messages=40, publishers=4, quiet_ms=2_000)

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: a benchmark needs two"),
]

Deliver = Callable[[asyncio.StreamWriter, int, int, bytes], None]
"""(to whom, its number, number of the message, frame)"""


@dataclass
class Server:
    """A WebSocket and HTTP server whose deliveries a test decides."""

    deliver: Deliver
    refuse: frozenset[int] = frozenset()  # numbers of the publications that are answered 503
    listeners: list[asyncio.StreamWriter] = field(default_factory=list)
    handlers: list[asyncio.Task[None]] = field(default_factory=list)
    published: int = 0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handlers.append(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                if "upgrade" in headers:
                    self._open(writer)
                    await reader.read()  # until the client has gone
                    return
                body = await reader.readexactly(int(headers["content-length"]))
                writer.write(self._publish(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    def _open(self, writer: asyncio.StreamWriter) -> None:
        key = b"dGhlIHNhbXBsZSBub25jZQ=="  # the one that the receiver sends
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept)
        self.listeners.append(writer)

    def _publish(self, body: bytes) -> bytes:
        number, self.published = self.published, self.published + 1
        if number in self.refuse:
            return b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n"
        for index, listener in enumerate(self.listeners):
            self.deliver(listener, index, number, frame(body))
        return b"HTTP/1.1 204 No Content\r\n\r\n"


def frame(payload: bytes) -> bytes:
    """One unmasked text frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes([0x81, size]) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def honest(listener: asyncio.StreamWriter, index: int, number: int, sent: bytes) -> None:
    """What every server should do."""
    listener.write(sent)


@asynccontextmanager
async def serving(server: Server, workload: Workload) -> AsyncIterator[Serving]:
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, limit=1 << 20)
    async with listening:
        yield Serving(
            port=listening.sockets[0].getsockname()[1],
            pid=os.getpid(),
            targets=["/"],
            requests=[post("/publish", compact(workload.payload()))],
        )
        await asyncio.gather(*server.handlers)  # the generator has gone, and with it every connection


async def run(server: Server, folder: Path, workload: Workload = SMALL) -> Run:
    async with serving(server, workload) as found:
        cores = Cores.of_this_machine()
        # The server's process is that of all the tests, whose other servers never quite rest.
        return await asyncio.to_thread(measure, found, workload, cores, folder, quiet=math.inf)


@pytest.mark.alone
@pytest.mark.parametrize("peer", [CLimit("c-batch"), CLimit("c-send", each=True)], ids=lambda peer: peer.name)
@pytest.mark.parametrize("polling", [False, True], ids=["sleeping", "polling"])
def test_the_limit_delivers_everything_once(peer: CLimit, polling: bool, tmp_path: Path) -> None:
    cores = Cores.of_this_machine()

    with peer.serve(SMALL, cores, tmp_path) as found:
        result = measure(found, SMALL, cores, tmp_path, polling=polling)

    assert (result.deliveries, result.duplicates, result.failed) == (800, 0, 0)
    assert result.received_bytes == 800 * 204
    assert sum(result.latency_us.values()) == 800
    assert 0 < percentile(result.latency_us, 0.5) < 1_000
    assert result.cpu > 0


@pytest.mark.parametrize("size", [100, 200, 70_000], ids=["7 bits", "16 bits", "64 bits"])
async def test_frames_of_every_length_are_counted_in_whatever_pieces_they_come(
    size: int, tmp_path: Path
) -> None:
    def in_pieces(listener: asyncio.StreamWriter, index: int, number: int, sent: bytes) -> None:
        held = pieces.setdefault(index, bytearray())
        held += sent
        keep = 0 if number == SMALL.messages - 1 else 50
        listener.write(bytes(held[: len(held) - keep]))
        del held[: len(held) - keep]

    pieces: dict[int, bytearray] = {}
    result = await run(Server(in_pieces), tmp_path, replace(SMALL, payload_bytes=size))

    assert (result.deliveries, result.duplicates, result.closed) == (800, 0, {})


async def test_a_lost_delivery_is_missing(tmp_path: Path) -> None:
    def forgetful(listener: asyncio.StreamWriter, index: int, number: int, sent: bytes) -> None:
        if (index, number) not in {(3, 7), (4, 39)}:
            listener.write(sent)

    result = await run(Server(forgetful), tmp_path)

    assert result.expected - result.deliveries == 2


async def test_a_second_copy_does_not_hide_a_lost_delivery(tmp_path: Path) -> None:
    def confused(listener: asyncio.StreamWriter, index: int, number: int, sent: bytes) -> None:
        if (index, number) != (3, 7):
            listener.write(sent * 2 if (index, number) == (3, 8) else sent)

    result = await run(Server(confused), tmp_path)

    assert (result.expected - result.deliveries, result.duplicates) == (1, 1)


async def test_a_refused_publication_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    result = await run(Server(honest, refuse=frozenset({5})), tmp_path)

    assert result.failed == 1
    assert result.first_failure.startswith("HTTP/1.1 503 Busy")
    assert result.expected - result.deliveries == SMALL.connections


async def test_a_connection_that_the_server_ends_is_shown_with_its_close_code(tmp_path: Path) -> None:
    def impatient(listener: asyncio.StreamWriter, index: int, number: int, sent: bytes) -> None:
        listener.write(b"\x88\x02" + (1013).to_bytes(2, "big") if (index, number) == (3, 38) else sent)

    result = await run(Server(impatient), tmp_path)

    assert result.closed == {"1013": 1}
    assert result.expected - result.deliveries == 2


async def test_a_run_in_which_not_everybody_could_connect_is_no_run(tmp_path: Path) -> None:
    class Full(Server):
        def _open(self, writer: asyncio.StreamWriter) -> None:
            if len(self.listeners) == 10:
                writer.write(b"HTTP/1.1 503 Full\r\n\r\n")
            else:
                super()._open(writer)

    with pytest.raises(LoadError, match=r"became ready.*HTTP/1\.1 503 Full"):
        await run(Full(honest), tmp_path)
