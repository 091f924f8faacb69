"""What producers do with what they handed in, and who may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from core.errors import ServiceError
from core.identity import Identity
from core.streams import StreamKey
from delivery.draft import Users
from hub.history_postgres import PostgresHistory
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person, service


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


async def refused(work: Any) -> str:
    with pytest.raises(ServiceError) as refusal:
        await work
    return refusal.value.code


async def test_an_update_reaches_everybody_who_received_it(stores: Stores) -> None:
    one = await stores.send(Users.of("ada", "bob"), metadata={"a": 1})

    record = await stores.notifications.update(service(), one, {"title": "Changed", "priority": "urgent"})

    assert (record.content.title, record.content.priority, record.status) == (
        "Changed",
        "urgent",
        "published",
    )
    told = stores.heard.entries[2:]
    assert [(entry.key.name, entry.kind, entry.seq) for entry in told] == [
        ("user:ada", "updated", 2),
        ("user:bob", "updated", 2),
    ]
    page = await PostgresHistory(stores.database).read(StreamKey(TENANT_ID, "user:ada"), 1)
    assert list(page.entries) == told[:1]
    said = json.loads(told[0].payload)["data"]
    assert (said["title"], said["metadata"]) == ("Changed", {"a": 1})
    assert said["updated_at"] is not None


async def test_what_is_not_named_stays_and_what_makes_no_sense_is_refused(stores: Stores) -> None:
    one = await stores.send("ada", action_url="/iep/7/review", group_key="g")

    record = await stores.notifications.update(service(), one, {"group_key": None})

    assert (record.content.action_url, record.content.group_key) == ("/iep/7/review", None)
    for changes in ({"title": ""}, {"priority": "shout"}, {"audience": "bob"}, {"metadata": {"a": "\0"}}):
        assert await refused(stores.notifications.update(service(), one, changes)) == "invalid"
    assert len(stores.heard.entries) == 2


async def test_recalling_twice_is_recalling_once(stores: Stores) -> None:
    one = await stores.send("*")

    for _ in range(2):
        assert (await stores.notifications.recall(service(), one)).status == "recalled"

    assert [(entry.kind, entry.seq) for entry in stores.heard.entries] == [
        ("notification", 1),
        ("recalled", 2),
    ]
    page = await PostgresHistory(stores.database).read(StreamKey(TENANT_ID, "tenant"), 0)
    assert [json.loads(entry.payload)["type"] for entry in page.entries] == ["recalled", "recalled"]
    assert await refused(stores.notifications.update(service(), one, {"title": "Again"})) == "conflict"


async def test_a_scheduled_notification_can_be_changed_and_cancelled_in_silence(stores: Stores) -> None:
    soon, later = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2)
    one = await stores.send("ada", scheduled_for=soon)

    changed = await stores.notifications.update(service(), one, {"scheduled_for": later, "title": "Later"})
    cancelled = [await stores.notifications.cancel(service(), one) for _ in range(2)]

    assert (changed.scheduled_for, changed.content.title) == (later, "Later")
    assert {record.status for record in cancelled} == {"cancelled"}
    assert stores.heard.entries == []
    assert await refused(stores.notifications.recall(service(), one)) == "conflict"
    assert await refused(stores.notifications.update(service(), one, {"title": "x"})) == "conflict"


async def test_what_is_published_cannot_be_cancelled_or_scheduled(stores: Stores) -> None:
    one = await stores.send("ada")

    assert await refused(stores.notifications.cancel(service(), one)) == "conflict"
    moment = datetime.now(UTC) + timedelta(hours=1)
    assert await refused(stores.notifications.update(service(), one, {"scheduled_for": moment})) == "conflict"


async def test_a_person_may_change_what_they_sent_themselves(stores: Stores) -> None:
    one = await stores.send("ada", person("ada"))

    assert (await stores.notifications.recall(person("ada"), one)).status == "recalled"


@pytest.mark.parametrize(
    "stranger",
    [
        person("ada"),
        person("bob"),
        service(tenant_id="other"),
        Identity(tenant_id=TENANT_ID, user_id="x", scopes=frozenset({"publish"})),
    ],
    ids=["recipient", "anybody", "another tenant's service", "a service without the scope"],
)
async def test_for_everybody_else_it_is_not_there(stores: Stores, stranger: Identity) -> None:
    one = await stores.send("ada")
    do = stores.notifications

    for work in (do.get, do.recall, do.cancel):
        assert await refused(work(stranger, one)) == "not_found"
        assert await refused(work(stranger, one, tenant_id=TENANT_ID)) == "not_found"
    assert await refused(do.update(stranger, one, {"title": "x"})) == "not_found"
    assert await refused(do.get(service(), UUID(int=0))) == "not_found"


async def test_a_token_for_all_tenants_enters_where_it_says(stores: Stores) -> None:
    one = await stores.send("ada")
    everywhere = Identity(
        tenant_id="hq",
        user_id="ops",
        scopes=frozenset({"tenants:all", "notifications:write"}),
        kind="service",
    )

    assert await refused(stores.notifications.get(everywhere, one)) == "not_found"
    record = await stores.notifications.get(everywhere, one, tenant_id=TENANT_ID)
    assert (record.audience, record.created_by) == (Users.of("ada"), service().client)
