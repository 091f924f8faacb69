"""The test server itself: what fault tests rely on."""

import asyncio

import asyncpg
import pytest

from tests.postgres import TEMPLATE, PostgresServer


async def test_a_test_has_a_database_of_its_own(database: str, empty_database: str) -> None:
    first = await asyncpg.connect(database)
    second = await asyncpg.connect(empty_database)

    await first.execute("CREATE TABLE only_here ()")

    assert await first.fetchval("SELECT to_regclass('only_here') IS NOT NULL")
    assert not await second.fetchval("SELECT to_regclass('only_here') IS NOT NULL")
    await first.close()
    await second.close()


async def test_a_crash_keeps_what_was_committed_and_the_address(own_postgres: PostgresServer) -> None:
    await own_postgres.create_template()
    dsn = own_postgres.dsn(TEMPLATE)
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    connection.terminate()

    own_postgres.restart("immediate")

    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT one FROM kept") == 1
    await connection.close()


async def test_a_frozen_server_answers_nothing_until_it_is_thawed(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.dsn("postgres"))
    own_postgres.freeze()
    answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))

    done, _ = await asyncio.wait([answer], timeout=0.3)
    assert not done

    own_postgres.thaw()
    assert await answer == 1
    await connection.close()


async def test_killing_a_backend_ends_the_others(own_postgres: PostgresServer) -> None:
    victim = await asyncpg.connect(own_postgres.dsn("postgres"))
    other = await asyncpg.connect(own_postgres.dsn("postgres"))

    own_postgres.kill_backend(await victim.fetchval("SELECT pg_backend_pid()"))

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await other.execute("SELECT pg_sleep(10)")
    victim.terminate()
    other.terminate()
