"""Pushes through a proxy (PUSH_PROXY): what becomes of them is what the table says, and the proxy learns no more than where to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from core.clock import SystemClock
from push.keys import PushSettings, new_key
from push.outcome import PushResult
from push.sender import PushSender, SenderSettings
from tests.providers.connect_proxy import Behaviour, ConnectProxy
from tests.providers.push_service import Fault, PushService, Reset, Say, Silence
from tests.senders import Ring

KEY = new_key()
CREDENTIALS = "carillon:canary-word"


@dataclass
class Way:
    """A sender that leaves by a proxy, as the settings make it, to one push service."""

    sender: PushSender
    proxy: ConnectProxy
    service: PushService

    async def push(self) -> PushResult:
        subscription = self.service.subscription(self.service.subscribe(KEY), KEY)
        return await self.sender.send(subscription, b"{}", ttl=60, urgency="normal", topic="t" * 32)


@pytest.fixture
async def way(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    """Patient, but where somebody is silent."""
    given = getattr(request.node, "callspec", None)
    is_silent = given is not None and any(one in ("silence", Silence()) for one in given.params.values())
    total, connect = (3, 2) if is_silent else (60, 30)
    async with PushService(tmp_path) as service, ConnectProxy(service.port, CREDENTIALS) as proxy:
        made = PushSender(
            PushSettings(
                vapid_email="ops@example.org", ca_file=service.ca_file, timeout=timedelta(seconds=total)
            ),
            Ring(KEY),
            SystemClock(),
            sending=SenderSettings(
                proxy=proxy.url,
                queue=timedelta(seconds=total / 10),
                connect_timeout=timedelta(seconds=connect),
            ),
        )
        yield Way(made, proxy, service)
        await made.close()
        assert not service.refusals


async def test_a_push_goes_through_the_proxy_by_name_and_encrypted_to_the_push_service(way: Way) -> None:
    results = [await way.push() for _ in range(5)]

    assert {result.kind for result in results} == {"sent"}
    assert way.proxy.asked == [f"{way.service.host}:443"], (
        "one tunnel, kept, to the name: the proxy looks it up"
    )
    assert set(way.service.handshakes) == {way.service.host}
    assert not any(b"proxy" in head.lower() for head in way.service.request_heads), (
        "its password is the proxy's"
    )


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("403", "the proxy makes no connection to the push service"),
        ("407", "the proxy makes no connection to the push service"),
        ("garbage", None),
        ("silence", "no connection to the push service"),
        ("reset", None),
    ],
)
async def test_a_proxy_that_makes_no_tunnel_was_handed_nothing(
    way: Way, behaviour: Behaviour, reason: str | None
) -> None:
    way.proxy.behaviour = behaviour
    result = await way.push()
    way.proxy.behaviour = "tunnel"
    again = await way.push()

    assert (result.kind, result.status) == ("retry", None)
    assert reason is None or result.reason == reason
    assert "canary" not in result.reason
    assert "127.0.0.1" not in result.reason
    assert (again.kind, way.service.requests) == ("sent", 1)


async def test_a_proxy_that_is_not_there_was_handed_nothing(way: Way) -> None:
    await way.proxy.stop()

    result = await way.push()

    assert (result.kind, result.reason) == ("retry", "no connection to the proxy")


async def test_a_proxy_that_wants_another_password_is_no_way(way: Way, tmp_path: Path) -> None:
    way.proxy._credentials = "somebody:else"

    result = await way.push()

    assert (result.kind, way.proxy.tunnels) == ("retry", 0)


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Say(404), "gone", 404),
        (Say(429, {"Retry-After": "17"}), "throttled", 429),
        (Say(307, {"Location": "https://127.0.0.1/x"}), "refused", 307),
        (Say(407), "refused", 407),
        (Say(503), "retry", 503),
        (Silence(), "unknown", None),
        (Reset(taken=True), "unknown", None),
    ],
)
async def test_what_the_push_service_says_in_the_tunnel_means_what_it_means_without(
    way: Way, fault: Fault, kind: str, status: int | None
) -> None:
    way.service.script.append(fault)

    result = await way.push()

    assert (result.kind, result.status) == (kind, status)
    assert way.service.requests == 1, "and nothing was sent twice"


async def test_a_tunnel_that_leads_to_somebody_else_is_not_believed(way: Way, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with PushService(tmp_path / "other", "web.push.apple.com") as other:
        way.proxy._target = other.port
        result = await way.push()

    assert (result.kind, result.reason) == ("retry", "the push service's certificate was refused")
    assert other.requests == 0


async def test_the_text_of_an_endpoint_is_judged_before_the_proxy_is_asked(way: Way) -> None:
    inside = way.service.subscription(way.service.subscribe(KEY), KEY)
    object.__setattr__(inside, "endpoint", "https://internal.example/x")

    result = await way.sender.send(inside, b"{}", ttl=60, urgency="normal", topic=None)

    assert (result.kind, way.proxy.asked) == ("blocked", [])
