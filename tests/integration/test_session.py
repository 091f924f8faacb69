"""One client's place in its streams while it is suspended, follows what it subscribes, or goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from core.identity import Identity
from hub.protocol import Subscribe
from hub.session import Session
from tests.api import TENANT, Edge, service, serving
from tests.listener import Listener

ADA = Identity(tenant_id=TENANT, user_id="ada", expires_at=float("inf"))


@dataclass
class Device:
    edge: Edge
    session: Session
    listener: Listener

    async def broadcast(self, *types: str) -> None:
        for kind in types:
            body = {"title": kind, "message": "News.", "topic": "news", "notification_type": kind}
            answer = await self.edge.client(service()).post("/internal/broadcast", json=body)
            assert answer.status_code == 201, answer.text

    async def turn(self, change: Any) -> None:
        """Ada changes what she follows, and this device is told, as its connection would tell it."""
        await self.edge.services.inbox.change_topic(ADA, "news", change)  # type: ignore[attr-defined]  # the whole inbox

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)  # a session has no event for this

    async def settle(self) -> None:
        """Time for what must not come."""
        for _ in range(5):
            await asyncio.sleep(0.01)

    @property
    def snapshots(self) -> int:
        return sum(frame["type"] == "resync" for frame in self.listener.frames)


class Told(Listener):
    """A listener that moves its session at once."""

    session: Session

    def on_membership(self, kind: str, payload: bytes) -> None:
        super().on_membership(kind, payload)
        self.task = asyncio.get_running_loop().create_task(self.session.on_membership(kind, payload))


@pytest.fixture
async def device(database: str) -> AsyncIterator[Device]:
    async with serving(database) as edge:
        node, listener = edge.services.node, Told()
        listener.session = Session(
            hub=node.hub,
            inbox=node.inbox,
            identity=ADA,
            member=listener,
            send=lambda payload: listener.frames.append(json.loads(payload)),
            rules=node.channels,
            settings=node.session_settings,
        )
        await listener.session.begin("1")
        yield Device(edge, listener.session, listener)
        listener.session.end()


async def test_a_topic_left_while_suspended_is_left(device):
    await device.turn("followed")
    await device.until(lambda: "topic:news" in device.session.positions())
    device.session.suspend()
    await device.session.on_membership("unfollowed", b'{"topic":"news"}')  # it was on its way

    await device.session.catch_up()

    assert "topic:news" not in device.session.positions()


async def test_a_channel_unsubscribed_while_suspended_is_silent(device):
    await device.session.subscribe(Subscribe(channel="news"))
    device.session.suspend()
    device.session.unsubscribe("news")
    await device.session.catch_up()

    await device.broadcast("grade")
    await device.settle()

    assert device.listener.seqs("topic:news") == []


async def test_a_subscribed_topic_followed_while_suspended_repeats_nothing(device):
    await device.session.subscribe(Subscribe(channel="news"))
    device.session.suspend()
    await device.broadcast("grade")
    await device.turn("followed")
    await device.broadcast("grade")

    await device.session.catch_up()
    await device.until(lambda: len(device.listener.seqs("topic:news")) >= 2)
    await device.settle()

    assert device.listener.seqs("topic:news") == [1, 2]


async def test_what_a_filter_held_back_after_the_following_is_not_lost_in_silence(device):
    await device.session.subscribe(Subscribe(channel="news", types=["grade"]))
    device.session.suspend()
    await device.turn("followed")
    await device.broadcast("absence")

    await device.session.catch_up()
    await device.until(lambda: device.snapshots > 0)
    await device.settle()

    assert device.snapshots == 1


async def test_one_who_goes_while_it_catches_up_listens_to_nothing(device, monkeypatch):
    for channel in ("news", "grades"):
        await device.session.subscribe(Subscribe(channel=channel))
    device.session.suspend()
    hub, listen = device.edge.services.node.hub, device.edge.services.node.hub.listen

    async def slowly(*arguments: Any) -> None:
        monkeypatch.undo()
        await listen(*arguments)
        device.session.end()

    monkeypatch.setattr(hub, "listen", slowly)
    with pytest.raises(ConnectionError):
        await device.session.catch_up()

    assert hub.channel_counts() == {}
