"""What the audit log says of digests: who changed what, and who had none because it came too late."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from core.notification import Priority
from delivery.audit_store import Audit
from digest.subscription import Wanted
from tests.integration.digest.test_digest_faults import refuse
from tests.integration.digest.test_digest_job import Desk
from tests.stores import open_stores
from tests.submissions import TENANT_ID

#: Every wish, and another one in its place.
ANOTHER: dict[str, Any] = {
    "is_enabled": False,
    "delivery_times": (time(6, 30),),
    "timezone": "Asia/Tokyo",
    "frequency": "hourly",
    "weekly_day": 3,
    "include_types": ("diagnosis",),
    "exclude_types": ("gossip",),
    "weekly_types": ("social",),
    "exclude_weekends": True,
    "min_priority": Priority.HIGH,
    "unread_only": True,
    "channels": ("telegram",),
    "all_quiet": True,
    "inbox_when_active": True,
}


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


async def log(desk: Desk) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What the log says of digests, the first first: actor, action, subject, details."""
    rows = await desk.stores.query(
        "SELECT * FROM audit_log WHERE action LIKE 'digest.%' ORDER BY tenant_id, seq"
    )
    return [(row["actor"], row["action"], row["subject"], json.loads(row["details"])) for row in rows]


async def put(desk: Desk, wanted: Wanted, actor: str = "person:ada") -> None:
    await desk.digests.put(TENANT_ID, "ada", wanted, actor)


@pytest.mark.parametrize("name", [one.name for one in fields(Wanted)])
async def test_every_wish_that_changes_is_named_and_none_is_repeated(desk: Desk, name: str) -> None:
    base = Wanted(weekly_types=("news",), timezone="Europe/Berlin")
    await put(desk, base)

    await put(desk, replace(base, **{name: ANOTHER[name]}), actor="jwt::admin")

    actor, action, subject, details = (await log(desk))[-1]
    assert (actor, action, subject) == ("jwt::admin", "digest.changed", "recipient:ada")
    assert details["changed"] == [name]
    assert details.keys() == {"changed", "frequency", "timezone", "is_enabled"}
    assert not {"diagnosis", "gossip", "social"} & set(json.dumps(details).split('"'))


async def test_whoever_says_the_same_again_changes_nothing(desk: Desk) -> None:
    for _ in range(3):
        await put(desk, Wanted(timezone="Europe/Berlin"))

    [(_, _, _, details)] = await log(desk)
    assert details["changed"] == ["is_enabled", "timezone"]


async def test_a_change_stands_with_its_entry_or_not_at_all(desk: Desk) -> None:
    await put(desk, Wanted(timezone="Europe/Berlin"))
    await desk.stores.query(
        "CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    await desk.stores.query("CREATE TRIGGER full_ BEFORE INSERT ON audit_log EXECUTE FUNCTION full_()")

    with pytest.raises(Exception, match="no"):
        await put(desk, Wanted(timezone="Asia/Tokyo"))

    one = await desk.digests.get(TENANT_ID, "ada")
    assert one is not None
    assert one.wanted.timezone == "Europe/Berlin"


async def skip(desk: Desk, *names: str) -> None:
    """These were due too long ago; the others are due now."""
    await desk.due_now()
    await desk.stores.query(
        "UPDATE digest_subscriptions SET next_run_at = now() - interval '5 hours' WHERE user_id = ANY ($1::text[])",
        names,
    )


@pytest.mark.parametrize("is_each_alone", [False, True])
async def test_who_had_no_digest_because_it_came_too_late_is_in_the_log(
    desk: Desk, *, is_each_alone: bool
) -> None:
    """Also where a fault of somebody else has each of them done alone."""
    for name in ("ada", "bob", "eve"):
        await desk.subscribe(name)
    await desk.stores.send("*", title="A diagnosis")
    await skip(desk, "ada", "eve")
    if is_each_alone:
        await refuse(desk, "digest_runs", "INSERT", "NEW.user_id = 'bob' AND NEW.state = 'sent'")
    [due] = await desk.stores.query(
        "SELECT next_date, next_slot, next_run_at FROM digest_subscriptions WHERE user_id = 'ada'"
    )
    before = len(await log(desk))

    await desk.job.run_due()
    await desk.job.run_due()

    assert [row["state"] for row in await desk.runs()] == [
        "skipped_late",
        "failed" if is_each_alone else "sent",
        "skipped_late",
    ]

    entries = (await log(desk))[before:]
    assert sorted(one[:3] for one in entries) == [
        ("scheduler", "digest.skipped_late", "recipient:ada"),
        ("scheduler", "digest.skipped_late", "recipient:eve"),
    ]
    [details] = [one[3] for one in entries if one[2] == "recipient:ada"]
    assert details.keys() == {"date", "slot", "due_at"}
    assert (details["date"], details["slot"]) == (due["next_date"].isoformat(), due["next_slot"])
    assert datetime.fromisoformat(details["due_at"]) == due["next_run_at"].astimezone(UTC)
    assert await Audit(desk.stores.database).verify(TENANT_ID) is None


async def test_a_run_is_skipped_with_its_entry_or_is_still_due(desk: Desk) -> None:
    await desk.subscribe()
    await skip(desk, "ada")
    await desk.stores.query(
        "CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    await desk.stores.query("CREATE TRIGGER full_ BEFORE INSERT ON audit_log EXECUTE FUNCTION full_()")

    with pytest.raises(Exception, match="no"):
        await desk.job.run_due()

    assert await desk.runs() == []
    await desk.stores.query("DROP TRIGGER full_ ON audit_log")
    await desk.job.run_due()
    assert [row["state"] for row in await desk.runs()] == ["skipped_late"]
    assert [action for _, action, _, _ in await log(desk)] == ["digest.changed", "digest.skipped_late"]


async def test_each_tenant_has_what_was_skipped_in_a_chain_of_its_own(desk: Desk) -> None:
    for number in range(6):
        await desk.digests.put(f"tenant-{number % 2}", f"p{number}", Wanted(), "test")
    await skip(desk, *(f"p{number}" for number in range(6)))

    await desk.job.run_due()

    audit = Audit(desk.stores.database)
    for number in range(2):
        rows = await audit.list(f"tenant-{number}")
        skipped = {row.subject for row in rows if row.action == "digest.skipped_late"}
        assert skipped == {f"recipient:p{number + 2 * n}" for n in range(3)}
        assert await audit.verify(f"tenant-{number}") is None


async def test_a_late_digest_that_is_sent_needs_no_entry(desk: Desk) -> None:
    await desk.subscribe()
    await desk.stores.send("ada")
    await desk.due_now(timedelta(hours=2))

    await desk.job.run_due()

    assert [row["state"] for row in await desk.runs()] == ["sent"]
    assert [action for _, action, _, _ in await log(desk)] == ["digest.changed"]
