"""Bring a database to the schema of this version, and say what it lacks."""

import asyncio
from importlib.resources import files
from threading import Lock

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

LOCK = 5_247_318_906_644_121
"""The advisory lock under which migrations run; a number of our own, the same in every version."""

log = structlog.stdlib.get_logger("app.migrate")

_one_at_a_time = Lock()  # within a process: Alembic keeps its environment in module globals


def driver_dsn(url: str) -> str:
    """A database URL as asyncpg takes it, without SQLAlchemy's driver name: postgresql+asyncpg://… is understood too."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


async def migrate(dsn: str) -> list[str]:
    """
    Run the revisions that `dsn` has not seen, in one transaction, and return their ids in order.

    Two nodes that start together may both call this: one works, the other waits and finds nothing to do.
    A database of a newer version has seen them all: a node of the version before may start beside newer ones.
    Raises ServiceError (unavailable) when the server lets nobody in, else what asyncpg raises; then nothing was changed.
    """
    config = _config()
    config.attributes["dsn"] = dsn
    config.attributes["applied"] = []
    try:
        await asyncio.to_thread(_upgrade, config)  # Alembic is synchronous and runs a loop of its own
    except CommandError:
        revision = await _revision(dsn)
        if revision is None or _knows(revision):
            raise
        log.warning("database_is_newer", revision=revision)
    applied: list[str] = config.attributes["applied"]
    return applied


def _upgrade(config: Config) -> None:
    with _one_at_a_time:
        command.upgrade(config, "head")


async def pending(dsn: str) -> list[str]:
    """
    The ids of the revisions that `dsn` has not seen, in the order in which they would run; none for a
    database of a newer version. Raises what asyncpg raises.
    """
    current = await _revision(dsn)
    if current is not None and not _knows(current):
        return []
    scripts = ScriptDirectory.from_config(_config())
    missing = [revision.revision for revision in scripts.iterate_revisions("head", current or "base")]
    return missing[::-1]


async def _revision(dsn: str) -> str | None:
    """The newest revision that a database has seen; None before the first."""
    connection = await asyncpg.connect(driver_dsn(dsn))
    try:
        if not await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"):
            return None
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    finally:
        await connection.close()
    return revision


def _knows(revision: str) -> bool:
    """Whether it is a revision of this version. They only move forward, so any other is a newer one's."""
    return any(
        known.revision == revision for known in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("path_separator", "os")
    return config
