"""A mail server on loopback: STARTTLS, AUTH, and a fault at any point of a conversation."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.providers.server import Fault, Hold, Refuse, Reset

#: Where a fault waits. `body`: nothing of the mail is read, then the connection is cut. `content`: after its dot.
Point = Literal["greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "content", "rset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMail:
    """A mail as it came over the wire, with the dots taken off again."""

    sender: str
    recipient: str
    content: bytes
    by_tls: bool
    user: str | None
    connection: int  # counted from 1

    @property
    def header_lines(self) -> list[bytes]:
        """The lines of the head as they stand; a folded header has several."""
        return self.content.partition(b"\r\n\r\n")[0].split(b"\r\n")

    @property
    def message_id(self) -> str:
        line = next(one for one in self.header_lines if one.startswith(b"Message-ID: "))
        return line.removeprefix(b"Message-ID: ").decode()


class SmtpServer:
    """
    received: every mail that came to its dot. accepted: those that were answered, or would have been, with 250.
    faults: each waits for the next time that its point is reached.
    credentials: user and password, which AUTH asks for; None: without AUTH.
    tls: offers STARTTLS; is_implicit: speaks TLS from the first byte.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        is_implicit: bool = False,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.received: list[ReceivedMail] = []
        self.accepted: list[ReceivedMail] = []
        self.faults: deque[tuple[Point, Fault]] = deque()
        self.commands: list[str] = []
        self.connections = 0
        self.most_at_once = 0
        self._tls = tls
        self._is_implicit = is_implicit
        self._credentials = credentials
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[_Conversation] = set()
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        return self._port

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def newest(self) -> asyncio.BaseTransport | None:
        """Our end of the connection that was made last."""
        return max(self._open, key=lambda conversation: conversation.number).transport

    async def start(self) -> None:
        """On the port it had before, if it was stopped in between."""
        self._server = await asyncio.get_running_loop().create_server(
            self._conversation, "127.0.0.1", self._port, ssl=self._tls if self._is_implicit else None
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection, as servers do with those that are idle."""
        for conversation in list(self._open):
            conversation.cut(is_reset=False)
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    async def wait_for(self, count: int, seconds: float = 60) -> None:
        """Return when so many mails have come since the start."""
        async with asyncio.timeout(seconds):
            while len(self.received) < count:
                self._changed.clear()
                await self._changed.wait()

    async def wait_for_command(self, command: str, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while command not in self.commands:
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- called by conversations and by aiosmtpd --------------------------------------------------------------------------

    def _conversation(self) -> asyncio.BaseProtocol:
        self.connections += 1
        return _Conversation(self, self.connections)

    def opened(self, conversation: _Conversation) -> None:
        self._open.add(conversation)
        self.most_at_once = max(self.most_at_once, len(self._open))

    def ended(self, conversation: _Conversation) -> None:
        self._open.discard(conversation)
        self._changed.set()

    def said(self, command: str) -> None:
        self.commands.append(command)
        self._changed.set()

    def fault_at(self, point: Point) -> Fault | None:
        for waiting in self.faults:
            if waiting[0] == point:
                self.faults.remove(waiting)
                return waiting[1]
        return None

    @property
    def offers_starttls(self) -> ssl.SSLContext | None:
        return None if self._is_implicit else self._tls

    @property
    def asks_for_auth(self) -> bool:
        return self._credentials is not None

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        given = (data.login.decode(), data.password.decode()) if isinstance(data, LoginPassword) else None
        return AuthResult(success=given == self._credentials, handled=False, auth_data=data)

    async def handle_DATA(self, server: _Conversation, session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        assert envelope.mail_from is not None
        assert isinstance(envelope.original_content, bytes)
        mail = ReceivedMail(
            sender=envelope.mail_from,
            recipient=envelope.rcpt_tos[0],
            content=envelope.original_content,
            by_tls=session.ssl is not None or self._is_implicit,
            user=user.login.decode()
            if isinstance(user := cast(Any, session).auth_data, LoginPassword)
            else None,
            connection=server.number,
        )
        assert len(envelope.rcpt_tos) == 1, "one mail was for several people"
        self.received.append(mail)
        self._changed.set()
        fault = self.fault_at("content")
        if isinstance(fault, Refuse):
            return f"{fault.status} {fault.body}"
        if isinstance(fault, Reset) and not fault.taken:
            server.cut()
            return ""
        self.accepted.append(mail)
        if isinstance(fault, Reset):
            server.cut()
            return ""
        if isinstance(fault, Hold):
            await fault.release.wait()
        return f"250 2.0.0 Ok: queued as {len(self.accepted)}"


class _Conversation(SMTP):
    """One connection."""

    def __init__(self, server: SmtpServer, number: int) -> None:
        self._server = server
        self.number = number
        self._greeted = False
        super().__init__(
            server,
            hostname="mail.test",
            ident="ESMTP",
            loop=asyncio.get_running_loop(),
            tls_context=server.offers_starttls,
            auth_required=server.asks_for_auth and server.offers_starttls is not None,
            auth_require_tls=server.offers_starttls is not None,
            authenticator=server.authenticate if server.asks_for_auth else None,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._server.ended(self)

    def cut(self, *, is_reset: bool = True) -> None:
        """Close; is_reset: with RST."""
        self._server.ended(self)  # a TLS handshake that failed tells nobody of its end
        transport = self._original_transport or self.transport
        if transport is None or transport.is_closing():
            return
        raw = transport.get_extra_info("socket")
        if is_reset and raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        cast(asyncio.Transport, transport).abort()  # uvloop's are no asyncio.Transport

    async def _is_met_by_fault(self, point: Point) -> bool:
        """Whether a fault has answered in place of the server."""
        self._server.said(point)
        match self._server.fault_at(point):
            case Refuse(status=status, body=body):
                await super().push(f"{status} {body}")
                return True
            case Reset():
                self.cut()
                return True
            case Hold(release=release):
                await release.wait()
        return False

    async def push(self, status: Any) -> None:
        if not self._greeted:
            self._greeted = True
            if await self._is_met_by_fault("greeting"):
                return
        if status:
            await super().push(status)
        if str(status).startswith("354") and (fault := self._server.fault_at("body")) is not None:
            cast(asyncio.Transport, self.transport).pause_reading()
            self._server.said("body")
            if isinstance(fault, Hold):
                await fault.release.wait()
            self.cut()

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("ehlo"):
            await super().smtp_EHLO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("starttls"):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("auth"):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("mail"):
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("rcpt"):
            await super().smtp_RCPT(arg)

    async def smtp_RSET(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("rset"):
            await super().smtp_RSET(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        if not await self._is_met_by_fault("data"):
            await super().smtp_DATA(arg)
