"""Creates while PostgreSQL crashes or hangs: bounded waits, honest refusals, nothing acknowledged and lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from core.clock import SystemClock
from core.database import DatabaseSettings, open_database
from core.errors import ServiceError
from delivery.ingest import Ingest, IngestSettings
from tests.postgres import TEMPLATE, PostgresServer
from tests.submissions import Heard, service, submission

SECOND = timedelta(seconds=1)
LONG_S = 6  # of those who wait a second or two, on a machine that may stand still as well


@asynccontextmanager
async def impatient(postgres: PostgresServer) -> AsyncIterator[Ingest]:
    """An ingest that waits a second for anything, on a server of its own."""
    await postgres.create_template()
    database = await open_database(
        DatabaseSettings(url=postgres.dsn(TEMPLATE), acquire_timeout=SECOND / 2, deadline=SECOND)
    )
    ingest = Ingest(database, Heard(), SystemClock(), IngestSettings(patience=SECOND))
    await ingest.start()
    try:
        yield ingest
    finally:
        await ingest.close()
        await database.close()


async def until_stored(ingest: Ingest, key: str) -> UUID | None:
    """What a careful caller does: repeat the request under its key until it is answered."""
    while True:
        try:
            accepted = await ingest.submit(submission("ada"), service(), key=key, body_hash=b"x")
        except ServiceError as error:
            assert error.temporary, error  # noqa: PT017 - the loop goes on for what is temporary only
            await asyncio.sleep(0.02)
            continue
        return accepted.notification_ids[0] if accepted.notification_ids else None


async def test_a_crash_of_the_server_loses_and_doubles_nothing(own_postgres: PostgresServer) -> None:
    async with impatient(own_postgres) as ingest:
        callers = [asyncio.create_task(until_stored(ingest, f"key-{n}")) for n in range(200)]
        while ingest.stats.accepted == 0:
            await asyncio.sleep(0)
        await asyncio.to_thread(own_postgres.restart, "immediate")
        more = [asyncio.create_task(until_stored(ingest, f"later-{n}")) for n in range(50)]

        acknowledged = [one for one in await asyncio.gather(*callers, *more) if one is not None]

        connection = await asyncpg.connect(own_postgres.dsn(TEMPLATE))
        stored = [row["id"] for row in await connection.fetch("SELECT id FROM notifications")]
        heads = await connection.fetchval("SELECT seq FROM streams WHERE name = 'user:ada'")
        await connection.close()
        assert len(stored) == 250
        assert set(acknowledged) <= set(stored)
        assert heads == 250


@pytest.mark.alone
async def test_while_the_server_hangs_nobody_waits_long_and_after_it_all_is_well(
    own_postgres: PostgresServer,
) -> None:
    async with impatient(own_postgres) as ingest:
        own_postgres.freeze()
        began = time.monotonic()
        results = await asyncio.gather(
            *(ingest.submit(submission("ada"), service()) for _ in range(50)), return_exceptions=True
        )
        waited = time.monotonic() - began

        own_postgres.thaw()
        began = time.monotonic()
        await until_stored(ingest, "after")

        assert {getattr(result, "code", None) for result in results} == {"unavailable"}
        assert waited < LONG_S
        assert time.monotonic() - began < LONG_S
        assert ingest.waiting == 0
