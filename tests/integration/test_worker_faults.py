"""
Providers that fail, throttle and break off, and deliveries that nobody can send (RELIABILITY F20 to F23): several
workers on one database, a provider that can be told what to do, and waits that settings make short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from core.outcome import Outcome, Sent
from delivery.channel import Address, Message
from delivery.draft import Users
from tests.stores import Stores, open_stores
from tests.workers import a_worker, channel, introduce, working

PEOPLE = tuple(f"person-{number:02}" for number in range(40))


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, *PEOPLE, channels=("email", "sms"))
        yield opened


class Told:
    """A provider that takes what it is given, unless `fault` has another end for it."""

    name, rate = "told", None

    def __init__(self, account: str = "one", *, concurrency: int = 64, seconds: float = 0.0) -> None:
        self.concurrency = concurrency
        self.asked: list[tuple[float, Message]] = []
        self.taken: Counter[str] = Counter()
        self.fault: Callable[[Message], Outcome | None] = lambda _message: None
        self._account = account
        self._seconds = seconds

    def account_of(self, address: Address) -> str:
        return self._account

    async def send(self, message: Message) -> Outcome:
        self.asked.append((asyncio.get_running_loop().time(), message))
        await asyncio.sleep(self._seconds)
        fault = self.fault(message)
        if fault is None or fault.name == "unknown":
            self.taken[message.reference] += 1
        return fault or Sent(provider_ref=message.reference)


async def settled(stores: Stores, seconds: float = 20) -> None:
    """Wait until every delivery is finished."""
    async with asyncio.timeout(seconds):
        while await stores.query("SELECT FROM notification_deliveries WHERE finished_at IS NULL LIMIT 1"):
            await asyncio.sleep(0.02)  # workers have no event for this


async def test_a_backlog_larger_than_the_room_is_drained_without_waiting_for_the_poll(stores: Stores) -> None:
    provider = Told(concurrency=16)
    for _ in range(5):
        await stores.send(Users.of(*PEOPLE), channels=("email",))

    async with working(
        a_worker(stores.database, {"email": channel("email", provider)}, poll=timedelta(seconds=60))
    ):
        await settled(stores, seconds=10)

    assert len(provider.asked) == 200
