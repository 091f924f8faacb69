"""From one POST to the lock screen: the whole service, a real Firefox, and Mozilla's push service on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from core.keys import decode_base64url
from push.encryption import encrypt
from tests.acceptance.firefox import Firefox, firefox
from tests.acceptance.push_stage import (
    FORGET,
    KEYS,
    NOBODY_LOOKS,
    TIMES,
    UNSUBSCRIBE,
    Hub,
    PushStage,
    PwaServer,
    running_hub,
)
from tests.postgres import PostgresServer
from tests.process import token
from tests.providers.autopush import DELIVERED, HOST, Autopush
from tests.providers.certificates import certificate

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What hangs over the desktop, the oldest first: windows of Firefox's own. One that is not drawn yet can not be clicked.
ALERTS = """[...Services.wm.getEnumerator("alert:alert")]
    .filter(({ document }) => document.readyState === "complete" && document.getElementById("alertTitleLabel"))
    .map(({ document }) => ({
        document,
        title: document.getElementById("alertTitleLabel").getAttribute("value"),
        body: document.getElementById("alertTextLabel").textContent,
    }))"""

#: A button of the demo page by its words, in whichever element it is.
BUTTON = """[...document.querySelectorAll("*")].flatMap(({{ shadowRoot }}) => [...(shadowRoot?.querySelectorAll("button") ?? [])])
    .find((one) => one.textContent.trim() === "{words}" && one.checkVisibility())"""

#: Once: while its connection becomes ready, the worker subscribes. What it asks for then, Firefox says twice.
REGISTER_TWICE = """(() => {
    const { PushService } = ChromeUtils.importESModule("resource://gre/modules/PushService.sys.mjs");
    const { PushServiceWebSocket } = ChromeUtils.importESModule("resource://gre/modules/PushServiceWebSocket.sys.mjs");
    const READY = 3;
    const look = PushService.getAllUnexpired;
    PushService.getAllUnexpired = async function () {
        const found = await look.call(this);
        if (PushServiceWebSocket._currentState === READY) {
            PushService.getAllUnexpired = look;
            while (!PushServiceWebSocket._pendingRequests.size) {
                await new Promise((resolve) => Services.tm.dispatchToMainThread(resolve));
            }
        }
        return found;
    };
})()"""

PUSH_STATUS = (
    "document.querySelector('notify-preferences').shadowRoot.querySelector('[part~=push-status]').textContent"
)


@dataclass
class World:
    """What lasts longer than one test."""

    browser: Firefox
    mozilla: Autopush
    hub: Hub
    pwa: PwaServer


class Stage(PushStage):
    """The browser of one person, the hub, and the push service between them."""

    def __init__(self, world: World) -> None:
        super().__init__(world.hub, world.hub.somebody())
        self.pwa = world.pwa
        self.browser = world.browser
        self.mozilla = world.mozilla
        self.mozilla.acknowledged.clear()

    async def start(self) -> None:
        """Open the demo page, and beside what it has a hub to call."""
        await self.browser.go(self.demo)
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

    async def end(self) -> None:
        """Leave the browser as it was."""
        await self.browser.close_tabs()
        await self.browser.go(self.node.url + NOBODY_LOOKS)
        await self.browser.page(FORGET)
        await self.browser.chrome("[...Services.wm.getEnumerator('alert:alert')].map((one) => one.close())")
        self.mozilla.registered.clear()

    async def see(self, *titles: str) -> list[str]:
        """Wait until just these hang over the desktop; their texts."""
        found: list[dict[str, str]] = []

        async def is_so() -> bool:
            found[:] = await self.browser.chrome(f"{ALERTS}.map(({{ title, body }}) => ({{ title, body }}))")
            return sorted(one["title"] for one in found) == sorted(titles)

        await self.until(is_so)
        return [one["body"] for one in found]

    async def click(self, title: str) -> None:
        box = f"{ALERTS}.find(({{ title }}) => title === '{title}').document.getElementById('alertBox')"
        await self.browser.chrome(f"{box}.click()")

    async def opened(self, path: str) -> None:
        """Wait for a tab at a path of the hub."""
        await self.opened_at(self.node.url + path)

    async def opened_at(self, url: str) -> None:
        async def is_so() -> bool:
            return any(one["url"] == url for one in await self.browser.windows())

        await self.until(is_so)

    async def delivered(self, count: int = 1) -> None:
        """The browser has said so, each time."""
        await self.mozilla.until(lambda: len(self.mozilla.acknowledged) >= count)
        assert {one.code for one in self.mozilla.acknowledged} == {DELIVERED}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> AsyncIterator[World]:
    tls, pem = certificate(tmp_path_factory.mktemp("tls"), HOST)
    async with Autopush(tls) as mozilla, PwaServer().serving() as pwa:
        settings = {
            "PUSH_RESOLVE": f"{mozilla.origin}=127.0.0.1:{mozilla.port}",
            "PUSH_CA_FILE": str(pem),
            "VAPID_EMAIL": "push@example.com",
            "HUB_CORS_ORIGINS": pwa.url,
        }
        preferences = {"dom.push.serverURL": mozilla.url_for_browsers}
        profile: Path = tmp_path_factory.mktemp("profile")
        async with running_hub(postgres, settings) as hub, firefox(profile, **preferences) as browser:
            pwa.hub = hub.node.url
            yield World(browser, mozilla, hub, pwa)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(world: World) -> AsyncIterator[Stage]:
    """Another person for each test."""
    stage = Stage(world)
    yield stage
    await stage.end()


async def test_an_urgent_message_reaches_a_closed_page_and_a_click_opens_it(stage):
    await stage.enable()
    await stage.leave()
    link = f"/?user={stage.user_id}&exam=7"

    sent = await stage.notify("Exam moved", message="It is on Friday.", action_url=link)
    [body] = await stage.see("Exam moved")
    await stage.click("Exam moved")

    assert body == "It is on Friday."
    await stage.delivered()
    await stage.opened(link)
    read = await stage.delivery(sent, "read")  # the worker has said that it was clicked
    assert read["channel"] == "push"
    [told] = read["browsers"]
    assert told["clicked_at"]
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


async def test_a_click_brings_the_page_that_is_open_already_to_the_front(stage):
    await stage.enable()

    for number in range(TIMES):
        await stage.browser.close_tabs()
        await stage.browser.open_tab("about:blank")
        assert await stage.browser.page("document.visibilityState") == "hidden"
        link = f"/?user={stage.user_id}&exam={number}"
        await stage.notify("Exam moved", action_url=link)
        await stage.see("Exam moved")
        await stage.click("Exam moved")
        await stage.opened(link)
        if len(await stage.browser.windows()) == 2:
            break

    assert len(await stage.browser.windows()) == 2
    await stage.browser.see(
        f"document.visibilityState === 'visible' && location.search.endsWith('exam={number}')"
    )


async def test_the_demo_pages_own_buttons_turn_it_on_try_it_and_turn_it_off(stage):
    browser = stage.browser
    await browser.go(stage.demo)
    await browser.click(BUTTON.format(words="Turn on"))
    assert await stage.devices() == []  # that was the page's own question
    await browser.click(BUTTON.format(words="Turn on"))
    await browser.see(f"{PUSH_STATUS} === 'You are told here, also while this page is closed.'")
    assert len(await stage.devices()) == 1

    await browser.click(BUTTON.format(words="Send a test"))
    await stage.see("You have a new notification")
    await browser.click(BUTTON.format(words="Turn off"))
    await browser.see(f"{PUSH_STATUS} === 'You are told only while this page is open.'")

    await stage.see()
    assert await stage.devices() == []
    await stage.delivered()
    await stage.mozilla.until(lambda: not stage.mozilla.live)


async def test_what_was_read_elsewhere_is_closed_by_the_next_push(stage):
    await stage.enable()
    await stage.leave()
    first = await stage.notify("First")
    await stage.delivery(first, "delivered")
    await stage.read(first)

    await stage.notify("Second")

    await stage.see("Second")


async def test_what_is_read_elsewhere_is_closed_at_once_where_a_page_is_open(stage):
    await stage.enable()
    await stage.leave()
    sent = await stage.notify("First")
    await stage.delivery(sent, "delivered")
    await stage.browser.go(stage.demo)
    await stage.browser.see("document.querySelector('#light').textContent.includes('Live')")

    await stage.read(sent)

    await stage.see()


async def test_a_private_one_says_nothing_before_the_click(stage):
    await stage.enable()
    await stage.leave()
    await stage.keep_private("grade")
    link = f"{NOBODY_LOOKS}?pupil=7"

    await stage.notify("Jane Doe failed", message="Grade F", action_url=link, notification_type="grade")
    [body] = await stage.see("You have a new notification")
    await stage.click("You have a new notification")

    assert body == ""
    await stage.opened(link)


async def test_what_does_not_fit_into_a_push_is_fetched_by_the_worker(stage):
    await stage.enable()
    await stage.leave()
    link = f"{NOBODY_LOOKS}?" + "x" * 1_500  # which stands three times in a payload

    await stage.notify("Long", message="It is on Friday.", action_url=link)
    [body] = await stage.see("Long")
    await stage.click("Long")

    assert body == "It is on Friday."
    await stage.opened(link)


@pytest.mark.parametrize("content", [b"\xff\x00 no text", b"[]", b""])
async def test_a_push_that_cannot_be_read_is_shown_as_that_there_is_something(stage, content):
    await stage.enable()
    keys = await stage.browser.page(KEYS)
    [here] = stage.mozilla.live

    body = content and encrypt(content, decode_base64url(keys["p256dh"]), decode_base64url(keys["auth"]))
    await stage.mozilla.deliver(here, body)

    assert await stage.see("New notification") == ["Open it to read it."]
    await stage.delivered()


async def test_a_rotated_key_reaches_old_subscriptions_and_pages_take_the_new_one(stage):
    await stage.enable()
    [before] = stage.mozilla.live
    await stage.leave()
    await stage.hub.rotate_key()

    await stage.notify("By the old key")
    await stage.delivered(1)
    await stage.start()  # that is all it takes
    device = await stage.device_is(is_current_key=True)

    [after] = stage.mozilla.live
    assert before.is_gone
    assert after.key != before.key
    assert decode_base64url(device["vapid_key_id"]) == after.key[:12]
    assert device["name"] == "My desk"
    await stage.ask("POST", f"/api/v1/push/subscriptions/{device['id']}/test")
    await stage.delivered(2)
    assert len(after.posted) == 1


async def test_who_unsubscribed_elsewhere_is_pruned_by_the_next_push(stage):
    await stage.enable()
    await stage.browser.page(UNSUBSCRIBE)
    await stage.mozilla.until(lambda: not stage.mozilla.live)
    assert len(await stage.devices()) == 1
    await stage.leave()

    sent = await stage.notify("Nobody is there")

    await stage.pruned()
    failed = await stage.delivery(sent, "failed")
    assert [(one["outcome"], one["status"]) for one in failed["browsers"]] == [("gone", 410)]


async def test_a_subscription_that_the_push_service_lost_is_replaced_by_the_worker(stage):
    await stage.enable()
    [before] = stage.mozilla.live
    [device] = await stage.devices()
    await stage.leave()
    await stage.browser.chrome(REGISTER_TWICE)

    await stage.mozilla.forget_browsers()
    await stage.mozilla.until(lambda: bool(stage.mozilla.live), seconds=60)
    [after] = stage.mozilla.live
    assert after.endpoint != before.endpoint

    async def replaced() -> bool:
        return [one["last_seen_at"] for one in await stage.devices()] != [device["last_seen_at"]]

    await stage.until(replaced)
    renewed = await stage.device_is(name="My desk")
    assert renewed["id"] == device["id"], "the same browser at another endpoint"
    await stage.notify("Still there")
    await stage.delivered()
    assert stage.mozilla.live == [after]


async def test_inside_the_worker_of_an_application_elsewhere(stage):
    browser, pwa = stage.browser, stage.pwa
    await browser.go(f"{pwa.url}/?user={stage.user_id}")
    await browser.see("window.isReady")
    assert (await browser.page("hub.push.enable()"))["state"] == "on"
    await stage.leave()

    sent = await stage.notify("Exam moved", message="It is on Friday.", action_url="/exams/7")
    assert await stage.see("Exam moved") == ["It is on Friday."]
    await stage.click("Exam moved")

    await stage.opened_at(f"{pwa.url}/exams/7")
    await stage.delivery(sent, "read")  # told from one origin to the other
    await browser.go(f"{pwa.url}/")
    assert await browser.page("fetch('/offline').then((answer) => answer.text())") == "from the worker"
