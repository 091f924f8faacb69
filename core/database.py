"""
A pool of PostgreSQL connections with deadlines: no caller ever waits longer than it was told.

The one edge that lies in core, because every package above keeps its tables through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

import asyncpg

from core.errors import ServiceError

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

#: What it looks like when the server is away, starting, stopping, full or frozen.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.InternalClientError,
    asyncpg.exceptions.PostgresSystemError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """PostgreSQL. From DATABASE_URL and HUB_DATABASE_*."""

    url: str  # postgresql://…, or a directory of a unix socket in ?host=
    connections: int = 8  # of this process
    acquire_timeout: timedelta = timedelta(seconds=1)  # waiting for a free connection
    statement_timeout: timedelta = timedelta(seconds=2)  # told to the server
    deadline: timedelta = timedelta(seconds=3)  # everything together, whatever hangs


class Database:
    """Hands out connections for a bounded time."""

    def __init__(self, pool: Pool, settings: DatabaseSettings) -> None:
        self._pool = pool
        self._acquire = settings.acquire_timeout.total_seconds()
        self._deadline = settings.deadline.total_seconds()

    @asynccontextmanager
    async def connection(self, *, deadline: timedelta | None = None) -> AsyncIterator[Connection]:
        """
        A connection outside any transaction. deadline: in place of the settings' (jobs take longer).

        Raises ServiceError (unavailable) when the server is away or too slow; what was under way is
        then undecided. A connection on which that happened is not used again.
        """
        try:
            async with asyncio.timeout(deadline.total_seconds() if deadline else self._deadline):
                connection = await self._pool.acquire(timeout=self._acquire)
                try:
                    yield connection
                except (Exception, asyncio.CancelledError) as error:
                    if not isinstance(error, asyncpg.PostgresError | ServiceError):
                        # Whatever it was waiting for may never come; releasing would wait for it.
                        connection.terminate()
                    raise
                finally:
                    await self._pool.release(connection)
        except _AWAY as error:
            raise ServiceError("unavailable", "The database is away or too slow.", retry_after=1) from error

    @asynccontextmanager
    async def transaction(self, *, deadline: timedelta | None = None) -> AsyncIterator[Connection]:
        """A connection inside a transaction that commits at the end and rolls back on an exception."""
        async with self.connection(deadline=deadline) as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Close every connection; those in use after 5 s are cut."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def _reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Between two users of a connection. Ours leave nothing behind but, after a fault, a transaction: so the
    full reset, a round trip of its own, is for that.
    """
    if connection.is_in_transaction():
        await connection.reset()


async def open_database(settings: DatabaseSettings) -> Database:
    """Connect. Raises ServiceError (unavailable) when the server cannot be reached."""
    url = settings.url.replace("postgresql+asyncpg://", "postgresql://", 1)
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=min(2, settings.connections),
            max_size=settings.connections,
            reset=_reset,
            timeout=settings.acquire_timeout.total_seconds() * 5,
            server_settings={
                "application_name": "carillon",
                "statement_timeout": str(int(settings.statement_timeout.total_seconds() * 1000)),
                "idle_in_transaction_session_timeout": "5000",
                "timezone": "UTC",
                # Planned for one tenant's values, a tenant that has just begun to grow looks empty, and reading
                # all of it looks cheaper than its primary key. A plan for any tenant cannot make that mistake.
                "plan_cache_mode": "force_generic_plan",
                # Such a plan is kept while a table grows: it must not read the whole of a table that was small.
                "enable_seqscan": "off",
                "jit": "off",  # compiling takes longer than any of our queries
            },
        )
    except _AWAY as error:
        raise ServiceError("unavailable", "The database cannot be reached.", retry_after=1) from error
    return Database(pool, settings)
