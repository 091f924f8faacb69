"""What every presence promises, held against each of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from hub.broker_redis import RedisBroker, RedisSettings
from hub.presence import LastSeen, Lease, MemoryPresence, Presence, PresenceSettings
from hub.presence_redis import RedisPresence
from tests.cluster import RedisCluster
from tests.ears import Ear
from tests.servers import RedisServer, redis_cli

SETTINGS = PresenceSettings(timeout=timedelta(seconds=5))


class SetClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    if not RedisCluster.possible():
        pytest.skip("a cluster with sharded pub/sub needs a redis-server of 7.0 or later")
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "redis-cluster"])
async def presence(request: pytest.FixtureRequest, clock: SetClock) -> AsyncIterator[Presence]:
    if request.param == "memory":
        yield MemoryPresence(SETTINGS, clock)
        return
    where: RedisServer | RedisCluster
    where = request.getfixturevalue("redis_server" if request.param == "redis" else "redis_cluster")
    broker = RedisBroker(RedisSettings(url=where.url, prefix=f"{uuid.uuid4().hex}:"))
    await broker.start(Ear())
    yield RedisPresence(broker, SETTINGS, clock)
    await broker.close()


async def test_nobody_is_there_who_never_came(presence: Presence) -> None:
    assert await presence.online("acme", ["ann"]) == {"ann": LastSeen()}
    assert not await presence.looking("acme", "ann")
    assert await presence.connections("acme", "ann") == 0


async def test_whoever_is_connected_is_online_and_looks_only_with_a_visible_page(
    presence: Presence, clock: SetClock
) -> None:
    await presence.touch("acme", "ann", "node-1", visible=False)
    await presence.touch("acme", "bob", "node-1", visible=True)

    assert not await presence.looking("acme", "ann")
    assert await presence.looking("acme", "bob")
    assert await presence.online("acme", ["ann", "bob", "cy"]) == {
        "ann": LastSeen(online=True, looking=False, connections=1, at=clock.now()),
        "bob": LastSeen(online=True, looking=True, connections=1, at=clock.now()),
        "cy": LastSeen(),
    }


async def test_one_visible_page_on_any_node_is_enough_and_hiding_it_ends_the_looking(
    presence: Presence,
) -> None:
    await presence.touch("acme", "ann", "node-1", visible=True)
    await presence.touch("acme", "ann", "node-2", visible=False)
    looked_before = await presence.looking("acme", "ann")

    await presence.touch("acme", "ann", "node-1", visible=False)

    assert looked_before
    assert not await presence.looking("acme", "ann")


async def test_a_lease_that_is_not_renewed_ends_at_its_time(presence: Presence, clock: SetClock) -> None:
    await presence.touch("acme", "ann", "node-1", visible=True)
    seen = clock.now()

    clock.advance(59.999)
    before = await presence.looking("acme", "ann")
    clock.advance(0.001)

    assert before
    assert not await presence.looking("acme", "ann")
    assert await presence.online("acme", ["ann"]) == {"ann": LastSeen(at=seen)}


async def test_a_renewed_lease_lives_on(presence: Presence, clock: SetClock) -> None:
    await presence.touch("acme", "ann", "node-1", visible=True)

    for _ in range(10):
        clock.advance(20)
        await presence.touch("acme", "ann", "node-1", visible=True)

    clock.advance(59)
    assert await presence.looking("acme", "ann")


async def test_leaving_ends_the_lease_of_that_node_only(presence: Presence, clock: SetClock) -> None:
    await presence.touch("acme", "ann", "node-1", visible=True)
    await presence.touch("acme", "ann", "node-2", visible=False)

    clock.advance(1)
    await presence.leave("acme", "ann", "node-1")

    assert await presence.online("acme", ["ann"]) == {
        "ann": LastSeen(online=True, looking=False, connections=1, at=clock.now())
    }


async def test_the_count_of_a_dead_node_vanishes_with_its_lease(presence: Presence, clock: SetClock) -> None:
    await presence.touch("acme", "ann", "dead", visible=True, connections=7)
    clock.advance(50)
    await presence.touch("acme", "ann", "alive", visible=False, connections=2)
    together = await presence.connections("acme", "ann")

    clock.advance(15)

    assert together == 9
    assert await presence.connections("acme", "ann") == 2
    assert await presence.connections("acme", "ann", besides="alive") == 0


async def test_a_node_may_leave_its_own_count_out(presence: Presence) -> None:
    await presence.touch_many(
        [
            Lease("acme", "ann", "node-1", visible=True, connections=3),
            Lease("acme", "ann", "node-2", visible=False, connections=4),
            Lease("acme", "ann", "seen", visible=False, connections=1),
        ]
    )

    assert await presence.connections("acme", "ann") == 8
    assert await presence.connections("acme", "ann", besides="node-1") == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("acme", "ann"), ("globex", "ann")),
        (("a:b", "c"), ("a", "b:c")),
        (("1:a", "b"), ("1", "a:b")),
        (("acme", "Ann"), ("acme", "ann")),
        (("acme", "ann:"), ("acme", "ann")),
    ],
)
async def test_nobody_is_taken_for_somebody_else(
    presence: Presence, one: tuple[str, str], other: tuple[str, str]
) -> None:
    await presence.touch(*one, "node-1", visible=True)

    assert await presence.looking(*one)
    assert not await presence.looking(*other)


async def test_user_ids_may_hold_anything(presence: Presence) -> None:
    names = ["a b", "{x}", "é\r\n", "*", "", "x" * 500]

    await presence.touch_many(Lease("acme", name, "node-1", visible=True) for name in names)

    assert all(person.looking for person in (await presence.online("acme", names)).values())


async def test_five_thousand_leases_are_renewed_together(presence: Presence) -> None:
    leases = [Lease("acme", f"user-{number}", "node-1", number % 2 == 0) for number in range(5000)]

    started = time.perf_counter()
    await presence.touch_many(leases)
    took = time.perf_counter() - started

    print(f"5,000 leases in {took * 1000:.0f} ms")
    people = await presence.online("acme", [lease.user_id for lease in leases])
    assert [person.looking for person in people.values()] == [lease.visible for lease in leases]


async def test_last_seen_is_forgotten_after_its_time(clock: SetClock) -> None:
    presence = MemoryPresence(SETTINGS, clock)
    await presence.touch("acme", "ann", "node-1", visible=True)

    clock.advance(SETTINGS.keep.total_seconds())
    await presence.touch("acme", "bob", "node-1", visible=True)

    assert await presence.online("acme", ["ann"]) == {"ann": LastSeen()}
    assert len(presence._people) == 1


# --- Redis alone --------------------------------------------------------------------------------------------------


async def test_leases_end_by_the_clock_of_the_server_and_keys_end_by_themselves(
    redis_server: RedisServer,
) -> None:
    broker = RedisBroker(RedisSettings(url=redis_server.url, prefix="own:"))
    await broker.start(Ear())
    presence = RedisPresence(broker, SETTINGS)

    await presence.touch("acme", "ann", "node-1", visible=True)
    person = (await presence.online("acme", ["ann"]))["ann"]
    await broker.close()

    assert person.looking
    assert person.at is not None
    assert abs(person.at - datetime.now(UTC)) < timedelta(seconds=60)
    remaining = redis_cli(redis_server.port, "PTTL", "own:presence:4:acme:ann")
    assert isinstance(remaining, int)
    assert 0 <= SETTINGS.keep / timedelta(milliseconds=1) - remaining < 60_000


async def test_the_leases_of_dead_nodes_are_not_kept(redis_server: RedisServer, clock: SetClock) -> None:
    broker = RedisBroker(RedisSettings(url=redis_server.url, prefix="dead:"))
    await broker.start(Ear())
    presence = RedisPresence(broker, SETTINGS, clock)

    for number in range(5):
        await presence.touch("acme", "ann", f"node-{number}", visible=True)
        clock.advance(30)
    await broker.close()

    kept = redis_cli(redis_server.port, "HKEYS", "dead:presence:4:acme:ann")
    assert isinstance(kept, list)
    assert sorted(kept) == ["node:node-3", "node:node-4", "seen"]


@pytest.mark.alone
async def test_without_redis_nobody_is_looking_and_nobody_waits() -> None:
    with RedisServer() as server:
        broker = RedisBroker(RedisSettings(url=server.url))
        ear = Ear()
        await broker.start(ear)
        presence = RedisPresence(broker, PresenceSettings())
        await presence.touch("acme", "ann", "node-1", visible=True, connections=3)

        server.freeze()
        started = time.perf_counter()
        frozen = await asyncio.gather(*(presence.looking("acme", "ann") for _ in range(200)))
        took_frozen = time.perf_counter() - started
        await asyncio.to_thread(server.kill)
        await ear.event("lost", after=1)
        started = time.perf_counter()
        gone = await presence.looking("acme", "ann")
        await presence.touch("acme", "ann", "node-1", visible=True)
        await presence.leave("acme", "ann", "node-1")
        limits = await presence.connections("acme", "ann"), await presence.online("acme", ["ann"])
        took_gone = time.perf_counter() - started
        await asyncio.to_thread(server.start)
        await ear.event("restored", after=2)
        await presence.touch("acme", "ann", "node-1", visible=True)
        back = await presence.looking("acme", "ann")
        await broker.close()

        print(f"200 questions to a frozen Redis {took_frozen:.3f} s, to none {took_gone * 1000:.2f} ms")
        assert not any(frozen)
        assert took_frozen < 1
        assert not gone
        assert limits == (0, {"ann": LastSeen()})
        assert took_gone < 0.1
        assert back, "the script is loaded again by a server that came back empty"
