"""The core of the elements in a real Firefox: seen, heard and used by real keys, under the policy of our own pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance import axe
from tests.acceptance.elements_server import ElementsServer
from tests.acceptance.firefox import Firefox, firefox
from tests.acceptance.test_elements import BELL, INBOX, PREFERENCES, TOASTS, filled

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Of WebDriver, section 17.4.2.
TAB, ENTER, ESCAPE, DELETE, END, UP, DOWN, SPACE = (
    *("\ue004", "\ue007", "\ue00c", "\ue017", "\ue010", "\ue013", "\ue015"),
    " ",
)

#: all(selector): also inside the elements. focused(): what has the focus, however deep. read_out(one): as it is read out.
LOOKING = """
    window.all = (selector, root = document) => [...root.querySelectorAll("*")].flatMap((one) =>
        [...(one.matches(selector) ? [one] : []), ...(one.shadowRoot ? all(selector, one.shadowRoot) : [])]);
    window.focused = (root = document) => root.activeElement?.shadowRoot?.activeElement
        ? focused(root.activeElement.shadowRoot) : root.activeElement;
    window.read_out = (one) => one?.getAttribute("aria-label") ?? one?.textContent.trim();
    window.texts_of = (selector) => all(selector).filter((one) => one.checkVisibility()).map((one) => one.textContent);
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Firefox]:
    async with firefox(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Firefox) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(browser, stack)
        assert await browser.page("broken") == []  # of its policy


class Stage:
    """One page at a time."""

    def __init__(self, browser: Firefox, stack: AsyncExitStack) -> None:
        self.browser = browser
        self._stack = stack

    async def open(self, body: str, *, full: bool = True, **options: Any) -> ElementsServer:
        """full: three notifications are there before."""
        server = ElementsServer(body, **options)
        await self._stack.enter_async_context(server.serve())
        if full:
            await filled(server)
        await self.browser.go(server.url)
        await self.browser.load(LOOKING)
        await self.see("document.documentElement.dataset.ready && hub.state.state === 'open'")
        return server

    async def see(self, condition: str) -> None:
        await self.browser.see(condition)

    async def say(self, *keys: str) -> None:
        await self.browser.press(*keys)

    async def focus_is(self, wanted: str) -> None:
        """Until what has the focus is read out so."""
        await self.see(f"read_out(focused()) === {wanted!r}")


async def test_the_bell_says_how_many_are_unread_as_they_come(stage):
    server = await stage.open(BELL, full=False)
    await stage.see("read_out(all('button')[0]) === 'Inbox, nothing unread'")

    await filled(server)

    await stage.see("read_out(all('button')[0]) === 'Inbox, 3 unread'")
    await stage.see("texts_of('[part~=badge]').join() === '3'")


async def test_an_inbox_is_used_by_the_keyboard_alone(stage):
    server = await stage.open(BELL)
    oldest, middle, newest = server.items
    await stage.see("texts_of('[part~=badge]').join() === '2'")

    await stage.say(TAB, ENTER)
    await stage.see("focused() === all('article')[0]")  # the first that is unread
    await stage.say(END)
    await stage.see("focused() === all('article')[2]")
    await stage.say(UP)
    await stage.see("focused() === all('article')[1]")
    await stage.say(TAB)
    await stage.see("focused().matches('[part~=link]')")
    await stage.say(TAB, SPACE)
    await server.until(lambda: bool(server.items[middle]["read"]))
    await stage.say(TAB, ENTER)
    await stage.focus_is("For an hour")
    await stage.say(DOWN)
    await stage.focus_is("Until tomorrow, 9:00")
    await stage.say(ESCAPE)
    await stage.focus_is("Snooze: “Maintenance”")
    await stage.say(ENTER, ENTER)
    await server.until(lambda: bool(server.items[middle]["snoozed_until"]))
    await stage.see("all('article').length === 2 && focused() === all('article')[1]")

    await stage.say(DELETE)
    await stage.see("all('article').length === 1 && focused() === all('article')[0]")
    assert server.items[oldest]["archived"]
    await stage.browser.page("all('[part~=undo]').find((one) => one.checkVisibility()).focus()")
    await stage.say(ENTER)
    await stage.see("all('article').length === 2")
    await stage.say(ESCAPE)
    await stage.focus_is("Inbox, 1 unread")
    assert not server.items[newest]["read"]


async def test_what_comes_is_shown_and_told_and_a_click_reads_it(stage):
    server = await stage.open(INBOX + TOASTS, full=False)

    await server.notify(title="Calm", message="Read me.")
    fire = await server.notify(title="Fire", message="Run.", priority="urgent")
    await stage.see(
        "all('[part~=toast] [part~=title]').map(({ textContent }) => textContent).join() === 'Fire,Calm'"
    )
    await stage.see("all('[part~=assertive]').some(({ textContent }) => textContent === 'Fire. Run.')")
    await stage.see("all('[part~=polite]').some(({ textContent }) => textContent === 'Calm. Read me.')")

    await stage.browser.click("all('article [part~=message]').find((one) => one.textContent === 'Run.')")

    await server.until(lambda: bool(server.items[fire]["read"]))
    await stage.see("all('article.unread').length === 1")
    await stage.see("all('[part~=toast]').length === 1")  # read here, so it is no news any more


async def test_a_setting_is_switched_by_the_keyboard(stage):
    server = await stage.open(PREFERENCES)
    await stage.see("all('[role=switch]').length > 0")

    await stage.browser.page("all('[role=switch]').find((one) => read_out(one).includes('SMS')).focus()")
    await stage.say(SPACE)

    await stage.see("texts_of('[part~=status]').includes('Saved.')")
    assert [kind for kind, by in server.matrix.items() if by == {"sms": False}]


async def test_arabic_is_mirrored_and_spoken(stage):
    await stage.open(BELL, lang="ar", direction="rtl")
    await stage.say(TAB, ENTER)
    await stage.see("all('article').length === 3 && all('article')[0].checkVisibility()")

    box = "(one) => (({ left, right }) => [left, right])(one.getBoundingClientRect())"
    mark, title, badge, bell = [
        await stage.browser.page(f"({box})({one})")
        for one in (
            "all('[part~=mark]')[0]",
            "all('article [part~=title]')[0]",
            "all('[part~=badge]')[0]",
            "all('button')[0]",
        )
    ]

    assert title[1] <= mark[0]
    assert badge[0] < bell[0]
    assert await stage.browser.page("read_out(all('button')[0])") == "صندوق الوارد, إشعارات غير مقروءة: 2"
    assert await stage.browser.page("texts_of('[part~=time]').at(-1)") == "قبل ساعة واحدة"


async def test_axe_finds_nothing(stage):
    await stage.open(BELL + INBOX + TOASTS + PREFERENCES)
    await stage.see("all('[role=switch]').length > 0")
    await stage.say(TAB, ENTER)
    await stage.see("all('article').length === 6")

    await stage.browser.load(axe.script())
    assert await stage.browser.page(f"({axe.VIOLATIONS})()") == []
