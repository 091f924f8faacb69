"""What is refused, how it is said, and who is sent away with which close code: as it is seen on the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Client, refused
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import Node, admin, nodes, token
from tests.raw_websocket import PING, RawClient, pong
from tests.servers import RedisServer


@pytest.fixture
async def hub(database):
    async with nodes(database) as [node]:
        yield node


# --- Who one is ------------------------------------------------------------------------------------------------------


BAD = {
    "no token": ("not.a.token", 4401),
    "a changed one": (token("ada") + "x", 4401),
    "an expired one": (token("ada", life=-60), 4410),
    "one too long": ("x" * 4096, 4401),
    "an unknown API key": ("ck_unknown_key", 4401),
}


@pytest.mark.parametrize("way", ["token", "subprotocol", "frame"])
async def test_a_bad_token_is_told_after_the_upgrade_and_closed(hub: Node, way):
    for name, (shown, code) in BAD.items():
        stranger = await Client(shown=shown).connect(hub, by=way, welcome=False)

        assert await stranger.closed() == code, name
        assert [one["type"] for one in stranger.frames] == ["error"], name
        assert shown not in json.dumps(stranger.frames), name


async def test_a_ticket_opens_one_connection(hub: Node):
    ticket = (await hub.ask("POST", "/api/v1/ws/ticket", as_=token("ada"))).json()["ticket"]
    async with await Client("ada").connect(hub, by="none", query=f"ticket={ticket}") as ada:
        assert ada.frames[0]["user_id"] == "ada"

    again = await Client("ada").connect(hub, by="none", query=f"ticket={ticket}", welcome=False)
    assert await again.closed() == 4410  # come back with a new one


async def test_positions_that_cannot_be_read_are_not_tried_again(hub: Node):
    for query in ("positions=!", "positions=W10", "since=x", "since=" + "9" * 30):
        stranger = await Client().connect(hub, query=query, welcome=False)
        assert await stranger.closed() == 4400, query
        assert stranger.frames[0]["code"] == "bad_request", query
    assert await refused(Client(), hub, query="positions=" + "A" * 20_000) == 431


async def test_who_says_nothing_is_sent_away(database):
    async with nodes(database, HUB_AUTHENTICATION="0.5") as [node]:
        silent = await Client().connect(node, by="none", welcome=False)

        assert await silent.closed() == 4408


async def test_a_token_that_runs_out_ends_the_connection_and_a_refreshed_one_does_not(database):
    async with nodes(database, JWT_LEEWAY="0", HUB_EXPIRY_WARNING="60") as [node]:
        ada = await Client(shown=token("ada", life=8)).connect(node)
        bob = await Client(shown=token("bob", life=8)).connect(node)
        assert (await ada.heard("token_expiring"))["expires_at"]
        refreshed = await bob.command("refresh", token=token("bob", life=600))
        foreign = await ada.command("refresh", token=token("bob", life=600))
        assert refreshed["type"] == "refreshed"
        assert foreign["code"] == "forbidden"

        assert await ada.closed() == 4410
        await bob.say("ping", timestamp=1)
        await bob.heard("pong")
        await bob.leave()


@pytest.mark.alone
@pytest.mark.parametrize("redis_is_there", [True, False])
async def test_who_is_revoked_is_out_on_every_node(database, redis_is_there):
    with RedisServer() as redis:
        async with nodes(database, 2, redis=redis) as [one, other]:
            ada, bob = await Client("ada").connect(other), await Client("bob").connect(other)
            if not redis_is_there:
                redis.kill()
            # A token is revoked by the second of its making; one that is younger counts as new.
            await asyncio.sleep(1.1)
            began = time.monotonic()
            answer = await one.ask("POST", "/api/v1/tokens/revoke", {"user_id": "ada"}, as_=admin())
            assert answer.status_code == 204, answer.text

            assert await ada.closed(12) == 4401
            assert time.monotonic() - began < (2 if redis_is_there else 10)
            again = await Client(shown=ada.token).connect(other, welcome=False)
            assert await again.closed() == 4401
            assert bob.connected
            await bob.leave()


# --- From where ------------------------------------------------------------------------------------------------------

_PRODUCTION_LIKE = "https://app.example"


@pytest.fixture(scope="module")
def durable():
    with PostgresServer(fsync="on", full_page_writes="on") as server:
        yield server


async def test_only_our_own_and_allowed_origins_shake_hands(durable):
    await durable.create_template()
    settings = {"CARILLON_ENV": "production", "HUB_ORIGINS": _PRODUCTION_LIKE}
    async with nodes(durable.dsn(TEMPLATE), **settings) as [node]:
        own = f"http://127.0.0.1:{node.port}"
        statuses = {}
        for origins in (
            (),
            (own,),
            (_PRODUCTION_LIKE,),
            ("null",),
            ("",),
            ("https://evil.example",),
            ("https://app.example.evil.example",),
            ("https://evil-app.example",),
            ("https://app.example:8443",),
            ("http://app.example",),
            ("https://APP.example",),
            ("https://app.example/",),
            ("https://app.example", "https://app.example"),
            ("https://app.example", "https://evil.example"),
            ("http://127.0.0.1:1",),
        ):
            target = f"/ws/notify?token={token('ada')}".encode()
            headers = [
                (b"Host", f"127.0.0.1:{node.port}".encode()),
                *((b"Origin", origin.encode()) for origin in origins),
            ]
            async with await RawClient.open(node.port, target, *headers) as raw:
                statuses[origins] = raw.status

    assert {origins for origins, status in statuses.items() if status == 101} == {
        (),
        (own,),
        (_PRODUCTION_LIKE,),
    }
    assert set(statuses.values()) == {101, 403}


# --- How many --------------------------------------------------------------------------------------------------------


async def test_the_eleventh_connection_of_a_person_is_one_too_many_on_any_node(database):
    with RedisServer() as redis:
        async with nodes(database, 2, redis=redis) as [one, other]:
            devices = [await Client("ada").connect(one if number % 2 else other) for number in range(10)]
            await asyncio.gather(*(device.command("mark_all_read") for device in devices))

            eleventh = await Client("ada").connect(other, welcome=False)

            assert await eleventh.closed() == 4409
            assert all(device.connected for device in devices)
            await asyncio.gather(*(device.leave() for device in devices))


async def test_an_address_with_too_many_connections_is_refused_before_the_upgrade(database):
    async with nodes(database, HUB_CONNECTIONS_PER_IP="5") as [node]:
        here = [await Client(f"person-{number}").connect(node) for number in range(5)]

        assert await refused(Client("late"), node) == 429
        await here.pop().leave()
        await node.metric_is("websocket_connections_active", lambda count: count == 4)
        here.append(await Client("late").connect(node))
        await asyncio.gather(*(one.leave() for one in here))


@pytest.mark.alone
async def test_a_flood_of_silent_sockets_is_over_within_seconds(database, measured):
    """1,000 that have shaken hands and say nothing, not even when they are told to go."""
    async with nodes(database) as [node]:
        before, began = node.resident_bytes, time.monotonic()
        silent = await asyncio.gather(*(RawClient.open(node.port, b"/ws/notify") for _ in range(1000)))
        opened = time.monotonic()
        assert {one.status for one in silent} == {101}
        async with await Client("ada").connect(node) as ada:
            await node.notify("Meanwhile", user_id="ada")
            await ada.has("Meanwhile", seconds=2)
        each = (node.resident_bytes - before) / 1024 / len(silent)

        told = await asyncio.gather(*(one.text() for one in silent))
        closed = await asyncio.gather(*(one.closed() for one in silent))
        over = time.monotonic() - opened
        await asyncio.gather(*(one.leave() for one in silent))
        await node.metric_is("websocket_connections_active", lambda count: count == 0)

    measured(
        f"1,000 silent sockets: open in {opened - began:.1f} s, closed {over:.1f} s later, {each:.0f} KiB each"
    )
    assert {json.loads(text)["code"] for text in told} == {"unauthorized"}
    assert {code for code, _ in closed} == {4408}
    assert over <= 6.5


async def test_who_only_answers_pings_stays_however_quickly_the_answers_come(database):
    """On one machine they come within the millisecond, in which the loop's own time may stand still."""
    settings = {"HUB_PING_INTERVAL": "3", "HUB_PING_TIMEOUT": "2.5", "HUB_SWEEP_INTERVAL": "0.05"}
    async with nodes(database, **settings) as [node]:
        targets = [f"/ws/notify?token={token(f'person-{number}')}".encode() for number in range(20)]
        listeners = await asyncio.gather(*(RawClient.open(node.port, target) for target in targets))

        async def answer(listener: RawClient) -> None:
            pings = 0
            while pings < 3:
                first, payload = await listener.frame()
                if first == PING:
                    listener.send(pong(payload))
                    pings += 1

        await asyncio.gather(*map(answer, listeners))
        assert await node.metric("websocket_connections_active") == 20
        await asyncio.gather(*(one.leave() for one in listeners))


async def test_silent_sockets_of_one_address_are_few(database):
    async with nodes(database, HUB_SILENT_PER_IP="3", HUB_AUTHENTICATION="60") as [node]:
        silent = [await Client().connect(node, by="none", welcome=False) for _ in range(3)]

        assert await refused(Client(), node, by="none") == 429
        await asyncio.gather(*(one.leave() for one in silent))


# --- What is said ----------------------------------------------------------------------------------------------------


async def test_a_frame_over_64_kib_is_too_big_and_one_of_64_kib_is_not(hub: Node):
    empty = json.dumps({"type": "ping", "padding": ""})
    async with await Client().connect(hub) as ada:
        await ada.say("ping", padding="x" * (65536 - len(empty)))
        await ada.heard("pong")
        await ada.say("ping", padding="x" * (65537 - len(empty)))

        assert await ada.closed() == 1009


async def test_a_binary_message_is_not_understood(hub: Node):
    ada = await Client().connect(hub)
    await ada.socket.send(b"\x00")

    assert await ada.closed() == 1003


async def test_what_is_no_command_is_an_error_and_the_socket_stays(hub: Node):
    bad = ["", "{", "[]", "null", '"ping"', '{"type":"nonsense"}', '{"no":"type"}', "[" * 5000, "\x00"]
    async with await Client().connect(hub) as ada:
        for said in bad:
            await ada.socket.send(said)
        await ada.until(lambda: len(ada.frames) == 1 + len(bad))
        assert {one["code"] for one in ada.frames[1:]} == {"bad_request"}

        await ada.say("ping", timestamp=1)
        await ada.heard("pong")


async def test_who_says_too_much_is_told_to_slow_down_and_then_closed(hub: Node):
    ada = await Client().connect(hub)
    try:
        for number in range(2000):  # more than it may, however long one of the two stands still meanwhile
            await ada.say("ping", timestamp=number)
    except (ConnectionError, ConnectionClosed):
        pass

    assert await ada.closed() == 4429
    assert any(one.get("code") == "rate_limited" and one["retry_after_ms"] > 0 for one in ada.frames)


# --- Who reads slowly ------------------------------------------------------------------------------------------------


class Deaf:
    """A client that has shaken hands and never reads."""

    def __init__(self, node: Node, user_id: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", node.port))
        handshake = (
            f"GET /ws/notify?token={token(user_id)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self._socket.sendall(handshake.encode())

    def close(self) -> None:
        self._socket.close()


@pytest.mark.alone
async def test_who_never_reads_is_closed_and_the_others_do_not_notice(database, measured):
    """Each is owed more than the kernel takes for it (tcp_wmem: 4 MiB) and we keep (256 KiB)."""
    count, total, fill = 30, 450, {"fill": "x" * 14_000}
    async with nodes(database, HUB_SLOW_PATIENCE="2") as [node]:
        ada, slow = await Client("ada").connect(node), await Client("slow").connect(node)
        for number in range(260):  # the ring of the stream is full; what is measured is the slow clients
            await node.broadcast(f"Before {number}", metadata=fill)
        for client in (ada, slow):
            await client.has("Before 259")
        await slow.leave()
        deaf = [Deaf(node, "slow" if number == 0 else f"deaf-{number}") for number in range(count)]
        await node.metric_is("websocket_connections_active", lambda active: active == count + 1)
        before = peak = node.resident_bytes
        loop, late = asyncio.get_running_loop(), []

        for number in range(total):
            at = loop.time()
            answer = await node.broadcast(f"Big {number}", metadata=fill)
            assert answer.status_code == 201, answer.text
            await ada.has(f"Big {number}")
            late.append(ada.arrivals[f"Big {number}"] - at)
            peak = max(peak, node.resident_bytes)
        await node.metric_is("websocket_slow_consumers", lambda slow: slow >= count)
        await node.metric_is("websocket_connections_active", lambda active: active == 1, seconds=20)

        each = (peak - before) / count / 1024
        late.sort()
        measured(
            f"{each:.0f} KiB for each of {count} that never read;"
            f" p99 of the others from request to frame {late[int(len(late) * 0.99)] * 1000:.1f} ms"
        )
        assert each <= 600
        assert late[int(len(late) * 0.99)] < 0.1
        closed = (await node.ask("GET", "/metrics", as_=admin())).text
        assert f'websocket_connections_closed_total{{code="1013"}} {count}.0' in closed
        for one in deaf:
            one.close()

        await slow.connect(node)
        await slow.has(f"Big {total - 1}")
        assert slow.titles()[-total:] == [f"Big {number}" for number in range(total)]
        assert slow.surprises == ada.surprises == []
        await asyncio.gather(slow.leave(), ada.leave())
