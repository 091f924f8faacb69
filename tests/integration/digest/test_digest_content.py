"""What stands in a window, and what does not, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.notification import Priority
from digest import store
from hub.inbox import TopicChange
from tests.integration.digest.test_digest_job import Desk
from tests.stores import open_stores
from tests.submissions import TENANT_ID, person, service, submission


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


async def told(desk: Desk) -> dict[str, bool]:
    """What the next digest counts, by title, and whether it was read."""
    return {item.title: item.is_read for item in await desk.job.pending(TENANT_ID, "ada")}


async def test_what_has_expired_or_was_archived_is_in_no_digest(desk: Desk) -> None:
    await desk.subscribe()
    soon = datetime.now(UTC) + timedelta(hours=1)
    await desk.stores.send("ada", title="kept", expires_at=soon)
    gone = await desk.stores.send("ada", title="expired", expires_at=soon)
    await desk.stores.query("UPDATE notifications SET expires_at = now() WHERE id = $1", gone)
    archived = await desk.stores.send("ada", title="archived")
    await desk.stores.inbox.change(person("ada"), "archived", [archived])

    assert await told(desk) == {"kept": False}


async def test_the_streams_of_another_tenant_are_not_looked_at(desk: Desk) -> None:
    """Theirs goes further than ours; a window that went as far would leave out what comes next."""
    await desk.subscribe()
    for _ in range(5):
        theirs = submission("*", tenant_id="other")
        await desk.stores.ingest.submit(theirs, service(tenant_id="other"))
    await desk.stores.send("*", title="first")
    await desk.due_now()
    await desk.job.run_due()

    await desk.stores.send("*", title="second")

    assert await told(desk) == {"second": False}
    [run] = await desk.stores.query("SELECT until ->> 'tenant' AS until FROM digest_runs")
    assert run["until"] == "1"


async def test_of_more_than_one_digest_looks_at_the_latest_count(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ENTRIES", 2)
    await desk.subscribe()
    for title in ("one", "two", "three"):
        await desk.stores.send("ada", title=title)

    assert await told(desk) == {"two": False, "three": False}


@pytest.mark.parametrize("count", [2, 3])
async def test_a_digest_says_that_more_came_in_than_it_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Where the stream has other entries besides, their number alone does not tell."""
    monkeypatch.setattr(store, "MAX_ENTRIES", 2)
    await desk.subscribe("bob")
    await desk.subscribe()
    ids = [await desk.stores.send("ada", title=f"{number}") for number in range(count)]
    await desk.stores.inbox.change(person("ada"), "read", ids[:1])
    await desk.stores.send("bob")
    await desk.due_now()

    await desk.job.run_due()

    documents = sorted(await desk.sent(), key=lambda one: -one["summary"]["total_notifications"])
    assert [one.get("is_at_least", False) for one in documents] == [count > 2, False]
    assert documents[0]["summary"]["total_notifications"] == 2


async def test_what_somebody_else_has_read_or_archived_is_theirs_alone(desk: Desk) -> None:
    await desk.subscribe()
    both = [await desk.stores.send("*", title=title) for title in ("read by Bob", "archived by Bob")]
    await desk.stores.inbox.membership(person("bob"))
    await desk.stores.inbox.change(person("bob"), "read", both[:1])
    await desk.stores.inbox.change(person("bob"), "archived", both[1:])

    assert await told(desk) == {"read by Bob": False, "archived by Bob": False}


@pytest.mark.parametrize(
    ("unread_only", "counted"),
    [
        (False, {"read": True, "read with all": True, "unread": False, "unread again": False}),
        (True, {"unread": False, "unread again": False}),
    ],
)
async def test_what_was_read_is_counted_or_with_unread_only_not_even_that(
    desk: Desk, unread_only: bool, counted: dict[str, bool]
) -> None:
    await desk.subscribe(unread_only=unread_only)
    await desk.stores.send("ada", title="read with all")
    again = await desk.stores.send("ada", title="unread again")
    await desk.stores.inbox.read_all(person("ada"), None)
    await desk.stores.inbox.change(person("ada"), "unread", [again])
    read = await desk.stores.send("ada", title="read")
    await desk.stores.inbox.change(person("ada"), "read", [read])
    await desk.stores.send("ada", title="unread")

    assert await told(desk) == counted


async def test_what_is_not_due_yet_is_not_sent_not_even_a_minute_early(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.send("ada")
    await desk.due_now(-timedelta(minutes=1))

    assert await desk.job.run_due() == 0
    assert await desk.runs() == []


async def test_whoever_is_due_longest_is_first(desk: Desk) -> None:
    names = [f"person-{number}" for number in range(12)]
    for name in names:
        await desk.subscribe(name)
    await desk.due_now()
    for late, name in enumerate(reversed(names)):
        await desk.stores.query(
            "UPDATE digest_subscriptions SET next_run_at = now() - make_interval(mins => $1) WHERE user_id = $2",
            late,
            name,
        )

    async with desk.stores.database.transaction() as connection:
        await connection.execute("SET LOCAL enable_indexscan = off")  # whose order is not what is asked for
        due = await desk.digests.take_due(connection, 5)

    assert [one.user_id for one in due.people] == names[:5]


async def test_a_digest_of_nothing_unread_is_recorded_and_not_sent(desk: Desk) -> None:
    await desk.subscribe()
    read = [await desk.stores.send("ada", title=title) for title in ("one", "two")]
    await desk.stores.inbox.change(person("ada"), "read", read)
    await desk.due_now()

    await desk.job.run_due()

    assert [(row["state"], row["total"], row["unread"]) for row in await desk.runs()] == [
        ("skipped_empty", 2, 0)
    ]
    assert await desk.sent() == []


async def test_where_lists_give_way_to_the_size_of_a_notification_the_rest_is_still_counted(
    desk: Desk,
) -> None:
    await desk.subscribe()
    for number in range(30):
        await desk.stores.send(
            "ada",
            title=f"{number}" + "ä" * 150,
            message="m" * 4000,
            notification_type=f"type_{number % 10}",
            priority=Priority.HIGH,
            action_url="https://x.example/" + "a" * 1900,
        )
    await desk.due_now()
    await desk.job.run_due()

    [document] = await desk.sent()
    types: dict[str, Any] = document["notifications_by_type"]
    listed = sum(len(one["notifications"]) for one in types.values())
    assert listed < 20, "lists gave way"
    assert (document["overflow_count"], document["summary"]["unread_notifications"]) == (30 - listed, 30)


async def follows(desk: Desk, *changes: TopicChange) -> None:
    for change in changes:
        await desk.stores.inbox.change_topic(person("ada"), "news", change)


async def digested(desk: Desk) -> set[str]:
    """What the digest that is due now counts; every one is for another date."""
    await desk.stores.query("UPDATE digest_runs SET local_date = local_date - 30")
    counted = set(await told(desk))
    await desk.due_now()
    await desk.job.run_due()
    return counted


async def test_what_came_before_a_topic_was_muted_is_told_and_what_came_meanwhile_is_not(desk: Desk) -> None:
    await desk.subscribe()
    await follows(desk, "followed")
    await desk.stores.send("#news", title="before")
    await follows(desk, "muted")
    await desk.stores.send("#news", title="meanwhile")

    muted = await digested(desk)
    await desk.stores.send("#news", title="still")
    await follows(desk, "unmuted")
    await desk.stores.send("#news", title="after")

    assert muted == {"before"}
    assert await digested(desk) == {"after"}


async def test_who_mutes_and_unmutes_between_two_digests_misses_what_came_meanwhile_and_nothing_else(
    desk: Desk,
) -> None:
    await desk.subscribe()
    await follows(desk, "followed")
    await desk.stores.send("#news", title="before")
    await follows(desk, "muted")
    await desk.stores.send("#news", title="meanwhile")
    await follows(desk, "unmuted")
    await desk.stores.send("#news", title="after")

    assert await told(desk) == {"before": True, "after": False}, "who unmutes a topic has read it so far"


async def test_a_weekly_type_that_came_before_its_topic_was_muted_is_told_in_its_turn(desk: Desk) -> None:
    at = datetime.now(UTC)
    await desk.subscribe(timezone="UTC", weekly_types=("iep_update",), weekly_day=(at.weekday() + 3) % 7)
    await follows(desk, "followed")
    await desk.stores.send("#news", title="before")
    await follows(desk, "muted")
    await desk.stores.send("#news", title="meanwhile")
    await desk.stores.send("ada", title="other", notification_type="other")

    assert await digested(desk) == {"other"}
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_date = weekly_on + 7, next_run_at = now() WHERE user_id = 'ada'"
    )

    assert set(await told(desk)) == {"before"}


async def test_a_topic_that_was_muted_before_positions_were_kept_gives_nothing(desk: Desk) -> None:
    await desk.subscribe()
    await follows(desk, "followed", "muted")
    await desk.stores.query("UPDATE stream_members SET muted_seq = NULL")
    await desk.stores.send("#news", title="meanwhile")

    assert await told(desk) == {}
