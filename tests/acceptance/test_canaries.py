"""
Three canaries go through every kind of request and failure of the whole process, with its log at debug: a
token, a phone number and a message. None of them sings: in the log, in the metrics, in an error.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from tests.client import Client
from tests.process import Node, admin, nodes, service, token
from tests.raw_websocket import RawClient
from tests.servers import RedisServer, redis_cli

PHONE = "+4915199887766"
MESSAGE = "canary-of-a-message-7f3a"
TOKEN = token(PHONE, token_id="canary-of-a-token")
BAD_TOKEN = TOKEN[:-4] + "AAAA"
#: What must not be found: the token, any part of it that is its own, the number and the words.
CANARIES = (TOKEN, TOKEN.split(".")[1], TOKEN.split(".")[2][:-4], PHONE, PHONE[1:], MESSAGE)


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


def singing(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary in text]


async def every_request(node: Node) -> list[httpx.Response]:
    """What people, services and strangers ask for with canaries in every place that takes text."""
    good = {"title": MESSAGE, "message": MESSAGE, "user_id": PHONE}
    answers = [
        await node.ask(
            "POST", "/api/v1/notifications", good, as_=service(), headers={"Idempotency-Key": MESSAGE}
        )
    ]
    made = answers[0].json()["id"]
    one = f"/api/v1/notifications/{made}"

    async def ask(method: str, path: str, body: Any = None, as_: str | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answers.append(await node.ask(method, path, body, as_=as_, headers=named))

    for as_ in (TOKEN, BAD_TOKEN, None, "ck_canary_" + MESSAGE, MESSAGE):
        await ask("GET", "/api/v1/notifications", as_=as_)
        await ask("POST", "/api/v1/ws/ticket", as_=as_)
    await ask("GET", f"/api/v1/notifications?token={BAD_TOKEN}")
    await ask("GET", f"/api/v1/notifications?cursor={MESSAGE}", as_=TOKEN)
    await ask("GET", f"/{MESSAGE}/{PHONE}?token={TOKEN}")
    await ask("GET", "/health", X_API_Key=BAD_TOKEN)
    await ask("POST", "/api/v1/notifications", {**good, "message": "x"}, service(), Idempotency_Key=MESSAGE)
    for name, value in (
        ("title", MESSAGE * 20),
        ("message", {"not": MESSAGE}),
        ("action_url", f"javascript:{MESSAGE}"),
        ("action_url", f"https://evil.example/{MESSAGE}"),
        ("priority", MESSAGE),
        ("channels", [MESSAGE]),
        ("metadata", MESSAGE),
        ("metadata", {"fill": MESSAGE * 1000}),
        ("expires_at", MESSAGE),
        ("scheduled_for", "1999-01-01T00:00:00Z"),
        ("user_id", f" {PHONE}"),
        ("tenant_id", MESSAGE + "!"),
    ):
        await ask("POST", "/internal/broadcast", {**good, name: value}, service())
        await ask("POST", "/api/v1/notifications", {**good, name: value}, service())
    await ask("POST", "/api/v1/notifications", good, TOKEN + "x")
    await ask("POST", "/internal/broadcast", {**good, "tenant_id": "elsewhere"}, service())
    await ask(
        "POST", "/internal/publish", {"channel": "room:1", "data": {"text": MESSAGE, "to": PHONE}}, service()
    )
    await ask("POST", "/internal/publish", {"channel": f"room {MESSAGE}", "data": MESSAGE}, service())
    for method, path, body in (
        ("PATCH", one, {"title": f"{MESSAGE} again"}),
        ("PATCH", one, {"title": MESSAGE * 20}),
        ("POST", f"{one}/read", None),
        ("POST", f"{one}/cancel", None),
        ("DELETE", one, None),
        ("POST", "/api/v1/notifications/read-all", {"positions": MESSAGE}),
        ("PUT", f"/api/v1/topics/{MESSAGE} {PHONE}/follow", None),
        ("GET", f"/api/v1/events?since={TOKEN}", None),
    ):
        await ask(method, path, body, TOKEN)
        await ask(method, path, body, service())
    await ask("POST", "/api/v1/tokens/revoke", {"user_id": "+4915100000000", "token_id": MESSAGE}, admin())
    raw = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:
        for body in (
            f'{{"title": "{MESSAGE}", ',
            f'["{MESSAGE}"]',
            f'"{PHONE}"',
            "\xff" + MESSAGE,
            MESSAGE * 20_000,
        ):
            sent = await http.post("/api/v1/notifications", content=body.encode("latin-1"), headers=raw)
            answers.append(sent)
        untyped = {"Authorization": TOKEN}
        answers.append(await http.post("/api/v1/notifications", content=MESSAGE, headers=untyped))
    return answers


async def every_connection(node: Node) -> list[dict[str, Any]]:
    """All ways in, good and bad, and all that can be said; the error frames that came back."""
    errors: list[dict[str, Any]] = []
    for way in ("token", "subprotocol", "frame"):
        stranger = await Client(shown=BAD_TOKEN).connect(node, by=way, welcome=False)
        await stranger.closed()
        errors += stranger.frames
    for query in (f"ticket={MESSAGE}", f"positions={TOKEN}", f"since={MESSAGE}&token={TOKEN}"):
        stranger = await Client().connect(node, by="none", query=query, welcome=False)
        await stranger.closed()
        errors += stranger.frames
    async with await Client(shown=TOKEN).connect(node, by="token") as phone:
        for said in (
            MESSAGE,
            json.dumps({"type": "ping", "id": {"x": MESSAGE}}),
            json.dumps({"type": "mark_read", "notification_id": MESSAGE}),
            json.dumps({"type": "mark_read", "notification_id": PHONE}),
            json.dumps({"type": "publish", "channel": "room:1", "data": MESSAGE}),
            json.dumps({"type": "subscribe_channel", "channel": f"{MESSAGE} {PHONE}"}),
            json.dumps({"type": "subscribe_channel", "channel": "a", "types": MESSAGE}),
            json.dumps({"type": "subscribe_channel", "channel": "a", "min_priority": MESSAGE}),
            json.dumps({"type": "refresh", "token": BAD_TOKEN}),
            json.dumps({"type": "snooze", "until": MESSAGE}),
            json.dumps({"type": "resume", "positions": {MESSAGE: -1}}),
        ):
            await phone.socket.send(said)
        await phone.until(lambda: sum(one["type"] == "error" for one in phone.frames) == 11)
        errors += [one for one in phone.frames if one["type"] == "error"]
    for ending in (b"\xff" + MESSAGE.encode(), MESSAGE.encode()):
        async with await Client(shown=TOKEN).connect(node, by="subprotocol") as phone:
            await phone.socket.send(ending, text=ending[0] == 0xFF)
            await phone.closed()
    target = f"/ws/notify?token={TOKEN}".encode()
    for head in (
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nX: " + MESSAGE.encode() * 1000 + b"\r\n\r\n",
        b"GET " + target + b" HTTP/9\r\n" + MESSAGE.encode() + b"\r\n\r\n",
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ):
        async with await RawClient.connect(node.port, head) as raw:
            errors.append({"answer": (await raw.rest()).decode(errors="replace")})
    return errors


async def test_no_canary_sings(database, redis):
    async with nodes(database, 2, redis=redis, allow_faults=True, LOG_LEVEL="debug") as pair:
        one, other = pair
        answers = await every_request(one)
        errors = await every_connection(one)
        redis_cli(redis.port, "PUBLISH", "carillon:control", MESSAGE)
        redis_cli(redis.port, "PUBLISH", "carillon:control", json.dumps({"token": TOKEN, "to": PHONE}))
        await one.logged("bad_envelope", count=2)

        known = await Client(shown=TOKEN).connect(one)
        kept = (await one.notify(MESSAGE, user_id=PHONE)).json()["id"]

        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        person = {"title": MESSAGE, "message": f"two\nlines of {MESSAGE}", "user_id": PHONE}
        due = await one.ask(
            "POST", "/api/v1/notifications", {**person, "scheduled_for": later}, as_=service()
        )
        assert due.status_code == 201

        # What nobody foresaw, and whose own words quote the row.
        connection = await asyncpg.connect(database)
        never = "ALTER TABLE {table} ADD CONSTRAINT never CHECK (false) NOT VALID"
        async with connection.transaction():  # it comes due, and can not be published
            await connection.execute(
                "UPDATE notifications SET scheduled_for = now() WHERE status = 'scheduled'"
            )
            await connection.execute(never.format(table="notifications"))
        for table in ("notification_receipts", "ws_tickets", "stream_members"):
            await connection.execute(never.format(table=table))
        await connection.close()
        broken = [
            await one.ask("POST", "/api/v1/notifications", person, as_=service()),
            await one.ask("POST", "/api/v1/notifications", {**person, "user_id": None}, as_=TOKEN),
            await one.ask("POST", "/internal/broadcast", person, as_=service()),
            await one.ask("POST", "/api/v1/ws/ticket", as_=TOKEN),
            await one.ask("PUT", "/api/v1/topics/news/follow", as_=TOKEN),
        ]
        await known.say("mark_read", notification_id=kept)
        assert await known.closed() == 1011
        stranger = token(PHONE + "0", token_id="canary")
        await (await Client(shown=stranger).connect(other, welcome=False)).closed()
        async with asyncio.timeout(60):
            while not any("NOTIFY_CRON_FAIL" in node.log for node in pair):
                await asyncio.sleep(0.05)
        assert "connection_failed" in one.log
        assert "request_failed" in one.log
        assert 500 in {answer.status_code for answer in broken}, [answer.text for answer in broken]

        texts = {f"{node.url} log": node.log for node in pair}
        texts |= {
            f"{node.url} metrics": (await node.ask("GET", "/metrics", as_=admin())).text for node in pair
        }
        texts |= {
            f"{answer.request.method} {answer.request.url.path[:40]} {answer.status_code}": answer.text
            + str(answer.headers)
            for answer in [*answers, *broken]
            if answer.status_code >= 400
        }
        texts |= {f"frame {number}": json.dumps(error) for number, error in enumerate(errors)}

    assert {answer.status_code for answer in answers} >= {201, 401, 404, 409, 413, 422}
    found = {where: (singing(text), text[:600]) for where, text in texts.items() if singing(text)}
    for where, (canaries, text) in found.items():
        print(where, canaries, text)
    assert not found
