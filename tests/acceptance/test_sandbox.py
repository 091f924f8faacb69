"""A process that is a sandbox: it says so, captures what would go out, and keeps away from production."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from delivery.sandbox import BANNER
from tests.process import Node, StartRefused, admin, nodes, service
from tests.providers.telegram import TelegramServer

CHAT, DEVELOPER = 471104711, 100200300


async def test_a_sandbox_sends_to_nobody_but_who_is_allowed_and_says_so_everywhere(database: str) -> None:
    async with TelegramServer() as telegram:
        telegram.chats.update({CHAT, DEVELOPER})
        settings: dict[str, Any] = {
            "DELIVERY_MODE": "sandbox",
            "TELEGRAM_CHAT_ID": str(CHAT),
            "TELEGRAM_BOT_TOKEN": telegram.token,
            "TELEGRAM_BASE_URL": telegram.url,
        }
        alert = {"action": "BUY", "message": "Canary 5107"}
        async with nodes(database, **settings) as [node]:
            await node.ask("POST", "/api/monitoring/notifications/alerts", alert, as_=service())
            captured = await until_captured(node)
            health = (await node.ask("GET", "/health")).json()
            shown = (await node.ask("GET", "/api/v1/channels", as_=admin())).json()
            printed = node.printed
            for event in ("NOTIFY_CRON_STATUS", "NOTIFY_WORKER_START", "NOTIFY_QUEUE", "NOTIFY_SEND_OK"):
                await node.logged(event)
            counted = [await node.metric(name) for name in ("notification_sent", "notification_success_rate")]
        assert telegram.received == []

        settings["DELIVERY_SANDBOX_ADDRESSES"] = f"telegram:{DEVELOPER}"
        async with nodes(database, **settings) as [node]:
            await node.ask("POST", "/api/monitoring/notifications/alerts", alert, as_=service())
            await telegram.wait_for(1, accepted=True)

    assert counted == [1, 100]
    assert "Canary 5107" in captured["text"]
    assert (captured["channel"], captured["to"]) == ("telegram", "***11")
    assert health["notice"] == shown["notice"] == BANNER
    assert shown["mode"] == "sandbox"
    assert BANNER in printed
    assert str(CHAT) not in repr(telegram.accepted)
    assert str(DEVELOPER) in repr(telegram.accepted)


async def until_captured(node: Node) -> Any:
    """The first message that the sandbox has kept."""
    async with asyncio.timeout(90):
        while True:
            answer = await node.ask("GET", "/api/v1/sandbox/messages", as_=admin())
            if messages := answer.json()["messages"]:
                return messages[0]
            await asyncio.sleep(0.05)  # another process: there is no event to await


async def test_a_sandbox_does_not_start_where_production_has(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE cluster SET is_production = true")
    finally:
        await connection.close()

    with pytest.raises(StartRefused) as refused:
        async with nodes(database, DELIVERY_MODE="sandbox"):
            pass

    assert refused.value.code == 2
    assert "DELIVERY_MODE" in refused.value.log
