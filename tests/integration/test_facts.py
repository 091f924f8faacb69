"""What is gathered about deliveries is what stands in the tables, for a whole batch at once."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from core.ids import uuid7
from core.vault import Vault
from delivery.draft import Users
from delivery.facts import SQL, FactsReader
from delivery.inbox import Selection
from delivery.outbox import Claimed
from delivery.policy import (
    SYSTEM_RULE,
    Drop,
    Facts,
    OptOut,
    Rule,
    Send,
    StoredRecipient,
    decide,
    resolve,
)
from delivery.preferences_store import lift, opt_out
from hub.inbox import StateChange
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person, service

VAULT = Vault({"test": b"v" * 32})
ADA = person("ada")
BY_EMAIL = ("in_app", "email")
VALUE = "ada.canary@example.org"


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


def claimed(notification_id: UUID, user_id: str = "ada", channel: str = "email", **members: Any) -> Claimed:
    given: dict[str, Any] = {
        "tenant_id": TENANT_ID,
        "id": uuid7(),
        "kind": "notification",
        "notification_id": notification_id,
        "user_id": user_id,
        "endpoint_id": None,
        "event": None,
        "channel": channel,
        "lane": 2,
        "attempt": 1,
        "retries": 0,
        "deferrals": 0,
        "unknowns": 0,
        "is_orphan": False,
        "was_unknown": False,
        "expires_at": None,
        "created_at": datetime.now(UTC),
        "queued_at": datetime.now(UTC),
        "edited": None,
        "fallback_of": None,
    }
    return Claimed(**given | members)


async def introduce(stores: Stores, user_id: str = "ada", tenant_id: str = TENANT_ID, **columns: Any) -> None:
    names = ["tenant_id", "user_id", *columns]
    places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
    await stores.query(
        f"INSERT INTO recipients ({', '.join(names)}) VALUES ({places})",
        tenant_id,
        user_id,
        *columns.values(),
    )


async def add_address(
    stores: Stores,
    value: str = VALUE,
    user_id: str = "ada",
    *,
    channel: str = "email",
    tenant_id: str = TENANT_ID,
    secret: str | None = None,
    vault: Vault = VAULT,
    **columns: Any,
) -> UUID:
    address_id = uuid7()
    given: dict[str, Any] = {
        "tenant_id": tenant_id,
        "id": address_id,
        "user_id": user_id,
        "channel": channel,
        "sealed": vault.seal(value, "address", tenant_id, str(address_id)),
        "lookup": vault.lookup(channel, value),
        "hint": f"{value[0]}***",
        "secret": secret and vault.seal(secret, "address-secret", tenant_id, str(address_id)),
        "verified_at": datetime.now(UTC),
    } | columns
    places = ", ".join(f"${number}" for number in range(1, len(given) + 1))
    await stores.query(
        f"INSERT INTO recipient_addresses ({', '.join(given)}) VALUES ({places})", *given.values()
    )
    return address_id


async def gather(stores: Stores, *deliveries: Claimed, configured: Any = ("email",)) -> list[Facts]:
    return await FactsReader(stores.database, VAULT, configured).gather(deliveries)


async def one(stores: Stores, delivery: Claimed) -> Facts:
    (facts,) = await gather(stores, delivery)
    return facts


async def test_somebody_with_an_address_is_sent_what_was_submitted(stores: Stores) -> None:
    await introduce(stores, name="Ada", locale="de", timezone="Europe/Berlin")
    address_id = await add_address(stores, is_primary=True)
    sent = await stores.send("ada", channels=BY_EMAIL, metadata={"iep_id": "12345"})

    facts = await one(stores, claimed(sent))

    assert facts.content is not None
    assert (facts.content.id, facts.content.metadata) == (sent, {"iep_id": "12345"})
    assert (facts.status, facts.is_read, facts.is_configured) == ("published", False, True)
    assert facts.recipient == StoredRecipient(
        user_id="ada", name="Ada", locale="de", timezone="Europe/Berlin", unsubscribe_version=1
    )
    assert facts.rule == SYSTEM_RULE
    assert abs(datetime.now(UTC) - facts.now) < timedelta(minutes=1)
    verdict = decide(facts).verdict
    assert isinstance(verdict, Send)
    assert (verdict.address.id, verdict.address.value, verdict.address.channel) == (
        address_id,
        VALUE,
        "email",
    )


async def test_a_batch_is_answered_in_its_order_whoever_and_whatever_it_is_about(stores: Stores) -> None:
    people = ["ada", "bob", "cyd"]
    for user_id in people[:2]:
        await introduce(stores, user_id, name=user_id.title())
        await add_address(stores, f"{user_id}@example.org", user_id)
        await add_address(stores, f"+4917055501{len(user_id)}", user_id, channel="sms")
    both = await stores.send(Users.of("ada", "bob"), channels=("email", "sms"))
    own = await stores.send("cyd", channels=BY_EMAIL)
    gone = uuid4()
    batch = [
        claimed(both, "bob", "sms"),
        claimed(gone, "ada"),
        claimed(both, "ada"),
        claimed(own, "cyd"),
        claimed(both, "bob"),
        claimed(both, "ada", "sms"),
    ]

    gathered = await gather(stores, *batch)

    assert [facts.claimed for facts in gathered] == batch
    assert [facts.recipient and facts.recipient.name for facts in gathered] == [
        "Bob", "Ada", "Ada", None, "Bob", "Ada",
    ]  # fmt: skip
    assert [facts.content and facts.content.id for facts in gathered] == [both, None, both, own, both, both]
    assert [len(facts.addresses) for facts in gathered] == [1, 1, 1, 0, 1, 1]
    assert [facts.is_configured for facts in gathered] == [False, True, True, True, True, False]
    assert await gather(stores) == []


async def test_nothing_of_another_tenant_is_seen(stores: Stores) -> None:
    await introduce(stores, tenant_id="hospital", name="Another Ada")
    await add_address(stores, tenant_id="hospital")
    await stores.query(
        "INSERT INTO opt_outs (tenant_id, user_id, scope, value, reason) VALUES ('hospital', 'ada', 'all', '', 'api')"
    )
    await stores.query(
        "INSERT INTO preference_rules (tenant_id, user_id, notification_type, channel, is_enabled)"
        " VALUES ('hospital', 'ada', '*', '*', false), ('hospital', '', '*', '*', false)"
    )
    sent = await stores.send("ada", channels=BY_EMAIL)

    here, there = await gather(stores, claimed(sent), claimed(sent, tenant_id="hospital"))

    assert (here.recipient, here.addresses, here.opt_outs, here.rule) == (None, (), (), SYSTEM_RULE)
    assert there.content is None
    assert len(there.addresses) == 1


# --- addresses -------------------------------------------------------------------------------------------------------


async def test_addresses_come_oldest_first_with_what_is_known_of_them(stores: Stores) -> None:
    await introduce(stores)
    window = datetime(2026, 11, 23, tzinfo=UTC)
    first = await add_address(stores, "1@example.org", verified_at=None, window_until=window)
    paused: dict[str, Any] = {"paused_at": datetime.now(UTC), "pause_reason": "bounced"}
    second = await add_address(stores, "2@example.org", is_primary=True, **paused)
    sent = await stores.send("ada", channels=BY_EMAIL)

    old, new = (await one(stores, claimed(sent))).addresses

    assert (old.address.id, old.is_verified, old.is_primary, old.paused_at) == (first, False, False, None)
    assert old.address.window_until == window
    assert (new.address.id, new.is_verified, new.is_primary, new.pause_reason) == (
        second,
        True,
        True,
        "bounced",
    )


async def test_the_secret_of_a_webhook_is_opened_with_it(stores: Stores) -> None:
    await introduce(stores)
    await add_address(stores, "https://example.org/hook", channel="webhook", secret="whsec_canary")
    sent = await stores.send("ada", channels=("webhook",))

    (facts,) = await gather(stores, claimed(sent, channel="webhook"), configured=("webhook",))

    verdict = decide(facts).verdict
    assert isinstance(verdict, Send)
    assert (verdict.address.value, verdict.address.secret) == ("https://example.org/hook", "whsec_canary")
    assert "whsec_canary" not in repr(facts)


async def test_an_address_that_does_not_open_is_lost_alone(stores: Stores) -> None:
    await introduce(stores)
    await introduce(stores, "bob")
    await add_address(stores, vault=Vault({"gone": b"g" * 32}), is_primary=True)
    good = await add_address(stores, "bob@example.org", "bob")
    sent = await stores.send(Users.of("ada", "bob"), channels=BY_EMAIL)

    lost, kept = await gather(stores, claimed(sent), claimed(sent, "bob"))

    assert decide(lost).verdict == Drop("every address is paused: a*** (sealed)")
    verdict = decide(kept).verdict
    assert isinstance(verdict, Send)
    assert verdict.address.id == good


async def test_an_operators_changes_are_applied(stores: Stores) -> None:
    await introduce(stores)
    await add_address(stores, is_primary=True)
    chosen = await add_address(stores, "other@example.org")
    sent = await stores.send("ada", channels=BY_EMAIL)
    delivery = claimed(sent)
    context = ("delivery-edit", TENANT_ID, str(delivery.id))
    changes = json.dumps({"title": "Corrected", "address_id": str(chosen)})

    edited, broken = await gather(
        stores,
        claimed(sent, id=delivery.id, edited=VAULT.seal(changes, *context)),
        claimed(sent, edited=VAULT.seal(changes, *context)),
    )

    assert edited.content is not None
    assert (edited.content.title, edited.content.message) == ("Corrected", "Please review the changes.")
    verdict = decide(edited).verdict
    assert isinstance(verdict, Send)
    assert verdict.address.id == chosen
    stopped = decide(broken)
    assert isinstance(stopped.verdict, Drop)
    assert (stopped.gates[-1].gate, stopped.verdict.state) == ("readable", "failed")


# --- read ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_read"),
    [
        ([], False),
        (["read"], True),
        (["read", "unread"], False),
        (["seen"], False),
        (["read_all"], True),
        (["read_all", "unread"], False),
        (["read_all", "snoozed"], False),
        (["archived"], False),
    ],
)
@pytest.mark.parametrize("audience", ["ada", "*", "#iep"])
async def test_what_the_inbox_calls_read_is_read_here(
    stores: Stores, audience: str, changes: list[str], is_read: bool
) -> None:
    await stores.inbox.membership(ADA)
    await stores.inbox.change_topic(ADA, "iep", "followed")
    sent = await stores.send(audience, channels=BY_EMAIL)
    for change in changes:
        if change == "read_all":
            await stores.inbox.read_all(ADA, None)
        else:
            until = datetime.now(UTC) + timedelta(hours=1) if change == "snoozed" else None
            await stores.inbox.change(ADA, cast("StateChange", change), [sent], until=until)

    facts = await one(stores, claimed(sent))

    assert facts.is_read is is_read
    if not changes:
        unread = await stores.inbox.list(ADA, selection=Selection(state="unread"))
        assert [listed["id"] for listed in unread.notifications] == [sent]


async def test_what_went_out_before_somebody_was_first_seen_is_not_read(stores: Stores) -> None:
    broadcast = await stores.send("*", channels=BY_EMAIL)
    await stores.inbox.membership(ADA)

    assert not (await one(stores, claimed(broadcast))).is_read


async def test_what_shows_in_no_inbox_is_not_read(stores: Stores) -> None:
    await stores.inbox.membership(ADA)
    sent = await stores.send("ada", channels=("email",))
    await stores.inbox.read_all(ADA, None)

    assert not (await one(stores, claimed(sent))).is_read


# --- what people want ------------------------------------------------------------------------------------------------


async def test_the_rule_that_decides_is_the_one_that_the_policy_would_take(stores: Stores) -> None:
    sent = await stores.send("ada", channels=BY_EMAIL)
    lines = list(product(("ada", ""), ("iep_update", "*", "other"), ("email", "*", "sms")))
    for user_id, kind, channel in lines:
        await stores.query(
            "INSERT INTO preference_rules (tenant_id, user_id, notification_type, channel, is_enabled)"
            " VALUES ($1, $2, $3, $4, $5)",
            TENANT_ID,
            user_id,
            kind,
            channel,
            len(kind) % 2 == 0,
        )
    while lines:
        rules = [
            Rule(
                is_enabled=len(kind) % 2 == 0,
                level="user" if user_id else "tenant",
                notification_type=kind,
                channel=channel,
            )
            for user_id, kind, channel in lines
        ]

        rule = (await one(stores, claimed(sent))).rule

        assert rule == resolve(rules, "iep_update", "email")
        taken = ("ada" if rule.level == "user" else "", rule.notification_type, rule.channel)
        if rule == SYSTEM_RULE:
            break
        lines.remove(taken)
        await stores.query(
            "DELETE FROM preference_rules WHERE user_id = $1 AND notification_type = $2 AND channel = $3",
            *taken,
        )
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("scope", "value", "concerns"),
    [
        ("all", "", True),
        ("channel", "email", True),
        ("channel", "sms", False),
        ("topic", "iep", True),
        ("topic", "news", False),
        ("type", "iep_update", True),
        ("channel_type", "email:iep_update", True),
        ("channel_type", "sms:iep_update", False),
    ],
)
async def test_an_opt_out_is_gathered_where_it_concerns_the_delivery_until_it_is_lifted(
    stores: Stores, scope: str, value: str, concerns: bool
) -> None:
    sent = await stores.send("#iep", channels=BY_EMAIL)
    async with stores.database.transaction() as connection:
        await opt_out(connection, TENANT_ID, "ada", scope, value, reason="keyword", actor="provider:twilio")

    ada, bob = await gather(stores, claimed(sent), claimed(sent, "bob"))

    assert ada.opt_outs == ((OptOut(scope, value, "keyword"),) if concerns else ())
    assert bob.opt_outs == ()
    async with stores.database.transaction() as connection:
        assert await lift(connection, TENANT_ID, "ada", scope, value, actor="person:ada")
    assert (await one(stores, claimed(sent))).opt_outs == ()


async def test_facts_are_gathered_anew_at_each_attempt(stores: Stores) -> None:
    await introduce(stores)
    await add_address(stores)
    sent = await stores.send("ada", channels=BY_EMAIL)
    delivery = claimed(sent)
    assert isinstance(decide(await one(stores, delivery)).verdict, Send)

    await stores.notifications.recall(service(), sent)

    assert decide(await one(stores, delivery)).verdict == Drop("the notification is recalled", "cancelled")


async def test_what_is_asked_of_pushes_goes_to_the_row_too(stores: Stores) -> None:
    plan = await stores.query(
        "EXPLAIN (FORMAT JSON) " + SQL["pushes"], [TENANT_ID], ["ada"], [uuid4()], ["iep_update"]
    )

    used = set(re.findall(r'"Index Name": "(\w+)"', plan[0][0]))
    assert used == {
        "idx_push_subscriptions_active",
        "push_privacy_pkey",
        "idx_notification_deliveries_user",
        "notifications_pkey",
        "notification_receipts_pkey",
        "idx_stream_members_stream",
        "idx_stream_events_inbox",
    }
    assert "Seq Scan" not in plan[0][0]


async def test_every_lookup_goes_to_the_row_also_while_the_tables_look_empty(stores: Stores) -> None:
    plan = await stores.query(
        "EXPLAIN (FORMAT JSON) " + SQL["people"], [TENANT_ID], [uuid4()], ["ada"], ["email"]
    )

    used = set(re.findall(r'"Index Name": "(\w+)"', plan[0][0]))
    assert used == {
        "notifications_pkey",
        "recipients_pkey",
        "idx_recipient_addresses_value",
        "opt_outs_pkey",
        "preference_rules_pkey",
        "notification_receipts_pkey",
        "idx_stream_members_stream",
        "idx_stream_events_inbox",
    }
    assert "Seq Scan" not in plan[0][0]
