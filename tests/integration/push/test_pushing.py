"""From a subscription to the push in the browser's hands, through the outbox, past a strict push service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from core.clock import SystemClock
from core.vault import Vault
from delivery.channels.push import PushProvider
from push.keys import PushSettings, VapidKey
from push.payload import words
from tests.api import TENANT, Edge, admin, person, serving
from tests.providers.push_service import Device, PushService, Say, Silence
from tests.workers import VAULT, Seen, a_worker, channel

SUBSCRIBE = "/api/v1/push/subscribe"


@dataclass
class Town:
    """An edge, a worker's channel, and one push service."""

    edge: Edge
    service: PushService

    @property
    def key(self) -> VapidKey:
        return self.edge.services.delivery.push.keys.current

    async def subscribe(self, user_id: str = "ada", device: Device | None = None, **more: Any) -> Browser:
        """A browser of that person."""
        device = device or self.service.subscribe(self.key)
        answer = await self.edge.client(person(user_id)).post(SUBSCRIBE, json=self.body(device, **more))
        assert answer.status_code == 201, answer.text
        return Browser(device, answer.json())

    def body(self, device: Device, **more: Any) -> dict[str, Any]:
        return {
            "endpoint": self.service.endpoint(device),
            "p256dh_key": encoded(device.browser.p256dh),
            "auth_key": encoded(device.browser.auth),
            **more,
        }

    async def work(self, **settings: Any) -> Seen:
        """Attempt what is due."""
        seen = Seen()
        provider = self.edge.services.delivery.push.provider
        made = a_worker(self.edge.database, {"push": channel("push", provider)}, observer=seen, **settings)
        await made.run_once()
        assert seen.errors == []
        return seen

    async def push(self, user_id: str = "ada", **members: Any) -> str:
        """Send something, and attempt it; the notification's id."""
        notification_id = await self.edge.submit(user_id, channels=["in_app", "push"], **members)
        await self.work()
        return notification_id

    async def delivery(self) -> Any:
        """The one there is."""
        [row] = await self.edge.rows("SELECT * FROM notification_deliveries")
        return row

    async def due_now(self) -> None:
        await self.edge.rows("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")

    async def rows(self) -> list[Any]:
        return await self.edge.rows("SELECT * FROM push_subscriptions ORDER BY id")

    async def report(self, said: Mapping[str, Any], event: str = "shown") -> httpx.Response:
        body = {"token": said["data"]["receipt"], "event": event}
        return await self.edge.client().post("/api/v1/push/receipts", json=body)

    async def fetch(self, said: Mapping[str, Any]) -> httpx.Response:
        return await self.edge.client().get("/api/v1/push/fetch", params=query_of(said["fetch"]))


@dataclass
class Browser:
    """A subscribed browser and what it was answered."""

    device: Device
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.answer["id"])

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it was pushed, opened."""
        return [json.loads(one.text) for one in self.device.pushes]

    @property
    def said(self) -> dict[str, Any]:
        """The one thing it was pushed."""
        [said] = self.told
        return said


def encoded(data: bytes) -> str:
    """As a page with `btoa` has it: base64 with padding."""
    from base64 import b64encode

    return b64encode(data).decode()


def query_of(fetch: Mapping[str, Any]) -> dict[str, str]:
    return {"id": fetch["id"], "token": fetch["token"]}


@pytest.fixture
async def town(database: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with PushService(tmp_path) as service:
        settings = PushSettings(
            vapid_email="ops@example.org", ca_file=service.ca_file, resolve=service.resolve
        )
        async with serving(database, push=settings) as edge:
            yield Town(edge, service)
        assert not service.refusals, "the sender keeps to the RFCs"


async def test_a_notification_reaches_a_subscribed_browser(town: Town):
    browser = await town.subscribe()

    notification_id = await town.push(
        title="IEP Document Updated", message="Please review the changes.", action_url="/iep/12345/review"
    )

    said = browser.said
    assert (said["title"], said["body"], said["message"]) == (
        "IEP Document Updated",
        "Please review the changes.",
        "Please review the changes.",
    )
    assert said["data"]["action_url"] == "/iep/12345/review"
    assert said["data"]["notification_id"] == notification_id
    assert said["web_push"] == 8030
    assert said["notification"]["navigate"] == "/iep/12345/review"
    assert (await town.delivery())["state"] == "sent"
