"""The schema: made from nothing, made once, made whole or not at all."""

import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

import migrations
from app import migrate as migrate_module
from app.migrate import LOCK, driver_dsn, migrate, pending
from core.errors import ServiceError
from tests import schema
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"


async def alembic(dsn: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command of the quick start; returns its exit status, what it printed and what it said besides."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *arguments),
        cwd=ROOT,
        env={"DATABASE_URL": dsn, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), error.decode()


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(driver_dsn(dsn))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_an_empty_database_becomes_a_whole_one_and_nothing_is_pending(empty_database: str) -> None:
    missing = await pending(empty_database)

    applied = await migrate(empty_database)

    assert applied == missing
    assert applied[0] == "0001"
    assert await value(empty_database, "SELECT to_regclass('stream_events') IS NOT NULL")
    assert await pending(empty_database) == []


async def test_the_sum_of_the_revisions_is_schema_sql(postgres: PostgresServer) -> None:
    assert await schema.current(postgres) == schema.FILE.read_text(), "make schema writes it anew"


async def test_migrating_twice_changes_nothing(empty_database: str) -> None:
    await migrate(empty_database)
    tables = await value(empty_database, TABLES)

    assert await migrate(empty_database) == []
    assert await value(empty_database, TABLES) == tables


async def test_a_database_of_a_newer_version_is_left_as_it_is_and_lacks_nothing(database: str) -> None:
    await value(database, "UPDATE alembic_version SET version_num = '9999'")

    applied, missing = await migrate(database), await pending(database)

    assert applied == missing == []
    assert await value(database, "SELECT version_num FROM alembic_version") == "9999"


async def test_a_url_with_the_driver_in_its_name_is_understood(empty_database: str) -> None:
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://")

    assert await migrate(url)
    assert await pending(url) == []


async def test_a_database_that_cannot_be_had_is_said_without_a_traceback(empty_database: str) -> None:
    nowhere = urlunsplit(urlsplit(empty_database)._replace(path="/nowhere"))

    for dsn in (nowhere, "postgresql://hub:a-canary@127.0.0.1:99999/hub", "sqlite:///a-canary"):
        with pytest.raises(ServiceError, match=r"^DATABASE_URL: ") as refused:
            await migrate(dsn)

        assert refused.value.code == "unavailable"
        assert "a-canary" not in refused.value.message


async def test_a_node_waits_while_another_migrates(empty_database: str) -> None:
    other = await asyncpg.connect(empty_database)
    await other.execute("SELECT pg_advisory_lock($1)", LOCK)

    waiting = asyncio.create_task(migrate(empty_database))
    while not await other.fetchval(WAITING):
        assert not waiting.done(), "it did not wait"
    assert await other.fetchval(TABLES) == 0

    await other.execute("SELECT pg_advisory_unlock($1)", LOCK)
    assert await waiting
    await other.close()


async def test_of_nodes_that_start_together_each_ends_with_the_schema(empty_database: str) -> None:
    results = await asyncio.gather(*(alembic(empty_database, "upgrade", "head") for _ in range(3)))

    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert sum("Running upgrade  -> 0001" in said for _, _, said in results) == 1
    assert await pending(empty_database) == []


async def test_the_command_of_the_quick_start_says_what_it_did(empty_database: str) -> None:
    status, _, said = await alembic(empty_database, "upgrade", "head")
    assert status == 0
    assert "-> 0001" in said

    _, printed, _ = await alembic(empty_database, "current")
    assert "(head)" in printed


async def test_the_script_for_an_operator_makes_the_same_schema(
    postgres: PostgresServer, empty_database: str
) -> None:
    status, script, _ = await alembic(empty_database, "upgrade", "head", "--sql")
    assert status == 0

    connection = await asyncpg.connect(empty_database)
    await connection.execute(script)
    await connection.close()

    assert await pending(empty_database) == []
    async with postgres.database() as migrated:
        await migrate(migrated)
        assert await shape(empty_database) == await shape(migrated)


async def test_a_revision_that_fails_leaves_nothing_of_itself_and_of_those_before_it(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "9999_pre_broken.sql").write_text("CREATE TABLE half (); SELECT 1 / 0;")
    (tmp_path / "9999_pre_broken.py").write_text(
        "from alembic import op\n"
        "from migrations import run_sql\n"
        "revision = '9999'\n"
        f"down_revision = '{(await pending(empty_database))[-1]}'\n"
        "def upgrade():\n    run_sql(op, '9999_pre_broken.sql')\n"
    )
    for file in migrations.SQL.glob("*.sql"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.setattr(migrations, "SQL", tmp_path)
    config = migrate_module._config()
    config.set_main_option("version_locations", f"{ROOT / 'migrations' / 'versions'}{os.pathsep}{tmp_path}")
    monkeypatch.setattr(migrate_module, "_config", lambda: config)

    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database)

    assert await value(empty_database, TABLES) == 0
    assert (await pending(empty_database))[-1] == "9999"


async def test_a_failed_migration_gives_its_lock_back(empty_database: str) -> None:
    await value(empty_database, "CREATE TABLE streams ()")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(empty_database)
    await value(empty_database, "DROP TABLE streams")

    assert await migrate(empty_database)


async def shape(dsn: str) -> list[tuple[object, ...]]:
    """Every column, constraint and index, by name and definition."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            """
            SELECT 'column', table_name::text, column_name::text,
                   concat_ws(' ', data_type, is_nullable, column_default, generation_expression)
            FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL
            SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'index', tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'
            ORDER BY 1, 2, 3
            """
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows]
