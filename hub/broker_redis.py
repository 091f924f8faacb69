"""
The fan-out between nodes over Redis: ordinary pub/sub on one server or a Sentinel's master, sharded pub/sub
on Redis Cluster (7.0 and later; before that, ordinary pub/sub on any of its nodes).

A connection that looks well proves nothing: after a failover, behind a half-open link or beside a frozen
server it stays open and silent for ever. So each broker publishes a beat of its own on the real path and
listens to it. Beats that do not come back end the connection, and everything is resolved, connected and
subscribed anew. Only when the first beat has come back on the new path are things said to be restored.
"""

from __future__ import annotations

import asyncio
import random
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

import structlog

from hub.broker import BrokerListener, BrokerStats, BrokerUnavailable, hear
from hub.cluster_redis import SLOTS, shards, slot
from hub.link_redis import Hello, Link, LinkLost, Refused, Reply, Word, connect
from hub.sentinel_redis import Sentinels
from hub.target_redis import Address, target

log = structlog.stdlib.get_logger("hub.broker")

SHARDED_SINCE = (7, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Redis between the nodes. From REDIS_URL and HUB_REDIS_*."""

    url: str = field(repr=False)  # the forms are in hub/target_redis.py; may hold a password
    prefix: str = "carillon:"  # of every channel and key, so that one Redis may serve several installations
    connect_timeout: timedelta = timedelta(seconds=1)  # resolving, connecting and greeting together
    subscribe_timeout: timedelta = timedelta(seconds=1)
    beat_interval: timedelta = timedelta(seconds=0.5)
    beat_timeout: timedelta = timedelta(seconds=2)  # own beat unseen for so long: the path is dead
    backoff_min: timedelta = timedelta(seconds=0.1)
    backoff_max: timedelta = timedelta(seconds=1)
    queue_bytes: int = 16 << 20  # unsent; beyond it publications are dropped
    queue_messages: int = 100_000  # unanswered; beyond it publications are dropped
    batch: int = 500  # channels per SUBSCRIBE when everything is subscribed anew


def pause(failures: int, *, low: float, high: float, chance: float) -> float:
    """
    Seconds to wait before the next attempt.

    failures: attempts in a row that failed; 0 after a path that had been live. chance: in [0, 1). Spread from half to the
    whole, so that nodes do not return in step.
    """
    ceiling: float = min(high, low * 2 ** min(failures, 30))  # an outage of days counts far beyond any float
    return ceiling * (0.5 + chance / 2)


@dataclass(slots=True, eq=False)
class _Subscription:
    """One wanted channel. `confirmed` belongs to the present path: True in force, False when the path is lost."""

    channel: str
    name: bytes
    confirmed: asyncio.Future[bool]


@dataclass(slots=True, eq=False)
class _Lane:
    """One server of the path, and the beat that proves it."""

    link: Link
    canary: bytes
    unseen: int = 0  # beats sent since the last one that came back
    proven: bool = False


class _Path:
    """The connections that carry everything now: one, or one per shard of a cluster."""

    def __init__(self, lanes: Sequence[_Lane], owner_by_slot: Sequence[_Lane] | None = None) -> None:
        self.lanes = tuple(lanes)
        self.unconfirmed: dict[bytes, int] = {}  # subscription commands under way, per name
        self._owner_by_slot = owner_by_slot
        sharded = owner_by_slot is not None
        self.publish_verb = b"SPUBLISH" if sharded else b"PUBLISH"
        self.subscribe_verb = b"SSUBSCRIBE" if sharded else b"SUBSCRIBE"
        self.unsubscribe_verb = b"SUNSUBSCRIBE" if sharded else b"UNSUBSCRIBE"

    def link(self, name: bytes) -> Link:
        """The connection that carries a channel or key."""
        if self._owner_by_slot is None:
            return self.lanes[0].link
        return self._owner_by_slot[slot(name)].link

    def subscribe(self, names: Iterable[bytes], batch: int) -> None:
        by_link: dict[Link, list[bytes]] = {}
        for name in names:
            by_link.setdefault(self.link(name), []).append(name)
            self._sent(name)
        for link, group in by_link.items():
            for some in _batches(group, batch):
                # A sharded command takes channels of one slot only.
                for command in [some] if self._owner_by_slot is None else [[name] for name in some]:
                    link.change(self.subscribe_verb, command)

    def unsubscribe(self, name: bytes) -> None:
        self._sent(name)
        self.link(name).change(self.unsubscribe_verb, [name])

    def confirmed(self, name: bytes) -> bool:
        """Note one confirmation. True when no later command for that name is under way."""
        left = self.unconfirmed.pop(name, 1) - 1
        if left:
            self.unconfirmed[name] = left
        return left == 0

    def drop(self, reason: str) -> None:
        for lane in self.lanes:
            lane.link.abort(reason)

    def _sent(self, name: bytes) -> None:
        self.unconfirmed[name] = self.unconfirmed.get(name, 0) + 1


class RedisBroker:
    """
    A broker over Redis. It connects, proves, loses and restores by itself, for ever, until it is closed.

    Raises ValueError for a URL it cannot read and OSError for a TLS file it cannot open: both are settings.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.stats = BrokerStats()
        self._settings = settings
        self._target = target(settings.url)
        self._tls = self._target.tls.context() if self._target.tls else None
        self._id = uuid.uuid4().hex[:12]
        self._subscriptions: dict[str, _Subscription] = {}
        self._by_name: dict[bytes, _Subscription] = {}
        self._lane_by_canary: dict[bytes, _Lane] = {}
        self._listener: BrokerListener | None = None
        self._path: _Path | None = None
        self._live = False
        self._ever_live = False
        self._lost_because: str | None = None  # None until the first loss, and while live
        self._task: asyncio.Task[None] | None = None
        self._settled: asyncio.Event = asyncio.Event()  # the first attempt has ended, either way
        self._seed = 0
        self._sentinels: Sentinels | None = None
        if self._target.master:
            self._sentinels = Sentinels(
                self._target.servers,
                self._target.master,
                login=self._target.sentinel_login,
                tls=self._tls,
                timeout=settings.connect_timeout.total_seconds() / 2,
            )

    # --- Broker ---

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        self._task = asyncio.create_task(self._run(), name="redis-broker")
        await self._settled.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._live = False
        if self._sentinels is not None:
            self._sentinels.close()
        self._listener = None

    async def subscribe(self, channel: str) -> None:
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            subscription = _Subscription(channel, self.key(channel), asyncio.Future())
            self._subscriptions[channel] = self._by_name[subscription.name] = subscription
            if self._path is not None:
                self._path.subscribe([subscription.name], 1)
        if self._path is None:
            raise BrokerUnavailable(self._lost_because or "not started")
        try:
            async with asyncio.timeout(self._settings.subscribe_timeout.total_seconds()):
                if not await asyncio.shield(subscription.confirmed):
                    raise BrokerUnavailable(self._lost_because or "lost")
        except TimeoutError:
            raise BrokerUnavailable("the subscription was not confirmed in time") from None

    async def unsubscribe(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is None:
            return
        del self._by_name[subscription.name]
        if not subscription.confirmed.done():
            subscription.confirmed.set_result(False)
        if self._path is not None:
            self._path.unsubscribe(subscription.name)

    def publish(self, channel: str, message: bytes) -> None:
        path = self._path
        if path is not None:
            name = self.key(channel)
            if path.link(name).publish(path.publish_verb, name, message):
                self.stats.published += 1
                return
        self.stats.dropped += 1

    @property
    def healthy(self) -> bool:
        return self._live

    # --- commands, for what else lives in this Redis ---

    def ask(self, key: bytes, *words: Word) -> asyncio.Future[Reply]:
        """
        Send one command that concerns one key, over the proven path. `key` and the key among the words come from `key()`.

        Raises BrokerUnavailable at once when the path is not live; awaiting may raise it, or Refused. Sets no deadline.
        """
        if self._path is None or not self._live:
            raise BrokerUnavailable(self._lost_because or "not started")
        return self._path.link(key).ask(*words)

    def key(self, name: str) -> bytes:
        """A key or channel of this installation, as Redis knows it."""
        return (self._settings.prefix + name).encode(errors="surrogatepass")

    # --- LinkListener ---

    def on_message(self, name: bytes, message: bytes) -> None:
        subscription = self._by_name.get(name)
        if subscription is not None and self._listener is not None:
            hear(self._listener, subscription.channel, message, self.stats)
        elif lane := self._lane_by_canary.get(name):
            lane.unseen = 0
            if not lane.proven:
                lane.proven = True
                self._restored_when_proven()

    def on_change(self, link: Link, verb: bytes, name: bytes) -> None:
        if self._path is None or not self._path.confirmed(name):
            return
        subscription = self._by_name.get(name)
        if (
            subscription is not None
            and not subscription.confirmed.done()
            and not verb.endswith(b"unsubscribe")
        ):
            subscription.confirmed.set_result(True)

    # --- the path ---

    async def _run(self) -> None:
        """Attach, serve until it is lost, again. Ends only by being cancelled."""
        settings = self._settings
        failures = 0
        while True:
            try:
                async with asyncio.timeout(settings.connect_timeout.total_seconds()):
                    path = await self._attach()
                reason = await self._serve(path)
                if all(lane.proven for lane in path.lanes):
                    failures = -1
            except TimeoutError:
                reason = "no answer in time"
            except (OSError, LinkLost, Refused) as error:
                reason = str(error) or type(error).__name__
            except Exception as error:  # noqa: BLE001 - an answer nobody foresaw must not end the broker for ever
                place = traceback.extract_tb(error.__traceback__)[-1]
                log.error("broker_failed", error=type(error).__name__, file=place.filename, line=place.lineno)
                reason = type(error).__name__
            failures += 1
            self._lost(reason)
            low, high = settings.backoff_min.total_seconds(), settings.backoff_max.total_seconds()
            await asyncio.sleep(pause(failures, low=low, high=high, chance=random.random()))

    async def _attach(self) -> _Path:
        """Resolve and connect. Raises OSError, LinkLost or Refused."""
        link, hello = await self._connect(await self._resolve())
        try:
            if hello.mode == "cluster" and hello.version >= SHARDED_SINCE:
                return await self._attach_shards(link)
            if hello.mode == "standalone" and hello.role != "master":
                raise Refused(f"{link.address} is a replica")
        except BaseException:
            link.abort("not attached")
            raise
        return _Path([_Lane(link, self.key(f"beat:{self._id}"))])

    async def _attach_shards(self, seed: Link) -> _Path:
        """One lane per shard; the seed tells who they are and is left."""
        opened: list[Link] = []

        async def lane_to(address: Address) -> _Lane:
            link, _ = await self._connect(address)
            opened.append(link)
            return _Lane(link, b"")

        try:
            ranges_by_address = shards(await seed.ask("CLUSTER", "SLOTS"), seed.address)
            owner: list[_Lane | None] = [None] * SLOTS
            lanes: list[_Lane] = []
            for result in await asyncio.gather(*map(lane_to, ranges_by_address), return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
                lanes.append(result)
            for lane, ranges in zip(lanes, ranges_by_address.values(), strict=True):
                for first, last in ranges:
                    owner[first : last + 1] = [lane] * (last + 1 - first)
            if None in owner:
                raise Refused("CLUSTERDOWN not every slot has a master")
            owners = [lane for lane in owner if lane is not None]
            missing = set(lanes)
            for name in self._canaries():  # a beat per shard needs a channel whose slot lies there
                lane = owners[slot(name)]
                if lane in missing:
                    lane.canary = name
                    missing.discard(lane)
                if not missing:
                    break
        except BaseException:
            for link in opened:
                link.abort("not attached")
            raise
        finally:
            seed.abort("left for the shards")
        return _Path(lanes, owners)

    def _canaries(self) -> Iterator[bytes]:
        number = 0
        while True:
            yield self.key(f"beat:{self._id}:{number}")
            number += 1

    async def _resolve(self) -> Address:
        if self._sentinels is not None:
            return await self._sentinels.master()
        self._seed += 1
        return self._target.servers[self._seed % len(self._target.servers)]

    async def _connect(self, address: Address) -> tuple[Link, Hello]:
        return await connect(
            address,
            login=self._target.login,
            tls=self._tls,
            listener=self,
            name="carillon",
            queue_bytes=self._settings.queue_bytes,
            queue_messages=self._settings.queue_messages,
        )

    async def _serve(self, path: _Path) -> str:
        """Carry everything over a path until it is lost. Returns why."""
        self._path = path
        self._lane_by_canary = {lane.canary: lane for lane in path.lanes}
        path.subscribe(self._lane_by_canary, self._settings.batch)
        path.subscribe(self._by_name, self._settings.batch)
        watch = asyncio.create_task(self._watch_master(path)) if self._sentinels else None
        try:
            return await self._beat(path)
        finally:
            if watch is not None:
                watch.cancel()
            self._path = None
            self._lane_by_canary = {}
            path.drop("left")
            loop = asyncio.get_running_loop()
            for subscription in self._subscriptions.values():
                if not subscription.confirmed.done():
                    subscription.confirmed.set_result(False)
                subscription.confirmed = loop.create_future()

    async def _beat(self, path: _Path) -> str:
        """
        Send a beat and look for the earlier ones, each interval, until the path is lost. Returns why.

        Counted in beats and not in seconds: when the event loop itself stood still, Redis is not to blame.
        """
        interval = self._settings.beat_interval.total_seconds()
        allowed = max(1, round(self._settings.beat_timeout.total_seconds() / interval))
        closed = [lane.link.closed for lane in path.lanes]
        while True:
            for lane in path.lanes:
                if lane.link.closed.done():
                    return lane.link.closed.result()
                if lane.unseen >= allowed:
                    self.stats.canary_losses += 1
                    return f"own beat unseen on {lane.link.address}"
                lane.unseen += 1
                lane.link.publish(path.publish_verb, lane.canary, b"")
                lane.link.ask("HELLO", 3).add_done_callback(_leave_a_replica(lane.link))
            await asyncio.wait(closed, timeout=interval, return_when=asyncio.FIRST_COMPLETED)

    async def _watch_master(self, path: _Path) -> None:
        """Leave a master that Sentinel has replaced, even when it is alive and still echoes."""
        assert self._sentinels is not None
        link = path.lanes[0].link
        while not link.closed.done():
            await asyncio.sleep(self._settings.beat_interval.total_seconds())
            try:
                master = await self._sentinels.master()
            except LinkLost:  # nobody knows better: stay
                continue
            if master != link.address:
                link.abort(f"the master is now {master}")

    def _restored_when_proven(self) -> None:
        """Own beats came back on every lane; they were sent after the subscriptions, so these are in force."""
        if self._path is None or self._live or not all(lane.proven for lane in self._path.lanes):
            return
        if self._ever_live:
            self.stats.reconnects += 1
        self._live = self._ever_live = True
        self._lost_because = None
        self._settled.set()
        log.info("broker_restored", servers=[str(lane.link.address) for lane in self._path.lanes])
        if self._listener is not None:
            self._listener.on_restored()

    def _lost(self, reason: str) -> None:
        """Say so once per outage; later failures only change the reason."""
        first, self._lost_because = self._lost_because is None, reason
        self._live = False
        if first:
            log.warning("broker_lost", reason=reason)
            if self._listener is not None:
                self._listener.on_lost(reason)
        self._settled.set()


def _leave_a_replica(link: Link) -> Callable[[asyncio.Future[Reply]], None]:
    """A demoted master still echoes to those who stayed, but nobody else is there."""

    def look(answer: asyncio.Future[Reply]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        hello = answer.result()
        if isinstance(hello, dict) and hello.get(b"role") == b"replica":
            link.abort(f"{link.address} has become a replica")

    return look


def _batches(names: list[bytes], size: int) -> Iterator[list[bytes]]:
    rest = iter(names)
    while some := list(islice(rest, size)):
        yield some
