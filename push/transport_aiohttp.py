"""
The second way to push services: aiohttp, for networks that are left through a proxy, and to compare ours with.

It costs several times the processor time of ours. Without a proxy it dials the checked addresses as ours does; a
proxy makes the connections itself, so where a name leads is the proxy's to judge.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.payload import BytesPayload
from yarl import URL

from push.guard import HTTPS_PORT, Blocked, Guard, is_literal
from push.transport import BODY_MAX_BYTES, HEAD_MAX_BYTES, Answer, Broken, Counts, Patience, Post


class AiohttpTransport:
    """proxy: `http://host:port`, with `user:password@` where it wants one."""

    def __init__(
        self, guard: Guard, tls: ssl.SSLContext, patience: Patience, *, proxy: str | None = None
    ) -> None:
        self.counts = Counts()
        self._guard = guard
        self._tls = tls
        self._patience = patience
        self._proxy = proxy
        self._http: aiohttp.ClientSession | None = None

    async def post(self, post: Post) -> Answer | Broken:
        self.counts.requests += 1
        url = urlsplit(post.origin)
        host = url.hostname or ""
        payload = _Watched(post.body)
        try:
            if self._proxy is None and is_literal(host):  # aiohttp asks no resolver for these
                await self._guard.addresses(host, url.port or HTTPS_PORT)
            async with self._session().post(
                URL(post.origin + post.target, encoded=True),
                data=payload,
                headers=(*post.standing, *post.own),
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                return Answer(
                    response.status,
                    {name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers},
                    await _read(response),
                )
        except Blocked as error:
            return Broken(reason=f"the push service {error}", was_handed_over=False, is_blocked=True)
        except (aiohttp.ClientError, OSError) as error:
            blocked = _blocked(error)
            if blocked is not None:
                return Broken(reason=f"the push service {blocked}", was_handed_over=False, is_blocked=True)
            return Broken(reason=_reason(error), was_handed_over=payload.has_left)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the pace of each origin bounds the requests
                    use_dns_cache=False,
                    resolver=None if self._proxy is not None else _Checked(self._guard),
                    ssl=self._tls,
                    keepalive_timeout=self._patience.idle.total_seconds(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                max_line_size=HEAD_MAX_BYTES,
                max_field_size=HEAD_MAX_BYTES,
                timeout=aiohttp.ClientTimeout(
                    total=self._patience.answer.total_seconds(),
                    connect=self._patience.connect.total_seconds(),
                ),
            )
        return self._http


class _Checked(AbstractResolver):
    """The addresses that the guard lets through."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await self._guard.addresses(host, port)
        except Blocked as error:
            raise _BlockedError(str(error)) from error
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=address.port,
                family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """It holds nothing."""


class _BlockedError(OSError):
    """What a resolver may raise."""


class _Watched(BytesPayload):
    """A body that knows whether it was handed to a connection."""

    has_left = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.has_left = True
        await super().write_with_length(writer, content_length)


def _blocked(error: BaseException | None) -> _BlockedError | None:
    while error is not None and not isinstance(error, _BlockedError):
        error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__
    return error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of the body; empty where it broke off."""
    body = bytearray()
    try:
        async for part in response.content.iter_any():
            body += part
            if len(body) > BODY_MAX_BYTES:
                response.close()
                break
    except (aiohttp.ClientError, OSError):
        return b""
    return bytes(body[:BODY_MAX_BYTES])


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientHttpProxyError():
            return "the proxy makes no connection to the push service"
        case aiohttp.ClientProxyConnectionError():
            return "no connection to the proxy"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "the push service's certificate was refused"
        case aiohttp.ClientConnectorDNSError():
            return "the push service's name was not found"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "no connection to the push service"
        case asyncio.TimeoutError():
            return "no answer from the push service in time"
        case aiohttp.ClientResponseError():
            return "the push service's answer was no HTTP"
    return "the connection to the push service broke"
