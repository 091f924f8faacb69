"""(pure) What follows from how one attempt ended: the state, the wait, and what must be remembered of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from core.outcome import Defer, Fail, Fallback, Halt, Outcome, Retry, Sent, Suppress, Unknown
from delivery.channel import UnknownPolicy
from delivery.outbox import Claimed

#: Lanes of which a message is sent once more, when nobody knows whether it was sent: urgent and high.
CRITICAL_LANES = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When the same is tried again (EZ-7, EZ-8). From DELIVERY_*."""

    attempts: int = 5  # that may end in RETRY before a delivery is a dead letter
    retry_base: timedelta = timedelta(seconds=30)  # the longest first wait; it doubles
    retry_cap: timedelta = timedelta(minutes=15)  # the longest wait before a retry
    deferrals: int = 5  # that a provider may ask for before a delivery is a dead letter
    defer_base: timedelta = timedelta(
        minutes=5
    )  # the longest first wait, when a provider needs longer; it doubles
    defer_cap: timedelta = timedelta(minutes=60)  # the longest wait of those
    halt_wait: timedelta = timedelta(minutes=1)  # between two looks at an account that an operator must mend
    reconcile_after: timedelta = timedelta(
        minutes=10
    )  # how long a receipt is waited for, when the answer to an SMS, WhatsApp or Telegram message was lost
    give_up_after: timedelta = timedelta(
        days=1
    )  # what could not be sent for so long because of the account is a dead letter
    fallback: str = "whatsapp:sms"  # channel:channel, comma-separated: the way that is taken instead

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.deferrals < 1:
            raise ValueError("must be at least 1")
        self.fallbacks()

    def fallbacks(self) -> Mapping[str, str]:
        """Where each channel falls back to. Raises ValueError for what is no list of pairs."""
        pairs = [part.strip().split(":") for part in self.fallback.split(",") if part.strip()]
        if any(len(pair) != 2 or not all(pair) or pair[0] == pair[1] for pair in pairs):
            raise ValueError("must be channel:channel, comma-separated, as in whatsapp:sms")
        return {pair[0]: pair[1] for pair in pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """
    What follows from one outcome.

    wait: until the next attempt; None: finished. fallback: the channel that comes in its place.
    is_stopped: the person has stopped this channel. dead_because: the address is to be paused, and why: a word.
    """

    state: str
    outcome: str
    reason: str | None = None
    code: str | None = None
    provider_ref: str | None = None
    wait: timedelta | None = None
    retries: int = 0
    deferrals: int = 0
    unknowns: int = 0
    fallback: str | None = None
    is_stopped: bool = False
    dead_because: str | None = None


def conclude(
    claimed: Claimed,
    outcome: Outcome,
    unknown: UnknownPolicy,
    settings: RetrySettings,
    jitter: float,
    *,
    is_probe: bool = False,
    waited: timedelta = timedelta(0),
) -> Conclusion:
    """
    jitter: from 0 up to 1, drawn for this outcome alone. is_probe: the account was known to be in trouble, and
    this attempt was to see whether it still is; what fails then says nothing about the delivery and is not
    counted against it, until it has waited (since it was queued) for longer than anybody wants it.
    """
    match outcome:
        case Sent():
            state = outcome.reached or "sent"
            return Conclusion(state=state, outcome=outcome.name, provider_ref=outcome.provider_ref)
        case Retry() | Defer() if (outcome.throttled or is_probe) and waited >= settings.give_up_after:
            return _dead(
                outcome, f"the account could not be sent through for too long; at last: {outcome.reason}"
            )
        case Retry() if outcome.throttled or is_probe:
            wait = _jittered(settings.retry_base, settings.retry_base, 0, jitter, outcome.after)
            return _waits("queued", outcome, wait)
        case Retry() if outcome.is_held_back and not outcome.partly:
            if waited >= settings.give_up_after:
                return _dead(outcome, f"could not be sent for too long; at last: {outcome.reason}")
            return _waits("queued", outcome, _rarely(waited, settings, jitter, outcome.after))
        case Retry() if (
            outcome.untried is not None
            and claimed.retries + 1 >= settings.attempts
            and waited < settings.give_up_after
        ):
            return _waits("queued", outcome, _rarely(waited, settings, jitter, outcome.untried))
        case Retry():
            return _again(claimed, outcome, settings, jitter, outcome.after)
        case Defer() if outcome.throttled:
            wait = _jittered(settings.defer_base, settings.defer_base, 0, jitter, outcome.after)
            return _waits("deferred", outcome, wait)
        case Defer():
            if claimed.deferrals + 1 >= settings.deferrals:
                return _dead(outcome, f"put off {settings.deferrals} times; the last time: {outcome.reason}")
            wait = _jittered(
                settings.defer_base, settings.defer_cap, claimed.deferrals, jitter, outcome.after
            )
            return _waits("deferred", outcome, wait, deferrals=1)
        case Fallback():
            instead = settings.fallbacks().get(claimed.channel)
            dead = _dead_because(claimed) if outcome.address_is_dead else None
            # What was put in place of the notification, words or an address, is for this channel alone.
            if instead is None or claimed.kind == "event" or claimed.edited is not None:
                return _dead(outcome, outcome.reason, dead_because=dead)
            return Conclusion(
                state="suppressed",
                outcome=outcome.name,
                code=outcome.code,
                reason=f"falls back to {instead}: {outcome.reason}",
                fallback=instead,
                dead_because=dead,
            )
        case Suppress():
            return Conclusion(
                state="suppressed",
                outcome=outcome.name,
                code=outcome.code,
                reason=outcome.reason,
                is_stopped=True,
            )
        case Halt():
            return _waits("deferred", outcome, settings.halt_wait)
        case Fail():
            dead = _dead_because(claimed) if outcome.address_is_dead else None
            return _dead(outcome, outcome.reason, dead_because=dead)
        case Unknown() if unknown == "repeat":
            return _again(claimed, outcome, settings, jitter, None, unknowns=1)
        case Unknown():
            return _waits("unknown", outcome, settings.reconcile_after, unknowns=1)


def settle(claimed: Claimed, rule: str | None, settings: RetrySettings) -> Literal["send"] | Conclusion:
    """
    What is done about a delivery whose last attempt has no known end, on a channel that cannot recognise a
    repetition: wait for a receipt, and when none came, send it once more or give it up.

    rule: the tenant's; None: urgent and high are sent once more.
    """
    if claimed.is_orphan:
        return Conclusion(
            state="unknown",
            outcome="unknown",
            code="worker_lost",
            reason="the last attempt has no known end; waiting for a receipt",
            wait=settings.reconcile_after,
        )
    wanted = rule or ("retry_once" if claimed.lane in CRITICAL_LANES else "give_up")
    if wanted == "retry_once" and claimed.unknowns < 2:
        return "send"
    return Conclusion(
        state="failed",
        outcome="unknown",
        code="unknown_outcome",
        reason="nobody knows whether it was sent, and no receipt came",
    )


def abandon(claimed: Claimed, settings: RetrySettings) -> Conclusion | None:
    """
    The end of a delivery that no worker has come back from, as often as it may be attempted: it may be what they
    died of. None: it goes on.
    """
    if not claimed.is_orphan or claimed.unknowns < settings.attempts:
        return None
    return Conclusion(
        state="failed",
        outcome="fail",
        code="workers_lost",
        reason=f"{claimed.unknowns} attempts have no known end, and of the last the worker did not come back",
    )


def _again(
    claimed: Claimed,
    outcome: Retry | Unknown,
    settings: RetrySettings,
    jitter: float,
    after: timedelta | None,
    *,
    unknowns: int = 0,
) -> Conclusion:
    if claimed.retries + 1 >= settings.attempts and outcome.partly:
        reason = f"not everywhere: {outcome.reason}"
        return Conclusion(state="sent", outcome="sent", code=outcome.code, reason=reason, retries=1)
    if claimed.retries + 1 >= settings.attempts:
        reason = f"given up after {settings.attempts} attempts; the last one: {outcome.reason}"
        return _dead(outcome, reason, retries=1, unknowns=unknowns)
    wait = _jittered(settings.retry_base, settings.retry_cap, claimed.retries, jitter, after)
    return _waits("queued", outcome, wait, retries=1, unknowns=unknowns)


def _waits(
    state: str,
    outcome: Retry | Defer | Halt | Unknown,
    wait: timedelta,
    *,
    retries: int = 0,
    deferrals: int = 0,
    unknowns: int = 0,
) -> Conclusion:
    return Conclusion(
        state=state,
        outcome=outcome.name,
        code=outcome.code,
        reason=outcome.reason,
        wait=wait,
        retries=retries,
        deferrals=deferrals,
        unknowns=unknowns,
    )


def _dead(
    outcome: Retry | Defer | Fallback | Fail | Unknown,
    reason: str,
    *,
    retries: int = 0,
    unknowns: int = 0,
    dead_because: str | None = None,
) -> Conclusion:
    return Conclusion(
        state="failed",
        outcome=outcome.name,
        code=outcome.code,
        reason=reason,
        retries=retries,
        unknowns=unknowns,
        dead_because=dead_because,
    )


def _dead_because(claimed: Claimed) -> str:
    """Why the address is paused, in a word."""
    return "bounced" if claimed.channel == "email" else "gone"


def _rarely(waited: timedelta, settings: RetrySettings, jitter: float, after: timedelta | None) -> timedelta:
    """Ever more rarely, the longer it has waited: of what is tried again for longer than attempts can be counted."""
    longest = min(settings.retry_cap, max(settings.retry_base, waited / 2))
    return _jittered(longest, longest, 0, jitter, after)


def _jittered(
    base: timedelta, cap: timedelta, before: int, jitter: float, after: timedelta | None
) -> timedelta:
    """Full jitter over a wait that doubles, but not before what the other side has asked for."""
    longest: timedelta = min(cap, base * 2**before)
    wait = longest * jitter
    return wait if after is None else after + min(wait, after / 4)
