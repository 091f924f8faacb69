"""
What Alembic runs, for `alembic upgrade head` and for `carillon migrate` alike.

The database is `config.attributes["dsn"]` where a program asks, else DATABASE_URL, else the embedded one of CARILLON_STATE.
"""

import asyncio
import os
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from logging.config import fileConfig
from pathlib import Path
from typing import Any

import asyncpg
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.embedded import DIRECTORY, start_postgres
from app.migrate import LOCK, driver_dsn
from core.errors import ServiceError


def applied(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """Tell the program that asked which revisions were run, in order."""
    context.config.attributes.setdefault("applied", []).append(step.up_revision_id)


def run(connection: Connection) -> None:
    """Every pending revision in one transaction: all of them, or none."""
    context.configure(connection=connection, on_version_apply=applied)
    with context.begin_transaction():
        context.run_migrations()


async def connect(dsn: str) -> asyncpg.Connection:
    """Raises ServiceError (unavailable) with the server's own words, which hold no password, when it lets nobody in."""
    try:
        return await asyncpg.connect(driver_dsn(dsn), server_settings={"application_name": "migrate"})
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OverflowError) as error:
        raise ServiceError("unavailable", f"DATABASE_URL: {error}") from error


async def online() -> None:
    """Migrate under an advisory lock of the session: of nodes that start together one works and the others wait."""
    async with AsyncExitStack() as stack:
        dsn = context.config.attributes.get("dsn") or os.environ.get("DATABASE_URL")
        if not dsn:
            embedded = await start_postgres(Path(os.environ.get("CARILLON_STATE") or DIRECTORY))
            stack.push_async_callback(embedded.stop)
            dsn = embedded.dsn
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: connect(dsn), poolclass=NullPool
        )
        stack.push_async_callback(engine.dispose)
        connection = await stack.enter_async_context(engine.connect())
        await connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
        await connection.commit()  # the lock is the session's; Alembic wants to begin its transaction itself
        await connection.run_sync(run)


def offline() -> None:
    """`alembic upgrade head --sql`: print the script for an operator to run."""
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if (
    context.config.config_file_name is not None
):  # the command line: say what is done; a program has its own logs
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
