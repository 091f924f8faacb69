"""Notifications that wait for each other: one message for what came together, and nothing lost or said twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from core.clock import SystemClock
from delivery.batching import SQL
from delivery.draft import Batching, Users
from delivery.facts import FactsReader
from delivery.jobs import Jobs, JobsSettings
from delivery.outbox import Claimed
from delivery.store import Notifications
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person, service
from tests.workers import VAULT

WINDOW = timedelta(minutes=5)
BUILD = Batching(key="build-512", window=WINDOW)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


@pytest.fixture
def jobs(stores: Stores) -> Jobs:
    return Jobs(stores.database, stores.heard, SystemClock(), JobsSettings())


async def send(
    stores: Stores, title: str, batching: Batching = BUILD, to: Any = "ada", **members: Any
) -> UUID:
    members = {"channels": ("in_app", "email"), "message": f"{title} has news.", **members}
    return await stores.send(to, title=title, batching=batching, **members)


async def pass_(stores: Stores, time: timedelta = WINDOW) -> None:
    """So much time goes by, as the database sees it."""
    await stores.query(
        "UPDATE delivery_batches SET closes_at = closes_at - $1::interval, latest_at = latest_at - $1::interval",
        time,
    )


async def deliveries(stores: Stores) -> list[Any]:
    return await stores.query(
        "SELECT n.title, n.message, n.metadata, n.priority, d.user_id, d.channel, d.state, d.code, d.reason,"
        " d.due_at <= now() AS is_due FROM notification_deliveries d"
        " JOIN notifications n USING (tenant_id) WHERE n.id = d.notification_id ORDER BY n.created_at, n.id, d.channel"
    )


async def due(stores: Stores) -> list[tuple[str, str]]:
    """What a worker would take now: to whom, and the title."""
    return [
        (row["user_id"], row["title"])
        for row in await deliveries(stores)
        if row["is_due"] and row["state"] == "queued"
    ]


async def test_what_comes_within_a_window_goes_out_as_one(stores: Stores, jobs: Jobs) -> None:
    sent = [
        await send(stores, title, priority=priority)
        for title, priority in [("Lint", "low"), ("Tests", "high"), ("Deploy", "normal")]
    ]

    assert await jobs.close_batches() == 0
    assert await due(stores) == []
    await pass_(stores)
    assert await jobs.close_batches() == 1

    rows = await deliveries(stores)
    [one] = [row for row in rows if row["state"] == "queued"]
    assert one["title"] == "Deploy (+2)"
    assert one["message"] == "• Lint: Lint has news.\n• Tests: Tests has news.\n• Deploy: Deploy has news."
    assert one["priority"] == "high"
    assert json.loads(one["metadata"])["batch"] == {
        "key": "build-512",
        "count": 3,
        "notification_ids": [str(each) for each in sent],
    }
    ended = [row for row in rows if row["state"] != "queued"]
    assert [(row["state"], row["code"]) for row in ended] == [("cancelled", "batched")] * 3
    assert "3 went out as one: notification " in ended[0]["reason"]
    assert await stores.query("SELECT FROM delivery_batches") == []
    assert await jobs.close_batches() == 0


async def test_inboxes_and_connections_see_each_at_once_and_the_one_message_not_at_all(
    stores: Stores, jobs: Jobs
) -> None:
    sent = [await send(stores, title) for title in ("Lint", "Tests")]
    assert [entry.kind for entry in stores.heard.entries] == ["notification"] * 2
    await pass_(stores)

    await jobs.close_batches()

    assert len(stores.heard.entries) == 2
    page = await stores.inbox.list(person("ada"))
    assert {one["id"] for one in page.notifications} == set(sent)


async def test_what_has_waited_alone_goes_out_as_it_is(stores: Stores, jobs: Jobs) -> None:
    await send(stores, "Lint")
    await pass_(stores)

    await jobs.close_batches()

    assert await due(stores) == [("ada", "Lint")]
    assert len(await deliveries(stores)) == 1


async def test_people_types_channels_and_keys_have_batches_of_their_own(stores: Stores, jobs: Jobs) -> None:
    for title in ("Lint", "Tests"):
        await send(stores, title, to=Users.of("ada", "bob"), channels=("email", "sms"))
    await send(stores, "Other type", notification_type="billing")
    await send(stores, "Other key", Batching(key="build-513", window=WINDOW))
    await pass_(stores)

    assert await jobs.close_batches() == 6

    assert sorted(await due(stores)) == sorted(
        [("ada", "Tests (+1)"), ("bob", "Tests (+1)")] * 2 + [("ada", "Other type"), ("ada", "Other key")]
    )


async def test_so_many_end_it_at_once_and_no_message_says_more(stores: Stores, jobs: Jobs) -> None:
    three = Batching(key="k", window=WINDOW, limit=3)
    for number in range(4):
        await send(stores, f"N{number}", three)

    assert await jobs.close_batches() == 1

    assert await due(stores) == [("ada", "N3"), ("ada", "N2 (+2)")]


async def test_a_sliding_window_is_extended_and_has_an_end(stores: Stores, jobs: Jobs) -> None:
    sliding = Batching(key="k", window=WINDOW, is_sliding=True, limit=100)
    await send(stores, "N0", sliding)
    for number in range(1, 20):
        await pass_(stores, WINDOW * 0.9)
        if await jobs.close_batches():
            break
        await send(stores, f"N{number}", sliding)

    assert await due(stores) == [("ada", "N11 (+11)")], "ten windows, of which each was used for nine tenths"


async def test_a_fixed_window_is_not_extended(stores: Stores, jobs: Jobs) -> None:
    await send(stores, "Lint")
    await pass_(stores, WINDOW * 0.9)
    await send(stores, "Tests")
    await pass_(stores, WINDOW * 0.1)

    assert await jobs.close_batches() == 1


async def test_what_is_urgent_waits_for_nothing(stores: Stores, jobs: Jobs) -> None:
    await send(stores, "Lint")
    await send(stores, "Fire", priority="urgent")

    assert await due(stores) == [("ada", "Fire")]


async def test_what_was_read_or_taken_back_meanwhile_is_not_said_again(stores: Stores, jobs: Jobs) -> None:
    lint, tests, _ = [await send(stores, title) for title in ("Lint", "Tests", "Deploy")]
    await send(stores, "Docs")
    await stores.inbox.change(person("ada"), "read", [lint])
    await stores.query("UPDATE notifications SET status = 'recalled' WHERE id = $1", tests)
    await pass_(stores)

    await jobs.close_batches()

    # The policy ends the two for what they are: each says why in its own record.
    assert await due(stores) == [("ada", "Lint"), ("ada", "Tests"), ("ada", "Docs (+1)")]


async def test_a_batch_that_nobody_closes_is_late_and_not_lost(stores: Stores) -> None:
    await send(stores, "Lint")
    await send(stores, "Tests")

    rows = await stores.query(
        "SELECT state, due_at - now() AS wait, finished_at FROM notification_deliveries"
    )

    assert {row["state"] for row in rows} == {"deferred"}
    assert all(WINDOW < row["wait"] < WINDOW + timedelta(minutes=6) for row in rows)


async def test_what_comes_while_a_batch_is_closed_opens_the_next(stores: Stores, jobs: Jobs) -> None:
    """A create that is not committed yet has the batch locked, and so has whoever closes it."""
    await send(stores, "N0")
    await pass_(stores)
    async with stores.database.transaction() as connection:
        await connection.fetch("SELECT FROM delivery_batches FOR UPDATE")
        assert await jobs.close_batches() == 0, "somebody joins it"
    others = [Jobs(stores.database, stores.heard, SystemClock(), JobsSettings()) for _ in range(3)]
    creates = [send(stores, f"N{number}") for number in range(1, 60)]
    await asyncio.gather(*creates, *(one.close_batches() for one in others))
    await pass_(stores)
    await jobs.close_batches()

    said: list[str] = []
    for row in await deliveries(stores):
        if row["state"] != "queued":
            continue
        batch = json.loads(row["metadata"]).get("batch")
        said += [row["title"]] if batch is None else batch["notification_ids"]
    titles = await stores.query("SELECT id::text AS id, title FROM notifications WHERE metadata::text = '{}'")
    names = {row["id"]: row["title"] for row in titles}
    assert sorted(names.get(one, one) for one in said) == sorted(f"N{number}" for number in range(60))


async def test_a_scheduled_notification_joins_when_it_is_published(stores: Stores, jobs: Jobs) -> None:
    await send(stores, "Lint", scheduled_for=datetime.now(UTC) + timedelta(hours=1))
    assert await stores.query("SELECT FROM delivery_batches") == []
    await stores.query("UPDATE notifications SET scheduled_for = now()")

    await jobs.publish_due()
    await send(stores, "Tests")
    await pass_(stores)
    await jobs.close_batches()

    assert await due(stores) == [("ada", "Tests (+1)")]


async def test_a_long_batch_names_the_latest_and_counts_the_others(stores: Stores, jobs: Jobs) -> None:
    for number in range(14):
        await send(stores, f"N{number} {'x' * 252}", Batching(key="k", window=WINDOW), message="word " * 1000)
    await pass_(stores)

    await jobs.close_batches()

    [one] = [row for row in await deliveries(stores) if row["state"] == "queued"]
    assert len(one["title"]) == 255
    assert one["title"].endswith(" (+13)")
    lines = one["message"].splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("• N4 ")
    assert lines[0].endswith("…")
    assert lines[-1] == "+ 4"


async def test_tenants_do_not_share_batches(stores: Stores, jobs: Jobs) -> None:
    await send(stores, "Lint")
    await send(stores, "Tests", tenant_id="hospital")
    await pass_(stores)

    assert await jobs.close_batches() == 2

    assert TENANT_ID == "school"
    assert await due(stores) == [("ada", "Lint"), ("ada", "Tests")]


async def said_now(stores: Stores) -> list[tuple[str, str, str]]:
    """What a worker would say now in the place of several: title, message and status."""
    rows = await stores.query(
        "SELECT d.*, 'processing' AS was, false AS is_orphan, false AS was_unknown FROM notification_deliveries d"
        " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
        " WHERE n.stands_for IS NOT NULL ORDER BY n.id"
    )
    names = [one.name for one in fields(Claimed)]
    facts = await FactsReader(stores.database, VAULT, ["email"]).gather(
        [Claimed(**{name: row[name] for name in names}) for row in rows]
    )
    return [(one.content.title, one.content.message, one.status) for one in facts if one.content is not None]


async def test_what_is_recalled_while_the_one_message_waits_is_not_said(stores: Stores, jobs: Jobs) -> None:
    lint, tests, deploy = [await send(stores, title) for title in ("Lint", "Tests", "Deploy")]
    await pass_(stores)
    await jobs.close_batches()
    recall = "UPDATE notifications SET status = 'recalled' WHERE id = $1"

    await stores.query(recall, tests)
    assert await said_now(stores) == [
        ("Deploy (+1)", "• Lint: Lint has news.\n• Deploy: Deploy has news.", "published")
    ]
    await stores.query("UPDATE notifications SET expires_at = now() WHERE id = $1", deploy)
    assert await said_now(stores) == [("Lint", "Lint has news.", "published")]
    await stores.query(recall, lint)
    assert [status for _, _, status in await said_now(stores)] == ["recalled"]


async def test_closing_waits_for_nobody_and_what_others_have_in_hand_is_late_and_not_lost(
    stores: Stores, jobs: Jobs
) -> None:
    for title in ("Lint", "Tests", "Deploy"):
        await send(stores, title)
    await pass_(stores)
    async with stores.database.transaction() as connection:
        await connection.execute(
            "UPDATE notification_deliveries SET updated_at = now() WHERE notification_id IN"
            " (SELECT id FROM notifications WHERE title = 'Tests')"
        )
        assert await jobs.close_batches() == 1, "a create that replaces one of them holds its delivery"

    rows = {row["title"]: row["state"] for row in await deliveries(stores)}
    assert rows == {"Lint": "cancelled", "Tests": "deferred", "Deploy": "cancelled", "Deploy (+1)": "queued"}


async def test_what_was_attempted_already_is_not_taken_back_into_a_batch(stores: Stores, jobs: Jobs) -> None:
    for title in ("Lint", "Tests", "Deploy"):
        await send(stores, title)
    await stores.query(
        "UPDATE notification_deliveries SET attempt = 1 WHERE notification_id IN"
        " (SELECT id FROM notifications WHERE title = 'Tests')"
    )
    await pass_(stores)

    await jobs.close_batches()

    assert await due(stores) == [("ada", "Deploy (+1)")]


async def test_the_one_message_lives_as_long_as_the_longest_and_leads_where_all_lead(
    stores: Stores, jobs: Jobs
) -> None:
    soon, late = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2)
    for key, ends, links in (
        ("a", (soon, late), ("/x", "/x")),
        ("b", (soon, None), ("/x", "/y")),
    ):
        for title, end, link in zip(("Lint", "Tests"), ends, links, strict=True):
            await send(stores, title, Batching(key=key, window=WINDOW), expires_at=end, action_url=link)
    await pass_(stores)

    await jobs.close_batches()

    rows = await stores.query(
        "SELECT group_key, expires_at, action_url FROM notifications WHERE stands_for IS NOT NULL ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("a", late, "/x"), ("b", None, None)]


async def test_the_widest_batch_there_can_be_goes_out_as_one(stores: Stores, jobs: Jobs) -> None:
    for number in range(100):
        title, message = f"{number} " + "😀" * 250, "😀" * 1900
        await send(stores, title, Batching(key="k", window=WINDOW, limit=100), message=message)

    await jobs.close_batches()

    [(_, title)] = await due(stores)
    assert title.endswith(" (+99)")


async def test_what_a_batch_costs_to_close_does_not_grow_with_what_is_held_elsewhere(stores: Stores) -> None:
    """The planner believes that nothing is held: it has not looked since."""
    await stores.query("ANALYZE notification_deliveries")
    for user in range(40):
        await send(stores, "Lint", to=f"u{user}")
        await send(stores, "Tests", to=f"u{user}")
    batches = await stores.query("SELECT tenant_id, id FROM delivery_batches LIMIT 20")
    plan = await stores.query(
        "EXPLAIN (ANALYZE, FORMAT JSON) " + SQL["lock"],
        [row["tenant_id"] for row in batches],
        [row["id"] for row in batches],
    )

    text = plan[0][0]
    assert "idx_notification_deliveries_batch" in text
    assert "Seq Scan" not in text
    assert "Rows Removed by Join Filter" not in text


async def sizes(stores: Stores) -> list[int]:
    return [
        row["size"]
        for row in await stores.query("SELECT size FROM delivery_batches ORDER BY user_id, channel")
    ]


async def hurry(stores: Stores, notification_id: UUID, priority: str = "urgent") -> None:
    await stores.notifications.update(service(), notification_id, {"priority": priority})


async def test_what_becomes_urgent_leaves_its_batch_at_once_and_alone(stores: Stores, jobs: Jobs) -> None:
    lint, _, _ = [await send(stores, title) for title in ("Lint", "Tests", "Deploy")]

    await hurry(stores, lint)

    assert await due(stores) == [("ada", "Lint")]
    [one] = await stores.query(
        "SELECT lane, reason, attempt FROM notification_deliveries WHERE state = 'queued'"
    )
    assert tuple(one) == (0, None, 0)
    assert await sizes(stores) == [2]
    await pass_(stores)
    await jobs.close_batches()
    assert await due(stores) == [("ada", "Lint"), ("ada", "Deploy (+1)")]
    [said] = [row["message"] for row in await deliveries(stores) if row["title"] == "Deploy (+1)"]
    assert said == "• Tests: Tests has news.\n• Deploy: Deploy has news."


async def test_it_leaves_the_batches_of_every_person_and_channel(stores: Stores) -> None:
    await send(stores, "Lint", channels=("email", "sms"))
    both = await send(stores, "Fire", to=Users.of("ada", "bob"), channels=("email", "sms"))

    await hurry(stores, both)

    assert sorted(await due(stores)) == [("ada", "Fire")] * 2 + [("bob", "Fire")] * 2
    assert await sizes(stores) == [1, 1], "of Ada alone"


async def test_a_batch_that_its_only_one_has_left_is_gone_and_the_next_opens_a_window_of_its_own(
    stores: Stores, jobs: Jobs
) -> None:
    lint = await send(stores, "Lint")
    await pass_(stores, WINDOW * 0.9)
    await hurry(stores, lint)
    assert await sizes(stores) == []

    await send(stores, "Tests")
    await pass_(stores, WINDOW * 0.9)

    assert await jobs.close_batches() == 0


async def test_what_has_left_does_not_count_towards_the_end_of_a_batch(stores: Stores, jobs: Jobs) -> None:
    three = Batching(key="k", window=WINDOW, limit=3)
    await send(stores, "N0", three)
    await hurry(stores, await send(stores, "N1", three))
    await send(stores, "N2", three)
    assert await jobs.close_batches() == 0

    await send(stores, "N3", three)

    assert await jobs.close_batches() == 1
    assert await due(stores) == [("ada", "N1"), ("ada", "N3 (+2)")]


@pytest.mark.parametrize(("priority", "rings"), [("high", 0), ("urgent", 1)])
async def test_workers_are_woken_for_what_becomes_urgent_and_anything_else_waits_on(
    stores: Stores, priority: str, rings: int
) -> None:
    rung: list[None] = []
    notifications = Notifications(stores.database, stores.heard, wake=lambda: rung.append(None))
    lint = await send(stores, "Lint")

    for _ in range(2):
        await notifications.update(service(), lint, {"priority": priority})

    assert len(rung) == rings
    assert len(await due(stores)) == rings
    assert await sizes(stores) == [1] * (1 - rings)


async def test_what_is_closed_in_the_same_moment_goes_out_with_the_others_and_not_twice(
    stores: Stores, jobs: Jobs
) -> None:
    lint, _ = [await send(stores, title) for title in ("Lint", "Tests")]
    await pass_(stores)
    async with stores.database.transaction() as connection:
        await connection.fetch("SELECT FROM notification_deliveries FOR UPDATE")
        waiting = asyncio.create_task(hurry(stores, lint))
        await stores.somebody_waits()
        await connection.execute(
            "UPDATE notification_deliveries SET state = 'cancelled', code = 'batched', finished_at = now()"
        )
        await connection.execute("DELETE FROM delivery_batches")
    await waiting

    assert [row["state"] for row in await deliveries(stores)] == ["cancelled"] * 2


async def test_what_comes_in_the_same_moment_is_still_counted(stores: Stores) -> None:
    """A create that is not committed yet has joined: its batch must not go with the one that leaves."""
    lint = await send(stores, "Lint")
    async with stores.database.transaction() as connection:
        await connection.execute("UPDATE delivery_batches SET size = size + 1")
        leaving = asyncio.create_task(hurry(stores, lint))
        await stores.somebody_waits()
    await leaving

    assert await sizes(stores) == [1]
    assert await due(stores) == [("ada", "Lint")]


@pytest.mark.parametrize("place", range(6))
async def test_batches_are_left_in_the_order_in_which_they_are_joined(stores: Stores, place: int) -> None:
    """So that who leaves two and who joins the same two do not wait in a circle."""
    both = await send(stores, "Fire", to=Users.of("bob", "Zoe", "ada"), channels=("sms", "email"))
    rows = await stores.query('SELECT id FROM delivery_batches ORDER BY user_id COLLATE "C", channel')
    joined = [row["id"] for row in rows]
    async with stores.database.transaction() as connection:
        await connection.fetch("SELECT FROM delivery_batches WHERE id = $1 FOR UPDATE", joined[place])
        leaving = asyncio.create_task(hurry(stores, both))
        await stores.somebody_waits()
        later = "SELECT FROM delivery_batches WHERE id = ANY ($1::uuid[]) FOR UPDATE SKIP LOCKED"
        free = await connection.fetch(later, joined[place:])
    await leaving

    assert len(free) == len(joined) - place, "whoever waits for one has none of those after it"
    assert await sizes(stores) == []
