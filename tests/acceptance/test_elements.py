"""The elements in a real Chromium, under the policy of our own pages, against a hub that can be told to fail."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, FloatRect, Locator, Page, expect

from app.console import read_files
from tests.acceptance import axe
from tests.acceptance.browsers import chromium
from tests.acceptance.elements_server import ElementsServer
from tests.acceptance.sdk_server import problem
from tests.machine import program

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.asyncio(loop_scope="module")

BELL = "<notify-bell></notify-bell>"
INBOX = "<notify-inbox></notify-inbox>"
TOASTS = '<notify-toasts duration="60000"></notify-toasts>'  # longer than a busy machine stands still
PREFERENCES = '<notify-preferences types="billing.invoice-due"></notify-preferences>'
DIGEST = '<notify-digest-settings types="iep_update transport"></notify-digest-settings>'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    """A page that complains, or breaks its policy, fails the test."""
    async with AsyncExitStack() as stack:
        stage = Stage(browser, stack)
        yield stage
        for page in stage.pages:
            assert await page.evaluate("broken") == []
    assert stage.complaints == []


class Stage:
    """Serves pages and opens them; everything ends with the test."""

    def __init__(self, browser: Browser, stack: AsyncExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.pages: list[Page] = []
        self.complaints: list[str] = []
        self.expected = {
            "Failed to load resource"  # the browser's word about a refusal that a test has ordered
        }

    async def serve(self, body: str, **options: Any) -> ElementsServer:
        server = ElementsServer(body, **options)
        await self._stack.enter_async_context(server.serve())
        return server

    async def open(self, server: ElementsServer, *, frozen: bool = False, **context: Any) -> Page:
        window: BrowserContext = await self._stack.enter_async_context(
            await self._browser.new_context(**context)
        )
        window.on("console", lambda message: self._hear(message.type, message.text))
        window.on("weberror", lambda error: self.complaints.append(str(error.error)))
        page = await window.new_page()
        if frozen:
            await page.clock.install()
            # The network gets no faster when a test lets time pass: the hub gives up what is still to come.
            self.expected.add("WebSocket is closed before the connection is established")
        await page.goto(server.url)
        await page.locator("html[data-ready]").wait_for()
        self.pages.append(page)
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(one in text for one in self.expected):
            self.complaints.append(text)


async def filled(server: ElementsServer, **more: Any) -> list[str]:
    """Three notifications, the oldest read: ids from the oldest to the newest."""
    start = datetime.now(UTC) - timedelta(minutes=65)
    told = (
        {"title": "Welcome", "message": "It waits for you here."},
        {"title": "Maintenance", "message": "On Sunday.", "priority": "high", "action_url": "/calendar"},
        {
            "title": "Sign this",
            "message": "Before Friday.",
            "priority": "urgent",
            "notification_type": "iep_update",
        },
    )
    ids = [
        await server.notify(created_at=(start + timedelta(minutes=20 * place)).isoformat(), **{**one, **more})
        for place, one in enumerate(told)
    ]
    server.items[ids[0]]["read"] = True
    return ids


def part(of: Page | Locator, name: str) -> Locator:
    return of.locator(f"[part~={name}]")


async def is_live(page: Page) -> None:
    await page.wait_for_function("() => hub.state.state === 'open'")


# -- what is shipped -------------------------------------------------------------------------------


async def test_they_are_smaller_than_twenty_kilobytes():
    _, files = read_files()

    assert len(files["elements.js"].compressed) < 20_000
    assert len(files["digest-settings.js"].compressed) < 10_000  # loaded by those who show it


async def test_they_can_be_imported_where_there_is_no_page():
    script = "import('./static/elements.js').then(({ languages }) => console.log(languages.length))"
    node = await asyncio.create_subprocess_exec(
        program("node"), "--input-type=module", "--eval", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await node.communicate()

    assert printed == b"7\n"


async def test_every_language_says_everything(stage):
    page = await stage.open(await stage.serve(""))

    keys = await page.evaluate(
        """async () => {
            const walk = (of, path = "") => Object.entries(of).flatMap(([key, value]) =>
                typeof value === "object" && key !== "unread" ? walk(value, `${path}${key}.`) : [`${path}${key}`]);
            const blanks = (text) => (JSON.stringify(text).match(/\\{\\w+\\}/g) ?? []).sort().join();
            const said = {};
            const { english } = await import("/static/digest-settings.js");
            for (const language of languages) {
                const words = language === "en" ? { ...texts.en, digest: english } : (await import(`/static/texts/${language}.js`)).default;
                said[language] = walk(words).sort().map((path) => {
                    const value = path.split(".").reduce((found, key) => found[key], words);
                    return `${path} ${path === "unread" ? "" : blanks(value)}`;
                });
                const { unread } = words;
                const wanted = new Intl.PluralRules(language).resolvedOptions().pluralCategories;
                if (!unread.other || (wanted.length === 6 && wanted.some((one) => !unread[one]))) said[language] = [];
            }
            return said;
        }"""
    )

    assert sorted(keys) == ["ar", "de", "en", "es", "fr", "pt", "sw"]
    assert [language for language in keys if keys[language] != keys["en"]] == []


# -- the bell --------------------------------------------------------------------------------------


async def test_the_bell_says_how_many_are_unread_as_they_come(stage):
    server = await stage.serve(BELL)
    page = await stage.open(server)
    button = page.locator("notify-bell button").first
    await expect(button).to_have_accessible_name("Inbox, nothing unread")
    await expect(part(page, "badge")).to_be_hidden()

    await filled(server)

    await expect(button).to_have_accessible_name("Inbox, 3 unread")
    await expect(part(page, "badge")).to_have_text("3")
    assert await page.evaluate("events.filter(([type]) => type === 'notify-count').at(-1)[1].unread") == 3


async def test_the_badge_counts_to_its_maximum(stage):
    server = await stage.serve('<notify-bell max="2"></notify-bell>')
    await filled(server, read=False)
    page = await stage.open(server)
    await expect(part(page, "badge")).to_have_text("2")

    await server.notify()

    await expect(part(page, "badge")).to_have_text("2+")
    await page.evaluate("document.querySelector('notify-bell').max = 9")
    await expect(part(page, "badge")).to_have_text("3")


async def test_an_inbox_is_used_by_the_keyboard_alone(stage):
    server = await stage.serve(BELL)
    ids = await filled(server)
    page = await stage.open(server)
    articles = page.locator("article")

    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(articles.nth(0)).to_be_focused()  # the first that is unread
    await expect(page.get_by_role("dialog", name="Inbox")).to_be_visible()
    await page.keyboard.press("End")
    await expect(articles.nth(2)).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(articles.nth(1)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(part(articles.nth(1), "link")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await expect(page.locator("article.unread")).to_have_count(1)
    await server.until(lambda: bool(server.items[ids[1]]["read"]))

    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("menuitem", name="For an hour")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("menuitem", name="Until tomorrow, 9:00")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Snooze: “Maintenance”")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await expect(articles).to_have_count(2)
    await server.until(lambda: bool(server.items[ids[1]]["snoozed_until"]))

    await expect(articles.nth(1)).to_be_focused()  # the focus is not lost with what it was on
    await page.keyboard.press("Delete")
    await expect(articles).to_have_count(1)
    await expect(articles).to_be_focused()
    await page.get_by_role("button", name="Undo").press("Enter")
    await expect(articles).to_have_count(2)
    await page.keyboard.press("Escape")
    await expect(page.locator("notify-bell button").first).to_be_focused()
    assert await page.evaluate("events.map(([type, { action }]) => action).filter(Boolean)") == [
        "read",
        "snooze",
        "archive",
        "undo",
    ]


async def test_only_one_notification_is_a_stop_of_the_tab_key(stage):
    server = await stage.serve(f"{INBOX}<button>after</button>")
    await filled(server)
    page = await stage.open(server)
    await page.locator("article").nth(1).focus()

    for _ in range(5):  # its link, its three buttons, and out
        await page.keyboard.press("Tab")

    await expect(page.get_by_role("button", name="after")).to_be_focused()


async def test_the_panel_closes_when_the_focus_leaves_it_and_lets_it_go(stage):
    server = await stage.serve(f"{BELL}<button>after</button>")
    await filled(server)
    page = await stage.open(server)
    await page.locator("notify-bell button").first.click()
    await expect(page.locator("article").first).to_be_focused()

    await page.get_by_role("button", name="after").focus()

    await expect(part(page, "panel")).to_be_hidden()
    await expect(page.get_by_role("button", name="after")).to_be_focused()
    assert await page.evaluate("events.map(([type]) => type).filter((type) => /open|close/.test(type))") == [
        "notify-open",
        "notify-close",
    ]


async def test_a_bell_can_hold_an_inbox_of_the_pages_own(stage):
    body = "<notify-bell><notify-inbox><h2 slot='header'>Post</h2></notify-inbox></notify-bell>"
    server = await stage.serve(body, script="document.querySelector('notify-bell').hub = hub;")
    await filled(server)
    page = await stage.open(server)
    await page.locator("notify-bell button").first.click()

    await expect(page.get_by_role("heading", name="Post")).to_be_visible()
    await expect(page.locator("article")).to_have_count(3)
    await expect(page.locator("notify-inbox")).to_have_count(1)
    await expect(page.locator("article").first).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("notify-bell button").first).to_be_focused()


# -- the inbox -------------------------------------------------------------------------------------


async def test_two_tabs_agree_on_what_was_read(stage):
    server = await stage.serve(INBOX)
    await filled(server)
    left, right = await stage.open(server), await stage.open(server)
    await expect(left.locator("article.unread")).to_have_count(2)
    await expect(right.locator("article.unread")).to_have_count(2)
    await is_live(left)

    await right.get_by_role("button", name="Mark read: “Sign this”").click()
    await expect(left.locator("article.unread")).to_have_count(1)
    await left.get_by_role("button", name="Mark all read").click()

    await expect(right.locator("article.unread")).to_have_count(0)
    await expect(part(right, "count")).to_have_text("")
    await expect(part(right, "mark-all")).to_be_disabled()


async def test_what_comes_is_told_once_and_loudly_only_where_it_is_urgent(stage):
    server = await stage.serve(BELL + INBOX + TOASTS)
    page = await stage.open(server)
    await is_live(page)

    await server.notify(title="Calm", message="Read me.")
    await server.notify(title="Fire", message="Run.", priority="urgent")

    await expect(part(page, "assertive").filter(has_text="Fire. Run.")).to_have_count(1)
    await expect(part(page, "polite").filter(has_text="Calm. Read me.")).to_have_count(1)
    await expect(part(page, "polite").filter(has_text="Fire")).to_have_count(0)
    assert await part(page.locator("notify-toasts"), "polite").text_content() == "Calm. Read me."


async def test_an_inbox_tells_how_it_is(stage):
    server = await stage.serve(INBOX)
    server.refuses_list = True
    page = await stage.open(server)
    inbox = page.locator("notify-inbox")
    await expect(part(page, "error").get_by_role("alert")).to_have_text("The inbox could not be read.")
    assert await inbox.evaluate("(inbox) => inbox.state") == "error"

    server.refuses_list = False
    await page.get_by_role("button", name="Try again").click()
    await expect(part(page, "empty")).to_be_visible()
    assert await inbox.evaluate("(inbox) => inbox.state") == "empty"

    await filled(server)
    await expect(part(page, "item")).to_have_count(3)
    await expect(part(page, "empty")).to_be_hidden()
    assert await inbox.evaluate("(inbox) => inbox.state") == "ready"

    server.ticket_answers = [problem(503, "unavailable")] * 100  # so that it lasts until it is seen
    server.drop()
    await expect(part(page, "status").first).to_contain_text("Offline")
    server.ticket_answers.clear()
    await expect(part(page, "status").first).to_be_hidden()


async def test_a_person_who_is_signed_out_is_told_so(stage):
    script = "useHub(createHub({ getToken: () => null }));"
    page = await stage.open(await stage.serve(INBOX, script=script))

    await expect(part(page, "error").get_by_role("alert")).to_have_text("You are signed out.")


async def test_older_ones_come_when_they_are_wanted(stage):
    server = await stage.serve('<notify-inbox page-size="2"></notify-inbox>')
    server.next_cursor = "next"
    for _ in range(2):
        await filled(server)
    page = await stage.open(server)
    await expect(page.locator("article")).to_have_count(3)
    await expect(page.locator("article").first).to_have_attribute("aria-setsize", "-1")

    await page.get_by_role("button", name="Show older").click()

    await expect(page.locator("article")).to_have_count(6)
    await expect(page.locator("article").last).to_have_attribute("aria-posinset", "6")
    await expect(page.locator("article").last).to_have_attribute("aria-setsize", "6")
    await expect(page.get_by_role("button", name="Show older")).to_be_hidden()


async def test_a_change_that_is_refused_is_taken_back_and_told(stage):
    server = await stage.serve(INBOX)
    await filled(server)
    server.refuses["archive"] = {"code": "conflict", "message": "Not now."}
    page = await stage.open(server)
    await is_live(page)
    await page.get_by_role("button", name="Archive: “Welcome”").click()

    await expect(part(page, "notice")).to_contain_text("That did not work: Not now.")
    await expect(part(page, "undo")).to_be_hidden()
    await expect(page.locator("article")).to_have_count(3)
    assert await page.evaluate("events.map(([type]) => type).includes('notify-error')")


async def test_a_click_is_the_pages_first_and_then_leads_to_the_link(stage):
    server = await stage.serve(INBOX)
    await filled(server)
    page = await stage.open(server)
    await is_live(page)
    await page.evaluate(
        "document.querySelector('notify-inbox').addEventListener('notify-click', (event) => event.preventDefault(), { once: true })"
    )
    await part(page, "message").filter(has_text="On Sunday.").click()
    await part(page, "message").filter(has_text="Before Friday.").click()  # it has no link
    await expect(part(page.locator("article.unread"), "title")).to_have_text(["Maintenance"])
    told = await page.evaluate(
        "events.filter(([type]) => type === 'notify-click').map(([, { link }]) => link)"
    )
    assert told == ["/calendar", None]

    await page.route(
        "**/calendar", lambda route: route.fulfill(body="<title>Calendar</title>", content_type="text/html")
    )
    await page.locator("article").nth(1).focus()
    await page.keyboard.press("Enter")

    await expect(page).to_have_title("Calendar")
    stage.pages.remove(page)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "http://evil.example/", "//evil.example/", "data:text/html,x"]
)
async def test_a_link_that_may_not_be_followed_is_none(stage, link):
    server = await stage.serve(INBOX + TOASTS)
    page = await stage.open(server)
    await is_live(page)

    await server.notify(title="<img src=x onerror=alert(1)>", message="<b>bold</b>", action_url=link)

    await expect(part(page.locator("article"), "title")).to_have_text("<img src=x onerror=alert(1)>")
    await expect(part(part(page, "toast"), "message")).to_have_text("<b>bold</b>")
    assert await page.locator("a[href], img, b").count() == 0


# -- toasts ----------------------------------------------------------------------------------------


async def test_toasts_come_and_go_and_the_urgent_stay(stage):
    server = await stage.serve(TOASTS)
    page = await stage.open(server, frozen=True)
    await is_live(page)
    for title, priority in (("one", "urgent"), ("two", "normal"), ("three", "low"), ("four", "high")):
        await server.notify(title=title, priority=priority)
        await page.clock.run_for(50)
        await expect(part(part(page, "toast"), "title").first).to_have_text(title)

    await expect(part(part(page, "toast"), "title")).to_have_text(["four", "three", "one"])
    await page.clock.run_for(40_000)
    await expect(part(page, "toast")).to_have_count(3)
    await page.clock.run_for(25_000)

    await expect(part(part(page, "toast"), "title")).to_have_text(["one"])
    await page.get_by_role("button", name="Dismiss: “one”").click()
    await expect(part(page, "stack")).to_be_hidden()
    assert await page.evaluate("document.createElement('notify-toasts').duration") == 6_000


@pytest.mark.parametrize("way", ["hover", "focus"])
async def test_time_stands_still_for_whoever_is_at_a_toast(stage, way):
    server = await stage.serve(f"<button>before</button>{TOASTS}")
    page = await stage.open(server, frozen=True)
    await is_live(page)
    await page.get_by_role("button", name="before").focus()
    await server.notify(title="one")
    dismiss = page.get_by_role("button", name="Dismiss: “one”")
    await expect(dismiss).to_be_visible()

    await (dismiss.hover() if way == "hover" else dismiss.focus())
    await page.clock.run_for(90_000)
    await expect(dismiss).to_be_visible()

    if way == "focus":
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="before")).to_be_focused()
    else:
        await page.mouse.move(0, 0)
        await page.clock.run_for(70_000)
    await expect(part(page, "toast")).to_have_count(0)


async def test_what_was_read_elsewhere_is_no_toast_here(stage):
    server = await stage.serve(TOASTS)
    page = await stage.open(server)
    await is_live(page)
    first = await server.notify(title="one", priority="urgent")
    await server.notify(title="two", priority="urgent")
    await expect(part(page, "toast")).to_have_count(2)

    await server.change("read", first)
    await expect(part(page, "toast")).to_have_count(1)
    await page.evaluate("document.addEventListener('notify-toast', (event) => event.preventDefault())")
    await server.notify(title="three")

    await page.wait_for_function("() => hub.inbox.unread === 2")
    await expect(part(part(page, "toast"), "title")).to_have_text(["two"])


# -- preferences -----------------------------------------------------------------------------------


async def test_preferences_are_a_table_of_switches(stage):
    server = await stage.serve(PREFERENCES)
    server.matrix = {"*": {"email": False}}
    server.opt_outs = [
        {
            "scope": "channel_type",
            "value": "sms:iep_update",
            "reason": "api",
            "created_at": "2026-01-01T00:00:00Z",
        }
    ]
    page = await stage.open(server)
    await expect(page.get_by_role("switch", name="Billing invoice due by E-mail")).not_to_be_checked()

    await page.get_by_role("switch", name="Billing invoice due by E-mail").press("Space")
    await expect(part(page, "status")).to_have_text("Saved.")
    await page.get_by_role("button", name="Start again: “Iep update by SMS”").click()
    await expect(part(page, "opt-outs")).to_be_hidden()

    assert server.matrix == {"*": {"email": False}, "billing.invoice-due": {"email": True}}
    assert server.opt_outs == []
    assert await page.evaluate("events.find(([type]) => type === 'notify-change')[1].matrix") == server.matrix


async def test_a_setting_made_elsewhere_meanwhile_stays(stage):
    server = await stage.serve(PREFERENCES)
    page = await stage.open(server)
    await expect(page.get_by_role("switch").first).to_be_visible()
    server.matrix = {"*": {"sms": False}}

    await page.get_by_role("switch", name="Everything else by Telegram").click()
    await expect(part(page, "status")).to_have_text("Saved.")

    assert server.matrix == {"*": {"sms": False, "telegram": False}}
    await expect(page.get_by_role("switch", name="Everything else by SMS")).not_to_be_checked()


# -- the digest ------------------------------------------------------------------------------------

RUNS = [
    {
        "date": f"2027-03-{day}",
        "slot": 0,
        "at": f"2027-03-{day}T0{hour}:00:00Z",
        "local": f"2027-03-{day}T07:00",
        "utc_offset": offset,
        "is_clock_change": day == 28,
    }
    for day, hour, offset in ((27, 6, "+01:00"), (28, 5, "+02:00"), (29, 5, "+02:00"))
]
WAITING = [
    {
        "id": f"n{place}",
        "title": title,
        "notification_type": "iep_update",
        "priority": "normal",
        "created_at": "2027-03-26T12:00:00Z",
        "read": False,
    }
    for place, title in enumerate(("<b>Sign</b> this", "The bus is late"))
]


def digest_events(name: str) -> str:
    return f"events.filter(([type]) => type === 'notify-{name}').map(([, detail]) => detail)"


async def digest_stage(stage: Stage, **state: Any) -> tuple[ElementsServer, Page]:
    server = await stage.serve(DIGEST)
    server.digest.update(state)
    server.runs, server.waiting = RUNS, WAITING
    page = await stage.open(server, timezone_id="Europe/Berlin")
    await expect(page.get_by_role("switch", name="Send me a summary of what came in")).to_be_visible()
    return server, page


async def test_a_digest_is_set_up_field_by_field_and_each_is_saved_at_once(stage):
    server, page = await digest_stage(stage, is_enabled=False)
    status = part(page, "status")
    await expect(page.get_by_label("How often")).to_be_hidden()

    await page.get_by_role("switch", name="Send me a summary of what came in").press("Space")
    await expect(status).to_have_text("Saved.")
    await page.get_by_label("How often").select_option("Once a week")
    await page.get_by_label("On", exact=True).select_option("Friday")
    await page.get_by_label("Time zone").select_option("America/New_York")
    await page.get_by_label("Not on weekends").check()
    await page.get_by_role("group", name="By", exact=True).get_by_label("Telegram").check()
    await page.get_by_role("group", name="By", exact=True).get_by_label("E-mail").uncheck()
    await page.get_by_label("From this priority on").select_option("High")
    await page.get_by_label("Only what I have not read").check()
    await page.get_by_role("group", name="Only these kinds").get_by_label("Iep update").check()
    await page.get_by_role("group", name="Never these kinds").get_by_label("Another kind").fill("billing.due")
    await page.keyboard.press("Enter")
    await page.get_by_label("Time 1").fill("06:45")
    await page.get_by_role("button", name="Add a time").click()
    await expect(page.get_by_label("Time 2")).to_be_focused()
    wanted = {
        "is_enabled": True,
        "frequency": "weekly",
        "weekly_day": 4,
        "delivery_times": ["06:45", "07:00"],
        "timezone": "America/New_York",
        "exclude_weekends": True,
        "channels": ["in_app", "telegram"],
        "min_priority": "high",
        "unread_only": True,
        "include_types": ["iep_update"],
        "exclude_types": ["billing.due"],
    }

    await server.until(lambda: {name: server.digest[name] for name in wanted} == wanted)
    assert (await page.evaluate(digest_events("digest")))[-1]["settings"] == server.digest
    await page.get_by_label("How often").select_option("Every day")
    await page.get_by_role("button", name="Use this device’s: Europe/Berlin").click()
    await server.until(
        lambda: (server.digest["weekly_day"], server.digest["timezone"]) == (None, "Europe/Berlin")
    )


async def test_kinds_that_come_once_a_week_have_a_day_whatever_the_frequency(stage):
    server, page = await digest_stage(stage)
    await expect(page.get_by_label("On", exact=True)).to_be_hidden()

    await page.get_by_role("group", name="These kinds only once a week").get_by_label("Transport").check()
    await page.get_by_label("On", exact=True).select_option("Thursday")
    await page.get_by_label("How often").select_option("On working days")
    await page.get_by_label("Tell me also when nothing came for a week").check()
    await page.get_by_label("Only in the inbox when I am here anyway").check()
    wanted = {
        "weekly_types": ["transport"],
        "weekly_day": 3,
        "frequency": "weekdays",
        "all_quiet": True,
        "inbox_when_active": True,
    }
    await server.until(lambda: {name: server.digest[name] for name in wanted} == wanted)

    await page.get_by_role("group", name="These kinds only once a week").get_by_label("Transport").uncheck()
    await server.until(lambda: bool(server.digest["weekly_day"] is None))


async def test_the_zone_of_a_journey_is_proposed_and_taken_by_a_click(stage):
    server, page = await digest_stage(stage, proposed_timezone="Asia/Tokyo")
    assert server.device_timezone == "Europe/Berlin"

    await page.get_by_role("button", name="You seem to be elsewhere. Use Asia/Tokyo").click()

    await server.until(lambda: bool(server.digest["timezone"] == "Asia/Tokyo"))


async def test_it_shows_when_the_next_ones_come_what_waits_and_what_they_would_say(stage):
    server, page = await digest_stage(stage)

    await expect(part(page, "run")).to_have_count(3)
    await expect(part(page, "clock-change")).to_have_count(1)
    await expect(part(page, "run").nth(1)).to_contain_text("The clocks change on this day")
    await expect(part(page, "run").nth(1)).to_contain_text("7:00")
    await expect(part(page, "pending-item")).to_have_text(
        ["<b>Sign</b> this · Iep update", "The bus is late · Iep update"]
    )
    await part(page, "show-preview").click()
    await expect(part(page, "preview")).to_contain_text("Notifications: 2 · Unread: 2")
    await expect(part(page, "preview").locator("b")).to_have_count(0)

    server.waiting = []
    await server.notify()
    await expect(part(page, "pending-item")).to_have_count(0)
    await expect(page.get_by_text("Nothing has come in since the last one.")).to_be_visible()


async def test_one_is_sent_now_unless_the_page_says_no(stage):
    server, page = await digest_stage(stage)

    await part(page, "send-now").click()
    await expect(part(page, "status")).to_have_text("It is on its way.")
    await page.evaluate(
        "document.addEventListener('notify-send', (event) => event.preventDefault(), { once: true })"
    )
    await part(page, "send-now").click()
    server.waiting = []
    await part(page, "send-now").click()
    await expect(part(page, "status")).to_have_text("Nothing has come in since the last one.")

    assert server.digests_sent == 1
    assert len(await page.evaluate(digest_events("send"))) == 3


async def test_what_the_server_refuses_by_name_is_told_at_its_field_and_nothing_is_lost(stage):
    server, page = await digest_stage(stage)
    server.faults = lambda wanted: (
        {"delivery_times": "must not name anything twice"}
        if len(set(wanted["delivery_times"])) < len(wanted["delivery_times"])
        else {}
    )
    await page.get_by_role("button", name="Add a time").click()
    await expect(part(page, "status")).to_have_text("Saved.")

    second = page.get_by_label("Time 2")
    await second.fill("07:00")
    await second.press("Enter")
    await expect(page.get_by_text("must not name anything twice")).to_be_visible()
    await page.get_by_label("From this priority on").select_option("High")

    await expect(second).to_have_attribute("aria-invalid", "true")
    await expect(second).to_have_accessible_description("must not name anything twice")
    await expect(second).to_have_value("07:00")
    await expect(part(page, "status")).to_have_text("Not saved yet: something is marked.")
    await server.until(lambda: bool(server.digest["min_priority"] == "high"))  # the rest is saved
    assert server.digest["delivery_times"] == ["07:00", "12:00"]

    await second.fill("18:30")
    await second.press("Enter")
    await expect(part(page, "status")).to_have_text("Saved.")
    await expect(second).not_to_have_attribute("aria-invalid", "true")
    assert server.digest["delivery_times"] == ["07:00", "18:30"]


async def test_a_fault_of_a_field_that_was_not_touched_is_told_there_and_mended_by_either(stage):
    server, page = await digest_stage(stage, frequency="weekly", weekly_day=5)
    server.faults = lambda wanted: (
        {"weekly_day": "lies in the weekend"}
        if wanted["exclude_weekends"] and wanted["weekly_day"] == 5
        else {}
    )

    await page.get_by_label("Not on weekends").check()
    await expect(page.get_by_label("On", exact=True)).to_have_accessible_description("lies in the weekend")
    await expect(page.get_by_label("Not on weekends")).to_be_checked()
    await page.get_by_label("On", exact=True).select_option("Monday")
    await expect(part(page, "status")).to_have_text("Saved.")

    assert (server.digest["exclude_weekends"], server.digest["weekly_day"]) == (True, 0)


async def test_what_does_not_reach_the_server_is_taken_back_and_can_be_tried_again(stage):
    server, page = await digest_stage(stage)
    server.refuses_digest = True

    await page.get_by_label("How often").select_option("On working days")
    await expect(part(page, "status")).to_contain_text("That did not work")
    await expect(page.get_by_label("How often")).to_have_value("daily")

    server.refuses_digest = False
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_label("How often")).to_have_value("weekdays")
    await expect(part(page, "status")).to_have_text("Saved.")
    assert server.digest["frequency"] == "weekdays"
    assert len(await page.evaluate(digest_events("error"))) == 1


async def test_the_page_may_keep_a_change_from_being_saved(stage):
    server, page = await digest_stage(stage)
    await page.evaluate("document.addEventListener('notify-save', (event) => event.preventDefault())")

    await page.get_by_label("How often").select_option("Every hour, from 8 to 20")
    await expect(page.get_by_label("How often")).to_have_value("daily")

    [asked] = await page.evaluate(digest_events("save"))
    assert asked["changes"] == {"frequency": "hourly", "weekly_day": None}
    assert "PUT /api/v1/digest/subscription" not in server.rest


async def test_what_was_set_elsewhere_meanwhile_stays_in_a_digest_too(stage):
    server, page = await digest_stage(stage)
    server.digest["min_priority"] = "urgent"

    await page.get_by_label("Not on weekends").check()
    await expect(part(page, "status")).to_have_text("Saved.")

    assert (server.digest["min_priority"], server.digest["exclude_weekends"]) == ("urgent", True)
    await expect(page.get_by_label("From this priority on")).to_have_value("urgent")


async def test_a_digest_is_set_by_the_keyboard_alone(stage):
    server, page = await digest_stage(stage)
    await page.get_by_role("switch", name="Send me a summary of what came in").focus()

    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")  # "On working days": letters count only if they come quickly
    await server.until(lambda: bool(server.digest["frequency"] == "weekdays"))
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Time 1")).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Enter")

    await server.until(lambda: bool(server.digest["delivery_times"] == ["08:00"]))


async def test_the_digest_of_the_sdk_asks_what_it_says(stage):
    server, page = await digest_stage(stage)
    server.rest.clear()

    settings = await page.evaluate(
        "hub.digest.get().then((now) => hub.digest.put({ ...now, unread_only: true }))"
    )
    runs = await page.evaluate("hub.digest.nextRuns().then(({ runs }) => runs.length)")
    await page.evaluate("hub.digest.pending({ limit: 3 })")
    preview = await page.evaluate("hub.digest.preview()")
    await page.evaluate("hub.digest.sendNow()")
    moved = [server.windows_moved]
    await page.evaluate("hub.digest.sendNow({ moveWindow: true })")
    moved.append(server.windows_moved)
    stopped = await page.evaluate(
        "hub.digest.get({ signal: AbortSignal.abort(new Error('enough')) }).catch(({ message }) => message)"
    )
    server.faults = lambda wanted: {"timezone": "must be a time zone"}
    refused = await page.evaluate("hub.digest.put({}).catch(({ code, details }) => ({ code, details }))")

    assert settings["unread_only"] is True
    assert (runs, preview["total"]) == (3, 2)
    assert moved == [0, 1]
    assert stopped == "enough"
    assert refused == {
        "code": "invalid",
        "details": [{"path": "timezone", "message": "must be a time zone"}],
    }
    assert server.rest[:6] == [
        f"{method} /api/v1/digest/{path}"
        for method, path in (
            ("GET", "subscription"),
            ("PUT", "subscription"),
            ("GET", "next-runs"),
            ("GET", "pending"),
            ("GET", "preview"),
            ("POST", "run"),
        )
    ]


PUSH = """
  let state = { state: "off", reason: "not_enabled" };
  window.asked = 0;
  hub.push = {
    status: async () => state,
    enable: async () => { asked += 1; if (window.refusal) throw Object.assign(new Error("no"), { code: refusal, ...(state = { state: "unavailable", reason: refusal }) }); return (state = { state: "on", reason: null }); },
    disable: async () => (state = { state: "off", reason: "not_enabled" }),
    test: async () => ({}),
  };
  useHub(hub);
"""


async def test_our_own_question_comes_before_the_browsers(stage):
    page = await stage.open(await stage.serve(PREFERENCES, script=PUSH))
    await expect(part(page, "push-status")).to_have_text("You are told only while this page is open.")
    await expect(part(page, "ask")).to_be_hidden()

    await page.get_by_role("button", name="Turn on").press("Enter")
    await expect(page.get_by_role("group", name="Be told here")).to_be_visible()
    await page.get_by_role("button", name="Not now").press("Enter")
    await expect(part(page, "ask")).to_be_hidden()
    assert await page.evaluate("asked") == 0

    await page.get_by_role("button", name="Turn on").press("Enter")
    await expect(page.get_by_role("button", name="Turn on")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(part(page, "push-status")).to_have_text("You are told here, also while this page is closed.")
    await expect(page.get_by_role("button", name="Turn off")).to_be_focused()
    await page.get_by_role("button", name="Send a test").click()
    await expect(part(page, "status")).to_have_text("A test is on its way.")
    await page.get_by_role("button", name="Turn off").click()
    await expect(part(page, "push-status")).to_have_text("You are told only while this page is open.")


async def test_a_denial_is_explained_and_not_asked_about_again(stage):
    page = await stage.open(await stage.serve(PREFERENCES, script="window.refusal = 'denied';" + PUSH))
    await page.get_by_role("button", name="Turn on").click()
    await page.get_by_role("button", name="Turn on").click()

    await expect(part(page, "push-status")).to_contain_text(
        "Your browser refuses notifications from this site."
    )
    await expect(part(page, "push-toggle")).to_be_hidden()


async def test_an_iphone_is_told_of_its_home_screen(stage):
    iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1"
    server = await stage.serve(PREFERENCES, script="delete window.PushManager; useHub(hub);")
    page = await stage.open(server, user_agent=iphone)

    await expect(part(page, "push-status")).to_contain_text("Add to Home Screen")


# -- looks and languages ---------------------------------------------------------------------------


async def test_light_and_dark_follow_the_page_unless_an_element_is_told(stage):
    server = await stage.serve(INBOX)
    colour = "(inbox) => getComputedStyle(inbox).color"
    light, dark = await stage.open(server), await stage.open(server, color_scheme="dark")

    assert await light.locator("notify-inbox").evaluate(colour) == "rgb(35, 32, 27)"
    assert await dark.locator("notify-inbox").evaluate(colour) == "rgb(236, 232, 224)"
    await dark.evaluate("document.querySelector('notify-inbox').theme = 'light'")
    assert await dark.locator("notify-inbox").evaluate(colour) == "rgb(35, 32, 27)"


async def test_everything_is_mirrored_where_it_is_read_from_right_to_left(stage):
    server = await stage.serve(BELL + TOASTS, lang="ar", direction="rtl")
    await filled(server)
    page = await stage.open(server)
    await expect(page.locator("notify-bell button").first).to_have_accessible_name(
        "صندوق الوارد, إشعارات غير مقروءة: 2"
    )
    await page.locator("notify-bell button").first.click()
    await expect(page.locator("article")).to_have_count(3)

    async def place(one: Locator) -> FloatRect:
        box = await one.bounding_box()
        assert box is not None
        return box

    article, mark = await place(page.locator("article").first), await place(part(page, "mark").first)
    title, badge = await place(part(page, "title").first), await place(part(page, "badge"))
    bell = await place(page.locator("notify-bell button").first)
    assert mark["x"] > article["x"] + article["width"] * 0.9
    assert badge["x"] < bell["x"]
    assert title["x"] + title["width"] <= mark["x"]
    await page.keyboard.press("Escape")
    await server.notify()
    assert (await place(part(page, "toast")))["x"] < 100


@pytest.mark.parametrize(
    ("language", "heading", "time"),
    [
        ("en", "Inbox", "1 hour ago"),
        ("de-AT", "Posteingang", "vor 1 Stunde"),
        ("fr", "Boîte de réception", "il y a 1 heure"),
        ("es", "Bandeja de entrada", "hace 1 hora"),
        ("pt", "Caixa de entrada", "há 1 hora"),
        ("sw", "Kikasha", "saa 1 iliyopita"),
        ("ar", "صندوق الوارد", "قبل ساعة واحدة"),
        ("ja", "Inbox", "1 時間前"),
    ],
)
async def test_a_page_is_spoken_to_in_its_language(stage, language, heading, time):
    server = await stage.serve(INBOX, lang=language)
    await filled(server)
    page = await stage.open(server)

    await expect(part(page, "heading")).to_have_text(heading)
    await expect(part(page, "time").last).to_have_text(time)


async def test_the_language_and_the_words_can_change_at_any_time(stage):
    server = await stage.serve(INBOX)
    await filled(server)
    page = await stage.open(server)
    await expect(part(page, "count")).to_have_text("2 unread")

    await page.evaluate("document.documentElement.lang = 'de'")
    await expect(part(page, "count")).to_have_text("2 ungelesen")
    await page.evaluate("document.querySelector('notify-inbox').lang = 'fr'")
    await expect(part(page, "count")).to_have_text("2 non lues")
    await page.evaluate(
        """() => {
            texts.nl = { unread: { other: "{count} ongelezen" } };
            document.querySelector('notify-inbox').texts = { inbox: "Post", types: { iep_update: "IEP" } };
            document.querySelector('notify-inbox').lang = 'nl';
        }"""
    )

    await expect(part(page, "count")).to_have_text("2 ongelezen")
    await expect(part(page, "heading")).to_have_text("Post")
    await expect(part(page, "type").first).to_have_text("IEP")
    await expect(part(page, "mark-all")).to_have_text("Mark all read")


async def test_slots_take_what_a_page_has_of_its_own(stage):
    body = """<notify-inbox>
      <h2 slot="header">Post</h2><p slot="empty">Nothing, really.</p><p slot="footer">The end.</p>
      <template slot="item"><div class="mine"><b data-field="title"></b> <i data-field="student"></i>
        <a data-field="link">Go</a></div></template>
    </notify-inbox>"""
    server = await stage.serve(body)
    page = await stage.open(server)
    await expect(page.get_by_text("Nothing, really.")).to_be_visible()
    await expect(page.get_by_text("The end.")).to_be_visible()

    await server.notify(title="<u>A</u>", action_url="/a", metadata={"student": "J. D."})
    first = page.locator("notify-inbox > .mine")
    await expect(first).to_have_text("<u>A</u> J. D. Go")
    assert await first.locator("a").get_attribute("href") == "/a"
    await expect(page.get_by_role("article", name="Unread: <u>A</u>")).to_be_visible()

    await page.evaluate(
        """() => {
            document.querySelector('notify-inbox').renderItem = ({ title }) =>
                Object.assign(document.createElement('p'), { className: 'rendered', textContent: title });
        }"""
    )
    await server.notify(title="B")
    await expect(page.locator("notify-inbox > .rendered").filter(has_text="B")).to_be_visible()


async def test_parts_and_variables_are_the_pages_to_style(stage):
    server = await stage.serve(BELL)
    await filled(server)
    page = await stage.open(server)
    await page.evaluate(
        """() => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(`notify-bell { --notify-accent: rgb(1, 2, 3); }
                notify-bell::part(badge) { background: rgb(4, 5, 6); }
                notify-bell::part(title) { color: rgb(7, 8, 9); }`);
            document.adoptedStyleSheets.push(sheet);
        }"""
    )
    await page.locator("notify-bell button").first.click()

    styles = "(one, name) => getComputedStyle(one)[name]"
    assert await page.locator("notify-bell button").first.evaluate(styles, "color") == "rgb(1, 2, 3)"
    assert await part(page, "badge").evaluate(styles, "backgroundColor") == "rgb(4, 5, 6)"
    assert await part(page, "title").first.evaluate(styles, "color") == "rgb(7, 8, 9)"


async def test_nothing_moves_for_those_who_want_it_so(stage):
    server = await stage.serve(BELL + TOASTS)
    page = await stage.open(server, reduced_motion="reduce")
    await is_live(page)
    await server.notify()
    await expect(part(page, "toast")).to_be_visible()

    moving = "(one) => getComputedStyle(one).animationName"
    assert await part(page, "toast").evaluate(moving) == "none"
    assert await page.locator("notify-bell svg").first.evaluate(moving) == "none"


# -- for everybody ---------------------------------------------------------------------------------

SCENES: dict[str, Callable[[Page, ElementsServer], Any]] = {}


def scene(show: Callable[[Page, ElementsServer], Any]) -> Callable[[Page, ElementsServer], Any]:
    SCENES[show.__name__] = show
    return show


@scene
async def open_inbox(page: Page, server: ElementsServer) -> None:
    await filled(server)
    await page.locator("notify-bell button").first.click()
    await expect(page.locator("notify-bell article")).to_have_count(3)


@scene
async def snooze_menu(page: Page, server: ElementsServer) -> None:
    await filled(server)
    await page.locator("notify-inbox button[part~=snooze]").first.click()
    await expect(part(page, "menu").first).to_be_visible()


@scene
async def empty(page: Page, server: ElementsServer) -> None:
    await expect(part(page, "empty")).to_be_visible()


@scene
async def error(page: Page, server: ElementsServer) -> None:
    server.refuses_list = True
    await page.reload()
    await expect(part(page.locator("notify-inbox"), "error")).to_be_visible()


@scene
async def toasts_and_undo(page: Page, server: ElementsServer) -> None:
    await is_live(page)
    await filled(server)
    await expect(part(page, "toast")).to_have_count(3)
    await page.locator("notify-inbox button[part~=archive]").last.click()
    await expect(part(page, "undo")).to_be_visible()


@scene
async def preferences(page: Page, server: ElementsServer) -> None:
    server.opt_outs = [{"scope": "all", "value": "", "reason": "api", "created_at": "2026-01-01T00:00:00Z"}]
    await page.evaluate("document.querySelector('notify-preferences').reload()")
    await expect(part(page, "opt-outs")).to_be_visible()
    await part(page, "push-toggle").click()
    await expect(part(page, "ask")).to_be_visible()


@scene
async def digest(page: Page, server: ElementsServer) -> None:
    server.runs, server.waiting = RUNS, WAITING
    server.faults = lambda wanted: {"min_priority": "is not that"} if wanted["min_priority"] == "high" else {}
    await page.evaluate("document.querySelector('notify-digest-settings').reload()")
    await part(page, "show-preview").click()
    await page.locator("notify-digest-settings #min_priority").select_option("high")
    await expect(part(page, "error").filter(has_text="is not that")).to_be_visible()
    await expect(part(page, "preview")).to_be_visible()


@pytest.mark.parametrize("look", ["light", "dark", "rtl"])
@pytest.mark.parametrize("name", SCENES)
async def test_axe_finds_nothing(stage, look, name):
    words = {"lang": "ar", "direction": "rtl"} if look == "rtl" else {}
    server = await stage.serve(BELL + INBOX + TOASTS + PREFERENCES + DIGEST, script=PUSH, **words)
    page = await stage.open(
        server, color_scheme="dark" if look == "dark" else "light", reduced_motion="reduce"
    )

    await SCENES[name](page, server)

    assert await axe.violations(page) == []


@pytest.mark.parametrize("width", [360, 1200])
async def test_everything_can_be_touched_and_nothing_is_cut_off(stage, width):
    server = await stage.serve(BELL + INBOX + TOASTS + PREFERENCES + DIGEST, script=PUSH)
    page = await stage.open(server, viewport={"width": width, "height": 800}, has_touch=width < 800)
    await is_live(page)
    await filled(server)
    await expect(part(page, "toast")).to_have_count(3)
    await expect(page.locator("notify-digest-settings select").first).to_be_visible()

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    controls = page.locator("button:visible, input:visible, select:visible")
    sizes = await controls.evaluate_all(
        """(all) => all.map((one) => {
            const { width, height } = one.getBoundingClientRect();
            return [Math.min(width, height), one.outerHTML];
        })"""
    )
    assert len(sizes) > 50
    assert [one for one in sizes if one[0] < 24] == []  # WCAG 2.2, 2.5.8


# -- one hub for all -------------------------------------------------------------------------------


async def test_elements_with_one_token_and_url_share_a_connection_that_ends_with_them(stage):
    script = """
        const getToken = () => "token";
        for (const element of document.querySelectorAll("notify-bell, notify-inbox")) element.getToken = getToken;
    """
    body = '<notify-bell url="/"></notify-bell><notify-inbox url="/"></notify-inbox>'
    server = await stage.serve(body, script=script)
    await filled(server)
    page = await stage.open(server)
    await expect(part(page, "badge")).to_have_text("2")
    await expect(page.locator("article")).to_have_count(3)
    assert await page.evaluate(
        "document.querySelector('notify-bell').hub === document.querySelector('notify-inbox').hub"
    )

    await page.evaluate("document.body.append(document.querySelector('notify-inbox'))")  # it only moves
    await page.evaluate("document.querySelector('notify-bell').remove()")
    await server.notify()
    await expect(page.locator("article")).to_have_count(4)
    assert len(server.peers) == 1

    await page.evaluate("document.querySelector('notify-inbox').remove()")
    await server.until(lambda: not server.peers[0].is_open)


async def test_what_was_set_before_an_element_was_known_is_not_lost(stage):
    server = await stage.serve(
        "",
        script="""
            const elsewhere = document.createElement("template").content.ownerDocument;
            const bell = elsewhere.createElement("notify-bell"); // nobody knows it there
            Object.assign(bell, { hub, max: 1, texts: { inbox: "Post" } });
            document.querySelector("main").append(bell);
        """,
    )
    await filled(server)
    page = await stage.open(server)

    await expect(part(page, "badge")).to_have_text("1+")
    await expect(page.locator("notify-bell button").first).to_have_accessible_name("Post, 1+ unread")


# -- what is written about them --------------------------------------------------------------------

GUIDE = (ROOT / "docs/elements.md").read_text()
MANIFEST = json.loads((ROOT / "static/custom-elements.json").read_text())
DESCRIBED = {
    declaration["tagName"]: declaration
    for declaration in MANIFEST["modules"][0]["declarations"]
    if declaration["kind"] == "class"
}

#: What a page of docs/elements.md shows once three notifications are there, in the order of the pages.
SHOWN = [
    ("notify-bell [part=badge]", "2"),
    ("notify-inbox [part=count]", "2 unread"),
    ("notify-bell [slot=header]", "Post"),
    ("notify-inbox article.unread:first-child [part=title]", "Sign this"),
    ("notify-inbox > p[slot^=item-]:last-child", "Welcome for Ada, open"),
    ("notify-toasts [part~=toast] [part=title]", "Calm"),
    ("notify-preferences tbody th", "Education plans"),
    ("notify-digest-settings [part=pending-item] > :first-child", "Sign this"),
    ("notify-bell [part=badge]", "2"),
    ("notify-inbox [part=count]", "2 ongelezen berichten"),
]


def names(declaration: dict[str, Any], kind: str) -> set[str]:
    return {str(one["name"]) for one in declaration.get(kind, ())}


@pytest.mark.parametrize("number", range(len(SHOWN)))
async def test_every_page_of_the_guide_does_what_it_says(stage, number):
    html = re.findall(r"^```html\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(html) == len(SHOWN)
    script = "".join(re.findall(r"<script type=\"module\">(.*?)</script>", html[number], re.DOTALL))
    style = "".join(re.findall(r"<style>(.*?)</style>", html[number], re.DOTALL))
    body = re.sub(r"<(script|style).*?</\1>", "", html[number], flags=re.DOTALL)
    server = await stage.serve(body)
    server.script = f"{script}\nwindow.broken = [];\ndocument.documentElement.dataset.ready = 'true';"
    server.style += style
    await filled(server, metadata={"student_name": "Ada"})
    server.waiting = [{**WAITING[0], "title": "Sign this"}]
    page = await stage.open(server)
    where, what = SHOWN[number]
    if "toast" in where:
        peer = await server.peer(1)
        assert peer.is_open
        await server.notify(title="Quiet", priority="low")
        await server.notify(title="Calm")
    if "bell [slot" in where:
        await page.locator("notify-bell button").first.click()
        await expect(page).to_have_title("(2) School")
    if "article" in where:
        await part(page, "message").filter(has_text="On Sunday.").click()
        await expect(page).to_have_title("Going to /calendar")

    await expect(page.locator(where).first).to_have_text(what)


async def test_the_manifest_the_types_and_the_code_are_equal(stage):
    page = await stage.open(await stage.serve(""))
    code = await page.evaluate(
        """() => Object.fromEntries(["bell", "inbox", "toasts", "preferences", "digest-settings"].map((name) => {
            const kind = customElements.get(`notify-${name}`);
            const fields = new Map();
            for (let one = kind; one !== HTMLElement; one = Object.getPrototypeOf(one)) {
                for (const [key, { get, set }] of Object.entries(Object.getOwnPropertyDescriptors(one.prototype))) {
                    if (get) fields.set(key, Boolean(set));
                }
            }
            const methods = Object.getOwnPropertyNames(kind.prototype).filter((key) => !fields.has(key));
            const { observedAttributes: attributes } = kind;
            return [kind.name, { tag: `notify-${name}`, fields: [...fields], methods, attributes: [...attributes] }];
        }))"""
    )
    types = (ROOT / "static/elements.d.ts").read_text()
    common = types.partition("interface NotifyElement")[2].partition("}")[0]

    assert {of["tag"]: kind for kind, of in code.items()} == {
        tag: one["name"] for tag, one in DESCRIBED.items()
    }
    for kind, of in code.items():
        described = DESCRIBED[of["tag"]]
        members = described["members"]
        fields = {one["name"]: not one.get("readonly", False) for one in members if one["kind"] == "field"}
        methods = {one["name"] for one in members if one["kind"] == "method"}
        declared = types.partition(f"export class {kind} ")[2].partition("\n}\n")[0]
        typed = set(re.findall(r"^  (?:readonly )?(\w+)[:(]", common + declared, re.MULTILINE))

        assert names(described, "attributes") == set(of["attributes"])
        assert fields == dict(of["fields"])
        assert methods <= set(of["methods"])
        assert typed == fields.keys() | methods
        assert f'"{of["tag"]}": {kind};' in types


async def test_events_variables_parts_and_slots_of_the_manifest_are_those_of_the_code(stage):
    page = await stage.open(await stage.serve(BELL + INBOX + TOASTS + PREFERENCES + DIGEST))
    await expect(page.get_by_role("switch", name="Send me a summary")).to_be_visible()
    styles = await page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter(({ shadowRoot }) => shadowRoot).flatMap(({ shadowRoot }) =>
            shadowRoot.adoptedStyleSheets.flatMap(({ cssRules }) => [...cssRules].map((rule) => rule.cssText))).join()"""
    )
    source = (ROOT / "static/elements.js").read_text()
    types = (ROOT / "static/elements.d.ts").read_text()
    classes = re.split(r"^export class (\w+) ", source, flags=re.MULTILINE)
    bodies = dict(zip(classes[1::2], classes[2::2], strict=True))
    inside = (ROOT / "static/digest-settings.js").read_text()
    bodies["NotifyDigestSettings"] += inside
    described = DESCRIBED.values()

    events = set().union(*(names(one, "events") for one in described))
    assert events == set(re.findall(r'"(notify-[a-z]+)"', source + inside)) - DESCRIBED.keys()
    assert events == set(re.findall(r'^  "(notify-[a-z]+)": CustomEvent', types, re.MULTILINE))
    variables = set().union(*(names(one, "cssProperties") for one in described))
    assert variables == set(re.findall(r"--notify-[a-z-]+", styles))
    for one in described:
        body = bodies[one["name"]]
        assert names(one, "cssParts") == parts(body) | {"polite", "assertive"}
        slots = set(re.findall(r'make\("slot", \{ name: "([a-z]+)"', body))
        assert slots == names(one, "slots") - {"", "item", "item-<id>"}


def parts(body: str) -> set[str]:
    """All that the code of an element ever names as a part."""
    given = re.findall(r'part: "([^"]+)"|\bbutton\("([^"]+)"|"part", `([^`]+)`', body)
    text = " ".join(word for groups in given for word in groups)
    text = text.replace('isUnread ? "unread" : "read"', "unread read").replace("item.priority", "*")
    named = set(re.findall(r"[a-z-]+", text))
    if "priority-" in named:
        named |= {f"priority-{name}" for name in ("low", "normal", "high", "urgent")}
    return named - {"priority-"}


@pytest.mark.parametrize("tag", DESCRIBED)
async def test_the_guide_names_all_that_an_element_has(tag):
    text = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
    section, first, looks = (
        text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] for heading in (tag, "A bell", "Looks")
    )
    declaration = DESCRIBED[tag]
    wanted = {
        name
        for kind in ("attributes", "members", "events", "slots", "cssParts", "cssProperties")
        for name in names(declaration, kind)
        if name
    }
    written = set(re.findall(r"[a-zA-Z<>-]+", " ".join(re.findall(r"`([^`]+)`", section + first + looks))))
    slots = {"item", "item-<id>"} if tag == "notify-inbox" else set()

    assert wanted - slots - written == set()
