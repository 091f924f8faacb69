"""How much one client, person, address and tenant may ask of a node (AIVO-27, X-33). Pure: time is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeVar

from core.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per second on average, and so many at once after a pause."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a rate is above 0 per second and its burst is 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What one node allows. From HUB_*."""

    connections_per_user: int = 10
    connections_per_address: int = 100  # of an IPv4 address, or of an IPv6 network of 64 bits
    connections_per_tenant: int | None = None  # None: no quota
    silent_per_address: int = 20  # connections that have not authenticated yet
    channels_per_connection: int = 100
    messages: Rate = Rate(20, burst=60)  # from one client, control frames included
    handshakes: Rate = Rate(200, burst=400)  # of the whole node
    authentication: timedelta = timedelta(seconds=5)  # until a silent connection is closed
    frame_bytes: int = 64 * 1024  # one inbound message, all its fragments together


class TokenBucket:
    """
    A rate, for one who is held to it. Two numbers, changed in place.

        if wait := bucket.take(clock.monotonic()):
            raise ServiceError("rate_limited", retry_after=wait)
    """

    __slots__ = ("_level", "_rate", "_seen")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = float(rate.burst)
        self._seen = now

    def take(self, now: float) -> float:
        """
        Take one. 0.0 when it was there; else nothing is taken, and the answer is the time until it is.

        now: seconds of a clock that never goes back.
        """
        rate = self._rate
        level = self._level + (now - self._seen) * rate.per_second
        self._seen = now
        if level > rate.burst:
            level = rate.burst
        if level < 1.0 - _ROUNDING:
            self._level = level
            return (1.0 - level) / rate.per_second
        self._level = level - 1.0
        return 0.0


#: Who comes back exactly when told is not sent away for a rounding error.
_ROUNDING = 1e-6

_Key = TypeVar("_Key")

Scope = Literal["user", "address", "tenant", "silent"]


class TooManyConnections(ServiceError):
    """One connection more than its user, address or tenant may have. `scope` says whose limit it is."""

    def __init__(self, scope: Scope) -> None:
        super().__init__("rate_limited", "Too many connections are open.")
        self.scope: Scope = scope


class ConnectionCounts:
    """
    The open connections of this node, by whose they are.

        place = counts.arrive(peer)        # silent: nobody knows yet who it is
        place.identify(tenant_id, user_id)
        place.leave()                      # in a finally; once is enough, twice does no harm

    Each step raises TooManyConnections and then has changed nothing.
    """

    __slots__ = ("_addresses", "_settings", "_silent", "_tenants", "_users")

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._addresses: Counter[str] = Counter()
        self._silent: Counter[str] = Counter()
        self._users: Counter[tuple[str, str]] = Counter()
        self._tenants: Counter[str] = Counter()

    def arrive(self, address: str) -> Place:
        """
        Count a connection that has just been made.

        address: the client's, as the server was told by the socket or a trusted proxy.
        """
        network = network_of(address)
        if self._addresses[network] >= self._settings.connections_per_address:
            raise TooManyConnections("address")
        if self._silent[network] >= self._settings.silent_per_address:
            raise TooManyConnections("silent")
        self._addresses[network] += 1
        self._silent[network] += 1
        return Place(self, network)

    def __len__(self) -> int:
        """All open connections, silent ones included."""
        return self._addresses.total()

    @property
    def silent(self) -> int:
        """Connections that have not authenticated yet."""
        return self._silent.total()

    def of_user(self, tenant_id: str, user_id: str) -> int:
        return self._users.get((tenant_id, user_id), 0)

    def of_tenant(self, tenant_id: str) -> int:
        return self._tenants.get(tenant_id, 0)

    def _identify(self, network: str, tenant_id: str, user_id: str) -> None:
        quota = self._settings.connections_per_tenant
        if self._users[tenant_id, user_id] >= self._settings.connections_per_user:
            raise TooManyConnections("user")
        if quota is not None and self._tenants[tenant_id] >= quota:
            raise TooManyConnections("tenant")
        _less(self._silent, network)
        self._users[tenant_id, user_id] += 1
        self._tenants[tenant_id] += 1

    def _leave(self, network: str, person: tuple[str, str] | None) -> None:
        _less(self._addresses, network)
        if person is None:
            _less(self._silent, network)
        else:
            _less(self._users, person)
            _less(self._tenants, person[0])


class Place:
    """One connection in the counts."""

    __slots__ = ("_counts", "_network", "_person")

    def __init__(self, counts: ConnectionCounts, network: str) -> None:
        self._counts: ConnectionCounts | None = counts
        self._network = network
        self._person: tuple[str, str] | None = None

    def identify(self, tenant_id: str, user_id: str) -> None:
        """Whose connection it turned out to be. Raises TooManyConnections; it is silent still then."""
        assert self._counts is not None, "identified after it left"
        assert self._person is None, "identified twice"
        self._counts._identify(self._network, tenant_id, user_id)
        self._person = (tenant_id, user_id)

    def leave(self) -> None:
        """The connection is gone."""
        if self._counts is not None:
            self._counts._leave(self._network, self._person)
            self._counts = None


def _less(counter: Counter[_Key], key: _Key) -> None:
    """One less, and no entry for none: a node that has seen a million addresses holds those that are there."""
    if counter[key] <= 1:
        del counter[key]
    else:
        counter[key] -= 1


def network_of(address: str) -> str:
    """
    Who is behind an address, as far as limits go: an IPv4 address, written as IPv6 or not, or the
    IPv6 network of 64 bits, since one customer has at least that many (RFC 6177). What is no address
    (a unix socket) stands for itself.
    """
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
