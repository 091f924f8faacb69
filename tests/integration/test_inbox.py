"""A person's inbox: what reached them, what they did with it, and what their other devices are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.errors import ServiceError
from core.ids import uuid7
from core.streams import StreamKey
from delivery.draft import Users
from delivery.inbox import SQL, Selection
from hub.history import Draft
from hub.history_postgres import append
from hub.inbox import Inbox
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person

ADA = person("ada")
BOB = person("bob")
SOON = timedelta(hours=1)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


def now() -> datetime:
    return datetime.now(UTC)


async def listed(stores: Stores, who: Any = ADA, **selection: Any) -> list[UUID]:
    listing = await stores.inbox.list(who, selection=Selection(**selection))
    return [one["id"] for one in listing.notifications]


async def test_it_is_what_the_hub_asks_for(stores: Stores) -> None:
    inbox: Inbox = stores.inbox

    assert (await inbox.membership(ADA)).positions == {
        StreamKey(TENANT_ID, "user:ada"): 0,
        StreamKey(TENANT_ID, "tenant"): 0,
    }


async def test_what_is_directed_before_a_person_is_seen_is_theirs_and_broadcasts_are_not(
    stores: Stores,
) -> None:
    directed = await stores.send("ada")
    await stores.send("*")

    membership = await stores.inbox.membership(ADA)

    assert membership.unread_count == 1
    assert membership.positions[StreamKey(TENANT_ID, "tenant")] == 1
    assert await listed(stores) == [directed]


async def test_joining_the_tenant_at_the_same_time_is_joining_once(stores: Stores) -> None:
    await stores.send("*")

    memberships = await asyncio.gather(*(stores.inbox.membership(ADA) for _ in range(20)))

    assert all(membership == memberships[0] for membership in memberships)
    assert len(await stores.query("SELECT FROM stream_members")) == 2


async def test_the_list_merges_all_streams_newest_first(stores: Stores) -> None:
    await stores.inbox.change_topic(ADA, "iep", "followed")
    sent = [await stores.send(audience) for audience in ("ada", "*", "#iep", "bob", Users.of("ada", "bob"))]

    listing = await stores.inbox.list(ADA)

    assert [one["id"] for one in listing.notifications] == [sent[4], sent[2], sent[1], sent[0]]
    assert [one["stream"] for one in listing.notifications] == ["user", "topic:iep", "tenant", "user"]
    assert listing.unread_count == 4


async def test_pages_cover_everything_once_while_more_arrives(stores: Stores) -> None:
    sent = [await stores.send("ada" if n % 2 else "*") for n in range(1)]
    await stores.inbox.membership(ADA)
    sent = [await stores.send("ada" if n % 2 else "*") for n in range(25)]

    found: list[UUID] = []
    cursor = None
    while True:
        listing = await stores.inbox.list(ADA, cursor=cursor, limit=7)
        found += [one["id"] for one in listing.notifications]
        cursor = listing.next_cursor
        if cursor is None:
            break
        await stores.send("ada")

    assert found == sent[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "é", "MjAyNg", "MjAyNi0wMS0wMVQwMDowMDowMCB4"])
async def test_a_cursor_of_somebody_elses_making_is_refused(stores: Stores, cursor: str) -> None:
    with pytest.raises(ServiceError, match="cursor"):
        await stores.inbox.list(ADA, cursor=cursor)


async def test_the_list_can_be_narrowed(stores: Stores) -> None:
    urgent = await stores.send("ada", priority="urgent", notification_type="alarm")
    low = await stores.send("ada", priority="low")
    await stores.inbox.membership(ADA)
    tenant = await stores.send("*", priority="normal")
    await stores.inbox.change(ADA, "read", [low])

    assert await listed(stores, types=["alarm"]) == [urgent]
    assert await listed(stores, min_priority="normal") == [tenant, urgent]
    assert await listed(stores, streams=["tenant"]) == [tenant]
    assert await listed(stores, streams=["topic:unknown"]) == []
    assert await listed(stores, state="read") == [low]
    assert await listed(stores, state="unread") == [tenant, urgent]
    assert await listed(stores, state="unseen") == [tenant, urgent]


async def test_each_change_is_told_once_and_returns_the_unread_count(stores: Stores) -> None:
    first, second = await stores.send("ada"), await stores.send("ada")

    assert await stores.inbox.change(ADA, "read", [first]) == 1
    assert await stores.inbox.change(ADA, "read", [first]) == 1
    assert await stores.inbox.change(ADA, "read", [first, second]) == 0
    assert await stores.inbox.change(ADA, "unread", [first, second]) == 2
    assert await stores.inbox.change(ADA, "archived", [first]) == 1
    assert await stores.inbox.change(ADA, "unarchived", [first]) == 2

    said = [json.loads(entry.payload) for entry in stores.heard.entries[2:]]
    assert [(one["type"], one["notification_ids"]) for one in said] == [
        ("read", [str(first)]),
        ("read", [str(second)]),
        ("unread", [str(first), str(second)]),
        ("archived", [str(first)]),
        ("unarchived", [str(first)]),
    ]
    assert said[0]["notification_id"] == str(first)
    assert [one["seq"] for one in said] == [3, 4, 5, 6, 7]
    assert {one["stream"] for one in said} == {"user"}


async def test_a_state_of_a_broadcast_is_one_persons(stores: Stores) -> None:
    await stores.inbox.membership(ADA)
    await stores.inbox.membership(BOB)
    everyone = await stores.send("*")

    await stores.inbox.change(ADA, "read", [everyone])

    assert await stores.inbox.unread_count(ADA) == 0
    assert await stores.inbox.unread_count(BOB) == 1
    assert stores.heard.entries[-1].key.name == "user:ada"


async def test_what_is_not_theirs_is_not_there(stores: Stores) -> None:
    own = await stores.send("ada")
    foreign = [
        await stores.send("bob"),
        await stores.send("#not-followed"),
        await stores.send("ada", person("ada", "other"), tenant_id="other"),
        uuid7(),
        uuid4(),
    ]

    for notification_id in foreign:
        with pytest.raises(ServiceError) as refusal:
            await stores.inbox.change(ADA, "read", [own, notification_id])
        assert refusal.value.code == "not_found"
        with pytest.raises(ServiceError, match="no such notification"):
            await stores.inbox.get(ADA, notification_id)

    assert await stores.inbox.unread_count(ADA) == 1  # nothing half done
    assert (await stores.inbox.get(ADA, own))["read"] is False


async def test_read_all_reads_up_to_now_and_no_further(stores: Stores) -> None:
    await stores.inbox.membership(ADA)
    await stores.send("*")
    marked = await stores.send("ada")
    await stores.inbox.change(ADA, "read", [marked])
    await stores.inbox.change(ADA, "unread", [marked])

    assert await stores.inbox.read_all(ADA, None) == 0

    assert json.loads(stores.heard.entries[-1].payload)["positions"] == {"user": 3, "tenant": 1}
    later = await stores.send("*")
    assert await listed(stores, state="unread") == [later]


async def test_read_all_up_to_a_position_leaves_what_the_device_has_not_shown(stores: Stores) -> None:
    for _ in range(3):
        await stores.send("ada")

    assert await stores.inbox.read_all(ADA, {"user": 2}) == 1
    assert await stores.inbox.read_all(ADA, {"user": 1}) == 1
    assert await stores.inbox.read_all(ADA, {"user": 10**9}) == 0
    with pytest.raises(ServiceError, match="stream"):
        await stores.inbox.read_all(ADA, {"topic:iep": 1})
    with pytest.raises(ServiceError, match="negative"):
        await stores.inbox.read_all(ADA, {"user": -1})
    await stores.send("ada")
    assert await stores.inbox.unread_count(ADA) == 1  # nobody reads the future


async def test_what_is_read_by_the_baseline_can_be_unread_again(stores: Stores) -> None:
    first = await stores.send("ada")
    await stores.send("ada")
    await stores.inbox.read_all(ADA, None)

    assert await stores.inbox.change(ADA, "unread", [first]) == 1
    assert await listed(stores, state="unread") == [first]
    assert await stores.inbox.counts(ADA) == (1, 0)


async def test_a_snoozed_notification_is_hidden_until_then_and_unread_after(stores: Stores) -> None:
    snoozed = await stores.send("ada")
    await stores.inbox.change(ADA, "read", [snoozed])

    await stores.inbox.change(ADA, "snoozed", [snoozed], until=now() + SOON)

    assert await listed(stores) == []
    assert await listed(stores, state="snoozed") == [snoozed]
    assert await stores.inbox.unread_count(ADA) == 0
    assert await stores.inbox.read_all(ADA, None) == 0
    await stores.query("UPDATE notification_receipts SET snoozed_until = now()")
    assert await stores.inbox.unread_count(ADA) == 1
    assert await listed(stores, state="unread") == [snoozed]


async def test_a_snooze_cannot_end_beyond_the_calendar(stores: Stores) -> None:
    one = await stores.send("ada")

    with pytest.raises(ServiceError) as refused:
        until = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
        await stores.inbox.change(ADA, "snoozed", [one], until=until)

    assert refused.value.code == "invalid"


@pytest.mark.parametrize("until", [None, datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1)])  # noqa: DTZ001 - refused
async def test_a_snooze_must_end_in_the_future(stores: Stores, until: datetime | None) -> None:
    one = await stores.send("ada")

    with pytest.raises(ServiceError, match="until"):
        await stores.inbox.change(ADA, "snoozed", [one], until=until)


async def test_following_begins_at_the_head_and_is_told_once(stores: Stores) -> None:
    await stores.send("#iep")

    for _ in range(2):
        await stores.inbox.change_topic(ADA, "iep", "followed")
    after = await stores.send("#iep")

    assert await listed(stores) == [after]
    said = [json.loads(entry.payload) for entry in stores.heard.entries if entry.kind == "followed"]
    assert said == [{"type": "followed", "topic": "iep", "joined_seq": 1, "stream": "user", "seq": 1}]
    assert StreamKey(TENANT_ID, "topic:iep") in (await stores.inbox.membership(ADA)).positions


async def test_leaving_a_topic_forgets_what_came_from_it(stores: Stores) -> None:
    await stores.inbox.change_topic(ADA, "iep", "followed")
    one = await stores.send("#iep")
    await stores.inbox.change(ADA, "unread", [one])

    await stores.inbox.change_topic(ADA, "iep", "unfollowed")

    assert await stores.inbox.unread_count(ADA) == 0
    assert await listed(stores) == []
    await stores.inbox.change_topic(ADA, "iep", "followed")
    assert await stores.inbox.unread_count(ADA) == 0
    assert await listed(stores) == []


async def test_a_muted_topic_stays_listed_and_counts_nowhere(stores: Stores) -> None:
    await stores.inbox.change_topic(ADA, "iep", "followed")
    before = await stores.send("#iep")

    await stores.inbox.change_topic(ADA, "iep", "muted")
    while_muted = await stores.send("#iep")

    membership = await stores.inbox.membership(ADA)
    assert membership.unread_count == 0
    assert StreamKey(TENANT_ID, "topic:iep") not in membership.positions
    assert await listed(stores) == [while_muted, before]
    await stores.inbox.change_topic(ADA, "iep", "unmuted")
    assert await stores.inbox.unread_count(ADA) == 0
    after = await stores.send("#iep")
    assert await listed(stores, state="unread") == [after]


async def test_topics_are_listed_and_limited(database: str) -> None:
    async with open_stores(database, follow_limit=2) as stores:
        await stores.inbox.change_topic(ADA, "b", "followed")
        await stores.inbox.change_topic(ADA, "a", "followed")
        await stores.inbox.change_topic(ADA, "a", "muted")

        with pytest.raises(ServiceError) as refusal:
            await stores.inbox.change_topic(ADA, "c", "followed")

        assert refusal.value.code == "conflict"
        assert [(one.topic, one.muted) for one in await stores.inbox.topics(ADA)] == [
            ("a", True),
            ("b", False),
        ]
        with pytest.raises(ServiceError, match="no such topic"):
            await stores.inbox.change_topic(ADA, "c", "muted")
        with pytest.raises(ServiceError, match="topic"):
            await stores.inbox.change_topic(ADA, "no topic", "followed")


async def test_recalled_and_expired_notifications_are_gone(stores: Stores) -> None:
    recalled = await stores.send("ada")
    expired = await stores.send("ada", expires_at=now() + SOON)
    await stores.inbox.change(ADA, "unread", [recalled, expired])

    await stores.query("UPDATE notifications SET status = 'recalled' WHERE id = $1", recalled)
    await stores.query("UPDATE notifications SET expires_at = now() WHERE id = $1", expired)

    assert await listed(stores) == []
    assert await stores.inbox.counts(ADA) == (0, 0)
    assert await stores.inbox.change(ADA, "read", [recalled]) == 0  # a device that has not heard yet


async def test_counting_stops_at_a_thousand(stores: Stores) -> None:
    for _ in range(3):
        await asyncio.gather(*(stores.send("ada") for _ in range(400)))

    assert await stores.inbox.counts(ADA) == (1000, 1000)


async def test_a_selection_is_changed_a_thousand_at_a_time(stores: Stores) -> None:
    await asyncio.gather(*(stores.send("ada", priority="low") for _ in range(1100)))
    kept = await stores.send("ada", priority="urgent")
    lows = Selection(state="unread", types=["iep_update"], min_priority="low")
    await stores.inbox.change(ADA, "archived", [kept])

    first = await stores.inbox.change_where(ADA, "read", lows)
    second = await stores.inbox.change_where(ADA, "read", lows)
    third = await stores.inbox.change_where(ADA, "read", lows)

    assert (first.changed, first.more) == (1000, True)
    assert (second.changed, second.unread_count, second.more) == (100, 0, False)
    assert third.changed == 0
    assert [entry.kind for entry in stores.heard.entries].count("read") == 2


async def test_changes_of_one_person_happen_one_after_the_other(stores: Stores) -> None:
    one = await stores.send("ada")
    changes = ["read", "unread"] * 20

    await asyncio.gather(*(stores.inbox.change(ADA, change, [one]) for change in changes))  # type: ignore[arg-type] # literals

    last = max(stores.heard.entries, key=lambda entry: entry.seq)
    assert (await stores.inbox.get(ADA, one))["read"] is (last.kind == "read")


async def test_of_two_devices_the_one_whose_event_is_later_has_its_way(stores: Stores) -> None:
    """The first marks unread what the second, before the first has committed, reads with everything else."""
    one = await stores.send("ada")
    await stores.inbox.read_all(ADA, None)
    own = StreamKey(TENANT_ID, "user:ada")
    async with stores.database.transaction() as connection:
        await connection.execute(SQL["lock_person"], TENANT_ID, "ada")
        await connection.execute(SQL["unread"], TENANT_ID, "ada", [one])
        await append(connection, [Draft(own, "unread", data={"notification_ids": [str(one)]})])
        second = asyncio.create_task(stores.inbox.read_all(ADA, None))
        await stores.somebody_waits()

    assert await second == 0
    assert stores.heard.entries[-1].seq == 4
    assert (await stores.inbox.get(ADA, one))["read"] is True


async def test_reading_one_by_one_keeps_counting_cheap_and_changes_nothing(stores: Stores) -> None:
    sent: list[UUID] = []
    for _ in range(6):
        sent += await asyncio.gather(*(stores.send("ada") for _ in range(500)))
    ids = [row["id"] for row in await stores.query("SELECT id FROM notifications ORDER BY id")]
    left = set(ids[::7])

    for start in range(0, 3000, 50):
        chunk = [one for one in ids[start : start + 50] if one not in left]
        await stores.inbox.change(ADA, "read", chunk)

    [baseline] = await stores.query("SELECT read_all_seq FROM stream_members WHERE stream = 'user:ada'")
    assert baseline["read_all_seq"] >= 2000
    assert await stores.inbox.counts(ADA) == (len(left), len(left))
    unread: list[UUID] = []
    cursor = None
    while True:
        page = await stores.inbox.list(ADA, selection=Selection(state="unread"), limit=500, cursor=cursor)
        unread += [one["id"] for one in page.notifications]
        if (cursor := page.next_cursor) is None:
            break
    assert set(unread) == left


async def test_many_are_counted_at_once_and_in_their_order(stores: Stores) -> None:
    await stores.send("ada")
    await stores.send("*")
    for _ in range(2):
        await stores.send("bob")
    read = await stores.send("bob")
    await stores.inbox.change(person("bob"), "read", [read])
    await stores.send("bob", tenant_id="hospital")

    counts = await stores.inbox.unread_counts(
        [(TENANT_ID, "bob"), ("hospital", "bob"), (TENANT_ID, "nobody-yet"), (TENANT_ID, "ada")]
    )

    assert counts == [2, 1, 0, 1], "whoever is new begins at the tenant's head"
    await stores.send("*")
    everybody = [(TENANT_ID, name) for name in ("ada", "bob", "nobody-yet")]
    assert await stores.inbox.unread_counts(everybody) == [2, 3, 1]
    singly = [await stores.inbox.unread_count(person(name)) for _, name in everybody]
    assert singly == [2, 3, 1]
