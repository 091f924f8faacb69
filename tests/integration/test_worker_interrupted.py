"""Workers that are stopped, or hindered, between claiming a delivery and sending it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from core.errors import ServiceError
from core.outcome import Unknown
from delivery.channel import Channel
from delivery.conclusion import RetrySettings
from delivery.facts import FactsReader
from delivery.outbox import Claimed, Outbox, Room
from delivery.policy import Facts
from tests.integration.test_worker_faults import Told, settled, ways
from tests.stores import Stores, open_stores
from tests.workers import VAULT, a_worker, channel, introduce, working


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, "ada", channels=("email", "sms"))
        yield opened


class SlowFacts(FactsReader):
    """Facts that come when they are let."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.database, VAULT, ("sms",))
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def gather(self, deliveries: Sequence[Claimed]) -> list[Facts]:
        self.asked.set()
        await self.may_answer.wait()
        return await super().gather(deliveries)


class OddOutbox(Outbox):
    """An outbox whose claims are answered late, or whose first claim fails."""

    def __init__(self, stores: Stores, *, first: Exception | None = None) -> None:
        super().__init__(stores.database, "w1", timedelta(seconds=15))
        self.claimed, self.may_answer = asyncio.Event(), asyncio.Event()
        self._first = first

    async def claim(self, rooms: Sequence[Room]) -> list[Claimed]:
        if self._first is not None:
            first, self._first = self._first, None
            raise first
        found = await super().claim(rooms)
        self.claimed.set()
        await self.may_answer.wait()
        return found


def by_sms(provider: Told) -> dict[str, Channel]:
    """A channel on which nothing may be sent twice."""
    return {"sms": channel("sms", provider, unknown="reconcile")}


async def only(stores: Stores) -> dict[str, Any]:
    """The one delivery."""
    [row] = await stores.query("SELECT state, reason, attempt FROM notification_deliveries")
    return dict(row)


async def stopped(task: asyncio.Task[None], go_on: asyncio.Event) -> None:
    """Stop a worker, and let what it waits for come."""
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_claimed_and_not_begun_is_given_back_when_a_worker_stops(stores: Stores) -> None:
    """Else its lease would run out, and nobody would know whether it was sent."""
    await stores.send("ada", channels=("sms",))
    provider, facts = Told(), SlowFacts(stores)
    worker = a_worker(stores.database, by_sms(provider))
    worker._attempts._facts = facts
    task = asyncio.create_task(worker.run())
    await facts.asked.wait()

    await stopped(task, facts.may_answer)

    assert (await only(stores)) == {"state": "queued", "reason": "the worker was stopped", "attempt": 1}
    assert not provider.asked


async def test_a_worker_that_stops_while_it_claims_gives_back_what_it_gets(stores: Stores) -> None:
    await stores.send("ada", channels=("sms",))
    provider, outbox = Told(), OddOutbox(stores)
    worker = a_worker(stores.database, by_sms(provider))
    worker._outbox = outbox
    task = asyncio.create_task(worker.run())
    await outbox.claimed.wait()

    await stopped(task, outbox.may_answer)

    assert (await only(stores)) == {"state": "queued", "reason": "the worker was stopped", "attempt": 1}
    assert not provider.asked


async def test_a_claim_that_fails_does_not_end_the_worker(stores: Stores) -> None:
    await stores.send("ada", channels=("email",))
    provider, outbox = Told(), OddOutbox(stores, first=asyncpg.DeadlockDetectedError("two in a circle"))
    outbox.may_answer.set()
    worker = a_worker(stores.database, ways(provider), poll=timedelta(milliseconds=10))
    worker._outbox = outbox

    async with working(worker):
        await settled(stores)

    assert len(provider.asked) == 1


class AwayOnce(FactsReader):
    """Facts of a database that is away when they are asked for first."""

    is_away = True

    async def gather(self, deliveries: Sequence[Claimed]) -> list[Facts]:
        if self.is_away:
            self.is_away = False
            raise ServiceError("unavailable", "The database is away or too slow.")
        return await super().gather(deliveries)


async def test_what_nobody_knows_the_end_of_stays_unknown_while_the_database_is_away(stores: Stores) -> None:
    """It is settled by the rule for unknown ends later, and not sent again as if it were new."""
    await stores.send("ada", channels=("sms",))
    provider = Told()
    provider.fault = lambda _message: Unknown(reason="the answer was lost")
    worker = a_worker(stores.database, by_sms(provider), retries=RetrySettings(reconcile_after=timedelta(0)))
    await worker.run_once()
    worker._attempts._facts = AwayOnce(stores.database, VAULT, ("sms",))

    for _ in range(2):
        await stores.query("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")
        await worker.run_once()

    assert (await only(stores))["state"] == "failed"
    assert len(provider.asked) == 1


async def test_no_delivery_waits_for_the_poll_behind_many_tenants_with_nothing_due(stores: Stores) -> None:
    """One claim looks at 200 tenants; the next one follows at once."""
    await stores.query(
        "INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state, due_at)"
        " SELECT 'a' || n, gen_random_uuid(), gen_random_uuid(), 'ada', 'email', 2, 'deferred',"
        " now() + interval '1 hour' FROM generate_series(1, 1000) AS n"
    )
    provider = Told()
    worker = a_worker(stores.database, ways(provider), poll=timedelta(seconds=60))

    async with working(worker):
        for count in (1, 2):
            await stores.send("ada", channels=("email",))
            worker.wake()
            async with asyncio.timeout(30):
                while len(provider.asked) < count:
                    await asyncio.sleep(0.01)  # workers have no event for this

    await stores.send("ada", channels=("email",))
    assert (await a_worker(stores.database, ways(provider)).run_once()).sent == 1
