"""Stores over a database of one test, and what reaches the streams through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from core.clock import SystemClock
from core.database import Database, open_database
from core.identity import Identity
from delivery.inbox import InboxSettings, PostgresInbox
from delivery.ingest import Ingest, IngestSettings
from delivery.store import Notifications
from tests.postgres import patient
from tests.submissions import Heard, service, submission

#: Callers wait for their answer, whatever else the machine does meanwhile.
PATIENT = IngestSettings(patience=timedelta(seconds=90))


class Stores:
    """Everything that delivery keeps for one node."""

    def __init__(self, database: Database, *, follow_limit: int = 1000) -> None:
        self.database = database
        self.heard = Heard()
        self.ingest = Ingest(database, self.heard, SystemClock(), PATIENT)
        self.inbox = PostgresInbox(database, self.heard, InboxSettings(follow_limit=follow_limit))
        self.notifications = Notifications(database, self.heard)

    async def send(self, audience: Any = "ada", sender: Identity | None = None, **members: Any) -> UUID:
        """Submit one notification (see `submission`); its id."""
        accepted = await self.ingest.submit(submission(audience, **members), sender or service())
        return accepted.notification_ids[0]

    async def somebody_waits(self, *, people: int = 1) -> None:
        """Returns when so many connections wait for a lock of this database."""
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while len(await self.query(waiting)) < people:
            await asyncio.sleep(0.005)  # another process: there is no event to await

    async def day_goes_on(self, seconds: int = 60) -> None:
        """Returns when this day of UTC has so long to go: what counts by days is not to be split by a midnight."""
        left = "SELECT extract(epoch FROM (now() AT TIME ZONE 'UTC')::date + 1 - now() AT TIME ZONE 'UTC') AS seconds"
        while (await self.query(left))[0]["seconds"] < seconds:
            await asyncio.sleep(1)  # a day ends once a day

    async def query(self, text: str, *arguments: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return list(await connection.fetch(text, *arguments))


@asynccontextmanager
async def open_stores(dsn: str, **settings: Any) -> AsyncIterator[Stores]:
    """Stores with a running ingest."""
    database = await open_database(patient(dsn))
    stores = Stores(database, **settings)
    await stores.ingest.start()
    try:
        yield stores
    finally:
        await stores.ingest.close()
        await database.close()
