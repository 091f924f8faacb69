"""What every broker promises, held against each of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta

import pytest

from hub.broker import Broker, BrokerUnavailable, MemoryBroker, MemoryBus
from hub.broker_redis import RedisBroker, RedisSettings
from tests.cluster import RedisCluster
from tests.ears import Ear
from tests.servers import RedisServer

NewBroker = Callable[[], Awaitable[tuple[Broker, Ear]]]
PATIENCE = timedelta(seconds=30)  # ten thousand wait together, and a busy machine stands still now and then


def patient(url: str, prefix: str) -> RedisSettings:
    return RedisSettings(
        url=url,
        prefix=prefix,
        connect_timeout=PATIENCE,
        subscribe_timeout=PATIENCE,
        beat_timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    if not RedisCluster.possible():
        pytest.skip("sharded pub/sub needs a redis-server of 7.0 or later")
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "redis-cluster"])
async def new_broker(request: pytest.FixtureRequest) -> AsyncIterator[NewBroker]:
    """Makes brokers that talk to each other and to nobody else."""
    brokers: list[Broker] = []
    bus = MemoryBus()
    prefix = f"{uuid.uuid4().hex}:"

    async def new() -> tuple[Broker, Ear]:
        broker: Broker
        if request.param == "memory":
            broker = MemoryBroker(bus)
        elif request.param == "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            broker = RedisBroker(patient(server.url, prefix))
        else:
            cluster: RedisCluster = request.getfixturevalue("redis_cluster")
            broker = RedisBroker(patient(cluster.url, prefix))
        ear = Ear()
        await broker.start(ear)
        brokers.append(broker)
        return broker, ear

    yield new
    for broker in brokers:
        await broker.close()


async def test_a_message_reaches_every_broker_that_listens_and_its_sender(new_broker: NewBroker) -> None:
    sender, own_ear = await new_broker()
    other, other_ear = await new_broker()
    await sender.subscribe("user:1")
    await other.subscribe("user:1")

    sender.publish("user:1", b"hello")

    assert await own_ear.heard(1) == [("user:1", b"hello")]
    assert await other_ear.heard(1) == [("user:1", b"hello")]


async def test_a_channel_is_heard_in_the_order_of_publication(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()
    await other.subscribe("topic:orders")

    for number in range(2000):
        sender.publish("topic:orders", b"%d" % number)
        if number % 97 == 0:
            await asyncio.sleep(0)

    assert [int(message) for _, message in await ear.heard(2000)] == list(range(2000))


async def test_nobody_hears_a_channel_they_do_not_listen_to(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()
    await other.subscribe("user:1")

    sender.publish("user:2", b"not for you")
    sender.publish("user:10", b"nor this")
    sender.publish("user:1", b"for you")

    # In a cluster channels are not ordered among each other: ask again after a round trip.
    await ear.heard(1)
    await other.subscribe("user:3")
    assert ear.messages == [("user:1", b"for you")]


async def test_what_is_published_after_subscribe_returned_is_heard(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()

    for number in range(50):
        await other.subscribe(f"user:{number}")
        sender.publish(f"user:{number}", b"at once")

    assert {channel for channel, _ in await ear.heard(50)} == {f"user:{number}" for number in range(50)}


async def test_nothing_is_heard_after_unsubscribe_returned(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()
    await other.subscribe("user:1")
    await other.subscribe("user:2")

    sender.publish("user:1", b"on its way")
    await other.unsubscribe("user:1")
    sender.publish("user:1", b"too late")
    sender.publish("user:2", b"still here")

    await ear.until(lambda: ("user:2", b"still here") in ear.messages)
    await other.subscribe("user:3")
    assert ear.messages == [("user:2", b"still here")]


async def test_subscribing_anew_right_after_unsubscribing_is_in_force_when_it_returns(
    new_broker: NewBroker,
) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()

    for number in range(30):
        first = asyncio.create_task(other.subscribe("user:1"))
        await asyncio.sleep(0)
        await other.unsubscribe("user:1")
        await other.subscribe("user:1")
        sender.publish("user:1", b"%d" % number)
        await ear.heard(number + 1)
        await asyncio.gather(first, return_exceptions=True)

    assert [int(message) for _, message in ear.messages] == list(range(30))


async def test_subscribing_twice_hears_once_and_unknown_channels_may_be_left(new_broker: NewBroker) -> None:
    broker, ear = await new_broker()

    await asyncio.gather(broker.subscribe("user:1"), broker.subscribe("user:1"))
    await broker.unsubscribe("never subscribed")
    broker.publish("user:1", b"once")
    broker.publish("user:1", b"end")

    assert await ear.heard(2) == [("user:1", b"once"), ("user:1", b"end")]


async def test_a_message_is_never_heard_in_the_turn_that_published_it(new_broker: NewBroker) -> None:
    broker, ear = await new_broker()
    await broker.subscribe("user:1")

    broker.publish("user:1", b"later")

    assert ear.messages == []
    assert await ear.heard(1) == [("user:1", b"later")]


@pytest.mark.parametrize("message", [b"", bytes(range(256)) * 256, b"\r\n$-1\r\n"])
async def test_any_bytes_up_to_64_kib_arrive_unchanged(new_broker: NewBroker, message: bytes) -> None:
    broker, ear = await new_broker()
    await broker.subscribe("user:1")

    broker.publish("user:1", message)

    assert await ear.heard(1) == [("user:1", message)]


async def test_channel_names_may_hold_anything_a_user_id_may(new_broker: NewBroker) -> None:
    broker, ear = await new_broker()
    names = ["user:a b", "user:{x}", "user:é\r\n", "user:*", "user:{", "user:\ud800", "user:" + "x" * 500]

    for name in names:
        await broker.subscribe(name)
        broker.publish(name, b"1")

    assert sorted(channel for channel, _ in await ear.heard(len(names))) == sorted(names)


async def test_a_listener_that_raises_loses_that_message_only(new_broker: NewBroker) -> None:
    broker, ear = await new_broker()
    await broker.subscribe("user:1")
    hear = ear.on_message

    def choke(channel: str, message: bytes) -> None:
        if message == b"poison":
            raise ValueError("cannot read this")
        hear(channel, message)

    ear.on_message = choke  # type: ignore[method-assign]  # a listener with a bug
    broker.publish("user:1", b"poison")
    broker.publish("user:1", b"sound")

    assert await ear.heard(1) == [("user:1", b"sound")]
    assert broker.stats.refused == 1
    assert broker.healthy


@pytest.mark.alone
async def test_ten_thousand_channels_are_subscribed_and_each_is_heard_once(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()
    names = [f"user:{number}" for number in range(10_000)]

    started = time.perf_counter()
    await asyncio.gather(*map(other.subscribe, names))
    subscribed = time.perf_counter()
    for name in names:
        sender.publish(name, name.encode())
    await ear.heard(10_000)

    print(
        f"10,000 subscribed in {subscribed - started:.2f} s, heard in {time.perf_counter() - subscribed:.2f} s"
    )
    assert sorted(channel for channel, _ in ear.messages) == sorted(names)
    assert sender.stats.published == 10_000
    assert sender.stats.dropped == 0


async def test_the_start_says_restored_once_and_counts_no_reconnect(new_broker: NewBroker) -> None:
    broker, ear = await new_broker()

    assert ear.events == ["restored"]
    assert broker.healthy
    assert broker.stats.reconnects == 0


async def test_a_closed_broker_drops_what_is_published_and_hears_nothing(new_broker: NewBroker) -> None:
    sender, _ = await new_broker()
    other, ear = await new_broker()
    await other.subscribe("user:1")

    await other.close()
    sender.publish("user:1", b"nobody there")
    other.publish("user:1", b"dropped")
    await sender.subscribe("user:2")

    assert not other.healthy
    assert other.stats.dropped == 1
    assert ear.messages == []
    with pytest.raises(BrokerUnavailable):
        await other.subscribe("user:3")
