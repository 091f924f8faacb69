"""The proxy that other tests lean on does what it says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.fault_proxy import Fault, FaultProxy, Stream


class EchoProxy(FaultProxy):
    """Before a server that answers each line with the same line; `seen` are the lines that reached it."""

    def __init__(self, port: int, seen: list[bytes]) -> None:
        super().__init__(port)
        self.seen = seen


@pytest.fixture
async def echo() -> AsyncIterator[EchoProxy]:

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            seen.append(line)
            writer.write(line)
        writer.close()

    seen: list[bytes] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with EchoProxy(server.sockets[0].getsockname()[1], seen) as proxy:
        yield proxy
    server.close()


async def client(proxy: FaultProxy) -> Stream:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def asks(stream: Stream, line: bytes, seconds: float = 60) -> bytes:
    reader, writer = stream
    writer.write(line)
    async with asyncio.timeout(seconds):
        return await reader.readline()


async def test_it_passes_bytes_both_ways(echo: EchoProxy) -> None:
    stream = await client(echo)

    assert await asks(stream, b"hello\n") == b"hello\n"

    stream[1].close()


async def test_a_half_open_link_lets_requests_through_and_answers_not(echo: EchoProxy) -> None:
    stream = await client(echo)
    await asks(stream, b"before\n")

    echo.only_open(Fault.DROP_TO_CLIENT)
    with pytest.raises(TimeoutError):
        await asks(stream, b"during\n", seconds=0.2)
    fresh = await client(echo)

    async with asyncio.timeout(60):
        while len(echo.seen) < 2:
            await asyncio.sleep(0)
    assert echo.seen == [b"before\n", b"during\n"]
    assert await asks(fresh, b"fresh\n") == b"fresh\n"
    stream[1].close()
    fresh[1].close()


async def test_a_black_hole_swallows_and_says_nothing(echo: EchoProxy) -> None:
    stream = await client(echo)
    await asks(stream, b"before\n")

    echo.inject(Fault.BLACKHOLE)
    with pytest.raises(TimeoutError):
        await asks(stream, b"during\n", seconds=0.2)

    assert echo.seen == [b"before\n"]
    stream[1].close()


async def test_a_reset_is_felt_as_a_reset(echo: EchoProxy) -> None:
    stream = await client(echo)
    await asks(stream, b"before\n")

    echo.reset()

    with pytest.raises(ConnectionResetError):
        await stream[0].readline()
    stream[1].close()


async def test_a_lost_reply_means_that_the_request_was_done(echo: EchoProxy) -> None:
    stream = await client(echo)
    await asks(stream, b"before\n")

    echo.inject(Fault.LOSE_REPLY)
    with pytest.raises(ConnectionResetError):
        await asks(stream, b"pay\n")

    assert echo.seen == [b"before\n", b"pay\n"]
    stream[1].close()


async def test_what_is_paused_arrives_when_it_goes_on(echo: EchoProxy) -> None:
    stream = await client(echo)
    await asks(stream, b"before\n")

    echo.inject(Fault.PAUSE)
    stream[1].write(b"one\ntwo\n")
    await asyncio.sleep(0)
    echo.inject(Fault.PASS)

    assert await stream[0].readline() == b"one\n"
    assert await stream[0].readline() == b"two\n"
    stream[1].close()


async def test_latency_throttle_and_slices_change_when_but_never_what(echo: EchoProxy) -> None:
    stream = await client(echo)
    echo.latency, echo.throttle, echo.slice_bytes = 0.02, 20_000, 7
    line = b"x" * 500 + b"\n"

    started = time.perf_counter()
    answer = await asks(stream, line)

    assert answer == line
    assert time.perf_counter() - started > 2 * (0.02 + len(line) / 20_000)
    stream[1].close()


async def test_a_refused_connection_ends_at_once(echo: EchoProxy) -> None:
    echo.inject(Fault.REFUSE)

    stream = await client(echo)

    with contextlib.suppress(ConnectionResetError):  # an end or a reset, whichever is felt first
        assert await stream[0].read() == b""
    stream[1].close()
