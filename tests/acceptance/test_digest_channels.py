"""A digest arrives by every channel that its person has, and the record says why by each."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from email.message import EmailMessage
from email.policy import default as mail_policy
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from playwright.async_api import expect

from tests.acceptance.chromium_push import Chromium, at_desktop
from tests.acceptance.test_five_channels import CHAT, PHONE, Providers, providers, settled
from tests.client import Client
from tests.process import Node, admin, nodes, service, token
from tests.servers import free_port

__all__ = ["providers"]  # a fixture

EVERY = ["in_app", "email", "sms", "whatsapp", "telegram", "webhook", "push"]
BY_PROVIDER = EVERY[1:]

#: State and reason, of a person for whom each channel but one ends in another way.
WHY = {
    "email": ("sent", None),
    "sms": ("suppressed", "opted out of channel_type sms:digest (api)"),
    "whatsapp": ("suppressed", "switched off by the user for type digest, channel whatsapp"),
    "telegram": ("suppressed", "channel not configured"),
    "webhook": ("suppressed", "no verified address: {hook}"),
    "push": ("failed", "no address for push"),
}


@asynccontextmanager
async def running(database: str, providers: Providers, **more: str) -> AsyncIterator[Node]:
    """One process that finds every provider, and looks for due digests often. Its pages are the application's."""
    port = str(free_port())
    settings: dict[str, Any] = {
        **providers.settings(),
        "DELIVERY_SITE_URL": f"http://127.0.0.1:{port}/?user=ada",
        "VAPID_EMAIL": "ops@example.org",
        "DIGEST_TICK": "0.2",
        **more,
    }
    async with nodes(database, entry=("-m", "app", "serve", "--port", port), **settings) as [started]:
        yield started


@pytest.fixture
async def node(database: str, providers: Providers) -> AsyncIterator[Node]:
    async with running(database, providers) as started:
        yield started


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Chromium]:
    async with at_desktop(tmp_path) as started:
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
    async with asyncio.timeout(60):
        while True:
            answer = await node.ask("GET", "/api/v1/notifications?type=digest", as_=token())
            if found := answer.json()["notifications"]:
                return dict(found[0])
            await asyncio.sleep(0.05)  # another process: there is no event to await


async def timeline(node: Node, delivery: dict[str, Any]) -> dict[str, Any]:
    """Everything that is on record of it."""
    answer = await node.ask("GET", f"/api/v1/deliveries/{delivery['id']}", as_=admin())
    found: dict[str, Any] = answer.json()
    return found


async def shown(node: Node, delivery: dict[str, Any]) -> dict[str, Any]:
    """What is on record once the browser has said that it is on the screen."""
    async with asyncio.timeout(60):
        while True:
            found = await timeline(node, delivery)
            if found["state"] == "delivered":
                return found
            await asyncio.sleep(0.05)  # another process: there is no event to await


async def test_one_digest_by_every_channel(database: str, providers: Providers, chromium: Chromium) -> None:
    async with running(database, providers, **chromium.settings()) as node, AsyncExitStack() as stack:
        await chromium.allow(node.url)
        page = await chromium.windows.new_page()
        await page.goto(f"{node.url}/?user=ada")
        assert await chromium.push(page, "ada", "enable") == "on"
        await page.goto("about:blank")
        await introduce(node, providers)
        await want(node)
        await node.notify("Please <sign> & return", user_id="ada", priority="urgent", action_url="/iep/7")
        await node.notify("The bus is late", user_id="ada", notification_type="transport")
        ada = await stack.enter_async_context(await Client("ada").connect(node))
        await come_due(database)
        digest = await a_digest(node)
        await ada.has(digest["title"])
        deliveries = await settled(node, digest["id"], len(BY_PROVIDER))
        [screen] = await chromium.desktop.see(digest["title"])
        push = await shown(node, deliveries["push"])
        records = {name: await timeline(node, deliveries[name]) for name in BY_PROVIDER}

        async with chromium.windows.expect_page() as opening:
            chromium.desktop.click(digest["title"])
        opened = await opening.value
        await expect(opened.locator("#inbox [part=title]").first).to_have_text(digest["title"])

        await introduce(node, providers, locale="de", addresses=[])
        await node.notify("The bus is late again", user_id="ada")
        await opened.goto("about:blank")
        german = (await node.ask("POST", "/api/v1/digest/run", as_=token())).json()
        [auf_deutsch] = await chromium.desktop.see((await a_digest(node))["title"])

    assert digest["title"].startswith("Your day: ")
    assert digest["message"] == "2 notifications · 2 unread · 1 urgent"
    document = digest["metadata"]["digest"]
    assert document["summary"]["total_notifications"] == 2
    assert document["top_notifications"][0]["title"] == "Please <sign> & return"

    assert screen.body == digest["message"]
    [told] = push["browsers"]
    assert (told["outcome"], told["status"]) == ("sent", 201)
    assert told["shown_at"]
    assert german["id"] != digest["id"]
    assert auf_deutsch.title.startswith("Ihr Tag: ")
    assert "ungelesen" in auf_deutsch.body

    assert {records[name]["state"] for name in BY_PROVIDER if name != "push"} == {"sent"}
    for name, record in records.items():
        [attempt] = record["attempts"]
        assert attempt["outcome"] == "sent", name
        assert all(gate["passed"] and gate["saw"] for gate in attempt["gates"]), name
        assert attempt["address_hint"] or name == "push", name  # that says it browser by browser

    [mail] = providers.smtp.accepted[:1]
    said = email.message_from_bytes(mail.content, policy=mail_policy)
    assert said["Subject"] == digest["title"]
    assert said["List-Id"].startswith("<digest.")
    assert said["Auto-Submitted"] == "auto-generated"
    text, html = (part(said, kind) for kind in ("plain", "html"))
    for words in ("Please <sign> & return", f"{node.url}/iep/7", "The bus is late", "New York"):
        assert words in text
    assert "Please &lt;sign&gt; &amp; return" in html
    assert "<sign>" not in html

    sms = providers.twilio.accepted[0]
    assert sms.fields["Body"].startswith(f"{digest['title']}\n{digest['message']}")
    whatsapp = providers.meta.accepted[0]
    assert whatsapp.body["type"] == "template"
    assert digest["message"] in json.dumps(whatsapp.body, ensure_ascii=False)
    telegram = providers.telegram.accepted[0]
    assert digest["message"] in telegram.text
    hook = providers.webhook.accepted[0]
    assert hook["data"]["metadata"]["digest"]["summary"]["total_notifications"] == 2


async def test_the_record_says_why_it_did_not_come_by_some(database: str, providers: Providers) -> None:
    """Opted out of, switched off, without credentials, not verified, no browser; and the rest comes."""
    async with running(database, providers, TELEGRAM_BOT_TOKEN="") as node:
        await introduce(
            node,
            providers,
            addresses=[
                {"channel": "email", "value": "ada@example.test"},
                {"channel": "sms", "value": PHONE},
                {"channel": "whatsapp", "value": PHONE},
                {"channel": "telegram", "value": str(CHAT)},
            ],
        )
        hook = {"channel": "webhook", "value": f"{providers.webhook.url}/hooks/ada"}
        for method, path, body in (
            ("POST", "/api/v1/recipients/ada/addresses", hook),  # her own word for it
            ("POST", "/api/v1/preferences/opt-outs", {"scope": "channel_type", "value": "sms:digest"}),
            ("PUT", "/api/v1/preferences", {"matrix": {"digest": {"whatsapp": False}}}),
        ):
            assert (await node.ask(method, path, body, as_=token())).is_success, path
        await want(node)
        await node.notify(user_id="ada")
        await come_due(database)

        deliveries = await settled(node, (await a_digest(node))["id"], len(BY_PROVIDER))
        records = {name: await timeline(node, one) for name, one in deliveries.items()}

    why = {
        name: (state, reason and reason.format(hook=providers.webhook.url))
        for name, (state, reason) in WHY.items()
    }
    assert {name: (one["state"], one["reason"]) for name, one in deliveries.items()} == why
    for name, record in records.items():
        [attempt] = record["attempts"]
        *passed, last = attempt["gates"]
        assert all(gate["passed"] for gate in passed)
        assert last["passed"] == (name == "email")
        if name != "email":
            assert last["saw"] == record["reason"] == attempt["reason"]


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
    async with httpx.AsyncClient(timeout=30) as anybody:
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
