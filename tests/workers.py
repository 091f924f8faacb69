"""A worker over a database of one test, with the simulator in place of providers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from core.clock import Clock, SystemClock
from core.database import Database
from core.vault import Vault
from delivery.accounts_store import Accounts
from delivery.breaker import BreakerSettings
from delivery.broadcasts_store import Broadcasts
from delivery.budget_store import Budget, BudgetSettings
from delivery.capacity import Capacity
from delivery.channel import PROVIDER_CHANNELS, UNKNOWN, Channel, Provider, UnknownPolicy
from delivery.channels.simulator import Simulator, SimulatorSettings
from delivery.composing import Composer, LinkSettings
from delivery.conclusion import Conclusion, RetrySettings
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader, Looking, Unread, nobody_counts, nobody_looks
from delivery.outbox import Claimed, Outbox
from delivery.policy import Facts
from delivery.recipients_store import Introduction, Recipients
from delivery.recording import Recorder
from delivery.worker import Worker, WorkerSettings
from tests.postgres import becomes
from tests.submissions import TENANT_ID

VAULT = Vault({"test": b"v" * 32})

ADDRESSES = {
    "email": "{name}@example.test",
    "sms": "+447700900{number:03}",
    "whatsapp": "+447700900{number:03}",
    "telegram": "10000{number:03}",
    "webhook": "https://hooks.example.test/{name}",
}


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.concluded_: list[tuple[Claimed, Conclusion]] = []
        self.errors: list[str] = []

    def started(self, worker: str) -> None: ...
    def claimed(self, claimed: Sequence[Claimed]) -> None: ...

    def concluded(
        self,
        claimed: Claimed,
        facts: Facts | None,
        provider: str | None,
        conclusion: Conclusion,
        seconds: float,
    ) -> None:
        self.concluded_.append((claimed, conclusion))

    def failed(self, error: str) -> None:
        self.errors.append(error)

    def stopped(self, attempted: int) -> None: ...


def simulated(*script: str, names: Sequence[str] = PROVIDER_CHANNELS, **settings: Any) -> dict[str, Channel]:
    """Channels that the simulator stands in for."""
    given = SimulatorSettings(script=json.dumps(script or ["ok"]), **settings)
    return {
        name: channel(name, Simulator(given, name, SystemClock()), unknown=UNKNOWN[name]) for name in names
    }


def channel(name: str, *providers: Provider, unknown: UnknownPolicy = "repeat") -> Channel:
    return Channel(name=name, providers=providers, unknown=unknown)


def a_worker(
    database: Database,
    channels: Mapping[str, Channel],
    *,
    name: str = "w1",
    observer: Seen | None = None,
    clock: Clock | None = None,
    retries: RetrySettings | None = None,
    breaker: BreakerSettings | None = None,
    links: LinkSettings | None = None,
    budget: BudgetSettings | None = None,
    failpoints: frozenset[str] = frozenset(),
    looking: Looking = nobody_looks,
    unread: Unread = nobody_counts,
    **settings: Any,
) -> Worker:
    """A worker that has not begun."""
    clock = clock or SystemClock()
    given = WorkerSettings(**settings)
    made: Worker

    def wake() -> None:
        made.wake()

    made = Worker(
        name=name,
        outbox=Outbox(database, name, given.lease),
        facts=FactsReader(
            database, VAULT, [one.name for one in channels.values() if one.is_configured], looking, unread
        ),
        endpoints=Endpoints(database, VAULT, clock),
        broadcasts=Broadcasts(database),
        accounts=Accounts(database),
        budget=Budget(database, budget),
        recorder=Recorder(database, clock, on_fallback=wake, failpoints=failpoints),
        channels=channels,
        capacity=Capacity(channels, clock, breaker or BreakerSettings(), batch_limit=given.batch_limit),
        compose=Composer(VAULT, links or LinkSettings()),
        observer=observer or Seen(),
        clock=clock,
        random=Random(1),
        settings=given,
        retries=retries or RetrySettings(),
    )
    return made


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """The worker, running."""
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def introduce(database: Database, *names: str, channels: Sequence[str] = tuple(ADDRESSES)) -> None:
    """People with a verified address of each channel."""
    people = [
        Introduction(
            user_id=name,
            name=name.title(),
            addresses=[(one, ADDRESSES[one].format(name=name, number=number)) for one in channels],
        )
        for number, name in enumerate(names)
    ]
    await Recipients(database, VAULT).introduce(TENANT_ID, people, "test", verified=True)


async def settled(dsn: str, seconds: float) -> None:
    """Wait until no delivery is open any more; at most so long, and then the verdict of a test tells."""
    with contextlib.suppress(TimeoutError):
        await becomes(
            dsn, "SELECT NOT EXISTS (SELECT FROM notification_deliveries WHERE finished_at IS NULL)", seconds
        )
