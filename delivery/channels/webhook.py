"""
Webhooks to whoever has given us a URL: signed as Standard Webhooks asks (https://www.standardwebhooks.com), or in
the form of a chat where the URL is one's.

The URL is somebody else's choice, so it must not lead to what only this host can reach: every connection is judged
by the address it is made to, at the moment at which it is made, and no redirect is followed.
"""

from __future__ import annotations

import hmac
import socket
import ssl
import time
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from core.networks import is_public
from core.outcome import Fail, Outcome, Retry, Sent
from delivery.channel import Address, Message, Provider
from delivery.channels.chats import Chat, TooLong, chat_of, words_of
from delivery.channels.http_call import Answer, post

_SECRET_PREFIX = "whsec_"

#: The longest that a receiver can ask for.
_LONGEST_WAIT = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Webhooks."""

    timeout: timedelta = timedelta(
        seconds=7.5
    )  # one call, with its connection; below DELIVERY_PROVIDER_TIMEOUT
    concurrency: int = 64  # calls under way at once
    rate: float | None = None  # calls per second; None: no limit
    http: bool = False  # take http:// too, which anybody on the way can read
    private: bool = False  # reach private networks and this host; for development, refused in production
    ca_file: Path | None = None  # certificates (PEM) to trust instead of the system's


def providers(settings: WebhookSettings, http: aiohttp.ClientSession) -> tuple[Provider, ...]:
    """Always one: a webhook needs no credentials of ours. It has connections of its own, which are judged."""
    return (WebhookProvider(settings),)


class WebhookProvider:
    """
    POST to the URL of the address. A repetition has the same webhook-id.

    resolver: in place of the system's. now: seconds since the epoch.
    """

    name = "webhook"

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        resolver: AbstractResolver | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate
        self._settings = settings
        self._resolver = resolver
        self._now = now
        self._http: aiohttp.ClientSession | None = None
        seconds = settings.timeout.total_seconds()
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(4, seconds))

    def account_of(self, address: Address) -> str:
        """The host, with its port where it has one: a host that is down stops nobody else's."""
        return urlsplit(address.value).netloc

    async def send(self, message: Message) -> Outcome:
        url = message.address.value
        schemes = ("https", "http") if self._settings.http else ("https",)
        if urlsplit(url).scheme not in schemes:
            return Fail(reason="the webhook is not https")
        chat = chat_of(url)
        try:
            body = chat_body(chat, message) if chat is not None else webhook_body(message)
            headers = {"Content-Type": "application/json", "User-Agent": "Carillon"}
            if chat is None:
                headers |= signed_headers(
                    message.reference, int(self._now()), body, secret=message.address.secret
                )
        except (TooLong, BadSecret) as refused:
            return Fail(reason=str(refused))
        call = _Call()
        token = _calls.set(call)
        try:
            answer = await post(self._session(), url, body, headers=headers, timeout=self._timeout)
        finally:
            _calls.reset(token)
        if isinstance(answer, Answer):
            return outcome_of(answer, chat)
        if call.was_refused and not call.was_let:
            return Fail(reason="the webhook leads into a network that is not public")
        return answer

    async def close(self) -> None:
        """Close its connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the worker bounds the calls
                    use_dns_cache=False,  # a name is asked for when a connection is made, and not before
                    resolver=self._resolver,
                    ssl=_trusted(self._settings.ca_file),
                    socket_factory=self._socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._http

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """
        The socket of a connection that is about to be made, to just this address; the last place to say no.

        Raises PermissionError.
        """
        family, kind, protocol, _, target = address
        call = _calls.get()
        if not self._settings.private and not is_public(target[0]):
            call.was_refused = True
            raise PermissionError("not a public address")
        call.was_let = True
        return socket.socket(family=family, type=kind, proto=protocol)


class _Call:
    """What became of the addresses of one call."""

    was_refused = False
    was_let = False


#: aiohttp makes connections in tasks of the call, which see its context.
_calls: ContextVar[_Call] = ContextVar("calls")


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    return True if ca_file is None else ssl.create_default_context(cafile=str(ca_file))


# --- what is sent ----------------------------------------------------------------------------------------------------


class BadSecret(ValueError):
    """A secret that nothing can be signed with. The sentence repeats none of it."""


def signed_headers(reference: str, timestamp: int, body: bytes, *, secret: str | None) -> dict[str, str]:
    """
    webhook-id, webhook-timestamp and webhook-signature (Standard Webhooks 1.0, "Signature scheme").

    reference: without a dot, which separates what is signed. timestamp: seconds since the epoch.
    secret: `whsec_` and base64 of the key; None: nobody has agreed on one, and nothing is signed.

    Raises BadSecret.
    """
    headers = {"webhook-id": reference, "webhook-timestamp": str(timestamp)}
    if secret is not None:
        digest = hmac.digest(_key(secret), f"{reference}.{timestamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{b64encode(digest).decode()}"
    return headers


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (Error, ValueError):
        key = b""
    if not key:
        raise BadSecret(f"the secret of the webhook is not {_SECRET_PREFIX} and base64")
    return key


def webhook_body(message: Message) -> bytes:
    """`{"type", "timestamp", "data"}`; of an event its body as it is."""
    if message.event is not None:
        return msgspec.json.encode(message.event)
    data = {
        "id": message.notification_id,
        "delivery_id": message.delivery_id,
        "user_id": message.recipient_id,
        "title": message.title,
        "message": message.text,
        "notification_type": message.notification_type,
        "priority": message.priority,
        "action_url": message.action_url,
        "metadata": message.metadata,
        "created_at": message.created_at,
        "expires_at": message.expires_at,
    }
    return msgspec.json.encode({"type": "notification", "timestamp": message.created_at, "data": data})


def chat_body(chat: Chat, message: Message) -> bytes:
    """Raises TooLong."""
    return msgspec.json.encode(chat.body(words_of(message)))


# --- what is answered ------------------------------------------------------------------------------------------------


def outcome_of(answer: Answer, chat: Chat | None = None) -> Outcome:
    """
    Standard Webhooks, "Delivery": 2xx is success, 410 says that nobody is there any more, 429 and 503 ask for time.

    Of a chat 404 says that, too: the URL is the webhook.
    """
    code = str(answer.status)
    match answer.status:
        case status if 200 <= status < 300:
            if chat is not None and chat.is_refused(answer.body):
                return Retry(reason="the chat took the request and not the message", code=code)
            return Sent(is_final=True)
        case status if 300 <= status < 400:
            return Fail(reason="the webhook leads elsewhere, and redirects are not followed", code=code)
        case 410:
            return Fail(reason="the webhook is gone", code=code, address_is_dead=True)
        case 404 if chat is not None:
            return Fail(reason="the chat has no such webhook", code=code, address_is_dead=True)
        case 408 | 425:
            return Retry(reason="the receiver was not ready", code=code)
        case 429:
            return Retry(
                reason="the receiver has had enough for now",
                code=code,
                after=_wait(answer),
                throttled=True,
            )
        case 503:
            after = _wait(answer)
            return Retry(
                reason="the receiver is not available", code=code, after=after, throttled=after is not None
            )
        case status if status >= 500:
            return Retry(reason="the receiver has an error of its own", code=code)
    return Fail(reason="the receiver refuses it", code=code)


def _wait(answer: Answer) -> timedelta | None:
    """Retry-After, within reason: a stranger does not decide when somebody else's messages go out."""
    return None if answer.retry_after is None else min(answer.retry_after, _LONGEST_WAIT)
