"""The demo page of a real hub in a real Chromium: what a person sees in their first minute."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.acceptance import axe
from tests.acceptance.browsers import chromium
from tests.postgres import TEMPLATE, PostgresServer

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Hub:
    """A `carillon serve` of our own, as a developer starts it, and what it printed."""

    def __init__(self, process: asyncio.subprocess.Process, printed: str) -> None:
        self.process = process
        self.printed = printed
        found = re.search(r"http://localhost:\d+", printed)
        assert found is not None, printed
        self.url = found[0]

    async def broadcast(self) -> None:
        """Run the first printed command, as printed."""
        script = self.printed[self.printed.index("TOKEN=") :]
        await shell("\n\n".join(script.split("\n\n")[:2]))


async def shell(command: str) -> str:
    """What a command printed. Fails as it does."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncIterator[Hub]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PORT": "0",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        "serve",
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(180):
            printed = (await process.stdout.readuntil(b"Ctrl-C ends it")).decode()
        reading = asyncio.create_task(process.stdout.read())  # so that it never waits for us
        yield Hub(process, printed)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(90):
            await reading
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hub]:
    async with (
        postgres.database(template=TEMPLATE) as dsn,
        serving(tmp_path_factory.mktemp("hub"), DATABASE_URL=dsn) as hub,
    ):
        yield hub


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def window(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser window; a page that complains fails the test."""
    complaints: list[str] = []
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.on(
        "console", lambda message: complaints.append(message.text) if message.type == "error" else None
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    await context.close()
    assert complaints == []


async def opened(window: BrowserContext, hub: Hub, user: str) -> Page:
    page = await window.new_page()
    await page.goto(f"{hub.url}/?user={user}")
    await expect(page.locator("#light")).to_have_text("Live")
    return page


def items(page: Page, what: str = "article") -> Locator:
    """In the inbox on the page, not in the bell's."""
    return page.locator("#inbox").locator(what)


def badge(page: Page) -> Locator:
    return page.locator("notify-bell [part=badge]")


async def test_a_broadcast_made_by_the_printed_curl_rings_the_bell(hub, window):
    page = await opened(window, hub, "ada")
    await expect(badge(page)).to_be_hidden()

    await hub.broadcast()

    await expect(items(page, "[part=title]")).to_have_text(["Ding"])
    await expect(badge(page)).to_have_text("1")
    await expect(page).to_have_title("(1) Carillon")
    await expect(page.get_by_role("button", name="Inbox, 1 unread")).to_be_visible()
    await expect(page.locator("notify-toasts [part~=toast]")).to_contain_text("Ding")
    await expect(page.locator("notify-toasts [part=polite]")).to_contain_text("Ding")


async def test_the_command_on_the_page_works_as_copied(hub, window):
    page = await opened(window, hub, "bea")
    await page.get_by_role("button", name="Copy command").click()
    await expect(page.locator("#said")).to_contain_text("Copied")

    await shell(await page.evaluate("() => navigator.clipboard.readText()"))

    await expect(items(page, "[part=message]")).to_have_text("This came from a terminal.")


async def test_two_windows_of_one_person_agree_and_another_persons_does_not_care(hub, window):
    left, right = await opened(window, hub, "cleo"), await opened(window, hub, "cleo")
    other = await opened(window, hub, "dora")
    await left.get_by_role("button", name="Send it from here").click()
    await expect(badge(right)).to_have_text("1")

    await items(right).focus()
    await right.get_by_role("button", name="Mark read: “Ding!”").click()

    await expect(badge(left)).to_be_hidden()
    await expect(items(left, "article.unread")).to_have_count(0)
    await expect(items(other)).to_have_count(0)


async def test_what_was_archived_comes_back_by_undo_with_the_keyboard_alone(hub, window):
    page = await opened(window, hub, "ella")
    for _ in range(2):
        await page.get_by_role("button", name="Send it from here").click()
    await expect(items(page)).to_have_count(2)

    await items(page).first.focus()
    await page.keyboard.press("ArrowDown")
    await expect(items(page).nth(1)).to_be_focused()
    await items(page).nth(1).get_by_role("button", name="Archive: “Ding!”").press("Enter")
    await expect(items(page)).to_have_count(1)
    await expect(items(page)).to_be_focused()  # the focus is not lost with what it was on
    await page.get_by_role("button", name="Undo").press("Enter")

    await expect(items(page)).to_have_count(2)
    await page.reload()
    await expect(items(page)).to_have_count(2)


async def test_the_bell_opens_the_same_inbox_and_takes_the_focus_back(hub, window):
    page = await opened(window, hub, "kim")
    await page.get_by_role("button", name="Send it from here").click()

    await page.get_by_role("button", name="Inbox, 1 unread").press("Enter")

    await expect(page.get_by_role("dialog", name="Inbox").locator("article")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Inbox, 1 unread")).to_be_focused()


async def test_what_a_person_wants_is_kept_by_the_hub(hub, window):
    page = await opened(window, hub, "lea")
    switch = page.get_by_role("switch", name="Everything else by SMS")
    await switch.press("Space")
    await expect(page.locator("notify-preferences [part=status]")).to_have_text("Saved.")
    await expect(switch).not_to_be_checked()
    await page.reload()
    await expect(switch).not_to_be_checked()

    await page.get_by_role("button", name="Back to the usual").click()

    await expect(switch).to_be_checked()
    await expect(page.get_by_role("button", name="Back to the usual")).to_be_disabled()


async def test_what_came_while_the_page_was_away_is_there_when_it_is_back(hub, window):
    page = await opened(window, hub, "fay")
    await page.get_by_role("button", name="Send it from here").click()
    await expect(items(page)).to_have_count(1)
    command = str(await page.locator("#command").text_content())
    await page.goto("about:blank")
    await shell(command)

    await page.goto(f"{hub.url}/?user=fay")

    await expect(items(page)).to_have_count(2)
    await expect(badge(page)).to_have_text("2")
    await page.get_by_role("button", name="Mark all read").click()
    await expect(badge(page)).to_be_hidden()


async def test_markup_in_a_notification_is_only_text_and_its_link_is_checked(hub, window):
    page = await opened(window, hub, "gwen")
    command = str(await page.locator("#command").text_content())
    await shell(command.replace("Ding!", "<img src=x onerror=alert(1)>"))

    await expect(items(page, "[part=title]")).to_have_text("<img src=x onerror=alert(1)>")
    assert await page.locator("img").count() == 0
    assert await items(page, "[part=link]").get_attribute("href") is None


@pytest.mark.parametrize("width", [380, 1200])
async def test_nothing_is_cut_off_and_everything_can_be_touched(hub, window, width):
    page = await opened(window, hub, f"hana{width}")
    await page.set_viewport_size({"width": width, "height": 800})
    await page.get_by_role("button", name="Send it from here").click()
    await expect(items(page)).to_have_count(1)

    assert await page.evaluate("document.documentElement.scrollWidth") == width
    for control in await page.locator("button:visible, input:visible").all():
        box = await control.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_on_the_page(hub, window, scheme):
    page = await opened(window, hub, f"axe-{scheme}")
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await expect(page.locator("#empty")).to_be_visible()
    assert await axe.violations(page) == []

    await page.get_by_role("button", name="Send it from here").click()
    await page.get_by_role("button", name="Inbox, 1 unread").click()
    await expect(page.get_by_role("dialog", name="Inbox").locator("article")).to_be_visible()

    assert await axe.violations(page) == []


async def test_the_sdk_and_the_hub_understand_each_other_in_every_command(hub, window):
    page = await opened(window, hub, "iris")
    for _ in range(3):
        await page.get_by_role("button", name="Send it from here").click()
    await expect(items(page)).to_have_count(3)

    told = await page.evaluate(
        """async () => {
            const { createHub } = await import("/static/client.js");
            const getToken = async () => (await (await fetch("/demo/session?user=iris")).json()).token;
            const hub = createHub({ getToken });
            const told = [];
            hub.on("*", ({ type, error }) => told.push(error ? `${type} ${error.code}: ${error.message}` : type));
            const until = async (type) => {
                if (told.includes(type)) return;
                for await (const event of hub.events({ types: [type] })) return;
            };
            await hub.connect();
            const { items } = await hub.inbox.list({ limit: 2, state: "unread", type: ["system"] });
            const [first, second] = items.map((item) => item.id);
            await hub.inbox.get((await hub.inbox.list({ limit: 3 })).items[2].id);
            await hub.inbox.markSeen([first, second]);
            await hub.inbox.markRead([first, second]);
            await hub.inbox.markUnread(first);
            await hub.inbox.snooze(first, Date.now() + 3_600_000);
            await hub.inbox.undo();
            await hub.inbox.archive(second);
            await hub.inbox.undo();
            await hub.inbox.markAllRead();
            await hub.inbox.undo();
            await hub.topics.follow("exams/2026");
            await hub.topics.mute("exams/2026");
            await hub.topics.unmute("exams/2026");
            await hub.topics.unfollow("exams/2026");
            const channel = await hub.channels.subscribe("iep_updates", { types: ["iep_update"], minPriority: "high" });
            await channel.unsubscribe();
            await Promise.all(["snoozed", "read_all", "unarchived", "unfollowed"].map(until));
            const { unread } = hub.inbox;
            hub.disconnect();
            const byRest = [
                await hub.inbox.markRead(first),
                await hub.inbox.markAllRead(),
                await hub.topics.follow("exams/2026"),
                await hub.topics.unfollow("exams/2026"),
            ].length;
            return { told, unread, byRest, after: hub.inbox.unread };
        }"""
    )

    assert [one for one in told["told"] if one.startswith(("error", "gap", "resync"))] == []
    assert {"seen", "read", "unread", "snoozed", "archived", "unarchived", "read_all"} < set(told["told"])
    assert {"followed", "muted", "unmuted", "unfollowed"} < set(told["told"])
    assert (told["unread"], told["byRest"], told["after"]) == (2, 4, 0)


async def test_a_client_that_was_away_resumes_with_the_hubs_own_positions(hub, window):
    page = await opened(window, hub, "june")
    await page.get_by_role("button", name="Send it from here").click()
    await expect(items(page)).to_have_count(1)
    command = str(await page.locator("#command").text_content())
    await page.evaluate(
        """async () => {
            const { createHub } = await import("/static/client.js");
            const getToken = async () => (await (await fetch("/demo/session?user=june")).json()).token;
            window.told = [];
            class Watched extends WebSocket {
                constructor(url) {
                    super(url);
                    this.addEventListener("message", ({ data }) => told.push(JSON.parse(data).type));
                }
            }
            window.june = createHub({ getToken, WebSocket: Watched });
            await june.connect();
            june.disconnect();
        }"""
    )

    await shell(command)
    await page.evaluate("() => june.connect().then(() => {})")

    assert await page.evaluate("() => told") == ["welcome", "welcome", "notification", "resumed"]
    assert await page.evaluate("() => [june.inbox.items.length, june.inbox.unread]") == [1, 2]
