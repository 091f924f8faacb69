"""A code goes out through a worker to a provider, reaches one chat, and comes back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from delivery.channel import UNKNOWN, Channel
from delivery.channels.telegram import TelegramSettings, providers
from tests.api import Edge, person, service
from tests.providers.telegram import TelegramServer
from tests.workers import VAULT, a_worker

CHAT, OTHER_CHAT = 7001001, 7001002
ADDRESSES = "/api/v1/recipients/ada/addresses"


@pytest.fixture
async def telegram() -> AsyncIterator[TelegramServer]:
    async with TelegramServer() as server:
        server.chats |= {CHAT, OTHER_CHAT}
        yield server


async def test_a_code_reaches_the_address_that_is_to_be_confirmed_and_nobody_else(
    edge: Edge, telegram: TelegramServer
) -> None:
    vault = edge.services.delivery.vault
    assert VAULT.open(vault.seal("same keys", "x"), "x") == "same keys"
    ada = edge.client(person("ada"))
    await edge.client(service()).post(ADDRESSES, json={"channel": "telegram", "value": str(OTHER_CHAT)})
    mine = (await ada.post(ADDRESSES, json={"channel": "telegram", "value": str(CHAT)})).json()
    one = f"{ADDRESSES}/{mine['id']}/verification"
    assert (await ada.post(one)).status_code == 202

    async with aiohttp.ClientSession() as http:
        settings = TelegramSettings(bot_token=telegram.token, base_url=telegram.url)
        way = Channel(name="telegram", providers=providers(settings, http), unknown=UNKNOWN["telegram"])
        await a_worker(edge.database, {"telegram": way}).run_once()

    [request] = telegram.received
    said = request.json()
    assert said["chat_id"] == CHAT
    [code] = re.findall(r"\b\d{6}\b", said["text"])
    confirmed = await ada.post(f"{one}/confirm", json={"code": code})
    assert confirmed.json()["verified_at"] is not None
    [row] = await edge.rows("SELECT state, address_id FROM notification_deliveries")
    assert (row["state"], str(row["address_id"])) == ("sent", mine["id"])
