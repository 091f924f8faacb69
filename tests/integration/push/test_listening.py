"""Where a push must never lead, counted by who listens there: no connection is made, whatever a name says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from core.clock import SystemClock
from push.keys import PushSettings, new_key
from push.sender import PushSender
from push.transport import Broken, Patience, Post
from tests.providers.push_service import PushService, Say
from tests.senders import TRANSPORTS, Ring, closing, sender, transport
from tests.unit.push.test_guard import CLOSED

KEY = new_key()
HASTY = Patience(connect=timedelta(seconds=0.3), answer=timedelta(seconds=0.6))


@dataclass
class Listener:
    """Listens at every address that this machine has, IPv4 and IPv6, on one port."""

    port: int
    connections: int = 0


@dataclass
class Names:
    """A resolver that says each time what comes next, and then the last for ever."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    found = Listener(0)

    def on_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writer.close()

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await asyncio.start_server(on_connection, "0.0.0.0"))
        found.port = first.sockets[0].getsockname()[1]
        await stack.enter_async_context(await asyncio.start_server(on_connection, "::", found.port))
        yield found


def post(origin: str) -> Post:
    return Post(origin=origin, target="/x", standing=(), own=(), body=b"x")


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_nobody_inside_is_connected_to_by_any_of_their_addresses(kind: str, listener: Listener) -> None:
    names = Names([[address] for address in CLOSED])
    way, guard = transport(kind, PushSettings(any_host=True), resolver=names)

    ends = [await way.post(post(f"https://push.example:{listener.port}")) for _ in CLOSED]
    for address in CLOSED:
        name = f"[{address}]" if ":" in address else address
        ends.append(await way.post(post(f"https://{name}:{listener.port}")))
    await way.close()

    assert len(CLOSED) >= 40
    assert all(isinstance(end, Broken) and end.is_blocked and not end.was_handed_over for end in ends)
    assert guard.blocked == 2 * len(CLOSED)
    assert listener.connections == 0


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_listener_would_have_counted_them(kind: str, listener: Listener) -> None:
    origin = f"https://push.example:{listener.port}"
    for address in ("127.0.0.1", "[::1]"):
        open_door = PushSettings(resolve=frozenset({f"{origin}={address}:{listener.port}"}))
        way, _ = transport(kind, open_door)
        ended = await way.post(post(origin))
        await way.close()
        assert isinstance(ended, Broken)

    async with asyncio.timeout(60):
        while listener.connections < 2:
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_name_that_is_rebound_leads_nobody_inside(kind: str, listener: Listener) -> None:
    """Public when it is judged, loopback when it is dialled: but it is asked for once, and that address is dialled."""
    names = Names([["192.31.196.1"], ["127.0.0.1"], ["192.31.196.1", "127.0.0.1"], ["::1"]])
    way, guard = transport(kind, PushSettings(any_host=True), patience=HASTY, resolver=names)

    ends = [await way.post(post(f"https://rebound.example:{listener.port}")) for _ in range(4)]
    await way.close()

    assert [isinstance(end, Broken) and end.is_blocked for end in ends] == [False, True, True, True]
    assert names.asked == ["rebound.example"] * 4
    assert (guard.blocked, listener.connections) == (3, 0)


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_loopback_is_followed_by_nobody(
    kind: str, status: int, listener: Listener, tmp_path: Path
) -> None:
    async with PushService(tmp_path) as service:
        device = service.subscribe(KEY)
        service.script.append(Say(status, {"Location": f"https://127.0.0.1:{listener.port}/x"}))
        async with closing(sender(service, key=KEY, kind=kind)) as made:
            result = await made.send(
                service.subscription(device, KEY), b"{}", ttl=1, urgency="low", topic="a" * 32
            )

    assert (result.kind, result.status) == ("refused", status)
    assert (service.requests, listener.connections) == (1, 0)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_subscription_whose_name_has_come_to_lead_inside_is_blocked_and_counted(
    kind: str, tmp_path: Path
) -> None:
    settings = PushSettings(any_host=True, vapid_email="ops@example.org")
    way, guard = transport(kind, settings, resolver=Names([[one] for one in CLOSED]))
    async with PushService(tmp_path) as service:
        one = service.subscription(service.subscribe(KEY), KEY)
        inside = replace(one, endpoint="https://up.example/x", origin="https://up.example")
        async with closing(PushSender(settings, Ring(KEY), SystemClock(), transport=way)) as made:
            results = [await made.send(inside, b"{}", ttl=1, urgency="low", topic=None) for _ in CLOSED]

    assert {result.kind for result in results} == {"blocked"}
    assert guard.blocked == len(CLOSED)
    assert made.stats.results["other", "blocked"] == len(CLOSED)
