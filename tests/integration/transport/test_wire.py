"""A connection after its listener is attached: messages, pressure, and each of its ends."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import uvicorn

from hub.transport import EXTENSION, WebSocketProtocol, Wire, WireSettings, text_frame, websocket_protocol
from tests.raw_websocket import DEADLINE_SECONDS, RawClient, close, frame, serving, text

LIMITS = WireSettings(
    max_message_bytes=1000,
    max_fragments=4,
    max_control_frames=20,
    high_water_bytes=64 * 1024,
    close_timeout=timedelta(seconds=30),
)

#: Of clients that say no more.
HASTY = replace(LIMITS, close_timeout=timedelta(milliseconds=200))


class Recorder:
    """A listener that keeps what it is told, in order, and notes when that was within a call of the Wire's."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.events: list[Any] = []
        self.inside = False
        self.reentered: list[Any] = []
        self.on_text: Callable[[str], None] = lambda data: None
        self._changed = asyncio.Event()

    def on_message(self, data: str) -> None:
        self._note(data)
        self.on_text(data)

    def on_closed(self, code: int, reason: str) -> None:
        self._note(("closed", code, reason))

    def on_paused(self) -> None:
        self._note("paused")

    def on_resumed(self) -> None:
        self._note("resumed")

    def _note(self, event: Any) -> None:
        if self.inside and not isinstance(event, str):
            self.reentered.append(event)
        self.events.append(event)
        self._changed.set()

    def call(self, method: Callable[..., None], *arguments: Any) -> None:
        """Call the Wire, watching that it does not call back."""
        self.inside = True
        method(*arguments)
        self.inside = False

    async def until(self, *events: Any) -> None:
        """All that has happened is exactly this."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.events) < len(events):
                self._changed.clear()
                await self._changed.wait()
        assert self.events == list(events)


class Application:
    """Accepts, attaches a Recorder when allowed, and returns."""

    def __init__(self) -> None:
        self.may_attach = asyncio.Event()
        self.may_attach.set()
        self._listeners: asyncio.Queue[Recorder] = asyncio.Queue()
        self.before_attach: Callable[[Wire], None] = lambda wire: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        await self.may_attach.wait()
        wire = scope["extensions"][EXTENSION]
        listener = Recorder(wire)
        self.before_attach(wire)
        listener.call(wire.attach, listener)
        self._listeners.put_nowait(listener)

    async def listener(self) -> Recorder:
        return await asyncio.wait_for(self._listeners.get(), DEADLINE_SECONDS)


@pytest.fixture
async def app() -> Application:
    return Application()


@pytest.fixture
async def server(app: Application) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    async with serving(app, ws=websocket_protocol(LIMITS)) as running:
        yield running


@pytest.fixture
async def hasty(app: Application) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """A server that soon has enough of clients that say no more."""
    async with serving(app, ws=websocket_protocol(HASTY)) as running:
        yield running


@pytest.fixture
def port(server: tuple[uvicorn.Server, int]) -> int:
    return server[1]


async def test_messages_are_handed_over_and_answers_written(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        listener.on_text = lambda data: listener.wire.send(data.upper().encode())

        client.send(text("straße"))

        assert await client.text() == "STRASSE"


async def test_nothing_but_the_protocol_object_remains(app, server):
    running, port = server
    async with await RawClient.open(port):
        listener = await app.listener()
        await asyncio.sleep(0)

        assert running.server_state.tasks == set()
        assert running.server_state.connections == {listener.wire}
        assert listener.wire._session is None
        assert not hasattr(listener.wire, "__dict__")


async def test_messages_from_before_the_attach_come_first_and_in_order(app, port):
    app.may_attach.clear()
    async with await RawClient.open(port) as client:
        client.send(b"".join(text(str(n)) for n in range(100)) + frame(9, b"all sent"))
        assert await client.frame() == (0x8A, b"all sent")
        app.may_attach.set()
        listener = await app.listener()
        client.send(b"".join(text(str(n)) for n in range(100, 200)))

        await listener.until(*map(str, range(200)))


async def test_messages_that_came_while_reading_was_paused_are_not_lost(app, port):
    app.may_attach.clear()
    async with await RawClient.open(port) as client:
        for n in range(300):
            client.send(text(f"{n:900}"))
            await asyncio.sleep(0)
        app.may_attach.set()
        listener = await app.listener()

        await listener.until(*[f"{n:900}" for n in range(300)])


async def test_a_listener_is_attached_once_and_only_after_the_accept():
    failures: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        wire = scope["extensions"][EXTENSION]
        for early in (lambda: wire.attach(Recorder(wire)), lambda: wire.close(1000)):
            with pytest.raises(RuntimeError) as refused:
                early()
            failures.put_nowait(str(refused.value))
        await send({"type": "websocket.accept"})
        wire.attach(Recorder(wire))
        with pytest.raises(RuntimeError) as refused:
            wire.attach(Recorder(wire))
        failures.put_nowait(str(refused.value))
        await receive()
        with pytest.raises(RuntimeError) as refused:
            await receive()
        failures.put_nowait(str(refused.value))

    async with serving(app, ws=WebSocketProtocol) as (_, port), await RawClient.open(port):
        told = [await asyncio.wait_for(failures.get(), DEADLINE_SECONDS) for _ in range(4)]

    assert told == [
        "a listener is attached after the accept",
        "the connection is not accepted yet",
        "the connection has a listener already, or its application has returned",
        "messages go to the attached listener",
    ]


async def test_prepared_frames_are_written_as_they_are(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        listener.wire.write(text_frame(b"one") + text_frame(b"two"))

        assert [await client.text(), await client.text()] == ["one", "two"]


async def test_before_the_accept_nothing_is_written():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        wire = scope["extensions"][EXTENSION]
        wire.write(text_frame(b"too early"))
        wire.ping()
        await send({"type": "websocket.accept"})
        wire.send(b"first")

    async with serving(app, ws=WebSocketProtocol) as (_, port), await RawClient.open(port) as client:
        assert client.status == 101
        assert await client.text() == "first"


async def test_a_ping_is_answered_and_counted(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        before = listener.wire.last_received

        client.send(frame(9, b"?") + frame(10, b"unasked"))

        assert await client.frame() == (0x8A, b"?")
        assert listener.wire.control_frames == 2
        assert listener.wire.last_received >= before > 0
        listener.wire.ping(b"!")
        assert await client.frame() == (0x89, b"!")


@pytest.mark.parametrize("opcode", [9, 10])
async def test_a_flood_of_control_frames_is_closed(app, port, opcode):
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        client.send(frame(opcode, b"!") * 41)  # of two seconds at most, so more than 20 in one of them

        ended = None
        while ended is None:
            first, payload = await client.frame()
            if first == 0x88:
                ended = int.from_bytes(payload[:2], "big")
        assert ended == 1008
        client.send(close(1008))
        await listener.until(("closed", 1008, "too many control frames"))


async def test_each_second_allows_as_many_control_frames_again(app, port):
    loop = asyncio.get_running_loop()
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        client.send(frame(9) * 20)
        assert [await client.frame() for _ in range(20)] == [(0x8A, b"")] * 20
        second = int(loop.time())
        while int(loop.time()) == second:
            await asyncio.sleep(0.01)

        client.send(frame(9) * 20)

        assert [await client.frame() for _ in range(20)] == [(0x8A, b"")] * 20
        assert listener.events == []


# --- The end of a connection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [(close(1000, "bye"), 1000, "bye"), (close(4000), 4000, ""), (close(None), 1005, "")],
)
async def test_a_client_that_closes_is_answered_and_told_once(app, server, sent, code, reason):
    running, port = server
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        client.send(sent)

        assert await client.closed() == (None if code == 1005 else code, "")
        assert await client.rest() == b""
        await listener.until(("closed", code, reason))
        assert running.server_state.connections == set()


async def test_a_client_that_vanishes_is_told_as_1006(app, port):
    client = await RawClient.open(port)
    listener = await app.listener()

    client.vanish()

    await listener.until(("closed", 1006, ""))


async def test_a_client_that_hangs_up_without_a_close_frame_is_told_as_1006(app, port):
    client = await RawClient.open(port)
    listener = await app.listener()

    await client.leave()

    await listener.until(("closed", 1006, ""))


async def test_our_close_is_told_when_the_client_has_answered(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        listener.call(listener.wire.close, 4401, "token")

        assert await client.closed() == (4401, "token")
        assert listener.events == []
        client.send(text("too late") + close(4401))
        assert await client.rest() == b""
        await listener.until(("closed", 4401, "token"))
        assert listener.reentered == []


async def test_a_client_that_never_answers_our_close_is_dropped_after_the_timeout(app, hasty):
    async with await RawClient.open(hasty[1]) as client:
        listener = await app.listener()
        started = asyncio.get_running_loop().time()

        listener.wire.close(1012)

        assert await client.closed() == (1012, "")
        await listener.until(("closed", 1012, ""))
        assert asyncio.get_running_loop().time() - started >= HASTY.close_timeout.total_seconds() * 0.9


async def test_a_client_that_does_not_read_is_dropped_after_the_timeout_too(app, hasty):
    async with await RawClient.open(hasty[1], receive_buffer_bytes=4096):
        listener = await app.listener()
        listener.wire.write(text_frame(b"x" * 10_000_000))

        listener.wire.close(1013)

        await listener.until(("closed", 1013, ""))


@pytest.mark.parametrize("last", [close(1000), frame(3)])
async def test_a_client_that_says_its_last_and_does_not_read_holds_no_socket(app, hasty, last):
    running, port = hasty
    async with await RawClient.open(port, receive_buffer_bytes=4096) as client:
        listener = await app.listener()
        listener.wire.write(text_frame(b"x" * 10_000_000))

        client.send(last)

        async with asyncio.timeout(DEADLINE_SECONDS):
            while running.server_state.connections:
                await asyncio.sleep(0.01)
        assert listener.events[-1][0] == "closed"


async def test_an_abort_is_told_as_1006(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        listener.call(listener.wire.abort)

        await listener.until(("closed", 1006, ""))
        assert listener.reentered == []
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.frame()


async def test_after_the_close_nothing_is_written_and_nothing_fails(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        wire = listener.wire

        wire.close(1000)
        wire.write(text_frame(b"x"))
        wire.send(b"x")
        wire.ping()
        wire.close(1011)
        client.send(frame(9, b"?"))

        assert await client.closed() == (1000, "")
        client.send(close())
        assert await client.rest() == b""
        await listener.until(("closed", 1000, ""))
        wire.write(text_frame(b"x"))
        wire.close(1000)
        wire.abort()
        assert wire.buffered == 0
        assert listener.events == [("closed", 1000, "")]


@pytest.mark.parametrize("gone", [close(4000, "early"), None])
async def test_a_connection_that_ended_before_the_attach_is_told_after_its_messages(app, port, gone):
    app.may_attach.clear()
    async with await RawClient.open(port) as client:
        client.send(text("last words"))
        if gone is not None:
            client.send(gone)
            assert await client.closed() == (4000, "")
        else:
            client.send(frame(9))
            await client.frame()
            await client.leave()
            await asyncio.sleep(0)
        app.may_attach.set()
        listener = await app.listener()

        await listener.until("last words", ("closed", *((4000, "early") if gone else (1006, ""))))
        assert listener.reentered == []


async def test_what_came_before_a_close_of_ours_is_not_handed_over_after_it(app, port):
    app.may_attach.clear()
    app.before_attach = lambda wire: wire.close(4401, "token")
    async with await RawClient.open(port) as client:
        client.send(text("unheard") + frame(9))
        assert await client.frame() == (0x8A, b"")
        app.may_attach.set()
        listener = await app.listener()

        assert await client.closed() == (4401, "token")
        client.send(text("unheard too") + close(4401))
        assert await client.rest() == b""
        await listener.until(("closed", 4401, "token"))
        assert listener.reentered == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(2, b"binary"), 1003),
        (b"\x81\x01x", 1002),
        (frame(1, b"\xff"), 1007),
        (frame(1, b"x" * 1001), 1009),
        (frame(1, b"", final=False) + 3 * frame(0, b"", final=False) + frame(0), 1009),
    ],
)
async def test_what_breaks_a_rule_is_closed_with_its_code(app, port, sent, code):
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        client.send(text("fine") + sent + text("never read"))

        assert (await client.closed())[0] == code
        client.send(close(code))
        assert await client.rest() == b""
        await listener.until("fine", ("closed", code, listener.events[-1][2]))


async def test_a_close_from_within_on_message_is_the_last_message(app, port):
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        listener.on_text = lambda data: listener.call(listener.wire.close, 4429, "slow down")

        client.send(text("one") + text("two") + text("three"))

        assert await client.closed() == (4429, "slow down")
        client.send(close(4429))
        await listener.until("one", ("closed", 4429, "slow down"))
        assert listener.reentered == []


async def test_a_listener_that_raises_is_logged_and_its_connection_closed(app, port, caplog):
    async with await RawClient.open(port) as client:
        listener = await app.listener()
        listener.on_text = lambda data: 1 / 0

        with caplog.at_level(logging.ERROR, "hub.transport"):
            client.send(text("secret") + text("two"))

            assert await client.closed() == (1011, "")
        client.send(close(1011))
        await listener.until("secret", ("closed", 1011, ""))
        assert [record.message for record in caplog.records] == ["wire_listener_failed"]
        assert "secret" not in caplog.text


class HastyProtocol(WebSocketProtocol):
    """The naive end of a broken connection: close the socket at once, over what the client is still sending."""

    __slots__ = ()
    settings = LIMITS

    def _fail(self, code: int, reason: str) -> None:
        self.close(code, reason)
        self._transport.close()


async def flood_over_the_limit(port: int, app: Application) -> tuple[int | None, str]:
    """What a client sees that goes on sending 8 MB after the frame that was refused."""
    async with await RawClient.open(port) as client:
        await app.listener()
        client.send(frame(2, b"x" * 8_000_000))
        for _ in range(50):  # it looks up from sending now and then
            await asyncio.sleep(0.001)
        return await client.closed()


async def test_a_client_in_the_middle_of_sending_still_sees_why_it_was_closed(app, port):
    assert (await flood_over_the_limit(port, app))[0] == 1009


async def test_a_server_that_closes_at_once_loses_the_close_code(app):
    async with serving(app, ws=HastyProtocol) as (_, port):
        seen = await asyncio.gather(
            *[flood_over_the_limit(port, app) for _ in range(20)], return_exceptions=True
        )

    assert any(isinstance(end, ConnectionError | asyncio.IncompleteReadError) for end in seen)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_bytes_come_the_end_is_told_once_and_the_node_stays_up(app, server, seed):
    running, port = server
    chance = random.Random(seed)
    parts = [text("x"), frame(9), frame(10), frame(1, b"y", final=False), frame(0, b"z"), frame(2), close()]
    stream = b"".join(
        chance.choice([*parts * 4, chance.randbytes(chance.randrange(20))])
        for _ in range(chance.randrange(60))
    )
    async with await RawClient.open(port) as client:
        listener = await app.listener()

        while stream:
            size = chance.randrange(1, 30)
            client.send(stream[:size])
            stream = stream[size:]
            await asyncio.sleep(0)
        await client.leave()

        async with asyncio.timeout(DEADLINE_SECONDS):
            while running.server_state.connections:
                await asyncio.sleep(0)
        assert [event[0] for event in listener.events if isinstance(event, tuple)] == ["closed"]
        assert isinstance(listener.events[-1], tuple)
    async with await RawClient.open(port) as client:
        client.send(frame(9, b"up?"))
        assert await client.frame() == (0x8A, b"up?")


# --- Pressure --------------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_pauses_and_then_resumes(app, port):
    async with await RawClient.open(port, receive_buffer_bytes=4096) as client:
        listener = await app.listener()
        payload = b"x" * 50_000
        written = 0
        while not listener.events:
            listener.call(listener.wire.write, text_frame(payload))
            written += 1
            await asyncio.sleep(0)

        await listener.until("paused")
        assert listener.wire.buffered > LIMITS.high_water_bytes
        for _ in range(written):
            assert len(await client.text()) == len(payload)
        await listener.until("paused", "resumed")
        assert listener.wire.buffered <= LIMITS.high_water_bytes // 4


async def test_pressure_is_never_told_from_within_a_write(app, port):
    async with await RawClient.open(port, receive_buffer_bytes=4096):
        listener = await app.listener()
        told: list[int] = []
        listener.on_paused = lambda: told.append(depth)
        depth = 1

        listener.wire.write(text_frame(b"x" * 10_000_000))
        depth = 0
        while not told:
            await asyncio.sleep(0)

        assert told == [0]


async def test_a_flood_of_pings_to_a_client_that_does_not_read_costs_one_pong(app, port):
    async with await RawClient.open(port, receive_buffer_bytes=4096) as client:
        listener = await app.listener()
        listener.wire.write(text_frame(b"x" * 10_000_000))
        await listener.until("paused")
        held = listener.wire.buffered

        client.send(b"".join(frame(9, b"%d" % n) for n in range(20)))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while listener.wire.control_frames < 20:
                await asyncio.sleep(0)

        assert listener.wire.buffered <= held
        assert len(await client.text()) == 10_000_000
        assert await client.frame() == (0x8A, b"19")


# --- uvicorn's exit --------------------------------------------------------------------------------------------------


async def test_at_exit_each_connection_is_closed_to_restart(app):
    async with (
        serving(app, ws=websocket_protocol(LIMITS)) as (server, port),
        await RawClient.open(port) as client,
    ):
        listener = await app.listener()

        exit_ = asyncio.create_task(server.shutdown())

        assert await client.closed() == (1012, "")
        client.send(close(1012))
        assert await client.rest() == b""
        await exit_
        await listener.until(("closed", 1012, ""))
