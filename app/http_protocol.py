"""uvicorn's HTTP protocol class, with limits on how a request arrives and a shorter way to a WebSocket."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from hub.handshake import answer
from hub.transport import WebSocketProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one client may spend of us before its request is there."""

    head_timeout: timedelta = timedelta(seconds=10)  # from the connection or a request's first byte; then 408
    body_timeout: timedelta = timedelta(seconds=30)  # from the end of the head; then 408
    max_head_bytes: int = 16 * 1024  # request target and header fields; above: 431
    max_headers: int = 100  # above: 431


def http_protocol(limits: HttpLimits) -> type["HttpProtocol"]:
    """The class to give to uvicorn's `http`, with limits of its own."""
    return type("HttpProtocol", (HttpProtocol,), {"limits": limits})


class HeadTooLargeError(Exception):
    """Raised within the parser's callbacks, to stop it."""


class HttpProtocol(HttpToolsProtocol):
    """
    One HTTP connection.

    uvicorn waits for a request for ever and keeps as much of its head as comes; this class does neither.
    A WebSocket of ours is given the parsed request instead of its bytes once more.
    """

    limits: ClassVar[HttpLimits] = HttpLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn's server calls it."""
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = False  # the first byte of a request was seen, the end of its head was not
        self._in_body = False  # the end of its head was seen, its own was not
        self._upgrades = False  # this request asks for a WebSocket
        self._parsed_bytes = 0  # of this head, in fields that are whole
        self._received_bytes = 0  # since this head began, without the chunk that began it
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_within(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._in_head:
            self._received_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade(early=data[upgrade.args[0] :])
                return
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLargeError):
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            else:
                self._refuse(HTTPStatus.BAD_REQUEST)
            return
        if self._in_head and self._received_bytes > self.limits.max_head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._in_head or not self._is_answering:
            self._await_within(self.limits.head_timeout)
        elif self._in_body:
            self._await_within(self.limits.body_timeout)

    # The parser calls.

    def on_message_begin(self) -> None:
        self._in_head = True
        self._parsed_bytes = self._received_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """uvicorn's, with the limits: a call less for each field, which a herd of handshakes has many of."""
        self._count(len(name) + len(value))
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > self.limits.max_headers:
            raise HeadTooLargeError

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._stop_waiting()
        self._upgrades = super()._should_upgrade()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_waiting()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return self._upgrades  # uvicorn asks for each piece of a body, and looks through all headers

    def _count(self, size_bytes: int) -> None:
        self._parsed_bytes += size_bytes
        if self._parsed_bytes > self.limits.max_head_bytes:
            raise HeadTooLargeError

    def handle_websocket_upgrade(self, early: bytes = b"") -> None:
        """early: what the client sent after its request."""
        if self._is_answering:
            self._refuse(HTTPStatus.BAD_REQUEST)  # a request before this one is still being answered
            return
        self._stop_waiting()
        protocol_class = self.ws_protocol_class
        if protocol_class is None or not issubclass(protocol_class, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]  # ends a reference cycle, as uvicorn's connection_lost does
        protocol = protocol_class(self.config, self.server_state, self.app_state, self.loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.upgrade(
            self.scope["method"].encode("ascii"),
            self.url,
            self.headers,
            http_version=self.scope["http_version"],
            server=self.server,
            client=self.client,
            secure=is_ssl(self.transport),
            early=early,
        )

    @property
    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # None before the first request

    # The deadline.

    def _await_within(self, timeout: timedelta) -> None:
        """What is awaited now must come in time. The first of several deadlines counts."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(timeout.total_seconds(), self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._in_head or self._in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()  # nothing was asked, so nothing is answered

    def _refuse(self, status: HTTPStatus) -> None:
        self._stop_waiting()
        if self._in_body and self._is_answering and not self.cycle.response_started:
            self.cycle.disconnected = True  # what the application may still send is dropped
        if not self._is_answering or self.cycle.disconnected:  # else the answer would stand within another
            headers = [*self.server_state.default_headers, (b"content-type", b"text/plain; charset=utf-8")]
            self.transport.write(answer(status, headers, status.phrase.encode("ascii")))
        self._in_head = self._in_body = False
        self.transport.close()
