"""Fixtures for every test. One section per thing; what only one file needs stays in that file."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.postgres import TEMPLATE, PostgresServer

# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server that tests share; none of them stops or freezes it. Its template database is migrated."""
    with PostgresServer() as server, ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, server.create_template()).result()  # a loop of its own, beside pytest's
        yield server


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a migrated database of this test's own."""
    async with postgres.database(template=TEMPLATE) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a database without any table."""
    async with postgres.database() as dsn:
        yield dsn


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server of this test's own, to crash, freeze and restart; `create_template()` gives it a migrated database."""
    with PostgresServer() as server:
        yield server
