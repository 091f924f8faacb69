"""
What becomes of deliveries that were claimed: gather facts, decide, render, send, record.

Nothing is open in the database while something is sent. What is begun in time ends before its lease does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from delivery.budget_store import PAID, Budget
from delivery.capacity import Blocked, Capacity, Way
from delivery.channel import Address, Channel, Message
from delivery.conclusion import Conclusion, RetrySettings, abandon, conclude, settle
from delivery.endpoints_store import Endpoints
from delivery.facts import FactsReader
from delivery.observer import Observer
from delivery.outbox import Claimed, Completion, Outbox
from delivery.policy import Decision, Defer, Drop, Facts, GateRecord, Send, decide
from delivery.recording import Ended, Recorder

log = structlog.stdlib.get_logger("delivery.attempts")

#: A deadline that is noticed so much later was missed by this process, not by the provider.
_STALL_S = 1.0

_GATES = msgspec.json.Encoder()


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
class AttemptStats:
    """Counts since the start."""

    attempted: int = 0
    sent: int = 0
    unknown: int = 0  # attempts of which nobody knows the end


class Attempts:
    """
    What one worker has in hand.

    provider_timeout: of one call to a provider. latest_start: seconds after a claim began, after which no call is
    begun. on_end: told when something has ended, so that there is room for more. on_turn: told when an account has got
    into trouble, or out of it.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        facts: FactsReader,
        endpoints: Endpoints,
        accounts: Accounts,
        budget: Budget,
        recorder: Recorder,
        channels: Mapping[str, Channel],
        capacity: Capacity,
        compose: Compose,
        observer: Observer,
        clock: Clock,
        random: Random,
        retries: RetrySettings,
        provider_timeout: timedelta,
        latest_start: float,
        on_end: Callable[[], None],
        on_turn: Callable[[], None],
    ) -> None:
        self.stats = AttemptStats()
        self.is_stopping = False  # then what was not begun is given back
        self._outbox = outbox
        self._facts = facts
        self._endpoints = endpoints
        self._accounts = accounts
        self._budget = budget
        self._recorder = recorder
        self._channels = channels
        self._capacity = capacity
        self._compose = compose
        self._observer = observer
        self._clock = clock
        self._random = random
        self._retries = retries
        self._timeout_s = provider_timeout.total_seconds()
        self._latest_start = latest_start
        self._on_end = on_end
        self._on_turn = on_turn
        self._tasks: set[asyncio.Task[None]] = set()
        self._reserved: dict[UUID, date] = {}  # deliveries that may cost something, and of which day

    @property
    def are_under_way(self) -> bool:
        return bool(self._tasks)

    async def ended(self) -> None:
        """Return when nothing is under way any more."""
        while self._tasks:  # one may begin others
            await asyncio.wait(self._tasks)

    async def preview(self, due: Sequence[Claimed]) -> list[Preview]:
        """What would become of these; sends and changes nothing."""
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

    def begin(self, claimed: Sequence[Claimed], began: float) -> None:
        """Attempt what was just claimed. began: when the claim did, of the monotonic clock."""
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
        self._on_end()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt_failed", exc_info=error)
            self._observer.failed(type(error).__name__)

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
        if self.is_stopping:
            self._release(claimed, "the worker was stopped")
            return None
        if self._clock.monotonic() - began > self._latest_start:
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
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await way.provider.send(message)
        except TimeoutError:
            outcome = Unknown(reason="no answer in time", code="timeout")
            if self._clock.monotonic() - began > self._timeout_s + _STALL_S:
                return outcome  # we were away ourselves: it says nothing about the account
        except Exception:
            log.exception("provider_raised", provider=way.provider.name, delivery_id=str(message.delivery_id))
            # It says nothing about the account, which goes on for everybody else.
            return Retry(reason="a fault of ours while sending", code="internal")
        if self._capacity.note(way.key, outcome):
            self._on_turn()
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
