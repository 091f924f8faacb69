"""
The public keys of the token issuer, fetched from JWKS_URL and kept fresh in the Verifier.

Losing the issuer costs nothing but news: the keys that were fetched last stay in use.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

import aiohttp
import structlog
from yarl import URL

from core.clock import Clock
from core.identity import Identity, UnknownKey, Verifier
from core.keys import InvalidKey, Published, read_jwks

log = structlog.stdlib.get_logger("app.jwks")

MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksSettings:
    """Where the issuer publishes its keys. From JWKS_*. Raises ValueError for an address that is not safe."""

    url: str  # https, or http on this machine
    refresh: timedelta = timedelta(minutes=10)
    retry: timedelta = timedelta(seconds=30)  # after a failure
    unknown_key_pause: timedelta = timedelta(seconds=10)  # between fetches that tokens ask for
    deadline: timedelta = timedelta(seconds=5)  # one fetch, redirects included
    max_bytes: int = 64 * 1024  # of the document
    allow_http: bool = False  # also to other machines: only where the network itself is trusted

    def __post_init__(self) -> None:
        url = URL(self.url)
        if url.scheme not in ("https", "http") or not url.host or url.user or url.password:
            raise ValueError("JWKS_URL is an https address without a user name")
        if url.scheme == "http" and not self.allow_http and not _is_loopback(url.host):
            raise ValueError("JWKS_URL is an https address; http is for this machine only")


class FetchFailed(Exception):
    """The document could not be had. The message names no address."""


class PublishedKeys:
    """
    Keeps the Verifier's public keys equal to what the issuer publishes, beside the keys it has already.

    `run` refreshes them until it is cancelled; `verify` is how callers with tokens come in; `close`
    ends a fetch that is under way.
    """

    def __init__(
        self, settings: JwksSettings, verifier: Verifier, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._own = verifier.keys
        self._session = session
        self._clock = clock
        self._published: Published | None = None
        self._attempted_at: float | None = None  # monotonic
        self._fetch: asyncio.Task[bool] | None = None
        self.fetched_at: datetime | None = None  # None: not yet, so tokens of the issuer are refused
        self.failure: str | None = None  # why the last attempt failed; None: it did not

    async def run(self) -> None:
        """Fetch the keys now and again and again. Ends only by cancellation."""
        while True:
            fresh = await self.refresh()
            pause = self._settings.refresh if fresh else self._settings.retry
            await self._clock.sleep(pause.total_seconds())

    async def verify(self, token: str) -> Identity:
        """
        The caller behind a token, as Verifier.verify has it. A `kid` that is not known may be a new
        key: the document is fetched for it, but seldom, so that invented kids cost the issuer nothing.
        """
        try:
            return self._verifier.verify(token, self._clock.now().timestamp())
        except UnknownKey:
            if not await self._refresh_for_unknown_key():
                raise
        return self._verifier.verify(token, self._clock.now().timestamp())

    async def refresh(self) -> bool:
        """
        Fetch the keys; whether that succeeded. Whoever asks during a fetch waits for that one, and
        somebody who gives up waiting does not end it for the others.
        """
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._refresh(), name="jwks fetch")
        return await asyncio.shield(self._fetch)

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])

    async def _refresh_for_unknown_key(self) -> bool:
        under_way = self._fetch is not None and not self._fetch.done()
        pause = self._settings.unknown_key_pause.total_seconds()
        rested = self._attempted_at is None or self._clock.monotonic() - self._attempted_at >= pause
        return await self.refresh() if under_way or rested else False

    async def _refresh(self) -> bool:
        self._attempted_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.deadline.total_seconds()):
                document = await self._document()
            published = read_jwks(document)
            self._verifier.replace_keys(self._own | published.keys)
        except (FetchFailed, InvalidKey) as error:
            return self._failed(str(error))
        except TimeoutError:
            return self._failed("no answer in time")
        except aiohttp.ClientError as error:  # its text may hold the address
            return self._failed(type(error).__name__)
        if published != self._published:
            log.info(
                "jwks_changed", keys=len(published.keys), refused=[tuple(key) for key in published.refused]
            )
        elif self.failure is not None:
            log.info("jwks_reachable_again", keys=len(published.keys))
        self._published = published
        self.fetched_at = self._clock.now()
        self.failure = None
        return True

    def _failed(self, reason: str) -> bool:
        known = 0 if self._published is None else len(self._published.keys)
        log.warning("jwks_refresh_failed", reason=reason, keys_kept=known)
        self.failure = reason
        return False

    async def _document(self) -> bytes:
        """Raises FetchFailed and what aiohttp raises."""
        url = URL(self._settings.url)
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    url = _redirected(url, response.headers.get("Location", ""))
                elif response.status == 200:
                    return await self._read(response)
                else:
                    raise FetchFailed(f"answered {response.status}")
        raise FetchFailed(f"redirected more than {MAX_REDIRECTS} times")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > self._settings.max_bytes:
                raise FetchFailed(f"the document is larger than {self._settings.max_bytes} bytes")
        return bytes(body)


def _redirected(url: URL, location: str) -> URL:
    """Where a redirect leads, if that is the same server."""
    try:
        target = url.join(URL(location))
        same = target.origin() == url.origin()
    except ValueError:
        raise FetchFailed("redirected to no address") from None
    if not same:
        raise FetchFailed("redirected to another server")
    return target


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
