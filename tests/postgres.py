"""Real PostgreSQL for tests: the wheel's binaries, a folder and a socket of its own, processes known by id."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self
from uuid import uuid4

import asyncpg
import psutil

from app.cluster import Cluster, StopMode, account, binaries
from app.migrate import migrate
from core.database import DatabaseSettings

TEMPLATE = "migrated"

# A lost cluster is no loss here. synchronous_commit stays on: without fsync it costs nothing, and answers stay true.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
    "autovacuum_naptime": "10min",
}


class PostgresServer:
    """
    One server, for as long as the context lasts. What a fault test does to its server, it does to one of its own.

    settings: of postgresql.conf, over those that make tests fast.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = FAST | settings
        owner = account()
        self._root = Path(mkdtemp(prefix="pg-"))
        self._root.chmod(0o755)  # the server may run as another account; its own folder inside has 0700
        self.cluster = Cluster(self._root / "cluster", binaries(owner), owner)

    def __enter__(self) -> Self:
        try:
            self.cluster.create(sync=False)
            self.start()
        except BaseException:
            shutil.rmtree(self._root)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self.stop("immediate")
        shutil.rmtree(self._root)

    def dsn(self, database: str) -> str:
        """The same before and after a restart."""
        return self.cluster.dsn(database)

    def start(self) -> None:
        """Returns when the server answers, recovery included."""
        self.cluster.start(self._settings)

    def stop(self, mode: StopMode = "fast") -> None:
        """fast: connections are ended in order; immediate: a crash."""
        self.cluster.stop(mode)

    def restart(self, mode: StopMode = "immediate") -> None:
        """Crash and recover, unless another mode is asked for."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """Stop the server and every backend where they are (SIGSTOP): connections stay open and nothing answers."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on; nothing to a running one."""
        for process in self._processes():
            process.send_signal(signal.SIGCONT)

    def kill_backend(self, pid: int) -> None:
        """kill -9 of one backend (its pg_backend_pid()): the server ends all the others and recovers."""
        assert pid in {process.pid for process in self._processes()[1:]}, (
            f"{pid} is no backend of this server"
        )
        os.kill(pid, signal.SIGKILL)

    def _processes(self) -> list[psutil.Process]:
        """The postmaster first, so that it cannot start another backend meanwhile."""
        pid = self.cluster.pid()
        if pid is None:
            return []
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    async def create_template(self) -> None:
        """The migrated database of which `database` makes copies."""
        async with self._administrator() as connection:
            await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await migrate(self.dsn(TEMPLATE))

    @asynccontextmanager
    async def database(self, *, template: str = "template1") -> AsyncIterator[str]:
        """The dsn of a new database, a copy of `template`; dropped at the end, whoever is still connected."""
        name = f"test_{uuid4().hex}"
        async with self._administrator() as connection:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield self.dsn(name)
        finally:
            async with self._administrator() as connection:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def _administrator(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn("postgres"))
        try:
            yield connection
        finally:
            await connection.close()


def patient(dsn: str, *, connections: int = 8) -> DatabaseSettings:
    """A pool for tests that are not about its deadlines: whatever else the machine does meanwhile, it answers."""
    return DatabaseSettings(
        url=dsn,
        connections=connections,
        acquire_timeout=timedelta(seconds=30),
        statement_timeout=timedelta(seconds=60),
        deadline=timedelta(seconds=90),
    )


async def becomes(dsn: str, question: str, seconds: float = 60) -> None:
    """Wait until a database says yes. Raises TimeoutError."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(seconds):
            while not await connection.fetchval(question):
                await asyncio.sleep(0.1)  # other processes: there is no event to await
    finally:
        await connection.close()
