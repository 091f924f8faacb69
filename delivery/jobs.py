"""
What happens at a time: the scheduler role.

The ticker only ticks; rows, locks and the clock of the database decide. Any number of schedulers may run,
and one that dies in the middle leaves nothing half done and nothing that is not done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError
from core.identity import Identity
from core.sql import load
from core.streams import StreamKey, user_stream
from delivery.batching import Batch, Part, finish, release, stand_for, take_closed, together
from delivery.inbox import SQL as INBOX
from delivery.ingest import Order, answer_many, publication, write
from delivery.outbox import PROVIDED
from delivery.publication import Publication, audience, audience_keys, batching, publish
from delivery.telemetry import queued
from hub import frames
from hub.history import Draft, Entry
from hub.history_postgres import append, content
from hub.publisher import Publisher

SQL = load("delivery", "jobs.sql")

#: One run of anything but retention takes no longer.
_DEADLINE = timedelta(seconds=10)
_BATCH_DEADLINE = timedelta(seconds=30)  # one batch of retention
_LEASE = timedelta(minutes=2)  # of retention, renewed with each batch
_BATCHES = 20  # closed in one transaction, for which creates of the same batches wait

log = structlog.stdlib.get_logger("delivery.jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsSettings:
    """What the scheduler role does, and when. From HUB_*."""

    scheduler_tick: timedelta = timedelta(seconds=1)  # between two looks at what is due
    scheduler_batch: int = 200  # notifications or people in one transaction
    retention_days: int = 90  # where a tenant says nothing else
    retention_at: timedelta = timedelta(hours=2)  # after midnight UTC, once a day
    retention_batch: int = 5000  # rows in one transaction
    idempotency_life: timedelta = timedelta(hours=48)  # then a repeated request is a new one

    def __post_init__(self) -> None:
        if self.retention_days < 1:
            raise ValueError("must be at least a day")
        if not timedelta(0) <= self.retention_at < timedelta(days=1):
            raise ValueError("must be a time of day")
        if self.scheduler_batch < 1 or self.retention_batch < 1:
            raise ValueError("must be at least 1")


class Removed(NamedTuple):
    """What a run of retention took away."""

    events: int = 0
    notifications: int = 0
    receipts: int = 0
    connections: int = 0
    tickets: int = 0
    keys: int = 0
    revocations: int = 0
    deliveries: int = 0
    reports: int = 0  # of providers
    broadcasts: int = 0
    inbound: int = 0
    captured: int = 0  # by a sandbox
    links: int = 0
    codes: int = 0
    digests: int = 0  # runs of them
    browsers: int = 0  # that nobody has opened the application in for long


async def nothing_to_prune(limit: int) -> int:
    """Where there is no push, or there are no digests."""
    return 0


@dataclass(slots=True)
class JobsStats:
    """Counts since the start; for metrics."""

    published: int = 0  # scheduled notifications that became due
    batches: int = 0  # that were closed
    woken: int = 0  # snoozes that ended
    removed: int = 0  # rows, by retention
    failures: int = 0  # runs that ended early; the next tick goes on


class Jobs:
    """The jobs of one scheduler."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        clock: Clock,
        settings: JobsSettings | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
        prune: Callable[[int], Awaitable[int]] = nothing_to_prune,
        prune_digests: Callable[[int], Awaitable[int]] = nothing_to_prune,
    ) -> None:
        """
        wake: told after a commit that has brought work for the workers. prune: ends at most so many browsers that
        were not seen for long, and says how many; prune_digests: the same of runs of digests that are too old.
        """
        self._prune = prune
        self._prune_digests = prune_digests
        self.stats = JobsStats()
        self._wake_workers = wake
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._settings = settings or JobsSettings()
        self._name = str(uuid4())

    async def run(self) -> None:
        """Tick until cancelled."""
        ticker = AsyncIOScheduler(timezone=UTC)
        tick = self._settings.scheduler_tick.total_seconds()
        works: list[Callable[[], Awaitable[object]]] = [
            self.publish_due,
            self.close_batches,
            self.wake_snoozed,
            self.retain,
        ]
        for work in works:
            ticker.add_job(
                self._attempt,
                "interval",
                args=[work],
                seconds=tick,
                id=work.__name__,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        ticker.start()
        log.info("NOTIFY_CRON_STATUS", enabled=True)
        try:
            await asyncio.Event().wait()
        finally:
            ticker.shutdown(wait=False)
            log.info("NOTIFY_CRON_STATUS", enabled=False)

    async def _attempt(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            # By the end of run(): rolled back, and due as before. The ticker would call it a fault.
            log.info("job_cut_short", job=work.__name__)
        except ServiceError as error:
            self.stats.failures += 1
            log.warning("NOTIFY_CRON_FAIL", job=work.__name__, error=error.code)
        except Exception:  # a bug in one job must not end the others; the next tick tries again
            self.stats.failures += 1
            log.exception("NOTIFY_CRON_FAIL", job=work.__name__)

    async def publish_due(self) -> int:
        """Make entries of the scheduled notifications that are due; how many."""
        published = 0
        while True:
            async with self._database.transaction(deadline=_DEADLINE) as connection:
                rows = await connection.fetch(SQL["take_due"], self._settings.scheduler_batch)
                rows.sort(key=lambda row: (row["scheduled_for"], row["id"]))
                publications = []
                for row in rows:
                    if row["status"] == "published":
                        says = content(row["id"], row)
                        publications.append(
                            Publication(
                                row["tenant_id"],
                                says,
                                frames.content(says),
                                audience_keys(row),
                                audience(row),
                                batching(row),
                            )
                        )
                entries = await publish(connection, publications, rows[0]["now"]) if publications else []
            self._publisher.publish([entry for part in entries for entry in part])
            for one in publications:
                queued(one)
            if any(not PROVIDED.isdisjoint(one.content.channels) for one in publications):
                self._wake_workers()
            published += len(publications)
            self.stats.published += len(publications)
            if len(rows) < self._settings.scheduler_batch:
                return published

    async def close_batches(self) -> int:
        """Send what has waited for each other as one message, and what has waited alone by itself; how many batches."""
        closed = 0
        while True:
            async with self._database.transaction(deadline=_DEADLINE) as connection:
                batches = await take_closed(connection, _BATCHES)
                written = await self._close(connection, batches)
            for one in written:
                queued(one)
            if batches:
                self._wake_workers()
            closed += len(batches)
            self.stats.batches += len(batches)
            if len(batches) < _BATCHES:
                return closed

    async def _close(self, connection: Connection, batches: Sequence[Batch]) -> list[Publication]:
        """What was written in the place of several."""
        alone = [(batch.tenant_id, delivery) for batch in batches for delivery in batch.settled]
        orders: list[Order] = []
        several: list[tuple[Batch, Part]] = []
        for batch in batches:
            for part in batch.parts():
                if len(part) > 1 and (order := _together(batch, part)) is not None:
                    orders.append(order)
                    several.append((batch, part))
                else:
                    alone += ((batch.tenant_id, delivery) for delivery, _ in part)
        results = await write(connection, orders, self._settings.idempotency_life) if orders else []
        ended: list[tuple[str, UUID, str]] = []
        standing: list[tuple[str, UUID, Part]] = []
        written: list[Publication] = []
        for (batch, part), result in zip(several, results, strict=True):
            if isinstance(result, Exception):
                raise result
            [one] = result.stored
            written.append(publication(one))
            standing.append((batch.tenant_id, one.content.id, part))
            reason = f"{len(part)} went out as one: notification {one.content.id}"
            ended += ((batch.tenant_id, delivery, reason) for delivery, _ in part)
        await stand_for(connection, standing)
        await release(connection, alone)
        await finish(connection, ended)
        return written

    async def wake_snoozed(self) -> int:
        """Tell people's devices of snoozes that are over; how many."""
        woken = 0
        while True:
            async with self._database.connection(deadline=_DEADLINE) as connection:
                people = await connection.fetch(SQL["people_to_wake"], self._settings.scheduler_batch)
            if not people:
                return woken
            for row in people:
                count = await self._wake(Identity(tenant_id=row["tenant_id"], user_id=row["user_id"]))
                woken += count
                self.stats.woken += count

    async def _wake(self, person: Identity) -> int:
        async with self._database.transaction(deadline=_DEADLINE) as connection:
            await connection.execute(INBOX["lock_person"], person.tenant_id, person.user_id)
            rows = await connection.fetch(
                SQL["wake"], person.tenant_id, person.user_id, self._settings.scheduler_batch
            )
            if not rows:  # another scheduler was quicker
                return 0
            key = StreamKey(person.tenant_id, user_stream(person.user_id))
            data = frames.changed_notifications([str(row["notification_id"]) for row in rows])
            [seq] = await append(connection, [Draft(key, "unread", data=data)])
        self._publisher.publish([Entry(key, seq, "unread", frames.state(key, seq, "unread", data))])
        return len(rows)

    async def retain(self) -> Removed | None:
        """Once a day take away what is too old; None when it is not the time, or another scheduler's turn."""
        async with self._database.connection(deadline=_DEADLINE) as connection:
            ours = await connection.fetchval(
                SQL["claim_daily"], "retention", self._name, _LEASE, self._settings.retention_at
            )
        if ours is None:
            return None
        removed = Removed()
        async for part in self._remove():
            removed = Removed(*map(sum, zip(removed, part, strict=True)))
            self.stats.removed += sum(part)
            async with self._database.connection(deadline=_DEADLINE) as connection:
                if await connection.fetchval(SQL["renew"], "retention", self._name, _LEASE) is None:
                    log.warning("retention_lost_its_lease")
                    return removed
        async with self._database.connection(deadline=_DEADLINE) as connection:
            await connection.execute(SQL["finish"], "retention", self._name)
        log.info("retention_finished", **removed._asdict())
        return removed

    async def _remove(self) -> AsyncIterator[Removed]:
        """Batch after batch, each in its own transaction."""
        limit = self._settings.retention_batch
        async with self._database.connection(deadline=_BATCH_DEADLINE) as connection:
            tenants = await connection.fetch(SQL["tenants"], self._settings.retention_days)
        for tenant in tenants:
            old = tenant["tenant_id"], tenant["cutoff"]
            while count := await self._delete("delete_events", *old, limit):
                yield Removed(events=count)
            while sum(gone := await self._delete_notifications(*old, limit)):
                yield Removed(notifications=gone[0], receipts=gone[1])
            while count := await self._delete("delete_connections", *old, limit):
                yield Removed(connections=count)
            while sum(gone := await self._delete_deliveries(*old, limit)):
                yield Removed(deliveries=gone[0], reports=gone[1])
            while count := await self._delete("delete_broadcasts", *old, limit):
                yield Removed(broadcasts=count)
            while count := await self._delete("delete_inbound", *old, limit):
                yield Removed(inbound=count)
            while count := await self._delete("delete_captured", *old, limit):
                yield Removed(captured=count)
        while count := await self._delete("delete_tickets", limit):
            yield Removed(tickets=count)
        while count := await self._delete("delete_keys", limit, self._settings.idempotency_life):
            yield Removed(keys=count)
        while count := await self._delete("delete_revocations", limit):
            yield Removed(revocations=count)
        while count := await self._delete("delete_strangers", limit, self._settings.retention_days):
            yield Removed(reports=count)
        while count := await self._delete("delete_links", limit):
            yield Removed(links=count)
        while count := await self._delete("delete_codes", limit):
            yield Removed(codes=count)
        while count := await self._prune_digests(limit):
            yield Removed(digests=count)
        while count := await self._prune(limit):
            yield Removed(browsers=count)

    async def _delete(self, query: str, *arguments: object) -> int:
        async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
            await _take_time(connection)
            status = await connection.execute(SQL[query], *arguments)
        return int(status.rpartition(" ")[2])

    async def _delete_notifications(self, tenant_id: str, before: datetime, limit: int) -> tuple[int, int]:
        async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
            await _take_time(connection)
            row = await connection.fetchrow(SQL["delete_notifications"], tenant_id, before, limit)
        assert row is not None, "an aggregate returns its row"
        return row["notifications"], row["receipts"]

    async def _delete_deliveries(self, tenant_id: str, before: datetime, limit: int) -> tuple[int, int]:
        async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
            await _take_time(connection)
            row = await connection.fetchrow(SQL["delete_deliveries"], tenant_id, before, limit)
        assert row is not None, "an aggregate returns its row"
        return row["deliveries"], row["reports"]


async def _take_time(connection: Connection) -> None:
    """Nobody waits for retention, so the server's short timeout is not for it."""
    await connection.execute("SET LOCAL statement_timeout = 30000")


def _together(batch: Batch, part: Part) -> Order | None:
    """The one notification that goes out for several; None where they cannot be said as one."""
    said = [content for _, content in part]
    try:
        one = together(batch.tenant_id, batch.user_id, batch.channel, batch.key, said)
    except ServiceError as error:
        paths = [fault.path for fault in error.faults]
        log.error("batch_goes_out_one_by_one", tenant_id=batch.tenant_id, faults=paths)
        return None
    sender = Identity(tenant_id=batch.tenant_id, user_id="batching", kind="service")
    return Order(submissions=[one], sender=sender, render=answer_many)
