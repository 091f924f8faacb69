"""
(pure) Whether an account may be sent through now.

After some failures in a row it is open: one call a second, over all workers, looks whether the other side is
back. An account that the provider refuses altogether is halted until an operator has acted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from core.outcome import Defer, Halt, Outcome, Retry, Unknown

Key = tuple[str, str, str]  # channel, provider, account

#: Free; ask for the probe of this second; not at all.
Verdict = Literal["free", "probe", "blocked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When an account is left alone. From DELIVERY_BREAKER_*."""

    failures: int = 5  # in a row until it is open
    probe_interval: timedelta = timedelta(seconds=1)  # between two looks at an open one, over all workers
    throttled: timedelta = timedelta(seconds=30)  # the pause after a 429 that does not say how long

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError("must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """
    What is known of one account.

    failures: in a row. resume_at: nobody sends before. changed: at the last change of `breaker` or `resume_at`.
    """

    breaker: Literal["closed", "open", "halted"] = "closed"
    failures: int = 0
    resume_at: datetime | None = None
    opened_at: datetime | None = None
    last_sent_at: datetime | None = None
    last_error_at: datetime | None = None
    last_code: str | None = None
    last_reason: str | None = None

    def verdict(self, now: datetime) -> Verdict:
        if self.breaker == "halted" or (self.resume_at is not None and self.resume_at > now):
            return "blocked"
        return "probe" if self.breaker == "open" else "free"

    def after(self, outcome: Outcome, now: datetime, settings: BreakerSettings) -> Account:
        """The account once an attempt has ended so."""
        match outcome:
            case Retry(throttled=True) | Defer(throttled=True):
                until = now + (outcome.after or settings.throttled)
                known = self._failed(outcome, now)
                return replace(known, resume_at=max(until, self.resume_at or until))
            case Halt():
                return replace(self._failed(outcome, now), breaker="halted", opened_at=self.opened_at or now)
            case Retry(elsewhere=True) | Unknown(elsewhere=True):
                return replace(self._failed(outcome, now), failures=self.failures)
            case Retry() | Unknown():
                known = replace(self._failed(outcome, now), failures=self.failures + 1)
                if known.failures < settings.failures or self.breaker != "closed":
                    return known
                return replace(known, breaker="open", opened_at=now)
            case _ if self.breaker == "halted":  # an answer to what was under way when it was halted
                return self
            case _:  # whatever it says about the message, the other side works
                sent = now if outcome.name == "sent" else self.last_sent_at
                known = replace(self, last_sent_at=sent) if sent == now else self._failed(outcome, now)
                # What was under way when we were told to wait does not end the wait; a probe that succeeds does.
                is_paused = self.breaker == "closed" and self.resume_at is not None and self.resume_at > now
                resume_at = self.resume_at if is_paused else None
                return replace(known, breaker="closed", failures=0, resume_at=resume_at, opened_at=None)

    def _failed(self, outcome: Outcome, now: datetime) -> Account:
        code, reason = getattr(outcome, "code", None), getattr(outcome, "reason", None)
        return replace(self, last_error_at=now, last_code=code, last_reason=reason)
