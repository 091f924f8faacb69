"""
Outgoing webhooks: where a tenant wants to be told what becomes of its deliveries.

An event is a row of the outbox like any other delivery: claimed, signed (Standard Webhooks), repeated and recorded
by the same worker. It names people and deliveries by their ids, and holds neither addresses nor words.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.identity import Identity
from core.ids import uuid7
from core.sql import load
from core.vault import Vault
from delivery.audit_store import actor_of, append
from delivery.channel import Address
from delivery.events import Event, EventType, body
from delivery.outbox import Claimed

__all__ = ["Endpoint", "Endpoints", "Event", "EventType", "NewEndpoint", "emit"]

SQL = load("delivery", "endpoints.sql")

#: Of one tenant. Each event becomes a row for each of them.
MAX_ENDPOINTS = 50

#: Events go before campaigns and after what is for people.
_LANE = 3

#: 24 bytes, as Standard Webhooks advises (24 to 64).
_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    """What somebody asks for. url: as addresses.normalise("webhook") has it; hint: its masked form."""

    url: str = field(repr=False)
    hint: str
    events: Sequence[str]
    description: str | None = None
    is_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint, without its secret."""

    id: UUID
    hint: str
    events: tuple[str, ...]
    description: str | None
    is_enabled: bool
    created_by: str
    created_at: datetime


class Endpoints:
    """The endpoints of all tenants."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    async def create(self, identity: Identity, wanted: NewEndpoint) -> tuple[Endpoint, str]:
        """
        A new endpoint of the caller's tenant, and the secret that signs what it is told: shown once.

        Raises ServiceError (conflict) where the tenant has 50.
        """
        endpoint_id, secret = uuid7(), _new_secret()
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                SQL["create"],
                identity.tenant_id,
                endpoint_id,
                self._sealed("endpoint-url", identity.tenant_id, endpoint_id, wanted.url),
                wanted.hint,
                list(wanted.events),
                self._sealed("endpoint-secret", identity.tenant_id, endpoint_id, secret),
                wanted.description,
                wanted.is_enabled,
                identity.client,
                MAX_ENDPOINTS,
            )
            if row is None:
                raise ServiceError("conflict", f"A tenant has at most {MAX_ENDPOINTS} webhooks.")
            details = {"host": wanted.hint, "events": list(wanted.events), "is_enabled": wanted.is_enabled}
            await _remember(connection, identity, endpoint_id, "webhook.created", details)
        return _endpoint(row), secret

    async def of_tenant(self, tenant_id: str) -> Sequence[Endpoint]:
        """All of them, the oldest first."""
        async with self._database.connection() as connection:
            return [_endpoint(row) for row in await connection.fetch(SQL["list"], tenant_id)]

    async def find(self, tenant_id: str, endpoint_id: UUID) -> Endpoint:
        """Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find"], tenant_id, endpoint_id)
        return _endpoint(_found(row))

    async def change(
        self,
        identity: Identity,
        endpoint_id: UUID,
        *,
        url: tuple[str, str] | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        is_enabled: bool | None = None,
    ) -> Endpoint:
        """
        What is None stays. url: with its hint. What waits for an endpoint that is switched off is cancelled.

        Raises ServiceError (not_found).
        """
        tenant_id = identity.tenant_id
        sealed = None if url is None else self._sealed("endpoint-url", tenant_id, endpoint_id, url[0])
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                SQL["change"],
                tenant_id,
                endpoint_id,
                sealed,
                None if url is None else url[1],
                None if events is None else list(events),
                None,
                description,
                is_enabled,
            )
            changed = _endpoint(_found(row))
            if is_enabled is False:
                await connection.execute(SQL["cancel_events"], tenant_id, endpoint_id)
            details = {"host": changed.hint, "events": list(changed.events), "is_enabled": changed.is_enabled}
            await _remember(connection, identity, endpoint_id, "webhook.changed", details)
        return changed

    async def rotate(self, identity: Identity, endpoint_id: UUID) -> str:
        """A new secret, shown once; the old one signs nothing more. Raises ServiceError (not_found)."""
        tenant_id, secret = identity.tenant_id, _new_secret()
        sealed = self._sealed("endpoint-secret", tenant_id, endpoint_id, secret)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                SQL["change"], tenant_id, endpoint_id, None, None, None, sealed, None, None
            )
            _found(row)
            await _remember(connection, identity, endpoint_id, "webhook.rotated", {})
        return secret

    async def delete(self, identity: Identity, endpoint_id: UUID) -> None:
        """What waits for it is cancelled. Raises ServiceError (not_found)."""
        async with self._database.transaction() as connection:
            _found(await connection.fetchrow(SQL["delete"], identity.tenant_id, endpoint_id))
            await connection.execute(SQL["cancel_events"], identity.tenant_id, endpoint_id)
            await _remember(connection, identity, endpoint_id, "webhook.deleted", {})

    async def test(self, tenant_id: str, endpoint_id: UUID) -> UUID:
        """
        Tell an endpoint `webhook.test`, also one that is asked for other events; the id of the delivery.

        Raises ServiceError: not_found; conflict where it is switched off.
        """
        delivery_id = uuid7()
        event = Event(
            tenant_id=tenant_id,
            type="webhook.test",
            occurred_at=self._clock.now(),
            data={"endpoint_id": endpoint_id},
        )
        async with self._database.transaction() as connection:
            if not _endpoint(
                _found(await connection.fetchrow(SQL["find"], tenant_id, endpoint_id))
            ).is_enabled:
                raise ServiceError("conflict", "This webhook is switched off.")
            await connection.execute(
                SQL["emit_to"], tenant_id, delivery_id, event.id, endpoint_id, body(event).decode(), _LANE
            )
        return delivery_id

    async def targets(self, deliveries: Sequence[Claimed]) -> list[Address | None]:
        """
        Where each of these events goes, in their order; None for an endpoint that is gone or switched off.

        The address' id is the endpoint's.
        """
        wanted = sorted(
            {(one.tenant_id, one.endpoint_id) for one in deliveries if one.endpoint_id is not None}
        )
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                SQL["targets"], [tenant for tenant, _ in wanted], [endpoint for _, endpoint in wanted]
            )
        found: Mapping[tuple[str, UUID | None], Address] = {
            (row["tenant_id"], row["id"]): self._address(row) for row in rows
        }
        return [found.get((one.tenant_id, one.endpoint_id)) for one in deliveries]

    def _address(self, row: asyncpg.Record) -> Address:
        whose = row["tenant_id"], str(row["id"])
        return Address(
            id=row["id"],
            channel="webhook",
            value=self._vault.open(row["url"], "endpoint-url", *whose),
            hint=row["hint"],
            secret=self._vault.open(row["secret"], "endpoint-secret", *whose),
        )

    def _sealed(self, what: str, tenant_id: str, endpoint_id: UUID, text: str) -> bytes:
        return self._vault.seal(text, what, tenant_id, str(endpoint_id))


async def emit(connection: Connection, events: Sequence[Event]) -> int:
    """
    Tell the tenants' endpoints, in the caller's transaction; how many deliveries that makes.

    A tenant without endpoints costs one look at an index.
    """
    if not events:
        return 0
    status = await connection.execute(
        SQL["emit"],
        [event.tenant_id for event in events],
        [event.type for event in events],
        [event.notification_id or event.id for event in events],
        [body(event).decode() for event in events],
        _LANE,
    )
    return int(status.rpartition(" ")[2])


async def _remember(
    connection: Connection, identity: Identity, endpoint_id: UUID, action: str, details: Mapping[str, Any]
) -> None:
    await append(
        connection, identity.tenant_id, actor_of(identity), action, f"webhook:{endpoint_id}", details
    )


def _new_secret() -> str:
    """As Standard Webhooks writes a symmetric secret."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise not_found("webhook")
    return row


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(
        id=row["id"],
        hint=row["hint"],
        events=tuple(row["events"]),
        description=row["description"],
        is_enabled=row["is_enabled"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
