"""In a stream, commit order is sequence order: who reads after a position misses nothing and waits for nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest

from core.database import Connection, Database, open_database
from core.streams import StreamKey
from hub import history_postgres
from hub.history import Draft
from hub.history_postgres import append
from tests.postgres import patient

WRITERS = 18
TRANSACTIONS = 40  # of each writer
STREAMS = [StreamKey("t", f"topic:{n}") for n in range(5)]

Append = Callable[[Connection, Sequence[StreamKey]], Awaitable[Sequence[int]]]
Read = Callable[[Connection, StreamKey, int], Awaitable[Sequence[int]]]


@pytest.fixture
async def database_pool(database: str) -> AsyncIterator[Database]:
    opened = await open_database(patient(database, connections=WRITERS + 2))
    yield opened
    await opened.close()


async def ours(connection: Connection, keys: Sequence[StreamKey]) -> Sequence[int]:
    return await append(connection, [Draft(key, "read", data={}) for key in keys])


async def read_ours(connection: Connection, key: StreamKey, after: int) -> Sequence[int]:
    rows = await connection.fetch(
        "SELECT seq FROM stream_events WHERE tenant_id = $1 AND stream = $2 AND seq > $3 ORDER BY seq",
        *key,
        after,
    )
    return [row["seq"] for row in rows]


async def naive(connection: Connection, keys: Sequence[StreamKey]) -> Sequence[int]:
    """The usual way: a bigserial, and "id > last"."""
    return [
        await connection.fetchval("INSERT INTO naive (stream) VALUES ($1) RETURNING id", key.name)
        for key in keys
    ]


async def read_naive(connection: Connection, key: StreamKey, after: int) -> Sequence[int]:
    rows = await connection.fetch(
        "SELECT id FROM naive WHERE stream = $1 AND id > $2 ORDER BY id", key.name, after
    )
    return [row["id"] for row in rows]


async def missed(database: Database, write: Append, read: Read) -> tuple[int, bool]:
    """Of what was committed, how much a polling reader never saw; and whether all seqs are without a gap."""
    chance = random.Random(7)
    committed: dict[StreamKey, set[int]] = {key: set() for key in STREAMS}
    seen: dict[StreamKey, set[int]] = {key: set() for key in STREAMS}
    done = asyncio.Event()

    async def writer() -> None:
        for _ in range(TRANSACTIONS):
            keys = chance.sample(STREAMS, chance.randint(1, 2))
            async with database.connection() as connection:
                transaction = connection.transaction()
                await transaction.start()
                seqs = await write(connection, keys)
                await connection.execute("SELECT pg_sleep($1)", chance.random() * 0.004)
                if chance.random() < 0.1:
                    await transaction.rollback()
                    continue
                await transaction.commit()
            for key, seq in zip(keys, seqs, strict=True):
                committed[key].add(seq)

    async def reader() -> None:
        last = dict.fromkeys(STREAMS, 0)
        finished = False
        while not finished:
            finished = done.is_set()
            for key in STREAMS:
                async with database.connection() as connection:
                    for seq in await read(connection, key, last[key]):
                        seen[key].add(seq)
                        last[key] = seq

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    done.set()
    await reading
    lost = sum(len(committed[key] - seen[key]) for key in STREAMS)
    return lost, all(committed[key] == set(range(1, len(committed[key]) + 1)) for key in STREAMS)


async def test_a_reader_after_a_position_misses_nothing_though_some_roll_back(
    database_pool: Database,
) -> None:
    assert await missed(database_pool, ours, read_ours) == (0, True)


async def test_the_usual_serial_number_loses_what_commits_late(database_pool: Database) -> None:
    async with database_pool.connection() as connection:
        await connection.execute("CREATE TABLE naive (id bigserial PRIMARY KEY, stream text)")

    lost, without_gap = await missed(database_pool, naive, read_naive)

    assert lost > 0
    assert not without_gap


async def deadlocks(database: Database) -> int:
    """How many of many transactions had to give way, each of which appends to 300 streams in an order of its own."""
    keys = [StreamKey("t", f"user:{n}") for n in range(300)]
    chance = random.Random(3)
    gave_way = 0

    async def writer() -> None:
        nonlocal gave_way
        for _ in range(6):
            own = chance.sample(keys, len(keys))
            try:
                async with database.transaction() as connection:
                    await connection.execute("SET LOCAL deadlock_timeout = '20ms'")
                    await append(connection, [Draft(key, "read", data={}) for key in own])
            except asyncpg.DeadlockDetectedError:
                gave_way += 1

    async with database.transaction() as connection:
        await append(connection, [Draft(key, "read", data={}) for key in keys])
    await asyncio.gather(*(writer() for _ in range(8)))
    return gave_way


async def test_appending_to_many_streams_never_waits_in_a_circle(database_pool: Database) -> None:
    assert await deadlocks(database_pool) == 0


async def test_counters_locked_in_any_order_wait_in_circles(
    database_pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsorted = history_postgres.SQL["append"].replace('ORDER BY t COLLATE "C", n COLLATE "C"', "")
    assert unsorted != history_postgres.SQL["append"]
    monkeypatch.setattr(history_postgres, "SQL", {**history_postgres.SQL, "append": unsorted})

    assert await deadlocks(database_pool) > 0
