"""The service as its users meet it: connections, fan-out, end to end, over real sockets and a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.keys import decode_base64url, encode_base64url
from push.keys import new_key
from tests.client import Client
from tests.process import Node, nodes, service, token
from tests.providers.push_service import Device, PushService

LOOKING = "/api/v1/presence?user_id=ada"

# --- Connections -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def hub(database):
    async with nodes(database) as [node]:
        yield node


@pytest.mark.parametrize("way", ["token", "ticket", "subprotocol", "frame"])
async def test_a_person_connects_in_four_ways(hub: Node, way):
    async with await Client("ada").connect(hub, by=way) as ada:
        welcome = ada.frames[0]

    assert (welcome["type"], welcome["user_id"], welcome["unread_count"]) == ("welcome", "ada", 0)
    assert welcome["positions"] == {"user": 0, "tenant": 0}


async def test_a_ping_is_answered_with_its_timestamp(hub: Node):
    async with await Client().connect(hub) as ada:
        await ada.say("ping", timestamp="2025-01-15T14:30:00Z")

        assert await ada.heard("pong") == {"type": "pong", "timestamp": "2025-01-15T14:30:00Z"}


async def test_who_shows_no_good_token_is_told_so_and_sent_away(hub: Node):
    stranger = await Client(shown="not.a.token").connect(hub, welcome=False)

    assert await stranger.closed() == 4401
    assert stranger.frames == [
        {"type": "error", "code": "unauthorized", "message": "A valid token is required."}
    ]


async def test_the_end_of_a_connection_is_noticed(hub: Node):
    ada = await Client().connect(hub)
    await hub.metric_is("websocket_connections_active", lambda count: count == 1)

    await ada.vanish()

    await hub.metric_is("websocket_connections_active", lambda count: count == 0)


# --- Fan-out ---------------------------------------------------------------------------------------------------------


async def test_a_person_is_reached_on_all_their_devices_and_nobody_else_is(hub: Node):
    async with (
        await Client("ada").connect(hub) as phone,
        await Client("ada").connect(hub) as laptop,
        await Client("bob").connect(hub) as bob,
    ):
        await hub.notify("For Ada", user_id="ada")
        await hub.broadcast("For all")
        for client in (phone, laptop):
            await client.has("For Ada", "For all")
        await bob.has("For all")

        assert bob.titles() == ["For all"]


async def test_a_tenant_is_reached_as_a_whole_and_no_other_is(hub: Node):
    async with (
        await Client("ada").connect(hub) as ada,
        await Client("ada", tenant_id="other").connect(hub) as namesake,
    ):
        await hub.broadcast("Here")
        there = {"title": "There", "message": "Elsewhere.", "broadcast_to_tenant": True}
        await hub.ask("POST", "/internal/broadcast", there, as_=service("other"))
        await ada.has("Here")
        await namesake.has("There")

        assert (ada.titles(), namesake.titles()) == (["Here"], ["There"])


async def test_a_topic_reaches_those_who_follow_or_subscribe_to_it(hub: Node):
    async with (
        await Client("ada").connect(hub) as follower,
        await Client("bob").connect(hub) as subscriber,
        await Client("eve").connect(hub) as nobody,
    ):
        await follower.command("follow_topic", topic="iep_updates")
        await subscriber.subscribe("iep_updates")
        await hub.broadcast("To the topic", topic="iep_updates")
        await hub.broadcast("To all")
        for client in (follower, subscriber):
            await client.has("To the topic", "To all")
        await nobody.has("To all")

        assert nobody.titles() == ["To all"]


async def test_an_ephemeral_message_reaches_the_channel_and_is_gone(hub: Node):
    async with await Client("ada").connect(hub) as ada:
        await ada.subscribe("room:42")
        message = {"channel": "room:42", "data": {"typing": "bob"}}
        answer = await hub.ask("POST", "/internal/publish", message, as_=service())

        assert answer.status_code == 202
        assert await ada.heard("message") == {"type": "message", **message}

    async with await Client("ada").connect(hub) as later:
        await later.subscribe("room:42")
        assert later.frames[-1]["seq"] == 0


# --- Push ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def push_service(tmp_path: Path) -> AsyncIterator[PushService]:
    async with PushService(tmp_path) as service:
        yield service
        assert not service.refusals


@pytest.fixture
async def pushing(database, push_service: PushService) -> AsyncIterator[Node]:
    """A node that finds the push service."""
    settings = {
        "VAPID_EMAIL": "ops@example.org",
        "PUSH_CA_FILE": str(push_service.ca_file),
        "PUSH_RESOLVE": ",".join(push_service.resolve),
    }
    async with nodes(database, **settings) as [node]:
        yield node


async def subscribe(hub: Node, push_service: PushService, user_id: str = "ada") -> Device:
    """A browser of that person, by the three steps of the AIVO document."""
    served = (await hub.ask("GET", "/api/v1/push/vapid-public-key")).json()["public_key"]
    device = push_service.subscribe(replace(new_key(), public_key=decode_base64url(served)))
    body = {
        "endpoint": push_service.endpoint(device),
        "p256dh_key": encode_base64url(device.browser.p256dh),
        "auth_key": encode_base64url(device.browser.auth),
        "user_agent": "A browser of a test",
        "device_info": {"platform": "web", "browser": "Firefox"},
    }
    answer = await hub.ask("POST", "/api/v1/push/subscribe", body, as_=token(user_id))
    assert answer.status_code == 201, answer.text
    return device


async def test_a_push_is_encrypted_for_the_browser_of_the_person_and_says_what_was_sent(
    pushing: Node, push_service: PushService
):
    adas, bobs = await subscribe(pushing, push_service), await subscribe(pushing, push_service, "bob")

    sent = await pushing.notify(
        "IEP Document Updated", user_id="ada", channels=["push"], action_url="/iep/12345", priority="high"
    )
    await push_service.wait_for(1)
    await pushing.metric_is("push_notifications_sent", lambda count: count == 1)

    [push] = adas.pushes  # which only this browser's keys have opened
    said = json.loads(push.text)
    assert (said["title"], said["data"]["action_url"]) == ("IEP Document Updated", "/iep/12345")
    assert said["data"]["notification_id"] == sent.json()["id"]
    assert push.urgency == "high"
    assert bobs.pushes == []


async def test_a_push_for_everybody_reaches_whoever_has_a_browser(pushing: Node, push_service: PushService):
    devices = [await subscribe(pushing, push_service, name) for name in ("ada", "bob")]

    await pushing.notify("For two", recipients=["ada", "bob", "eve"], channels=["in_app", "push"])
    await push_service.wait_for(2)

    await pushing.metric_is("push_notifications_sent", lambda count: count == 2)
    assert [len(device.pushes) for device in devices] == [1, 1]
    assert [json.loads(device.pushes[0].text)["app_badge"] for device in devices] == [1, 1]


async def test_who_is_looking_sees_it_in_the_page_and_is_not_pushed_to(
    pushing: Node, push_service: PushService
):
    device = await subscribe(pushing, push_service)
    async with await Client("ada").connect(pushing) as ada:
        await ada.say("presence", visible=True)
        async with asyncio.timeout(10):
            while '"looking":true' not in (await pushing.ask("GET", LOOKING, as_=service())).text:
                await asyncio.sleep(0.02)  # another process: there is no event to await
        sent = await pushing.notify("Look", user_id="ada", channels=["websocket", "push"])
        await ada.has("Look")
        path = f"/api/v1/notifications/{sent.json()['id']}/deliveries"
        async with asyncio.timeout(10):
            while True:
                [delivery] = (await pushing.ask("GET", path, as_=service())).json()["deliveries"]
                if delivery["state"] == "deferred":
                    break
                await asyncio.sleep(0.02)  # another process: there is no event to await

    assert delivery["reason"] == "the person is looking at the application"
    assert device.pushes == []


# --- End to end ------------------------------------------------------------------------------------------------------


async def test_a_notification_is_stored_shown_read_and_counted(hub: Node):
    async with await Client("ada").connect(hub) as phone, await Client("ada").connect(hub) as laptop:
        created = (await hub.notify("IEP Document Updated", user_id="ada", priority="high")).json()
        shown = await phone.heard("notification")
        await laptop.heard("notification")
        assert shown["data"] == created
        assert (shown["stream"], shown["seq"]) == ("user", 1)

        ack = await phone.command("mark_read", notification_id=created["id"])
        assert ack["unread_count"] == 0
        await laptop.heard("read")
        assert laptop.state.shown() == phone.state.shown()

    listed = (await hub.ask("GET", "/api/v1/notifications", as_=phone.token)).json()
    assert [item["id"] for item in listed["notifications"]] == [created["id"]]
    assert listed["notifications"][0]["read"] is True


@pytest.mark.parametrize("resume", ["url", "command"])
async def test_who_was_away_gets_what_they_missed_once_and_in_order(hub: Node, resume):
    ada = await Client("ada").connect(hub)
    await hub.notify("Before", user_id="ada")
    await ada.has("Before")
    await ada.leave()
    for number in range(5):
        await hub.notify(f"Missed {number}", user_id="ada")

    await ada.connect(hub, resume=resume)
    await ada.has("Missed 4")

    assert ada.titles() == ["Before", *(f"Missed {number}" for number in range(5))]
    assert ada.surprises == []
    await ada.leave()
