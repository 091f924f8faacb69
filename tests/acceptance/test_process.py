"""How a process begins, how it ends, and what its clients notice when it or the database does not end in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from tests.client import Client
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import ENCRYPTION_KEYS, ROOMY, SECRET, Node, StartRefused, nodes, service
from tests.providers.telegram import TelegramServer
from tests.servers import RedisServer, free_port

LONG = "s" * 32
TOKEN_PART = "eyJ"  # how every token begins


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


async def clients(node: Node, count: int) -> list[Client]:
    """So many people on one node."""
    return list(await asyncio.gather(*(Client(f"person-{number}").connect(node) for number in range(count))))


async def keep_broadcasting(node: Node, until: asyncio.Event) -> list[str]:
    """The titles of what was accepted, one after the other."""
    titles: list[str] = []
    while not until.is_set():
        answer = await node.broadcast(f"Number {len(titles)}")
        assert answer.status_code == 201, answer.text
        titles.append(f"Number {len(titles)}")
    return titles


# --- Ends ------------------------------------------------------------------------------------------------------------


async def test_sigterm_sends_clients_elsewhere_spread_over_the_drain_and_they_lose_nothing(database, redis):
    async with nodes(database, 2, redis=redis, HUB_DRAIN="5") as [leaving, staying]:
        people, stop = await clients(leaving, 40), asyncio.Event()
        broadcasting = asyncio.create_task(keep_broadcasting(staying, stop))
        loop, gone = asyncio.get_running_loop(), []

        leaving.signal(signal.SIGTERM)
        await leaving.logged("draining")

        async def move(person: Client) -> None:
            assert await person.closed() == 1012
            assert person.frames[-1]["type"] == "reconnect"
            gone.append(loop.time())
            await person.connect(staying)

        await asyncio.gather(*map(move, people))
        assert await leaving.ended() == 0
        stop.set()
        titles = await broadcasting
        for person in people:
            await person.has(titles[-1])

        assert all(person.titles() == titles for person in people)
        assert not [person.surprises for person in people if person.surprises]
        assert max(gone) - min(gone) > 1
        await asyncio.gather(*(person.leave() for person in people))


async def test_a_leaving_node_takes_no_newcomers_and_still_answers_whom_it_has(database):
    async with nodes(database, HUB_DRAIN="6") as [node]:
        people = await clients(node, 5)
        async with httpx.AsyncClient(base_url=node.url) as open_connection:
            assert (await open_connection.get("/livez")).status_code == 200
            node.signal(signal.SIGTERM)
            await node.logged("draining")

            assert (await open_connection.get("/livez")).status_code == 200
        with pytest.raises(ConnectionRefusedError):
            await Client("late").connect(node)
        await asyncio.gather(*(person.closed() for person in people))
        assert await node.ended() == 0


async def test_a_second_sigterm_stops_at_once(database):
    async with nodes(database, HUB_DRAIN="60") as [node]:
        people = await clients(node, 5)
        node.signal(signal.SIGTERM)
        await node.logged("draining")

        node.signal(signal.SIGTERM)

        await node.ended(30)  # half of the drain
        assert {await person.closed() for person in people} <= {1012, 1006}


async def test_clients_of_a_killed_node_resume_at_the_other_with_nothing_lost(database, redis):
    async with nodes(database, 2, redis=redis) as [dying, staying]:
        people, stop = await clients(dying, 20), asyncio.Event()
        broadcasting = asyncio.create_task(keep_broadcasting(staying, stop))
        await people[0].has("Number 10")

        await dying.kill()
        for person in people:
            assert await person.closed() == 1006
        await asyncio.gather(*(person.connect(staying) for person in people))
        stop.set()
        titles = await broadcasting
        for person in people:
            await person.has(titles[-1])

        assert all(person.titles() == titles for person in people)
        assert not [person.surprises for person in people if person.surprises]
        await asyncio.gather(*(person.leave() for person in people))


async def test_a_node_that_stood_still_for_5_seconds_hands_over_what_it_slept_through(database, redis):
    async with nodes(database, 2, redis=redis) as [sleeping, awake]:
        people = await clients(sleeping, 10)
        sleeping.freeze()
        titles = []
        for number in range(20):
            answer = await awake.broadcast(f"Slept through {number}")
            assert answer.status_code == 201
            titles.append(f"Slept through {number}")
        await asyncio.sleep(5)  # the fault itself: longer than every patience between nodes

        sleeping.thaw()
        for person in people:
            await person.has(*titles)

        assert all(person.titles() == titles and person.connected for person in people)
        assert not [person.surprises for person in people if person.surprises]
        await asyncio.gather(*(person.leave() for person in people))


# --- On somebody else's server ---------------------------------------------------------------------------------------


class PlainUvicorn(Node):
    """The command of the AIVO document: our application without our protocol classes. It does not say its port."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._own_port = free_port()
        command = ("-m", "uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", str(self._own_port))
        super().__init__(settings=settings, entry=command)

    def _is_ready(self, _log: str) -> bool:
        self.port = self._own_port
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


async def test_under_plain_uvicorn_everything_arrives_too(database):
    async with PlainUvicorn({"DATABASE_URL": database, "JWT_SECRET_KEY": SECRET, **ROOMY}) as node:
        ada = await Client("ada").connect(node)
        await ada.command("follow_topic", topic="news")
        await node.notify("Hello", user_id="ada")
        await ada.has("Hello")
        await ada.leave()
        for number in range(300):
            await node.broadcast(f"Missed {number}", topic="news")

        await ada.connect(node, by="token")
        await node.broadcast("Live")
        await ada.has("Live", "Missed 299")
        assert ada.surprises == []
        assert len(ada.titles()) == 302
        node.signal(signal.SIGTERM)

        assert await ada.closed() == 1012
        assert await node.ended() in (0, -signal.SIGTERM)
        assert TOKEN_PART not in node.log + node.printed
        assert "Traceback" not in node.log


# --- Several processes on one port -----------------------------------------------------------------------------------


async def test_two_workers_share_a_port_and_one_that_is_killed_is_replaced(database, redis):
    settings = {"DATABASE_URL": database, "REDIS_URL": redis.url, "JWT_SECRET_KEY": SECRET, "HUB_DRAIN": "0"}
    roomy = {"HUB_CONNECTIONS_PER_IP": "1000", "HUB_SILENT_PER_IP": "1000"}
    async with Node("--workers", "2", settings={**settings, **roomy}, processes=2) as service_:
        people = await clients(service_, 30)
        web = [child for child in service_.children() if "web" in child.cmdline()]
        held = [len(child.net_connections("tcp")) for child in web]
        assert min(held) > 2, f"one process has all the clients: {held}"

        await service_.broadcast("Before")
        for person in people:
            await person.has("Before")
        web[0].kill()
        await service_.logged("process_died")
        await service_.broadcast("Between")
        lost = [person for person in people if not person.connected or await _is_cut(person)]
        assert lost
        await service_.logged("ready", count=4)  # two, the jobs, and the successor
        await asyncio.gather(*(person.connect(service_) for person in lost))
        await service_.broadcast("After")
        for person in people:
            await person.has("After")

        assert all(person.titles() == ["Before", "Between", "After"] for person in people)
        await asyncio.gather(*(person.leave() for person in people))
        children = service_.children()
        assert await service_.stop() == 0
        assert not [child for child in children if psutil.pid_exists(child.pid) and child.is_running()]


async def _is_cut(person: Client) -> bool:
    try:
        await person.has("Between", seconds=30)
    except AssertionError:
        return True
    return False


async def test_processes_whose_supervisor_was_killed_end(database, redis):
    settings = {"DATABASE_URL": database, "REDIS_URL": redis.url, "JWT_SECRET_KEY": SECRET, "HUB_DRAIN": "0"}
    async with Node("--workers", "2", settings=settings, processes=2) as service_:
        children = service_.children()
        assert len(children) == 3
        await service_.kill()

        _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=60)
        for child in alive:
            child.kill()
        assert not alive


async def test_several_workers_without_redis_are_refused_with_the_reason(database):
    refusal = await refusal_of({"DATABASE_URL": database, "JWT_SECRET_KEY": SECRET}, "--workers", "2")

    assert refusal.code == 2
    assert "CARILLON_WORKERS" in refusal.log
    assert "REDIS_URL" in refusal.log


# --- Processes that only deliver -------------------------------------------------------------------------------------


async def test_senders_deliver_beside_the_web_process_and_need_nothing_but_postgresql(database):
    async with TelegramServer() as telegram:
        telegram.chats.add(471104711)
        settings = {
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "HUB_DRAIN": "0",
            "TELEGRAM_CHAT_ID": "471104711",
            "TELEGRAM_BOT_TOKEN": telegram.token,
            "TELEGRAM_BASE_URL": telegram.url,
        }
        async with Node("--senders", "2", settings=settings) as service_:
            await service_.logged("ready", count=4)
            roles = sorted(one.cmdline()[one.cmdline().index("--roles") + 1] for one in service_.children())
            assert roles == ["scheduler", "web", "worker", "worker"]

            first, second = [child for child in service_.children() if "worker" in child.cmdline()]
            assert [child.nice() - os.nice(0) for child in (first, second)] == [10, 10]
            assert {child.nice() for child in service_.children()} == {os.nice(0), os.nice(0) + 10}
            first.kill()
            await service_.logged("process_died")
            for number in range(20):
                alert = {"action": "BUY", "message": f"Number {number}"}
                await service_.ask("POST", "/api/monitoring/notifications/alerts", alert, as_=service())
            await telegram.wait_for(20, accepted=True)
            await service_.logged("ready", count=5)  # the successor
            second.kill()
            await service_.ask(
                "POST",
                "/api/monitoring/notifications/alerts",
                {"action": "SELL", "message": "x"},
                as_=service(),
            )
            await telegram.wait_for(21, accepted=True)
            assert await service_.stop() == 0


async def test_senders_without_the_role_of_a_worker_are_refused(database):
    settings = {"DATABASE_URL": database, "JWT_SECRET_KEY": SECRET}
    refusal = await refusal_of(settings, "--senders", "2", "--roles", "web")

    assert refusal.code == 2
    assert "CARILLON_SENDERS" in refusal.log


async def test_senders_give_way_as_far_as_they_are_told(database):
    settings = {
        "DATABASE_URL": database,
        "JWT_SECRET_KEY": SECRET,
        "HUB_DRAIN": "0",
        "CARILLON_SENDER_NICE": "3",
        "CARILLON_SENDER_CONNECTIONS": "4",
    }
    async with Node("--senders", "2", settings=settings) as service_:
        await service_.logged("ready", count=4)
        senders = [child for child in service_.children() if "worker" in child.cmdline()]
        assert sorted(
            child.environ().get("HUB_DATABASE_CONNECTIONS", "as all") for child in service_.children()
        ) == ["4", "4", "as all", "as all"]
        assert [child.environ()["HUB_DATABASE_DEADLINE"] for child in senders] == ["10", "10"]
        assert [child.nice() - os.nice(0) for child in senders] == [3, 3]
        groups = [Path(f"/proc/{child.pid}/autogroup") for child in senders]
        for group in groups:
            if group.exists():
                async with asyncio.timeout(60):
                    while not group.read_text().endswith("nice 3\n"):
                        await asyncio.sleep(0.05)
    for name, wrong in (("CARILLON_SENDER_NICE", "20"), ("CARILLON_SENDER_CONNECTIONS", "0")):
        refusal = await refusal_of({**settings, name: wrong}, "--senders", "2")
        assert name in refusal.log


# --- Production ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"DATABASE_URL": "postgresql://db/x"}, "JWT_SECRET_KEY"),
        ({"DATABASE_URL": "postgresql://db/x", "JWT_SECRET_KEY": "a-short-canary"}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": LONG}, "DATABASE_URL"),
        (
            {"DATABASE_URL": "postgresql://db/x", "JWT_SECRET_KEY": LONG, "HUB_FAILPOINTS": "x"},
            "HUB_FAILPOINTS",
        ),
        ({"DATABASE_URL": "postgresql://db/x", "JWT_SECRET_KEY": LONG}, "DELIVERY_ENCRYPTION_KEYS"),
    ],
    ids=["a generated key", "a short secret", "the embedded database", "failpoints", "no key for addresses"],
)
async def test_production_refuses(settings, named):
    refusal = await refusal_of({"CARILLON_ENV": "production", **settings})

    assert refusal.code == 2
    assert refusal.log.startswith(f"carillon: {named}: ")
    assert "a-short-canary" not in refusal.log


async def test_production_refuses_a_database_that_forgets(database):
    """That of the tests has fsync off."""
    refusal = await refusal_of(
        {
            "CARILLON_ENV": "production",
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        }
    )

    assert refusal.code == 2
    assert "fsync" in refusal.log


async def test_production_serves_on_a_durable_database_and_prints_no_token():
    with PostgresServer(fsync="on", full_page_writes="on") as server:
        await server.create_template()
        async with (
            nodes(server.dsn(TEMPLATE), CARILLON_ENV="production") as [node],
            await Client("ada").connect(node) as ada,
        ):
            await node.notify("Hello", user_id="ada")
            await ada.has("Hello")

            assert "eyJ" not in node.printed + node.log


async def refusal_of(settings: Mapping[str, str], *arguments: str) -> StartRefused:
    with pytest.raises(StartRefused) as refusal:
        async with Node(*arguments, settings=settings):
            pass
    return refusal.value


# --- The database ----------------------------------------------------------------------------------------------------


async def create(node: Node, title: str) -> list[int]:
    """One notification to ada with an idempotency key, repeated until it is accepted; the statuses on the way."""
    statuses: list[int] = []
    key = {"Idempotency-Key": uuid4().hex}
    body = {"title": title, "message": "There is news.", "user_id": "ada"}
    loop = asyncio.get_running_loop()
    while 201 not in statuses:
        began = loop.time()
        answer = await node.ask("POST", "/api/v1/notifications", body, as_=service(), headers=key)
        assert loop.time() - began <= 3.5, "no request waits longer"
        statuses.append(answer.status_code)
        if answer.status_code != 201:
            assert answer.status_code in (409, 503), answer.text
            assert int(answer.headers["Retry-After"]) >= 1
            await asyncio.sleep(0.05)  # far less than it is told: as impatient as a client can be
    return statuses


@pytest.mark.alone
async def test_a_crash_of_the_database_loses_no_accepted_notification_and_doubles_none(
    own_postgres, redis, measured
):
    await own_postgres.create_template()
    dsn = own_postgres.dsn(TEMPLATE)
    loop = asyncio.get_running_loop()
    async with nodes(dsn, 2, redis=redis, allow_faults=True) as [one, other]:
        ada = await Client("ada").connect(other)
        seen: list[list[int]] = []
        crashed = asyncio.Event()

        async def produce(name: str) -> None:
            number = 0
            while not crashed.is_set() or number < 20:
                seen.append(await create(one, f"{name} {number}"))
                number += 1

        producing = [asyncio.create_task(produce(name)) for name in ("a", "b", "c", "d")]
        await ada.until(lambda: len(ada.applied) > 20)
        await asyncio.to_thread(own_postgres.restart, "immediate")
        back = loop.time()
        assert (await create(one, "Back"))[-1] == 201
        ready = loop.time() - back
        crashed.set()
        await asyncio.gather(*producing)
        total = len(seen) + 1
        await ada.until(lambda: len(ada.applied) == total)

        connection = await asyncpg.connect(dsn)
        rows = await connection.fetchval("SELECT count(*) FROM notifications")
        await connection.close()
        assert ada.connected
        assert ada.surprises == []
        assert rows == total == len(set(ada.titles()))
        refusals = sum(len(statuses) - 1 for statuses in seen)
        measured(f"{total} creates over a crash, {refusals} refused and repeated; ready {ready:.2f} s after")
        assert ready <= 2
        await ada.leave()


@pytest.mark.alone
async def test_a_frozen_database_holds_no_request_for_long_and_cuts_no_socket(own_postgres, redis, measured):
    await own_postgres.create_template()
    loop = asyncio.get_running_loop()
    async with nodes(own_postgres.dsn(TEMPLATE), redis=redis, allow_faults=True) as [node]:
        ada, bob = await Client("ada").connect(node), await Client("bob").connect(node)
        took: list[float] = []

        async def ask(method: str, path: str, body: object = None, as_: str | None = None) -> int:
            began = loop.time()
            answer = await node.ask(method, path, body, as_=as_ or ada.token)
            took.append(loop.time() - began)
            return answer.status_code

        own_postgres.freeze()
        try:
            body = {"title": "Frozen", "message": "There is news."}
            statuses = await asyncio.gather(
                *(ask("POST", "/api/v1/notifications", body) for _ in range(30)),
                *(ask("GET", "/api/v1/notifications") for _ in range(30)),
                ask("POST", "/api/v1/ws/ticket"),
                ask("GET", "/health"),
            )
            await ada.say("ping", timestamp=1)
            await ada.heard("pong")
            assert await ask("GET", "/livez") == 200
            late = await Client("late").connect(node, welcome=False)
            assert await late.closed() == 1013
            assert late.frames[-1]["code"] == "unavailable"
        finally:
            own_postgres.thaw()
        thawed = loop.time()
        await create(node, "Thawed")
        await ada.has("Thawed")
        normal = loop.time() - thawed

        measured(f"the longest of {len(took)} requests {max(took):.2f} s; normal {normal:.2f} s after")
        assert set(statuses) == {503}
        assert max(took) <= 3.5
        assert normal <= 2
        assert ada.connected
        assert bob.connected
        assert ada.surprises == []
        await asyncio.gather(ada.leave(), bob.leave())
