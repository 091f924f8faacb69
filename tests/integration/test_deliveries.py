"""Deliveries as operators see them: found, explained, cancelled, edited and replayed, and every act is on record."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.errors import ServiceError
from core.identity import ADMIN, Identity
from core.ids import uuid7
from core.vault import Vault
from delivery import deliveries_store
from delivery.audit_store import Audit
from delivery.deliveries_store import Deliveries, Selection
from delivery.draft import Users
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID

OPERATOR = Identity(tenant_id=TENANT_ID, user_id="root", scopes=ADMIN, kind="service")
STRANGER = Identity(tenant_id="hospital", user_id="root", scopes=ADMIN, kind="service")
VAULT = Vault({"test": b"v" * 32})


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


@pytest.fixture
def deliveries(stores: Stores) -> Deliveries:
    return Deliveries(stores.database, VAULT)


async def deliver(stores: Stores, user_id: str = "ada", *channels: str, **columns: Any) -> list[UUID]:
    """Send somebody something by these channels; their deliveries, which then have these columns."""
    sent = await stores.send(user_id, channels=channels or ("sms",))
    if columns.get("state") in {
        "sent",
        "delivered",
        "failed",
        "undelivered",
        "suppressed",
        "expired",
        "cancelled",
    }:
        columns["finished_at"] = datetime.now(UTC)
    if columns.get("state") == "processing":
        columns["claimed_by"] = "worker-1"
    sets = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 2))
    if sets:
        await stores.query(
            f"UPDATE notification_deliveries SET {sets} WHERE notification_id = $1", sent, *columns.values()
        )
    rows = await stores.query(
        "SELECT id FROM notification_deliveries WHERE notification_id = $1 ORDER BY channel", sent
    )
    return [row["id"] for row in rows]


async def address(stores: Stores, user_id: str, channel: str = "sms") -> UUID:
    address_id = uuid4()
    await stores.query(
        "INSERT INTO recipients (tenant_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        TENANT_ID,
        user_id,
    )
    await stores.query(
        "INSERT INTO recipient_addresses (tenant_id, id, user_id, channel, sealed, lookup, hint)"
        " VALUES ($1, $2, $3, $4, '\\x', $5, '+25***56')",
        TENANT_ID,
        address_id,
        user_id,
        channel,
        uuid4().bytes,
    )
    return address_id


async def actions(stores: Stores) -> list[str]:
    return [row.action for row in reversed(await Audit(stores.database).list(TENANT_ID))]


def ids(page: deliveries_store.Page) -> list[UUID]:
    return [one["id"] for one in page.deliveries]


# -- looking


async def test_the_list_is_narrowed_by_what_is_asked_for(stores: Stores, deliveries: Deliveries) -> None:
    [sms] = await deliver(stores, "ada", "sms", state="failed", code="30005")
    email, telegram = await deliver(stores, "bob", "email", "telegram")
    of_bob = (await deliveries.get(TENANT_ID, email))["notification_id"]

    async def found(**selection: Any) -> set[UUID]:
        return set(ids(await deliveries.list(TENANT_ID, Selection(**selection))))

    assert await found() == {sms, email, telegram}
    assert await found(state="failed") == {sms}
    assert await found(channel="email") == {email}
    assert await found(user_id="bob") == {email, telegram}
    assert await found(user_id="bob", state="failed") == set()
    assert await found(notification_id=of_bob) == {email, telegram}
    assert await found(notification_id=of_bob, channel="email", state="queued") == {email}
    assert await found(code="30005") == {sms}
    assert await found(since=datetime.now(UTC) - timedelta(minutes=1)) == {sms, email, telegram}
    assert await found(since=datetime.now(UTC) + timedelta(minutes=1)) == set()
    assert (await deliveries.list("hospital", Selection())).deliveries == []


@pytest.mark.parametrize("narrowed", [{}, {"user_id": "ada"}, {"state": "queued"}])
async def test_every_delivery_is_on_one_page_and_the_newest_on_the_first(
    stores: Stores, deliveries: Deliveries, narrowed: dict[str, str]
) -> None:
    for _ in range(5):
        await deliver(stores)
    selection = Selection(**narrowed)  # type: ignore[arg-type]  # of texts alone

    pages, cursor = [], None
    for _ in range(4):
        page = await deliveries.list(TENANT_ID, selection, cursor=cursor, limit=2)
        pages.append(ids(page))
        if (cursor := page.next_cursor) is None:
            break

    assert [len(page) for page in pages] == [2, 2, 1]
    found = [one for page in pages for one in page]
    assert found == sorted(found, reverse=True)


async def test_a_list_that_has_to_look_far_comes_back_short_and_says_how_to_go_on(
    stores: Stores, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries_store, "_SCAN_LIMIT", 3)
    [oldest] = await deliver(stores, "ada", "email")
    for _ in range(4):
        await deliver(stores)

    first = await deliveries.list(TENANT_ID, Selection(channel="email"))
    second = await deliveries.list(TENANT_ID, Selection(channel="email"), cursor=first.next_cursor)

    assert (ids(first), ids(second), second.next_cursor) == ([], [oldest], None)


async def test_the_deliveries_of_a_notification_go_person_by_person(
    stores: Stores, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await stores.send(Users.of("ada", "bob", "cyn"), channels=("email", "sms"))

    pages, cursor = [], None
    while True:
        page = await deliveries.of_notification(TENANT_ID, sent, cursor=cursor, limit=4)
        pages += [(one["user_id"], one["channel"]) for one in page.deliveries]
        if (cursor := page.next_cursor) is None:
            break
    own = await deliveries.of_notification(TENANT_ID, sent, user_id="bob")

    assert pages == [(who, channel) for who in ("ada", "bob", "cyn") for channel in ("email", "sms")]
    assert {one["user_id"] for one in own.deliveries} == {"bob"}
    with pytest.raises(ServiceError, match="no such notification"):
        await deliveries.of_notification("hospital", sent)
    with pytest.raises(ServiceError, match="cursor"):
        await deliveries.of_notification(TENANT_ID, sent, cursor=uuid7())
    monkeypatch.setattr(deliveries_store, "_SCAN_LIMIT", 2)
    short = await deliveries.list(TENANT_ID, Selection(notification_id=sent, state="failed"))
    assert (short.deliveries, short.next_cursor is not None) == ([], True)


async def test_a_timeline_tells_every_attempt_what_was_asked_and_what_came_back(
    stores: Stores, deliveries: Deliveries
) -> None:
    where = await address(stores, "ada")
    [one] = await deliver(stores, "ada", "sms", state="delivered", address_id=where, attempt=2)
    gates = [{"gate": "opted_out", "passed": True, "saw": "no"}]
    for attempt, outcome, code in [(1, "retry", "500"), (2, "sent", None)]:
        await stores.query(
            "INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker, ended_at, outcome, provider, code,"
            " address_id, gates) VALUES ($1, $2, $3, 'w1', now(), $4, 'twilio', $5, $6, $7)",
            TENANT_ID,
            one,
            attempt,
            outcome,
            code,
            where,
            json.dumps(gates),
        )
    await stores.query(
        "INSERT INTO provider_events (provider, event_id, status, tenant_id, delivery_id)"
        " VALUES ('twilio', 'SM1', 'delivered', $1, $2)",
        TENANT_ID,
        one,
    )

    told = await deliveries.timeline(TENANT_ID, one)

    assert (told["state"], told["address_hint"]) == ("delivered", "+25***56")
    assert [(a["attempt"], a["outcome"], a["code"]) for a in told["attempts"]] == [
        (1, "retry", "500"),
        (2, "sent", None),
    ]
    assert told["attempts"][0]["gates"] == [gates[0] | {"until": None}]
    assert [(event["provider"], event["status"]) for event in told["provider_events"]] == [
        ("twilio", "delivered")
    ]
    with pytest.raises(ServiceError, match="no such delivery"):
        await deliveries.timeline("hospital", one)


async def test_dead_letters_are_what_failed_or_did_not_arrive_counted_by_what_ended_them(
    stores: Stores, deliveries: Deliveries
) -> None:
    [failed] = await deliver(stores, "ada", "sms", state="failed", code="30005")
    [again] = await deliver(stores, "bob", "sms", state="failed", code="30005")
    [undelivered] = await deliver(stores, "cyn", "email", state="undelivered", code="550")
    await deliver(stores, "dan", "email", state="suppressed")
    await deliver(stores, "eve", "email", state="sent")

    first = await deliveries.dead_letters(TENANT_ID, limit=2)
    second = await deliveries.dead_letters(TENANT_ID, limit=2, cursor=first.next_cursor)

    assert ids(first) + ids(second) == sorted([failed, again, undelivered], reverse=True)
    assert second.next_cursor is None
    assert ids(await deliveries.dead_letters(TENANT_ID, channel="email")) == [undelivered]
    assert set(ids(await deliveries.dead_letters(TENANT_ID, code="30005"))) == {failed, again}
    assert await deliveries.dead_counts(TENANT_ID) == [
        {"channel": "sms", "state": "failed", "code": "30005", "count": 2},
        {"channel": "email", "state": "undelivered", "code": "550", "count": 1},
    ]


# -- doing


@pytest.mark.parametrize("state", ["queued", "deferred", "unknown"])
async def test_what_has_not_gone_out_can_be_cancelled_and_twice_is_once(
    stores: Stores, deliveries: Deliveries, state: str
) -> None:
    [one] = await deliver(stores, state=state)

    first, second = [await deliveries.cancel(OPERATOR, one) for _ in range(2)]

    assert (first["state"], second["state"]) == ("cancelled", "cancelled")
    assert await actions(stores) == ["delivery.cancelled"]


@pytest.mark.parametrize("state", ["processing", "sent", "delivered", "failed"])
async def test_what_is_under_way_or_over_is_not_cancelled(
    stores: Stores, deliveries: Deliveries, state: str
) -> None:
    [one] = await deliver(stores, state=state)

    with pytest.raises(ServiceError) as refused:
        await deliveries.cancel(OPERATOR, one)

    assert refused.value.code == "conflict"
    assert await actions(stores) == []


@pytest.mark.parametrize("state", ["failed", "undelivered", "suppressed"])
async def test_what_ended_badly_begins_anew_with_all_its_tries_behind_the_same_fence(
    stores: Stores, deliveries: Deliveries, state: str
) -> None:
    [one] = await deliver(
        stores,
        state=state,
        attempt=6,
        retries=5,
        deferrals=2,
        unknowns=1,
        provider="twilio",
        provider_ref="SM1",
        code="30005",
        reason="gone",
        due_at=datetime.now(UTC) + timedelta(hours=1),
    )

    again = await deliveries.retry(OPERATOR, one)

    assert (
        again
        | {
            "state": "queued",
            "attempt": 6,
            "retries": 0,
            "deferrals": 0,
            "unknowns": 0,
            "provider_ref": None,
            "code": None,
            "reason": None,
            "finished_at": None,
        }
        == again
    )
    assert again["next_at"] <= datetime.now(UTC) + timedelta(seconds=1)
    assert await actions(stores) == ["delivery.replayed"]
    [row] = await Audit(stores.database).list(TENANT_ID, subject=f"delivery:{one}")
    assert json.loads(row.details) == {"channel": "sms", "was": state, "code": "30005"}


@pytest.mark.parametrize("state", ["queued", "processing", "sent", "delivered", "cancelled", "expired"])
async def test_nothing_else_is_replayed(stores: Stores, deliveries: Deliveries, state: str) -> None:
    [one] = await deliver(stores, state=state)

    with pytest.raises(ServiceError, match=f"is {state}"):
        await deliveries.retry(OPERATOR, one)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE notification_deliveries SET expires_at = now()",
        "UPDATE notifications SET expires_at = now()",
        "UPDATE notifications SET status = 'recalled'",
    ],
)
async def test_what_has_expired_or_was_taken_back_stays_as_it_is(
    stores: Stores, deliveries: Deliveries, change: str
) -> None:
    [one] = await deliver(stores, state="failed")
    await stores.query(change)

    with pytest.raises(ServiceError, match="expired or was taken back"):
        await deliveries.retry(OPERATOR, one)

    assert await deliveries.replay(OPERATOR, [one]) == (0, 1, False)
    assert await deliveries.replay_where(OPERATOR) == (0, 1, False)
    assert await actions(stores) == []


async def test_several_dead_letters_are_replayed_by_name(stores: Stores, deliveries: Deliveries) -> None:
    [failed] = await deliver(stores, state="failed")
    [undelivered] = await deliver(stores, state="undelivered")
    [suppressed] = await deliver(stores, state="suppressed")

    done = await deliveries.replay(OPERATOR, [failed, undelivered, suppressed, uuid7()])

    assert done == (2, 2, False)
    assert await actions(stores) == ["delivery.replayed"] * 2
    assert await Audit(stores.database).verify(TENANT_ID) is None


async def test_dead_letters_are_replayed_by_what_ended_them(stores: Stores, deliveries: Deliveries) -> None:
    [wanted] = await deliver(stores, "ada", "sms", state="failed", code="30005")
    others = [
        *await deliver(stores, "ada", "email", state="failed", code="30005"),
        *await deliver(stores, "ada", "sms", state="failed", code="21211"),
    ]

    assert await deliveries.replay_where(
        OPERATOR, channel="sms", code="30005", before=datetime.now(UTC) - timedelta(hours=1)
    ) == (0, 0, False)
    assert await deliveries.replay_where(OPERATOR, channel="sms", code="30005") == (1, 0, False)
    assert (await deliveries.get(TENANT_ID, wanted))["state"] == "queued"
    assert {(await deliveries.get(TENANT_ID, one))["state"] for one in others} == {"failed"}
    assert await deliveries.replay_where(STRANGER) == (0, 0, False)


async def test_a_replay_of_more_than_one_batch_goes_on_and_says_when_it_stopped(
    stores: Stores, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries_store, "MAX_REPLAY", 2)
    monkeypatch.setattr(deliveries_store, "_MAX_BATCHES", 2)
    for _ in range(5):
        await deliver(stores, state="failed")

    first = await deliveries.replay_where(OPERATOR)
    second = await deliveries.replay_where(OPERATOR)

    assert first == (4, 0, True)
    assert second == (1, 0, False)


async def test_a_dead_letter_is_edited_and_what_was_said_is_sealed(
    stores: Stores, deliveries: Deliveries
) -> None:
    where = await address(stores, "ada")
    [one] = await deliver(stores, "ada", "sms", state="failed")

    await deliveries.edit(OPERATOR, one, {"title": "Secret words", "address_id": where})
    edited = await deliveries.edit(OPERATOR, one, {"text": "More of them"})

    assert edited["is_edited"]
    [row] = await stores.query("SELECT edited FROM notification_deliveries")
    assert b"words" not in row["edited"]
    assert json.loads(VAULT.open(row["edited"], "delivery-edit", TENANT_ID, str(one))) == {
        "title": "Secret words",
        "text": "More of them",
        "address_id": str(where),
    }
    told = [row.details for row in await Audit(stores.database).list(TENANT_ID)]
    assert not any("words" in one or "More" in one for one in told)
    assert json.loads(told[1]) == {
        "channel": "sms",
        "changed": ["address_id", "title"],
        "address_id": str(where),
    }
    undone = await deliveries.edit(OPERATOR, one, {"title": None, "text": None, "address_id": None})
    assert not undone["is_edited"]


async def test_only_a_dead_letter_is_edited_and_only_to_an_address_of_its_person(
    stores: Stores, deliveries: Deliveries
) -> None:
    [queued] = await deliver(stores, "ada", "sms")
    [failed] = await deliver(stores, "ada", "sms", state="failed")
    of_bob, by_mail = await address(stores, "bob"), await address(stores, "ada", "email")

    with pytest.raises(ServiceError, match="this one is queued"):
        await deliveries.edit(OPERATOR, queued, {"title": "x"})
    for elsewhere in (of_bob, by_mail, uuid4()):
        with pytest.raises(ServiceError, match="address_id"):
            await deliveries.edit(OPERATOR, failed, {"address_id": elsewhere})
    assert await actions(stores) == []


async def test_another_tenants_delivery_is_not_there(stores: Stores, deliveries: Deliveries) -> None:
    [one] = await deliver(stores, state="failed")

    for act in (deliveries.cancel, deliveries.retry):
        with pytest.raises(ServiceError, match="no such delivery"):
            await act(STRANGER, one)
    with pytest.raises(ServiceError, match="no such delivery"):
        await deliveries.edit(STRANGER, one, {"title": "x"})
    assert await deliveries.replay(STRANGER, [one]) == (0, 1, False)
