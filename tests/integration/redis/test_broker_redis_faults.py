"""
What breaks between a node and Redis, and how soon it is noticed and mended (RELIABILITY F4 to F7, F12).

Promised figures are measured with the settings of production. Each fault that a naive broker does not notice is shown
to it as well: `DeafBroker` is redis-py's pub/sub as everybody writes it, and it hears nothing and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import redis.asyncio as redis_py
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hub.broker import BrokerUnavailable
from hub.broker_redis import RedisBroker, RedisSettings, _Path
from hub.target_redis import Address
from tests.cluster import RedisCluster
from tests.ears import Ear
from tests.fault_proxy import Fault, FaultProxy
from tests.servers import RedisServer, redis_cli

DETECTED_SECONDS = 3.0  # F12
LIVE_AGAIN_SECONDS = 3.0  # F4, F6
ENDED = "closed by the server"  # of a link: told by the connection itself, not by a beat that is missing


class DeafBroker:
    """The mutant: redis-py subscribes, `get_message` is called for ever, errors would end it."""

    def __init__(self, client: redis_py.Redis) -> None:
        self._client = client
        self.heard: list[bytes] = []
        self.errors: list[BaseException] = []
        self.first = asyncio.Event()

    async def listen(self, channel: str) -> None:
        self._pubsub = self._client.pubsub()
        await self._pubsub.subscribe(channel)
        assert await self._pubsub.get_message(timeout=5) is not None  # the confirmation
        self._task = asyncio.create_task(self._read())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(redis_py.RedisError, OSError):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py does not say
            await self._client.aclose()

    async def _read(self) -> None:
        while True:
            try:
                message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
            except redis_py.RedisError as error:
                self.errors.append(error)
                return
            if message is not None:
                self.heard.append(message["data"])
                self.first.set()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.port) as proxy:
        yield proxy


def quick(url: str, **changes: object) -> RedisSettings:
    """Settings for tests in which only the order of things matters, however long each of them takes."""
    settings: dict[str, object] = {
        "connect_timeout": timedelta(seconds=30),
        "subscribe_timeout": timedelta(seconds=60),
        "beat_interval": timedelta(seconds=0.05),
        "beat_timeout": timedelta(seconds=30),
        "backoff_min": timedelta(seconds=0.01),
        "backoff_max": timedelta(seconds=0.05),
    }
    return RedisSettings(url=url, **{**settings, **changes})  # type: ignore[arg-type]  # fields by name


def promised(url: str) -> RedisSettings:
    """The settings of production, by which a fault is noticed and mended; only those who subscribe are patient."""
    return RedisSettings(url=url, subscribe_timeout=timedelta(seconds=60))


@contextlib.asynccontextmanager
async def running(
    settings: RedisSettings, kind: type[RedisBroker] = RedisBroker
) -> AsyncIterator[tuple[RedisBroker, Ear]]:
    broker, ear = kind(settings), Ear()
    await broker.start(ear)
    try:
        yield broker, ear
    finally:
        await broker.close()


async def command(server: RedisServer, *words: str) -> object:
    return await asyncio.to_thread(redis_cli, server.port, *words)


async def hears(broker: RedisBroker, ear: Ear, channel: str, message: bytes) -> None:
    """What is published now is heard."""
    broker.publish(channel, message)
    await ear.until(lambda: (channel, message) in ear.messages)


# --- F4: gone and back, empty -------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_redis_that_is_killed_is_missed_at_once_and_live_again_when_it_is_back(
    server: RedisServer,
) -> None:
    async with running(promised(server.url)) as (broker, ear):
        await broker.subscribe("user:1")

        killed = time.perf_counter()
        await asyncio.to_thread(server.kill)
        lost = await ear.event("lost", after=1)
        broker.publish("user:1", b"into the void")
        await asyncio.sleep(2)  # long enough that the back-off has reached its ceiling
        await asyncio.to_thread(server.start)
        back = time.perf_counter()
        live = await ear.event("restored", after=2)

        print(f"kill -9: lost after {lost - killed:.3f} s, live {live - back:.3f} s after Redis was back")
        assert ear.events[:3] == ["restored", "lost", "restored"]
        assert ear.reasons[0] == ENDED, "it is told, and waits for no beat"
        assert live - back < LIVE_AGAIN_SECONDS
        assert broker.stats.dropped == 1
        assert broker.stats.reconnects >= 1
        await hears(broker, ear, "user:1", b"live again")


class HastyBroker(RedisBroker):
    """A mutant that says `restored` when it is connected, before its subscriptions are in force."""

    async def _attach(self) -> _Path:
        path = await super()._attach()
        assert self._listener is not None
        self._listener.on_restored()
        return path


class CountingEar(Ear):
    """Asks Redis, at the moment of `restored`, how many of the wanted subscriptions it knows."""

    def __init__(self, server: RedisServer, names: list[str]) -> None:
        super().__init__()
        self._server = server
        self._names = names
        self.in_force: list[int] = []

    def on_restored(self) -> None:
        reply = redis_cli(
            self._server.port, "PUBSUB", "NUMSUB", *(f"carillon:{name}" for name in self._names)
        )
        self.in_force.append(sum(pair[1] for pair in subscribers(reply)))
        super().on_restored()


def subscribers(reply: object) -> list[tuple[str, int]]:
    """Channel and count, from the reply to PUBSUB NUMSUB."""
    assert isinstance(reply, list)
    return reply if reply and isinstance(reply[0], tuple) else list(zip(reply[::2], reply[1::2], strict=True))


@pytest.mark.parametrize("kind", [RedisBroker, HastyBroker])
async def test_every_subscription_is_in_force_when_it_says_restored(
    server: RedisServer, kind: type[RedisBroker]
) -> None:
    names = [f"user:{number}" for number in range(3000)]
    broker, ear = kind(quick(server.url)), CountingEar(server, names)
    await broker.start(ear)
    await asyncio.gather(*map(broker.subscribe, names))

    await command(server, "CLIENT", "KILL", "TYPE", "pubsub")
    await ear.event("restored", after=len(ear.events))
    await broker.close()

    if kind is HastyBroker:
        assert ear.in_force[-1] < len(names), "the check does not see what it is there for"
    else:
        assert ear.in_force[-1] == len(names)


async def test_a_subscription_wanted_while_redis_is_away_is_in_force_when_it_is_back(
    server: RedisServer,
) -> None:
    async with running(quick(server.url)) as (broker, ear):
        await broker.subscribe("user:left")
        await asyncio.to_thread(server.kill)
        await ear.event("lost", after=1)

        started = time.perf_counter()
        with pytest.raises(BrokerUnavailable):
            await broker.subscribe("user:new")
        with pytest.raises(BrokerUnavailable):
            await broker.subscribe("user:given up")
        await broker.unsubscribe("user:given up")
        await broker.unsubscribe("user:left")
        assert time.perf_counter() - started < 30, "nobody waits for a confirmation"
        await asyncio.to_thread(server.start)
        await ear.event("restored", after=2)

        broker.publish("user:left", b"no")
        broker.publish("user:given up", b"no")
        await hears(broker, ear, "user:new", b"yes")
        assert ear.messages == [("user:new", b"yes")]


async def test_a_node_starts_without_redis_and_finds_it_later(server: RedisServer) -> None:
    server.kill()
    started = time.perf_counter()
    async with running(quick(server.url)) as (broker, ear):
        took = time.perf_counter() - started
        healthy_without = broker.healthy
        assert ear.events == ["lost"]

        await asyncio.to_thread(server.start)
        await ear.event("restored", after=1)

        print(f"started without Redis in {took:.3f} s")
        assert took < 15, "it does not wait for Redis"
        assert (healthy_without, broker.healthy) == (False, True)
        await broker.subscribe("user:1")
        await hears(broker, ear, "user:1", b"found")


# --- F5: frozen ---------------------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_frozen_redis_never_blocks_and_is_live_again_after_it_wakes(server: RedisServer) -> None:
    async with running(promised(server.url)) as (broker, ear):
        await broker.subscribe("user:1")
        took: list[float] = []

        server.freeze()
        frozen = time.perf_counter()
        subscribing = asyncio.create_task(broker.subscribe("user:2"))
        while time.perf_counter() < frozen + 5:
            before = time.perf_counter()
            broker.publish("user:1", b"x" * 300)
            took.append(time.perf_counter() - before)
            await asyncio.sleep(0.001)
        with pytest.raises(BrokerUnavailable):
            await subscribing
        server.thaw()
        thawed = time.perf_counter()
        lost = ear.moments[ear.events.index("lost")]
        live = await ear.event("restored", after=2)
        slowest = sorted(took)[-4]  # the machine may have stood still within some

        print(
            f"SIGSTOP 5 s: noticed after {lost - frozen:.2f} s, live {live - thawed:.2f} s after SIGCONT, "
            f"all but three publishes within {slowest * 1000:.2f} ms, {broker.stats.dropped} dropped and counted"
        )
        assert lost - frozen < DETECTED_SECONDS
        assert live - thawed < LIVE_AGAIN_SECONDS
        assert slowest < 0.1
        assert broker.stats.canary_losses == 1
        await hears(broker, ear, "user:2", b"remembered")


async def test_an_event_loop_that_stood_still_does_not_blame_redis(server: RedisServer) -> None:
    async with running(quick(server.url, beat_timeout=timedelta(seconds=4))) as (broker, ear):
        await broker.subscribe("user:1")

        time.sleep(5)  # noqa: ASYNC251 - the stall is the fault: longer than the beat's deadline
        await hears(broker, ear, "user:1", b"still there")
        for _ in range(5):
            await asyncio.sleep(0.05)

        assert ear.events == ["restored"]
        assert broker.stats.canary_losses == 0


async def test_what_waits_for_a_frozen_redis_is_bounded(server: RedisServer) -> None:
    settings = quick(server.url, beat_timeout=timedelta(hours=1), queue_messages=1000, queue_bytes=1 << 20)
    async with running(settings) as (broker, _):
        server.freeze()

        for _ in range(50):
            for _ in range(100):
                broker.publish("user:1", b"x")
            await asyncio.sleep(0)
        by_count = broker.stats.published
        server.thaw()
        await asyncio.wait_for(broker.ask(broker.key("x"), "PING"), 60)
        server.freeze()
        for _ in range(500):
            broker.publish("user:1", b"x" * 65536)
            await asyncio.sleep(0)
        by_size = (broker.stats.published - by_count) * 65536
        server.thaw()

        print(f"frozen: {by_count} small messages accepted, {by_size >> 20} MiB of large ones")
        assert by_count <= 1000
        assert by_size < 24 << 20  # our queue, and the two kernels' buffers
        assert broker.stats.dropped == 50 * 100 + 500 - broker.stats.published


# --- cut, half open, partitioned -----------------------------------------------------------------------------------


async def test_a_killed_client_connection_says_so_and_redis_py_does_not(server: RedisServer) -> None:
    deaf = DeafBroker(redis_py.Redis(port=server.port))
    await deaf.listen("carillon:user:1")
    async with running(promised(server.url)) as (broker, ear):
        await broker.subscribe("user:1")

        cut = time.perf_counter()
        await command(server, "CLIENT", "KILL", "TYPE", "pubsub")
        live = await ear.event("restored", after=2)

        print(f"CLIENT KILL: live again after {live - cut:.3f} s; redis-py raised {len(deaf.errors)} errors")
        assert ear.events[:3] == ["restored", "lost", "restored"]
        assert ear.reasons[0] == ENDED, "it is told, and waits for no beat"
        await hears(broker, ear, "user:1", b"after")
        assert deaf.errors == [], "redis-py reports gaps now: this broker may become simpler"
    await deaf.close()


async def test_a_half_open_link_is_left_and_redis_py_stays_on_it(
    server: RedisServer, proxy: FaultProxy
) -> None:
    deaf = DeafBroker(redis_py.Redis(port=proxy.port, health_check_interval=1, socket_timeout=2))
    await deaf.listen("carillon:user:1")
    async with running(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}")) as (broker, ear):
        await broker.subscribe("user:1")
        await hears(broker, ear, "user:1", b"before")
        await asyncio.wait_for(deaf.first.wait(), 5)

        proxy.only_open(Fault.DROP_TO_CLIENT)
        dropped = time.perf_counter()
        lost = await ear.event("lost", after=1)
        live = await ear.event("restored", after=2)
        await hears(broker, ear, "user:1", b"after")
        await asyncio.sleep(
            max(0.0, dropped + 6 - time.perf_counter())
        )  # three times our own deadline for the mutant
        broker.publish("user:1", b"long after")
        await ear.heard(3)
        await asyncio.sleep(0.3)

        print(
            f"half open: noticed after {lost - dropped:.2f} s, live again after {live - dropped:.2f} s; "
            f"redis-py heard {len(deaf.heard)} of 3, raised {len(deaf.errors)} errors"
        )
        assert lost - dropped < DETECTED_SECONDS
        assert live - dropped < DETECTED_SECONDS + 0.5
        assert deaf.heard == [b"before"], "redis-py noticed: the mutant is none any more"
        assert deaf.errors == []
    await deaf.close()


@pytest.mark.alone
@pytest.mark.parametrize("fault", [Fault.DROP_TO_SERVER, Fault.DROP_TO_CLIENT, Fault.BLACKHOLE, Fault.PAUSE])
async def test_a_partition_in_any_direction_is_noticed_and_mended(proxy: FaultProxy, fault: Fault) -> None:
    async with running(promised(f"redis://127.0.0.1:{proxy.port}")) as (broker, ear):
        await broker.subscribe("user:1")

        proxy.inject(fault)
        began = time.perf_counter()
        lost = await ear.event("lost", after=1)
        await asyncio.sleep(2)
        proxy.inject(Fault.PASS)
        healed = time.perf_counter()
        live = await ear.event("restored", after=2)

        print(
            f"{fault.value}: noticed after {lost - began:.2f} s, live {live - healed:.2f} s after it healed"
        )
        assert lost - began < DETECTED_SECONDS
        assert live - healed < LIVE_AGAIN_SECONDS
        await hears(broker, ear, "user:1", b"healed")


async def test_a_reset_is_noticed_at_once(proxy: FaultProxy) -> None:
    async with running(promised(f"redis://127.0.0.1:{proxy.port}")) as (broker, ear):
        await broker.subscribe("user:1")

        proxy.reset()
        reset = time.perf_counter()
        live = await ear.event("restored", after=2)

        print(f"RST: live again after {live - reset:.3f} s")
        assert "beat" not in ear.reasons[0], "it is told, and waits for no beat"
        await hears(broker, ear, "user:1", b"after")


async def test_a_slow_and_sliced_link_changes_nothing_but_the_time(proxy: FaultProxy) -> None:
    proxy.slice_bytes, proxy.latency = 3, 0.01
    async with running(quick(f"redis://127.0.0.1:{proxy.port}")) as (broker, ear):
        await broker.subscribe("user:1")

        sent = [b"%d:" % number + b"\r\n$3\r\n" * number for number in range(60)]
        for message in sent:
            broker.publish("user:1", message)

        assert [message for _, message in await ear.heard(len(sent))] == sent
        assert ear.events == ["restored"]


async def test_a_node_that_reads_too_slowly_is_cut_off_by_redis_and_says_so(
    server: RedisServer, proxy: FaultProxy
) -> None:
    await command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 512kb 1")
    async with running(quick(f"redis://127.0.0.1:{proxy.port}", beat_timeout=timedelta(hours=1))) as (
        broker,
        ear,
    ):
        await broker.subscribe("user:1")
        async with running(quick(server.url)) as (sender, _):
            proxy.only_open(Fault.PAUSE)
            for _ in range(400):
                sender.publish("user:1", b"x" * 65536)
                await asyncio.sleep(0.001)
            proxy.inject(Fault.PASS)
            await ear.event("restored", after=2)

        assert ear.events == ["restored", "lost", "restored"]
        await hears(broker, ear, "user:1", b"after")


async def test_an_outage_that_lasts_costs_a_few_attempts_a_second(proxy: FaultProxy) -> None:
    async with running(promised(f"redis://127.0.0.1:{proxy.port}")) as (_, ear):
        proxy.inject(Fault.REFUSE)
        proxy.reset()
        await ear.event("lost", after=1)
        await asyncio.sleep(2)  # the back-off reaches its ceiling of 1 s
        before, began = proxy.accepted, time.perf_counter()

        await asyncio.sleep(4)

        attempts, took = proxy.accepted - before, time.perf_counter() - began
        print(f"outage: {attempts / took:.2f} attempts per second")
        assert 1 <= attempts <= 2 * took + 1, "half a second apart at the least"
        assert ear.events == ["restored", "lost"], "an outage is said once"


# --- F6: another server is the master now --------------------------------------------------------------------------


class Trio:
    """A master, its replica and three Sentinels."""

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replica = RedisServer()
        self.sentinels: list[RedisServer] = []

    def __enter__(self) -> Trio:
        with contextlib.ExitStack() as started:
            started.enter_context(self.master)
            started.enter_context(self.replica)
            redis_cli(self.replica.port, "REPLICAOF", "127.0.0.1", str(self.master.port))
            configuration = (
                f"sentinel monitor bells 127.0.0.1 {self.master.port} 2\n"
                "sentinel down-after-milliseconds bells 4000\nsentinel failover-timeout bells 6000\n"
            )
            self.sentinels = [started.enter_context(RedisServer(sentinel=configuration)) for _ in range(3)]
            deadline = time.monotonic() + 60
            while not all(map(self._knows_all, self.sentinels)):
                assert time.monotonic() < deadline, "the Sentinels did not find each other"
                time.sleep(0.05)  # other processes: there is no event to await
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/bells"

    def promoted(self) -> float:
        """Wait until the replica is the master; the moment."""
        deadline = time.monotonic() + 60
        while True:
            role = redis_cli(self.replica.port, "ROLE")
            assert isinstance(role, list)
            if role[0] == "master":
                return time.perf_counter()
            assert time.monotonic() < deadline, "no failover"
            time.sleep(0.01)  # another process: there is no event to await

    def _knows_all(self, sentinel: RedisServer) -> bool:
        reply = redis_cli(sentinel.port, "SENTINEL", "MASTER", "bells")
        known = reply if isinstance(reply, dict) else {}
        if isinstance(reply, list):
            known = dict(zip(reply[::2], reply[1::2], strict=True))
        linked = "online" in str(redis_cli(self.master.port, "INFO", "replication"))
        return int(known["num-slaves"]) >= 1 and int(known["num-other-sentinels"]) >= 2 and linked


@pytest.fixture
def trio() -> Iterator[Trio]:
    with Trio() as trio:
        yield trio


class TrustingBroker(RedisBroker):
    """A mutant that believes in a connection as long as it is open."""

    async def _watch_master(self, path: _Path) -> None:
        await asyncio.Event().wait()

    async def _beat(self, path: _Path) -> str:
        for lane in path.lanes:
            lane.link.publish(path.publish_verb, lane.canary, b"")
        await asyncio.wait([lane.link.closed for lane in path.lanes])
        return "closed"


@pytest.mark.alone
async def test_a_failover_with_a_frozen_master_is_followed_and_mutants_stay_deaf(trio: Trio) -> None:
    addresses = [("127.0.0.1", server.port) for server in trio.sentinels]
    sentinel = redis_py.Sentinel(addresses)  # type: ignore[no-untyped-call]  # redis-py does not say
    deaf = DeafBroker(sentinel.master_for("bells"))
    await deaf.listen("carillon:user:1")
    async with (
        running(promised(trio.url)) as (broker, ear),
        running(promised(trio.url), TrustingBroker) as (trusting, trusting_ear),
    ):
        await broker.subscribe("user:1")
        await trusting.subscribe("user:1")

        trio.master.freeze()
        frozen = time.perf_counter()
        promoted = await asyncio.to_thread(trio.promoted)
        live = await ear.event("restored", after=2)
        await hears(broker, ear, "user:1", b"on the new master")
        await asyncio.sleep(max(0.0, promoted + 4 - time.perf_counter()))
        broker.publish("user:1", b"long after")
        await ear.heard(2)

        print(
            f"failover: promoted {promoted - frozen:.2f} s after the freeze, attached {live - promoted:.2f} s later; "
            f"without canary {len(trusting_ear.messages)} of 2 heard, redis-py {len(deaf.heard)} of 2"
        )
        assert live - promoted < LIVE_AGAIN_SECONDS
        assert trusting_ear.events == ["restored"]
        assert trusting_ear.messages == []
        assert deaf.heard == []
    trio.master.thaw()
    await deaf.close()
    for client in sentinel.sentinels:
        await client.aclose()


@pytest.mark.alone
async def test_a_master_that_sentinel_replaced_is_left_though_it_is_alive_and_echoes(trio: Trio) -> None:
    async with running(promised(trio.url)) as (broker, ear):
        await broker.subscribe("user:1")
        await command(trio.replica, "REPLICAOF", "NO", "ONE")

        for sentinel in trio.sentinels:  # as if the old master were cut off from the Sentinels alone
            await command(sentinel, "SENTINEL", "REMOVE", "bells")
            await command(sentinel, "SENTINEL", "MONITOR", "bells", "127.0.0.1", str(trio.replica.port), "2")
        moved = time.perf_counter()
        live = await ear.event("restored", after=2)

        print(f"old master alive: attached to the new one {live - moved:.2f} s after the Sentinels knew it")
        assert live - moved < LIVE_AGAIN_SECONDS
        assert await command(trio.replica, "PUBSUB", "NUMSUB", "carillon:user:1") in (
            ["carillon:user:1", 1],
            [("carillon:user:1", 1)],
            {"carillon:user:1": 1},
        )
        assert "the master is now" in ear.reasons[0]


async def test_a_server_that_became_a_replica_is_left_until_it_is_master_again(server: RedisServer) -> None:
    async with running(quick(server.url)) as (broker, ear):
        await command(server, "REPLICAOF", "127.0.0.1", "1")
        await ear.event("lost", after=1)
        await asyncio.sleep(0.3)
        assert not broker.healthy

        await command(server, "REPLICAOF", "NO", "ONE")
        await ear.event("restored", after=2)

        assert "replica" in ear.reasons[0]
        assert ear.events == ["restored", "lost", "restored"]


async def test_a_sentinel_that_is_away_costs_nothing(trio: Trio) -> None:
    trio.sentinels[0].kill()
    trio.sentinels[1].freeze()

    async with running(promised(trio.url)) as (broker, ear):
        await broker.subscribe("user:1")
        await hears(broker, ear, "user:1", b"heard")

        assert ear.events == ["restored"]
    trio.sentinels[1].thaw()


@pytest.mark.alone
async def test_a_cluster_that_loses_a_shard_is_live_again_when_the_shard_is_back() -> None:
    if not RedisCluster.possible():
        pytest.skip("sharded pub/sub needs a redis-server of 7.0 or later")
    cluster = await asyncio.to_thread(RedisCluster().__enter__)
    try:
        async with running(promised(cluster.url)) as (broker, ear):
            names = [f"user:{number}" for number in range(100)]
            await asyncio.gather(*map(broker.subscribe, names))

            cluster.servers[1].freeze()
            frozen = time.perf_counter()
            lost = await ear.event("lost", after=1)
            cluster.servers[1].thaw()
            thawed = time.perf_counter()
            live = await ear.event("restored", after=2)
            for name in names:
                broker.publish(name, name.encode())

            print(f"shard: noticed after {lost - frozen:.2f} s, live {live - thawed:.2f} s after it was back")
            assert lost - frozen < DETECTED_SECONDS
            assert live - thawed < LIVE_AGAIN_SECONDS
            assert sorted(channel for channel, _ in await ear.heard(100)) == sorted(names)
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "login", "reason"),
    [
        (("--requirepass", "right"), "", "NOAUTH"),
        (("--requirepass", "right"), ":wrong-secret@", "WRONGPASS"),
        (("--user", "hub", "on", ">right", "+@all", "~*", "resetchannels"), "hub:right@", "NOPERM"),
    ],
)
async def test_a_redis_that_refuses_us_is_away_and_the_reason_is_said_without_the_secret(
    arguments: tuple[str, ...], login: str, reason: str
) -> None:
    with RedisServer(*arguments) as server:
        url = server.url.replace("redis://", f"redis://{login}")
        async with running(quick(url)) as (broker, ear):
            with pytest.raises(BrokerUnavailable):
                await broker.subscribe("user:1")
            broker.publish("user:1", b"dropped or refused")
            await ear.until(lambda: bool(ear.reasons))

            assert not broker.healthy
            assert reason in ear.reasons[0]
            assert "secret" not in repr(ear.reasons) + repr(broker._settings)


async def test_a_password_opens_what_it_should() -> None:
    with RedisServer("--requirepass", "p@ss:wörd/") as guarded:
        url = guarded.url.replace("redis://", "redis://:p%40ss%3Aw%C3%B6rd%2F@")
        async with running(quick(url)) as (broker, ear):
            await broker.subscribe("user:1")
            await hears(broker, ear, "user:1", b"inside")


async def test_what_is_not_redis_is_away() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    babbler = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = babbler.sockets[0].getsockname()[1]

    async with running(quick(f"redis://127.0.0.1:{port}")) as (broker, ear):
        assert not broker.healthy
        assert "not RESP3" in ear.reasons[0]
    babbler.close()


async def test_an_answer_nobody_foresaw_costs_one_attempt(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = RedisBroker._resolve
    surprises = iter([KeyError("config-epoch"), None])

    async def surprise(broker: RedisBroker) -> Address:
        if error := next(surprises):
            raise error
        return await resolve(broker)

    monkeypatch.setattr(RedisBroker, "_resolve", surprise)
    async with running(quick(server.url)) as (broker, ear):
        await ear.event("restored", after=1)

        assert ear.events == ["lost", "restored"]
        assert ear.reasons == ["KeyError"]
        assert broker.healthy


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that speaks TLS with a certificate of its own, tmp_path/cert.pem, made for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    files = ["--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem")]
    server = RedisServer(*files, "--tls-auth-clients", "no", tls=True)
    try:
        server.start()
    except RuntimeError as error:
        if "Bad directive" in str(error) or "TLS" in str(error):
            pytest.skip("this redis-server was built without TLS")
        raise
    yield server
    server.stop()


async def test_tls_is_spoken_and_the_certificate_judged(tls_server: RedisServer, tmp_path: Path) -> None:
    url = tls_server.url.replace("redis://", "rediss://")
    async with running(quick(url + f"?ssl_ca_certs={tmp_path}/cert.pem")) as (broker, ear):
        await broker.subscribe("user:1")
        await hears(broker, ear, "user:1", b"x" * 65536)
    async with running(quick(url)) as (broker, ear):
        assert not broker.healthy
        assert "CERTIFICATE_VERIFY_FAILED" in ear.reasons[0]
    async with running(quick(url + "?ssl_cert_reqs=none")) as (broker, _):
        assert broker.healthy
