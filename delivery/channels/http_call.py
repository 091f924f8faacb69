"""
One POST to a provider, with its ends told apart: it never left, it was answered, or the answer was lost.

What aiohttp raises holds the URL, and a URL may hold a token, so nothing of it goes further than here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.payload import BytesPayload

from core.outcome import Retry, Unknown

#: One call, within the worker's deadline for a provider. A connection is made in the first part of it.
TIMEOUT = aiohttp.ClientTimeout(total=7.5, sock_connect=4)

#: What is read of an answer; no provider's is nearly as long.
ANSWER_MAX_BYTES = 64 * 1024

#: The longest Retry-After that is believed.
_LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What a provider answered.

    headers: by lower-case names. body: empty where it was too long, or broke off.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Mapping[str, Any]:
        """The JSON object of the body; empty where there is none."""
        try:
            document = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def retry_after(self) -> timedelta | None:
        """Retry-After (RFC 9110 §10.2.3): seconds, or a date, which is read by the provider's own clock."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return min(timedelta(seconds=int(text[:9])), _LONGEST_WAIT)
        try:
            until = parsedate_to_datetime(text)
            now = parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError):  # no date, and no date to compare it with
            return None
        wait = until.replace(tzinfo=until.tzinfo or UTC) - now.replace(tzinfo=now.tzinfo or UTC)
        return min(max(wait, timedelta(0)), _LONGEST_WAIT)


async def post(
    http: aiohttp.ClientSession,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout: aiohttp.ClientTimeout = TIMEOUT,
) -> Answer | Retry | Unknown:
    """
    Send a body, which is not empty, and read the answer. Redirects are answers; they are not followed.

    Retry: not one byte of the body was handed to the network, so the provider cannot have acted on it.
    Unknown: it may have. Raises nothing for what the network or the provider does.
    """
    payload = _Watched(body)
    try:
        async with http.post(
            url,
            data=payload,
            headers={"Accept-Encoding": "identity", **headers},
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=await _read(response),
            )
    except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
        reason = _reason(error)
    return Unknown(reason=f"{reason} after it was sent") if payload.has_left else Retry(reason=reason)


def base_url(name: str, url: str) -> str:
    """
    The base of a provider's API as it was given. name: of its setting, for the error.

    Raises ValueError, which repeats nothing of the URL, unless it is https, or http on this machine, without a
    user name, query or fragment.
    """
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and (parts.port or 1) > 0 and url.isascii() and url.isprintable()
    except ValueError:
        raise ValueError(f"{name} is no URL") from None
    if not sound or " " in url or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{name} is an https address without a user name or a query")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError(f"{name} is an https address; http is for this machine only")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Watched(BytesPayload):
    """A body that knows whether it has been handed to a connection that was open."""

    has_left = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        # aiohttp writes nothing where the connection is closed: the usual end of one kept for reuse.
        self.has_left = not isinstance(writer, StreamWriter) or _is_open(writer)
        await super().write_with_length(writer, content_length)


def _is_open(writer: StreamWriter) -> bool:
    transport = writer.transport
    return transport is not None and not transport.is_closing()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body; empty for one that breaks off or is too long: the status has been said all the same."""
    body = bytearray()
    try:
        async for part in response.content.iter_any():
            body += part
            if len(body) > ANSWER_MAX_BYTES:
                response.close()
                return b""
    except (aiohttp.ClientError, OSError):
        return b""
    return bytes(body)


def _reason(error: Exception) -> str:
    """In our words: its own may hold the address."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "the provider's certificate was refused"
        case aiohttp.ClientConnectorDNSError():
            return "the provider's name was not found"
        case aiohttp.ConnectionTimeoutError():
            return "no connection to the provider in time"
        case aiohttp.ClientConnectorError():
            return "no connection to the provider"
        case TimeoutError():
            return "no answer from the provider in time"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "the provider's answer was no HTTP"
        case aiohttp.InvalidURL():
            return "the provider's address is no URL"
    return "the connection to the provider broke"
