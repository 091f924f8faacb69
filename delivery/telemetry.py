"""
What a worker does, told to whoever watches: events in the log under EasyMO's names (EZ-12, X-72), and counts for
metrics (EZ-13).

Ids, codes and channels; never an address, a word of a message, or who it is for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from core.clock import Clock
from core.errors import ServiceError
from delivery.accounts_store import Accounts
from delivery.channel import PROVIDER_CHANNELS
from delivery.channels.codes import CODES
from delivery.conclusion import Conclusion
from delivery.draft import Users
from delivery.outbox import PROVIDED, Claimed, Outgoing
from delivery.policy import Decision, Facts, decide

log = structlog.stdlib.get_logger("delivery")

#: Every event by its name. The digest's and the rate limits' are told by the gates and jobs that have them.
EVENTS: Final = (
    "NOTIFY_QUEUE",
    "NOTIFY_SEND_OK",
    "NOTIFY_SEND_FAIL",
    "NOTIFY_BLOCKED_OPTOUT",
    "NOTIFY_DEFERRED_QUIET_HOURS",
    "NOTIFY_RATE_LIMIT_WARNING",
    "NOTIFY_FAILED_OPTOUT",
    "NOTIFY_DEFERRED_RATE_LIMIT",
    "NOTIFY_WORKER_START",
    "NOTIFY_WORKER_DONE",
    "NOTIFY_WORKER_ERROR",
    "NOTIFY_CRON_STATUS",
    "NOTIFY_CRON_FAIL",
    "NOTIFY_DELIVERED",
    "NOTIFY_READ",
    "NOTIFY_EXPIRED",
    "NOTIFY_CANCELLED",
    "NOTIFY_DUPLICATE",
    "NOTIFY_DIGEST_SENT",
    "NOTIFY_FALLBACK",
)

#: What it is called when a gate of the policy stops a delivery, by the gate.
_DROPPED: Final[Mapping[str, str]] = {
    "published": "NOTIFY_CANCELLED",
    "in_time": "NOTIFY_EXPIRED",
    "switched_on": "NOTIFY_BLOCKED_OPTOUT",
    "not_opted_out": "NOTIFY_BLOCKED_OPTOUT",
    "unread": "NOTIFY_READ",
    "rate_limit": "NOTIFY_RATE_LIMIT_WARNING",
}
_DEFERRED: Final[Mapping[str, str]] = {
    "quiet_hours": "NOTIFY_DEFERRED_QUIET_HOURS",
    "rate_limit": "NOTIFY_DEFERRED_RATE_LIMIT",
}

#: Provider codes that may be a label of a metric: those of our table, and our own words.
_KNOWN_CODES: Final = frozenset(line.code for line in CODES if line.code.isalnum()) | {
    "timeout",
    "internal",
    "compose",
    "worker_lost",
    "account_blocked",
    "budget_spent",
}
OTHER = "other"
NONE = "none"

#: The success rate looks back so far, in steps.
_STEP: Final = timedelta(minutes=1)
_STEPS: Final = 5

_DEPTH_INTERVAL: Final = timedelta(seconds=5)


class Labels(NamedTuple):
    """Of what was sent, failed or put off. code: of a closed set, `other` for the rest, `none` without."""

    channel: str
    provider: str
    code: str


@dataclass(slots=True)
class Counts:
    """Since the start; for metrics."""

    processed: int = 0
    failures: int = 0  # of the worker, not of deliveries
    filtered_optout: int = 0
    filtered_quiet_hours: int = 0
    filtered_rate_limit: int = 0
    sent: Counter[Labels] = field(default_factory=Counter)
    failed: Counter[Labels] = field(default_factory=Counter)
    deferred: Counter[Labels] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  # by channel and state


class DeliveryEvents:
    """Implements delivery.observer.Observer, and hears of what else happens to deliveries."""

    def __init__(self, clock: Clock, judge: Callable[[Facts], Decision] = decide) -> None:
        """judge: the policy, which says again which gate it was that stopped a delivery."""
        self.counts = Counts()
        self._judge = judge
        self._rates = _Rates(clock)

    def success_rates(self) -> dict[str, float]:
        """Of what was sent or failed for good in the last minutes, how much was sent: 0-100, by channel."""
        return self._rates.read()

    # -- the worker

    def started(self, worker: str) -> None:
        log.info("NOTIFY_WORKER_START", worker=worker)

    def claimed(self, claimed: Sequence[Claimed]) -> None:
        """They are told of when they have ended."""

    def concluded(
        self,
        claimed: Claimed,
        facts: Facts | None,
        provider: str | None,
        conclusion: Conclusion,
        seconds: float,
    ) -> None:
        self.counts.processed += 1
        labels = Labels(claimed.channel, provider or NONE, _label(conclusion.code))
        if conclusion.outcome == "sent":
            self.counts.sent[labels] += 1
            self._rates.count(claimed.channel, is_sent=True)
        elif conclusion.state in ("failed", "undelivered"):
            self.counts.failed[labels] += 1
            self._rates.count(claimed.channel, is_sent=False)
        elif conclusion.wait is not None:
            self.counts.deferred[labels] += 1
        if conclusion.wait is None:
            self.counts.ended[claimed.channel, conclusion.state] += 1
        gate = self._gate(facts, conclusion)
        self._filtered(gate, conclusion)
        log.info(
            _event(gate, conclusion),
            tenant_id=claimed.tenant_id,
            delivery_id=str(claimed.id),
            notification_id=str(claimed.notification_id),
            channel=claimed.channel,
            provider=provider,
            attempt=claimed.attempt,
            outcome=conclusion.outcome,
            state=conclusion.state,
            code=conclusion.code,
            gate=gate,
            again_in_s=None if conclusion.wait is None else round(conclusion.wait.total_seconds(), 1),
            age_s=round(seconds, 3),
        )

    def failed(self, error: str) -> None:
        self.counts.failures += 1
        log.warning("NOTIFY_WORKER_ERROR", error=error)

    def stopped(self, attempted: int) -> None:
        log.info("NOTIFY_WORKER_DONE", attempted=attempted)

    # -- what else happens to deliveries

    def reported(self, *, tenant_id: str, delivery_id: UUID, channel: str, provider: str, state: str) -> None:
        """A provider has reported that a delivery is now in this state."""
        self.counts.ended[channel, state] += 1
        if state == "undelivered":
            self.counts.failed[Labels(channel, provider, NONE)] += 1
        names = {"sent": "NOTIFY_SEND_OK", "delivered": "NOTIFY_DELIVERED", "read": "NOTIFY_READ"}
        log.info(
            names.get(state, "NOTIFY_SEND_FAIL"),
            tenant_id=tenant_id,
            delivery_id=str(delivery_id),
            channel=channel,
            provider=provider,
            state=state,
        )

    def repeated(self, *, provider: str, reports: int) -> None:
        """A provider has reported so much once more."""
        log.info("NOTIFY_DUPLICATE", provider=provider, reports=reports)

    def _gate(self, facts: Facts | None, conclusion: Conclusion) -> str | None:
        """The gate that has stopped it. The policy is pure: asked again, it says the same."""
        if facts is None or conclusion.outcome not in ("policy_drop", "policy_defer") or conclusion.code:
            return None
        gates = self._judge(facts).gates
        return gates[-1].gate if gates else None

    def _filtered(self, gate: str | None, conclusion: Conclusion) -> None:
        if conclusion.outcome == "suppress" or _DROPPED.get(gate or "") == "NOTIFY_BLOCKED_OPTOUT":
            self.counts.filtered_optout += 1
        elif gate == "quiet_hours":
            self.counts.filtered_quiet_hours += 1
        elif gate == "rate_limit":
            self.counts.filtered_rate_limit += 1


def queued(outgoing: Outgoing) -> None:
    """A notification has been committed; what of it goes out by providers is in the outbox."""
    channels = [channel for channel in outgoing.content.channels if channel in PROVIDED]
    if channels:
        users = outgoing.audience.user_ids if isinstance(outgoing.audience, Users) else None
        log.info(
            "NOTIFY_QUEUE",
            tenant_id=outgoing.tenant_id,
            notification_id=str(outgoing.content.id),
            channels=channels,
            deliveries=None if users is None else len(users) * len(channels),  # None: expanded by and by
        )


def _event(gate: str | None, conclusion: Conclusion) -> str:
    match conclusion.outcome:
        case "sent":
            return "NOTIFY_SEND_OK"
        case "suppress":
            return "NOTIFY_FAILED_OPTOUT"
        case "fallback" if conclusion.fallback is not None:
            return "NOTIFY_FALLBACK"
        case "released":
            return "NOTIFY_QUEUE"
        case "policy_defer":
            return _DEFERRED.get(gate or "", "NOTIFY_QUEUE")
        case "policy_drop":
            return _DROPPED.get(gate or "", "NOTIFY_SEND_FAIL")
        case _:
            return "NOTIFY_SEND_FAIL"


def _label(code: str | None) -> str:
    if code is None:
        return NONE
    return code if code in _KNOWN_CODES else OTHER


class QueueDepth:
    """How much waits in each channel, of all tenants together, looked at every few seconds."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._clock = clock
        self._depths: dict[str, int] = {}

    def read(self) -> Mapping[str, int]:
        """As it was last seen; nothing while the database is away."""
        return self._depths

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_DEPTH_INTERVAL.total_seconds())

    async def look(self) -> None:
        try:
            self._depths = await self._accounts.depth(PROVIDER_CHANNELS)
        except ServiceError:  # the checks of health say it; an old number would say something else
            self._depths = {}


class _Rates:
    """How much goes well, by channel, over the last minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: deque[tuple[int, Counter[tuple[str, bool]]]] = deque(maxlen=_STEPS)

    def count(self, channel: str, *, is_sent: bool) -> None:
        now = self._now()
        if not self._steps or self._steps[-1][0] != now:
            self._steps.append((now, Counter()))
        self._steps[-1][1][channel, is_sent] += 1

    def read(self) -> dict[str, float]:
        total: Counter[tuple[str, bool]] = Counter()
        for step, counted in self._steps:
            if step > self._now() - _STEPS:
                total += counted
        channels = {channel for channel, _ in total}
        return {
            channel: 100 * total[channel, True] / (total[channel, True] + total[channel, False])
            for channel in channels
        }

    def _now(self) -> int:
        return int(self._clock.monotonic() // _STEP.total_seconds())
