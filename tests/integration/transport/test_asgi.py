"""Any ASGI application runs on our class as it does on uvicorn's, behind uvicorn's HTTP class and behind ours."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.http_protocol import HttpProtocol
from hub.transport import EXTENSION, WebSocketProtocol, WireSettings, websocket_protocol
from tests.raw_websocket import DEADLINE_SECONDS, RawClient, close, frame, request, serving, text

SHORT = websocket_protocol(WireSettings(close_timeout=timedelta(milliseconds=200), max_early_bytes=1000))


@pytest.fixture(params=[HttpToolsProtocol, HttpProtocol, H11Protocol])
def http(request: pytest.FixtureRequest) -> type[asyncio.Protocol]:
    protocol: type[asyncio.Protocol] = request.param
    return protocol


class Outcome:
    """What an application saw, told by `done`."""

    def __init__(self) -> None:
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(self, value: Any) -> None:
        self._future.set_result(value)

    async def value(self) -> Any:
        return await asyncio.wait_for(asyncio.shield(self._future), DEADLINE_SECONDS)


def accepting(
    then: Callable[[Any, Any, Any], Awaitable[None]], **accept: Any
) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An application that accepts and goes on with `then`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", **accept})
        await then(scope, receive, send)

    return app


async def test_starlette_echoes_text_and_bytes_beside_http(http):
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if (data := message.get("text")) is not None:
                    await websocket.send_text(data)
                else:
                    await websocket.send_bytes(message["bytes"])
        except WebSocketDisconnect:
            pass

    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    app = Starlette(routes=[WebSocketRoute("/ws", echo), Route("/ws", page)])
    async with (
        serving(app, ws=WebSocketProtocol, http=http) as (server, port),
        await RawClient.open(port, b"/ws") as client,
    ):
        client.send(text("é") + frame(2, b"\xff") + text("x" * 65536) + frame(1, b"fragm", final=False))
        client.send(frame(0, b"ented"))

        assert await client.text() == "é"
        assert await client.frame() == (0x82, b"\xff")
        assert await client.text() == "x" * 65536
        assert await client.text() == "fragmented"
        client.send(close(1001))
        assert await client.closed() == (1001, "")
        assert await client.rest() == b""
        assert not server.server_state.connections

        plain = await RawClient.connect(port, b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await plain.answer(), plain.body) == (200, b"page")
        await plain.leave()


async def test_the_scope_is_the_one_that_uvicorns_own_class_gives(http):
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(dict(scope))
        await send({"type": "websocket.close"})

    for ws in (WebSocketProtocol, WebSocketsSansIOProtocol):
        async with serving(app, ws=ws, http=http, root_path="/root") as (_, port):
            client = await RawClient.open(
                port,
                b"/a%20b/%C3%A9?q=1%202&q=?",
                (b"X-Latin", b"caf\xe9"),
                (b"Sec-WebSocket-Protocol", b"one, two"),
                (b"X-Forwarded-For", b"192.0.2.1"),
                (b"X-Forwarded-Proto", b"https"),
            )
            assert client.status == 403
            await client.leave()

    ours, theirs = scopes
    assert ours["client"] == theirs["client"] == ("192.0.2.1", 0)
    assert ours["scheme"] == theirs["scheme"] == "wss"
    assert ours.pop("extensions").keys() == {"websocket.http.response", EXTENSION}
    assert theirs.pop("extensions").keys() == {"websocket.http.response"}
    assert ours.pop("server")[0] == theirs.pop("server")[0]
    assert ours == theirs


async def test_an_accept_carries_its_headers_and_one_subprotocol(http):
    async def stay(scope: Any, receive: Any, send: Any) -> None:
        assert scope["subprotocols"] == ["carillon.v1", "bearer.x"]
        await receive()

    app = accepting(stay, subprotocol="carillon.v1", headers=[(b"X-Node", b"a")])
    async with (
        serving(app, ws=WebSocketProtocol, http=http) as (_, port),
        await RawClient.open(port, b"/", (b"Sec-WebSocket-Protocol", b"carillon.v1, bearer.x")) as client,
    ):
        headers = dict(client.headers)

        assert headers["sec-websocket-protocol"] == "carillon.v1"
        assert headers["x-node"] == "a"
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "sec-websocket-extensions" not in headers


async def test_compression_is_never_accepted(http):
    app = accepting(lambda scope, receive, send: receive())
    async with (
        serving(app, ws=WebSocketProtocol, http=http) as (_, port),
        await RawClient.open(port, b"/", (b"Sec-WebSocket-Extensions", b"permessage-deflate")) as client,
    ):
        assert "sec-websocket-extensions" not in dict(client.headers)
        client.send(b"\xc1\x80\x00\x00\x00\x00")
        assert (await client.closed())[0] == 1002


async def test_a_close_before_the_accept_is_a_403(http):
    outcome = Outcome()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.accept"})
        await receive()
        outcome.done(await receive())

    async with (
        serving(app, ws=WebSocketProtocol, http=http) as (_, port),
        await RawClient.open(port) as client,
    ):
        assert (client.status, client.body) == (403, b"")
        assert await client.rest() == b""
        assert await outcome.value() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


async def test_an_http_response_may_refuse(http):
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.send_denial_response(
            JSONResponse({"error": "no"}, status_code=401, headers={"www-authenticate": "Bearer"})
        )

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    async with (
        serving(app, ws=WebSocketProtocol, http=http) as (_, port),
        await RawClient.open(port) as client,
    ):
        assert (client.status, client.body) == (401, b'{"error":"no"}')
        assert dict(client.headers)["www-authenticate"] == "Bearer"
        assert dict(client.headers)["content-type"] == "application/json"


async def test_an_http_response_may_come_in_pieces():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 503})
        await send({"type": "websocket.http.response.body", "body": b"a", "more_body": True})
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.http.response.body", "body": b"b"})

    async with serving(app, ws=WebSocketProtocol) as (_, port), await RawClient.open(port) as client:
        assert (client.status, client.body) == (503, b"ab")


async def _returns(scope: Any, receive: Any, send: Any) -> None:
    """Leaves all to the server."""


async def _raises(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("canary-in-the-message")


async def _half_refuses(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 401})


async def _accepts_badly(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept", "headers": [(b"a", b"b\r\nset-cookie: x")]})


@pytest.mark.parametrize("app", [_returns, _raises, _half_refuses, _accepts_badly])
async def test_an_application_that_does_not_answer_is_a_500(app, caplog):
    async with serving(app, ws=WebSocketProtocol) as (_, port), await RawClient.open(port) as client:
        assert client.status == 500
        assert b"canary" not in client.body


@pytest.mark.parametrize(("then", "code"), [(_returns, 1000), (_raises, 1011)])
async def test_an_application_that_just_ends_is_closed_for(then, code):
    async with (
        serving(accepting(then), ws=WebSocketProtocol) as (_, port),
        await RawClient.open(port) as client,
    ):
        assert await client.closed() == (code, "")


async def test_an_application_closes_with_code_and_reason(http):
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 4404, "reason": "no such channel"})
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.send", "text": "x"})
        outcome.done(await receive())

    async with (
        serving(accepting(then), ws=WebSocketProtocol, http=http) as (_, port),
        await RawClient.open(port) as client,
    ):
        assert await client.closed() == (4404, "no such channel")
        assert (await outcome.value())["code"] == 4404
        client.send(text("late") + close(4404))
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (lambda client: client.send(close(1001, "off")), 1001, "off"),
        (lambda client: client.send(close(None)), 1005, ""),
        (lambda client: client.vanish(), 1006, ""),
        (lambda client: client.send(b"\x81\x00"), 1002, "frames of a client must be masked"),
    ],
)
async def test_an_application_learns_how_its_connection_ended(end, code, reason):
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        told = [await receive(), await receive()]  # and again, however often it asks
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            told.append(type(error).__name__)
        outcome.done(told)

    async with serving(accepting(then), ws=SHORT) as (_, port):
        client = await RawClient.open(port)
        end(client)

        disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
        assert await outcome.value() == [disconnect, disconnect, "ClientDisconnected"]
        await client.leave()


async def test_a_client_that_leaves_before_the_accept_is_no_error_in_the_log(caplog):
    started, may_accept = asyncio.Event(), asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        started.set()
        await may_accept.wait()
        await websocket.accept()  # Starlette says WebSocketDisconnect

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    with caplog.at_level(logging.WARNING):
        async with serving(app, ws=WebSocketProtocol) as (server, port):
            client = await RawClient.connect(port, request())
            await asyncio.wait_for(started.wait(), DEADLINE_SECONDS)
            client.vanish()
            async with asyncio.timeout(DEADLINE_SECONDS):
                while server.server_state.connections:
                    await asyncio.sleep(0)
                may_accept.set()
                while server.server_state.tasks:
                    await asyncio.sleep(0)
            await client.leave()

    assert caplog.records == []


async def test_an_application_that_fails_is_an_error_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        async with (
            serving(accepting(_raises), ws=WebSocketProtocol) as (_, port),
            await RawClient.open(port) as client,
        ):
            assert await client.closed() == (1011, "")

    assert [record.message for record in caplog.records] == ["websocket_application_failed"]


async def test_send_waits_while_the_client_does_not_read():
    sent: list[int] = []
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        for n in range(200):
            await send({"type": "websocket.send", "bytes": b"x" * 100_000})
            sent.append(n)
        outcome.done("all sent")
        await receive()

    async with (
        serving(accepting(then), ws=WebSocketProtocol) as (server, port),
        await RawClient.open(port, receive_buffer_bytes=4096) as client,
    ):
        (wire,) = server.server_state.connections
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not wire.is_paused:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        held = len(sent)

        assert held < 100
        for _ in range(200):
            assert len((await client.frame())[1]) == 100_000
        assert await outcome.value() == "all sent"


async def test_a_send_that_waits_learns_that_the_client_has_gone():
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 100_000})
        except OSError:
            outcome.done("told")

    async with serving(accepting(then), ws=WebSocketProtocol) as (server, port):
        client = await RawClient.open(port, receive_buffer_bytes=4096)
        (wire,) = server.server_state.connections
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not wire.is_paused:
                await asyncio.sleep(0)

        client.vanish()

        assert await outcome.value() == "told"


async def test_reading_pauses_while_the_application_does_not_receive():
    may_receive = asyncio.Event()
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        await may_receive.wait()
        outcome.done([(await receive())["text"] for _ in range(2000)])

    async with (
        serving(accepting(then), ws=WebSocketProtocol) as (server, port),
        await RawClient.open(port) as client,
    ):
        (wire,) = server.server_state.connections
        messages = [f"{n:50000}" for n in range(2000)]
        client.send(b"".join(map(text, messages[:1000])))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while wire._transport.is_reading():
                await asyncio.sleep(0)
        client.send(b"".join(map(text, messages[1000:])))
        may_receive.set()

        assert await outcome.value() == messages


async def test_frames_that_come_before_the_accept_are_read_after_it(http):
    may_accept = asyncio.Event()
    outcome = Outcome()
    started = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await may_accept.wait()
        await send({"type": "websocket.accept"})
        await receive()
        outcome.done([(await receive())["text"] for _ in range(2)])

    async with (
        serving(app, ws=SHORT, http=http) as (_, port),
        await RawClient.connect(port, request()) as client,
    ):
        await asyncio.wait_for(started.wait(), DEADLINE_SECONDS)
        client.send(text("one") + text("two"))
        await asyncio.sleep(0)
        may_accept.set()

        assert await client.answer() == 101
        assert await outcome.value() == ["one", "two"]


async def test_frames_in_the_same_packet_as_the_request_are_read_behind_our_http_class():
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        outcome.done((await receive())["text"])

    async with (
        serving(accepting(then), ws=SHORT, http=HttpProtocol) as (_, port),
        await RawClient.connect(port, request() + text("eager")),
    ):
        assert await outcome.value() == "eager"


async def test_a_client_that_sends_too_much_before_the_accept_is_dropped(http):
    started = asyncio.Event()
    outcome = Outcome()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await receive()
        outcome.done(await receive())

    async with serving(app, ws=SHORT, http=http) as (_, port):
        client = await RawClient.connect(port, request())
        await asyncio.wait_for(started.wait(), DEADLINE_SECONDS)

        client.send(b"x" * 1001)

        assert (await outcome.value())["code"] == 1006
        await client.leave()


async def test_the_limit_of_uvicorns_settings_holds_too():
    app = accepting(lambda scope, receive, send: receive())
    async with (
        serving(app, ws=WebSocketProtocol, ws_max_size=10) as (_, port),
        await RawClient.open(port) as client,
    ):
        client.send(text("x" * 11))

        assert (await client.closed())[0] == 1009


async def test_at_exit_an_application_is_told_1012(http):
    outcome = Outcome()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        outcome.done(await receive())

    async with (
        serving(accepting(then), ws=SHORT, http=http) as (server, port),
        await RawClient.open(port) as client,
    ):
        exit_ = asyncio.create_task(server.shutdown())

        assert await client.closed() == (1012, "")
        assert (await outcome.value())["code"] == 1012
        await exit_


async def test_at_exit_a_handshake_is_answered_503():
    started = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await receive()
        await receive()

    async with serving(app, ws=SHORT) as (server, port), await RawClient.connect(port, request()) as client:
        await asyncio.wait_for(started.wait(), DEADLINE_SECONDS)
        exit_ = asyncio.create_task(server.shutdown())

        assert await client.answer() == 503
        await exit_


async def test_an_application_that_never_ends_is_cut_off_at_exit():
    async def then(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async with (
        serving(accepting(then), ws=WebSocketProtocol, timeout_graceful_shutdown=0) as (server, port),
        await RawClient.open(port) as client,
    ):
        exit_ = asyncio.create_task(server.shutdown())

        assert await client.closed() == (1012, "")
        client.send(close(1012))
        await exit_
        async with asyncio.timeout(DEADLINE_SECONDS):
            while server.server_state.tasks:
                await asyncio.sleep(0)


@pytest.mark.parametrize("sent", [close(), b"\x81\x00", frame(1, b"\xff"), frame(2, b"x" * 70_000), b""])
async def test_no_log_line_holds_the_request_target_or_a_message(http, sent, caplog):
    async def then(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await _raises(scope, receive, send)

    with caplog.at_level(logging.DEBUG):
        async with serving(accepting(then), ws=SHORT, http=http) as (_, port):
            client = await RawClient.open(port, b"/ws?token=canary", (b"Cookie", b"canary"))
            client.send(sent if sent else text("canary"))
            await client.leave()
            refused = await RawClient.open(
                port, b"/ws?token=canary", (b"Sec-WebSocket-Version", b"canary"), (b"x", b"canary")
            )
            assert refused.status == 426
            await refused.leave()

    assert "canary" not in caplog.text.replace("canary-in-the-message", "")


@pytest.mark.parametrize(
    ("opening", "statuses"),
    [
        (request(b"/", (b"Sec-WebSocket-Key", b"\xff\xfe")), {400}),
        (request(b"/", omit=frozenset({b"sec-websocket-key"})), {400}),
        (request(b"/", (b"Sec-WebSocket-Version", b"\x80")), {426}),
        (request(b"/", omit=frozenset({b"sec-websocket-version"})), {426}),
        (request(b"/", (b"Sec-WebSocket-Protocol", b"caf\xc3\xa9, \xff")), {400}),
        (request(b"/\xff?\x80"), {400}),
        (request(b"http://[::1/"), {400}),
        (request(b"/", *[(b"x-%d" % n, b"y") for n in range(10_000)]), {400, 431}),
        (request(b"/", (b"x", b"y" * 1_000_000)), {400, 431}),
        (request(b"/" + b"a" * 100_000), {400, 431}),
        (request().replace(b"GET", b"POST", 1), {400}),
        (
            request().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            {101, 400},
        ),  # uvicorn's own classes hide the version
        (request(b"/", (b"x", b"\xff" * 100), (b"\xff", b"y")), {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
    ],
)
async def test_an_odd_handshake_is_answered_and_the_node_stays_up(http, opening, statuses):
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.send", "text": "up"})
        await receive()

    async with serving(accepting(echo), ws=SHORT, http=http) as (_, port):
        odd = await RawClient.connect(port, opening)
        try:
            assert await odd.answer() in statuses
        except (ConnectionError, asyncio.IncompleteReadError):
            assert len(opening) > 16 * 1024  # refused while it was still sending
        await odd.leave()

        async with await RawClient.open(port) as client:
            assert await client.text() == "up"
