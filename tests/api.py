"""The HTTP edge on a real PostgreSQL, in process: what tests call, and as whom."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from app.api.application import make_app
from app.api.checks import Health, broker, database, epoch
from app.api.metrics import Metrics
from app.api.routes import everything
from app.api.services import ApiSettings, Services
from app.api.throttle import Throttle
from app.authentication import Authentication, RevocationFeed
from app.delivering import delivering
from app.pushing import open_push
from core.clock import SystemClock
from core.database import Database, open_database
from core.identity import TokenSettings, Verifier, mint
from core.keys import Key, KeySet
from core.revocation import Revocations
from core.vault import Vault
from delivery.api_keys_store import ApiKeys
from delivery.inbox import PostgresInbox
from delivery.ingest import Ingest
from delivery.revocations_store import RevocationStore
from delivery.store import Notifications
from delivery.tickets_store import Tickets
from digest.job import DigestJob
from digest.rendering import words
from digest.store import Digests
from hub.broker import MemoryBroker
from hub.envelope import Envelope, Seal
from hub.history_postgres import PostgresHistory
from hub.hub import Hub
from hub.node import Node
from hub.peers import NodeStatus, Peers
from hub.presence import MemoryPresence, PresenceSettings
from push.keys import PushSettings
from tests.postgres import patient
from tests.stores import PATIENT

KEY = Key.secret("a secret of this test, 32 bytes or more")
HOUR = timedelta(hours=1)
TENANT = "school"
OTHER_TENANT = "hospital"


def token(user_id: str = "ada", tenant_id: str = TENANT, **rights: Any) -> str:
    """rights: `scopes`, `roles`, `token_id`, as core.identity.mint has them."""
    now = SystemClock().now().timestamp()
    return mint(KEY, user_id, now=now, life=HOUR, tenant_id=tenant_id, **rights)


def person(user_id: str = "ada", tenant_id: str = TENANT) -> str:
    return token(user_id, tenant_id)


def service(tenant_id: str = TENANT) -> str:
    return token("iep-svc", tenant_id, roles=["service"])


def admin(tenant_id: str = TENANT) -> str:
    return token("root", tenant_id, roles=["admin"])


@dataclass(frozen=True)
class Edge:
    """A served application and what it works with."""

    app: Starlette
    services: Services
    database: Database

    def client(self, presented: str | None = None) -> httpx.AsyncClient:
        """Somebody who presents this token or API key, or nothing."""
        headers = {} if presented is None else {"Authorization": f"Bearer {presented}"}
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://carillon.test", headers=headers)

    async def submit(self, user_id: str = "ada", tenant_id: str = TENANT, **members: Any) -> str:
        """The id of a notification that a service sent to one person."""
        body = {"title": "Hello", "message": "There is news.", "user_id": user_id, **members}
        answer = await self.client(service(tenant_id)).post("/api/v1/notifications", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    def with_services(self, **changed: Any) -> Edge:
        """Another edge over the same services but for some."""
        services = replace(self.services, **changed)
        return Edge(make_app(services, everything()), services, self.database)

    def with_settings(self, **changed: Any) -> Edge:
        """The same services behind an edge with other settings."""
        return self.with_services(settings=replace(self.services.settings, **changed))


@asynccontextmanager
async def serving(dsn: str, *, push: PushSettings | None = None) -> AsyncIterator[Edge]:
    """The whole edge over the real parts, in this event loop."""
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        opened = await open_database(patient(dsn))
        stack.push_async_callback(opened.close)
        history, fan_out = PostgresHistory(opened), MemoryBroker()

        def on_control(envelope: Envelope) -> None:
            feed.on_control(envelope)

        hub = Hub(
            node="here",
            history=history,
            broker=fan_out,
            seal=Seal(b"k" * 32),
            clock=clock,
            on_control=on_control,
        )
        verifier = Verifier(KeySet([KEY]), TokenSettings(), Revocations())

        async def verify(presented: str) -> Any:
            return verifier.verify(presented, clock.now().timestamp())

        api_keys, tickets = ApiKeys(opened, clock), Tickets(opened)
        authentication = Authentication(
            verifier=verifier, verify=verify, api_keys=api_keys, tickets=tickets, clock=clock
        )
        inbox = PostgresInbox(opened, hub)
        presence = MemoryPresence(PresenceSettings(), clock)
        node = Node(
            hub=hub,
            inbox=inbox,
            clock=clock,
            authenticate=authentication.authenticate,
            redeem=authentication.redeem,
            is_revoked=authentication.is_revoked,
            presence=presence,
            on_ended=lambda ended: None,
        )
        store = RevocationStore(opened)
        feed = RevocationFeed(
            store=store,
            verifier=verifier,
            clock=clock,
            announce=hub.publish_control,
            on_change=node.close_revoked,
        )
        await hub.start()
        stack.push_async_callback(hub.close)
        ingest = Ingest(opened, hub, clock, PATIENT)
        await ingest.start()
        stack.push_async_callback(ingest.close)

        def status() -> NodeStatus:
            return NodeStatus(
                node=hub.node, connections=0, users=0, streams=hub.streams, in_doubt=0, live=hub.live
            )

        vault = Vault({"test": b"v" * 32})
        pushing = await open_push(push or PushSettings(), opened, vault, clock, stack)
        digests = Digests(opened)
        services = Services(
            settings=ApiSettings(),
            clock=clock,
            authenticate=authentication.authenticate,
            ingest=ingest,
            notifications=Notifications(opened, hub),
            inbox=inbox,
            tickets=tickets,
            api_keys=api_keys,
            revocations=store,
            announce=feed.announce,
            publisher=hub,
            node=node,
            peers=Peers(status, hub.publish_control, clock),
            presence=presence,
            digests=digests,
            digest_job=DigestJob(opened, digests, hub, words, clock, looking=presence.looking),
            delivery=delivering(opened, hub, vault, clock, push=pushing),
            push_tests=Throttle(ApiSettings().push_test_rate, clock, holds_services=True),
            health=Health(
                [database(opened), broker(fan_out), epoch(history, lambda: hub.epoch)],
                clock,
            ),
            metrics=Metrics(),
        )
        yield Edge(make_app(services, everything()), services, opened)


@asynccontextmanager
async def listening(edge: Edge) -> AsyncIterator[str]:
    """The address at which an edge is served over a real socket, by this event loop."""
    server = uvicorn.Server(
        uvicorn.Config(
            edge.app, host="127.0.0.1", port=0, lifespan="off", log_level="error", access_log=False
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as bound:
        serving_ = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving_
