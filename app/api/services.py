"""What the handlers work with: made in app/build.py, handed over as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.api.auth import Authenticate
from app.api.checks import Health
from app.api.metrics import Metrics
from core.clock import Clock
from delivery.ingest import Ingest
from hub.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The HTTP edge. From HUB_CORS_ORIGINS, HUB_TRUSTED_HOSTS, HUB_ACTION_HOSTS."""

    cors_origins: frozenset[str] = frozenset()  # exact, as browsers write them; "*" is every one
    trusted_hosts: frozenset[str] = frozenset()  # lower case, without ports; empty: any
    action_hosts: frozenset[str] = frozenset()  # where an action_url may lead besides our own site
    open_metrics: bool = False  # /metrics without a token: where only the internal listener serves it
    version: str = "0"


class HubStatus(NamedTuple):
    """One node, counted."""

    node: str
    connections: int
    users: int
    streams: int
    in_doubt: int  # streams that are being compared with the store
    live: bool  # publications of other nodes arrive at once


class Hub(Protocol):
    """What the status pages ask."""

    def status(self) -> HubStatus:
        """This node."""
        ...

    async def nodes(self) -> Sequence[HubStatus]:
        """Every node that holds a lease, this one included."""
        ...


class Presence(Protocol):
    """Who is there now."""

    async def users(self, tenant_id: str, user_ids: Sequence[str]) -> Mapping[str, bool]:
        """Of each, whether a connection of theirs is open. Raises ServiceError (unavailable)."""
        ...

    async def channel(self, tenant_id: str, channel: str) -> int:
        """How many people listen to a channel now. Raises ServiceError (unavailable)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything there is to call."""

    settings: ApiSettings
    clock: Clock
    authenticate: Authenticate
    ingest: Ingest
    publisher: Publisher
    hub: Hub
    presence: Presence
    health: Health
    metrics: Metrics
