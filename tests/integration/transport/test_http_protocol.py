"""Limits on a request's head (slow and large ones), with uvicorn's class as the naive one beside."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http_protocol import HttpLimits, http_protocol
from hub.transport import WebSocketProtocol
from tests.raw_websocket import DEADLINE_SECONDS, RawClient, request, serving

SOON = timedelta(milliseconds=300)
HASTY = http_protocol(HttpLimits(head_timeout=SOON, body_timeout=SOON, max_head_bytes=1000, max_headers=10))
PROMPT = http_protocol(HttpLimits(head_timeout=SOON, max_head_bytes=1000, max_headers=10))
PATIENT = http_protocol(HttpLimits(head_timeout=timedelta(seconds=30), max_head_bytes=1000, max_headers=10))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and says its size."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await receive()
        await receive()
        return
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        size += len(event["body"])
        more = event["more_body"]
    body = str(size).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def head(size_bytes: int) -> bytes:
    """A request whose target, header names and values are so many bytes together."""
    padding = size_bytes - len(b"/") - len(b"Host") - len(b"x") - len(b"p")
    return b"GET / HTTP/1.1\r\nHost: x\r\np: " + b"y" * padding + b"\r\n\r\n"


async def dribble(client: RawClient, data: bytes) -> bytes:
    """One byte at a time until the server has had enough; what it said before it went."""
    rest = asyncio.create_task(client.rest())
    for i in range(len(data)):
        if rest.done():
            break
        client.send(data[i : i + 1])
        await asyncio.sleep(0.01)
    rest.cancel()
    (answer,) = await asyncio.gather(rest, return_exceptions=True)
    return answer if isinstance(answer, bytes) else b""


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 431)])
async def test_a_head_has_so_many_bytes_at_most(size, status):
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, head(size)) as client,
    ):
        assert await client.answer() == status


@pytest.mark.parametrize(("count", "status"), [(9, 200), (10, 200), (11, 431)])
async def test_a_head_has_so_many_fields_at_most(count, status):
    data = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * count + b"\r\n"
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, data) as client,
    ):
        assert await client.answer() == status


async def test_one_endless_field_is_refused_before_it_ends():
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (server, port),
        await RawClient.connect(port, b"GET / HTTP/1.1\r\nx: ") as client,
    ):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not any(connection._in_head for connection in server.server_state.connections):
                await asyncio.sleep(0)

        client.send(b"y" * 1001)

        assert await client.answer() == 431
        assert await client.rest() == b""


async def test_an_endless_target_is_refused_before_it_ends():
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, b"GET /" + b"y" * 2000) as client,
    ):
        assert await client.answer() == 431


async def test_a_body_is_not_counted_as_head():
    body = b"x" * 100_000
    data = b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n"
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, data) as client,
    ):
        client.send(body[:50_000])
        await asyncio.sleep(0)
        client.send(body[50_000:])

        assert (await client.answer(), client.body) == (200, b"100000")


async def test_requests_on_one_connection_are_limited_each():
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port) as client,
    ):
        for _ in range(5):
            client.send(head(900))
            assert await client.answer() == 200
        client.send(head(1001))
        assert await client.answer() == 431


async def test_pipelined_requests_are_limited_each():
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, head(900) * 3) as client,
    ):
        assert [await client.answer() for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_ends_the_connection(sent):
    async with (
        serving(app, http=HASTY, ws=WebSocketProtocol) as (server, port),
        await RawClient.connect(port, sent) as client,
    ):
        rest = await client.rest()

        assert rest.startswith(b"HTTP/1.1 408 ") == sent.startswith(b"GET")
        assert not server.server_state.connections


async def test_a_second_request_has_the_same_deadline():
    async with (
        serving(app, http=HASTY, ws=WebSocketProtocol, timeout_keep_alive=30) as (_, port),
        await RawClient.connect(port, head(100)) as client,
    ):
        assert await client.answer() == 200

        client.send(b"GET / HT")

        assert await client.answer() == 408


async def test_an_idle_connection_cannot_be_kept_by_line_feeds():
    async with (
        serving(app, http=HASTY, ws=WebSocketProtocol, timeout_keep_alive=30) as (server, port),
        await RawClient.connect(port, head(100)) as client,
    ):
        assert await client.answer() == 200

        await dribble(client, b"\r\n" * 100)

        assert not server.server_state.connections


async def test_a_body_that_does_not_come_is_answered_408_and_the_application_is_told():
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (event := await receive())["type"] == "http.request":
            pass
        seen.put_nowait(event["type"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"too late"})

    data = b"POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\n"
    async with (
        serving(reading, http=HASTY, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, data) as client,
    ):
        client.send(b"x")

        rest = await client.rest()
        assert rest.startswith(b"HTTP/1.1 408 ")
        assert b"too late" not in rest
        assert await asyncio.wait_for(seen.get(), DEADLINE_SECONDS) == "http.disconnect"


async def test_an_answer_that_has_begun_is_not_answered_again():
    async def eager(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"begun"[:1], "more_body": True})
        while (await receive())["type"] == "http.request":
            pass

    data = b"POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\nx"
    async with (
        serving(eager, http=HASTY, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, data) as client,
    ):
        rest = await client.rest()

        assert rest.startswith(b"HTTP/1.1 200 ")
        assert b"408" not in rest


@pytest.mark.parametrize("http", [HASTY, PROMPT])
async def test_a_request_that_takes_long_to_answer_is_not_cut_off(http):
    may_answer = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await app(scope, receive, send)

    head = b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n"
    async with (
        serving(slow, http=http, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, head + (b"abc" if http is HASTY else b"a")) as client,
        await RawClient.connect(port) as idle,
    ):
        await idle.rest()  # the deadline for a head, and that of HASTY for a body, has passed
        if http is not HASTY:
            client.send(b"bc")
        may_answer.set()

        assert (await client.answer(), client.body) == (200, b"3")


async def test_a_websocket_is_not_cut_off():
    async with (
        serving(app, http=HASTY, ws=WebSocketProtocol) as (_, port),
        await RawClient.open(port) as client,
        await RawClient.connect(port) as idle,
    ):
        await idle.rest()  # the deadline has passed

        client.send(b"\x89\x80\x00\x00\x00\x00")
        assert await client.frame() == (0x8A, b"")


async def test_an_upgrade_behind_an_unanswered_request_ends_the_connection():
    async def never(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            raise AssertionError("upgraded")
        while (await receive())["type"] != "http.disconnect":
            pass

    async with (
        serving(never, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, head(100) + request()) as client,
    ):
        assert await client.rest() == b""


async def test_garbage_is_answered_400():
    async with (
        serving(app, http=PATIENT, ws=WebSocketProtocol) as (_, port),
        await RawClient.connect(port, b"\x16\x03\x01\x02\x00") as client,
    ):
        assert await client.answer() == 400


async def test_websocket_classes_of_uvicorn_still_work():
    async with (
        serving(app, http=PATIENT, ws="websockets-sansio") as (_, port),
        await RawClient.open(port) as client,
    ):
        assert client.status == 101


async def dribblers_held(http: type[asyncio.Protocol], *, head_bytes: int) -> int:
    """Of 300 clients that send so long a head byte by byte, how many are held; honest ones are served meanwhile."""
    async with serving(app, http=http, ws=WebSocketProtocol) as (server, port):
        clients = [await RawClient.connect(port) for _ in range(300)]
        head_of_each = b"GET / HTTP/1.1\r\n".ljust(head_bytes, b"y")
        dribbling = [asyncio.create_task(dribble(client, head_of_each)) for client in clients]
        while not all(task.done() for task in dribbling):
            async with await RawClient.connect(port, head(100)) as honest:
                assert await honest.answer() == 200
        held = len(server.server_state.connections)
        for client in clients:
            client.vanish()
        await asyncio.gather(*dribbling, *[client.leave() for client in clients])
        return held


async def test_clients_that_dribble_their_heads_are_let_go():
    http = http_protocol(HttpLimits(head_timeout=timedelta(seconds=5)))  # an honest client never needs it
    assert await dribblers_held(http, head_bytes=1000) <= 1  # the honest client's last, perhaps


async def test_uvicorns_own_class_holds_every_dribbler():
    assert await dribblers_held(HttpToolsProtocol, head_bytes=50) >= 300
