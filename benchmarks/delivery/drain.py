"""How fast one worker process empties a backlog, and what that costs: ours beside procrastinate's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import procrastinate
from procrastinate.types import JSONValue

from benchmarks.delivery.installation import (
    CHANNEL,
    CONCURRENCY,
    Sink,
    carillon,
    database,
    introduce,
    sending,
    submit,
    until,
)
from benchmarks.delivery.procrastinate_worker import TASK
from benchmarks.machine import Cores, cpu_seconds, settle
from benchmarks.peer import free_port, python, server
from benchmarks.peers.carillon import TENANT

_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """One backlog, emptied by one worker process."""

    deliveries: int
    missing: int
    repeated: int
    seconds: float  # from the first request to the last
    cpu: float  # seconds of the worker process, until everything was written down
    postgres_cpu: float  # seconds of the database meanwhile, the writing of the backlog not included

    @property
    def rate(self) -> float:
        """Deliveries per second."""
        return self.deliveries / self.seconds if self.seconds else 0.0

    @property
    def cost(self) -> float:
        """CPU seconds of the worker per 1,000 deliveries."""
        return self.cpu / self.deliveries * 1000

    @property
    def postgres_cost(self) -> float:
        """CPU seconds of the database per 1,000 deliveries."""
        return self.postgres_cpu / self.deliveries * 1000


async def ours(dsn: str, postgres: int, sink: Sink, cores: Cores, folder: Path, count: int) -> Drained:
    """
    The whole of it: claimed, facts gathered, policy asked, rendered, sent, completed, on record with its gates.

    The notifications lie there already; their deliveries are written at once, when the worker is at rest.
    """
    async with database(dsn) as opened:
        await introduce(opened, count)
        await submit(opened, count)
    connection = await asyncpg.connect(dsn)

    async def fill() -> None:
        await connection.execute(
            "INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane)"
            " SELECT tenant_id, gen_random_uuid(), id, 'person-' || substr(title, 2), $1, 2 FROM notifications"
            " WHERE tenant_id = $2",
            CHANNEL,
            TENANT,
        )

    done = "SELECT NOT EXISTS (SELECT FROM notification_deliveries WHERE finished_at IS NULL)"
    try:
        with carillon("worker", {"DATABASE_URL": dsn, **sending(sink)}, cores.server, folder) as (_, process):
            return await _measure(connection, process.pid, postgres, sink, fill, done, count)
    finally:
        await connection.close()


async def theirs(dsn: str, postgres: int, sink: Sink, cores: Cores, folder: Path, count: int) -> Drained:
    """Claim, call, finish: procrastinate knows neither recipients nor a policy, and renders nothing."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))
    connection = await asyncpg.connect(dsn)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        deferrer = app.configure_task(TASK, queue=CHANNEL)

        words = "Your appointment is tomorrow at nine; please bring the papers of last time."
        jobs: list[dict[str, JSONValue]] = [
            {"phone": f"+4477{number:08}", "message": f"#{number}\n{words}"} for number in range(count)
        ]

        async def fill() -> None:
            await deferrer.batch_defer_async(*jobs)

        done = "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        port = free_port()
        command = python(
            "-m", "benchmarks.delivery.procrastinate_worker", dsn, sink.url, str(CONCURRENCY), str(port)
        )
        folder.joinpath("procrastinate").mkdir()
        try:
            with server(command, core=cores.server, port=port, folder=folder / "procrastinate") as process:
                return await _measure(connection, process.pid, postgres, sink, fill, done, count)
        finally:
            await connection.close()


async def _measure(
    connection: asyncpg.Connection[asyncpg.Record],
    worker: int,
    postgres: int,
    sink: Sink,
    fill: Callable[[], Awaitable[None]],
    done: str,
    count: int,
) -> Drained:
    await asyncio.to_thread(settle, worker)
    before = cpu_seconds(worker)
    await fill()
    postgres_before = cpu_seconds(postgres)
    await connection.execute("ANALYZE")  # what autovacuum does within a minute
    await until(connection, done, _PATIENCE_S)
    cpu, postgres_cpu = cpu_seconds(worker) - before, cpu_seconds(postgres) - postgres_before
    arrivals = sink.arrivals()
    sink.forget()
    times = [at for at, _ in arrivals]
    counts = Counter(number for _, number in arrivals)
    if not counts:
        raise RuntimeError("the worker has sent nothing")
    return Drained(
        deliveries=len(counts),
        missing=count - len(counts),
        repeated=len(arrivals) - len(counts),
        seconds=(max(times) - min(times)) / 1e9,
        cpu=cpu,
        postgres_cpu=postgres_cpu,
    )
