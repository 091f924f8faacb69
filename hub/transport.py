"""
Our WebSocket protocol class for uvicorn: one object per connection, prepared frames straight to the socket.

It is a whole ASGI server for WebSocket scopes, so any ASGI application runs on it. An application that finds
the connection's `Wire` in `scope["extensions"][EXTENSION]` may attach a listener after accepting and return:
from then on messages are handed over as they arrive, and neither a task nor a queue remains.

Compression is never negotiated: a frame is built once and written to thousands of sockets (ADR on the hot loop).
The request target is never logged: its query string may hold a token.
"""

import asyncio
import logging
import time
from asyncio.transports import BaseTransport, Transport
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, ClassVar, Protocol, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected, get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from hub import handshake
from hub.framing import (
    ABNORMAL,
    INTERNAL_ERROR,
    NORMAL,
    POLICY_VIOLATION,
    SERVICE_RESTART,
    UNSUPPORTED_DATA,
    Binary,
    Close,
    FrameReader,
    FramingError,
    Ping,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

__all__ = [
    "EXTENSION",
    "WebSocketProtocol",
    "Wire",
    "WireListener",
    "WireSettings",
    "text_frame",
    "websocket_protocol",
]

EXTENSION = "carillon.wire"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
ASGIApplication = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSettings:
    """Limits of one WebSocket. From HUB_*."""

    max_message_bytes: int = 64 * 1024  # inbound, all fragments together; above: close 1009
    max_fragments: int = 16  # frames of one inbound message; above: close 1009
    max_control_frames: int = 100  # pings and pongs of one client in one second; above: close 1008
    high_water_bytes: int = 256 * 1024  # the transport holds more: on_paused; below a quarter: on_resumed
    close_timeout: timedelta = timedelta(seconds=5)  # for the peer's close frame and for what is still unsent
    max_head_bytes: int = 16 * 1024  # request target and header fields; above: 431
    max_headers: int = 100  # above: 431
    max_early_bytes: int = 64 * 1024  # sent by the client before it was accepted; above: dropped
    max_waiting_messages: int = 16  # received but not asked for by the application: then reading pauses


class WireListener(Protocol):
    """Who a connection's messages go to. An exception is a bug: it is logged and the connection closed 1011."""

    def on_message(self, data: str) -> None:
        """One whole text message. A binary one closes the connection with 1003 instead."""
        ...

    def on_closed(self, code: int, reason: str) -> None:
        """
        The connection is over; called exactly once and last, never from within a method of the Wire.

        code: the peer's when it closed first (1005 when it gave none), ours when we did, 1006 when the
        socket vanished or was aborted.
        """
        ...

    def on_paused(self) -> None:
        """
        The transport holds more than the high-water mark.

        Never called from within a write, nor once either side has begun to close.
        """
        ...

    def on_resumed(self) -> None:
        """What the transport held has drained to a quarter of the high-water mark."""
        ...


class Wire(Protocol):
    """One open WebSocket, seen from the hub. All methods are to be called on the event loop's thread."""

    write: Callable[[bytes], None]
    """
    Prepared frames, straight to the transport. Before the accept and after the close nothing is written:
    the attribute is replaced, so read it for every write instead of keeping what it held.
    """
    last_received: float  # time.monotonic() of the last inbound bytes; uvloop's own time is up to 1 ms behind
    control_frames: int  # pings, pongs received so far

    def attach(self, listener: WireListener) -> None:
        """
        Hand all messages to this listener; the ASGI application may return and the socket stays open.

        Messages that came before are handed over, in order, before this returns. Raises RuntimeError
        before the accept, and when there is a listener already.
        """
        ...

    def send(self, payload: bytes) -> None:
        """Frame one text message and write it."""
        ...

    def ping(self, payload: bytes = b"") -> None:
        """Raises ValueError above 125 bytes."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """
        Send the close frame, wait for the peer's until the close timeout, then drop the socket.

        Does nothing when the connection is closing already. Raises ValueError for a code that may not
        stand on the wire or a reason above 123 bytes of UTF-8.
        """
        ...

    def abort(self) -> None:
        """Drop the socket now, with all that is unsent."""
        ...

    @property
    def buffered(self) -> int:
        """Bytes the transport still holds."""
        ...


def websocket_protocol(settings: WireSettings) -> type["WebSocketProtocol"]:
    """The class to give to uvicorn's `ws`, with limits of its own."""
    return type("WebSocketProtocol", (WebSocketProtocol,), {"__slots__": (), "settings": settings})


# The life of a connection. It only moves down.
_OPENING = 0  # no 101 yet
_OPEN = 1
_CLOSING = 2  # our close frame is sent; frames are read only to find the peer's
_DRAINING = 3  # nothing more is read or written by us; what is unsent may still leave
_CLOSED = 4  # the transport is gone


def _discard(data: bytes) -> None:
    """Stands for `write` where there is nobody to write to."""


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket of uvicorn's `ws` setting; it is the `Wire` of its connection."""

    settings: ClassVar[WireSettings] = WireSettings()

    __slots__ = (
        "_close",
        "_controls_before",
        "_listener",
        "_loop",
        "_paused",
        "_pong_owed",
        "_reader",
        "_second",
        "_server_state",
        "_session",
        "_state",
        "_timer",
        "_told_paused",
        "_transport",
        "control_frames",
        "last_received",
        "write",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn's HTTP protocols call it."""
        self._loop = _loop or asyncio.get_running_loop()
        self._server_state = server_state
        self._session: _Session | None = _Session(self, config, app_state)  # until attach() or its end
        self._listener: WireListener | None = None  # from attach() until on_closed()
        self._transport: Transport
        self._reader: FrameReader
        self._state = _OPENING
        self._paused = False
        self._told_paused = False
        self._pong_owed: bytes | None = None  # payload of the newest ping while paused (section 5.5.3)
        self._close: tuple[int, str] = (ABNORMAL, "")  # how the connection ends, if nobody says otherwise
        self._timer: asyncio.TimerHandle | None = None
        self.write: Callable[[bytes], None] = _discard
        self.last_received = 0.0
        self.control_frames = 0
        self._second = 0  # of the loop's clock, in which the last control frame came
        self._controls_before = 0  # control frames before that second

    # The transport calls.

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = cast("Transport", transport)  # a TCP or unix socket, with or without TLS
        self._transport.set_write_buffer_limits(high=self.settings.high_water_bytes)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's union names its own classes

    def data_received(self, data: bytes) -> None:
        self.last_received = time.monotonic()
        if self._state == _OPEN or self._state == _CLOSING:
            self._read(data)
        elif self._state == _OPENING and self._session is not None:
            if self._session.started:
                self._session.early(data)
            else:
                self._read_request(data)

    def eof_received(self) -> None:
        """The peer will send no more: the transport closes itself."""

    def pause_writing(self) -> None:
        self._paused = True
        self._loop.call_soon(self._tell_pressure)

    def resume_writing(self) -> None:
        self._paused = False
        if self._pong_owed is not None:
            self.write(pong_frame(self._pong_owed))
            self._pong_owed = None
        if self._session is not None:
            self._session.on_resumed()
        self._loop.call_soon(self._tell_pressure)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self.write = _discard
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._server_state.connections.discard(self)
        self._tell_closed()

    # uvicorn calls.

    def shutdown(self) -> None:
        """The process ends: close with 1012. One that is not accepted yet is answered 503."""
        if self._state == _OPENING:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, (), b"Restarting.")
        elif self._state == _OPEN:
            self._begin_close(SERVICE_RESTART, "")  # what came before may still be received

    def upgrade(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        *,
        http_version: str = "1.1",
        server: tuple[str, int | None] | None,
        client: tuple[str, int] | None,
        secure: bool,
        early: bytes = b"",
    ) -> None:
        """
        Take over a connection whose HTTP server has read a request with `Upgrade: websocket`.

        For an HTTP protocol that hands the parsed request over; uvicorn's own write it again, as bytes.
        headers: names in lower case. early: what the client sent after its request.
        """
        settings = self.settings
        opening = handshake.opening(
            method,
            target,
            headers,
            http_version=http_version,
            max_bytes=settings.max_head_bytes,
            max_headers=settings.max_headers,
        )
        if isinstance(opening, handshake.Refusal):
            self.refuse(opening.status, opening.headers, opening.reason.encode())
        elif self._session is not None:
            self._session.start(opening, server=server, client=client, scheme="wss" if secure else "ws")
            if early:
                self._session.early(early)

    def _read_request(self, data: bytes) -> None:
        """The request as uvicorn's HTTP protocols serialise it: whole, parsed before, in one piece."""
        head, _, early = data.partition(b"\r\n\r\n")
        request, *lines = head.split(b"\r\n")
        method, _, rest = request.partition(b" ")
        fields = [line.partition(b": ") for line in lines]
        self.upgrade(
            method,
            rest.rpartition(b" ")[0],
            [(name.lower(), value) for name, _, value in fields],
            server=get_local_addr(self._transport),
            client=get_remote_addr(self._transport),
            secure=is_ssl(self._transport),
            early=early,
        )

    # The ASGI session calls.

    def refuse(self, status: int, headers: handshake.Headers, body: bytes) -> None:
        """Answer the opening handshake with an HTTP response instead, and close. Raises ValueError."""
        content_type = [] if any(name.lower() == b"content-type" for name, _ in headers) else [_PLAIN_TEXT]
        default = self._server_state.default_headers
        self._transport.write(handshake.answer(status, [*default, *headers, *content_type], body))
        self._state = _DRAINING
        self._drop()
        self._tell_closed()

    def accept(
        self, key: bytes, headers: handshake.Headers, subprotocol: str | None, *, max_bytes: int, early: bytes
    ) -> None:
        """Answer 101 and read frames from now on. Raises ValueError for a malformed header."""
        answer = handshake.switching(
            key, [*self._server_state.default_headers, *headers], subprotocol=subprotocol
        )
        self._transport.write(answer)
        self._state = _OPEN
        self.write = self._transport.write
        self._reader = FrameReader(
            max_bytes=min(max_bytes, self.settings.max_message_bytes),
            max_fragments=self.settings.max_fragments,
        )
        if early:
            self._read(early)

    def run(self, application: Coroutine[Any, Any, None]) -> None:
        """As a task that uvicorn waits for when it exits."""
        task = self._loop.create_task(application)
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    @property
    def is_opening(self) -> bool:
        return self._state == _OPENING

    @property
    def is_open(self) -> bool:
        return self._state == _OPEN

    @property
    def is_paused(self) -> bool:
        return self._paused and self._state == _OPEN

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def forget_session(self) -> bool:
        """The application has returned. True when the connection was its, and is nobody's now."""
        owned, self._session = self._session is not None, None
        return owned

    # The hub calls: the Wire.

    def attach(self, listener: WireListener) -> None:
        session = self._session
        if session is None:
            raise RuntimeError("the connection has a listener already, or its application has returned")
        if self._state == _OPENING:
            raise RuntimeError("a listener is attached after the accept")
        self._session = None
        self._listener = listener
        for message in session.hand_over():
            if self._state == _OPEN or session.closed is not None:
                self._deliver(message)
        if session.closed is not None:
            self._listener = None
            self._loop.call_soon(listener.on_closed, *session.closed)
            return
        self._transport.resume_reading()
        if self._paused:
            self._loop.call_soon(self._tell_pressure)

    def send(self, payload: bytes) -> None:
        self.write(text_frame(payload))

    def ping(self, payload: bytes = b"") -> None:
        self.write(ping_frame(payload))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        if self._state == _OPENING:
            raise RuntimeError("the connection is not accepted yet")
        if self._state == _OPEN:
            self._begin_close(code, reason)
            if self._session is not None:
                self._session.forget_inbox()  # who closes has heard enough

    def abort(self) -> None:
        self.write = _discard
        if self._state < _DRAINING:
            self._state = _DRAINING
        self._transport.abort()

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    # Frames.

    def _read(self, data: bytes) -> None:
        try:
            for event in self._reader.feed(data):
                if isinstance(event, (str, Binary)):
                    if self._state == _OPEN:
                        self._deliver(event)
                elif isinstance(event, Close):
                    self._peer_closed(event)
                else:
                    self._count_control_frame()
                    if isinstance(event, Ping):
                        self._pong(event.payload)
                if self._state >= _DRAINING:
                    return
        except FramingError as error:
            self._fail(error.code, error.reason)

    def _deliver(self, message: str | Binary) -> None:
        listener = self._listener
        if listener is None:
            if self._session is not None:
                self._session.on_message(message)
        elif isinstance(message, str):
            try:
                listener.on_message(message)
            except Exception:
                logger.exception("wire_listener_failed")
                self.close(INTERNAL_ERROR)
        else:
            self.close(UNSUPPORTED_DATA, "text messages only")

    def _count_control_frame(self) -> None:
        """Raises FramingError when it is one too many in this second."""
        self.control_frames += 1
        second = int(self.last_received)
        if second != self._second:
            self._second = second
            self._controls_before = self.control_frames - 1
        if self.control_frames - self._controls_before > self.settings.max_control_frames:
            raise FramingError(POLICY_VIOLATION, "too many control frames")

    def _pong(self, payload: bytes) -> None:
        if self._paused:
            self._pong_owed = payload
        else:
            self.write(pong_frame(payload))

    # The end.

    def _begin_close(self, code: int, reason: str) -> None:
        self._stop(close_frame(code, reason), code, reason)
        self._state = _CLOSING
        self._transport.resume_reading()
        self._arm()
        if self._session is not None:
            self._session.on_closed(code, reason)

    def _peer_closed(self, close: Close) -> None:
        if self._state == _OPEN:
            self._stop(close_frame(close.code), close.code, close.reason)
        self._state = _DRAINING
        self._drop()
        self._tell_closed()

    def _fail(self, code: int, reason: str) -> None:
        """
        Section 7.1.7. Our direction is shut and what still comes is thrown away until the peer has gone:
        closing over unread bytes would reset the connection, and the peer never see the code.
        """
        if self._state == _OPEN:
            self._stop(close_frame(code, reason), code, reason)
        self._state = _DRAINING
        self._transport.resume_reading()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._arm()
        else:
            self._drop()
        self._tell_closed()

    def _stop(self, frame: bytes, code: int, reason: str) -> None:
        """The close frame is the last thing that is written."""
        self.write(frame)
        self.write = _discard
        self._close = code, reason

    def _drop(self) -> None:
        """Close the socket once what is unsent has left, or the close timeout is over."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._arm()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(
                self.settings.close_timeout.total_seconds(), self._transport.abort
            )

    def _tell_closed(self) -> None:
        """Once: to the listener, or to the application while the connection is its."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_closed(*self._close)
        elif self._session is not None:
            self._session.on_closed(*self._close)

    def _tell_pressure(self) -> None:
        if self._listener is None or self._state != _OPEN or self._paused == self._told_paused:
            return
        self._told_paused = self._paused
        if self._paused:
            self._listener.on_paused()
        else:
            self._listener.on_resumed()


_PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")


class _Session:
    """The ASGI application on one connection, until it attaches a listener or returns."""

    __slots__ = (
        "_app_state",
        "_arrived",
        "_config",
        "_connected",
        "_drained",
        "_early",
        "_ended",
        "_handed_over",
        "_inbox",
        "_key",
        "_refusal",
        "_scope",
        "_wire",
        "closed",
        "started",
    )

    def __init__(self, wire: WebSocketProtocol, config: Config, app_state: dict[str, Any]) -> None:
        self._wire = wire
        self._config = config
        self._app_state = app_state
        self._scope: Scope = {}
        self._key = b""
        self._early = b""  # frames from before the accept
        self._inbox: deque[str | Binary] = deque()
        self._arrived = asyncio.Event()  # set while there is something to receive
        self._drained = asyncio.Event()
        self._connected = False  # websocket.connect was received
        self._ended = False  # the application closed, or refused
        self._handed_over = False
        self._refusal: tuple[int, list[tuple[bytes, bytes]], list[bytes]] | None = None
        self.closed: tuple[int, str] | None = None  # how the connection ended, if it has
        self.started = False

    def start(
        self,
        opening: handshake.Opening,
        *,
        server: tuple[str, int | None] | None,
        client: tuple[str, int] | None,
        scheme: str,
    ) -> None:
        """Run the application on its scope."""
        root_path: str = self._config.root_path
        self._key = opening.key
        self._scope = {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": scheme,
            "server": server,
            "client": client,
            "root_path": root_path,
            "path": root_path + opening.path,
            "raw_path": root_path.encode("ascii") + opening.raw_path,
            "query_string": opening.query,
            "headers": opening.headers,
            "subprotocols": opening.subprotocols,
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self._wire},
        }
        self.started = True
        self._wire.run(self.run())

    # The protocol calls.

    def early(self, data: bytes) -> None:
        """Bytes from before the accept, which no client need send."""
        self._early += data
        if len(self._early) > self._wire.settings.max_early_bytes:
            self._wire.abort()

    def on_message(self, message: str | Binary) -> None:
        self._inbox.append(message)
        self._arrived.set()
        if len(self._inbox) >= self._wire.settings.max_waiting_messages:
            self._wire.pause_reading()

    def on_closed(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = code, reason
            self._arrived.set()
            self._drained.set()

    def on_resumed(self) -> None:
        self._drained.set()

    def hand_over(self) -> deque[str | Binary]:
        """What has not been received. From now on nothing can be."""
        self._handed_over = True
        self._arrived.set()
        inbox, self._inbox = self._inbox, deque()
        return inbox

    def forget_inbox(self) -> None:
        self._inbox.clear()

    # The application calls.

    async def run(self) -> None:
        """The application's whole life on this connection. What it leaves undone is answered here."""
        wire = self._wire
        code = NORMAL
        try:
            await self._config.loaded_app(self._scope, self.receive, self.send)
            if wire.is_opening:
                logger.error("websocket_not_answered")
        except Exception as error:
            if not isinstance(error, ClientDisconnected) and not isinstance(
                error.__context__, ClientDisconnected
            ):  # else it was told that the client has gone, which is no fault; frameworks wrap it
                logger.exception("websocket_application_failed")
                code = INTERNAL_ERROR
        except asyncio.CancelledError:
            wire.abort()
            raise
        finally:
            owned = wire.forget_session()
        if wire.is_opening:
            wire.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, (), b"Internal Server Error")
        elif owned or code != NORMAL:
            wire.close(code)

    async def receive(self) -> Message:
        """The next event; websocket.disconnect for ever once the connection has ended."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            if self._handed_over:
                raise RuntimeError("messages go to the attached listener")
            if self.closed is not None:
                return {"type": "websocket.disconnect", "code": self.closed[0], "reason": self.closed[1]}
            self._arrived.clear()
            await self._arrived.wait()
        message = self._inbox.popleft()
        if not self._inbox:
            self._wire.resume_reading()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message.data}

    async def send(self, message: Message) -> None:
        """
        One event of the application.

        Raises ClientDisconnected (an OSError) when the connection has ended, RuntimeError for an event out
        of turn and ValueError for one that cannot be put on the wire.
        """
        kind = message["type"]
        if self._ended:
            raise RuntimeError(f"{kind} after the connection was closed or refused")
        while self._wire.is_paused and kind == "websocket.send":
            self._drained.clear()
            await self._drained.wait()
        if self.closed is not None:
            raise ClientDisconnected
        if self._refusal is not None:
            self._refuse_with(kind, message)
        elif self._wire.is_opening:
            self._answer(kind, message)
        elif kind == "websocket.send":
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._wire.write(binary_frame(data))
            elif text is not None:
                self._wire.write(text_frame(text.encode()))
            else:
                raise ValueError("websocket.send needs bytes or text")
        elif kind == "websocket.close":
            self._wire.close(message.get("code", NORMAL), message.get("reason") or "")
            self._ended = True
        else:
            raise RuntimeError(f"{kind} after websocket.accept")

    def _answer(self, kind: str, message: Message) -> None:
        """The first event: accept, or one of two ways to refuse."""
        if kind == "websocket.accept":
            early, self._early = self._early, b""
            self._wire.accept(
                self._key,
                list(message.get("headers", ())),
                message.get("subprotocol"),
                max_bytes=self._config.ws_max_size,
                early=early,
            )
        elif kind == "websocket.close":
            self._ended = True
            self._wire.refuse(HTTPStatus.FORBIDDEN, (), b"")
        elif kind == "websocket.http.response.start":
            self._refusal = message["status"], list(message.get("headers", ())), []
        else:
            raise RuntimeError(f"{kind} before websocket.accept")

    def _refuse_with(self, kind: str, message: Message) -> None:
        """The body of an HTTP response in place of the 101; sent when it is whole."""
        if kind != "websocket.http.response.body" or self._refusal is None:
            raise RuntimeError(f"{kind} within an HTTP response")
        status, headers, body = self._refusal
        body.append(message.get("body", b""))
        if not message.get("more_body", False):
            self._ended = True
            self._wire.refuse(status, headers, b"".join(body))
