"""Notifications in: what is answered was committed, whoever else was in the same transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from core.database import Database, open_database
from core.errors import ServiceError
from core.streams import StreamKey
from delivery.draft import Submission, Users
from delivery.ingest import PUBLISH_NEVER_HAPPENS, Ingest, submit
from hub.history_postgres import PostgresHistory
from tests.postgres import patient
from tests.stores import PATIENT
from tests.submissions import TENANT_ID, Heard, service, submission


@pytest.fixture
async def store(database: str) -> AsyncIterator[Database]:
    opened = await open_database(patient(database))
    yield opened
    await opened.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def ingest(store: Database, heard: Heard) -> AsyncIterator[Ingest]:
    started = Ingest(store, heard, SystemClock(), PATIENT)
    await started.start()
    yield started
    await started.close()


async def rows(store: Database, query: str, *arguments: Any) -> list[Any]:
    async with store.connection() as connection:
        return list(await connection.fetch(query, *arguments))


async def test_an_accepted_notification_is_stored_sequenced_and_told(
    ingest: Ingest, store: Database, heard: Heard
) -> None:
    accepted = await ingest.submit(submission("ada", metadata={"student": {"id": 7}}), service())

    assert (accepted.status, accepted.replayed) == (201, False)
    body = json.loads(accepted.body)
    assert body["id"] == str(accepted.notification_ids[0])
    assert body["metadata"] == {"student": {"id": 7}}
    page = await PostgresHistory(store).read(StreamKey(TENANT_ID, "user:ada"), 0)
    assert list(page.entries) == heard.entries
    assert json.loads(heard.entries[0].payload)["data"] == body


async def test_several_people_share_one_row_and_have_an_entry_each(
    ingest: Ingest, store: Database, heard: Heard
) -> None:
    accepted = await ingest.submit(submission(Users.of("ada", "bob", "ada")), service())

    listed = json.loads(accepted.body)["notifications"]
    assert listed == [{"id": str(accepted.notification_ids[0]), "user_id": name} for name in ("ada", "bob")]
    assert len(await rows(store, "SELECT FROM notifications")) == 1
    assert {entry.key.name: entry.seq for entry in heard.entries} == {"user:ada": 1, "user:bob": 1}


async def test_a_broadcast_is_one_entry(ingest: Ingest, heard: Heard) -> None:
    await ingest.submit(submission("*"), service())
    await ingest.submit(submission("#iep_updates"), service())

    assert [(entry.key.name, entry.seq) for entry in heard.entries] == [
        ("tenant", 1),
        ("topic:iep_updates", 1),
    ]


async def test_creates_that_come_together_share_a_commit_and_keep_their_order(
    ingest: Ingest, heard: Heard
) -> None:
    await asyncio.gather(*(ingest.submit(submission("*", title=str(n)), service()) for n in range(300)))

    assert ingest.stats.commits < 10
    assert [entry.seq for entry in heard.entries] == list(range(1, 301))
    assert [json.loads(entry.payload)["data"]["title"] for entry in heard.entries] == [
        str(n) for n in range(300)
    ]


async def test_many_notifications_of_one_request_are_stored_together(ingest: Ingest, store: Database) -> None:
    accepted = await ingest.submit_many([submission(f"user-{n}") for n in range(100)], service(), key="batch")

    assert len(json.loads(accepted.body)["notifications"]) == 100
    assert len({row["xmin"] for row in await rows(store, "SELECT xmin FROM notifications")}) == 1


async def test_a_bad_row_fails_its_own_caller_only(ingest: Ingest, store: Database) -> None:
    bad = submission("ada")
    object.__setattr__(bad, "title", "not \0 storable")  # past the checks, as a bug in them would let it

    results = await asyncio.gather(
        *(ingest.submit(one, service()) for one in (submission("ada"), bad, submission("bob"))),
        return_exceptions=True,
    )

    assert [getattr(result, "status", None) for result in results] == [201, None, 201]
    assert isinstance(results[1], ServiceError)
    assert results[1].code == "invalid"
    assert len(await rows(store, "SELECT FROM notifications")) == 2


@pytest.mark.parametrize(
    ("member", "value", "path"),
    [
        ("title", " ", "title"),
        ("title", "a\0b", ""),
        ("title", "\ud800", ""),
        ("message", "x" * 16384, ""),
        ("metadata", {"a": "\0"}, ""),
        ("metadata", {"a": object()}, ""),
        ("notification_type", "", "notification_type"),
        ("channels", ("pigeon",), "channels"),
        ("channels", (), "channels"),
        ("collapse_key", "", "collapse_key"),
        ("audience", Users(()), "user_ids"),
        ("audience", Users(("b", "a")), "user_ids"),
        ("audience", Users.of(*(f"user-{n}" for n in range(1001))), "user_ids"),
        ("expires_at", datetime(2030, 1, 1), "expires_at"),  # noqa: DTZ001 - a time without a zone is what is refused
        ("tenant_id", "", "tenant_id"),
    ],
)
def test_what_cannot_be_stored_or_shown_is_refused_with_its_place(member: str, value: Any, path: str) -> None:
    with pytest.raises(ServiceError) as refusal:
        submission(**{member: value}) if member != "audience" else submission(value)

    assert refusal.value.code == "invalid"
    assert path in [fault.path for fault in refusal.value.faults]


def test_a_backslash_before_u0000_is_no_nul_character() -> None:
    assert submission("ada", title="C:\\u0000").title == "C:\\u0000"


async def test_a_full_queue_refuses_and_says_when_to_come_back(store: Database, heard: Heard) -> None:
    ingest = Ingest(store, heard, SystemClock(), replace(PATIENT, queue_limit=5))
    await ingest.start()

    results = await asyncio.gather(
        *(ingest.submit(submission("ada"), service()) for _ in range(20)), return_exceptions=True
    )

    refused = [result for result in results if isinstance(result, ServiceError)]
    assert len(refused) == 15
    assert {(error.code, error.retry_after) for error in refused} == {("overloaded", 1)}
    assert len(await rows(store, "SELECT FROM notifications")) == 5
    await ingest.close()


async def test_closing_commits_what_is_in_the_queue(store: Database, heard: Heard) -> None:
    ingest = Ingest(store, heard, SystemClock(), replace(PATIENT, batch_limit=10))
    await ingest.start()
    waiting = [asyncio.ensure_future(ingest.submit(submission("ada"), service())) for _ in range(50)]
    await asyncio.sleep(0)

    await ingest.close()

    assert {(await one).status for one in waiting} == {201}
    with pytest.raises(ServiceError, match="stopping"):
        await ingest.submit(submission("ada"), service())


async def test_a_commit_that_is_never_told_is_committed(store: Database, heard: Heard) -> None:
    settings = replace(PATIENT, failpoints=frozenset({PUBLISH_NEVER_HAPPENS}))
    ingest = Ingest(store, heard, SystemClock(), settings)
    await ingest.start()

    await ingest.submit(submission("ada"), service())

    assert heard.entries == []
    assert len((await PostgresHistory(store).read(StreamKey(TENANT_ID, "user:ada"), 0)).entries) == 1
    await ingest.close()


async def test_the_later_of_a_collapse_key_replaces_the_earlier_for_the_same_audience(
    ingest: Ingest, store: Database, heard: Heard
) -> None:
    def update(audience: str) -> Submission:
        return submission(audience, collapse_key="iep-7")

    first = await ingest.submit(update("ada"), service())
    other = await ingest.submit(update("bob"), service())
    second = await ingest.submit(update("ada"), service())

    states = {row["id"]: row["status"] for row in await rows(store, "SELECT id, status FROM notifications")}
    assert states == {
        first.notification_ids[0]: "recalled",
        other.notification_ids[0]: "published",
        second.notification_ids[0]: "published",
    }
    recall = heard.entries[-1]
    assert (recall.key.name, recall.kind, recall.seq) == ("user:ada", "recalled", 3)
    assert json.loads(recall.payload)["notification_id"] == str(first.notification_ids[0])


async def test_of_many_with_one_collapse_key_one_remains_whichever_node_they_came_to(
    store: Database, heard: Heard
) -> None:
    nodes = [Ingest(store, heard, SystemClock(), PATIENT) for _ in range(4)]
    for node in nodes:
        await node.start()

    await asyncio.gather(
        *(nodes[n % 4].submit(submission("*", collapse_key="banner"), service()) for n in range(80))
    )

    assert len(await rows(store, "SELECT FROM notifications WHERE status = 'published'")) == 1
    for node in nodes:
        await node.close()


async def test_a_scheduled_notification_has_no_entry_yet(
    ingest: Ingest, store: Database, heard: Heard
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)

    accepted = await ingest.submit(submission("ada", scheduled_for=later), service())

    assert accepted.status == 201
    assert heard.entries == []
    [row] = await rows(store, "SELECT status, published_at FROM notifications")
    assert tuple(row) == ("scheduled", None)


async def test_submit_belongs_to_the_transaction_of_its_caller(store: Database) -> None:
    with pytest.raises(RuntimeError, match="the order failed"):
        async with store.transaction() as connection:
            written = await submit(connection, submission("ada"), service())
            assert len(written.entries) == 1
            raise RuntimeError("the order failed")

    assert await rows(store, "SELECT FROM notifications") == []

    async with store.transaction() as connection:
        written = await submit(connection, submission("ada"), service())
    page = await PostgresHistory(store).read(StreamKey(TENANT_ID, "user:ada"), 0)
    assert list(page.entries) == list(written.entries)


async def test_two_tenants_never_meet(ingest: Ingest, store: Database) -> None:
    await ingest.submit(submission("ada"), service())
    await ingest.submit(replace(submission("ada"), tenant_id="other"), service(tenant_id="other"))

    page = await PostgresHistory(store).read(StreamKey("other", "user:ada"), 0)
    assert [entry.seq for entry in page.entries] == [1]


def test_a_number_that_json_cannot_say_is_refused_by_its_member() -> None:
    with pytest.raises(ServiceError) as refusal:
        submission("ada", metadata={"a": [{"b": float("1e400")}]})

    assert [fault.path for fault in refusal.value.faults] == ["metadata"]


@pytest.mark.parametrize("channels", [["email"], ["push", "sms"]])
async def test_a_notification_for_other_channels_only_is_stored_and_shown_nowhere(
    ingest: Ingest, store: Database, heard: Heard, channels: list[str]
) -> None:
    silent, shown = await asyncio.gather(
        ingest.submit(submission("ada", channels=channels), service()),
        ingest.submit(submission("ada", channels=[*channels, "in_app"]), service()),
    )

    stored = await rows(store, "SELECT id FROM notifications ORDER BY id")
    assert {row["id"] for row in stored} == {*silent.notification_ids, *shown.notification_ids}
    [entry] = heard.entries
    assert json.loads(entry.payload)["data"]["id"] == str(shown.notification_ids[0])


async def test_nothing_is_told_of_a_batch_that_is_shown_nowhere(ingest: Ingest, heard: Heard) -> None:
    accepted = await ingest.submit(submission("ada", channels=["email"], collapse_key="one"), service())

    assert accepted.status == 201
    assert heard.entries == []
