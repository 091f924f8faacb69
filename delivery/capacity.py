"""
How much a worker may take now: free slots of providers, their rates, and what breakers say.

Claims are cut to it, so nothing waits in a worker for its turn while another worker could send it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from core.clock import Clock
from core.outcome import Outcome
from delivery.breaker import Account, BreakerSettings, Key
from delivery.channel import PROVIDER_CHANNELS, Address, Channel, Provider
from delivery.outbox import CAMPAIGN_LANE, Room

#: Taken at once of a channel without providers: its deliveries only need to be told so.
_UNPROVIDED_ROOM = 200

#: The share of a provider's slots that is kept for urgent deliveries.
_URGENT_SHARE = 8

#: The channel whose account hangs on the address: the receiving host.
_BY_HOST = "webhook"


#: Between two records of an account with which all is well.
_NEWS_S = 5.0


class Way(NamedTuple):
    """The account by which a message goes. is_probe: it is in trouble, and this is to see whether it still is."""

    provider: Provider
    key: Key
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Blocked:
    """No account of the channel may be sent through before `until`; None: nobody knows for how long."""

    until: datetime | None


class Pace:
    """A rate in messages per second, as a bucket that fills to one second's worth."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._level = self._burst
        self._seen = now

    def available(self, now: float) -> int:
        self._level = min(self._burst, self._level + (now - self._seen) * self._per_second)
        self._seen = now
        return int(self._level)

    def take(self, count: int) -> None:
        self._level -= count


class Capacity:
    """The channels of one worker and what is under way in each."""

    def __init__(
        self, channels: Mapping[str, Channel], clock: Clock, settings: BreakerSettings, *, batch_limit: int
    ) -> None:
        self._channels = channels
        self._clock = clock
        self._settings = settings
        self._batch_limit = batch_limit
        self._busy: Counter[str] = Counter()
        self._ahead = timedelta(0)  # of the database's clock before ours
        self._accounts: dict[Key, Account] = {}
        self._changed: set[Key] = set()
        self._told: dict[Key, float] = {}
        self._probed: dict[Key, float] = {}
        now = clock.monotonic()
        self._paces = {
            (channel.name, provider.name): Pace(provider.rate, now)
            for channel in channels.values()
            for provider in channel.providers
            if provider.rate is not None
        }

    def rooms(self, *, at_least: int = 1) -> list[Room]:
        """What may be claimed. at_least: a channel with less room than this is left for later."""
        rooms = []
        for name in PROVIDER_CHANNELS:
            channel = self._channels.get(name)
            if channel is None or not channel.providers:
                if room := _UNPROVIDED_ROOM - self._busy[name]:
                    rooms.append(Room(name, room, CAMPAIGN_LANE))
                continue
            if (found := self._room(channel)) is not None and found.room >= min(
                at_least, self._widest(channel)
            ):
                rooms.append(found)
        return rooms

    def _room(self, channel: Channel) -> Room | None:
        now, ticks = self.now(), self._clock.monotonic()
        for provider in channel.providers:
            verdict = "free"
            if channel.name != _BY_HOST:
                key = (channel.name, provider.name, provider.account_of(_anywhere(channel.name)))
                verdict = self._account(key).verdict(now)
                if verdict == "blocked":
                    continue
                if verdict == "probe":
                    interval = self._settings.probe_interval.total_seconds()
                    if ticks - self._probed.get(key, -interval) < interval:
                        continue
                    self._probed[key] = ticks
                    return Room(channel.name, 1, CAMPAIGN_LANE)
            free = provider.concurrency - self._busy[channel.name]
            pace = self._paces.get((channel.name, provider.name))
            if pace is not None:
                free = min(free, pace.available(ticks))
            kept = provider.concurrency // _URGENT_SHARE
            if pace is None and free > kept:
                return Room(channel.name, min(free - kept, self._batch_limit), CAMPAIGN_LANE)
            if pace is not None and free > 0:
                return Room(channel.name, min(free, self._batch_limit), CAMPAIGN_LANE)
            return Room(channel.name, free, 0) if free > 0 else None
        return None

    def _widest(self, channel: Channel) -> int:
        """The room of a channel with nothing under way."""
        provider = channel.providers[0]
        widest = provider.concurrency - provider.concurrency // _URGENT_SHARE
        return min(widest, self._batch_limit, int(provider.rate or widest) or 1)

    def take(self, channel: str, count: int = 1) -> None:
        self._busy[channel] += count

    def give_back(self, channel: str) -> None:
        self._busy[channel] -= 1

    @property
    def probe_interval(self) -> timedelta:
        """Between two looks at an account in trouble, over all workers."""
        return self._settings.probe_interval

    def holds_back(self, channel: str) -> bool:
        """Whether `rooms` leaves a channel alone whose accounts are in trouble: not where each host is one."""
        return channel != _BY_HOST

    def now(self) -> datetime:
        """By the clock that all workers share: one that goes wrong must not stop an account for the others."""
        return self._clock.now() + self._ahead

    def choose(self, channel: Channel, address: Address) -> Way | Blocked:
        """The first account of the channel that may be sent through now."""
        now = self.now()
        until: list[datetime] = []
        for provider in channel.providers:
            key = (channel.name, provider.name, provider.account_of(address))
            account = self._account(key)
            verdict = account.verdict(now)
            if verdict != "blocked":
                if pace := self._paces.get((channel.name, provider.name)):
                    pace.take(1)
                return Way(provider, key, verdict == "probe")
            if account.breaker != "halted" and account.resume_at is not None:
                until.append(account.resume_at)
        return Blocked(min(until, default=None))

    def note(self, key: Key, outcome: Outcome) -> bool:
        """How an attempt by this account has ended; whether the other workers must hear of it at once."""
        before = self._account(key)
        after = before.after(outcome, self.now(), self._settings)
        self._accounts[key] = after
        # What goes wrong is news at once; that it goes on well is news every few seconds.
        ticks = self._clock.monotonic()
        is_trouble = after.last_error_at != before.last_error_at
        is_turn = (after.breaker, after.resume_at) != (before.breaker, before.resume_at)
        if is_trouble or is_turn or ticks - self._told.get(key, -_NEWS_S) >= _NEWS_S:
            self._changed.add(key)
            self._told[key] = ticks
        return is_turn

    def learn(self, now: datetime, accounts: Mapping[Key, Account]) -> None:
        """What all workers together know at this time of theirs. What this one has not told yet stays."""
        self._ahead = now - self._clock.now()
        for key, account in accounts.items():
            if key not in self._changed:
                self._accounts[key] = account

    def news(self) -> dict[Key, Account]:
        """Accounts that have changed since the last call."""
        news = {key: self._accounts[key] for key in self._changed}
        self._changed.clear()
        return news

    def _account(self, key: Key) -> Account:
        return self._accounts.get(key) or Account()


def _anywhere(channel: str) -> Address:
    """An address of nobody: accounts of all channels but one do not depend on it."""
    return Address(id=None, channel=channel, value="", hint="")
