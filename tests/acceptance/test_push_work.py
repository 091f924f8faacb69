"""`carillon work` pushes as a node does: not to who is looking, and with the number at the icon."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from core.keys import encode_base64url
from hub.broker_redis import RedisBroker, RedisSettings
from hub.presence import PresenceSettings
from hub.presence_redis import RedisPresence
from push.keys import new_key, private_text
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, Node, nodes, token
from tests.providers.push_service import Device, PushService
from tests.servers import RedisServer


class Deaf:
    """A listener of a broker that only reads what is kept there."""

    def on_message(self, channel: str, message: bytes) -> None: ...
    def on_lost(self, reason: str) -> None: ...
    def on_restored(self) -> None: ...


class Setup(NamedTuple):
    """A node that serves and does not work, a browser of Ada's, and who is looking."""

    node: Node
    device: Device
    presence: RedisPresence
    environment: dict[str, str]

    async def work(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "work", "--once", *arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            printed, logged = await process.communicate()
        assert process.returncode == 0, logged.decode()
        return printed.decode()

    async def rows(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.environment["DATABASE_URL"])
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def setup(database: str, redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    key, prefix = new_key(), f"{database[-40:]}:"
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(PushService(tmp_path))
        settings = {
            "HUB_REDIS_PREFIX": prefix,
            "VAPID_PRIVATE_KEY": private_text(key),
            "VAPID_EMAIL": "ops@example.org",
            "PUSH_CA_FILE": str(service.ca_file),
            "PUSH_RESOLVE": ",".join(service.resolve),
        }
        [node] = await stack.enter_async_context(
            nodes(database, redis=redis, CARILLON_ROLES="web", **settings)
        )
        broker = RedisBroker(RedisSettings(url=redis.url, prefix=prefix))
        await broker.start(Deaf())
        stack.push_async_callback(broker.close)
        device = service.subscribe(key)
        body = {
            "endpoint": service.endpoint(device),
            "p256dh_key": encode_base64url(device.browser.p256dh),
            "auth_key": encode_base64url(device.browser.auth),
        }
        answer = await node.ask("POST", "/api/v1/push/subscribe", body, as_=token("ada"))
        assert answer.status_code == 201, answer.text
        yield Setup(
            node,
            device,
            RedisPresence(broker, PresenceSettings()),
            {
                "PATH": os.environ["PATH"],
                "DATABASE_URL": database,
                "REDIS_URL": redis.url,
                "JWT_SECRET_KEY": SECRET,
                "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
                **settings,
            },
        )


async def test_a_round_waits_for_who_is_looking_and_counts_what_is_unread(setup: Setup) -> None:
    await setup.presence.touch("default", "ada", "node-0", True)
    for title in ("First", "Second"):
        answer = await setup.node.notify(title, user_id="ada", channels=["in_app"])
        assert answer.status_code == 201
    await setup.node.notify("Pushed", user_id="ada", channels=["in_app", "push"])

    preview = await setup.work("--dry-run")
    before = await setup.rows("SELECT state, attempt FROM notification_deliveries")
    await setup.work()
    [held] = await setup.rows("SELECT state, reason FROM notification_deliveries")
    await setup.presence.leave("default", "ada", "node-0")
    await setup.rows("UPDATE notification_deliveries SET due_at = now()")
    await setup.work()

    assert "the person is looking at the application" in preview
    assert [tuple(row) for row in before] == [("queued", 0)]
    assert tuple(held) == ("deferred", "the person is looking at the application")
    [pushed] = setup.device.pushes
    assert json.loads(pushed.text)["app_badge"] == 3
