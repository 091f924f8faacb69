"""Outgoing webhooks in PostgreSQL: who is told what, where it goes, and what an endpoint that is gone leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from core.clock import SystemClock
from core.database import Database, open_database
from core.errors import ServiceError
from core.identity import Identity
from core.ids import uuid7
from core.vault import Vault
from delivery.endpoints_store import Endpoints, NewEndpoint, emit
from delivery.events import Event, delivery_event
from delivery.outbox import Claimed
from tests.postgres import patient

ADMIN = Identity(tenant_id="school", user_id="root")
OTHER = Identity(tenant_id="hospital", user_id="root")
NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    pool = await open_database(patient(database))
    yield pool
    await pool.close()


@pytest.fixture
def endpoints(opened: Database) -> Endpoints:
    return Endpoints(opened, Vault({"test": b"v" * 32}), SystemClock())


def wanted(*events: str, host: str = "hooks.example", **members: Any) -> NewEndpoint:
    return NewEndpoint(
        url=f"https://{host}/a-password-in-a-path", hint=f"https://{host}", events=events, **members
    )


def happened(state: str = "delivered", tenant_id: str = "school") -> Event:
    event = delivery_event(
        tenant_id=tenant_id,
        delivery_id=uuid7(),
        notification_id=uuid7(),
        user_id="ada",
        channel="sms",
        state=state,
        occurred_at=NOW,
    )
    assert event is not None
    return event


def claimed(row: Any) -> Claimed:
    """The row as a worker holds it."""
    return Claimed(
        tenant_id=row["tenant_id"],
        id=row["id"],
        kind="event",
        notification_id=row["notification_id"],
        user_id=None,
        endpoint_id=row["endpoint_id"],
        event=row["event"],
        channel="webhook",
        lane=row["lane"],
        attempt=1,
        retries=0,
        deferrals=0,
        unknowns=0,
        is_orphan=False,
        was_unknown=False,
        expires_at=None,
        created_at=row["created_at"],
        queued_at=row["queued_at"],
        edited=None,
        fallback_of=None,
    )


async def told(opened: Database, *events: Event) -> list[Any]:
    """What telling makes: the rows of the outbox, in order."""
    async with opened.transaction() as connection:
        await emit(connection, events)
        return list(
            await connection.fetch("SELECT * FROM notification_deliveries ORDER BY endpoint_id, due_at, id")
        )


async def test_each_endpoint_is_told_what_it_asked_for(opened: Database, endpoints: Endpoints) -> None:
    every, _ = await endpoints.create(ADMIN, wanted("*"))
    some, _ = await endpoints.create(ADMIN, wanted("delivery.failed", "delivery.read"))
    await endpoints.create(ADMIN, wanted("*", is_enabled=False))
    await endpoints.create(OTHER, wanted("*"))

    rows = await told(opened, happened("delivered"), happened("failed"))

    assert [(row["tenant_id"], row["endpoint_id"]) for row in rows] == [
        ("school", every.id),
        ("school", every.id),
        ("school", some.id),
    ]
    assert {row["kind"] for row in rows} == {"event"}
    assert all(row["id"].version == 7 for row in rows)


async def test_an_event_goes_where_its_endpoint_is_with_its_secret(
    opened: Database, endpoints: Endpoints
) -> None:
    _, secret = await endpoints.create(ADMIN, wanted("*"))
    [row] = await told(opened, happened())

    [address] = await endpoints.targets([claimed(row)])

    assert address is not None
    assert (address.value, address.secret) == ("https://hooks.example/a-password-in-a-path", secret)
    assert address.hint == "https://hooks.example"
    assert "password" not in repr(address)
    assert secret not in repr(address)


async def test_what_the_database_holds_shows_neither_the_path_nor_the_secret(
    opened: Database, endpoints: Endpoints
) -> None:
    _, secret = await endpoints.create(ADMIN, wanted("*"))

    async with opened.connection() as connection:
        [row] = await connection.fetch("SELECT * FROM webhook_endpoints")

    assert b"password" not in row["url"]
    assert secret.encode() not in row["secret"]


async def test_a_rotated_secret_signs_from_now_on(opened: Database, endpoints: Endpoints) -> None:
    endpoint, before = await endpoints.create(ADMIN, wanted("*"))
    [row] = await told(opened, happened())

    after = await endpoints.rotate(ADMIN, endpoint.id)

    [address] = await endpoints.targets([claimed(row)])
    assert address is not None
    assert address.secret == after != before


@pytest.mark.parametrize("end", ["deleted", "switched off"])
async def test_what_waits_for_an_endpoint_that_ends_goes_nowhere(
    opened: Database, endpoints: Endpoints, end: str
) -> None:
    endpoint, _ = await endpoints.create(ADMIN, wanted("*"))
    [row] = await told(opened, happened())

    if end == "deleted":
        await endpoints.delete(ADMIN, endpoint.id)
    else:
        await endpoints.change(ADMIN, endpoint.id, is_enabled=False)

    assert await endpoints.targets([claimed(row)]) == [None]
    [left] = await told(opened, happened())
    assert left["state"] == "cancelled"


async def test_another_tenants_endpoint_is_not_there(endpoints: Endpoints) -> None:
    endpoint, _ = await endpoints.create(ADMIN, wanted("*"))

    for work in (
        endpoints.find("hospital", endpoint.id),
        endpoints.rotate(OTHER, endpoint.id),
        endpoints.delete(OTHER, endpoint.id),
        endpoints.change(OTHER, endpoint.id, is_enabled=False),
        endpoints.test("hospital", endpoint.id),
    ):
        with pytest.raises(ServiceError, match="no such webhook"):
            await work
    assert (await endpoints.find("school", endpoint.id)).is_enabled


async def test_a_test_reaches_an_endpoint_that_asked_for_something_else(
    opened: Database, endpoints: Endpoints
) -> None:
    endpoint, _ = await endpoints.create(ADMIN, wanted("delivery.failed"))

    delivery_id = await endpoints.test("school", endpoint.id)

    [row] = await told(opened)
    assert row["id"] == delivery_id
    assert '"webhook.test"' in row["event"]


async def test_a_tenant_has_at_most_fifty(endpoints: Endpoints) -> None:
    for _ in range(50):
        await endpoints.create(ADMIN, wanted("*"))

    with pytest.raises(ServiceError, match="at most 50"):
        await endpoints.create(ADMIN, wanted("*"))


def test_a_state_that_is_no_end_is_nobodys_event() -> None:
    event = delivery_event(
        tenant_id="school",
        delivery_id=UUID(int=1),
        notification_id=UUID(int=2),
        user_id="ada",
        channel="sms",
        state="queued",
        occurred_at=NOW,
    )

    assert event is None
