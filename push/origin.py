"""
(pure) How fast one push service may be sent to, learned from its answers. Times are seconds of a monotonic clock.

Concurrency grows while all goes well and is halved when the push service has had enough (additive increase,
multiplicative decrease); a rate may bound it from above. Retry-After is kept, within bounds. After that, and after
failures in a row, for which nobody sends for a while, one request looks whether the push service is back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from push.outcome import PushResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The bounds for every origin."""

    concurrency: int = 128  # requests under way at once
    rate: float | None = None  # requests per second; None: no limit
    failures: int = 5  # in a row, until nobody sends for a while
    first_pause: float = 1.0  # seconds; twice as long each time
    longest_pause: float = 60.0  # seconds
    longest_asked: float = 300.0  # seconds that nobody sends for because it has asked for more


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds, or when a request has ended."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Nobody sends for so many seconds. kind: what it is for a push that is turned away."""

    seconds: float
    kind: Literal["throttled", "retry"]


_START = 16.0

#: A push service may limit one browser or all of us, and does not say which (RFC 8030 §8.4): refusals in a row of so
#: many people's browsers are ours. Else anybody could stop the push service for all by wearing out browsers of their own.
_OURS = 3

#: Whose push it was: tenant id and user id.
Person: TypeAlias = tuple[str, str]

#: Answers that are remembered, and how many of them may say "gone" before that is doubted.
_WINDOW = 200
_DOUBTED_FROM = 50
_DOUBTED_SHARE = 0.8


@dataclass(slots=True)
class Origin:
    """What is known of one push service."""

    pace: Pace
    limit: float = _START
    in_flight: int = 0
    paused_until: float = 0.0
    throttled: set[Person | None] = field(default_factory=set)  # people, some of those in a row
    failures: int = 0  # in a row
    _tokens: float = 1.0
    _refilled: float = 0.0
    _halved: float = float("-inf")
    _is_probed: bool = False  # a pause is over, or will be: one looks first
    _is_new: bool = True  # until the first time it has had enough
    _closed_until: float = 0.0
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))  # was it gone?
    _gone: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.pace.concurrency))

    @property
    def is_open(self) -> bool:
        """Whether the breaker is: it has failed too often in a row."""
        return self.failures >= self.pace.failures

    def holds_back(self, now: float) -> bool:
        """Whether the push service as a whole is not sent to, or only to see whether it is back."""
        return self.is_open or self._is_probed or now < self.paused_until

    def admit(self, now: float) -> Wait | Pause | None:
        """Whether one more may be sent now: None, and it counts as under way until `ended`."""
        if now < self.paused_until:
            return Pause(self.paused_until - now, "throttled")
        if now < self._closed_until:
            return Pause(self._closed_until - now, "retry")
        if self.in_flight >= (1 if self.is_open or self._is_probed else int(self.limit)):
            return Wait(None)
        if self.pace.rate is not None:
            burst = max(1.0, self.pace.rate / 10)
            self._tokens = min(burst, self._tokens + (now - self._refilled) * self.pace.rate)
            self._refilled = now
            if self._tokens < 1:
                return Wait((1 - self._tokens) / self.pace.rate)
            self._tokens -= 1
        self.in_flight += 1
        return None

    def ended(self, result: PushResult | None, now: float, person: Person | None = None) -> None:
        """
        One that was admitted has ended. None: without a word about the push service, such as a cancellation.

        person: whose push it was; browsers of one who has had enough say so again and again, and stop nobody else.
        """
        was_full = self.in_flight * 2 >= self.limit
        self.in_flight -= 1
        if result is None:
            return
        if result.kind == "throttled":
            self.failures = 0
            if len(self.throttled) < _OURS:
                self.throttled.add(person)
            self._halve(now)
            if len(self.throttled) >= _OURS:
                self._pause(result.retry_after or timedelta(seconds=self.pace.first_pause), now)
        elif result.kind in ("retry", "unknown"):
            self._failed(result, now)
        elif result.status is not None:  # it has answered, whatever it says about this one
            self.throttled.clear()
            self.failures = 0
            self._is_probed = False
            self._remember(result)
            if was_full:
                self.limit = min(
                    self.limit + (1 if self._is_new else 1 / self.limit), float(self.pace.concurrency)
                )

    @property
    def doubts_ends(self) -> bool:
        """Whether so many subscriptions have ended of late that this is a fault, ours or theirs, and no news."""
        return self._gone >= _DOUBTED_FROM and self._gone > _DOUBTED_SHARE * len(self._recent)

    def _failed(self, result: PushResult, now: float) -> None:
        self.failures += 1
        if result.retry_after is not None:  # 503: said of the push service as a whole
            self._halve(now)
            self._pause(result.retry_after, now)
        if result.kind == "unknown":
            self._halve(now)
        if self.is_open and now >= self._closed_until:
            doublings = min(self.failures - self.pace.failures, 16)
            self._closed_until = now + min(self.pace.first_pause * 2**doublings, self.pace.longest_pause)

    def _remember(self, result: PushResult) -> None:
        if len(self._recent) == _WINDOW:
            self._gone -= self._recent[0]
        self._recent.append(result.status in (404, 410))
        self._gone += self._recent[-1]

    def _halve(self, now: float) -> None:
        if now - self._halved >= 1:  # what was under way together says it together
            self.limit = max(1.0, self.limit / 2)
            self._halved = now
            self._is_new = False

    def _pause(self, wait: timedelta, now: float) -> None:
        self.paused_until = max(self.paused_until, now + min(wait.total_seconds(), self.pace.longest_asked))
        self._is_probed = True
