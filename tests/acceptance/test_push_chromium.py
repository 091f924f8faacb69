"""
From one POST to the screen: the whole service, a real Chromium, Google's push service on loopback, and a desktop on
which the notifications hang, where they can be clicked as a person clicks them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from core.keys import decode_base64url
from push.encryption import encrypt
from tests.acceptance.chromium_push import Chromium, at_desktop
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
from tests.providers.desktop import Notification
from tests.providers.gcm import Registered

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWN = """async () => {
    const registration = await navigator.serviceWorker.getRegistration("/carillon-push/");
    const shown = await registration.getNotifications();
    return shown.map(({ tag, requireInteraction }) => ({ tag, requireInteraction }));
}"""


@dataclass
class World:
    """What lasts longer than one test."""

    chromium: Chromium
    hub: Hub
    pwa: PwaServer


class Stage(PushStage):
    """One person's Chromium, the hub, and the push service between them."""

    def __init__(self, world: World, page: Page) -> None:
        super().__init__(world.hub, world.hub.somebody())
        self.pwa = world.pwa
        self.chromium = world.chromium
        self.desktop = world.chromium.desktop
        self.google = world.chromium.google
        self.page = page

    @property
    def pages(self) -> list[Page]:
        """Of all windows."""
        return self.chromium.windows.pages

    async def enable(self) -> None:
        """On the demo page, which is left then for one that nobody looks at."""
        await self.page.goto(self.demo)
        assert await self.chromium.push(self.page, self.user_id, "enable") == "on"
        await self.leave()

    async def leave(self) -> None:
        await self.page.goto(self.node.url + NOBODY_LOOKS)

    async def end(self) -> None:
        """Leave the browser as it was."""
        await self.leave()
        await self.page.evaluate(FORGET)
        self.google.registered.clear()
        self.desktop.screen.clear()

    async def say_on_demo_page(self, button: str, answer: str) -> None:
        await self.page.get_by_role("button", name=button).click()
        await expect(self.page.get_by_text(answer)).to_be_visible()

    async def opened(self, path: str) -> Page:
        """The page at a path of the hub, in whatever window."""
        return await self.opened_at(f"{self.node.url}{path}")

    async def opened_at(self, url: str) -> Page:
        async def found() -> Page | None:
            return next((page for page in self.pages if page.url == url), None)

        page: Page = await self.until(found)
        return page

    def live(self) -> list[Registered]:
        """What is registered for pages; the browser has a registration of its own, too."""
        return [one for one in self.google.live if one.subtype]

    @asynccontextmanager
    async def site_settings(self) -> AsyncIterator[Page]:
        """The browser's own page, where a person blocks a site and allows it again."""
        page = await self.chromium.windows.new_page()
        await page.goto("chrome://settings/content/notifications")
        await page.locator("site-list").first.wait_for(state="attached")
        yield page
        await page.close()


async def say(settings: Page, url: str, setting: str) -> None:
    """setting: "allow" or "block"."""
    await settings.evaluate(
        "([url, setting]) => chrome.send('setCategoryPermissionForPattern', [url, '', 'notifications', setting, false])",
        [url, setting],
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> AsyncIterator[World]:
    async with at_desktop(tmp_path_factory.mktemp("chromium")) as chromium, PwaServer().serving() as pwa:
        settings = {**chromium.settings(), "HUB_CORS_ORIGINS": pwa.url}
        async with running_hub(postgres, settings) as hub:
            pwa.hub = hub.node.url
            yield World(chromium, hub, pwa)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(world: World) -> AsyncIterator[Stage]:
    """Another person for each test."""
    windows = world.chromium.windows
    await world.chromium.allow(world.hub.node.url, world.pwa.url)
    before = set(windows.pages)
    stage = Stage(world, await windows.new_page())
    yield stage
    await stage.end()
    for page in set(windows.pages) - before:
        await page.close()


async def test_an_urgent_message_reaches_a_closed_page_and_a_click_opens_it(stage):
    await stage.enable()
    await stage.page.goto("about:blank")
    link = f"/?user={stage.user_id}&exam=7"

    sent = await stage.notify("Exam moved", message="It is on Friday.", action_url=link)
    [shown] = await stage.desktop.see("Exam moved")
    await stage.delivery(sent, "delivered")  # the worker has said that it is shown
    stage.desktop.click("Exam moved")

    assert shown.body == "It is on Friday."
    await stage.opened(link)
    read = await stage.delivery(sent, "read")
    [told] = read["browsers"]
    assert told["status"] == 201
    assert told["shown_at"] <= told["clicked_at"]
    assert told["closed_at"] is None
    [device] = await stage.devices()
    assert device["push_service"] == "fcm"
    assert device["device_info"] == {"platform": "Linux", "browser": "Chrome"}


async def test_an_urgent_one_stays_until_it_is_answered(stage):
    await stage.enable()

    sent = await stage.notify("Exam moved")
    await stage.delivery(sent, "delivered")

    assert await stage.page.evaluate(SHOWN) == [{"tag": sent, "requireInteraction": True}]


async def test_a_click_goes_to_the_page_that_is_open_already(stage):
    await stage.enable()
    await stage.chromium.push(stage.page, stage.user_id, "status")  # and so listens to the worker
    before = len(stage.pages)

    for number in range(TIMES):
        link = f"{NOBODY_LOOKS}?exam={number}"
        await stage.notify("Exam moved", action_url=link)
        await stage.desktop.see("Exam moved")
        stage.desktop.click("Exam moved")
        if (opened := await stage.opened(link)) is stage.page:
            break
        await opened.close()

    assert opened is stage.page
    assert len(stage.pages) == before


async def test_a_button_of_a_notification_leads_where_it_says_and_what_is_put_away_was_seen(stage):
    await stage.enable()
    buttons = {"push": {"actions": [{"action": "sign", "title": "Sign", "url": f"{NOBODY_LOOKS}?sign=7"}]}}

    signed = await stage.notify("Sign this", action_url=f"{NOBODY_LOOKS}?look=7", metadata=buttons)
    await stage.desktop.see("Sign this")
    stage.desktop.click("Sign this", "Sign")
    await stage.opened(f"{NOBODY_LOOKS}?sign=7")
    put_away = await stage.notify("Not now")
    await stage.desktop.see("Not now")
    stage.desktop.dismiss("Not now")

    assert (await stage.delivery(signed, "read"))["browsers"][0]["clicked_at"]

    async def closed() -> bool:
        return bool((await stage.delivery(put_away, "delivered"))["browsers"][0]["closed_at"])

    await stage.until(closed)


async def test_what_was_read_elsewhere_is_closed_by_the_next_push(stage):
    await stage.enable()
    first = await stage.notify("First")
    await stage.delivery(first, "delivered")
    await stage.read(first)

    await stage.notify("Second")

    await stage.desktop.see("Second")


async def test_what_is_read_elsewhere_is_closed_at_once_where_a_page_is_open(stage):
    await stage.enable()
    for title in ("First", "Second"):
        sent = await stage.notify(title)
        await stage.delivery(sent, "delivered")
    await stage.page.goto(stage.demo)
    await expect(stage.page.locator("#light")).to_have_text("Live")

    await stage.read(sent)
    await stage.desktop.see("First")
    await stage.ask("POST", "/api/v1/notifications/read-all", {})

    await stage.desktop.see()


async def test_what_does_not_fit_into_a_push_is_fetched_by_the_worker(stage):
    await stage.enable()
    link = (
        f"{NOBODY_LOOKS}?" + "x" * 1_500
    )  # which stands three times in a payload, so that no text would make room for it

    await stage.notify("Long", message="It is on Friday.", action_url=link)
    [shown] = await stage.desktop.see("Long")
    stage.desktop.click("Long")

    assert shown.body == "It is on Friday."
    await stage.opened(link)


async def test_a_private_one_says_nothing_before_the_click(stage):
    await stage.enable()
    await stage.keep_private("grade")

    await stage.notify(
        "Jane Doe failed", message="Grade F", action_url=f"{NOBODY_LOOKS}?pupil=7", notification_type="grade"
    )
    [shown] = await stage.desktop.see("You have a new notification")
    stage.desktop.click(shown.title)

    assert shown.body == ""
    await stage.opened(f"{NOBODY_LOOKS}?pupil=7")


@pytest.mark.parametrize("content", [b"\xff\x00 no text", b"[]", b""])
async def test_a_push_that_cannot_be_read_is_shown_as_that_there_is_something(stage, content):
    await stage.enable()
    keys = await stage.page.evaluate(KEYS)
    [here] = stage.live()

    body = content and encrypt(content, decode_base64url(keys["p256dh"]), decode_base64url(keys["auth"]))
    stage.google.deliver(here, body)

    assert [one.body for one in await stage.desktop.see("New notification")] == ["Open it to read it."]


async def test_a_rotated_key_reaches_old_subscriptions_and_pages_take_the_new_one(stage):
    await stage.enable()
    [before] = stage.live()
    await stage.page.goto("about:blank")
    await stage.hub.rotate_key()

    await stage.notify("By the old key")
    await stage.desktop.see("By the old key")
    await stage.page.goto(stage.demo)  # that is all it takes
    device = await stage.device_is(is_current_key=True)

    [after] = stage.live()
    assert before.is_gone
    assert after.sender != before.sender
    assert decode_base64url(device["vapid_key_id"]) == decode_base64url(after.sender)[:12]
    await stage.ask("POST", f"/api/v1/push/subscriptions/{device['id']}/test")
    await stage.desktop.until(
        lambda: "You have a new notification" in {one.title for one in stage.desktop.screen.values()}
    )
    assert len(after.posted) == 1


async def test_who_unsubscribed_elsewhere_is_pruned_by_the_next_push(stage):
    await stage.enable()
    await stage.page.evaluate(UNSUBSCRIBE)
    await stage.google.until(lambda: not stage.live())
    assert len(await stage.devices()) == 1

    sent = await stage.notify("Nobody is there")

    await stage.pruned()
    failed = await stage.delivery(sent, "failed")
    assert [(one["outcome"], one["status"]) for one in failed["browsers"]] == [("gone", 410)]


async def test_who_blocked_it_and_allows_it_again_is_reached_again(stage):
    """Chromium tells the worker only then, and neither what there was nor what there is: a page has to say who is there."""
    url = stage.node.url
    await stage.chromium.windows.clear_permissions()  # which would hide what the browser's own settings say
    async with stage.site_settings() as settings:
        await say(settings, url, "allow")
        await stage.enable()
        [before] = await stage.devices()
        async with stage.page.expect_response("**/push/subscribe"):  # as at every start
            await stage.page.goto(stage.demo)
        await say(settings, url, "block")
        await stage.google.until(lambda: not stage.live())

        await say(settings, url, "allow")

        async def told() -> bool:
            return len(await stage.devices()) == 2

        await stage.until(told)  # by the open page; the old one is known until it is pushed to
        await stage.leave()

        await stage.notify("Back again")
        await stage.desktop.see("Back again")
        after = await stage.device_is()
        assert after["id"] != before["id"]


async def test_the_demo_pages_own_buttons_turn_it_on_try_it_and_turn_it_off(stage):
    await stage.page.goto(stage.demo)
    await stage.page.get_by_role("button", name="Turn on").click()
    assert await stage.devices() == []  # that was the page's own question
    await stage.say_on_demo_page("Turn on", "You are told here, also while this page is closed.")
    assert len(await stage.devices()) == 1

    await stage.say_on_demo_page("Send a test", "A test is on its way.")
    await stage.desktop.see("You have a new notification")
    await stage.say_on_demo_page("Turn off", "You are told only while this page is open.")

    await stage.desktop.see()
    assert await stage.devices() == []


async def test_inside_the_worker_of_an_application_elsewhere(stage):
    page, pwa = stage.page, stage.pwa
    await page.goto(f"{pwa.url}/?user={stage.user_id}")
    await page.wait_for_function("window.isReady")
    status = await page.evaluate("hub.push.enable()")
    assert (status["state"], status["reason"]) == ("on", None)
    await page.goto("about:blank")

    sent = await stage.notify("Exam moved", message="It is on Friday.", action_url="/exams/7")
    shown = await stage.desktop.see("Exam moved")
    stage.desktop.click("Exam moved")

    assert shown == [Notification("Exam moved", "It is on Friday.", shown[0].buttons)]
    opened = await stage.opened_at(f"{pwa.url}/exams/7")
    await stage.delivery(sent, "read")  # told from one origin to the other
    assert await opened.evaluate("fetch('/offline').then((answer) => answer.text())") == "from the worker"
