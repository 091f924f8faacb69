"""A sampled history of connections, for people who ask what was going on. The live registry is elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import structlog

from core.clock import Clock
from core.database import Database
from core.errors import ServiceError
from core.sql import load

SQL = load("delivery", "identities.sql")

log = structlog.stdlib.get_logger("delivery.connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLogSettings:
    """What is kept of connections. From HUB_CONNECTION_*."""

    share: float = 0.01  # of all connections, 0 to 1 (HUB_CONNECTION_HISTORY)
    interval: timedelta = timedelta(seconds=5)  # between two writes
    buffer: int = 10_000  # connections waiting to be written; older ones are forgotten


@dataclass(frozen=True, slots=True)
class PastConnection:
    """One connection, after its end."""

    tenant_id: str
    connection_id: UUID
    user_id: str
    node: str
    transport: Literal["websocket", "sse", "long_poll"]
    opened_at: datetime
    closed_at: datetime
    close_code: int


class ConnectionLog:
    """Writes some of the connections that end, many at a time."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: ConnectionLogSettings | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.forgotten = 0  # sampled and never written
        self._database = database
        self._clock = clock
        self._settings = settings or ConnectionLogSettings()
        self._chance = chance or random.Random()
        self._waiting: deque[PastConnection] = deque()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._settings.share > 0:
            self._task = asyncio.create_task(self._run(), name="connection-log")

    async def close(self) -> None:
        """Write what is waiting, if that is possible."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.flush()

    def record(self, connection: PastConnection) -> None:
        """Remember a connection that has ended, or not, as chance has it. Never blocks."""
        if self._chance.random() >= self._settings.share:
            return
        if len(self._waiting) >= self._settings.buffer:
            self._waiting.popleft()
            self.forgotten += 1
        self._waiting.append(connection)

    async def flush(self) -> None:
        """Write what is waiting. While the database is away it goes on waiting."""
        batch = list(self._waiting)
        if not batch:
            return
        self._waiting.clear()
        try:
            async with self._database.connection() as connection:
                columns = zip(*map(astuple, batch), strict=True)
                await connection.execute(SQL["insert_connections"], *map(list, columns))
        except ServiceError as error:
            room = self._settings.buffer - len(self._waiting)
            self.forgotten += max(0, len(batch) - room)
            self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))
            log.warning("connection_history_waits", code=error.code, waiting=len(self._waiting))

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._settings.interval.total_seconds())
            await self.flush()
