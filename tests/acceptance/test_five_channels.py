"""One curl, five channels: what each provider is asked for, as its own documents say."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.policy import default as mail_policy
from typing import Any

import pytest

from tests.process import Node, admin, nodes, service
from tests.providers.meta import MetaServer
from tests.providers.sendgrid import SendGrid
from tests.providers.smtp import SmtpServer
from tests.providers.telegram import TelegramServer
from tests.providers.twilio import TwilioServer
from tests.providers.webhook_receiver import WebhookReceiver

PHONE = "+250781234567"
CHAT = 4815162342


@dataclass
class Providers:
    """Everybody whom we send by."""

    smtp: SmtpServer
    sendgrid: SendGrid
    twilio: TwilioServer
    meta: MetaServer
    telegram: TelegramServer
    webhook: WebhookReceiver

    def settings(self) -> dict[str, str]:
        return {
            "EMAIL_FROM": "school@example.test",
            "EMAIL_FROM_NAME": "The School",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.smtp.port),
            "SMTP_TLS": "off",
            "TWILIO_ACCOUNT_SID": self.twilio.account_sid,
            "TWILIO_AUTH_TOKEN": self.twilio.auth_token,
            "TWILIO_PHONE_NUMBER": "+15005550006",
            "TWILIO_BASE_URL": self.twilio.url,
            "WHATSAPP_PHONE_NUMBER_ID": self.meta.phone_number_id,
            "WHATSAPP_ACCESS_TOKEN": self.meta.access_token,
            "WHATSAPP_GRAPH_URL": self.meta.graph_url,
            "TELEGRAM_BOT_TOKEN": self.telegram.token,
            "TELEGRAM_BASE_URL": self.telegram.url,
            "DELIVERY_WEBHOOK_HTTP": "on",
            "DELIVERY_WEBHOOK_PRIVATE": "on",
            "HUB_PUBLIC_URL": "https://notify.example.test",
            "DELIVERY_SITE_URL": "https://app.example.test",
        }


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    async with AsyncExitStack() as stack:
        made = Providers(
            SmtpServer(), SendGrid(), TwilioServer(), MetaServer(), TelegramServer(), WebhookReceiver()
        )
        for one in (made.sendgrid, made.twilio, made.meta, made.telegram, made.webhook):
            await stack.enter_async_context(one)
        await made.smtp.start()
        stack.push_async_callback(made.smtp.stop)
        made.telegram.chats.add(CHAT)
        yield made


async def curl(node: Node, path: str, body: Any, token: str) -> Any:
    """The JSON that curl is answered."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--fail-with-body", f"{node.url}{path}"),
        *("--header", f"Authorization: Bearer {token}", "--json", json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed
    return json.loads(printed)


async def settled(node: Node, notification_id: str, count: int) -> dict[str, Any]:
    """The deliveries of a notification by their channels, once none of them is open."""
    async with asyncio.timeout(90):
        while True:
            answer = await node.ask("GET", f"/api/v1/notifications/{notification_id}/deliveries", as_=admin())
            deliveries = answer.json()["deliveries"]
            if len(deliveries) == count and all(one["finished_at"] for one in deliveries):
                return {one["channel"]: one for one in deliveries}
            await asyncio.sleep(0.02)  # another process: there is no event to await


async def test_one_curl_arrives_at_all_five(database: str, providers: Providers) -> None:
    async with nodes(database, **providers.settings()) as [node]:
        answered = await curl(
            node,
            "/api/v1/notifications",
            {
                "title": "Bus 7 is late",
                "message": "It comes <at> 08:15 & not at 08:00.",
                "notification_type": "transport",
                "priority": "high",
                "action_url": "/buses/7",
                "channels": ["in_app", "email", "sms", "whatsapp", "telegram", "webhook"],
                "recipients": [
                    {
                        "user_id": "ada",
                        "name": "Ada",
                        "email": "ada@example.test",
                        "phone": PHONE,
                        "telegram": str(CHAT),
                        "webhook": f"{providers.webhook.url}/hooks/ada",
                    }
                ],
            },
            service(),
        )
        deliveries = await settled(node, answered["id"], 5)

    assert {channel: one["state"] for channel, one in deliveries.items()} == dict.fromkeys(
        ("email", "sms", "whatsapp", "telegram", "webhook"), "sent"
    )
    link = "https://app.example.test/buses/7"

    [mail] = providers.smtp.accepted
    said = email.message_from_bytes(mail.content, policy=mail_policy)
    assert (mail.sender, mail.recipient) == ("school@example.test", "ada@example.test")
    assert said["Subject"] == "Bus 7 is late"
    assert said["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert said["List-Unsubscribe"].startswith("<https://notify.example.test/u/")
    text, html = (said.get_body((kind,)).get_content() for kind in ("plain", "html"))
    assert "It comes <at> 08:15 & not at 08:00." in text
    assert link in text
    assert "It comes &lt;at&gt; 08:15 &amp; not at 08:00." in html

    [sms] = providers.twilio.accepted
    assert sms.to == PHONE
    assert sms.fields["From"] == "+15005550006"
    assert sms.fields["Body"] == f"Bus 7 is late\nIt comes <at> 08:15 & not at 08:00.\n{link}"
    assert sms.fields["StatusCallback"].startswith("https://notify.example.test/webhooks/twilio/status")

    [whatsapp] = providers.meta.accepted
    assert whatsapp.body["messaging_product"] == "whatsapp"
    assert whatsapp.body["type"] == "template"
    assert whatsapp.body["template"]["name"] == "notification_alert"
    assert whatsapp.body["biz_opaque_callback_data"]

    [telegram] = providers.telegram.accepted
    assert telegram.chat_id == CHAT
    assert telegram.body["parse_mode"] == "HTML"
    assert "It comes &lt;at&gt; 08:15 &amp; not at 08:00." in telegram.body["text"]
    assert "It comes <at> 08:15 & not at 08:00." in telegram.text

    [hook] = providers.webhook.accepted
    assert (hook["type"], hook["data"]["title"]) == ("notification", "Bus 7 is late")


async def test_what_has_no_credentials_is_not_configured_and_nothing_fails(database: str) -> None:
    async with nodes(database) as [node]:
        answered = await curl(
            node,
            "/api/v1/notifications",
            {
                "title": "Hello",
                "message": "There is news.",
                "channels": ["in_app", "email", "sms"],
                "recipients": [{"user_id": "ada", "email": "ada@example.test", "phone": PHONE}],
            },
            service(),
        )
        deliveries = await settled(node, answered["id"], 2)
        known = (await node.ask("GET", "/api/v1/channels", as_=admin())).json()["channels"]

    assert {one["state"] for one in deliveries.values()} == {"suppressed"}
    assert all("not configured" in one["reason"] for one in deliveries.values())
    assert {one["name"]: one["is_configured"] for one in known} == {
        **dict.fromkeys(("email", "sms", "whatsapp", "telegram"), False),
        **dict.fromkeys(("push", "webhook"), True),  # they need no credentials of anybody
    }
