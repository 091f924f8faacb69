"""A digest arrives by every channel that its person has, and the record says why by each."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.message import EmailMessage
from email.policy import default as mail_policy
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.acceptance.test_five_channels import CHAT, PHONE, Providers, providers, settled
from tests.client import Client
from tests.process import Node, nodes, service, token
from tests.providers.push_service import PushService
from tests.test_ws_push import subscribe

__all__ = ["providers"]  # a fixture

EVERY = ["in_app", "email", "sms", "whatsapp", "telegram", "webhook", "push"]
BY_PROVIDER = EVERY[1:]


#: State and reason, of somebody without a browser, who is opted out by one channel and has no address for others.
WHY = {
    "email": ("sent", None),
    "sms": ("suppressed", "opted out of channel_type sms:digest (api)"),
    **{name: ("failed", f"no address for {name}") for name in ("whatsapp", "telegram", "webhook", "push")},
}


@pytest.fixture
async def push_service(tmp_path: Path) -> AsyncIterator[PushService]:
    async with PushService(tmp_path) as made:
        yield made
        assert not made.refusals


@pytest.fixture
async def node(database: str, providers: Providers, push_service: PushService) -> AsyncIterator[Node]:
    """One process that finds every provider and the push service, and looks for due digests often."""
    settings: dict[str, Any] = {
        **providers.settings(),
        "VAPID_EMAIL": "ops@example.org",
        "PUSH_CA_FILE": str(push_service.ca_file),
        "PUSH_RESOLVE": ",".join(push_service.resolve),
        "DIGEST_TICK": "0.2",
    }
    async with nodes(database, **settings) as [started]:
        yield started


async def introduce(node: Node, providers: Providers, **members: Any) -> None:
    body = {
        "name": "Ada",
        "locale": "en-US",
        "addresses": [
            {"channel": "email", "value": "ada@example.test"},
            {"channel": "sms", "value": PHONE},
            {"channel": "whatsapp", "value": PHONE},
            {"channel": "telegram", "value": str(CHAT)},
            {"channel": "webhook", "value": f"{providers.webhook.url}/hooks/ada"},
        ],
        **members,
    }
    answer = await node.ask("PUT", "/api/v1/recipients/ada", body, as_=service())
    assert answer.status_code in (200, 201), answer.text


async def want(node: Node, **said: Any) -> None:
    wanted = {"timezone": "America/New_York", "channels": EVERY, **said}
    answer = await node.ask("PUT", "/api/v1/digest/subscription", wanted, as_=token())
    assert answer.status_code == 200, answer.text


async def come_due(dsn: str) -> None:
    """The next digests are due now."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "UPDATE digest_subscriptions SET next_run_at = now() WHERE next_run_at IS NOT NULL"
    )
    await connection.close()


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())


async def a_digest(node: Node) -> dict[str, Any]:
    """The digest in the inbox, once it is there."""
    async with asyncio.timeout(15):
        while True:
            answer = await node.ask("GET", "/api/v1/notifications?type=digest", as_=token())
            if found := answer.json()["notifications"]:
                return dict(found[0])
            await asyncio.sleep(0.05)  # another process: there is no event to await


async def test_one_digest_by_every_channel(
    database: str, node: Node, providers: Providers, push_service: PushService
) -> None:
    await introduce(node, providers)
    device = await subscribe(node, push_service)
    await want(node)
    await node.notify("Please <sign> & return", user_id="ada", priority="urgent", action_url="/iep/7")
    await node.notify("The bus is late", user_id="ada", notification_type="transport")
    async with AsyncExitStack() as stack:
        ada = await stack.enter_async_context(await Client("ada").connect(node))
        await come_due(database)
        digest = await a_digest(node)
        await ada.has(digest["title"])
        deliveries = await settled(node, digest["id"], len(BY_PROVIDER))

    assert digest["title"].startswith("Your day: ")
    assert digest["message"] == "2 notifications · 2 unread · 1 urgent"
    document = digest["metadata"]["digest"]
    assert document["summary"]["total_notifications"] == 2
    assert document["top_notifications"][0]["title"] == "Please <sign> & return"
    assert {name: one["state"] for name, one in deliveries.items()} == dict.fromkeys(BY_PROVIDER, "sent")

    [mail] = providers.smtp.accepted
    said = email.message_from_bytes(mail.content, policy=mail_policy)
    assert said["Subject"] == digest["title"]
    assert said["List-Id"].startswith("<digest.")
    assert said["Auto-Submitted"] == "auto-generated"
    text, html = (part(said, kind) for kind in ("plain", "html"))
    for words in ("Please <sign> & return", "https://app.example.test/iep/7", "The bus is late", "New York"):
        assert words in text
    assert "Please &lt;sign&gt; &amp; return" in html
    assert "<sign>" not in html

    [sms] = providers.twilio.accepted
    assert sms.fields["Body"].startswith(f"{digest['title']}\n{digest['message']}")
    [whatsapp] = providers.meta.accepted
    assert whatsapp.body["type"] == "template"
    assert digest["message"] in json.dumps(whatsapp.body, ensure_ascii=False)
    [telegram] = providers.telegram.accepted
    assert digest["message"] in telegram.text
    [hook] = providers.webhook.accepted
    assert hook["data"]["metadata"]["digest"]["summary"]["total_notifications"] == 2
    [push] = device.pushes
    pushed = json.loads(push.text)
    assert (pushed["title"], pushed["body"]) == (digest["title"], digest["message"])


async def test_the_record_says_why_it_did_not_come_by_some(
    database: str, node: Node, providers: Providers
) -> None:
    """No browser, one that is opted out of, one that was never given, and the rest comes."""
    await introduce(
        node,
        providers,
        addresses=[
            {"channel": "email", "value": "ada@example.test"},
            {"channel": "sms", "value": PHONE},
        ],
    )
    out = {"scope": "channel_type", "value": "sms:digest"}
    await node.ask("POST", "/api/v1/preferences/opt-outs", out, as_=token())
    await want(node)
    await node.notify(user_id="ada")
    await come_due(database)

    deliveries = await settled(node, (await a_digest(node))["id"], len(BY_PROVIDER))

    assert {name: (one["state"], one["reason"]) for name, one in deliveries.items()} == WHY


async def test_one_click_ends_the_digest_by_mail_and_a_look_at_the_link_does_not(
    database: str, node: Node, providers: Providers
) -> None:
    await introduce(node, providers)
    await want(node, channels=["in_app", "email", "telegram"])
    await node.notify(user_id="ada")
    await come_due(database)
    await settled(node, (await a_digest(node))["id"], 2)
    [mail] = providers.smtp.accepted
    said = email.message_from_bytes(mail.content, policy=mail_policy)
    assert said["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = said["List-Unsubscribe"].strip("<>")
    assert url.startswith("https://notify.example.test/u/")
    assert url in part(said, "html")
    here = url.replace("https://notify.example.test", node.url)
    async with httpx.AsyncClient() as anybody:
        looked = [await anybody.request(method, here) for method in ("GET", "HEAD", "OPTIONS", "GET")]
        before = (await node.ask("GET", "/api/v1/preferences/opt-outs", as_=token())).json()["opt_outs"]
        clicks = [await anybody.post(here, data={"List-Unsubscribe": "One-Click"}) for _ in range(2)]
        assert not anybody.cookies

    assert [one.status_code < 300 for one in looked] == [True] * 4
    assert before == []
    assert [one.status_code for one in clicks] == [200, 200]
    after = (await node.ask("GET", "/api/v1/preferences/opt-outs", as_=token())).json()["opt_outs"]
    assert [(one["scope"], one["value"]) for one in after] == [("channel_type", "email:digest")]

    await node.notify(user_id="ada")
    sent = (await node.ask("POST", "/api/v1/digest/run", as_=token())).json()
    deliveries = await settled(node, sent["id"], 2)
    assert (deliveries["email"]["state"], deliveries["telegram"]["state"]) == ("suppressed", "sent")
    other = (await node.notify(user_id="ada", channels=["email"])).json()
    assert (await settled(node, other["id"], 1))["email"]["state"] == "sent", "only the digest has ended"
    assert len(providers.smtp.accepted) == 2
