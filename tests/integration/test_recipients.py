"""People and their addresses in a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.database import Database, DatabaseSettings, open_database
from core.errors import ServiceError
from core.vault import SealBroken, Vault
from delivery.audit_store import Audit
from delivery.recipients_store import (
    MAX_ADDRESSES,
    Introduction,
    Owner,
    RecipientAddress,
    Recipients,
    pause_address,
)

TENANT, OTHER = "school", "hospital"
ADA = "ada@example.com"
PHONE = "+250781234567"
ACTOR = "jwt::iep-svc"


class People(Recipients):
    """The store, and short ways to ask it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.vault = Vault({"test": b"v" * 32})
        super().__init__(database, self.vault)

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def email(
        self, value: str, user_id: str = "ada", *, verified: bool = True, **more: Any
    ) -> RecipientAddress:
        added = await self.add(TENANT, user_id, "email", value, ACTOR, verified=verified, **more)
        return added.address

    async def of(self, user_id: str = "ada") -> dict[UUID, RecipientAddress]:
        return {address.id: address for address in (await self.get(TENANT, user_id)).addresses}

    async def primaries(self, user_id: str = "ada") -> list[UUID]:
        return [address.id for address in (await self.of(user_id)).values() if address.is_primary]

    async def pause(self, address_id: UUID, reason: str = "bounced") -> bool:
        async with self.database.transaction() as connection:
            return await pause_address(connection, TENANT, address_id, reason)

    async def actions(self) -> list[str]:
        return [row.action for row in reversed(await Audit(self.database).list(TENANT))]


@pytest.fixture
async def people(database: str) -> AsyncIterator[People]:
    pool = await open_database(DatabaseSettings(url=database))
    yield People(pool)
    await pool.close()


async def test_what_is_given_of_a_person_replaces_what_was_and_the_rest_stays(people: People) -> None:
    first, is_new = await people.put(TENANT, "ada", {"name": "Ada", "preferences": {"sms": True}}, ACTOR)
    again, is_new_again = await people.put(TENANT, "ada", {"locale": "de-AT", "is_active": False}, ACTOR)
    cleared, _ = await people.put(TENANT, "ada", {"name": None}, ACTOR)

    assert (is_new, is_new_again) == (True, False)
    assert (first.name, first.is_active, first.preferences) == ("Ada", True, {"sms": True})
    assert (again.name, again.locale, again.is_active, again.preferences) == (
        "Ada",
        "de-AT",
        False,
        {"sms": True},
    )
    assert cleared.name is None
    assert cleared.locale == "de-AT"


async def test_a_change_that_changes_nothing_leaves_no_trace(people: People) -> None:
    await people.put(TENANT, "ada", {"name": "Ada"}, ACTOR)
    before = await people.get(TENANT, "ada")

    await people.put(TENANT, "ada", {"name": "Ada"}, ACTOR)

    assert await people.get(TENANT, "ada") == before
    assert await people.actions() == ["recipient.added"]


async def test_people_are_listed_in_pages_and_each_tenant_has_its_own(people: People) -> None:
    for name in ("cleo", "ada", "bob"):
        await people.put(TENANT, name, {}, ACTOR)
    await people.put(OTHER, "zoe", {}, ACTOR)

    first, after = await people.list(TENANT, limit=2)
    second, end = await people.list(TENANT, after=after or "", limit=2)
    numbered, total = await people.page(TENANT, limit=2, offset=1)

    assert [one.user_id for one in first] == ["ada", "bob"]
    assert ([one.user_id for one in second], end) == (["cleo"], None)
    assert ([one.user_id for one in numbered], total) == (["bob", "cleo"], 3)
    with pytest.raises(ServiceError, match="no such recipient"):
        await people.get(OTHER, "ada")


async def test_an_address_is_sealed_for_its_tenant_and_its_row(people: People) -> None:
    address = await people.email(ADA)

    [row] = await people.rows("SELECT sealed, lookup, hint FROM recipient_addresses")
    assert people.vault.open(row["sealed"], "address", TENANT, str(address.id)) == ADA
    assert row["lookup"] == people.vault.lookup("email", ADA)
    assert row["hint"] == address.hint == "a***@e***.com"
    for context in (("address", OTHER, str(address.id)), ("address", TENANT, str(uuid4()))):
        with pytest.raises(SealBroken):
            people.vault.open(row["sealed"], *context)


async def test_the_first_address_of_a_channel_is_its_primary_and_there_is_always_exactly_one(
    people: People,
) -> None:
    first, second = await people.email(ADA), await people.email("ada@work.example")
    phone = (await people.add(TENANT, "ada", "sms", PHONE, ACTOR, verified=True)).address
    assert (first.is_primary, second.is_primary, phone.is_primary) == (True, False, True)

    changed = await people.change(TENANT, "ada", second.id, ACTOR, primary=True)
    assert changed.is_primary
    assert set(await people.primaries()) == {second.id, phone.id}

    await people.remove(TENANT, "ada", second.id, ACTOR)
    assert set(await people.primaries()) == {first.id, phone.id}


async def test_of_many_who_make_another_address_primary_at_once_one_wins(people: People) -> None:
    added = [await people.email(f"ada{n}@example.com") for n in range(5)]

    await asyncio.gather(
        *(people.change(TENANT, "ada", address.id, ACTOR, primary=True) for address in added * 3)
    )

    assert len(await people.primaries()) == 1


async def test_many_who_add_a_persons_first_address_at_once_leave_one_primary(people: People) -> None:
    await asyncio.gather(*(people.email(f"ada{n}@example.com") for n in range(8)))

    assert len(await people.primaries()) == 1
    assert len(await people.of()) == 8


async def test_an_address_is_there_once_however_often_it_is_added(people: People) -> None:
    webhook = "https://hooks.example.com/x"
    first = await people.add(TENANT, "ada", "webhook", webhook, ACTOR, verified=False)
    again = await people.add(TENANT, "ada", "webhook", webhook, ACTOR, verified=True)
    later = await people.add(TENANT, "ada", "webhook", webhook, ACTOR, verified=False)

    assert (first.is_new, again.is_new, later.is_new) == (True, False, False)
    assert first.address.id == again.address.id == later.address.id
    assert first.address.verified_at is None
    assert again.address.verified_at == later.address.verified_at is not None
    assert first.secret is not None
    assert again.secret is later.secret is None


async def test_a_person_has_a_bounded_number_of_addresses_per_channel(people: People) -> None:
    for n in range(MAX_ADDRESSES):
        await people.email(f"ada{n}@example.com")

    with pytest.raises(ServiceError) as error:
        await people.email("one-more@example.com")

    assert error.value.code == "conflict"
    assert len(await people.of()) == MAX_ADDRESSES


async def test_while_the_primary_is_paused_another_verified_address_serves(people: People) -> None:
    first = await people.email(ADA)
    unsure = await people.email("ada@unsure.example", verified=False)
    second = await people.email("ada@work.example")

    assert await people.pause(first.id)
    assert await people.primaries() == [second.id]
    assert not await people.pause(first.id, "complained"), "the first reason stands"
    assert await people.pause(second.id, "blocked")

    assert await people.primaries() == [second.id], "nobody is left who could serve in its place"
    found = await people.of()
    assert (found[first.id].pause_reason, found[second.id].pause_reason) == ("bounced", "blocked")
    assert found[unsure.id].paused_at is None
    assert (await people.change(TENANT, "ada", first.id, ACTOR, paused=False)).is_primary


async def test_pausing_what_is_gone_is_no_fault(people: People) -> None:
    assert not await people.pause(uuid4())


async def test_a_paused_address_is_no_choice_for_the_primary(people: People) -> None:
    await people.email(ADA)
    second = await people.email("ada@work.example")
    await people.change(TENANT, "ada", second.id, ACTOR, paused=True)

    with pytest.raises(ServiceError, match="paused"):
        await people.change(TENANT, "ada", second.id, ACTOR, primary=True)
    with pytest.raises(ServiceError, match="paused"):
        await people.change(TENANT, "ada", second.id, ACTOR, primary=True, paused=True)

    both = await people.change(TENANT, "ada", second.id, ACTOR, primary=True, paused=False)
    assert (both.is_primary, both.paused_at) == (True, None)


async def test_what_a_producer_names_is_where_it_goes(people: People) -> None:
    own = await people.email("ada@own.example")
    named = [
        Introduction(user_id="ada", name="Ada", addresses=[("email", ADA), ("sms", PHONE)]),
        Introduction(user_id="bob", locale="fr", addresses=[("email", "bob@example.com")]),
        Introduction(user_id="cleo"),
    ]
    await people.introduce(TENANT, named, ACTOR, verified=True)
    first = await people.get(TENANT, "ada")
    await people.introduce(TENANT, named, ACTOR, verified=True)

    assert await people.get(TENANT, "ada") == first, "twice is once"
    assert first.name == "Ada"
    primary = {address.channel: address for address in first.addresses if address.is_primary}
    assert primary["email"].id != own.id
    assert primary["email"].verified_at is not None
    assert primary["sms"].hint == "+25***67"
    assert (await people.get(TENANT, "bob")).locale == "fr"
    assert (await people.get(TENANT, "cleo")).addresses == ()
    assert await people.actions() == [
        *("recipient.added", "address.added"),
        *("recipient.changed", "recipient.added", "recipient.added"),
        *["address.added"] * 3,
    ]


@pytest.mark.alone
async def test_a_thousand_people_with_four_addresses_are_introduced_within_the_time_of_a_request(
    people: People,
) -> None:
    named = [
        Introduction(
            user_id=f"p{n:04}",
            name=f"Person {n}",
            addresses=[
                ("email", f"p{n}@example.com"),
                ("sms", f"+25078{n:07}"),
                ("whatsapp", f"+25078{n:07}"),
                ("telegram", str(10_000 + n)),
            ],
        )
        for n in range(1000)
    ]

    await people.introduce(TENANT, named, ACTOR, verified=True)

    [row] = await people.rows(
        "SELECT count(*) AS n, count(*) FILTER (WHERE is_primary) AS p FROM recipient_addresses"
    )
    assert (row["n"], row["p"]) == (4000, 4000)


async def test_two_who_introduce_the_same_people_in_other_orders_do_not_wait_in_a_circle(
    people: People,
) -> None:
    named = [Introduction(user_id=f"p{n}", addresses=[("email", f"p{n}@example.com")]) for n in range(50)]

    await asyncio.gather(
        *(
            people.introduce(TENANT, one, ACTOR, verified=True)
            for one in (named, named[::-1], named[::2] + named[1::2], named[::-1])
        )
    )

    [row] = await people.rows("SELECT count(*) AS n FROM recipient_addresses WHERE is_primary")
    assert row["n"] == 50


@pytest.mark.alone  # within a second after its wait begins the circle has to close
async def test_who_has_to_give_way_while_introducing_people_does_it_once_more(people: People) -> None:
    named = [Introduction(user_id=one, addresses=[("email", f"{one}@example.com")]) for one in ("ada", "bob")]
    await people.introduce(TENANT, [Introduction(user_id=one.user_id) for one in named], ACTOR, verified=True)
    lock = "SELECT FROM recipients WHERE user_id = $1 FOR UPDATE"
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async with people.database.transaction() as other:
        await other.execute("SET LOCAL statement_timeout = 0")
        await other.execute("SET LOCAL deadlock_timeout = '1min'")  # the other one gives way
        await other.execute(lock, "bob")
        introducing = asyncio.create_task(people.introduce(TENANT, named, ACTOR, verified=True))
        while not await people.rows(waits):
            await asyncio.sleep(0.005)  # another process: there is no event to await
        await other.execute(lock, "ada")  # a circle
    await introducing

    assert [len(await people.of(one)) for one in ("ada", "bob")] == [1, 1]


async def test_whoever_has_an_address_is_found_in_every_tenant_if_they_answered_for_it(
    people: People,
) -> None:
    mine = (await people.add(TENANT, "ada", "whatsapp", PHONE, ACTOR, verified=True)).address
    theirs = (await people.add(OTHER, "eve", "whatsapp", PHONE, ACTOR, verified=True)).address
    await people.add(OTHER, "mallory", "whatsapp", PHONE, ACTOR, verified=False)
    await people.add(TENANT, "ada", "sms", PHONE, ACTOR, verified=True)

    found = await people.find_by_address("whatsapp", f"whatsapp:{PHONE}")

    assert found == [Owner(OTHER, "eve", theirs.id), Owner(TENANT, "ada", mine.id)]
    assert await people.find_by_address("whatsapp", "+250780000000") == []
    assert await people.find_by_address("whatsapp", "nobody") == []


async def test_a_window_only_grows(people: People) -> None:
    address = (await people.add(TENANT, "ada", "whatsapp", PHONE, ACTOR, verified=True)).address
    later = datetime.now(UTC) + timedelta(hours=24)

    for until in (later, later - timedelta(hours=3)):
        async with people.database.transaction() as connection:
            await people.open_window(connection, TENANT, address.id, until)

    assert (await people.of())[address.id].window_until == later


async def test_another_secret_replaces_the_one_before(people: People) -> None:
    added = await people.add(TENANT, "ada", "webhook", "https://hooks.example.com/", ACTOR, verified=True)
    email = await people.email(ADA)

    secret = await people.new_secret(TENANT, "ada", added.address.id, ACTOR)

    assert secret.startswith("whsec_")
    assert secret != added.secret
    [row] = await people.rows("SELECT secret FROM recipient_addresses WHERE channel = 'webhook'")
    opened = people.vault.open(row["secret"], "address-secret", TENANT, str(added.address.id))
    assert opened == secret
    with pytest.raises(ServiceError, match="Only webhooks"):
        await people.new_secret(TENANT, "ada", email.id, ACTOR)
    for tenant_id, user_id in ((OTHER, "ada"), (TENANT, "bob")):
        with pytest.raises(ServiceError, match="no such address"):
            await people.new_secret(tenant_id, user_id, added.address.id, ACTOR)


async def test_what_is_done_to_people_stands_in_the_audit_log_without_their_addresses(
    people: People,
) -> None:
    first, second = await people.email(ADA), await people.email("ada@work.example", verified=False)
    async with people.database.transaction() as connection:
        await people.mark_verified(connection, TENANT, second.id, "person:ada")
    await people.change(TENANT, "ada", second.id, ACTOR, primary=True)
    await people.pause(second.id)
    await people.change(TENANT, "ada", second.id, ACTOR, paused=False)
    await people.remove(TENANT, "ada", first.id, ACTOR)
    await people.delete(TENANT, "ada", ACTOR)

    assert await people.actions() == [
        *("recipient.added", "address.added", "address.added", "address.verified", "address.made_primary"),
        *("address.paused", "address.resumed", "address.removed", "recipient.deleted"),
    ]
    rows = await Audit(people.database).list(TENANT)
    assert {row.subject for row in rows} == {"recipient:ada"}
    assert not any("example" in row.details for row in rows)
    assert await Audit(people.database).verify(TENANT) is None


async def test_of_a_deleted_person_nothing_is_left_by_which_they_can_be_reached(people: People) -> None:
    await people.email(ADA)
    await people.add(TENANT, "ada", "sms", PHONE, ACTOR, verified=True)
    await people.rows(
        "INSERT INTO inbound_messages (tenant_id, id, user_id, channel, provider, provider_id, kind, sealed)"
        " VALUES ($1, gen_random_uuid(), 'ada', 'sms', 'twilio', '1', 'reply', '\\x00')",
        TENANT,
    )
    await people.rows("INSERT INTO telegram_links VALUES ('\\x00', $1, 'ada', now())", TENANT)

    with pytest.raises(ServiceError, match="no such recipient"):
        await people.delete(OTHER, "ada", ACTOR)
    await people.delete(TENANT, "ada", ACTOR)

    for table in ("recipients", "recipient_addresses", "inbound_messages", "telegram_links"):
        assert await people.rows(f"SELECT FROM {table}") == []
    with pytest.raises(ServiceError, match="no such recipient"):
        await people.delete(TENANT, "ada", ACTOR)
