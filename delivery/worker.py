"""
The loop that carries deliveries out: claim, gather facts, decide, render, send, record.

Nothing is open in the database while something is sent. A worker may die, freeze or wake late at any point:
its leases run out, another takes over, and what it says afterwards decides nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec
import structlog

from core.clock import Clock
from core.errors import ServiceError
from core.outcome import Fail, Outcome, Retry, Unknown
from delivery.accounts_store import Accounts
from delivery.broadcasts_store import Broadcasts
from delivery.budget_store import PAID, Budget
from delivery.capacity import Blocked, Capacity, Way
from delivery.channel import PROVIDER_CHANNELS, Address, Channel, Message
from delivery.conclusion import Conclusion, RetrySettings, abandon, conclude, settle
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader
from delivery.outbox import CAMPAIGN_LANE, Claimed, Completion, Outbox, Room
from delivery.policy import Decision, Defer, Drop, Facts, GateRecord, Send, decide
from delivery.recording import Ended, Recorder

log = structlog.stdlib.get_logger("delivery.worker")

#: With a backlog, a claim is worth its round trip when there is room for so many.
_WORTHWHILE = 16

_EVERY_CHANNEL: Set[str] = frozenset(PROVIDER_CHANNELS)

#: A deadline that is noticed so much later was missed by this process, not by the provider.
_STALL_S = 1.0

#: What is known of accounts is at most so old when something is claimed.
_ACCOUNTS_AGE_S = 0.1

#: Until the next look where there may be more that is due, and nothing could be had: seconds.
_AGAIN_S = 0.01

_GATES = msgspec.json.Encoder()


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


class Observer(Protocol):
    """Who is told what a worker does: events of the log, metrics."""

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
        """seconds: from the moment it was due to be sent to its end, the provider's time included."""
        ...

    def failed(self, error: str) -> None: ...
    def stopped(self, attempted: int) -> None: ...


class Unobserved:
    """An observer that tells nobody."""

    def started(self, worker: str) -> None: ...
    def claimed(self, claimed: Sequence[Claimed]) -> None: ...
    def concluded(
        self,
        claimed: Claimed,
        facts: Facts | None,
        provider: str | None,
        conclusion: Conclusion,
        seconds: float,
    ) -> None: ...
    def failed(self, error: str) -> None: ...
    def stopped(self, attempted: int) -> None: ...


class Compose(Protocol):
    """Makes what a provider is to send."""

    def __call__(self, facts: Facts, address: Address, provider: str) -> Message: ...


class Preview(NamedTuple):
    """What would become of a delivery now; nothing was claimed or sent."""

    claimed: Claimed
    hint: str | None  # where it would go
    provider: str | None
    decision: str  # send, defer or drop
    reason: str | None
    gates: Sequence[GateRecord] = ()  # of the policy, as far as they were asked


@dataclass(slots=True)
class WorkerStats:
    """Counts since the start."""

    attempted: int = 0
    sent: int = 0
    unknown: int = 0  # attempts of which nobody knows the end


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
        self.stats = WorkerStats()
        self.name = name
        self._outbox = outbox
        self._facts = facts
        self._endpoints = endpoints
        self._broadcasts = broadcasts
        self._accounts = accounts
        self._budget = budget
        self._recorder = recorder
        self._channels = channels
        self._capacity = capacity
        self._compose = compose
        self._observer = observer
        self._clock = clock
        self._random = random
        self._settings = settings or WorkerSettings()
        self._retries = retries or RetrySettings()
        self._is_rung = True
        self._stirred = asyncio.Event()  # somebody has rung, or something under way has ended
        self._has_turned = asyncio.Event()  # an account has got into trouble, or out of it
        self._exchanging = asyncio.Lock()
        self._exchanged = clock.monotonic() - _ACCOUNTS_AGE_S
        self._behind: Set[str] = frozenset()  # channels that may have more to do than there was room for
        self._tasks: set[asyncio.Task[None]] = set()
        self._reserved: dict[UUID, date] = {}  # deliveries that may cost something, and of which day
        self._is_stopping = False

    def wake(self) -> None:
        """There is something to do, or there may be."""
        self._is_rung = True
        self._stirred.set()

    async def run(self) -> None:
        """Work until cancelled; then finish what is under way."""
        self._is_stopping = False
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

    async def run_once(self) -> WorkerStats:
        """Attempt everything that is due now, and return when it is written down."""
        self._is_stopping = False
        self._observer.started(self.name)
        beside = [asyncio.create_task(self._recorder.run(), name="recorder")]
        try:
            await self._exchange()
            while await self._expand():
                pass
            while await self._recorder.expire():
                pass
            rooms = self._capacity.rooms()
            while await self._claim(rooms) or self._tasks or self._unlooked(rooms):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._recorder.drained()
                rooms = self._capacity.rooms()
        finally:
            await self._finish(beside)
        return self.stats

    async def preview(self, limit: int = 100) -> list[Preview]:
        """What `run_once` would attempt; claims, sends and changes nothing."""
        self._capacity.learn(*await self._accounts.look())
        due = await self._outbox.peek(PROVIDER_CHANNELS, limit)
        told = {one.id: target for one, target in await self._targets(due)}
        facts = {one.claimed.id: one for one in await self._gather(due)}
        return [self._previewed(one, facts.get(one.id), told.get(one.id)) for one in due]

    def _previewed(self, claimed: Claimed, facts: Facts | None, target: Address | None) -> Preview:
        gates: Sequence[GateRecord] = ()
        if facts is None:
            verdict: Send | Defer | Drop = (
                Send(address=target)
                if target is not None
                else Drop(reason="the webhook is gone or switched off", state="suppressed")
            )
        else:
            verdict, gates = (decision := decide(facts)).verdict, decision.gates
        if not isinstance(verdict, Send):
            said = "defer" if isinstance(verdict, Defer) else "drop"
            return Preview(claimed, None, None, said, verdict.reason, gates)
        way = self._capacity.choose(self._channels[claimed.channel], verdict.address)
        if isinstance(way, Blocked):
            blocked = "no account may be sent through now"
            return Preview(claimed, verdict.address.hint, None, "defer", blocked, gates)
        return Preview(claimed, verdict.address.hint, way.provider.name, "send", None, gates)

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
                self._begin(await claiming, began)
            raise
        self._begin(claimed, began)
        return claimed

    def _begin(self, claimed: Sequence[Claimed], began: float) -> None:
        if not claimed:
            return
        self._observer.claimed(claimed)
        for one in claimed:
            self._capacity.take(one.channel)
        self._spawn(self._attempt(claimed, began))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._behind:
            self._stirred.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt_failed", exc_info=error)
            self._observer.failed(type(error).__name__)

    async def _finish(self, beside: Sequence[asyncio.Task[None]]) -> None:
        """Let what is under way come to its end, give back what was not begun, write it down, and stop the rest."""
        self._is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.provider_timeout.total_seconds() + 1):
                while self._tasks:  # one may begin others
                    await asyncio.wait(self._tasks)
        try:
            async with asyncio.timeout(5):
                await self._recorder.drained()
        except TimeoutError:
            log.error("completions_left_behind", attempts=self._recorder.waiting)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._observer.stopped(self.stats.attempted)

    # --- attempting ---

    async def _attempt(self, batch: Sequence[Claimed], began: float) -> None:
        """Decide on each of a batch, and begin to send."""
        try:
            targets = await self._targets(batch)
            facts = await self._gather(batch)
            rules = await self._unknown_rules(batch)
            budgets = await self._budget.reserve(
                Counter(one.tenant_id for one in batch if one.channel in PAID and one.kind == "notification")
            )
        except ServiceError as error:  # nothing was sent, so nothing is unknown: give it back
            log.warning("attempts_postponed", code=error.code, deliveries=len(batch))
            for one in batch:
                self._release(one, "the facts could not be read")
            return
        except Exception as error:  # noqa: BLE001 - one of them is poison, and the others must not suffer
            if len(batch) == 1:
                self._poisoned(batch[0], error)
                return
            for one in batch:
                await self._attempt([one], began)
            return
        for claimed, target in targets:
            if target is None:
                drop = Drop(reason="the webhook is gone or switched off", state="suppressed")
                self._dropped(claimed, None, drop, None)
            else:
                self._spawn(self._send_event(claimed, target, began))
        for known in facts:
            try:
                paid = budgets.get(known.claimed.tenant_id) if known.claimed.channel in PAID else None
                if paid is not None and paid.take():
                    self._reserved[known.claimed.id] = paid.day
                self._decide(known, rules, began)
            except Exception as error:  # noqa: BLE001 - it is logged and recorded, and is one delivery's business
                self._poisoned(known.claimed, error)

    def _poisoned(self, claimed: Claimed, error: Exception) -> None:
        """A delivery on which we stumble: tried again a few times, then a dead letter."""
        log.error("delivery_is_poison", delivery_id=str(claimed.id), exc_info=error)
        outcome = Retry(reason=f"a fault of ours: {type(error).__name__}", code="internal")
        self._conclude(
            claimed, None, conclude(claimed, outcome, "repeat", self._retries, self._random.random()), None
        )

    async def _targets(self, batch: Sequence[Claimed]) -> list[tuple[Claimed, Address | None]]:
        events = [one for one in batch if one.kind == "event"]
        return list(zip(events, await self._endpoints.targets(events), strict=True)) if events else []

    async def _gather(self, batch: Sequence[Claimed]) -> list[Facts]:
        notifications = [one for one in batch if one.kind == "notification"]
        return await self._facts.gather(notifications) if notifications else []

    async def _unknown_rules(self, batch: Sequence[Claimed]) -> Mapping[str, str]:
        tenants = {one.tenant_id for one in batch if one.was_unknown}
        return await self._outbox.unknown_rules(sorted(tenants)) if tenants else {}

    def _decide(self, facts: Facts, rules: Mapping[str, str], began: float) -> None:
        claimed = facts.claimed
        decision = decide(facts)
        gates = _gates(decision)
        match decision.verdict:
            case Drop() as drop:
                self._dropped(claimed, facts, drop, gates)
            case Defer(until=until, reason=reason):
                wait = max(until - facts.now, timedelta(0))
                deferred = Conclusion(state="deferred", outcome="policy_defer", reason=reason, wait=wait)
                self._conclude(claimed, facts, self._undecided(claimed, deferred), gates)
            case Send(address=address):
                if (abandoned := abandon(claimed, self._retries)) is not None:
                    self._conclude(claimed, facts, abandoned, gates)
                    return
                channel = self._channels[claimed.channel]
                if (claimed.is_orphan or claimed.was_unknown) and channel.unknown == "reconcile":
                    settled = settle(claimed, rules.get(claimed.tenant_id), self._retries)
                    if isinstance(settled, Conclusion):
                        self._conclude(claimed, facts, settled, gates)
                        return
                if claimed.channel in PAID and claimed.id not in self._reserved:
                    self._conclude(claimed, facts, self._over_budget(claimed, facts.now), gates)
                    return
                self._spawn(self._send(facts, channel, address, gates, began))

    async def _send(self, facts: Facts, channel: Channel, address: Address, gates: str, began: float) -> None:
        claimed = facts.claimed
        way = await self._way(claimed, facts, channel, address, gates, began)
        if way is None:
            return
        try:
            message = self._compose(facts, address, way.provider.name)
        except Exception:
            log.exception("message_not_composed", delivery_id=str(claimed.id), channel=claimed.channel)
            outcome: Outcome = Fail(reason="the message could not be composed", code="compose")
        else:
            outcome = await self._call(way, message)
        self._ended(claimed, facts, channel, way, address, outcome, gates)

    async def _send_event(self, claimed: Claimed, target: Address, began: float) -> None:
        channel = self._channels.get(claimed.channel)
        if channel is None or not channel.providers:
            self._dropped(
                claimed, None, Drop(reason="the channel webhook is not configured", state="suppressed"), None
            )
            return
        way = await self._way(claimed, None, channel, target, None, began)
        if way is None:
            return
        outcome = await self._call(way, _event_message(claimed, target))
        self._ended(claimed, None, channel, way, target, outcome, None)

    async def _way(
        self,
        claimed: Claimed,
        facts: Facts | None,
        channel: Channel,
        address: Address,
        gates: str | None,
        began: float,
    ) -> Way | None:
        """The account to send by; None when there is none now or no time, and the delivery waits."""
        if self._is_stopping:
            self._release(claimed, "the worker was stopped")
            return None
        if self._clock.monotonic() - began > self._settings.latest_start:
            self._release(claimed, "there was no time left before the lease ended")
            return None
        way = self._capacity.choose(channel, address)
        if isinstance(way, Way):
            try:
                if not way.is_probe or await self._accounts.take_probe(
                    *way.key, self._capacity.probe_interval
                ):
                    return way
            except ServiceError:
                self._release(claimed, "whether to look at an account in trouble could not be asked")
                return None
            if self._capacity.holds_back(claimed.channel):
                self._release(claimed, "another worker looks whether the account is well again")
                return None
            way = Blocked(None)
        wait = timedelta(seconds=self._random.uniform(5, 30))
        if way.until is not None:
            wait = max(way.until - self._capacity.now(), timedelta(0)) + wait / 5
        waiting = Conclusion(
            state="deferred",
            outcome="policy_defer",
            code="account_blocked",
            reason="every account of the channel is in trouble or has been told to wait",
            wait=wait,
        )
        self._conclude(claimed, facts, waiting, gates)
        return None

    async def _call(self, way: Way, message: Message) -> Outcome:
        """One call to a provider, whatever happens in it."""
        self.stats.attempted += 1
        timeout = self._settings.provider_timeout.total_seconds()
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                outcome = await way.provider.send(message)
        except TimeoutError:
            outcome = Unknown(reason="no answer in time", code="timeout")
            if self._clock.monotonic() - began > timeout + _STALL_S:
                return outcome  # we were away ourselves: it says nothing about the account
        except Exception:
            log.exception("provider_raised", provider=way.provider.name, delivery_id=str(message.delivery_id))
            # It says nothing about the account, which goes on for everybody else.
            return Retry(reason="a fault of ours while sending", code="internal")
        if self._capacity.note(way.key, outcome):
            self._has_turned.set()
        return outcome

    # --- concluding ---

    def _ended(
        self,
        claimed: Claimed,
        facts: Facts | None,
        channel: Channel,
        way: Way,
        address: Address,
        outcome: Outcome,
        gates: str | None,
    ) -> None:
        now = facts.now if facts is not None else self._clock.now()
        conclusion = conclude(
            claimed,
            outcome,
            channel.unknown,
            self._retries,
            self._random.random(),
            is_probe=way.is_probe,
            waited=now - claimed.queued_at,
        )
        self._conclude(claimed, facts, conclusion, gates, way=way, address=address)

    def _dropped(self, claimed: Claimed, facts: Facts | None, drop: Drop, gates: str | None) -> None:
        dropped = Conclusion(state=drop.state, outcome="policy_drop", reason=drop.reason)
        self._conclude(claimed, facts, dropped, gates)

    def _release(self, claimed: Claimed, reason: str) -> None:
        """Give back what was not sent; it is due again at once."""
        released = Conclusion(
            state="queued", outcome="released", reason=reason, wait=timedelta(seconds=self._random.random())
        )
        self._conclude(claimed, None, self._undecided(claimed, released), None)

    def _over_budget(self, claimed: Claimed, now: datetime) -> Conclusion:
        """It waits for the next day (UTC), which begins with those that wait longest."""
        log.error("paid_budget_spent", tenant_id=claimed.tenant_id, channel=claimed.channel)
        tomorrow = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(0), tzinfo=UTC)
        waiting = Conclusion(
            state="deferred",
            outcome="policy_defer",
            code="budget_spent",
            reason="the tenant has sent as many paid messages today as it may",
            wait=tomorrow - now + timedelta(minutes=10) * self._random.random(),
        )
        return self._undecided(claimed, waiting)

    def _undecided(self, claimed: Claimed, waiting: Conclusion) -> Conclusion:
        """How it waits about which nothing was decided: what nobody knows the end of stays unknown."""
        channel = self._channels.get(claimed.channel)
        is_unknown = claimed.is_orphan or claimed.was_unknown
        if channel is None or channel.unknown != "reconcile" or not is_unknown:
            return waiting
        until_receipt = self._retries.reconcile_after if claimed.is_orphan else timedelta(0)
        return replace(waiting, state="unknown", wait=max(waiting.wait or timedelta(0), until_receipt))

    def _conclude(
        self,
        claimed: Claimed,
        facts: Facts | None,
        conclusion: Conclusion,
        gates: str | None,
        *,
        way: Way | None = None,
        address: Address | None = None,
    ) -> None:
        self._capacity.give_back(claimed.channel)
        reserved = self._reserved.pop(claimed.id, None)
        self.stats.sent += conclusion.outcome == "sent"
        self.stats.unknown += conclusion.outcome == "unknown"
        provider = way.provider.name if way is not None else None
        address_id = address.id if address is not None and claimed.kind == "notification" else None
        self._recorder.add(
            Ended(
                claimed=claimed,
                completion=Completion(
                    tenant_id=claimed.tenant_id,
                    id=claimed.id,
                    attempt=claimed.attempt,
                    state=conclusion.state,
                    outcome=conclusion.outcome,
                    wait=conclusion.wait,
                    retries=conclusion.retries,
                    deferrals=conclusion.deferrals,
                    unknowns=conclusion.unknowns,
                    provider=provider,
                    account=way.key[2] if way is not None else None,
                    address_id=address_id,
                    provider_ref=conclusion.provider_ref,
                    code=conclusion.code,
                    reason=conclusion.reason,
                    gates=gates,
                ),
                fallback=conclusion.fallback,
                is_stopped=conclusion.is_stopped,
                dead_address=address_id if conclusion.dead_because is not None else None,
                dead_because=conclusion.dead_because,
                unspent=None if conclusion.outcome in ("sent", "unknown") else reserved,
            )
        )
        seconds = (self._clock.now() - claimed.created_at).total_seconds()
        self._observer.concluded(claimed, facts, provider, conclusion, seconds)

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


def _gates(decision: Decision) -> str:
    """What was asked in which order, and what was seen: JSON."""
    return _GATES.encode(
        [
            {
                "gate": one.gate,
                "passed": one.passed,
                "saw": one.saw,
                **({"until": one.until} if one.until is not None else {}),
            }
            for one in decision.gates
        ]
    ).decode()


def _event_message(claimed: Claimed, target: Address) -> Message:
    event = msgspec.json.decode(claimed.event or "{}")
    return Message(
        tenant_id=claimed.tenant_id,
        delivery_id=claimed.id,
        attempt=claimed.attempt,
        reference=str(claimed.id),
        address=target,
        title="",
        text="",
        notification_id=claimed.notification_id,
        notification_type=str(event.get("type", "event")),
        priority="normal",
        created_at=claimed.created_at,
        expires_at=claimed.expires_at,
        event=event,
    )
