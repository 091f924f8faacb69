"""Tickets, API keys, revocations and the history of connections."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from core.api_key import ApiKey
from core.clock import SystemClock
from core.database import Database, open_database
from core.errors import ServiceError
from core.identity import Identity, InvalidToken
from core.ids import uuid7
from core.revocation import GRACE_S, Revocations, TokenRevocation, UserRevocation
from delivery.api_keys_store import ApiKeys
from delivery.connections_store import ConnectionLog, ConnectionLogSettings, PastConnection
from delivery.revocations_store import RevocationStore
from delivery.tickets_store import Tickets
from tests.postgres import TEMPLATE, PostgresServer, patient
from tests.submissions import TENANT_ID, person, service

ADMIN = service("admin")


class Still(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    pool = await open_database(patient(database))
    yield pool
    await pool.close()


async def test_a_ticket_stands_for_its_holder_once(opened: Database) -> None:
    tickets = Tickets(opened)
    holder = Identity(
        tenant_id=TENANT_ID,
        user_id="ada",
        scopes=frozenset({"publish", "broadcast"}),
        expires_at=1_900_000_000.5,
        token_id="jti",
        issued_at=1_800_000_000.0,
        issuer="https://issuer.example",
        kind="service",
    )

    ticket = await tickets.issue(holder)

    assert await tickets.redeem(ticket.text) == holder
    assert await tickets.redeem(ticket.text) is None
    endless = await tickets.issue(person("ada"))
    assert (await tickets.redeem(endless.text)) == person("ada")


async def test_of_a_hundred_who_redeem_one_ticket_one_wins(opened: Database) -> None:
    tickets = Tickets(opened)
    ticket = await tickets.issue(person("ada"))

    winners = await asyncio.gather(*(tickets.redeem(ticket.text) for _ in range(100)))

    assert sum(winner is not None for winner in winners) == 1


async def test_a_ticket_lives_thirty_seconds_and_only_its_hash_is_kept(opened: Database) -> None:
    ticket = await Tickets(opened).issue(person("ada"))
    late = await Tickets(opened, timedelta(0)).issue(person("ada"))

    assert timedelta(seconds=5) < ticket.expires_at - datetime.now(UTC) <= timedelta(seconds=31)
    assert await Tickets(opened).redeem(late.text) is None
    async with opened.connection() as connection:
        kept = await connection.fetchval("SELECT string_agg(t::text, '') FROM ws_tickets t")
    assert ticket.text not in kept
    for wrong in ("", "x" * 43, "é" * 43, ticket.text + "x"):
        assert await Tickets(opened).redeem(wrong) is None


async def test_an_api_key_is_shown_once_and_opens_its_scopes(opened: Database) -> None:
    keys = ApiKeys(opened, SystemClock())

    stored, text = await keys.create(ADMIN, "CI", ["broadcast"])
    identity = await keys.authenticate(ApiKey.parse(text))

    assert (identity.tenant_id, identity.scopes, identity.kind) == (TENANT_ID, {"broadcast"}, "api_key")
    assert await keys.list(ADMIN) == [stored]
    assert await keys.list(service(tenant_id="other")) == []
    async with opened.connection() as connection:
        kept = await connection.fetchval("SELECT string_agg(k::text, '') FROM api_keys k")
    assert text.rpartition("_")[2] not in kept


async def test_a_wrong_secret_an_unknown_id_and_an_old_key_open_nothing(opened: Database) -> None:
    keys = ApiKeys(opened, SystemClock())
    stored, text = await keys.create(ADMIN, "CI", ["broadcast"])
    _, expired = await keys.create(ADMIN, "old", ["broadcast"], datetime.now(UTC) - timedelta(seconds=1))

    for wrong in (f"ck_{stored.id}_{'A' * 43}", f"ck_{'0' * 16}_{text[-43:]}", expired):
        with pytest.raises(InvalidToken):
            await keys.authenticate(ApiKey.parse(wrong))


async def test_a_revoked_key_is_refused_here_at_once_and_elsewhere_in_five_seconds(opened: Database) -> None:
    clock = Still()
    here, elsewhere = ApiKeys(opened, clock), ApiKeys(opened, clock)
    stored, text = await here.create(ADMIN, "CI", ["broadcast"])
    key = ApiKey.parse(text)
    await here.authenticate(key)
    await elsewhere.authenticate(key)

    announced = await here.revoke(ADMIN, stored.id)

    with pytest.raises(InvalidToken):
        await here.authenticate(key)
    clock.seconds = 5.0
    with pytest.raises(InvalidToken):
        await elsewhere.authenticate(key)
    assert (announced.tenant_id, announced.token_id) == (TENANT_ID, stored.id)
    assert announced in await RevocationStore(opened).live()
    with pytest.raises(ServiceError, match="API key"):
        await here.revoke(service(tenant_id="other"), stored.id)


async def test_revocations_are_read_by_every_node(opened: Database) -> None:
    store = RevocationStore(opened)
    before = datetime.now(UTC).timestamp() - 1

    user = await store.revoke_user(TENANT_ID, "ada")
    await store.revoke_user(TENANT_ID, "ada")
    token = await store.revoke_token(TENANT_ID, "jti", math.inf)
    await store.revoke_token(TENANT_ID, "over", before - GRACE_S)

    known = Revocations()
    known.replace(await store.live(), since=known.mark())
    assert len(known) == 2
    assert isinstance(user, UserRevocation)
    assert isinstance(token, TokenRevocation)
    assert known.is_revoked(Identity(tenant_id=TENANT_ID, user_id="ada", issued_at=before))
    assert not known.is_revoked(Identity(tenant_id=TENANT_ID, user_id="ada", issued_at=before + 60))
    assert known.is_revoked(Identity(tenant_id=TENANT_ID, user_id="bob", token_id="jti", issued_at=before))
    assert not known.is_revoked(Identity(tenant_id="other", user_id="ada", issued_at=before))


def past(n: int) -> PastConnection:
    now = datetime.now(UTC)
    return PastConnection(TENANT_ID, uuid7(), f"user-{n}", "node", "websocket", now, now, 1000)


async def test_a_share_of_the_connections_is_written_many_at_a_time(opened: Database) -> None:
    log = ConnectionLog(opened, SystemClock(), ConnectionLogSettings(share=0.1), random.Random(1))
    await log.start()

    for n in range(1000):
        log.record(past(n))
    await log.close()

    async with opened.connection() as connection:
        written = await connection.fetchval("SELECT count(*) FROM websocket_connections")
        commits = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM websocket_connections")
    assert 60 < written < 140
    assert commits == 1


async def test_history_waits_for_the_database_within_bounds(own_postgres: PostgresServer) -> None:
    await own_postgres.create_template()
    database = await open_database(patient(own_postgres.dsn(TEMPLATE)))
    log = ConnectionLog(database, SystemClock(), ConnectionLogSettings(share=1.0, buffer=5))
    for n in range(8):
        log.record(past(n))
    own_postgres.stop("immediate")

    await log.flush()
    own_postgres.start()
    for _ in range(10):  # each connection of the pool may have to notice
        await log.flush()

    assert log.forgotten == 3
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM websocket_connections") == 5
    await database.close()
