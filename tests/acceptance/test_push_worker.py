"""The push worker and the SDK's push in a real Chromium, against a server that can be told to fail (sdk_server)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Worker

from push.keys import application_server_key, new_key
from tests.acceptance.chromium_push import pushable
from tests.acceptance.sdk_server import SdkServer
from tests.providers.certificates import certificate
from tests.providers.gcm import HOSTS, Gcm

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLICK = """async ([action, patience]) => {
    self.itsTimer ??= self.setTimeout;
    self.setTimeout = (call, ms) => itsTimer(call, ms + patience); // a busy machine's page answers when it can
    const [notification] = await registration.getNotifications();
    const event = new NotificationEvent("notificationclick", { notification, action });
    const opened = [];
    let done;
    event.waitUntil = (promise) => (done = promise); // a browser's own event is the only one that may wait
    self.clients.openWindow = async (url) => opened.push(url);
    dispatchEvent(event);
    await done;
    return opened;
}"""

#: Only when a notification is on the screen is it safe to ask which are: Chromium forgets those on their way there.
WATCH = """() => {
    if (self.showings !== undefined) return;
    self.showings = 0;
    const show = registration.showNotification.bind(registration);
    registration.showNotification = (...of) => show(...of).then(() => void (showings += 1));
}"""

SHOWN = """async () => {
    const registration = (await navigator.serviceWorker.getRegistrations())[0];
    const shown = (await registration?.getNotifications()) ?? [];
    return shown.map(({ title, body, tag, lang, icon, requireInteraction, renotify, silent, data, actions }) =>
        ({ title, body, tag, lang, icon, requireInteraction, renotify, silent, data, actions: actions.map((one) => one.action) }));
}"""


def payload(number: int = 1, **members: Any) -> dict[str, Any]:
    """What the hub pushes."""
    data = {
        "notification_id": f"n{number}",
        "action_url": f"/?opened={number}",
        "receipt": f"receipt-{number}",
    }
    shown = {
        "title": f"Title {number}",
        "body": "Body",
        "navigate": data["action_url"],
        "tag": data["notification_id"],
        "data": data,
        "actions": [{"action": "view", "title": "View", "navigate": "/"}],
    }
    shown |= members.pop("notification", {})
    return {"web_push": 8030, "mutable": True, "notification": shown, "data": data, **members}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrowserContext]:
    tls, pem = certificate(tmp_path_factory.mktemp("tls"), *HOSTS)
    async with Gcm(tls, pem) as gcm, pushable(tmp_path_factory.mktemp("profile"), gcm) as context:
        yield context


@pytest_asyncio.fixture(loop_scope="module")
async def stage(context: BrowserContext) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(context, stack)


class Stage:
    def __init__(self, context: BrowserContext, stack: AsyncExitStack) -> None:
        self._context = context
        self._stack = stack

    async def open(
        self, options: str = "{}", *, permission: bool = True, enable: bool = True, connect: bool = False
    ) -> Scene:
        """A page of a server, and so of an origin, of its own."""
        server = SdkServer()
        await self._stack.enter_async_context(server.serve())
        page = await self._context.new_page()
        self._stack.push_async_callback(page.close)
        devtools = await self._context.new_cdp_session(page)
        setting = {"permission": {"name": "notifications"}, "origin": server.url.rstrip("/")}
        await devtools.send(
            "Browser.setPermission", {**setting, "setting": "granted" if permission else "denied"}
        )
        scene = Scene(server, page, devtools, options)
        await scene.load()
        if connect:
            await page.evaluate("() => hub.connect().then(() => {})")
        if enable:
            assert (await page.evaluate("hub.push.enable()"))["state"] == "on"
        return scene


class Scene:
    """One page, its server and its worker."""

    def __init__(self, server: SdkServer, page: Page, devtools: Any, options: str) -> None:
        self.server = server
        self.page = page
        self._devtools = devtools
        self._options = options
        self._registration = ""

    async def load(self) -> None:
        await self.page.goto(self.server.url)
        await self.page.wait_for_function("window.ready")
        await self.page.evaluate(f"void make({self._options})")

    async def run(self, script: str) -> Any:
        return await self.page.evaluate(script)

    async def see(self, condition: str) -> None:
        """Until the JavaScript expression is true in the page."""
        async with asyncio.timeout(60):
            while not await self.page.evaluate(f"async () => {condition}"):
                pass

    async def push(self, said: Any) -> list[dict[str, Any]]:
        """Give it to the worker as the browser does; what is shown then. A receipt or a closing may be later."""
        if not self._registration:
            found: list[dict[str, Any]] = []
            self._devtools.on(
                "ServiceWorker.workerRegistrationUpdated", lambda event: found.extend(event["registrations"])
            )
            await self._devtools.send("ServiceWorker.enable")
            async with asyncio.timeout(60):
                while not (ours := [one for one in found if one["scopeURL"].startswith(self.server.url)]):
                    await self.see("true")
            self._registration = ours[0]["registrationId"]
        data = said if isinstance(said, str) else json.dumps(said)
        where = {"origin": self.server.url.rstrip("/"), "registrationId": self._registration}
        await self.worker.evaluate(WATCH)
        before = await self.worker.evaluate("showings")
        await self._devtools.send("ServiceWorker.deliverPushMessage", {**where, "data": data})
        async with asyncio.timeout(60):
            while await self.worker.evaluate("showings") == before:
                pass
        return await self.shown()

    async def shown(self) -> list[dict[str, Any]]:
        return list(await self.page.evaluate(SHOWN))

    @property
    def worker(self) -> Worker:
        return next(one for one in self.page.context.service_workers if one.url.startswith(self.server.url))

    async def click(self, action: str = "", *, answers: bool = True) -> list[str]:
        """
        Click the first notification, or a button of it; what was opened in new windows.

        answers: whether there is a page that does, so that the worker may wait for it.
        """
        return list(await self.worker.evaluate(CLICK, [action, 20_000 if answers else 0]))


# -- showing ---------------------------------------------------------------------------------------


async def test_a_push_is_shown_as_it_says_and_reported(stage):
    scene = await stage.open()

    [shown] = await scene.push(payload(requireInteraction=True))

    assert shown["title"] == "Title 1"
    assert shown["body"] == "Body"
    assert shown["tag"] == "n1"
    assert shown["requireInteraction"] is True
    assert shown["actions"] == ["view"]
    assert shown["data"]["notification_id"] == "n1"
    await scene.server.until(lambda: scene.server.receipts == [("receipt-1", "shown")])


async def test_a_payload_of_aivos_shape_is_shown_and_urgent_ones_stay(stage):
    scene = await stage.open()

    [shown] = await scene.push(
        {
            "title": "Deadline",
            "message": "Tomorrow",
            "tag": "t",
            "data": {"action_url": "/x"},
            "priority": "urgent",
        }
    )

    assert (shown["title"], shown["body"], shown["tag"]) == ("Deadline", "Tomorrow", "t")
    assert shown["requireInteraction"] is True


@pytest.mark.parametrize(
    "said", ["not json", "", "[]", "null", "{}", '"text"', '{"notification": 5, "data": []}']
)
async def test_what_can_not_be_read_is_shown_as_that_there_is_something(stage, said):
    scene = await stage.open()

    [shown] = await scene.push(said)

    assert shown["title"] == "New notification"
    assert shown["body"] == "Open it to read it."
    assert shown["lang"] == "en"


async def test_odd_members_do_not_keep_it_from_being_shown(stage):
    scene = await stage.open()
    odd = {
        "lang": 5,
        "dir": "up",
        "icon": {},
        "image": 7,
        "actions": [None, {"action": 5}, "x"],
        "silent": "yes",
    }

    [shown] = await scene.push(payload(notification=odd, reads="all", app_badge="many", fetch=5))

    assert shown["title"] == "Title 1"


async def test_what_did_not_fit_is_fetched_once_and_shown(stage):
    scene = await stage.open()
    scene.server.spilled["once"] = payload(notification={"title": "Long", "body": "x" * 5_000})

    [shown] = await scene.push(
        payload(notification={"body": ""}, fetch={"id": "n1", "token": "once", "when": "shown"})
    )

    assert shown["title"] == "Long"
    assert len(shown["body"]) == 5_000
    assert scene.server.spilled == {}


async def test_what_can_not_be_fetched_is_shown_as_it_came(stage):
    scene = await stage.open()

    [shown] = await scene.push(payload(fetch={"id": "n1", "token": "used", "when": "shown"}))

    assert shown["title"] == "Title 1"


async def test_a_second_copy_of_what_was_fetched_leaves_the_whole_of_it(stage):
    scene = await stage.open()
    short = payload(
        notification={"title": "Lo…", "body": "", "tag": "topic"},
        fetch={"id": "n1", "token": "once", "when": "shown"},
    )
    scene.server.spilled["once"] = payload(
        notification={"title": "Long", "body": "x" * 5_000, "tag": "topic"}
    )
    await scene.push(short)

    [shown] = await scene.push(short)
    [other] = await scene.push(short | {"data": {"notification_id": "n2"}, "notification": {"tag": "topic"}})

    assert (shown["title"], len(shown["body"]), shown["renotify"]) == ("Long", 5_000, False)
    assert shown["data"]["carillon"]["receipt"] == "receipt-1"
    assert (other["data"]["notification_id"], other["body"]) == ("n2", "Open it to read it.")


async def test_the_same_news_again_is_silent_and_other_news_in_its_place_is_not(stage):
    scene = await stage.open()
    topic = {"notification": {"tag": "topic"}}

    [first] = await scene.push(payload(1, **topic))
    [again] = await scene.push(payload(1, notification={"tag": "topic", "body": "Better"}))
    [other] = await scene.push(payload(2, **topic))

    assert first["renotify"] is False
    assert again["renotify"] is False
    assert other["renotify"] is True


async def test_the_next_push_closes_what_was_read_elsewhere(stage):
    scene = await stage.open()
    await scene.push(payload(1))
    await scene.push(payload(2))

    await scene.push(payload(3, reads=["n1", "unknown"]))

    await scene.see(f"(await ({SHOWN})()).length === 2")
    assert {one["title"] for one in await scene.shown()} == {"Title 2", "Title 3"}


# -- clicks ----------------------------------------------------------------------------------------


async def test_a_click_goes_to_where_it_leads_in_the_page_that_is_open(stage):
    scene = await stage.open()
    await scene.push(payload())

    opened = await scene.click()

    await scene.page.wait_for_url("**/?opened=1")
    assert opened == []
    assert await scene.shown() == []
    await scene.server.until(lambda: ("receipt-1", "clicked") in scene.server.receipts)
    assert ("receipt-1", "closed") not in scene.server.receipts


async def test_the_page_may_go_there_by_itself(stage):
    scene = await stage.open("{push: {open: (url, about) => (window.wanted = [url, about])}}")
    await scene.push(payload())

    await scene.click("view")

    await scene.see("window.wanted")
    assert await scene.run("wanted") == [
        scene.server.url + "?opened=1",
        {"notification_id": "n1", "action": "view"},
    ]
    assert await scene.run("log.filter((event) => event.type === 'open').length") == 1


async def test_without_a_page_that_answers_a_window_is_opened(stage):
    scene = await stage.open()
    await scene.push(payload())
    await scene.run("navigator.serviceWorker.addEventListener('message', () => {})")
    await scene.page.goto(scene.server.url + "page.js")  # of our origin, without the SDK

    opened = await scene.click(answers=False)

    assert opened == [scene.server.url + "?opened=1"]


async def test_a_button_leads_where_it_says_and_one_that_leads_nowhere_only_closes(stage):
    scene = await stage.open()
    buttons = [
        {"action": "docs", "title": "Docs", "navigate": "https://docs.example/a"},
        {"action": "dismiss", "title": "Dismiss"},
    ]
    await scene.push(payload(1, notification={"actions": buttons}))
    first = await scene.click("docs")
    await scene.push(payload(2, notification={"actions": buttons}))
    second = await scene.click("dismiss")

    assert first == ["https://docs.example/a"]
    assert second == []
    assert scene.page.url == scene.server.url


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "http://docs.example/",
        "//docs.example/",
        "https://hub.example@evil.example/",
        "data:text/html,x",
        "\\\\evil.example",
        "/\t/evil.example",
        7,
    ],
)
async def test_a_click_follows_no_link_that_is_not_safe(stage, link):
    scene = await stage.open()
    said = payload(notification={"navigate": link})
    said["notification"]["data"] = said["data"] = {"action_url": link, "notification_id": "n1"}
    await scene.push(said)

    opened = await scene.click()

    assert opened == []
    assert scene.page.url == scene.server.url


async def test_a_private_one_is_read_when_it_is_clicked(stage):
    scene = await stage.open()
    said = payload(notification={"title": "You have a new notification", "body": "", "navigate": "/"})
    said["data"]["action_url"] = None
    scene.server.spilled["once"] = payload(5)
    [shown] = await scene.push(said | {"fetch": {"id": "n1", "token": "once", "when": "clicked"}})

    await scene.click()

    assert shown["title"] == "You have a new notification"
    await scene.page.wait_for_url("**/?opened=5")


# -- beside other workers --------------------------------------------------------------------------


async def test_our_own_worker_controls_no_page(stage):
    scene = await stage.open()
    await scene.load()

    assert await scene.run("navigator.serviceWorker.controller") is None
    assert (
        await scene.run(
            "navigator.serviceWorker.getRegistrations().then((all) => all.map((one) => one.scope))"
        )
    ) == [scene.server.url + "carillon-push/"]


async def test_inside_an_applications_worker_it_leaves_other_notifications_alone(stage):
    scene = await stage.open("{push: {worker: '/beside.js'}}")
    [ours] = await scene.push(payload())
    await scene.click()
    await scene.page.wait_for_url("**/?opened=1")
    await scene.load()
    await scene.run("navigator.serviceWorker.ready.then((one) => one.showNotification('Theirs'))")

    await scene.click()

    assert ours["icon"] == scene.server.url + "icon.png"
    assert await scene.worker.evaluate("clicked") == ["Theirs"]
    assert [one["title"] for one in await scene.shown()] == ["Theirs"]


async def test_it_is_a_module_too(stage):
    scene = await stage.open("{push: {worker: '/module.js', workerType: 'module'}}")

    [shown] = await scene.push(payload())

    assert shown["title"] == "Title 1"


# -- the SDK ---------------------------------------------------------------------------------------


async def test_enabling_tells_the_hub_what_it_needs_and_what_it_is(stage):
    scene = await stage.open()

    [body] = scene.server.subscribed

    assert body["endpoint"].startswith("https://")
    assert len(body["p256dh_key"]) == 87
    assert len(body["auth_key"]) == 22
    assert body["vapid_key_id"] == scene.server.push_key[:16]
    assert body["device_info"] == {"platform": "Linux", "browser": "Chrome"}
    assert await scene.run("hub.push.status()") == {
        "state": "on",
        "reason": None,
        "permission": "granted",
        "id": "browser-1",
        "message": None,
    }


async def test_nothing_is_loaded_stored_or_asked_before_push_is_wanted(stage):
    scene = await stage.open(enable=False, connect=True)

    assert await scene.run("Object.keys(localStorage)") == []
    loaded = await scene.run("performance.getEntriesByType('resource').map((one) => one.name)")
    assert not any(name.endswith("push.js") for name in loaded)
    assert (await scene.run("hub.push.status()"))["reason"] == "not_enabled"


async def test_a_person_who_blocked_it_is_told_so(stage):
    scene = await stage.open(permission=False, enable=False)

    status = await scene.run("hub.push.status()")
    refused = await scene.run("hub.push.enable().catch((error) => error.code)")

    assert (status["state"], status["reason"]) == ("unavailable", "denied")
    assert "settings" in status["message"]
    assert refused == "denied"
    assert scene.server.subscribed == []


async def test_an_iphone_is_told_of_the_home_screen(stage):
    scene = await stage.open(enable=False)
    await scene.page.add_init_script(
        "Object.defineProperty(navigator, 'userAgent', { value: 'iPhone' }); delete window.PushManager;"
    )
    await scene.load()

    status = await scene.run("hub.push.status()")

    assert (status["state"], status["reason"]) == ("unavailable", "needs_home_screen")
    assert "home screen" in status["message"]


async def test_a_hub_of_another_site_needs_a_worker_of_this_one(stage):
    scene = await stage.open("{url: 'https://hub.example'}", enable=False)

    assert (await scene.run("hub.push.status()"))["reason"] == "needs_worker"


async def test_every_start_sends_the_subscription_again(stage):
    scene = await stage.open()
    await scene.load()
    await scene.run("void hub.connect()")

    await scene.server.until(lambda: len(scene.server.subscribed) == 2)

    first, second = scene.server.subscribed
    assert first == second


async def test_a_rotated_key_replaces_the_subscription_at_the_next_start(stage):
    scene = await stage.open()
    scene.server.push_key = application_server_key(new_key())
    assert (await scene.run("hub.push.status()"))["reason"] == "key_changed"

    await scene.load()
    await scene.run("void hub.connect()")
    await scene.see("(await hub.push.status()).state === 'on'")

    old, new = scene.server.subscribed
    [replaced] = scene.server.replaced
    assert replaced["old_endpoint"] == old["endpoint"] != new["endpoint"] == replaced["endpoint"]
    assert replaced["old_auth_key"] == old["auth_key"]


async def test_a_subscription_that_the_browser_gave_itself_with_an_old_key_is_made_again(stage):
    scene = await stage.open()
    given = scene.server.subscribed[0]["endpoint"]
    scene.server.push_key = application_server_key(new_key())

    made = await scene.worker.evaluate(
        """async () => {
            const newSubscription = await registration.pushManager.getSubscription();
            const oldSubscription = { endpoint: "https://old.example/", getKey: () => new Uint8Array(16).buffer };
            const event = new Event("pushsubscriptionchange");
            let done;
            Object.assign(event, { oldSubscription, newSubscription, waitUntil: (promise) => (done = promise) });
            dispatchEvent(event);
            await done;
            const { endpoint, options } = await registration.pushManager.getSubscription();
            const key = btoa(String.fromCharCode(...new Uint8Array(options.applicationServerKey)));
            return { endpoint, key };
        }"""
    )

    [replaced] = scene.server.replaced
    assert replaced["endpoint"] == made["endpoint"] != given
    assert made["key"].replace("+", "-").replace("/", "_").rstrip("=") == scene.server.push_key


async def test_a_subscription_that_the_browser_dropped_is_made_again(stage):
    scene = await stage.open()
    await scene.run(
        "navigator.serviceWorker.getRegistrations().then(async ([one]) =>"
        " (await one.pushManager.getSubscription()).unsubscribe())"
    )
    assert (await scene.run("hub.push.status()"))["reason"] == "lost"

    await scene.load()
    await scene.run("void hub.connect()")

    await scene.see("(await hub.push.status()).state === 'on'")
    assert len({one["endpoint"] for one in scene.server.subscribed}) == 2


async def test_turning_it_off_ends_it_here_and_at_the_hub_and_clears_the_screen(stage):
    scene = await stage.open()
    await scene.push(payload())

    status = await scene.run("hub.push.disable()")

    assert (status["state"], status["reason"]) == ("off", "not_enabled")
    assert "DELETE /api/v1/push/subscriptions/browser-1" in scene.server.rest
    assert await scene.run("Object.keys(localStorage)") == []
    await scene.see(f"(await ({SHOWN})()).length === 0")
    assert ("receipt-1", "closed") not in scene.server.receipts


async def test_turning_it_off_leaves_the_applications_own_notifications(stage):
    scene = await stage.open("{push: {worker: '/beside.js'}}")
    await scene.push(payload())
    await scene.run("navigator.serviceWorker.ready.then((one) => one.showNotification('Theirs'))")

    await scene.run("hub.push.disable()")

    await scene.see(f"(await ({SHOWN})()).length === 1")
    assert [one["title"] for one in await scene.shown()] == ["Theirs"]


async def test_signing_out_ends_the_subscription_and_clears_the_screen(stage):
    scene = await stage.open("{getToken: async () => window.isOut ? null : 'token'}", connect=True)
    await scene.push(payload())

    await scene.run("void (window.isOut = true)")
    await scene.server.peers[0].close(4410)

    await scene.see(f"(await ({SHOWN})()).length === 0")
    assert (await scene.run("hub.push.status()"))["reason"] == "signed_out"
    assert (
        await scene.run(
            "navigator.serviceWorker.getRegistrations().then(async ([one]) => await one.pushManager.getSubscription())"
        )
        is None
    )


async def test_what_is_read_in_a_page_is_closed_on_the_screen(stage):
    scene = await stage.open(connect=True)
    first = await scene.server.notify()
    second = await scene.server.notify()
    for one in (first, second):
        await scene.push(payload(notification={"tag": one, "data": {"notification_id": one}}))

    await scene.server.change("read", first)

    await scene.see(f"(await ({SHOWN})()).length === 1")
    assert [one["tag"] for one in await scene.shown()] == [second]


async def test_a_test_is_asked_for_this_browser(stage):
    scene = await stage.open()

    await scene.run("hub.push.test()")

    assert scene.server.rest[-1] == "POST /api/v1/push/subscriptions/browser-1/test"
