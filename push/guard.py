"""
Where pushes may go. An endpoint is a URL that a stranger has chosen, so it must not lead to what only this host
can reach (RELIABILITY, threat 15).

Twice: by its text, when a browser subscribes and again before every push; and by the address behind its name, at
the moment a connection is made, to just that address. A check at subscription alone is undone by changing DNS.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from core.networks import is_public
from push.subscription import ENDPOINT_MAX_CHARACTERS, BadSubscription

HTTPS_PORT = 443

#: What a URL is made of on the wire; nothing here can end a line of a request.
_VISIBLE = re.compile(r"[\x21-\x7e]+")

_PATH = re.compile(r"[\x21-\x22\x24-\x5b\x5d-\x7e]*")  # of it, without # and \\

#: A part of a path that is . or .. in somebody's reading (WHATWG URL, "single-dot" and "double-dot URL path segment").
_DOTS = re.compile(r"(^|/)(\.|%2e){1,2}(/|$)", re.IGNORECASE)

#: A host whose last label is one of these is an address in somebody's reading (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")

#: Hosts that need not be read again.
_REMEMBERED = 4096

#: Names of strangers that are looked up at the same time, and that wait for it, those included.
_STRANGERS_AT_ONCE = 2
_STRANGERS_WAITING = 64

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Whereabouts(Protocol):
    """
    What the settings say about it.

    hosts: that are pushed to; `*.suffix` stands for every name below, not for the suffix itself. any_host: any
    host of the open internet, for installations whose people bring push services of their own.
    resolve: `origin=host:port` each: connections for that origin go there, unchecked; for tests.
    """

    @property
    def hosts(self) -> Collection[str]: ...
    @property
    def any_host(self) -> bool: ...
    @property
    def resolve(self) -> Collection[str]: ...


class Blocked(Exception):
    """A connection that is not made: its name leads into a network that is not the open internet."""


class Address(NamedTuple):
    """One end that may be dialled: a literal address of IP and a port."""

    host: str
    port: int


def check_endpoint(text: str, settings: Whereabouts) -> str:
    """
    The origin of an endpoint that may be pushed to: `https://host`, in lower case, without a dot at its end.

    Raises BadSubscription, which repeats nothing of the endpoint.
    """
    if len(text) > ENDPOINT_MAX_CHARACTERS:
        raise _refused(f"must have at most {ENDPOINT_MAX_CHARACTERS} characters")
    if text[:8].lower() != "https://":
        raise _refused("must begin with https://")
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
    except ValueError:
        raise _refused("must be a URL") from None
    if "@" in parts.netloc:
        raise _refused("must hold no user name")
    rest = text.partition("://")[2].removeprefix(parts.netloc)
    # urlsplit drops tabs and line ends without a word, so it is the text that is looked at.
    if not name or "#" in rest or "\\" in text or (rest and not _VISIBLE.fullmatch(rest)):
        raise _refused("must be a URL of https, in ASCII and without a fragment")
    if _DOTS.search(parts.path):  # no browser writes these, and readers differ in what they make of them
        raise _refused("must have a path without dots for its parts")
    host = normalised_host(name)
    origin = f"https://{f'[{host}]' if ':' in host else host}"
    if port not in (None, HTTPS_PORT):
        origin += f":{port}"
    if origin in overrides(settings):
        return origin
    if port not in (None, HTTPS_PORT):
        raise _refused("must be on port 443")
    if is_literal(host):
        if not settings.any_host or not is_public(host):
            raise _refused("must not be an address of IP" if not settings.any_host else _CLOSED)
    elif not settings.any_host and not is_listed(host, settings.hosts):
        raise _refused("is not of a push service that this installation sends to")
    return origin


def target(endpoint: str) -> str:
    """Path and query of an endpoint that was checked, as they are."""
    _, slash, path = endpoint[8:].partition("/")
    if slash and "?" not in endpoint[: -len(path) - 1]:
        return f"/{path}"
    url = urlsplit(endpoint)
    return f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"


_CLOSED = "must lead into the open internet"


def normalised_host(name: str) -> str:
    """
    A host as it is compared and dialled: in lower case, in ASCII (IDNA), without a dot at its end.

    Raises BadSubscription.
    """
    if ":" in name:
        try:
            return str(IPv6Address(name))
        except ValueError:
            raise _refused("must name a host") from None
    try:
        host = name.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        raise _refused("must name a host") from None
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("must name a host")
    if _NUMBER.fullmatch(labels[-1]) and not is_literal(host):
        raise _refused("must name a host")  # 127.1, 0x7f000001, 2130706433: other spellings of an address
    return host


def is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_listed(host: str, hosts: Collection[str]) -> bool:
    """Whether a list of hosts holds this one: by name, or by `*.suffix` from below the suffix."""
    return host in hosts or any(
        one.startswith("*.") and host.endswith(one[1:]) and len(host) > len(one) - 1 for one in hosts
    )


def overrides(settings: Whereabouts) -> Mapping[str, Address]:
    """Where connections for an origin go instead. Raises ValueError for a text that is not `origin=host:port`."""
    return _overrides(frozenset(settings.resolve))


@lru_cache(maxsize=8)
def _overrides(texts: frozenset[str]) -> Mapping[str, Address]:
    read = {}
    for text in texts:
        origin, _, target = text.partition("=")
        host, _, port = target.rpartition(":")
        if not origin.startswith("https://") or not is_literal(host.strip("[]")) or not port.isdecimal():
            raise ValueError("must be origin=address:port, as in https://push.example=127.0.0.1:8443")
        read[origin] = Address(host.strip("[]"), int(port))
    return read


def _refused(message: str) -> BadSubscription:
    return BadSubscription("endpoint", message)


# --- when a connection is made ---------------------------------------------------------------------------------------


class Resolver(Protocol):
    """What knows the addresses of a name."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Literal addresses, in the order in which to try them. Raises OSError."""
        ...


class SystemResolver:
    """The resolver of this machine."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class StrangersResolver:
    """
    The resolver of this machine for names that strangers have chosen, whose servers may never answer: in threads of
    its own, a name once however many ask, and not again for a while where nothing came of it. So it is only other
    strangers who wait.

    memory: for how long a name is not asked for again.
    """

    def __init__(self, memory: timedelta = timedelta(seconds=30)) -> None:
        self._memory_s = memory.total_seconds()
        self._threads = ThreadPoolExecutor(_STRANGERS_AT_ONCE, "push-names")
        self._under_way: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}
        self._waiting: Counter[tuple[str, int]] = Counter()
        self._begun: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], float] = {}  # until when, the oldest first

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        loop, name = asyncio.get_running_loop(), (host, port)
        if self._failed.get(name, 0) > loop.time():
            raise OSError("not found a moment ago")
        asked = self._under_way.get(name)
        if asked is None:
            if len(self._under_way) >= _STRANGERS_WAITING:
                raise OSError("too many names are looked up")
            asked = loop.run_in_executor(self._threads, self._look_up, name)
            self._under_way[name] = asked
            asked.add_done_callback(partial(self._ended, name))
        self._waiting[name] += 1
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            if name in self._begun:  # else it has only waited for others
                self._remember(name, loop.time())
            elif self._waiting[name] == 1:
                asked.cancel()
            raise
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]

    def _look_up(self, name: tuple[str, int]) -> Sequence[str]:
        self._begun.add(name)
        found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def _ended(self, name: tuple[str, int], asked: asyncio.Future[Sequence[str]]) -> None:
        self._under_way.pop(name, None)
        self._begun.discard(name)
        if not asked.cancelled() and asked.exception() is not None:
            self._remember(name, asked.get_loop().time())

    def _remember(self, name: tuple[str, int], now: float) -> None:
        self._failed.pop(name, None)
        self._failed[name] = now + self._memory_s
        if len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]


class Guard:
    """
    Says where a connection for an origin may be made to. blocked: how often it has said nowhere.

    resolver: in place of the system's.
    """

    def __init__(self, settings: Whereabouts, resolver: Resolver | None = None) -> None:
        self.blocked = 0
        self._taken: dict[str, str] = {}  # what stands before the path, and its origin
        self._settings = settings
        self._resolver = resolver or SystemResolver()
        self._strangers = resolver or StrangersResolver()

    def check(self, endpoint: str) -> str:
        """As `check_endpoint`, counted; a host that was taken once is known. Raises BadSubscription."""
        base, slash, path = endpoint[8:].partition("/")
        origin = self._taken.get(base)
        if origin is not None and len(endpoint) <= ENDPOINT_MAX_CHARACTERS and _PATH.fullmatch(path):
            return origin
        try:
            origin = check_endpoint(endpoint, self._settings)
        except BadSubscription:
            self.blocked += 1
            raise
        if slash and endpoint.startswith("https://"):
            if len(self._taken) >= _REMEMBERED:
                self._taken.clear()
            self._taken[base] = origin
        return origin

    async def addresses(self, host: str, port: int = HTTPS_PORT) -> Sequence[Address]:
        """
        The checked addresses of a host; the name is asked for once, and what comes back is what is dialled.

        One closed address among open ones damns them all: no push service has such a name.

        Raises Blocked, and OSError for a name that is not found.
        """
        name = f"[{host}]" if ":" in host else host
        origin = f"https://{name}" if port == HTTPS_PORT else f"https://{name}:{port}"
        instead = overrides(self._settings).get(origin)
        if instead is not None:
            return (instead,)
        if is_literal(host):
            found: Sequence[str] = [host]
        elif is_listed(host, self._settings.hosts):
            found = await self._resolver.resolve(host, port)
        else:
            found = await self._strangers.resolve(host, port)
        if not found:
            raise OSError("no address")
        if not all(is_public(address) for address in found):
            self.blocked += 1
            raise Blocked("leads into a network that is not the open internet")
        return [Address(address, port) for address in found]
