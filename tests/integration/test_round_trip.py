"""A message goes out to a provider over HTTP, and what the provider reports comes back over HTTP to its delivery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import aiohttp
import pytest

from delivery.channels import sms, telegram, whatsapp
from delivery.channels.telegram import TelegramSettings
from delivery.channels.twilio import TwilioSettings
from delivery.composing import LinkSettings
from delivery.hooks import Hooks
from delivery.worker import Worker
from tests.api import Edge, listening, person, serving
from tests.providers.meta import MetaServer
from tests.providers.server import Reset
from tests.providers.telegram import TelegramServer
from tests.providers.twilio import TwilioServer
from tests.workers import a_worker, channel, introduce

PUBLIC = "https://notify.example"


@dataclass
class World:
    """An edge on a socket, a worker, and the providers of both."""

    edge: Edge
    here: str  # where the public address leads
    http: aiohttp.ClientSession
    worker: Worker
    twilio: TwilioServer
    meta: MetaServer
    telegram: TelegramServer

    async def sent(self, *channels: str) -> None:
        """A notification by these channels, attempted once."""
        await self.edge.submit("ada", channels=list(channels))
        await self.worker.run_once()

    async def states(self) -> dict[str, str]:
        rows = await self.edge.rows(
            "SELECT channel, state FROM notification_deliveries WHERE kind = 'notification'"
        )
        return {row["channel"]: row["state"] for row in rows}

    @property
    def bot(self) -> str:
        return f"{self.here}/webhooks/telegram/{self.edge.services.delivery.hooks.telegram_path}"


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        twilio, meta, bot = [
            await stack.enter_async_context(server)
            for server in (TwilioServer(), MetaServer(), TelegramServer())
        ]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        served = await stack.enter_async_context(serving(database))
        await introduce(served.database, "ada")
        hooks = Hooks(
            public_url=PUBLIC,
            twilio_token=twilio.auth_token,
            meta_secret=meta.app_secret,
            meta_verify_token=meta.verify_token,
            telegram_secret=bot.secret,
            telegram_bot="a_bot",
        )
        edge = served.with_services(delivery=replace(served.services.delivery, hooks=hooks))
        account = TwilioSettings(
            account_sid=twilio.account_sid,
            auth_token=twilio.auth_token,
            phone_number=frozenset({"+15005550006"}),
            base_url=twilio.url,
        )
        at_meta = whatsapp.WhatsAppSettings(
            phone_number_id=meta.phone_number_id, access_token=meta.access_token, graph_url=meta.graph_url
        )
        ways = {
            "sms": channel("sms", *sms.providers(sms.SmsSettings(twilio=account), http), unknown="reconcile"),
            "whatsapp": channel("whatsapp", *whatsapp.providers(at_meta, http), unknown="reconcile"),
            "telegram": channel(
                "telegram",
                *telegram.providers(TelegramSettings(bot_token=bot.token, base_url=bot.url), http),
                unknown="reconcile",
            ),
        }
        worker = a_worker(edge.database, ways, links=LinkSettings(public_url=PUBLIC))
        here = await stack.enter_async_context(listening(edge))
        yield World(edge, here, http, worker, twilio, meta, bot)


async def windows_open(world: World) -> None:
    """Everybody has just written by WhatsApp."""
    await world.edge.rows("UPDATE recipient_addresses SET window_until = now() + interval '1 hour'")
    world.meta.windows.add(await address(world, "whatsapp"))


async def address(world: World, wanted: str) -> str:
    """Ada's of a channel."""
    [row] = await world.edge.rows("SELECT * FROM recipient_addresses WHERE channel = $1", wanted)
    return world.edge.services.delivery.vault.open(row["sealed"], "address", row["tenant_id"], str(row["id"]))


async def test_twilio_reports_through_a_proxy_to_the_url_it_was_given(world: World) -> None:
    await world.sent("sms")
    [taken] = world.twilio.accepted

    answers = [
        await world.twilio.report(world.http, taken, status, through=world.here)
        for status in ("delivered", "sent", "delivered")
    ]

    assert answers == [204] * 3
    assert await world.states() == {"sms": "delivered"}


async def test_an_answer_that_was_lost_is_made_good_by_the_report(world: World) -> None:
    world.twilio.faults.append(Reset(taken=True))
    await world.sent("sms")
    assert await world.states() == {"sms": "unknown"}
    [taken] = world.twilio.accepted

    await world.twilio.report(world.http, taken, "sent", through=world.here)
    await world.edge.rows("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")
    await world.worker.run_once()

    assert await world.states() == {"sms": "sent"}
    assert len(world.twilio.accepted) == 1


async def test_meta_reports_late_that_there_is_no_such_person_and_the_other_channel_takes_over(
    world: World,
) -> None:
    await windows_open(world)
    world.meta.faults.append(Reset(taken=True))  # even without an answer to go by
    await world.sent("whatsapp")
    [taken] = world.meta.accepted

    for _ in range(2):
        body = world.meta.status(taken, "failed", code=131026)
        assert await world.meta.call(world.http, f"{world.here}/webhooks/meta", body) == 204
    await world.worker.run_once()

    assert await world.states() == {"whatsapp": "failed", "sms": "sent"}
    assert len(world.twilio.accepted) == 1


async def test_meta_finds_the_webhook_to_be_ours(world: World) -> None:
    url = f"{world.here}/webhooks/meta"

    assert await world.meta.verify(world.http, url) == (200, True)
    assert await world.meta.verify(world.http, url, "guess") == (403, False)


async def test_who_answers_stop_gets_nothing_more_by_that_channel(world: World) -> None:
    await windows_open(world)
    number = await address(world, "whatsapp")

    assert (
        await world.meta.call(world.http, f"{world.here}/webhooks/meta", world.meta.reply(number, "Stopp!"))
        == 204
    )
    await world.sent("whatsapp", "sms")

    assert await world.states() == {"whatsapp": "suppressed", "sms": "sent"}


async def test_a_chat_that_a_link_has_tied_gets_the_next_message(world: World) -> None:
    world.telegram.chats.add(777)
    made = await world.edge.client(person("bob")).post("/api/v1/telegram/link", json={})
    start = f"/start {made.json()['url'].partition('=')[2]}"
    chat = {"id": 777, "type": "private", "first_name": "Bob"}
    update = {
        "update_id": 1,
        "message": {"message_id": 1, "date": 1_780_000_000, "chat": chat, "text": start},
    }

    assert await world.telegram.update(world.http, world.bot, update) == 204
    await world.edge.submit("bob", channels=["telegram"])
    await world.worker.run_once()

    [taken] = world.telegram.accepted
    assert taken.chat_id == 777


async def test_an_answer_in_telegram_names_the_delivery_that_it_answers(world: World) -> None:
    chat_id = int(await address(world, "telegram"))
    world.telegram.chats.add(chat_id)
    await world.sent("telegram")
    [taken] = world.telegram.accepted
    chat = {"id": chat_id, "type": "private"}
    message = {
        "message_id": 99,
        "date": 1_780_000_000,
        "chat": chat,
        "text": "Thank you",
        "reply_to_message": {"message_id": taken.message_id, "chat": chat},
    }

    assert await world.telegram.update(world.http, world.bot, {"update_id": 2, "message": message}) == 204

    [row] = await world.edge.rows(
        "SELECT d.channel FROM inbound_messages i JOIN notification_deliveries d ON d.id = i.delivery_id"
    )
    assert row["channel"] == "telegram"
