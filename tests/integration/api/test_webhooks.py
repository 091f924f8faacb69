"""A tenant's own webhooks over HTTP: who may make them, what is shown of them, and the bot's webhook at Telegram."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from delivery.channels.telegram import TelegramSettings
from delivery.channels.telegram_webhook import TelegramWebhook
from delivery.hooks import Hooks
from tests.api import Edge, admin, person, service

URL = "https://hooks.example.com/a-password-in-a-path?key=secret"
BOT_TOKEN = "1234567:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
SECRET = "t" * 40


async def made(edge: Edge, **members: Any) -> Mapping[str, Any]:
    answer = await edge.client(admin()).post("/api/v1/webhooks", json={"url": URL, **members})
    assert answer.status_code == 201, answer.text
    webhook: Mapping[str, Any] = answer.json()
    return webhook


async def test_the_secret_is_shown_once_and_the_address_never(edge: Edge) -> None:
    webhook = await made(edge, events=["delivery.failed"], description="of the office")
    client = edge.client(admin())

    assert webhook["secret"].startswith("whsec_")
    assert (webhook["host"], webhook["events"]) == ("https://hooks.example.com", ["delivery.failed"])
    shown = {name: value for name, value in webhook.items() if name != "secret"}
    assert (await client.get(f"/api/v1/webhooks/{webhook['id']}")).json() == shown
    assert (await client.get("/api/v1/webhooks")).json() == {"webhooks": [shown]}
    audited = await edge.rows("SELECT details FROM audit_log WHERE action = 'webhook.created'")
    for text in (json.dumps(webhook), audited[0]["details"]):
        assert "password" not in text
        assert "key=secret" not in text


async def test_a_webhook_is_changed_rotated_and_deleted(edge: Edge) -> None:
    webhook = await made(edge)
    path, client = f"/api/v1/webhooks/{webhook['id']}", edge.client(admin())

    changed = await client.patch(path, json={"is_enabled": False, "events": ["inbound.reply"]})
    assert changed.status_code == 200
    assert (changed.json()["is_enabled"], changed.json()["events"]) == (False, ["inbound.reply"])
    assert (await client.post(f"{path}/test")).status_code == 409
    rotated = await client.post(f"{path}/rotate")
    assert rotated.json()["secret"] != webhook["secret"]
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    actions = [row["action"] for row in await edge.rows("SELECT action FROM audit_log ORDER BY seq")]
    assert actions == ["webhook.created", "webhook.changed", "webhook.rotated", "webhook.deleted"]


async def test_a_test_is_a_delivery_like_any_other_and_wakes_the_workers(edge: Edge) -> None:
    rung = asyncio.Event()
    waking = edge.with_services(delivery=replace(edge.services.delivery, wake=rung.set))
    webhook = await made(waking, events=["delivery.failed"])

    answer = await waking.client(admin()).post(f"/api/v1/webhooks/{webhook['id']}/test")

    assert answer.status_code == 202
    assert rung.is_set()
    [row] = await edge.rows(
        "SELECT * FROM notification_deliveries WHERE id = $1", answer.json()["delivery_id"]
    )
    assert (row["kind"], row["channel"], row["state"]) == ("event", "webhook", "queued")
    assert set(json.loads(row["event"])) == {"type", "timestamp", "data"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "url"),
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://user:word@hooks.example.com/"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["delivery.invented"]}, "events.0"),
        ({"url": URL, "events": ["*", "*"]}, "events"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
    ],
)
async def test_what_cannot_be_a_webhook_is_refused_by_its_name(
    edge: Edge, body: Mapping[str, Any], path: str
) -> None:
    answer = await edge.client(admin()).post("/api/v1/webhooks", json=body)

    assert answer.status_code == 422
    assert answer.json()["details"][0]["path"].startswith(path)
    assert not await edge.rows("SELECT FROM webhook_endpoints")


async def test_only_an_admin_of_the_tenant_has_anything_to_do_with_its_webhooks(edge: Edge) -> None:
    webhook = await made(edge)
    path = f"/api/v1/webhooks/{webhook['id']}"

    for caller in (person(), service()):
        assert (await edge.client(caller).get("/api/v1/webhooks")).status_code == 403
        assert (await edge.client(caller).delete(path)).status_code == 403
    stranger = edge.client(admin("hospital"))
    assert (await stranger.get("/api/v1/webhooks")).json() == {"webhooks": []}
    for answer in (
        await stranger.get(path),
        await stranger.patch(path, json={"is_enabled": False}),
        await stranger.delete(path),
        await stranger.post(f"{path}/rotate"),
        await stranger.post(f"{path}/test"),
        await edge.client(admin()).get(f"/api/v1/webhooks/{uuid4()}"),
    ):
        assert answer.status_code == 404


# --- Telegram's ---


class Telegram:
    """The one method of the Bot API that is asked, as it is documented."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: tuple[int, Any] = (200, {"ok": True, "result": True, "description": "Webhook was set"})

    async def handle(self, request: web.Request) -> web.Response:
        if request.path != f"/bot{BOT_TOKEN}/setWebhook":
            return web.json_response({"ok": False, "error_code": 404, "description": "Not Found"}, status=404)
        self.asked.append(await request.json())
        return web.json_response(self.answer[1], status=self.answer[0])


async def test_telegram_is_told_where_the_updates_go(edge: Edge) -> None:
    telegram, app = Telegram(), web.Application()
    app.router.add_route("*", "/{path:.*}", telegram.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    settings = TelegramSettings(
        bot_token=BOT_TOKEN, webhook_secret=SECRET, base_url=f"http://127.0.0.1:{port}"
    )
    hooks = Hooks(public_url="https://notify.example", telegram_secret=SECRET)
    async with aiohttp.ClientSession() as http:
        delivery = replace(
            edge.services.delivery, hooks=hooks, telegram_webhook=TelegramWebhook(settings, hooks, http)
        )
        hooked = edge.with_services(delivery=delivery).client(admin())
        path = "/api/v1/channels/telegram/webhook"

        assert (await hooked.post(path)).status_code == 204
        assert telegram.asked == [
            {
                "url": f"https://notify.example/webhooks/telegram/{hooks.telegram_path}",
                "secret_token": SECRET,
                "allowed_updates": ["message", "callback_query", "my_chat_member"],
            }
        ]
        telegram.answer = 400, {"ok": False, "error_code": 400, "description": "bad webhook: https"}
        assert (await hooked.post(path)).status_code == 409
        telegram.answer = 502, {}
        assert (await hooked.post(path)).status_code == 503
        await runner.cleanup()
        gone = await hooked.post(path)
        assert gone.status_code == 503
        assert BOT_TOKEN not in gone.text


async def test_without_its_settings_telegram_is_told_nothing(edge: Edge) -> None:
    path = "/api/v1/channels/telegram/webhook"

    assert (await edge.client(admin()).post(path)).status_code == 409
    assert (await edge.client(service()).post(path)).status_code == 403
    assert (await edge.client(person()).post("/api/v1/telegram/link", json={})).status_code == 409
