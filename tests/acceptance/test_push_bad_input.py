"""What nothing can be pushed to, by curl to a whole node: 422 that names the member, repeats none of it, and keeps nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.process import Node, nodes, token
from tests.push_browser import Browser, text

BROWSER = Browser()
ENDPOINT = "https://updates.push.services.mozilla.com/wpush/v2/canary"
OFF_THE_CURVE = bytearray(BROWSER.p256dh)
OFF_THE_CURVE[-1] ^= 1

BAD = {
    "a key of 33 bytes": ("p256dh_key", text(b"\x02" + BROWSER.p256dh[1:33])),
    "a key of 64 bytes": ("p256dh_key", text(BROWSER.p256dh[:64])),
    "a key of 66 bytes": ("p256dh_key", text(BROWSER.p256dh + b"\x00")),
    "a key off the curve": ("p256dh_key", text(bytes(OFF_THE_CURVE))),
    "the point at infinity": ("p256dh_key", text(b"\x04" + bytes(64))),
    "a key that is no base64": ("p256dh_key", "canary!"),
    "an auth of 15 bytes": ("auth_key", text(BROWSER.auth[:15])),
    "an auth of 17 bytes": ("auth_key", text(BROWSER.auth + b"\x00")),
    "2,049 characters": ("endpoint", ENDPOINT + "x" * (2049 - len(ENDPOINT))),
    "http": ("endpoint", ENDPOINT.replace("https", "http")),
    "a user name": ("endpoint", ENDPOINT.replace("//", "//canary@")),
    "a user name and a password": ("endpoint", ENDPOINT.replace("//", "//canary:word@")),
    "another port": ("endpoint", ENDPOINT.replace(".com/", ".com:8443/")),
    "a private address": ("endpoint", "https://10.0.0.1/canary"),
    "loopback": ("endpoint", "https://127.0.0.1/canary"),
    "loopback, short": ("endpoint", "https://127.1/canary"),
    "loopback, as a number": ("endpoint", "https://2130706433/canary"),
    "link-local": ("endpoint", "https://169.254.169.254/canary"),
    "IPv6 loopback": ("endpoint", "https://[::1]/canary"),
    "a mapped address": ("endpoint", "https://[::ffff:10.0.0.1]/canary"),
    "NAT64": ("endpoint", "https://[64:ff9b::a00:1]/canary"),
    "6to4": ("endpoint", "https://[2002:a00:1::]/canary"),
    "a public address": ("endpoint", "https://8.8.8.8/canary"),
    "a host outside the list": ("endpoint", "https://push.canary.example/x"),
    "a host that only ends like one": ("endpoint", "https://evilpush.apple.com/canary"),
    "the bare suffix of one": ("endpoint", "https://push.apple.com/canary"),
    "an unknown VAPID key": ("vapid_key_id", "canary"),
}

#: What the list of hosts refuses first, and the addresses themselves must.
ADDRESSES = ("a private", "loopback", "link-local", "IPv6", "a mapped", "NAT64", "6to4")


def body(**changes: Any) -> dict[str, Any]:
    return {
        "endpoint": ENDPOINT,
        "p256dh_key": text(BROWSER.p256dh),
        "auth_key": text(BROWSER.auth),
        **changes,
    }


async def curl(node: Node, path: str, content: Any = None) -> tuple[int, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-s", "-w", "\n%{http_code}", "-X", "POST", f"{node.url}{path}"),
        *("-H", f"Authorization: Bearer {token('ada')}", "-H", "Content-Type: application/json"),
        *("--data-binary", "@-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(b"" if content is None else json.dumps(content).encode())
    answer, _, status = said.decode().rpartition("\n")
    return int(status), json.loads(answer)


async def kept(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM push_subscriptions"))
    finally:
        await connection.close()


@pytest.fixture
async def node(database: str) -> AsyncIterator[Node]:
    async with nodes(database, CARILLON_ROLES="web") as [node]:
        yield node


@pytest.fixture
async def open_node(database: str) -> AsyncIterator[Node]:
    """It takes any host of the open internet."""
    async with nodes(database, CARILLON_ROLES="web", PUSH_ANY_HOST="on") as [node]:
        yield node


async def test_what_nothing_can_be_pushed_to_is_refused_by_the_name_of_its_member(
    node: Node, database: str
) -> None:
    for name, (member, value) in BAD.items():
        status, answer = await curl(node, "/api/v1/push/subscribe", body(**{member: value}))

        assert (status, answer["error"]) == (422, "invalid"), name
        assert [fault["path"] for fault in answer["details"]] == [member], name
        assert "canary" not in json.dumps(answer), name
    assert await kept(database) == 0
    assert (await curl(node, "/api/v1/push/subscribe", body()))[0] == 201, "it is they that were refused"


async def test_where_any_host_is_taken_closed_addresses_are_not(open_node: Node, database: str) -> None:
    for name in (one for one in BAD if one.startswith(ADDRESSES)):
        status, answer = await curl(open_node, "/api/v1/push/subscribe", body(endpoint=BAD[name][1]))

        assert (status, answer["details"][0]["path"]) == (422, "endpoint"), name
    assert await kept(database) == 0


async def test_a_name_that_leads_inside_is_refused_when_it_is_dialled_and_counted(open_node: Node) -> None:
    status, made = await curl(open_node, "/api/v1/push/subscribe", body(endpoint="https://localhost/x"))
    assert status == 201, "nobody has asked for the name yet"

    status, answer = await curl(open_node, f"/api/v1/push/subscriptions/{made['id']}/test")

    assert (status, answer["status"]) == (200, "blocked")
    assert await open_node.metric("push_endpoints_blocked") == 1
