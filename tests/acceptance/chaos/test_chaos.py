"""
Everything that was acknowledged is received, once and in order, whatever goes wrong meanwhile; and the
checker that says so is one that can say otherwise.

CARILLON_CHAOS_SECONDS makes it longer, CARILLON_CHAOS_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.acceptance.chaos.checker import Heard, Verdict, judge
from tests.acceptance.chaos.nemesis import Nemesis
from tests.client import Client, State
from tests.postgres import TEMPLATE
from tests.process import Node, nodes, service
from tests.servers import RedisServer

SECONDS = float(os.environ.get("CARILLON_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("CARILLON_CHAOS_SEED", random.randrange(10**6)))

PEOPLE = 20
DEVICES = 2
CARELESS = ("-m", "tests.acceptance.chaos.careless", "serve", "--port", "0")


class Device(Client):
    """Goes to whichever node it likes, and to another when it is cut off. forgetful: it comes as if for the first time."""

    def __init__(self, user_id: str, *, forgetful: bool = False) -> None:
        super().__init__(user_id)
        self._forgetful = forgetful

    async def roam(self, among: Sequence[Node]) -> None:
        """Until it is cancelled."""
        while True:
            if self.connected:
                await self.closed(10**6)
            if self._forgetful:
                self.state = State()
            try:
                await self.connect(random.choice(among), welcome=False, open_timeout=2)
            except (OSError, TimeoutError, WebSocketException):
                await asyncio.sleep(
                    random.uniform(0, 0.3)
                )  # jitter, as docs/protocol.md asks for, only shorter


class Producer:
    """Creates with idempotency keys, each repeated at any node until it is accepted."""

    def __init__(self, among: Sequence[Node], people: Sequence[str]) -> None:
        self.acknowledged: list[tuple[str, str]] = []  # id, person
        self.repeated = 0
        self._nodes = among
        self._people = people

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.create(random.choice(self._people))

    async def create(self, person: str) -> None:
        key = {"Idempotency-Key": uuid4().hex}
        body = {"title": f"For {person}", "message": "There is news.", "user_id": person}
        while True:
            node = random.choice(self._nodes)
            try:
                async with asyncio.timeout(4):
                    answer = await node.ask("POST", "/api/v1/notifications", body, as_=service(), headers=key)
            except (httpx.HTTPError, TimeoutError):
                self.repeated += 1
                await asyncio.sleep(0.05)  # nobody is there
                continue
            if answer.status_code == 201:
                self.acknowledged.append((answer.json()["id"], person))
                return
            assert answer.status_code in (409, 503), answer.text
            self.repeated += 1
            await asyncio.sleep(0.05)  # far less than Retry-After says


async def trial(
    among: Sequence[Node],
    redis: RedisServer,
    wrong: Callable[[], Awaitable[None]],
    *,
    patience: float,
    forgetful: bool = False,
) -> tuple[Verdict, Producer]:
    """
    While something goes wrong, people come and go and producers produce; at the end it is counted.

    patience: seconds until everybody has to have everything; it takes all of them where something is lost.
    """
    people = [f"person-{number}" for number in range(PEOPLE)]
    devices = [Device(person, forgetful=forgetful) for person in people for _ in range(DEVICES)]
    for number, device in enumerate(devices):
        await device.connect(among[number % len(among)])
    roaming = [asyncio.create_task(device.roam(among)) for device in devices]
    producer, calm = Producer(among, people), asyncio.Event()
    producing = [asyncio.create_task(producer.run(calm)) for _ in range(4)]

    await wrong()
    calm.set()
    await asyncio.gather(*producing)
    # The last word to everybody is said while Redis is away: no later publication shows its absence.
    redis.kill()
    for person in people:
        await producer.create(person)
    redis.start()

    def verdict() -> Verdict:
        received: dict[str, list[list[Heard]]] = {person: [] for person in people}
        for device in devices:
            received[device.user_id].append(device.heard_of)
        return judge(producer.acknowledged, received)

    try:
        async with asyncio.timeout(patience):
            while verdict().lost:
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass  # the verdict tells
    for task in roaming:
        task.cancel()
    outcomes = await asyncio.gather(*roaming, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    for device in devices:
        if device.connected:
            await device.vanish()
    return verdict(), producer


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@pytest.mark.alone
@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_doubled_or_out_of_order(own_postgres, redis, measured):
    await own_postgres.create_template()
    async with nodes(own_postgres.dsn(TEMPLATE), 2, redis=redis, allow_faults=True) as pair:
        nemesis = Nemesis(pair, redis, own_postgres, SEED)

        verdict, producer = await trial(pair, redis, lambda: nemesis.rage(SECONDS), patience=90)

        bugs = [fault for node in pair for fault in node.faults() if "Traceback" in fault]
    did = ", ".join(f"{count} × {what}" for what, count in sorted(nemesis.done.items()))
    measured(
        f"{len(producer.acknowledged)} acknowledged ({producer.repeated} repeats) to {PEOPLE * DEVICES} devices:"
        f" {len(verdict.lost)} lost, {len(verdict.doubled)} doubled, {len(verdict.out_of_order)} out of order"
        f"\nseed {SEED}: {did}"
    )
    assert verdict.clean, verdict
    assert len(nemesis.done) == 5
    assert not bugs, "\n".join(bugs)


async def test_the_checker_sees_clients_that_do_not_resume(own_postgres, redis):
    await own_postgres.create_template()
    async with nodes(own_postgres.dsn(TEMPLATE), 2, redis=redis, allow_faults=True) as pair:
        nemesis = Nemesis(pair, redis, own_postgres, SEED)

        verdict, _ = await trial(pair, redis, nemesis.kill_node, patience=10, forgetful=True)

    assert verdict.lost


async def test_the_checker_sees_a_hub_that_does_not_audit(own_postgres, redis):
    await own_postgres.create_template()
    async with nodes(own_postgres.dsn(TEMPLATE), 2, redis=redis, allow_faults=True, entry=CARELESS) as pair:
        nemesis = Nemesis(pair, redis, own_postgres, SEED)

        verdict, _ = await trial(pair, redis, nemesis.cut_redis_clients, patience=10)

    assert verdict.lost
