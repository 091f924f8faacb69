"""
The loop that carries deliveries out: claim what there is room for, as soon as there is, and attempt it.

A worker may die, freeze or wake late at any point: its leases run out, another takes over, and what it says
afterwards decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from core.clock import Clock
from core.errors import ServiceError
from delivery.accounts_store import Accounts
from delivery.attempts import Attempts, AttemptStats, Compose, Preview
from delivery.broadcasts_store import Broadcasts
from delivery.budget_store import Budget
from delivery.capacity import Capacity
from delivery.channel import PROVIDER_CHANNELS, Channel
from delivery.conclusion import RetrySettings
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader
from delivery.observer import Observer
from delivery.outbox import CAMPAIGN_LANE, Claimed, Outbox, Room
from delivery.recording import Recorder

log = structlog.stdlib.get_logger("delivery.worker")

#: With a backlog, a claim is worth its round trip when there is room for so many.
_WORTHWHILE = 16

_EVERY_CHANNEL: Set[str] = frozenset(PROVIDER_CHANNELS)

#: What is known of accounts is at most so old when something is claimed.
_ACCOUNTS_AGE_S = 0.1

#: Until the next look where there may be more that is due, and nothing could be had: seconds.
_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How deliveries are claimed and sent. From DELIVERY_*."""

    lease: timedelta = timedelta(seconds=15)  # a worker that says nothing for so long has lost its deliveries
    provider_timeout: timedelta = timedelta(seconds=8)  # of one call to a provider
    poll: timedelta = timedelta(seconds=1)  # between two looks when nobody has rung
    batch_limit: int = 200  # deliveries of one channel in one claim
    broadcast_interval: timedelta = timedelta(seconds=1)  # between two looks for broadcasts to expand
    expiry_interval: timedelta = timedelta(seconds=5)  # between two looks for what was to be gone by now
    accounts_interval: timedelta = timedelta(seconds=1)  # between two exchanges about accounts in trouble

    def __post_init__(self) -> None:
        if self.lease <= self.provider_timeout + timedelta(seconds=2):
            raise ValueError("a lease must last at least 2 s longer than a call to a provider")
        if self.batch_limit < 1:
            raise ValueError("must be at least 1")

    @property
    def latest_start(self) -> float:
        """Seconds after a claim began, after which no call is begun: it might outlive the lease."""
        return (self.lease - self.provider_timeout).total_seconds() - 1


class Worker:
    """One worker of any number."""

    def __init__(
        self,
        *,
        name: str,
        outbox: Outbox,
        facts: FactsReader,
        endpoints: Endpoints,
        broadcasts: Broadcasts,
        accounts: Accounts,
        budget: Budget,
        recorder: Recorder,
        channels: Mapping[str, Channel],
        capacity: Capacity,
        compose: Compose,
        observer: Observer,
        clock: Clock,
        random: Random,
        settings: WorkerSettings | None = None,
        retries: RetrySettings | None = None,
    ) -> None:
        self.name = name
        self._outbox = outbox
        self._broadcasts = broadcasts
        self._accounts = accounts
        self._recorder = recorder
        self._capacity = capacity
        self._observer = observer
        self._clock = clock
        self._settings = settings or WorkerSettings()
        self._is_rung = True
        self._stirred = asyncio.Event()  # somebody has rung, or something under way has ended
        self._has_turned = asyncio.Event()  # an account has got into trouble, or out of it
        self._exchanging = asyncio.Lock()
        self._exchanged = clock.monotonic() - _ACCOUNTS_AGE_S
        self._behind: Set[str] = frozenset()  # channels that may have more to do than there was room for
        self._attempts = Attempts(
            outbox=outbox,
            facts=facts,
            endpoints=endpoints,
            accounts=accounts,
            budget=budget,
            recorder=recorder,
            channels=channels,
            capacity=capacity,
            compose=compose,
            observer=observer,
            clock=clock,
            random=random,
            retries=retries or RetrySettings(),
            provider_timeout=self._settings.provider_timeout,
            latest_start=self._settings.latest_start,
            on_end=self._make_room,
            on_turn=self._has_turned.set,
        )

    @property
    def stats(self) -> AttemptStats:
        return self._attempts.stats

    def wake(self) -> None:
        """There is something to do, or there may be."""
        self._is_rung = True
        self._stirred.set()

    async def run(self) -> None:
        """Work until cancelled; then finish what is under way."""
        self._attempts.is_stopping = False
        self._observer.started(self.name)
        beside = [
            asyncio.create_task(self._recorder.run(), name="recorder"),
            asyncio.create_task(self._repeat(self._expand, self._settings.broadcast_interval)),
            asyncio.create_task(self._repeat(self._exchange_in_turn, self._settings.accounts_interval)),
            asyncio.create_task(self._repeat(self._recorder.expire, self._settings.expiry_interval)),
        ]
        try:
            await self._claim_for_ever()
        finally:
            await self._finish(beside)

    async def run_once(self) -> AttemptStats:
        """Attempt everything that is due now, and return when it is written down."""
        self._attempts.is_stopping = False
        self._observer.started(self.name)
        beside = [asyncio.create_task(self._recorder.run(), name="recorder")]
        try:
            await self._exchange()
            while await self._expand():
                pass
            while await self._recorder.expire():
                pass
            rooms = self._capacity.rooms()
            while await self._claim(rooms) or self._attempts.are_under_way or self._unlooked(rooms):
                await self._attempts.ended()
                await self._recorder.drained()
                rooms = self._capacity.rooms()
        finally:
            await self._finish(beside)
        return self.stats

    async def preview(self, limit: int = 100) -> list[Preview]:
        """What `run_once` would attempt; claims, sends and changes nothing."""
        self._capacity.learn(*await self._accounts.look())
        return await self._attempts.preview(await self._outbox.peek(PROVIDER_CHANNELS, limit))

    # --- claiming ---

    async def _claim_for_ever(self) -> None:
        """
        Look at every channel when somebody has rung, and once per poll. In between claim for those that had more
        to do than there was room for, as soon as there is room for some.
        """
        poll = self._settings.poll.total_seconds()
        looked = self._clock.monotonic() - poll
        left: Set[str]
        while True:
            self._stirred.clear()
            try:
                if self._clock.monotonic() - self._exchanged > _ACCOUNTS_AGE_S:
                    await self._exchange()
                now = self._clock.monotonic()
                if self._is_rung or now - looked >= poll:
                    self._is_rung, looked = False, now
                    self._outbox.look_anew()
                    rooms, left = self._capacity.rooms(), _EVERY_CHANNEL
                else:
                    rooms, left = self._capacity.rooms(at_least=_WORTHWHILE), self._behind
                    rooms = [room for room in rooms if room.channel in left]
                claimed = await self._claim(rooms)
            except ServiceError as error:
                log.warning("claim_postponed", code=error.code)
                self._observer.failed(error.code)
                await self._clock.sleep(poll)
                continue
            except Exception as error:  # one statement that fails must not end all deliveries
                log.exception("claim_failed")
                self._observer.failed(type(error).__name__)
                await self._clock.sleep(poll)
                continue
            asked = {room.channel for room in rooms if room.last_lane == CAMPAIGN_LANE}
            unlooked = self._unlooked(rooms)
            self._behind = left - asked | {one.channel for one in claimed} | unlooked
            if not claimed:
                # Rows that are in other hands may stay there for a while: look again soon, and not at once.
                rest = looked + poll - self._clock.monotonic()
                await self._stir(min(rest, _AGAIN_S) if unlooked else rest)

    def _unlooked(self, rooms: Sequence[Room]) -> Set[str]:
        """Of the channels that were asked, those in which there may be more that is due."""
        return self._outbox.unlooked & {room.channel for room in rooms}

    async def _stir(self, seconds: float) -> None:
        """Until somebody rings or something under way has ended, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    async def _claim(self, rooms: Sequence[Room]) -> Sequence[Claimed]:
        """
        Claim what there is room for and begin with it. Stopped in the middle, it waits for what the database says:
        what was claimed by then is ours, and nobody else's before the lease ends.
        """
        if not rooms:
            return ()
        began = self._clock.monotonic()
        claiming = asyncio.ensure_future(self._outbox.claim(rooms))
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(ServiceError):
                self._attempts.begin(await claiming, began)
            raise
        self._attempts.begin(claimed, began)
        return claimed

    def _make_room(self) -> None:
        """Something has ended."""
        if self._behind:
            self._stirred.set()

    async def _finish(self, beside: Sequence[asyncio.Task[None]]) -> None:
        """Let what is under way come to its end, give back what was not begun, write it down, and stop the rest."""
        self._attempts.is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.provider_timeout.total_seconds() + 1):
                await self._attempts.ended()
        try:
            async with asyncio.timeout(5):
                await self._recorder.drained()
        except TimeoutError:
            log.error("completions_left_behind", attempts=self._recorder.waiting)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._observer.stopped(self.stats.attempted)

    # --- beside ---

    async def _repeat(self, work: Callable[[], Awaitable[object]], interval: timedelta) -> None:
        while True:
            try:
                if not await work():
                    await self._clock.sleep(interval.total_seconds())
            except ServiceError as error:
                log.warning("work_postponed", code=error.code)
                await self._clock.sleep(interval.total_seconds())
            except Exception as error:  # a fault in one of these must not end the others, nor itself for good
                log.exception("work_failed")
                self._observer.failed(type(error).__name__)
                await self._clock.sleep(interval.total_seconds())

    async def _expand(self) -> int:
        """Write the next page of a broadcast; how many deliveries."""
        written = await self._broadcasts.expand_once()
        if written:
            self.wake()
        return written

    async def _exchange_in_turn(self) -> bool:
        """Exchange, and wait for the next turn: an account has got into trouble, or out of it."""
        await self._exchange()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.accounts_interval.total_seconds()):
                await self._has_turned.wait()
        self._has_turned.clear()
        return True

    async def _exchange(self) -> None:
        """Tell the other workers of accounts that changed, and learn what they know."""
        async with self._exchanging:
            if news := self._capacity.news():
                await self._accounts.record(news)
            self._capacity.learn(*await self._accounts.look())
            self._exchanged = self._clock.monotonic()
