"""From one POST to the lock screen: the whole service, a real Firefox, and Mozilla's push service on loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from core.keys import decode_base64url
from tests.acceptance.firefox import Firefox, firefox
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, Node, nodes, token
from tests.providers.autopush import DELIVERED, HOST, Autopush
from tests.providers.certificates import certificate
from tests.servers import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALERT = 'Services.wm.getMostRecentWindow("alert:alert")'

#: Title and text of the notification that hangs over the desktop, once its window is drawn.
ALERTED = f"""new Promise((resolve) => {{
    const look = () => {{
        const page = {ALERT}?.document;
        const title = page?.getElementById("alertTitleLabel")?.getAttribute("value");
        if (title && page.readyState === "complete") resolve([title, page.getElementById("alertTextLabel").textContent]);
        else setTimeout(look, 20);
    }};
    look();
}})"""

CLICK = f"""{ALERT}.document.getElementById("alertBox").click()"""


class Stage:
    """The browser of one person, the hub, and the push service between them."""

    user_id = "demo"  # of whom the demo page is

    def __init__(self, browser: Firefox, mozilla: Autopush, node: Node, dsn: str) -> None:
        self.browser = browser
        self.mozilla = mozilla
        self.node = node
        self._dsn = dsn

    async def start(self) -> None:
        """Open the demo page, and beside what it has a hub to call."""
        await self.browser.go(f"{self.node.url}/")
        await self.browser.page(
            f"""import("/static/client.js").then(({{ createHub }}) => {{
                window.hub = createHub({{ getToken: () => "{token(self.user_id)}" }});
            }})"""
        )

    async def enable(self) -> None:
        await self.start()
        status = await self.browser.page("hub.push.enable({ name: 'My desk' })")
        assert status["state"] == "on", status

    async def leave(self) -> None:
        await self.browser.go("about:blank")

    async def devices(self) -> list[dict[str, Any]]:
        answer = await self.node.ask("GET", "/api/v1/push/subscriptions", as_=token(self.user_id))
        found: list[dict[str, Any]] = answer.json()["subscriptions"]
        return found

    async def notify(self, title: str, **members: Any) -> str:
        said = {"channels": ["push"], "priority": "urgent", **members}
        answer = await self.node.notify(title, user_id=self.user_id, **said)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def delivered(self, count: int = 1) -> None:
        """The browser has said so."""
        await self.mozilla.until(lambda: len(self.mozilla.acknowledged) >= count)
        assert {one.code for one in self.mozilla.acknowledged} == {DELIVERED}

    async def delivery(self, notification_id: str, state: str) -> dict[str, Any]:
        """The delivery, once it is in that state."""
        path = f"/api/v1/notifications/{notification_id}/deliveries"
        async with asyncio.timeout(20):
            while True:
                answer = await self.node.ask("GET", path, as_=token("an-admin", roles=["admin"]))
                [one] = answer.json()["deliveries"]
                if one["state"] == state:
                    return dict(one)
                await asyncio.sleep(0.05)  # another process: there is no event to await

    async def until(self, condition: Any) -> Any:
        """Ask the hub until what it answers is so."""
        async with asyncio.timeout(30):
            while not (found := await condition()):
                await asyncio.sleep(0.05)  # another process: there is no event to await
            return found

    async def carillon(self, *arguments: str) -> str:
        """Run the command beside the hub; what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", *arguments),
            cwd=ROOT,
            env={
                "DATABASE_URL": self._dsn,
                "JWT_SECRET_KEY": SECRET,
                "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0
        return printed.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mozilla(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Autopush, Path]]:
    tls, pem = certificate(tmp_path_factory.mktemp("tls"), HOST)
    async with Autopush(tls) as server:
        yield server, pem


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(
    mozilla: tuple[Autopush, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Firefox]:
    preferences = {"dom.push.serverURL": mozilla[0].url_for_browsers}
    async with firefox(tmp_path_factory.mktemp("profile"), **preferences) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stage(
    browser: Firefox, mozilla: tuple[Autopush, Path], postgres: PostgresServer, request: pytest.FixtureRequest
) -> AsyncIterator[Stage]:
    server, pem = mozilla
    server.acknowledged.clear()
    server.registered.clear()  # of other tests
    settings = {
        "PUSH_RESOLVE": f"{server.origin}=127.0.0.1:{server.port}",
        "PUSH_CA_FILE": str(pem),
        "VAPID_EMAIL": "push@example.com",
    }
    serve = ("-m", "app", "serve", "--port", str(free_port()))  # the same page after a restart
    async with postgres.database(template=TEMPLATE) as dsn, nodes(dsn, entry=serve, **settings) as [node]:
        yield Stage(browser, server, node, dsn)
        await browser.chrome(f"{ALERT}?.close()")


async def test_an_urgent_message_reaches_a_closed_page_and_a_click_opens_it(stage):
    await stage.enable()
    await stage.leave()

    sent = await stage.notify("Exam moved", message="It is on Friday.", action_url="/?exam=7")
    alerted = await stage.browser.chrome(ALERTED)
    await stage.browser.chrome(CLICK)

    assert alerted == ["Exam moved", "It is on Friday."]
    await stage.delivered()
    read = await stage.delivery(sent, "read")  # the worker has said that it was clicked
    assert read["channel"] == "push"

    async def opened() -> bool:
        return any(one["url"] == f"{stage.node.url}/?exam=7" for one in await stage.browser.windows())

    await stage.until(opened)
    [subscribed] = stage.mozilla.live
    [posted] = subscribed.posted
    assert posted.headers["Urgency"] == "high"
    assert int(posted.headers["TTL"]) > 0
    assert len(posted.headers["Topic"]) == 32
    assert "Exam" not in str(posted.headers)
    [device] = await stage.devices()
    assert device["name"] == "My desk"
    assert device["push_service"] == "mozilla"
    assert device["last_sent_at"] is not None


async def test_a_test_and_the_end_are_one_call_each(stage):
    await stage.enable()

    tested = await stage.browser.page("hub.push.test()")
    alerted = await stage.browser.chrome(ALERTED)
    await stage.browser.page("hub.push.disable()")

    assert tested["status"] == "sent"
    assert alerted[0] == "You have a new notification"
    await stage.delivered()
    await stage.mozilla.until(lambda: not stage.mozilla.live)
    assert await stage.devices() == []


async def test_a_rotated_key_reaches_old_subscriptions_and_pages_take_the_new_one(stage):
    await stage.enable()
    [before] = stage.mozilla.live
    await stage.leave()
    await stage.carillon("vapid", "rotate")
    await stage.node.stop()
    await stage.node.start()

    await stage.notify("By the old key")
    await stage.delivered(1)
    await stage.start()  # that is all it takes

    async def moved() -> bool:
        return [one["is_current_key"] for one in await stage.devices()] == [True]

    await stage.until(moved)
    [after] = stage.mozilla.live
    assert before.is_gone
    assert after.key != before.key
    [device] = await stage.devices()
    assert decode_base64url(device["vapid_key_id"]) == after.key[:12]
    assert device["name"] == "My desk"
    await stage.node.ask("POST", f"/api/v1/push/subscriptions/{device['id']}/test", as_=token(stage.user_id))
    await stage.delivered(2)
    assert len(after.posted) == 1


async def test_who_unsubscribed_elsewhere_is_pruned_by_the_next_push(stage):
    await stage.enable()
    await stage.browser.page(
        "navigator.serviceWorker.getRegistration('/carillon-push/')"
        ".then((one) => one.pushManager.getSubscription()).then((one) => one.unsubscribe())"
    )
    await stage.mozilla.until(lambda: not stage.mozilla.live)
    assert len(await stage.devices()) == 1
    await stage.leave()

    await stage.notify("Nobody is there")

    async def pruned() -> bool:
        return await stage.devices() == []

    await stage.until(pruned)
    assert stage.mozilla.received[-1].path.startswith("/wpush/v2/")


async def test_a_subscription_that_the_push_service_lost_is_replaced_by_the_worker(stage):
    await stage.enable()
    [before] = stage.mozilla.live
    [device] = await stage.devices()
    await stage.leave()

    await stage.mozilla.forget_browsers()
    await stage.mozilla.until(lambda: bool(stage.mozilla.live), seconds=40)
    [after] = stage.mozilla.live
    assert after.endpoint != before.endpoint

    async def replaced() -> bool:
        return [one["id"] for one in await stage.devices()] not in ([], [device["id"]])

    await stage.until(replaced)
    [renewed] = await stage.devices()
    assert renewed["name"] == "My desk"
    await stage.notify("Still there")
    await stage.delivered()
