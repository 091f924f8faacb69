"""Redis is a wake-up that also carries the payload: what its loss costs is time, never a message, and never much time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from core.clock import SystemClock
from core.database import DatabaseSettings, open_database
from core.streams import StreamKey
from hub import frames
from hub.broker_redis import RedisBroker, RedisSettings
from hub.envelope import Seal
from hub.history import Draft, Entry
from hub.history_postgres import PostgresHistory, append, envelope_key
from hub.hub import Hub
from tests.client import Client
from tests.process import Node, StartRefused, nodes
from tests.servers import RedisServer


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def two(database, redis):
    async with nodes(database, 2, redis=redis) as pair:
        yield pair


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


async def send(
    node: Node, name: str, count: int, *, pause: float = 0.0
) -> tuple[dict[str, float], list[float]]:
    """Notifications to ada, one after the other: when each was committed, and how long each request took."""
    loop = asyncio.get_running_loop()
    committed: dict[str, float] = {}
    took: list[float] = []
    for number in range(count):
        began = loop.time()
        answer = await node.notify(f"{name} {number}", user_id="ada")
        assert answer.status_code == 201, answer.text
        committed[f"{name} {number}"] = loop.time()
        took.append(loop.time() - began)
        if pause:
            await asyncio.sleep(
                pause
            )  # the pace of the load, so that it meets every moment of an audit's round
    return committed, took


@pytest.mark.alone
async def test_everything_arrives_without_redis_and_live_again_when_it_is_back(two, redis, measured):
    one, other = two
    loop = asyncio.get_running_loop()
    async with await Client("ada").connect(other) as ada:
        committed, _ = await send(one, "With", 50)
        await ada.has(*committed)
        live = percentile([ada.arrivals[title] - at for title, at in committed.items()], 0.99)

        redis.kill()
        committed, _ = await send(one, "Without", 100, pause=0.03)
        await ada.has(*committed)
        without = percentile([ada.arrivals[title] - at for title, at in committed.items()], 0.99)

        redis.start()
        back = loop.time()
        for node in (one, other):
            await node.metric_is("hub_broker_live", lambda live: live == 1)
        restored = loop.time() - back
        committed, _ = await send(one, "Again", 50)
        await ada.has(*committed)
        again = percentile([ada.arrivals[title] - at for title, at in committed.items()], 0.99)

    measured(
        f"commit to client, p99: {live:.3f} s with Redis, {without:.3f} s without, {again:.3f} s after;"
        f" live again {restored:.2f} s after Redis"
    )
    assert ada.surprises == []
    assert without <= 2.5
    assert restored <= 3
    assert again <= 0.5


@pytest.mark.alone
async def test_requests_and_handshakes_do_not_wait_for_a_frozen_redis(two, redis, measured):
    one, other = two
    _, normal = await send(one, "Before", 100)

    redis.freeze()
    try:
        _, frozen = await send(one, "Frozen", 100)
        await one.metric_is("hub_broker_live", lambda live: live == 0)
        frozen += (await send(one, "Given up", 100))[1]
        async with asyncio.timeout(3):
            ada = await Client("ada").connect(other, by="ticket")
        async with asyncio.timeout(3):
            health = await other.ask("GET", "/health")
    finally:
        redis.thaw()
    await other.metric_is("hub_broker_live", lambda live: live == 1)
    committed, _ = await send(one, "Thawed", 10)
    await ada.has(*committed)
    await ada.leave()

    before, during = percentile(normal, 0.99), percentile(frozen, 0.99)
    measured(f"create p99: {before * 1000:.1f} ms with Redis, {during * 1000:.1f} ms with Redis frozen")
    assert health.status_code == 200
    assert during <= 1.5 * before + 0.05
    assert ada.surprises == []


async def test_a_node_starts_and_serves_without_redis_and_finds_it_later(database, redis):
    redis.kill()
    async with nodes(database, 2, redis=redis) as [one, other], await Client("ada").connect(other) as ada:
        await one.notify("Without", user_id="ada")
        await ada.has("Without")
        assert (await one.ask("GET", "/ws/status")).json()["status"] == "degraded"

        redis.start()
        await other.metric_is("hub_broker_live", lambda live: live == 1)
        await one.notify("With", user_id="ada")
        await ada.has("With")


async def test_a_redis_that_is_killed_and_comes_back_empty_loses_nothing(two, redis):
    one, other = two
    async with await Client("ada").connect(other) as ada:
        sending = asyncio.create_task(send(one, "Now", 150, pause=0.01))
        for count in (20, 50, 80):
            await ada.until(lambda count=count: len(ada.applied) > count)
            redis.restart()
        committed, _ = await sending
        await ada.has(*committed)

    assert ada.surprises == []
    assert ada.titles() == list(committed)


# --- A publish that never happens ------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_commit_that_nobody_is_told_of_arrives_within_2_seconds(database, redis, measured):
    async with nodes(database, 2, redis=redis, HUB_FAILPOINTS="publish_never_happens") as [one, other]:
        async with await Client("ada").connect(one) as here, await Client("ada").connect(other) as there:
            committed, _ = await send(one, "Untold", 40, pause=0.05)
            late = []
            for client in (here, there):
                await client.has(*committed)
                late += [client.arrivals[title] - at for title, at in committed.items()]
            assert here.connected
            assert there.connected

    measured(f"commit without a publish, to the client: at most {max(late):.2f} s")
    assert here.surprises == there.surprises == []
    assert max(late) <= 2


async def test_failpoints_are_refused_in_production(database):
    production = {"CARILLON_ENV": "production", "HUB_FAILPOINTS": "publish_never_happens"}
    with pytest.raises(StartRefused) as refusal:
        async with nodes(database, **production):
            pass

    assert refusal.value.code == 2
    assert "HUB_FAILPOINTS" in refusal.value.log


# --- A busy stream ---------------------------------------------------------------------------------------------------

TENANT = StreamKey("default", "tenant")


@asynccontextmanager
async def publisher(dsn: str, redis: RedisServer) -> Any:
    """A node of this process that only publishes: events in batches, as a busy producer's commits come."""
    store = await open_database(DatabaseSettings(url=dsn))
    broker = RedisBroker(RedisSettings(url=redis.url))
    seal = Seal(await envelope_key(store))
    hub = Hub(node="busy", history=PostgresHistory(store), broker=broker, seal=seal, clock=SystemClock())
    await hub.start()

    async def publish(count: int) -> int:
        """The position after `count` more."""
        data = {"notification_ids": []}
        async with store.transaction() as connection:
            seqs = await append(connection, [Draft(TENANT, "seen", data=data)] * count)
        hub.publish([Entry(TENANT, seq, "seen", frames.state(TENANT, seq, "seen", data)) for seq in seqs])
        return seqs[-1]

    try:
        yield publish
    finally:
        await hub.close()
        await store.close()


@pytest.mark.alone
async def test_a_client_that_joins_2000_publications_a_second_is_live_within_a_second(
    database, redis, measured
):
    loop = asyncio.get_running_loop()
    async with (
        nodes(database, 1, redis=redis) as [node],
        publisher(database, redis) as publish,
        await Client("bob").connect(node) as bob,
        await Client("ada").connect(node) as ada,
    ):
        await ada.leave()
        position, busy = await publish(2000), True

        async def keep_publishing() -> int:
            began, sent = loop.time(), 0
            while busy:
                nonlocal position
                position = await publish(100)
                sent += 100
                await asyncio.sleep(max(0.0, began + sent / 2200 - loop.time()))  # above 2,000
            return round(sent / (loop.time() - began))

        publishing = asyncio.create_task(keep_publishing())
        await bob.until(lambda: bob.state.positions["tenant"] > 3000)
        began = loop.time()
        await ada.connect(node)
        took = loop.time() - began
        behind = position - ada.state.positions["tenant"]
        busy = False
        rate = await publishing
        for client in (ada, bob):
            await client.until(lambda client=client: client.state.positions["tenant"] == position)

    measured(f"joined {rate} publications/s, 2,000 and more behind, in {took:.2f} s; then {behind} behind")
    assert ada.surprises == bob.surprises == []
    assert rate > 1500
    assert took <= 1
