"""The service as its users meet it: connections, fan-out, end to end, over real sockets and a real database."""

from __future__ import annotations

import pytest

from tests.client import Client
from tests.process import Node, nodes, service

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
