"""What the handlers work with: made in app/build.py, handed over as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.api.auth import Authenticate
from app.api.checks import Health
from app.api.metrics import Metrics
from app.api.throttle import Throttle
from app.delivering import Delivering
from core.clock import Clock
from core.revocation import Revocation
from delivery.api_keys_store import ApiKeys
from delivery.inbox import PostgresInbox
from delivery.ingest import Ingest
from delivery.revocations_store import RevocationStore
from delivery.store import Notifications
from delivery.tickets_store import Tickets
from digest.job import DigestJob
from digest.store import Digests
from hub.limits import Rate
from hub.node import Node
from hub.peers import Peers
from hub.presence import Presence
from hub.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The HTTP edge. From HUB_CORS_ORIGINS, HUB_TRUSTED_HOSTS, HUB_ACTION_HOSTS, PUSH_TEST_RATE."""

    cors_origins: frozenset[str] = frozenset()  # exact, as browsers write them; "*" is every one
    trusted_hosts: frozenset[str] = frozenset()  # lower case, without ports; empty: any
    action_hosts: frozenset[str] = frozenset()  # where an action_url may lead besides our own site
    open_metrics: bool = False  # /metrics without a token: where only the internal listener serves it
    request_rate: Rate = Rate(20, burst=200)  # of one person, on this node; services are not held to it
    push_test_rate: Rate = Rate(0.1, burst=5)  # of one person's tests of their browsers, on this node
    version: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything there is to call."""

    settings: ApiSettings
    clock: Clock
    authenticate: Authenticate
    ingest: Ingest
    notifications: Notifications
    inbox: PostgresInbox
    tickets: Tickets
    api_keys: ApiKeys
    revocations: RevocationStore
    announce: Callable[[Revocation], None]  # a revocation that is stored: this node and the others act on it
    publisher: Publisher
    node: Node
    peers: Peers
    presence: Presence
    delivery: Delivering
    digests: Digests
    digest_job: DigestJob
    push_tests: Throttle  # they go past the outbox
    health: Health
    metrics: Metrics
