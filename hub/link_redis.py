"""
One connection to a Redis server: commands out, replies and messages in (RESP3).

It reads with hiredis straight from the transport: no stream, no task and no await between a message and the
listener, and everything that arrived in one turn of the loop is handed over in that turn. Everything that is
sent in one turn leaves in one write. RESP3 lets one connection publish, subscribe and ask, so that one canary
proves all of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from hiredis import HiredisError, PushNotification, Reader, ReplyError, pack_command

from hub.broker import BrokerUnavailable
from hub.target_redis import Address, Login

Word: TypeAlias = bytes | str | int
Reply: TypeAlias = object  # int, bytes, None, list or dict of replies; never an error

# Its stub speaks of a tuple of one.
_pack = cast(Callable[[tuple[Word, ...]], bytes], pack_command)
_INCOMPLETE = object()
_MESSAGES = (b"message", b"smessage")
_CHANGES = (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe")


class LinkLost(BrokerUnavailable):
    """The connection is gone; what was asked may or may not have been done."""


class Refused(Exception):
    """The server answered with an error; the first word is its code (NOPERM, MOVED, LOADING, ...)."""


class LinkListener(Protocol):
    """What happens to what the server pushes. Synchronous; must not raise."""

    def on_message(self, channel: bytes, message: bytes) -> None: ...

    def on_change(self, link: Link, verb: bytes, channel: bytes) -> None:
        """A subscription of ours came into force or ended. verb: subscribe, unsubscribe or their sharded forms."""
        ...


@dataclass(slots=True)
class _Change:
    """A subscription command under way: confirmed once per channel, or refused as a whole."""

    open: int


@dataclass(frozen=True, slots=True)
class Hello:
    """What a server says of itself."""

    mode: str  # standalone, cluster or sentinel
    role: str  # master or replica
    version: tuple[int, ...]


class Link(asyncio.Protocol):
    """
    One connection. Made by `connect`; dead for ever when `closed` is done, whose result is the reason.

    queue_bytes, queue_messages: what may wait unsent or unanswered before `publish` drops.
    """

    def __init__(
        self, address: Address, listener: LinkListener | None, *, queue_bytes: int, queue_messages: int
    ) -> None:
        self.address = address
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._listener = listener
        self._queue_bytes = queue_bytes
        self._queue_messages = queue_messages
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._congested = False
        # What the next replies answer, in order. None: a publication, whose count of receivers says nothing.
        self._expected: deque[asyncio.Future[Reply] | _Change | None] = deque()

    # --- what the owner does ---

    def publish(self, verb: bytes, channel: bytes, message: bytes) -> bool:
        """Queue a message for this turn's write. False: dropped, because the link is dead or too much waits."""
        if (
            self._congested
            or self._out_bytes > self._queue_bytes
            or len(self._expected) >= self._queue_messages
        ):
            return False
        if self.closed.done():
            return False
        self._send(_pack((verb, channel, message)))
        self._expected.append(None)
        return True

    def change(self, verb: bytes, channels: Sequence[bytes]) -> None:
        """Subscribe to or unsubscribe from channels, in one command; each is confirmed by `on_change`."""
        if self.closed.done():
            return
        self._send(_pack((verb, *channels)))
        self._expected.append(_Change(len(channels)))

    def ask(self, *words: Word) -> asyncio.Future[Reply]:
        """Send one command; the future holds its reply. Raises (when awaited) Refused or LinkLost."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if self.closed.done():
            answer.set_exception(LinkLost(self.closed.result()))
            return answer
        self._send(_pack(words))
        self._expected.append(answer)
        return answer

    def abort(self, reason: str) -> None:
        """Drop the connection now; nothing more is sent and nothing more is heard."""
        if self.closed.done():
            return
        self.closed.set_result(reason)
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        for answer in self._expected:
            if isinstance(answer, asyncio.Future) and not answer.done():
                answer.set_exception(LinkLost(reason))
        self._expected.clear()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=self._queue_bytes)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not _INCOMPLETE:
                if type(reply) is PushNotification:
                    self._pushed(reply)
                else:
                    self._answered(reply)
                if self.closed.done():
                    return
        except HiredisError as error:
            self.abort(f"not RESP3: {error}")

    def eof_received(self) -> None:
        self.abort("closed by the server")

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(str(error) if error else "closed")

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False

    # --- inside ---

    def _send(self, packed: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._out_bytes += len(packed)

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0

    def _pushed(self, push: list[bytes]) -> None:
        kind = push[0]
        if self._listener is None:
            return
        if kind in _MESSAGES:
            self._listener.on_message(push[1], push[2])
        elif kind in _CHANGES:
            change = self._expected[0] if self._expected else None
            if not isinstance(change, _Change):  # Redis Cluster ends subscriptions of a slot that moves away
                self.abort("the server ended a subscription")
                return
            change.open -= 1
            if change.open == 0:
                self._expected.popleft()
            self._listener.on_change(self, kind, push[1])

    def _answered(self, reply: object) -> None:
        if not self._expected:
            self.abort("an answer to nothing")
            return
        answer = self._expected.popleft()
        if isinstance(answer, asyncio.Future):
            if answer.done():  # its asker has given up
                return
            if isinstance(reply, ReplyError):
                answer.set_exception(Refused(str(reply)))
            else:
                answer.set_result(reply)
        elif isinstance(reply, ReplyError):
            self.abort(f"refused: {reply}")
        elif answer is not None:
            self.abort("an answer out of order")


async def connect(
    address: Address,
    *,
    login: Login,
    tls: ssl.SSLContext | None,
    listener: LinkListener | None = None,
    name: str = "",
    queue_bytes: int = 1 << 20,
    queue_messages: int = 1000,
) -> tuple[Link, Hello]:
    """
    Connect and introduce ourselves.

    Raises OSError (unreachable, TLS), Refused (wrong password, no RESP3, still loading) or LinkLost. It has no deadline
    of its own: a frozen server accepts connections and says nothing.
    """
    loop = asyncio.get_running_loop()

    def protocol() -> Link:
        return Link(address, listener, queue_bytes=queue_bytes, queue_messages=queue_messages)

    if address.path:
        _, link = await loop.create_unix_connection(protocol, address.path)
    else:
        _, link = await loop.create_connection(protocol, address.host, address.port, ssl=tls)
    try:
        return link, await greet(link, login, name)
    except BaseException:
        link.abort("not greeted")
        raise


async def greet(link: Link, login: Login, name: str = "") -> Hello:
    """Say HELLO (again): log in, and learn what the server is now. Raises Refused or LinkLost."""
    words: list[Word] = ["HELLO", 3]
    if login.password:
        words += ["AUTH", login.username or "default", login.password]
    if name:
        words += ["SETNAME", name]
    reply = await link.ask(*words)
    if not isinstance(reply, dict):
        raise Refused("NOPROTO the server does not answer HELLO 3")
    version = _text(reply.get(b"version")).split(".")
    return Hello(
        mode=_text(reply.get(b"mode")),
        role=_text(reply.get(b"role")),
        version=tuple(int(part) for part in version if part.isdigit()),
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else ""
