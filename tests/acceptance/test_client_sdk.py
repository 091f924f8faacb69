"""The browser SDK in a real Chromium, against a server that can be told to fail (sdk_server)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from app.console import read_files
from tests.acceptance.browsers import chromium
from tests.acceptance.sdk_server import CLIENT, SdkServer, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(browser, stack)


class Stage:
    """Opens pages on servers, each in a browser context of its own; everything ends with the test."""

    def __init__(self, browser: Browser, stack: AsyncExitStack) -> None:
        self._browser = browser
        self._stack = stack

    async def open(self, server: SdkServer | None = None, options: str = "{}", connect: bool = True) -> Scene:
        server = server or SdkServer()
        if not server.url:
            await self._stack.enter_async_context(server.serve())
        context = await self._stack.enter_async_context(await self._browser.new_context())
        page = await context.new_page()
        await page.clock.install()
        await page.add_init_script("Math.random = () => 0.5;")
        await page.goto(server.url)
        await page.wait_for_function("window.ready")
        await page.clock.pause_at(await page.evaluate("Date.now() / 1000 + 60"))  # from now on tests pass it
        await page.evaluate(f"void make({options})")
        scene = Scene(server, page)
        if connect:
            await page.evaluate("() => hub.connect().then(() => {})")
        return scene


class Scene:
    """One page and its server."""

    def __init__(self, server: SdkServer, page: Page) -> None:
        self.server = server
        self.page = page

    async def see(self, condition: str) -> None:
        """Until the JavaScript expression is true in the page."""
        await self.page.wait_for_function(f"() => {condition}", polling=20, timeout=60_000)

    async def run(self, script: str) -> object:
        async with asyncio.timeout(60):
            return await self.page.evaluate(script)

    async def pass_time(self, seconds: float) -> None:
        """Timers of the page fire, and else none does; the network does not get faster, so pass one deadline at a time."""
        await self.page.clock.run_for(int(seconds * 1000))

    async def come_back(self) -> None:
        """Through offline to the next open."""
        await self.see("hub.state.state === 'offline'")
        await self.page.clock.run_for(await self.page.evaluate("hub.state.retryInMs"))
        await self.see("hub.state.state === 'open'")


# -- connecting ------------------------------------------------------------------------------------


async def test_the_core_is_smaller_than_ten_kilobytes():
    _, files = read_files()

    assert len(files["client.js"].compressed) < 10_000


async def test_it_can_be_imported_where_there_is_no_page(stage):
    scene = await stage.open(connect=False)

    state = await scene.run(
        """new Promise((resolve, reject) => {
            const worker = new Worker("/worker.js", {type: "module"});
            worker.onmessage = (event) => resolve(event.data);
            worker.onerror = (event) => reject(event.message);
        })"""
    )

    assert state == "closed"


async def test_each_connection_is_opened_with_a_ticket_of_its_own(stage):
    scene = await stage.open()
    scene.server.drop()
    await scene.come_back()
    second = await scene.server.peer(2)

    assert [peer.ticket for peer in scene.server.peers] == ["ticket-1", "ticket-2"]
    assert second.is_open
    assert scene.server.tickets == ["token-1", "token-1"]
    assert await scene.run("location.search + document.cookie + Object.keys(localStorage)") == ""


async def test_a_refused_token_is_replaced_once_and_then_the_reason_is_told(stage):
    server = SdkServer()
    server.ticket_answers = [problem(401, "unauthorized")]
    scene = await stage.open(server)
    assert server.tickets == ["token-1", "token-2"]

    server.ticket_answers = [problem(401, "unauthorized")] * 2
    server.drop()
    await scene.see("hub.state.state === 'offline'")
    await scene.pass_time(1)

    await scene.see("hub.state.state === 'closed'")
    assert await scene.run("hub.state.reason") == "unauthorized"


async def test_a_page_without_a_token_is_signed_out_and_stays_away(stage):
    scene = await stage.open(options="{getToken: () => null}", connect=False)

    refused = await scene.run("hub.connect().catch((error) => error.code)")

    assert refused == "signed_out"
    assert await scene.run("hub.state") == {"state": "closed", "reason": "signed_out"}
    assert scene.server.tickets == []


async def test_a_token_that_can_not_be_had_now_is_asked_for_again(stage):
    scene = await stage.open(
        options="{getToken: async () => { if (!window.online) throw new Error('no network'); return 'token'; }}",
        connect=False,
    )
    await scene.run("void hub.connect()")
    await scene.see("hub.state.reason === 'no_token'")

    await scene.run("void (window.online = true)")
    await scene.come_back()

    assert scene.server.tickets == ["token"]


@pytest.mark.parametrize(
    ("code", "reason"), [(4401, "unauthorized"), (4403, "forbidden"), (4404, "not_found")]
)
async def test_a_final_close_code_ends_it(stage, code, reason):
    scene = await stage.open()

    await scene.server.peers[0].close(code)

    await scene.see("hub.state.state === 'closed'")
    assert await scene.run("hub.state.reason") == reason
    await scene.pass_time(120)
    assert len(scene.server.tickets) == 1


@pytest.mark.parametrize("code", [4408, 4409, 4410])
async def test_these_close_codes_bring_it_back_with_a_new_token(stage, code):
    scene = await stage.open()

    await scene.server.peers[0].close(code)
    await scene.see("hub.state.state === 'offline'")
    await scene.pass_time(1)

    await scene.server.peer(2)
    assert scene.server.tickets == ["token-1", "token-2"]


@pytest.mark.parametrize("code", [4429, 1012, 1013])
async def test_a_hint_is_obeyed_even_when_the_page_wakes_up(stage, code):
    scene = await stage.open()
    await scene.server.say({"type": "error", "code": "overloaded", "message": "", "retry_after_ms": 20_000})
    await scene.see("log.some((event) => event.type === 'error')")

    await scene.server.peers[0].close(code)
    await scene.see("hub.state.state === 'offline'")
    await scene.run("window.dispatchEvent(new Event('online'))")
    await scene.pass_time(18)
    early = len(scene.server.tickets)
    await scene.pass_time(4)

    await scene.server.peer(2)
    assert early == 1


async def test_a_draining_server_is_left_when_it_asked_for_it(stage):
    scene = await stage.open()
    await scene.server.say({"type": "reconnect", "after_ms": 5_000})
    await scene.server.notify()
    await scene.see("shown().length === 1")

    await scene.pass_time(4)
    early = len(scene.server.tickets)
    await scene.pass_time(2)

    await scene.server.peer(2)
    assert early == 1
    await scene.see("hub.state.state === 'open'")
    assert "offline" not in await scene.run("states()")


async def test_the_back_off_is_fully_jittered_from_the_first_attempt_and_bounded(stage):
    server = SdkServer()
    scene = await stage.open(server)
    server.ticket_answers = [problem(503, "unavailable")] * 8
    server.drop()
    for _ in range(8):
        await scene.see("hub.state.state === 'offline'")
        await scene.run("states().length")
        waits = await scene.run(
            "log.filter((event) => event.retryInMs !== undefined).map((event) => event.retryInMs)"
        )
        await scene.pass_time(waits[-1] / 1000)
        await scene.see(
            f"log.filter((event) => event.retryInMs !== undefined).length > {len(waits)} || hub.state.state === 'open'"
        )

    assert waits == [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]
    low, high = await scene.run("[sdk.backoff(0, () => 0), sdk.backoff(40, () => 1)]")
    assert (low, high) == (0, 30_000)


async def test_a_minute_of_stability_starts_the_back_off_again(stage):
    server = SdkServer()
    server.heartbeat_ms = 1_000_000
    scene = await stage.open(server)
    waits = "log.filter((event) => event.retryInMs !== undefined).map((event) => event.retryInMs)"
    for stable in (5, 5, 61):
        server.drop()
        await scene.come_back()
        await scene.pass_time(stable)
    server.drop()
    await scene.see("hub.state.state === 'offline'")

    assert await scene.run(waits) == [500, 1_000, 2_000, 500]


async def test_it_retries_at_once_when_the_network_is_back(stage):
    server = SdkServer()
    scene = await stage.open(server)
    server.ticket_answers = [problem(503, "unavailable")]
    server.drop()
    await scene.see("hub.state.state === 'offline'")
    await scene.pass_time(1)
    await scene.see("states().filter((state) => state === 'offline').length === 2")

    await scene.run("window.dispatchEvent(new Event('online'))")
    await scene.pass_time(0.01)  # no back-off

    await server.peer(2)
    await scene.see("hub.state.state === 'open'")


async def test_a_silent_link_is_asked_and_then_dropped(stage):
    server = SdkServer()
    scene = await stage.open(server)
    await scene.pass_time(26)
    await server.until(lambda: len(server.peers[0].said("ping")) == 1)
    await server.notify()
    await scene.see("shown().length === 1")  # so the pong before it was heard
    await scene.pass_time(11)
    assert await scene.run("hub.state.state") == "open"

    server.is_mute = True
    await scene.pass_time(26)
    await scene.pass_time(11)

    await scene.see("log.some((event) => event.state === 'offline' && event.reason === 'silent')")


async def test_a_page_hidden_for_long_pauses_and_comes_back_with_what_it_missed(stage):
    server = SdkServer()
    scene = await stage.open(server, "{hiddenAfterMs: 60000}")
    hide = """(state) => {
        Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await scene.page.evaluate(hide, "hidden")
    await scene.pass_time(61)
    assert await scene.run("hub.state.reason") == "hidden"
    await server.until(lambda: not server.peers[0].is_open)
    await server.notify()

    await scene.page.evaluate(hide, "visible")
    await scene.pass_time(0.01)

    await scene.see("shown().length === 1")
    assert [one["visible"] for one in server.peers[0].said("presence")] == [True, False]


async def test_an_expiring_token_is_refreshed_on_the_open_socket(stage):
    scene = await stage.open()

    await scene.server.say({"type": "token_expiring", "expires_at": "2026-01-01T00:00:00Z"})

    await scene.server.until(lambda: bool(scene.server.peers[0].said("refresh")))
    assert scene.server.peers[0].said("refresh")[0]["token"] == "token-2"


async def test_an_abort_signal_ends_a_connection_and_a_call(stage):
    scene = await stage.open(options="{signal: (window.stop = new AbortController()).signal}")
    reason = await scene.run(
        "hub.inbox.list({signal: AbortSignal.abort('enough')}).catch((reason) => reason)",
    )
    await scene.run("stop.abort()")

    await scene.see("hub.state.state === 'closed'")
    assert reason == "enough"
    await scene.server.until(lambda: not scene.server.peers[0].is_open)


# -- continuity ------------------------------------------------------------------------------------


async def test_a_skipped_entry_is_noticed_and_recovered_in_order(stage):
    scene = await stage.open()
    await scene.server.notify()
    await scene.server.notify(skip=True)
    await scene.server.notify()

    await scene.see("shown().length === 3")

    assert await scene.run("shown()") == ["n1", "n2", "n3"]
    assert await scene.run(
        "log.filter((event) => event.type === 'gap').map((event) => [event.after, event.before])"
    ) == [[1, 3]]
    assert scene.server.peers[0].said("resume")[0]["positions"]["user"] == 1
    await scene.see("hub.state.state === 'open'")


async def test_what_was_missed_while_away_arrives_once_and_in_order(stage):
    server = SdkServer()

    assert await missed_while_away(stage, server) == [["n1", "n2", "n3"], 2]
    assert server.unread == 2
    assert server.peers[1].said("resume")[0]["epoch"] == "e1"


async def missed_while_away(stage: Stage, server: SdkServer) -> object:
    """Titles shown and unread count of a client that was away for two notifications and a change of state."""
    scene = await stage.open(server)
    await server.notify()
    await scene.see("shown().length === 1")
    server.drop()
    await server.until(lambda: not server.peers[0].is_open)
    missed = await server.notify()
    await server.notify("tenant", "topic:news")
    await server.change("read", missed)
    await scene.come_back()
    return await scene.run("[shown(), hub.inbox.unread]")


async def test_a_resume_with_nothing_missed_costs_the_server_nothing(stage):
    server = SdkServer()
    scene = await stage.open(server)
    await server.notify()
    await scene.see("shown().length === 1")
    server.drop()
    await scene.come_back()

    assert server.peers[1].said("resume") == []


async def test_another_epoch_replaces_the_inbox_by_the_servers_snapshot(stage):
    server = SdkServer()
    scene = await stage.open(server)
    await server.notify()
    await server.notify()
    await scene.see("hub.inbox.items.length === 2")
    server.drop()
    await scene.see("hub.state.state === 'offline'")
    server.epoch = "e2"
    server.streams["user"].pop()
    server.items.popitem()
    await scene.pass_time(1)

    await scene.see("log.some((event) => event.type === 'resync')")
    assert await scene.run("hub.inbox.items.map((item) => item.title)") == ["n1"]
    assert await scene.run("hub.inbox.unread") == 1
    await server.notify()
    await scene.see("hub.inbox.items.length === 2")


async def test_a_notification_that_comes_by_two_streams_is_shown_and_counted_once(stage):
    assert await came_by_two_streams(stage, SdkServer()) == [["n1", "n2"], 2]


async def came_by_two_streams(stage: Stage, server: SdkServer) -> object:
    """Titles shown and unread count after two notifications, the first of which is in three streams."""
    scene = await stage.open(server)
    await server.notify("tenant", "topic:news", "user")
    await server.notify()
    await scene.see("shown().includes('n2')")
    return await scene.run("[shown(), hub.inbox.unread]")


async def test_a_position_moves_a_filtered_reader_without_a_gap(stage):
    scene = await stage.open()
    await scene.server.notify(skip=True)
    await scene.server.say({"type": "position", "stream": "user", "seq": 1})
    await scene.server.notify()

    await scene.see("shown().length === 1")

    assert not await scene.run("log.some((event) => event.type === 'gap')")


async def test_receipts_go_out_after_twenty_entries_and_after_five_seconds(stage):
    scene = await stage.open()
    peer = scene.server.peers[0]
    for _ in range(20):
        await scene.server.notify()
    await scene.server.until(lambda: len(peer.said("received")) == 1)
    await scene.server.notify()
    await scene.see("shown().length === 21")
    await scene.pass_time(6)

    await scene.server.until(lambda: len(peer.said("received")) == 2)
    assert [one["positions"]["user"] for one in peer.said("received")] == [20, 21]


# -- inbox -----------------------------------------------------------------------------------------


async def test_a_change_is_shown_at_once_and_stays_when_confirmed(stage):
    scene = await stage.open()
    one = await scene.server.notify()
    await scene.see("hub.inbox.unread === 1")

    at_once = await scene.page.evaluate(
        """async (id) => {
            const done = hub.inbox.markRead(id);
            const shown = [hub.inbox.unread, hub.inbox.items[0].read];
            await done;
            return [...shown, hub.inbox.unread, hub.inbox.items[0].read];
        }""",
        one,
    )

    assert at_once == [0, True, 0, True]
    assert scene.server.items[one]["read"]


async def test_a_refused_change_is_rolled_back_and_the_caller_told(stage):
    scene = await stage.open()
    one = await scene.server.notify()
    await scene.see("hub.inbox.unread === 1")
    scene.server.refuses["archive"] = {"code": "forbidden", "message": "Not yours."}

    outcome = await scene.page.evaluate(
        """async (id) => {
            const done = hub.inbox.archive(id);
            const during = [hub.inbox.items.length, hub.inbox.unread];
            const code = await done.catch((error) => error.code);
            return [during, code, hub.inbox.items.length, hub.inbox.unread];
        }""",
        one,
    )

    assert outcome == [[0, 0], "forbidden", 1, 1]


async def test_a_command_over_the_rate_limit_is_sent_again_when_allowed(stage):
    scene = await stage.open()
    one = await scene.server.notify()
    await scene.see("hub.inbox.unread === 1")
    scene.server.refuses["mark_read"] = {"code": "rate_limited", "message": "", "retry_after_ms": 2_000}
    await scene.page.evaluate("(id) => void (window.done = hub.inbox.markRead(id))", one)
    await scene.server.until(lambda: len(scene.server.peers[0].said("mark_read")) == 1)
    await scene.server.notify()
    await scene.see("shown().length === 2")
    scene.server.refuses.clear()

    await scene.pass_time(3)

    await scene.run("done")
    assert scene.server.items[one]["read"]
    assert len(scene.server.peers[0].said("mark_read")) == 2
    assert scene.server.rest == []


async def test_commands_go_by_rest_while_the_socket_is_down(stage):
    server = SdkServer()
    scene = await stage.open(server)
    one = await server.notify()
    await scene.see("hub.inbox.unread === 1")
    server.ticket_answers = [problem(503, "unavailable", **{"Retry-After": "60"})]
    server.drop()
    await scene.see("hub.state.state === 'offline'")

    await scene.page.evaluate("(id) => hub.inbox.markRead(id)", one)

    assert server.rest == ["POST /api/v1/notifications/bulk"]
    assert await scene.run("hub.inbox.unread") == 0


async def test_a_command_without_a_reply_when_the_link_breaks_goes_by_rest(stage):
    server = SdkServer()
    scene = await stage.open(server)
    one = await server.notify()
    await scene.see("hub.inbox.unread === 1")
    server.is_deaf_to = {"mark_read"}
    await scene.page.evaluate("(id) => void (window.done = hub.inbox.markRead(id))", one)
    await server.until(lambda: bool(server.peers[0].said("mark_read")))

    server.drop()

    await scene.run("done")
    assert server.items[one]["read"]


async def test_undo_takes_back_the_last_change(stage):
    scene = await stage.open()
    first, second = await scene.server.notify(), await scene.server.notify()
    await scene.see("hub.inbox.unread === 2")
    await scene.page.evaluate("(id) => hub.inbox.archive(id)", first)
    await scene.run("hub.inbox.markAllRead()")
    assert scene.server.unread == 0

    await scene.run("hub.inbox.undo()")
    assert not scene.server.items[second]["read"]
    await scene.run("hub.inbox.undo()")

    assert not scene.server.items[first]["archived"]
    assert await scene.run("hub.inbox.undo()") is False


async def test_what_another_device_does_is_shown_here(stage):
    scene = await stage.open()
    first, second = await scene.server.notify(), await scene.server.notify("tenant")
    await scene.server.change("read", first, second)

    await scene.see("hub.inbox.unread === 0")
    await scene.server.recall(second)
    await scene.see("hub.inbox.items.length === 1")


async def test_a_change_to_something_unknown_here_makes_it_ask_for_the_count(stage):
    server = SdkServer()
    one = await server.notify()
    scene = await stage.open(server)
    assert await scene.run("hub.inbox.unread") == 1

    await server.change("read", one)
    await scene.see("log.some((event) => event.type === 'read')")
    await scene.pass_time(2)

    await scene.see("hub.inbox.unread === 0")
    assert server.rest == ["GET /api/v1/notifications/counts"]


async def test_the_list_joins_what_is_known(stage):
    server = SdkServer()
    await server.notify()
    scene = await stage.open(server)
    await server.notify()
    await scene.see("shown().length === 1")

    listed = await scene.run(
        "hub.inbox.list({limit: 20}).then((page) => page.items.map((item) => item.title))"
    )

    assert listed == ["n2", "n1"]
    assert await scene.run("[hub.inbox.items.length, hub.inbox.unread]") == [2, 2]


async def test_what_arrives_unattended_does_not_fill_the_memory_and_the_newest_stay(stage):
    server = SdkServer()
    scene = await stage.open(server)
    for _ in range(1_010):
        await server.notify()
    await scene.see("shown().length === 1010")

    assert await scene.run("[hub.inbox.items.length, hub.inbox.items[0].title, hub.inbox.unread]") == [
        1_000,
        "n1010",
        1_010,
    ]


async def test_what_expires_goes_and_what_was_put_off_comes_back_whatever_this_machines_clock_says(stage):
    server = SdkServer()
    server.heartbeat_ms = 1_000_000
    scene = await stage.open(server)
    await scene.page.clock.set_system_time("2031-01-01T00:00:00Z")
    await scene.run("hub.inbox.list()")  # the Date header tells the server's time
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    await scene.server.notify(expires_at="2020-01-01T00:00:00+00:00")
    await scene.server.notify(expires_at=soon)
    await scene.server.change("snoozed", await scene.server.notify(), until=soon)
    await scene.server.notify(expires_at="2029-01-01T00:00:00+00:00")
    await scene.see("shown().length === 4")
    titles = "[hub.inbox.unread, hub.inbox.items.map((item) => item.title)]"

    assert await scene.run(titles) == [2, ["n4", "n2"]]
    await scene.pass_time(65)
    assert await scene.run(titles) == [2, ["n4", "n3"]]
    assert await scene.run("log.filter((event) => event.type === 'error').length") == 0


async def test_many_are_changed_by_one_command_and_a_snooze_can_be_undone(stage):
    scene = await stage.open()
    for _ in range(3):
        await scene.server.notify()
    await scene.see("hub.inbox.unread === 3")
    await scene.run("hub.inbox.markRead(hub.inbox.items.map((item) => item.id))")
    assert len(scene.server.peers[0].said("mark_read")) == 1
    assert scene.server.unread == 0

    await scene.run("hub.inbox.snooze(hub.inbox.items[0].id, Date.now() + 3600000)")
    assert await scene.run("hub.inbox.items.length") == 2
    await scene.run("hub.inbox.undo()")

    assert await scene.run("[hub.inbox.items.length, hub.inbox.unread]") == [3, 1]
    assert scene.server.unread == 1


# -- channels, topics, events ----------------------------------------------------------------------


async def test_a_subscription_lasts_over_reconnects_and_stays_out_of_the_inbox(stage):
    server = SdkServer()
    scene = await stage.open(server)
    await scene.run(
        """hub.channels.subscribe("iep_updates", {types: ["iep_update"], minPriority: "high"}).then((subscription) => {
            window.heard = [];
            window.subscription = subscription;
            subscription.on("notification", (event) => heard.push(event.notification.title));
        })"""
    )
    asked = server.peers[0].said("subscribe_channel")[0]
    await server.notify("topic:iep_updates")
    await scene.see("heard.length === 1")
    server.drop()
    await server.until(lambda: not server.peers[0].is_open)
    await server.notify("topic:iep_updates")
    await scene.come_back()
    await scene.see("heard.length === 2")
    await scene.run("subscription.unsubscribe()")

    assert (asked["types"], asked["min_priority"]) == (["iep_update"], "high")
    assert server.peers[1].said("subscribe_channel")[0]["since"] == 1
    assert await scene.run("[hub.inbox.items.length, hub.inbox.unread, heard]") == [0, 0, ["n1", "n2"]]
    assert server.peers[1].channels == set()


async def test_a_channel_that_is_not_allowed_rejects(stage):
    scene = await stage.open()
    scene.server.refuses["subscribe_channel"] = {"code": "not_found", "message": "No such channel."}

    assert await scene.run("hub.channels.subscribe('secret').catch((error) => error.code)") == "not_found"
    scene.server.refuses.clear()
    assert await scene.run("hub.channels.subscribe('secret').then(() => 'subscribed')") == "subscribed"


async def test_topics_and_ephemeral_messages(stage):
    scene = await stage.open()
    await scene.run("hub.topics.follow('exams')")
    await scene.run("hub.publish('room', {typing: true})")

    await scene.see("log.some((event) => event.type === 'message' && event.data.typing)")
    await scene.see("log.some((event) => event.type === 'followed' && event.topic === 'exams')")


async def test_a_followed_topic_joins_the_inbox_without_a_hole(stage):
    server = SdkServer()
    scene = await stage.open(server)
    await server.notify("topic:exams")  # before: not for ada
    await scene.run("hub.topics.follow('exams')")
    await server.notify("topic:exams", skip=True)
    await server.notify("topic:exams")
    await scene.see("shown().length === 2")
    await scene.run("hub.topics.unfollow('exams')")
    await server.notify("topic:exams")
    await server.notify()
    await scene.see("shown().includes('n5')")

    assert await scene.run("shown()") == ["n2", "n3", "n5"]


async def test_a_topic_followed_while_away_brings_its_notifications_from_the_list(stage):
    server = SdkServer()
    scene = await stage.open(server)
    server.drop()
    await server.until(lambda: not server.peers[0].is_open)
    await server.follow("exams")
    await server.notify("topic:exams")
    await scene.come_back()

    await scene.see("hub.inbox.items.length === 1")
    assert await scene.run("hub.inbox.unread") == 1
    await server.notify("topic:exams")
    await scene.see("hub.inbox.items.length === 2")
    assert await scene.run("hub.inbox.unread") == 2


async def test_events_can_be_read_as_an_async_iterator_and_unsubscribed(stage):
    scene = await stage.open()
    await scene.run(
        """(() => {
            window.read = [];
            window.calls = 0;
            const off = hub.on("notification", () => { calls += 1; off(); });
            hub.on("notification", () => { throw new Error("a listener of the page fails"); });
            (async () => {
                for await (const event of hub.events({types: ["notification"]})) {
                    read.push(event.notification.title);
                    if (read.length === 2) break;
                }
                window.ended = true;
            })();
        })()"""
    )
    for _ in range(3):
        await scene.server.notify()

    await scene.see("window.ended && shown().length === 3")
    assert await scene.run("[calls, read]") == [1, ["n1", "n2"]]


@pytest.mark.parametrize(
    ("link", "safe"),
    [
        ("/iep/1?tab=2#top", "/iep/1?tab=2#top"),
        ("https://school.example/x", "https://school.example/x"),
        ("//evil.example", None),
        ("/\\evil.example", None),
        ("https:evil.example", None),
        ("https://school.example@evil.example/", None),
        ("http://school.example/", None),
        ("javascript:alert(1)", None),
        (" /x", None),
        ("/\tx", None),
        ("data:text/html,x", None),
        ("", None),
        (None, None),
    ],
)
async def test_only_links_that_lead_to_honest_places_are_followed(stage, link, safe):
    scene = await stage.open(connect=False)

    assert await scene.page.evaluate("(link) => sdk.safeLink(link)", link) == safe
    assert await scene.page.evaluate("(link) => sdk.safeLink(link, ['https://other.example'])", link) == (
        safe if (safe or "").startswith("/") else None
    )


# -- snapshot + events = state ---------------------------------------------------------------------


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_any_faults_the_client_ends_with_the_servers_state(stage, seed):
    shown, truth = await after_faults(stage, SdkServer(), seed)

    assert shown == truth


#: Clients that forget one rule, each what somebody writes first: what the source says, and what they write.
NAIVE = {
    "takes every entry for the next one": (
        'seq === last + 1 ? "next" : seq > last ? "gap" : "old"',
        '"next"',
    ),
    "waits for a gap to be told what it missed": ("if (again && !whole)", "if (false)"),
    "forgets changes that come before their notification": ("this.early.push(", "void ("),
    "counts what the welcome had counted": (
        "const counts = !covers(this.countedTo, entry);",
        "const counts = true;",
    ),
    "counts a notification once per stream": ("if (!again && counts)", "if (counts)"),
    "shows a notification once per stream": ("!this.#told.has(data.id)", "true"),
}


@pytest.mark.parametrize("name", NAIVE)
async def test_a_naive_client_is_caught(stage, name):
    right, naive = NAIVE[name]
    assert CLIENT.read_text().count(right) == 1

    def rewrite(source: str) -> str:
        return source.replace(right, naive)

    assert (
        await missed_while_away(stage, SdkServer(rewrite)) != [["n1", "n2", "n3"], 2]
        or await came_by_two_streams(stage, SdkServer(rewrite)) != [["n1", "n2"], 2]
        or await any_seed_differs(stage, rewrite)
    )


async def any_seed_differs(stage: Stage, rewrite: Callable[[str], str]) -> bool:
    for seed in SEEDS:
        shown, truth = await after_faults(stage, SdkServer(rewrite), seed, patience=2)
        if shown != truth:
            return True
    return False


async def after_faults(
    stage: Stage, server: SdkServer, seed: int, *, patience: float = 30
) -> tuple[object, object]:
    """
    What the client shows and what is true, after forty random steps with lost, doubled and missed entries.

    patience: seconds until the two have to agree.
    """
    dice = random.Random(seed)
    scene = await stage.open(server)
    for _ in range(40):
        fault = {"skip": dice.random() < 0.15, "twice": dice.random() < 0.15}
        known = list(server.items)
        some = dice.sample(known, min(len(known), dice.randint(1, 3)))
        match dice.randrange(9 if some else 3):
            case 0 | 1 | 2:
                streams = dice.sample(list(server.heads), dice.choice((1, 1, 2)))
                await server.notify(*streams, **fault)
            case 3 | 4:
                await server.change("read", *some, **fault)
            case 5:
                await server.change(dice.choice(("unread", "archived", "unarchived", "seen")), *some, **fault)
            case 6:
                await server.recall(some[0], **fault)
            case 7:
                await server.read_all(server.heads, **fault)
            case 8:
                server.drop()
                await scene.see("hub.state.state === 'offline'")
                if dice.random() < 0.5:
                    await scene.come_back()
    if await scene.run("hub.state.state === 'offline'"):
        await scene.come_back()
    else:  # the last entry of a stream can only be missed by the next one
        for stream in server.heads:
            await server.notify(stream)
    await scene.page.wait_for_load_state("networkidle")
    await scene.pass_time(2)  # a count in doubt is asked for
    await scene.page.wait_for_load_state("networkidle")
    shown = "[hub.inbox.unread, hub.inbox.items.map((item) => [item.id, item.read])]"
    listed = [[item["id"], item["read"]] for item in server.newest if not item["archived"]]
    truth = [server.unread, listed]
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + patience
    while await scene.run(shown) != truth and loop.time() < ends_at:
        await scene.pass_time(2)
        await asyncio.sleep(0.05)  # so that what the page asks for now can come before it gives that up
    return await scene.run(shown), truth
