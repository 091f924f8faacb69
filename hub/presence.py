"""
Who is there now, and who is looking.

Each node holds a lease on every person connected to it and renews it; a node that dies takes its leases with
it when they run out. A person is online while a lease lives, and looking while one of them says that a page is
visible. It is a hint for sparing a push and for limits, never for correctness: without it nobody is looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from core.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceSettings:
    """Presence leases. From HUB_PRESENCE_*."""

    lease: timedelta = timedelta(seconds=60)  # unrenewed for so long: the node or the person is gone
    renew_interval: timedelta = timedelta(seconds=20)  # how often a node renews; three chances per lease
    keep: timedelta = timedelta(days=30)  # how long "last seen" is remembered
    timeout: timedelta = timedelta(seconds=0.25)  # of one question; later nobody is looking


@dataclass(frozen=True, slots=True)
class Lease:
    """What one node says of one person. `connections` 0 ends it."""

    tenant_id: str
    user_id: str
    node: str
    visible: bool  # at least one of the connections belongs to a visible page
    connections: int = 1


@dataclass(frozen=True, slots=True)
class LastSeen:
    """One person, over all nodes."""

    online: bool = False
    looking: bool = False
    connections: int = 0
    at: datetime | None = None  # aware, UTC: the last renewal; None: never, forgotten, or not known


class Presence(Protocol):
    """Never raises for a store that is away: then nothing is kept, and nobody is online."""

    async def touch(
        self, tenant_id: str, user_id: str, node: str, visible: bool, connections: int = 1
    ) -> None:
        """Take or renew a node's lease on a person."""
        ...

    async def touch_many(self, leases: Iterable[Lease]) -> None:
        """Take or renew many leases; what a node does at every renewal."""
        ...

    async def leave(self, tenant_id: str, user_id: str, node: str) -> None:
        """End a node's lease on a person: their last connection there is closed."""
        ...

    async def looking(self, tenant_id: str, user_id: str) -> bool:
        """A live lease is visible: the person has the app before their eyes."""
        ...

    async def online(self, tenant_id: str, user_ids: Sequence[str]) -> dict[str, LastSeen]:
        """An entry for each of the persons asked for."""
        ...

    async def connections(self, tenant_id: str, user_id: str, *, besides: str | None = None) -> int:
        """
        How many connections live leases hold.

        besides: a node to leave out; it knows its own count better. So a limit is judged per node when this is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """One node's lease as it is kept."""

    ends: datetime
    connections: int
    visible: bool


def last_seen(leases: Iterable[Held], at: datetime | None, now: datetime) -> LastSeen:
    """What the leases say of one person at a moment. A lease that ends now has ended."""
    live = [lease for lease in leases if lease.ends > now]
    return LastSeen(
        online=bool(live),
        looking=any(lease.visible for lease in live),
        connections=sum(lease.connections for lease in live),
        at=at,
    )


class _Person:
    """What this process knows of one person."""

    __slots__ = ("at", "leases")

    def __init__(self, at: datetime) -> None:
        self.leases: dict[str, Held] = {}
        self.at = at


class MemoryPresence:
    """Presence inside one process."""

    def __init__(self, settings: PresenceSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._people: dict[tuple[str, str], _Person] = {}
        self._swept = clock.now()

    async def touch(
        self, tenant_id: str, user_id: str, node: str, visible: bool, connections: int = 1
    ) -> None:
        await self.touch_many([Lease(tenant_id, user_id, node, visible, connections)])

    async def touch_many(self, leases: Iterable[Lease]) -> None:
        now = self._clock.now()
        ends = now + self._settings.lease
        for lease in leases:
            person = self._people.setdefault((lease.tenant_id, lease.user_id), _Person(now))
            person.at = now
            if lease.connections:
                person.leases[lease.node] = Held(ends, lease.connections, lease.visible)
            else:
                person.leases.pop(lease.node, None)
        self._sweep(now)

    async def leave(self, tenant_id: str, user_id: str, node: str) -> None:
        await self.touch(tenant_id, user_id, node, False, 0)

    async def looking(self, tenant_id: str, user_id: str) -> bool:
        return self._last_seen(tenant_id, user_id).looking

    async def online(self, tenant_id: str, user_ids: Sequence[str]) -> dict[str, LastSeen]:
        return {user_id: self._last_seen(tenant_id, user_id) for user_id in user_ids}

    async def connections(self, tenant_id: str, user_id: str, *, besides: str | None = None) -> int:
        return self._last_seen(tenant_id, user_id, besides).connections

    def _last_seen(self, tenant_id: str, user_id: str, besides: str | None = None) -> LastSeen:
        now = self._clock.now()
        person = self._people.get((tenant_id, user_id))
        if person is None or person.at + self._settings.keep <= now:
            return LastSeen()
        leases = (lease for node, lease in person.leases.items() if node != besides)
        return last_seen(leases, person.at, now)

    def _sweep(self, now: datetime) -> None:
        """Forget, once per lease, whom `keep` no longer remembers and which nodes have died."""
        if now < self._swept + self._settings.lease:
            return
        self._swept = now
        for key, person in list(self._people.items()):
            if person.at + self._settings.keep <= now:
                del self._people[key]
            else:
                person.leases = {node: lease for node, lease in person.leases.items() if lease.ends > now}
