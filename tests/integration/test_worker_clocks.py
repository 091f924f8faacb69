"""Workers whose clocks are wrong: what they say of accounts counts by the database's (RELIABILITY F14)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from core.clock import SystemClock
from core.outcome import Retry
from delivery.draft import Users
from tests.integration.test_worker_faults import HASTY, Told, becomes, settled, ways
from tests.stores import Stores, open_stores
from tests.workers import a_worker, introduce, working

PEOPLE = ("ada", "bob", "eve", "joe", "kim", "lea")
SKEWS = [timedelta(days=1), timedelta(minutes=5), timedelta(minutes=-5), timedelta(days=-1)]


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, *PEOPLE, channels=("email",))
        yield opened


class Skewed(SystemClock):
    """A clock that is wrong by so much."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


@pytest.mark.parametrize("by", SKEWS, ids=str)
async def test_a_pause_lasts_as_long_as_it_was_asked_for_whoever_was_asked(
    stores: Stores, by: timedelta
) -> None:
    provider = Told()
    refusal = Retry(reason="enough for now", code="429", after=timedelta(minutes=1), throttled=True)
    faults = iter([refusal])
    provider.fault = lambda _message: next(faults, None)
    await stores.send("ada", channels=("email",))
    wrong = a_worker(stores.database, ways(provider), clock=Skewed(by), retries=HASTY)

    async with working(wrong):
        await becomes(stores, "SELECT FROM channel_accounts WHERE resume_at IS NOT NULL")
    [row] = await stores.query("SELECT resume_at - now() AS left FROM channel_accounts")

    assert timedelta(seconds=20) < row["left"] <= timedelta(minutes=1)


@pytest.mark.parametrize("by", SKEWS, ids=str)
async def test_a_worker_with_a_wrong_clock_finds_out_that_a_provider_is_back(
    stores: Stores, by: timedelta
) -> None:
    provider, is_down = Told(), True
    provider.fault = lambda _message: Retry(reason="down", code="503") if is_down else None
    await stores.send(Users.of(*PEOPLE), channels=("email",))

    async with working(a_worker(stores.database, ways(provider), clock=Skewed(by), retries=HASTY)):
        await becomes(stores, "SELECT FROM channel_accounts WHERE breaker = 'open'")
        is_down = False
        await settled(stores)
