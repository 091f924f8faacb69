"""Two processes, one PostgreSQL, one Redis: what is said on one is heard on the other, and who left returns anywhere."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests import client_model
from tests.client import Client
from tests.process import Node, nodes, service
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def two(database, redis):
    async with nodes(database, 2, redis=redis, HUB_REDIS_PREFIX=f"{database[-40:]}:") as pair:
        yield pair


async def test_a_broadcast_on_one_node_reaches_sockets_on_the_other(two):
    one, other = two
    async with await Client("ada").connect(one) as here, await Client("bob").connect(other) as there:
        await one.broadcast("From one")
        await other.broadcast("From the other")
        for client in (here, there):
            await client.has("From one", "From the other")

    assert here.surprises == there.surprises == []


@pytest.mark.parametrize("resume", ["url", "command"])
async def test_who_missed_500_events_and_resumes_elsewhere_ends_like_who_stayed(two, resume):
    one, other = two
    stayed, away = await Client("ada").connect(one), await Client("ada").connect(one)
    await stayed.command("follow_topic", topic="news")
    await one.notify("Before", user_id="ada")
    await away.has("Before")
    await away.vanish()

    await five_hundred_events(stayed, one, other)
    await away.connect(other, resume=resume)
    await away.until(lambda: away.state.positions == stayed.state.positions)

    assert away.state.shown() == stayed.state.shown()
    assert away.state.resyncs == 0
    assert away.surprises == stayed.surprises == []
    assert len(away.applied) >= 500
    assert {key: item.state() for key, item in away.state.inbox.items.items()} == await inbox(
        other, away.token
    )
    counts = await other.ask("GET", "/api/v1/notifications/counts", as_=away.token)
    assert away.state.unread == counts.json()["unread"]
    await asyncio.gather(stayed.leave(), away.leave())


async def five_hundred_events(ada: Client, one: Node, other: Node) -> None:
    """Notifications by every stream, and everything that a person can do with them; on both nodes."""
    for number in range(0, 400, 20):
        sent = [
            *(one.notify(f"Own {number + step}", user_id="ada") for step in range(12)),
            *(other.broadcast(f"All {number + step}") for step in range(5)),
            *(other.broadcast(f"News {number + step}", topic="news") for step in range(3)),
        ]
        answers = await asyncio.gather(*sent)
        assert {answer.status_code for answer in answers} == {201}
    await ada.until(lambda: len(ada.titles()) >= 401)
    ids = list(ada.state.inbox.items)
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for notification_id in ids[:40]:
        await ada.command("mark_read", notification_id=notification_id)
    await ada.command("mark_unread", notification_ids=ids[:10])
    await ada.command("mark_seen", notification_ids=ids[50:60])
    for notification_id in ids[60:80]:
        await ada.command("archive", notification_id=notification_id)
    await ada.command("unarchive", notification_ids=ids[60:65])
    await ada.command("snooze", notification_id=ids[90], until=later)
    await ada.command("mark_all_read", positions={"user": ada.state.positions["user"] // 2})
    for notification_id in ids[100:120]:
        path = f"/api/v1/notifications/{notification_id}"
        changed = await one.ask("PATCH", path, {"title": "Corrected"}, as_=service())
        recalled = await other.ask("DELETE", f"/api/v1/notifications/{ids[300]}", as_=service())
        assert changed.status_code == 200, changed.text
        assert recalled.status_code in (204, 409), recalled.text
    await ada.command("follow_topic", topic="late")
    await ada.until(lambda: "topic:late" in ada.state.positions)
    await other.broadcast("Followed meanwhile", topic="late")
    last = await asyncio.gather(*(other.notify(f"Last {number}", user_id="ada") for number in range(20)))
    assert {answer.status_code for answer in last} == {201}
    await ada.has("Followed meanwhile", *(f"Last {number}" for number in range(20)))


async def inbox(node: Node, token: str) -> dict[str, Any]:
    """By id, the state of every notification that the list shows, of whatever state."""
    found: list[dict[str, Any]] = []
    for state in ("all", "archived", "snoozed"):
        cursor = ""
        while cursor is not None:
            query = f"?state={state}&limit=500" + (f"&cursor={cursor}" if cursor else "")
            page = (await node.ask("GET", f"/api/v1/notifications{query}", as_=token)).json()
            found += page["notifications"]
            cursor = page["next_cursor"]
    return {key: item.state() for key, item in client_model.Client(found, []).items.items()}


async def test_ephemeral_messages_cross_nodes(two):
    one, other = two
    async with await Client("ada").connect(other) as ada:
        await ada.subscribe("room:42")
        message = {"channel": "room:42", "data": {"typing": "bob"}}
        await one.ask("POST", "/internal/publish", message, as_=service())

        assert (await ada.heard("message"))["data"] == {"typing": "bob"}


async def test_a_position_of_another_life_is_answered_with_a_snapshot(two):
    one, other = two
    async with await Client("ada").connect(one) as ada:
        await one.notify("Hello", user_id="ada")
        await ada.has("Hello")
    before = ada.state.shown()
    ada.state.epoch = "another life"
    ada.state.positions["user"] = 900

    await ada.connect(other)

    assert ada.state.resyncs == 1
    assert ada.state.shown() == before
    await ada.leave()


# --- Without a WebSocket ---------------------------------------------------------------------------------------------


async def test_an_event_stream_goes_on_at_the_other_node(two):
    one, other = two
    ada = await Client("ada").connect(one)
    async with events(one, ada.token) as stream:
        await one.notify("First", user_id="ada")
        seen = [await next_of(stream, "notification")]
    for number in range(250):
        await one.notify(f"Missed {number}", user_id="ada")
    async with events(other, ada.token, seen[-1]["id"]) as stream:
        seen += [await next_of(stream, "notification") for _ in range(250)]
        await one.broadcast("Live")
        seen.append(await next_of(stream, "notification"))
    await ada.has("Live")

    frames = [json.loads(event["data"]) for event in seen]
    assert frames == [frame for frame in ada.frames if frame["type"] == "notification"]
    await ada.leave()


async def test_an_event_stream_of_a_leaving_node_ends_and_goes_on_elsewhere(two):
    leaving, staying = two
    ada = await Client("ada").connect(staying)
    async with events(leaving, ada.token) as stream:
        await staying.notify("First", user_id="ada")
        first = await next_of(stream, "notification")
        assert await leaving.stop() == 0
        with pytest.raises(StreamEnded):
            await next_of(stream, "notification")
    await staying.notify("Second", user_id="ada")
    async with events(staying, ada.token, first["id"]) as stream:
        second = await next_of(stream, "notification")
    await ada.has("Second")

    assert json.loads(second["data"]) == ada.frames[-1]
    await ada.leave()


async def test_a_long_poll_goes_on_at_the_other_node(two):
    one, other = two
    ada = await Client("ada").connect(one)
    since = (await poll(one, ada.token, None))["since"]
    waiting = asyncio.create_task(poll(other, ada.token, since))
    await other.metric_is("websocket_connections_active", lambda count: count == 1)
    await one.notify("At once", user_id="ada")
    answer = await waiting
    seen = answer["events"]
    await asyncio.gather(*(one.notify(f"Missed {number}", user_id="ada") for number in range(30)))
    while len(seen) < 31:
        answer = await poll(one, ada.token, answer["since"])
        seen += answer["events"]
    await ada.until(lambda: len(ada.titles()) == 31)

    assert seen == [frame for frame in ada.frames if frame["type"] == "notification"]
    await ada.leave()


@asynccontextmanager
async def events(node: Node, token: str, last: str | None = None) -> Any:
    """The lines of an event stream."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    if last is not None:
        headers["Last-Event-ID"] = last
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("GET", f"{node.url}/api/v1/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.aiter_lines()


class StreamEnded(Exception):
    """The server has said all it will."""


async def next_of(lines: Any, type_: str) -> dict[str, str]:
    """The next event of a type (WHATWG HTML section 9.2.6)."""
    event: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
            continue
        if event.get("event") == type_:
            return event
        event = {}
    raise StreamEnded


async def poll(node: Node, token: str, since: str | None) -> Any:
    query = "?wait=10" + (f"&since={since}" if since else "")
    headers = {"Accept": "application/json"}
    answer = await node.ask("GET", f"/api/v1/events{query}", as_=token, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()
