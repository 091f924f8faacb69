"""How much one person may ask of a node. Services are not held to a rate: the queue of the ingest holds them."""

from __future__ import annotations

from core.clock import Clock
from core.errors import ServiceError
from core.identity import Identity
from hub.limits import Rate, TokenBucket

#: People remembered at once. Whoever was here first is forgotten first, and begins with a full bucket again.
REMEMBERED = 20_000


class Throttle:
    """The requests of every person, counted on this node. holds_services: and of every service."""

    def __init__(self, rate: Rate, clock: Clock, *, holds_services: bool = False) -> None:
        self._rate = rate
        self._clock = clock
        self._holds_services = holds_services
        self._buckets: dict[tuple[str, str], TokenBucket] = {}  # oldest first

    def admit(self, identity: Identity) -> None:
        """Count one request. Raises ServiceError (rate_limited) with the time after which there is room again."""
        if identity.kind != "user" and not self._holds_services:
            return
        person, now = (identity.tenant_id, identity.user_id), self._clock.monotonic()
        bucket = self._buckets.get(person)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[person] = TokenBucket(self._rate, now)
        if wait := bucket.take(now):
            raise ServiceError("rate_limited", retry_after=wait)
