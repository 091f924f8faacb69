"""
E-mail, by a server that speaks SMTP (RFC 5321) and by SendGrid (POST /v3/mail/send).

A repetition has the same Message-ID, by which mailboxes recognise it, so what may have been sent is sent again.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, cast

import aiohttp
import msgspec
from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from core.outcome import Fail, Halt, Outcome, Retry, Sent, Unknown
from delivery.channel import Address, Message, Provider
from delivery.channels.http_call import Answer, post
from delivery.channels.smtp_answers import Phase, outcome_of
from delivery.mail import BadMail, Mail, Sender, compose, header_faults, is_address, wire

__all__ = ["EmailSettings", "SendGridProvider", "SmtpProvider", "header_faults", "providers"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailSettings:
    """E-mail: the sender, and the servers that carry it."""

    email_from: str | None = None  # the address that writes; without it no mail goes out
    email_from_name: str | None = None  # the name beside it
    email_reply_to: str | None = None  # where answers go
    email_unsubscribe: str | None = None  # a mailbox for List-Unsubscribe, beside the link; docs/channels.md
    email_prefer: Literal["smtp", "sendgrid"] = "smtp"  # tried first where both are there
    email_concurrency: int = 16  # mails under way at once, by each of them
    email_rate: float | None = None  # mails per second, by each of them; None: no limit
    email_timeout: timedelta = timedelta(
        seconds=7.5
    )  # one mail, with its connection; below DELIVERY_PROVIDER_TIMEOUT
    smtp_host: str | None = None  # the mail server
    smtp_port: int | None = None  # None: 587 with starttls, 465 with implicit, 25 with off
    smtp_username: str | None = None  # None: without AUTH
    smtp_password: str | None = field(default=None, repr=False)  # of SMTP_USERNAME
    smtp_tls: Literal["starttls", "implicit", "off"] = "starttls"  # never less than this, whatever is offered
    smtp_ca_file: Path | None = None  # certificates (PEM) to trust instead of the system's
    smtp_idle: timedelta = timedelta(seconds=30)  # how long a connection waits for its next mail
    sendgrid_api_key: str | None = field(default=None, repr=False)  # SG.…, with the permission "Mail Send"
    sendgrid_base_url: str = "https://api.sendgrid.com"  # https://api.eu.sendgrid.com for the EU

    def __post_init__(self) -> None:
        for name, address in (
            ("EMAIL_FROM", self.email_from),
            ("EMAIL_REPLY_TO", self.email_reply_to),
            ("EMAIL_UNSUBSCRIBE", self.email_unsubscribe),
        ):
            if address is not None and not is_address(address):
                raise ValueError(f"{name} must be one e-mail address, as in name@example.com")
        if self.email_from_name is not None and (fault := header_faults(self.email_from_name)):
            raise ValueError(f"EMAIL_FROM_NAME {fault}")
        if self.email_from is None and (self.smtp_host is not None or self.sendgrid_api_key is not None):
            raise ValueError("EMAIL_FROM must be given: no mail goes out without a sender")
        if self.smtp_port is not None and not 0 < self.smtp_port < 65536:
            raise ValueError("SMTP_PORT must be 1-65535")
        if self.smtp_tls == "off" and self.smtp_password is not None and self.smtp_host not in _LOOPBACK:
            raise ValueError("SMTP_TLS must not be off: SMTP_PASSWORD would go out in the clear")
        if not re.fullmatch(r"https?://[^/?#@]+", self.sendgrid_base_url):
            raise ValueError("SENDGRID_BASE_URL must be an origin, as in https://api.sendgrid.com")

    @property
    def sender(self) -> Sender:
        return Sender(
            address=self.email_from or "",
            name=self.email_from_name,
            reply_to=self.email_reply_to,
            unsubscribe=self.email_unsubscribe,
        )


def providers(settings: EmailSettings, http: aiohttp.ClientSession) -> tuple[Provider, ...]:
    """Those with credentials, in the order in which they are tried; none without EMAIL_FROM."""
    if settings.email_from is None:
        return ()
    made: dict[str, Provider] = {}
    if settings.smtp_host is not None:
        made["smtp"] = SmtpProvider(settings, settings.smtp_host)
    if settings.sendgrid_api_key is not None:
        made["sendgrid"] = SendGridProvider(settings, settings.sendgrid_api_key, http)
    return tuple(sorted(made.values(), key=lambda provider: provider.name != settings.email_prefer))


# --- SMTP ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """
    A connection to the server. waits_since: on the monotonic clock. is_clean: the server is in the middle of no mail.
    """

    client: SMTP
    waits_since: float = 0
    is_clean: bool = True


@dataclass(slots=True)
class _Progress:
    """How far one mail has come on one connection."""

    phase: Phase = "connect"
    dot_was_sent: bool = False


class SmtpProvider:
    """
    One mail server, over connections that are kept and used again, for one mail at a time each.

    A connection that broke before the dot that ends a mail (RFC 5321 §4.1.1.4) has sent nothing. Where it was one
    that had waited, it was stale, and the mail goes by a new one at once.
    """

    name = "smtp"

    def __init__(self, settings: EmailSettings, host: str) -> None:
        self.concurrency = settings.email_concurrency
        self.rate = settings.email_rate
        self._settings = settings
        self._host = host
        self._sender = settings.sender
        self._idle: deque[_Line] = deque()
        self._tls = None
        if settings.smtp_tls != "off":
            self._tls = ssl.create_default_context(
                cafile=None if settings.smtp_ca_file is None else str(settings.smtp_ca_file)
            )

    def account_of(self, address: Address) -> str:
        return self._host

    async def send(self, message: Message) -> Outcome:
        now = datetime.now(UTC)
        try:
            mail = compose(message, self._sender)
            content = wire(mail, now)
        except BadMail as refused:
            return Fail(reason=str(refused))
        progress = _Progress()
        try:
            async with asyncio.timeout(self._settings.email_timeout.total_seconds()):
                return await self._deliver(mail, content, progress)
        except TimeoutError:
            return _broken(progress, "no answer from the mail server in time")

    async def close(self) -> None:
        """Say goodbye on the connections that wait. Those in use are closed by their mails."""
        while self._idle:
            client = self._idle.popleft().client
            try:
                async with asyncio.timeout(1):
                    await client.quit()
            except (SMTPException, OSError):
                pass  # it is closed either way
            finally:
                client.close()

    async def _deliver(self, mail: Mail, content: bytes, progress: _Progress) -> Outcome:
        while (line := self._waiting()) is not None:
            outcome = await self._attempt(line, mail, content, progress)
            is_stale = isinstance(outcome, Retry) and not line.client.is_connected
            if not is_stale:
                return outcome
        return await self._attempt(_Line(self._client()), mail, content, progress)

    def _waiting(self) -> _Line | None:
        """The connection that has waited for the shortest time; those that have waited too long are closed."""
        oldest = time.monotonic() - self._settings.smtp_idle.total_seconds()
        while self._idle and self._idle[0].waits_since < oldest:
            self._idle.popleft().client.close()
        while self._idle:
            line = self._idle.pop()
            if line.client.is_connected:
                return line
            line.client.close()
        return None

    def _client(self) -> SMTP:
        settings = self._settings
        ports = {"starttls": 587, "implicit": 465, "off": 25}
        return SMTP(
            hostname=self._host,
            port=settings.smtp_port or ports[settings.smtp_tls],
            use_tls=settings.smtp_tls == "implicit",
            start_tls=False,  # done here, where its end can be told from that of AUTH
            tls_context=self._tls,
            local_hostname=self._sender.domain,
            timeout=None,  # one deadline holds for all of it
        )

    async def _attempt(self, line: _Line, mail: Mail, content: bytes, progress: _Progress) -> Outcome:
        """One mail on one connection, which is kept afterwards if it can be."""
        client = line.client
        try:
            if not client.is_connected:
                await self._connect(client, progress)
            outcome = await _transfer(line, mail, content, progress)
        except _NotOffered as missing:
            client.close()
            return Halt(reason=str(missing))
        except (
            SMTPResponseException
        ) as answered:  # in the middle of making a connection, or answered in no code
            client.close()
            if progress.dot_was_sent:
                return _broken(progress, "the mail server answered what is no SMTP")
            return outcome_of(progress.phase, answered.code, answered.message)
        except (SMTPException, OSError) as error:
            client.close()
            return _broken(progress, _reason(error))
        except BaseException:  # cancelled in the middle of a mail: nobody else may go on where it stopped
            client.close()
            raise
        if client.is_connected and len(self._idle) < self.concurrency:
            line.waits_since = time.monotonic()
            self._idle.append(line)
        else:
            client.close()
        return outcome

    async def _connect(self, client: SMTP, progress: _Progress) -> None:
        progress.phase = "connect"
        await client.connect()
        await client.ehlo()
        if self._settings.smtp_tls == "starttls":
            if not client.supports_extension("starttls"):
                raise _NotOffered("the mail server offers no STARTTLS")
            await client.starttls(tls_context=self._tls)
            await client.ehlo()
        if self._settings.smtp_username is not None:
            progress.phase = "auth"
            if not client.supports_extension("auth") or not client.supported_auth_methods:
                raise _NotOffered("the mail server offers no AUTH that can be used")
            await client.login(self._settings.smtp_username, self._settings.smtp_password or "")


class _NotOffered(Exception):
    """The server lacks what the settings ask for."""


async def _transfer(line: _Line, mail: Mail, content: bytes, progress: _Progress) -> Outcome:
    """
    MAIL, RCPT, DATA, the mail, its dot. Raises what aiosmtplib raises when the connection breaks.

    The mail is written here: only so is it known whether the dot was handed to the network.
    """
    client = line.client
    try:
        progress.phase = "mail"
        if not line.is_clean:
            await client.rset()
            line.is_clean = True
        await client.mail(mail.sender.address)
        line.is_clean = False
        progress.phase = "rcpt"
        await client.rcpt(mail.recipient)
    except SMTPResponseException as refused:
        return outcome_of(progress.phase, refused.code, refused.message)
    progress.phase = "data"
    code, text = await client.execute_command(b"DATA")
    if code != 354:
        return outcome_of("data", code, text)
    protocol = client.protocol
    if protocol is None:
        raise SMTPServerDisconnected("closed before the mail")
    transport = cast(asyncio.WriteTransport, client.transport)
    transport.set_write_buffer_limits(0)  # so that drained means handed to the network
    protocol.write(re.sub(rb"(?m)^\.", b"..", content))
    await protocol._drain_helper()
    progress.phase = "content"
    protocol.write(b".\r\n")  # raises where the connection has gone, and then nothing was sent
    progress.dot_was_sent = True
    code, text = await protocol.read_response()
    if 200 <= code < 300:
        line.is_clean = True
        return Sent(provider_ref=mail.headers["Message-ID"], is_final=True)
    if not 400 <= code < 600:
        raise SMTPResponseException(code, text)
    progress.dot_was_sent = False  # it was, and the server has said that it does not keep the mail
    line.is_clean = True
    if code == 421:
        client.close()
    return outcome_of("content", code, text)


def _broken(progress: _Progress, reason: str) -> Outcome:
    return Unknown(reason=f"{reason} after it was sent") if progress.dot_was_sent else Retry(reason=reason)


def _reason(error: Exception) -> str:
    """In our words: the library's hold names and addresses."""
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "the mail server's certificate or its TLS was refused"
    if isinstance(error, SMTPTimeoutError):
        return "no answer from the mail server in time"
    if isinstance(error, SMTPServerDisconnected):
        return "the connection to the mail server broke"
    return "no connection to the mail server"


# --- SendGrid --------------------------------------------------------------------------------------------------------


class SendGridProvider:
    """SendGrid's Web API v3: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send."""

    name = "sendgrid"

    def __init__(self, settings: EmailSettings, api_key: str, http: aiohttp.ClientSession) -> None:
        self.concurrency = settings.email_concurrency
        self.rate = settings.email_rate
        self._url = f"{settings.sendgrid_base_url}/v3/mail/send"
        self._account = settings.sendgrid_base_url.partition("://")[2]
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        self._timeout = aiohttp.ClientTimeout(total=settings.email_timeout.total_seconds(), sock_connect=4)
        self._sender = settings.sender
        self._http = http

    def account_of(self, address: Address) -> str:
        return self._account

    async def send(self, message: Message) -> Outcome:
        try:
            mail = compose(message, self._sender)
        except BadMail as refused:
            return Fail(reason=str(refused))
        body = msgspec.json.encode(sendgrid_body(mail, message))
        answer = await post(self._http, self._url, body, headers=self._headers, timeout=self._timeout)
        return _sendgrid_outcome(answer) if isinstance(answer, Answer) else answer


def sendgrid_body(mail: Mail, message: Message) -> dict[str, Any]:
    """
    The request body. Text stands before HTML, as it must; nothing is tracked, and no link rewritten.

    custom_args come back with every event.
    """
    off = {"enable": False}
    body: dict[str, Any] = {
        "personalizations": [{"to": [_person(mail.recipient, mail.recipient_name)]}],
        "from": _person(mail.sender.address, mail.sender.name),
        "subject": mail.subject,
        "content": [
            {"type": "text/plain", "value": mail.text},
            {"type": "text/html", "value": mail.html},
        ],
        "headers": dict(mail.headers),
        "custom_args": {"delivery_id": str(message.delivery_id), "tenant": message.tenant_id},
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": off,
            "subscription_tracking": off,
            "ganalytics": off,
        },
    }
    if mail.sender.reply_to is not None:
        body["reply_to"] = {"email": mail.sender.reply_to}
    return body


def _person(address: str, name: str | None) -> dict[str, str]:
    return {"email": address, "name": name.strip()} if name and name.strip() else {"email": address}


def _sendgrid_outcome(answer: Answer) -> Outcome:
    """https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses"""
    code = str(answer.status)
    match answer.status:
        case 200 | 202:
            return Sent(provider_ref=answer.headers.get("x-message-id"))
        case 400:
            name = _field_at_fault(answer)
            return Fail(
                reason=f"SendGrid refuses the request: {name}" if name else "SendGrid refuses the request",
                code=code,
                address_is_dead=name == "personalizations.0.to.0.email",
            )
        case 401:
            return Halt(reason="SendGrid refuses the API key, or the account has no credits", code=code)
        case 403:
            return Halt(reason="SendGrid refuses this sender, or the API key may not send", code=code)
        case 413:
            return Fail(reason="the mail is too big for SendGrid", code=code)
        case 408:
            return Retry(reason="SendGrid did not get the request in time", code=code)
        case 429:
            return Retry(
                reason="SendGrid has had enough for now",
                code=code,
                after=answer.retry_after or _until_reset(answer),
                throttled=True,
            )
        case 502 | 504:  # a gateway's: what stands behind it may have taken the mail
            return Unknown(reason="SendGrid's gateway lost the answer", code=code)
        case status if status >= 500:
            return Retry(reason="SendGrid has an error of its own", code=code, after=answer.retry_after)
    return Fail(reason="SendGrid does not take such requests", code=code)


def _field_at_fault(answer: Answer) -> str | None:
    """The first field that SendGrid names: `{"errors": [{"message", "field", "help"}]}`; its words may hold ours."""
    errors = answer.json().get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    name = first.get("field") if isinstance(first, dict) else None
    return name if isinstance(name, str) and re.fullmatch(r"[a-z0-9_.]{1,64}", name) else None


def _until_reset(answer: Answer) -> timedelta | None:
    """X-RateLimit-Reset, seconds since the epoch, by the server's own clock."""
    text = answer.headers.get("x-ratelimit-reset", "")
    if not re.fullmatch(r"[0-9]{1,12}", text):
        return None
    try:
        now = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        now = time.time()
    return timedelta(seconds=min(max(int(text) - now, 0), 86400))
