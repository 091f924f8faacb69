"""
Every delivery that was accepted reaches its provider or becomes a dead letter that says why, while workers are
killed and frozen and providers fail; a repetition at a provider has an unknown outcome behind it, each time. And the
checker that says so is one that can say otherwise.

CARILLON_CHAOS_DELIVERIES says how many (10000 is the full form, with the leases of production); CARILLON_CHAOS_SEED
repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from core.database import DatabaseSettings, open_database
from core.vault import Vault, read_keys
from delivery.outbox import NO_FENCE
from delivery.recipients_store import Introduction, Recipients
from tests.acceptance.chaos.outbox_checker import Attempt, Delivery, Verdict, judge
from tests.acceptance.chaos.outbox_provider import Ledger, Providers
from tests.postgres import TEMPLATE, PostgresServer, becomes
from tests.process import ENCRYPTION_KEYS, Node, nodes
from tests.workers import settled

DELIVERIES = int(os.environ.get("CARILLON_CHAOS_DELIVERIES", "2000"))
SEED = int(os.environ.get("CARILLON_CHAOS_SEED", random.randrange(10**6)))
IS_FULL = DELIVERIES >= 10_000

WORKERS = 4
PEOPLE = 40
PER_SECOND = 120  # accepted; what the workers can do, some of them dead or new at any moment
KILL_EVERY_S = 2.0

LEASE = timedelta(seconds=15 if IS_FULL else 5)
RETAKEN = LEASE + timedelta(seconds=5 if IS_FULL else 10)  # several stalls of a busy machine included

HASTY: dict[str, Any] = {
    "DELIVERY_LEASE": str(LEASE.total_seconds()),
    "DELIVERY_PROVIDER_TIMEOUT": "8" if IS_FULL else "2",
    "DELIVERY_RETRY_BASE": "1",
    "DELIVERY_RETRY_CAP": "2",
    "DELIVERY_RECONCILE_AFTER": "3",
    "DELIVERY_BREAKER_THROTTLED": "1",
}


@dataclass(slots=True)
class Installation:
    """A web process, workers, their database, and the providers."""

    web: Node
    workers: Sequence[Node]
    dsn: str
    ledger: Ledger
    accepted: list[str] = field(default_factory=list)

    async def submit(self, count: int, per_second: float = PER_SECOND) -> None:
        """One delivery each: three of four by webhook, one by WhatsApp; every tenth is urgent."""
        began = time.monotonic()
        first = len(self.accepted)
        for number in range(first, first + count, 10):
            late = began + (number - first) / per_second - time.monotonic()
            await asyncio.sleep(max(late, 0))
            several = range(number, min(number + 10, first + count))
            await asyncio.gather(*(self._submit(one) for one in several))

    async def _submit(self, number: int) -> None:
        answer = await self.web.notify(
            f"delivery {number}",
            user_id=f"person-{number % PEOPLE}",
            channels=["whatsapp" if number % 4 == 0 else "webhook"],
            priority="urgent" if number % 10 == 0 else "normal",
        )
        assert answer.status_code == 201, answer.text
        self.accepted.append(f"delivery {number}")

    async def verdict(self) -> Verdict:
        connection = await asyncpg.connect(self.dsn)
        try:
            deliveries = await connection.fetch(
                "SELECT n.title AS name, d.state, d.reason FROM notification_deliveries d"
                " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
            )
            attempts = await connection.fetch(
                "SELECT n.title AS name, a.attempt, a.started_at, a.ended_at, a.outcome, a.code, a.is_late"
                " FROM delivery_attempts a"
                " JOIN notification_deliveries d ON d.tenant_id = a.tenant_id AND d.id = a.delivery_id"
                " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
            )
        finally:
            await connection.close()
        return judge(
            self.accepted,
            [Delivery(**row) for row in deliveries],
            [Attempt(**row) for row in attempts],
            self.ledger.taken,
        )


@asynccontextmanager
async def installation(
    postgres: PostgresServer, *, workers: int = WORKERS, faults: float = 1.0, **settings: str
) -> AsyncIterator[Installation]:
    """faults: how much of what usually goes wrong with the providers."""
    await postgres.create_template()
    dsn = postgres.dsn(TEMPLATE)
    async with (
        Providers(Ledger(SEED, faults)) as providers,
        nodes(dsn, 1, role="web", allow_faults=True, **HASTY) as [web],
        nodes(
            dsn, workers, role="worker", allow_faults=True, **{**HASTY, **providers.settings, **settings}
        ) as working,
    ):
        database = await open_database(DatabaseSettings(url=dsn, connections=2))
        people = [
            Introduction(
                user_id=f"person-{number}",
                addresses=[("webhook", providers.hook(number)), ("whatsapp", f"+447700900{number:03}")],
            )
            for number in range(PEOPLE)
        ]
        recipients = Recipients(database, Vault(read_keys(ENCRYPTION_KEYS)))
        await recipients.introduce("default", people, "test", verified=True)
        await database.close()
        yield Installation(web, working, dsn, providers.ledger)


class Nemesis:
    """kill -9 every two seconds, now and then SIGSTOP for longer than a lease; never all workers at once."""

    def __init__(self, workers: Sequence[Node]) -> None:
        self.done: Counter[str] = Counter()
        self._idle = list(workers)
        self._random = random.Random(SEED)
        self._under_way: set[asyncio.Task[None]] = set()

    async def rage(self, until: asyncio.Event) -> None:
        turn = 0
        while not until.is_set():
            turn += 1
            if len(self._idle) > 1:
                worker = self._idle.pop(self._random.randrange(len(self._idle)))
                work = self._freeze(worker) if turn % 5 == 3 else self._kill(worker)
                self._under_way.add(asyncio.create_task(work))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    KILL_EVERY_S
                ):  # the interval of the faults, not a wait for something
                    await until.wait()
        await asyncio.gather(*self._under_way)

    async def _kill(self, worker: Node) -> None:
        self.done["kill -9"] += 1
        await worker.kill()
        await worker.start()
        self._idle.append(worker)

    async def _freeze(self, worker: Node) -> None:
        self.done["SIGSTOP beyond the lease"] += 1
        await frozen(worker)
        self._idle.append(worker)


async def frozen(worker: Node) -> None:
    """For longer than its leases, and then it goes on as if nothing had been."""
    worker.freeze()
    try:
        await asyncio.sleep(LEASE.total_seconds() + 2)
    finally:
        worker.thaw()


def report(verdict: Verdict, installed: Installation, seconds: float, done: Counter[str]) -> str:
    faults = installed.ledger.done
    return (
        f"{len(installed.accepted)} accepted, {installed.ledger.asked} requests to providers in {seconds:.0f} s,"
        f" {sum(faults.values()) / installed.ledger.asked:.0%} of them with a fault"
        f"\n{len(verdict.lost)} lost, {len(verdict.stuck)} stuck, {len(verdict.invented)} invented,"
        f" {len(verdict.reopened)} reopened, {verdict.dead} dead letters"
        f"\n{verdict.repetitions} repetitions at providers, {verdict.unknown} unknown outcomes"
        f" ({verdict.late} of late workers); retaken after {verdict.takeover.total_seconds():.1f} s at most"
        f" ({verdict.slowest}; lease {LEASE.total_seconds():.0f} s)"
        f"\nseed {SEED}: {', '.join(f'{count} × {what}' for what, count in sorted((done + faults).items()))}"
    )


@pytest.mark.alone
@pytest.mark.slow
async def test_nothing_accepted_is_lost_and_no_repetition_comes_without_an_unknown_outcome(
    own_postgres: PostgresServer, measured: Callable[[str], None]
) -> None:
    began = time.monotonic()
    async with installation(own_postgres) as installed:
        nemesis, calm = Nemesis(installed.workers), asyncio.Event()
        raging = asyncio.create_task(nemesis.rage(calm))
        await installed.submit(DELIVERIES)
        calm.set()
        await raging
        await settled(installed.dsn, 180)

        verdict = await installed.verdict()
        bugs = [fault for node in (installed.web, *installed.workers) for fault in node.faults()]
    measured(report(verdict, installed, time.monotonic() - began, nemesis.done))
    assert verdict.clean, verdict
    assert verdict.repetitions <= verdict.unknown
    assert verdict.takeover <= RETAKEN
    assert not [bug for bug in bugs if "Traceback" in bug], "\n".join(bugs)


async def one_wakes_late(postgres: PostgresServer, **settings: str) -> Verdict:
    """One of two workers is frozen with its hands full, and goes on when the other has done its work."""
    # All are taken before one is given up.
    patient = {"DELIVERY_LEASE": "13", "DELIVERY_PROVIDER_TIMEOUT": "10"}
    async with installation(postgres, workers=2, faults=0, **patient, **settings) as installed:
        first, second = installed.workers
        second.freeze()
        installed.ledger.may_answer.clear()
        await installed.submit(20, per_second=1000)
        await becomes(installed.dsn, "SELECT count(*) = 20 FROM delivery_attempts")
        while installed.ledger.taken.total() < 20:
            await asyncio.sleep(0.02)
        first.freeze()
        installed.ledger.may_answer.set()
        second.thaw()
        await settled(installed.dsn, 90)

        first.thaw()
        await becomes(
            installed.dsn,
            "SELECT NOT EXISTS (SELECT FROM delivery_attempts WHERE attempt = 1 AND code = 'worker_lost')",
        )
        await settled(installed.dsn, 90)
        return await installed.verdict()


@pytest.mark.slow
async def test_a_worker_that_wakes_after_its_lease_is_recorded_and_decides_nothing(
    own_postgres: PostgresServer,
) -> None:
    verdict = await one_wakes_late(own_postgres)

    assert verdict.clean, verdict
    assert verdict.late == 20


@pytest.mark.slow
async def test_the_checker_sees_an_outbox_without_a_fence(own_postgres: PostgresServer) -> None:
    verdict = await one_wakes_late(own_postgres, HUB_FAILPOINTS=NO_FENCE)

    assert verdict.reopened
