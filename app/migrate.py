"""Bring a database to the schema of this version, and say what it lacks."""

import asyncio
from importlib.resources import files
from threading import Lock

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

LOCK = 5_247_318_906_644_121
"""The advisory lock under which migrations run; a number of our own, the same in every version."""

_one_at_a_time = Lock()  # within a process: Alembic keeps its environment in module globals


def driver_dsn(url: str) -> str:
    """A database URL as asyncpg takes it, without SQLAlchemy's driver name: postgresql+asyncpg://… is understood too."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


async def migrate(dsn: str) -> list[str]:
    """
    Run the revisions that `dsn` has not seen, in one transaction, and return their ids in order.

    Two nodes that start together may both call this: one works, the other waits and finds nothing to do.
    Raises what asyncpg raises; then nothing was changed.
    """
    config = _config()
    config.attributes["dsn"] = dsn
    config.attributes["applied"] = []
    await asyncio.to_thread(
        command.upgrade, config, "head"
    )  # Alembic is synchronous and runs a loop of its own
    applied: list[str] = config.attributes["applied"]
    return applied


def _upgrade(config: Config) -> None:
    with _one_at_a_time:
        command.upgrade(config, "head")


async def pending(dsn: str) -> list[str]:
    """
    The ids of the revisions that `dsn` has not seen, in the order in which they would run.

    Raises alembic.util.CommandError for a database of a newer version: its revision is unknown here.
    """
    connection = await asyncpg.connect(driver_dsn(dsn))
    try:
        known = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        current = await connection.fetchval("SELECT version_num FROM alembic_version") if known else None
    finally:
        await connection.close()
    scripts = ScriptDirectory.from_config(_config())
    missing = [revision.revision for revision in scripts.iterate_revisions("head", current or "base")]
    return missing[::-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("path_separator", "os")
    return config
