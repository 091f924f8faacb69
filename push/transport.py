"""
One POST to a push service: over TLS, on connections that are kept, to the address that was checked.

HTTP/1.1 (RFC 9112) as far as a push needs it: a request whose standing headers are laid out once per connection's
origin and key, an answer of which the head is read to 16 KiB and the body to 4 KiB. A redirect is an answer like any
other: nothing here knows how to follow one.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from push.guard import HTTPS_PORT, Address, Blocked, Guard
from push.tls import Tls

HEAD_MAX_BYTES = 16 * 1024
BODY_MAX_BYTES = 4 * 1024

Headers = tuple[tuple[str, str], ...]

#: Blocks of standing headers that are remembered; one per push service and key in use.
_BLOCKS = 4096


class Post(NamedTuple):
    """
    One request.

    origin: `https://host`, normalised, of which `target` is path and query. standing: headers that many requests
    have alike; own: those of this one. is_repeatable: the push service keeps one of two that are alike (RFC 8030
    §5.4), so that it may be sent again where nobody knows what became of it.
    """

    origin: str
    target: str
    standing: Headers
    own: Headers
    body: bytes
    is_repeatable: bool = False

    def __repr__(self) -> str:
        return f"Post(origin={self.origin!r})"


class Answer(NamedTuple):
    """What was answered. headers: by lower-case names. body: its beginning; empty where it broke off."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Answer(status={self.status})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """
    No answer. was_handed_over: it may have arrived; else not one byte of it was sent.

    is_blocked: the name of the push service leads where no connection is made to.
    """

    reason: str
    was_handed_over: bool
    is_blocked: bool = False


class Transport(Protocol):
    """A way to push services."""

    async def post(self, post: Post) -> Answer | Broken:
        """Send it and read the answer, within the time of the settings. Raises nothing for what others do."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a transport waits, and what it keeps."""

    connect: timedelta = timedelta(seconds=3)  # a name, a connection and its TLS
    answer: timedelta = timedelta(seconds=6)  # all of one request, with its connection
    idle: timedelta = timedelta(seconds=45)  # an idle connection is closed before the push service does it
    life: timedelta = timedelta(minutes=10)  # of a connection: then its name is asked for again
    requests: int = 10_000  # on one connection


@dataclass(slots=True)
class Counts:
    """What a transport has done."""

    connections: int = 0
    requests: int = 0
    repeated: int = 0  # on a fresh connection, after a kept one had ended


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS for push services. ca_file: certificates (PEM) to trust instead of the system's."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


class KeepAliveTransport:
    """
    Connections of our own, kept per origin, each with one request under way.

    How many there are is bounded by how many requests are sent at once; the last one used is the first to be used
    again, so that those that are not needed grow old and are closed.
    """

    def __init__(self, guard: Guard, tls: ssl.SSLContext, patience: Patience) -> None:
        self.counts = Counts()
        self._guard = guard
        self._tls = tls
        self._patience = patience
        self._idle_s = patience.idle.total_seconds()
        self._life_s = patience.life.total_seconds()
        self._answer_s = patience.answer.total_seconds()
        self._kept: dict[str, list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._blocks: dict[tuple[str, Headers], bytes] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def post(self, post: Post) -> Answer | Broken:
        deadline = asyncio.get_running_loop().time() + self._answer_s
        data = self._laid_out(post)
        kept = self._take(post.origin)
        if kept is not None:
            ended = await self._exchange(post.origin, kept, data, deadline)
            if not isinstance(ended, _Ended):
                return ended
            if not (ended.was_silent and post.is_repeatable):
                return Broken(reason=ended.reason, was_handed_over=True)
            self.counts.repeated += 1
        try:
            fresh = await self._dial(post.origin, deadline)
        except Blocked as error:
            return Broken(
                reason=f"the push service {error}", was_handed_over=kept is not None, is_blocked=True
            )
        except OSError as error:  # a timeout is one, and so are the errors of TLS
            return Broken(reason=_reason(error), was_handed_over=kept is not None)
        ended = await self._exchange(post.origin, fresh, data, deadline)
        return Broken(reason=ended.reason, was_handed_over=True) if isinstance(ended, _Ended) else ended

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._kept.clear()
        ending = [connection.lost for connection in self._open]
        for connection in tuple(self._open):
            connection.close()
        if ending:
            _, late = await asyncio.wait(ending, timeout=1)
            if late:
                for connection in tuple(self._open):
                    connection.abort()
                await asyncio.wait(late, timeout=1)

    def _laid_out(self, post: Post) -> bytes:
        block = self._blocks.get((post.origin, post.standing))
        if block is None:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            host = ("Host", urlsplit(post.origin).netloc)
            block = b" HTTP/1.1\r\n" + b"".join(map(_line, (host, *post.standing)))
            self._blocks[post.origin, post.standing] = block
        own = "".join([f"{name}: {value}\r\n" for name, value in post.own])
        length = f"Content-Length: {len(post.body)}\r\n\r\n"
        return b"".join((b"POST ", post.target.encode(), block, own.encode(), length.encode(), post.body))

    async def _exchange(
        self, origin: str, connection: _Connection, data: bytes, deadline: float
    ) -> Answer | _Ended:
        self.counts.requests += 1
        try:
            ended = await connection.exchange(data, deadline)
        except BaseException:  # cancelled: an answer may come that belongs to nobody
            connection.abort()
            raise
        if connection.is_free and connection.requests < self._patience.requests:
            self._keep(origin, connection)
        else:
            connection.close()
        return ended

    # --- connections that are kept -----------------------------------------------------------------------------------

    def _take(self, origin: str) -> _Connection | None:
        kept = self._kept.get(origin)
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if connection.freed > now - self._idle_s and connection.is_usable():
                return connection
            connection.close()
        return None

    def _keep(self, origin: str, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now > connection.made + self._life_s:
            connection.close()
            return
        connection.freed = now
        self._kept.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s / 2, self._close_the_idle)

    def _close_the_idle(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_s
        for origin, kept in list(self._kept.items()):
            good = [connection for connection in kept if connection.is_free and connection.freed > oldest]
            for connection in set(kept).difference(good):
                connection.close()
            if good:
                self._kept[origin] = good
            else:
                del self._kept[origin]
        self._sweep = loop.call_later(self._idle_s / 2, self._close_the_idle) if self._kept else None

    async def _dial(self, origin: str, deadline: float) -> _Connection:
        """Raises Blocked, OSError."""
        loop = asyncio.get_running_loop()
        url = urlsplit(origin)
        host, port = url.hostname or "", url.port or HTTPS_PORT
        until = min(deadline, loop.time() + self._patience.connect.total_seconds())
        async with asyncio.timeout_at(until):
            found = await self._guard.addresses(host, port)
            failed: OSError = OSError("no address")
            for number, address in enumerate(found):
                share = (until - loop.time()) / (len(found) - number)
                try:
                    async with asyncio.timeout(share):
                        connection = await self._connect(address, host)
                except OSError as error:
                    failed = error
                    continue
                self.counts.connections += 1
                self._open.add(connection)
                connection.lost.add_done_callback(partial(self._forget, connection))
                return connection
        raise failed

    def _forget(self, connection: _Connection, _lost: asyncio.Future[None]) -> None:
        self._open.discard(connection)

    async def _connect(self, address: Address, host: str) -> _Connection:
        """To just this address; `host` is whose certificate is asked for (RFC 6066 §3)."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(made, tuple(address))
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, made, Tls(self._tls, host)), sock=made
            )
        except BaseException:
            made.close()
            raise
        try:
            failed = await connection.established
        except BaseException:
            connection.abort()
            raise
        if failed is not None:
            raise failed
        return connection


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of an exchange without an answer. was_silent: it was the connection's end, and not one byte had come."""

    reason: str
    was_silent: bool = False


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_head",
        "_loop",
        "_raw",
        "_timer",
        "_tls",
        "_transport",
        "_waiting",
        "_was_silent",
        "established",
        "freed",
        "is_free",
        "lost",
        "made",
        "requests",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, raw: socket.socket, tls: Tls) -> None:
        self.established: asyncio.Future[OSError | None] = loop.create_future()  # the handshake, and why not
        self.lost: asyncio.Future[None] = loop.create_future()
        self.is_free = False
        self.requests = 0
        self.made = self.freed = loop.time()
        self._loop = loop
        self._raw = raw
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer | _Ended] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._head: _Head | None = None
        self._was_silent = True  # since the request: not one byte has come that may be of an answer

    def exchange(self, data: bytes, deadline: float) -> asyncio.Future[Answer | _Ended]:
        """Send a request. The future ends with what became of it. deadline: not before that of the last one."""
        waiting = self._waiting = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self._done(_Ended(_BROKE, was_silent=True))
            return waiting
        try:
            sealed = self._tls.seal(data)
        except ssl.SSLError:
            self.abort()
            self._done(_Ended(_BROKE, was_silent=True))
            return waiting
        self.is_free = False
        self._was_silent = True
        self.requests += 1
        self._deadline = deadline
        if self._timer is None:  # one timer for many requests: it is set again when it is due
            self._timer = self._loop.call_at(deadline, self._due)
        self._transport.write(sealed)
        return waiting

    def is_usable(self) -> bool:
        """
        Whether another request can go this way. The kernel may hold what the loop has not told us yet, such as an end,
        so that is read first.
        """
        while self.is_free:
            try:
                data = self._raw.recv(HEAD_MAX_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.data_received(data)
        return False

    def close(self) -> None:
        self.is_free = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._tls.farewell())
            self._transport.close()

    def abort(self) -> None:
        self.is_free = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's inherits nothing
        self._transport.write(self._tls.start())

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, "data comes between connection_made and connection_lost"
        try:
            text = self._tls.receive(data)
        except ssl.SSLError as error:
            self._was_silent = False
            self._transport.write(self._tls.outgoing())  # an alert that says why
            self._establish(error)
            self.is_free = False
            self._transport.close()
            return
        if own := self._tls.outgoing():
            self._transport.write(own)
        if self._tls.is_established and not self.established.done():
            self.is_free = True
            self._establish(None)
        if text:
            if self._waiting is None:  # an answer to nothing: a goodbye (408), or worse
                self.abort()
                return
            self._was_silent = False
            self._buffer += text
            self._read()
        if self._tls.is_spoilt:
            self.abort()
        elif self._tls.is_ended:
            self.close()

    def eof_received(self) -> None:
        self.is_free = False  # asyncio closes the transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_free = False
        self._transport = None
        self._establish(ConnectionResetError("it ended before it began"))
        if self._waiting is not None:
            if self._head is not None:  # the status has been said
                whole = self._head.length is None and not self._head.is_chunked
                self._done(self._head.answer(bytes(self._buffer[:BODY_MAX_BYTES]) if whole else b""))
            else:
                self._done(_Ended(_BROKE, was_silent=self._was_silent))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.lost.done():
            self.lost.set_result(None)

    def _establish(self, failed: OSError | None) -> None:
        if not self.established.done():
            self.established.set_result(failed)

    # --- the answer --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 and len(self._buffer) <= HEAD_MAX_BYTES:
                return
            if not 0 <= end <= HEAD_MAX_BYTES:
                self._give_up("the push service answered without end")
                return
            head = _head(bytes(self._buffer[:end]))
            if head is None:
                self._give_up("the push service's answer was no HTTP")
                return
            del self._buffer[: end + 4]
            if head.status >= 200:  # what comes before is only a sign of life (RFC 9110 §15.2)
                self._head = head
        self._read_body(self._head)

    def _read_body(self, head: _Head) -> None:
        if head.is_chunked:
            read = _chunks(self._buffer)
            if read is None:
                if len(self._buffer) > HEAD_MAX_BYTES:
                    self._finish(head, b"", keep=False)
                return
            body, used = read
            keep = used == len(self._buffer)
            self._finish(head, body[:BODY_MAX_BYTES], keep=keep)
        elif head.length is None:  # until the connection ends
            if len(self._buffer) >= BODY_MAX_BYTES:
                self._finish(head, bytes(self._buffer[:BODY_MAX_BYTES]), keep=False)
        elif len(self._buffer) >= head.length:
            keep = len(self._buffer) == head.length
            self._finish(head, bytes(self._buffer[: head.length]), keep=keep)
        elif head.length > BODY_MAX_BYTES:
            self._finish(head, b"", keep=False)

    def _finish(self, head: _Head, body: bytes, *, keep: bool) -> None:
        self._buffer.clear()
        self._head = None
        keep = keep and head.keeps_open and not self._tls.is_spoilt
        keep = keep and self._transport is not None and not self._transport.is_closing()
        self.is_free = keep
        if not keep:
            self.abort()
        self._done(head.answer(body))

    def _due(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._due)
        elif self._head is not None:
            self._finish(self._head, b"", keep=False)
        else:
            self._give_up("no answer from the push service in time")

    def _give_up(self, reason: str) -> None:
        self.abort()
        self._done(_Ended(reason))

    def _done(self, ended: Answer | _Ended) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(ended)


#: Of a chunk (RFC 9112 §7.1).
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,12}")

_BROKE = "the connection to the push service broke"


# --- HTTP, pure ------------------------------------------------------------------------------------------------------


class _Head(NamedTuple):
    """length: of the body in bytes; None: to the end of the connection, unless it is chunked."""

    status: int
    headers: Mapping[str, str]
    length: int | None
    is_chunked: bool
    keeps_open: bool

    def answer(self, body: bytes) -> Answer:
        return Answer(self.status, self.headers, body)


def _head(data: bytes) -> _Head | None:
    """Status line and header fields, without the empty line (RFC 9112 §4, §5). None: it is none."""
    line, _, rest = data.decode("latin-1").partition("\r\n")
    version, code = line[:9], line[9:12]
    is_ours = version in ("HTTP/1.1 ", "HTTP/1.0 ") and line[12:13] in ("", " ")
    if not is_ours or not (code.isascii() and code.isdigit()) or code < "100":
        return None
    headers: dict[str, str] = {}
    for one in rest.split("\r\n") if rest else ():
        name, colon, value = one.partition(":")
        if not colon:
            return None
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(code)
    is_chunked = "transfer-encoding" in headers
    length = 0 if status in (204, 304) or status < 200 else _length(headers)
    keeps_open = version == "HTTP/1.1 " and "close" not in headers.get("connection", "").lower()
    if is_chunked and ("content-length" in headers or headers["transfer-encoding"].lower() != "chunked"):
        return _Head(status, headers, None, False, False)  # two lengths are none (RFC 9112 §6.3)
    return _Head(status, headers, length, is_chunked and length != 0, keeps_open)


def _length(headers: Mapping[str, str]) -> int | None:
    """Content-Length. None: there is none, or it is none."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _chunks(buffer: bytearray) -> tuple[bytes, int] | None:
    """A chunked body (RFC 9112 §7.1) and how many bytes it has taken. None: its end has not come, or never will."""
    body, at = bytearray(), 0
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        digits = bytes(buffer[at:end]).partition(b";")[0].rstrip(b" \t")
        if not _SIZE.fullmatch(digits):
            return None
        size = int(digits, 16)
        at = end + 2
        if size == 0:
            end = buffer.find(b"\r\n", at)
            while end > at:  # trailers
                at = end + 2
                end = buffer.find(b"\r\n", at)
            return None if end < 0 else (bytes(body), end + 2)
        if len(buffer) < at + size + 2:
            return None
        body += buffer[at : at + size]
        at += size + 2


def _line(header: tuple[str, str]) -> bytes:
    return f"{header[0]}: {header[1]}\r\n".encode()


def _reason(error: OSError) -> str:
    """In our words: its own may hold an address."""
    match error:
        case ssl.SSLCertVerificationError():
            return "the push service's certificate was refused"
        case TimeoutError():
            return "no connection to the push service in time"
        case socket.gaierror():
            return "the push service's name was not found"
        case ssl.SSLError():
            return "the push service speaks no TLS that we do"
    return "no connection to the push service"
