"""From one POST to the screen: the whole service, a real Chromium, and Google's push service on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, expect

from tests.acceptance.chromium_push import pushable
from tests.acceptance.test_push_worker import CLICK
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import Node, admin, nodes, token
from tests.providers.certificates import certificate
from tests.providers.gcm import HOSTS, Gcm

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWN = """async () => {
    const registration = await navigator.serviceWorker.getRegistration("/carillon-push/");
    const shown = await registration.getNotifications();
    return shown.map(({ title, body, tag, requireInteraction }) => ({ title, body, tag, requireInteraction }));
}"""


class Stage:
    """One person's Chromium, the hub, and the push service between them."""

    user_id = "demo"  # of whom the demo page is

    def __init__(self, page: Page, google: Gcm, node: Node) -> None:
        self.page = page
        self.google = google
        self.node = node

    async def enable(self) -> None:
        """On the demo page, which is left then for one that nobody looks at."""
        await self.page.goto(f"{self.node.url}/")
        status = await self.page.evaluate(
            f"""import("/static/client.js").then(({{ createHub }}) => {{
                window.hub = createHub({{ getToken: () => "{token(self.user_id)}" }});
                return hub.push.enable();
            }})"""
        )
        assert status["state"] == "on", status
        await self.page.goto(f"{self.node.url}/health")

    async def devices(self) -> list[dict[str, Any]]:
        answer = await self.node.ask("GET", "/api/v1/push/subscriptions", as_=token(self.user_id))
        found: list[dict[str, Any]] = answer.json()["subscriptions"]
        return found

    async def notify(self, title: str, **members: Any) -> str:
        said = {"channels": ["in_app", "push"], "priority": "urgent", **members}
        answer = await self.node.notify(title, user_id=self.user_id, **said)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def shown(self, notification_id: str) -> list[dict[str, Any]]:
        """What is on the screen, once the worker has reported that this one is: before, it is not safe to ask."""

        async def reported() -> bool:
            return await self.state(notification_id) == "delivered"

        await until(reported)
        return list(await self.page.evaluate(SHOWN))

    async def state(self, notification_id: str) -> str:
        path = f"/api/v1/notifications/{notification_id}/deliveries"
        answer = await self.node.ask("GET", path, as_=admin())
        [one] = answer.json()["deliveries"]
        return str(one["state"])

    async def click(self) -> list[str]:
        """Click the first notification; what was opened in new windows."""
        [worker] = [one for one in self.page.context.service_workers if one.url.startswith(self.node.url)]
        return list(await worker.evaluate(CLICK, [""]))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask another process until it is so: there is no event to await."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def google(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Gcm, Path]]:
    tls, pem = certificate(tmp_path_factory.mktemp("tls"), *HOSTS)
    async with Gcm(tls, pem) as server:
        yield server, pem


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(
    google: tuple[Gcm, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BrowserContext]:
    async with pushable(tmp_path_factory.mktemp("profile"), google[0]) as browser:
        await browser.grant_permissions(["notifications"])
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stage(
    browser: BrowserContext, google: tuple[Gcm, Path], postgres: PostgresServer
) -> AsyncIterator[Stage]:
    server, pem = google
    server.registered.clear()  # of other tests
    settings = {
        "PUSH_RESOLVE": ",".join(f"https://{host}=127.0.0.1:{server.port}" for host in HOSTS),
        "PUSH_CA_FILE": str(pem),
        "VAPID_EMAIL": "push@example.com",
    }
    page = await browser.new_page()
    async with postgres.database(template=TEMPLATE) as dsn, nodes(dsn, **settings) as [node]:
        yield Stage(page, server, node)
        await page.close()


async def test_an_urgent_message_is_shown_and_stays_until_it_is_answered(stage):
    await stage.enable()

    sent = await stage.notify("Exam moved", message="It is on Friday.")

    assert await stage.shown(sent) == [
        {"title": "Exam moved", "body": "It is on Friday.", "tag": sent, "requireInteraction": True}
    ]
    [device] = await stage.devices()
    assert device["push_service"] == "fcm"
    assert device["device_info"] == {"platform": "Linux", "browser": "Chrome"}


async def test_what_was_read_elsewhere_is_closed_by_the_next_push(stage):
    await stage.enable()
    first = await stage.notify("First")
    await stage.shown(first)
    read = await stage.node.ask("POST", f"/api/v1/notifications/{first}/read", as_=token(stage.user_id))
    assert read.is_success

    second = await stage.notify("Second")
    await stage.shown(second)

    async def closed() -> bool:
        return [one["title"] for one in await stage.page.evaluate(SHOWN)] == ["Second"]

    await until(closed)


async def test_what_does_not_fit_into_a_push_is_fetched_by_the_worker(stage):
    await stage.enable()
    link = "/?" + "x" * 1_500  # which stands three times in a payload, so that no text would make room for it

    sent = await stage.notify("Long", message="It is on Friday.", action_url=link)
    [shown] = await stage.shown(sent)
    opened = await stage.click()

    assert (shown["title"], shown["body"]) == ("Long", "It is on Friday.")
    assert opened == [stage.node.url + link]


async def test_a_private_one_says_nothing_before_the_click(stage):
    await stage.enable()
    put = await stage.node.ask("PUT", "/api/v1/push/privacy", {"types": {"*": "private"}}, as_=admin())
    assert put.status_code == 200, put.text

    sent = await stage.notify("Jane Doe failed", message="Grade F", action_url="/?pupil=7")
    [shown] = await stage.shown(sent)
    opened = await stage.click()

    assert shown["title"] == "You have a new notification"
    assert shown["body"] == ""
    assert opened == [f"{stage.node.url}/?pupil=7"]


async def test_who_unsubscribed_elsewhere_is_pruned_by_the_next_push(stage):
    await stage.enable()
    await stage.page.evaluate(
        "navigator.serviceWorker.getRegistration('/carillon-push/')"
        ".then((one) => one.pushManager.getSubscription()).then((one) => one.unsubscribe())"
    )
    await stage.google.until(lambda: not [one for one in stage.google.live if one.subtype])
    assert len(await stage.devices()) == 1

    await stage.notify("Nobody is there")

    async def pruned() -> bool:
        return await stage.devices() == []

    await until(pruned)


async def test_the_demo_pages_own_buttons_turn_it_on_try_it_and_turn_it_off(stage):
    page = stage.page
    await page.goto(f"{stage.node.url}/")
    await page.get_by_role("button", name="Turn on").click()
    assert await stage.devices() == []  # that was the page's own question
    await page.get_by_role("button", name="Turn on").click()
    await expect(page.get_by_text("You are told here, also while this page is closed.")).to_be_visible()
    assert len(await stage.devices()) == 1

    await page.get_by_role("button", name="Send a test").click()
    await expect(page.get_by_text("A test is on its way.")).to_be_visible()
    await page.get_by_role("button", name="Turn off").click()

    await expect(page.get_by_text("You are told only while this page is open.")).to_be_visible()
    assert await stage.devices() == []
