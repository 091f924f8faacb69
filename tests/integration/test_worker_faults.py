"""
Providers that fail, throttle and break off, and deliveries that nobody can send (RELIABILITY F20 to F23): several
workers on one database, a provider that can be told what to do, and waits that settings make short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from core.outcome import Outcome, Retry, Sent, Unknown
from delivery.breaker import BreakerSettings
from delivery.channel import Address, Channel, Message, UnknownPolicy
from delivery.conclusion import RetrySettings
from delivery.draft import Everyone, Users
from delivery.outbox import Claimed, Outbox, Room
from delivery.worker import _ACCOUNTS_AGE_S
from tests.stores import Stores, open_stores
from tests.workers import Seen, a_worker, channel, introduce, working

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
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._account = account
        self._seconds = seconds

    def account_of(self, address: Address) -> str:
        return self._account

    async def send(self, message: Message) -> Outcome:
        self.asked.append((asyncio.get_running_loop().time(), message))
        await asyncio.sleep(self._seconds)
        await self.may_answer.wait()
        fault = self.fault(message)
        if fault is None or fault.name == "unknown":
            self.taken[message.reference] += 1
        return fault or Sent(provider_ref=message.reference)


#: Waits as short as tests want them.
HASTY = RetrySettings(
    retry_base=timedelta(milliseconds=20),
    retry_cap=timedelta(milliseconds=50),
    reconcile_after=timedelta(milliseconds=100),
)


def ways(provider: Told) -> dict[str, Channel]:
    """One channel."""
    return {"email": channel("email", provider)}


def raised() -> Outcome:
    raise RuntimeError("a message that nobody can make anything of")


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def several(
    stores: Stores, channels: Mapping[str, Channel], count: int, **settings: Any
) -> AsyncIterator[None]:
    """So many workers, who know of each other only through the database."""
    async with AsyncExitStack() as stack:
        for number in range(count):
            worker = a_worker(stores.database, channels, name=f"w{number}", retries=HASTY, **settings)
            await stack.enter_async_context(working(worker))
        yield


async def becomes(stores: Stores, question: str, seconds: float = 60) -> None:
    """Wait until a query has a row."""
    async with asyncio.timeout(seconds):
        while not await stores.query(question):
            await asyncio.sleep(0.02)  # workers have no event for this


async def states(stores: Stores) -> dict[tuple[str, str], int]:
    """How many deliveries of a channel are in a state."""
    rows = await stores.query("SELECT channel, state, count(*) FROM notification_deliveries GROUP BY 1, 2")
    return {(channel, state): count for channel, state, count in rows}


async def settled(stores: Stores, seconds: float = 60) -> None:
    """Wait until every delivery is finished."""
    async with asyncio.timeout(seconds):
        while await stores.query("SELECT FROM notification_deliveries WHERE finished_at IS NULL LIMIT 1"):
            await asyncio.sleep(0.02)  # workers have no event for this


async def test_a_backlog_larger_than_the_room_is_drained_without_waiting_for_the_poll(stores: Stores) -> None:
    provider = Told(concurrency=16)
    for _ in range(5):
        await stores.send(Users.of(*PEOPLE), channels=("email",))

    async with working(
        a_worker(stores.database, {"email": channel("email", provider)}, poll=timedelta(hours=1))
    ):
        await settled(stores)

    assert len(provider.asked) == 200


async def test_a_poison_delivery_ends_in_dead_letters_and_delays_nobody(stores: Stores) -> None:
    """Whatever is sent to one of the people raises; nobody else is attempted twice or waits for an account."""
    provider = Told(concurrency=4)
    provider.fault = lambda message: raised() if message.recipient_id == PEOPLE[0] else None
    await stores.send(Users.of(*PEOPLE), channels=("email",))

    async with working(a_worker(stores.database, ways(provider), retries=HASTY)):
        await settled(stores)

    rows = await stores.query("SELECT user_id, state, reason, attempt FROM notification_deliveries")
    assert [tuple(row) for row in rows if row["user_id"] == PEOPLE[0]] == [
        (PEOPLE[0], "failed", "given up after 5 attempts; the last one: a fault of ours while sending", 5)
    ]
    assert {(row["state"], row["attempt"]) for row in rows if row["user_id"] != PEOPLE[0]} == {("sent", 1)}
    assert not await stores.query("SELECT FROM channel_accounts WHERE breaker <> 'closed'")


async def test_a_delivery_that_every_worker_dies_of_is_given_up(stores: Stores) -> None:
    """Each claim without an end stands for a worker that died of it."""
    await stores.send(PEOPLE[0], channels=("email",))
    for _ in range(5):
        assert await Outbox(stores.database, "dead", timedelta(seconds=15)).claim([Room("email", 10, 4)])
        await stores.query("UPDATE notification_deliveries SET due_at = now()")
    provider = Told()

    await a_worker(stores.database, ways(provider)).run_once()

    [row] = await stores.query("SELECT state, code, unknowns FROM notification_deliveries")
    assert tuple(row) == ("failed", "workers_lost", 5)
    assert not provider.asked


@pytest.mark.alone
async def test_nobody_calls_before_retry_after_is_over_and_other_accounts_go_on(stores: Stores) -> None:
    pause = timedelta(seconds=5)
    answers_after = 0.02
    throttled, other = Told("throttled", seconds=answers_after, concurrency=8), Told("other")
    refusal = Retry(reason="enough for now", code="429", after=pause, throttled=True)
    faults = iter([refusal])
    throttled.fault = lambda _message: next(faults, None)
    channels = {**ways(throttled), "sms": channel("sms", other, unknown="reconcile")}
    for _ in range(10):
        await stores.send(Users.of(*PEOPLE), channels=("email",))

    async with several(stores, channels, 3):
        await becomes(
            stores, "SELECT FROM channel_accounts WHERE account = 'throttled' AND resume_at > now()"
        )
        known = now()
        await stores.send(Users.of(*PEOPLE), channels=("sms",))
        await becomes(
            stores,
            "SELECT FROM notification_deliveries WHERE channel = 'sms' HAVING bool_and(state = 'sent')",
        )
        others_took = now() - known
        await settled(stores)

    first = min(at for at, _ in throttled.asked)
    resumed = first + pause.total_seconds()
    # What the two others may still claim, one room of calls after the other: what each knows is 0.1 s old at most.
    rooms = 1 + round(_ACCOUNTS_AGE_S / answers_after)
    assert len([at for at, _ in throttled.asked if known < at < resumed]) <= 2 * rooms * throttled.concurrency
    assert [at for at, _ in throttled.asked if at >= resumed]
    assert others_took < pause.total_seconds()
    assert await states(stores) == {("email", "sent"): 400, ("sms", "sent"): 40}


async def test_a_provider_that_is_down_is_asked_by_one_worker_at_a_time_and_nothing_is_lost(
    stores: Stores,
) -> None:
    provider = Told(seconds=0.01, concurrency=4)
    provider.fault = lambda _message: Retry(reason="the provider has an error of its own", code="500")
    await stores.send(Users.of(*PEOPLE), channels=("email",))
    interval = timedelta(seconds=0.5)
    breaker = BreakerSettings(failures=5, probe_interval=interval)

    async with several(stores, ways(provider), 3, breaker=breaker, poll=timedelta(seconds=0.1)):
        await becomes(stores, "SELECT FROM channel_accounts WHERE breaker = 'open'")
        opened = now()
        await asyncio.sleep(3)  # the time that it is down
        back = now()
        probes = [at for at, _ in provider.asked if opened < at]
        provider.fault = lambda _message: None
        await settled(stores)

    under_way = 3 * provider.concurrency  # what had been claimed when it opened
    assert 1 <= len(probes) <= (back - opened) / interval.total_seconds() + 1 + under_way
    assert await states(stores) == {("email", "sent"): 40}
    assert all(count == 1 for count in provider.taken.values())


@pytest.mark.parametrize("policy", ["repeat", "reconcile"])
async def test_what_is_taken_twice_had_an_unknown_outcome_in_between(
    stores: Stores, policy: UnknownPolicy
) -> None:
    """Every third answer is lost after the message was taken."""
    provider = Told()
    turns = iter(range(10_000))
    provider.fault = lambda _message: Unknown(reason="the connection broke") if next(turns) % 3 == 0 else None
    await stores.send(Users.of(*PEOPLE), channels=("sms",))

    async with working(
        a_worker(
            stores.database,
            {"sms": channel("sms", provider, unknown=policy)},
            retries=HASTY,
            breaker=BreakerSettings(failures=1000),
        )
    ):
        await settled(stores)

    [row] = await stores.query(
        "SELECT count(*) AS unknown FROM delivery_attempts WHERE outcome = 'unknown' AND code IS NULL"
    )
    repetitions = sum(count - 1 for count in provider.taken.values())
    assert len(provider.taken) == 40, "nobody is lost"
    assert repetitions <= row["unknown"]
    assert (repetitions > 0) == (policy == "repeat")


@pytest.mark.parametrize(("priority", "most"), [("normal", 1), ("urgent", 2)])
async def test_an_sms_whose_answers_are_all_lost_goes_out_once_and_an_urgent_one_twice(
    stores: Stores, priority: str, most: int
) -> None:
    provider = Told()
    provider.fault = lambda _message: Unknown(reason="the connection broke")
    await stores.send(PEOPLE[0], channels=("sms",), priority=priority)

    async with working(
        a_worker(stores.database, {"sms": channel("sms", provider, unknown="reconcile")}, retries=HASTY)
    ):
        await settled(stores)

    assert sum(provider.taken.values()) == most
    [row] = await stores.query("SELECT state, code FROM notification_deliveries")
    assert tuple(row) == ("failed", "unknown_outcome")


async def test_urgent_overtakes_a_campaign(stores: Stores) -> None:
    """The campaign was there first, and is far from its end when the urgent one is submitted."""
    provider = Told(concurrency=8, seconds=0.01)
    for _ in range(10):
        await stores.send(Everyone(), channels=("email",))
    worker = a_worker(stores.database, ways(provider))

    async with working(worker):
        while len(provider.asked) < 40:
            await asyncio.sleep(0.005)  # the provider has no event for this
        provider.may_answer.clear()  # however long it takes to submit it
        sent_before = len(provider.asked)
        await stores.send(PEOPLE[1], channels=("email",), priority="urgent")
        worker.wake()
        provider.may_answer.set()
        await settled(stores)

    [place] = [place for place, (_, message) in enumerate(provider.asked) if message.priority == "urgent"]
    assert len(provider.asked) == 401
    assert place - sent_before < 40, "what was under way"


class Skipping(SystemClock):
    """The time that a process is frozen has gone by when it goes on."""

    skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


async def test_a_worker_that_was_frozen_after_its_claim_sends_nothing_that_might_outlive_the_lease(
    stores: Stores,
) -> None:
    """Of a lease of 15 s there must be the 8 s of a call, and one more, when the call begins."""
    clock, provider = Skipping(), Told()

    class Freezing(Seen):
        def claimed(self, claimed: Sequence[Claimed]) -> None:
            clock.skipped += 6.5

    await stores.send(PEOPLE[0], channels=("email",))
    worker = a_worker(stores.database, ways(provider), observer=Freezing(), clock=clock)
    async with working(worker):
        await becomes(stores, "SELECT FROM delivery_attempts WHERE outcome = 'released'")

    assert not provider.asked
    [row] = await stores.query("SELECT state, unknowns, retries FROM notification_deliveries")
    assert tuple(row) == ("queued", 0, 0)
