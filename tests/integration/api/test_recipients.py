"""People, their addresses and whether they answer there, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.delivering import delivering
from core.vault import Vault
from delivery.verification_store import VerificationSettings
from tests.api import OTHER_TENANT, TENANT, Edge, admin, person, service

EMAIL, PHONE = "ada.lovelace@example.com", "+442079460018"
ADA = "/api/v1/recipients/ada"


def faults(answer: httpx.Response) -> dict[str, str]:
    """Where, and what, of a 422."""
    assert answer.status_code == 422, answer.text
    return {one["path"]: one["message"] for one in answer.json()["details"]}


async def code_of(edge: Edge) -> tuple[str, dict[str, Any]]:
    """The code that went out last, and all that its delivery says."""
    [*_, row] = await edge.rows("SELECT tenant_id, id, edited FROM notification_deliveries ORDER BY id")
    vault: Vault = edge.services.delivery.vault
    said = json.loads(vault.open(row["edited"], "delivery-edit", row["tenant_id"], str(row["id"])))
    return next(word.strip(".") for word in said["text"].split() if word.strip(".").isdigit()), said


async def added(edge: Edge, caller: str, channel: str = "email", value: str = EMAIL, **more: Any) -> Any:
    answer = await edge.client(caller).post(
        f"{ADA}/addresses", json={"channel": channel, "value": value, **more}
    )
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def test_a_service_makes_a_person_known_with_addresses_that_are_shown_masked(edge: Edge) -> None:
    client = edge.client(service())
    body = {
        "name": "Ada",
        "locale": "en-GB",
        "timezone": "Europe/London",
        "preferences": {"digest": True},
        "addresses": [{"channel": "email", "value": EMAIL}, {"channel": "sms", "value": PHONE}],
    }

    made = await client.put(ADA, json=body)
    again = await client.put(ADA, json={"locale": None})
    found = await client.get(ADA)

    assert (made.status_code, again.status_code) == (201, 200)
    assert {one["channel"]: one["hint"] for one in made.json()["addresses"]} == {
        "email": "a***@e***.com",
        "sms": "+44***18",
    }
    assert all(one["verified_at"] and one["is_primary"] for one in made.json()["addresses"])
    shown = found.json()
    assert (shown["name"], shown["locale"], shown["preferences"]) == ("Ada", None, {"digest": True})
    assert (await client.get(f"{ADA}/addresses")).json()["addresses"] == shown["addresses"]


async def test_people_are_listed_page_by_page(edge: Edge) -> None:
    client = edge.client(service())
    for name in ("ada", "bob", "élodie"):
        await client.put(f"/api/v1/recipients/{name}", json={})

    first = (await client.get("/api/v1/recipients", params={"limit": 2})).json()
    second = (await client.get("/api/v1/recipients", params={"cursor": first["next_cursor"]})).json()

    assert [one["user_id"] for one in first["recipients"]] == ["ada", "bob"]
    assert [one["user_id"] for one in second["recipients"]] == ["élodie"]
    assert second["next_cursor"] is None
    for cursor in ("!", "YQ==", "AA", "IGE"):
        assert "cursor" in faults(await client.get("/api/v1/recipients", params={"cursor": cursor}))


@pytest.mark.parametrize(
    ("channel", "value", "path"),
    [
        ("pigeon", "x", "channel"),
        ("push", "x", "channel"),
        ("email", "ada", "value"),
        ("email", f"Ada <{EMAIL}>", "value"),
        ("email", f"{EMAIL}\r\nBcc: eve@example.com", "value"),
        ("email", "=?utf-8?q?ada?=@example.com", "value"),
        ("sms", "2079460018", "value"),
        ("sms", "+99912345678", "value"),
        ("whatsapp", "+4420794600181111", "value"),
        ("telegram", "ada", "value"),
        ("webhook", "http://hooks.example.com/", "value"),
        ("webhook", "https://ada:secret@hooks.example.com/", "value"),
        ("email", "", "value"),
        ("email", "a" * 3000, "value"),
    ],
)
async def test_a_bad_address_is_refused_by_its_field_and_nothing_is_stored(
    edge: Edge, channel: str, value: str, path: str
) -> None:
    client = edge.client(service())
    one = {"channel": channel, "value": value}

    alone = faults(await client.post(f"{ADA}/addresses", json=one))
    beside = faults(await client.put(ADA, json={"addresses": [{"channel": "email", "value": EMAIL}, one]}))

    assert list(alone) == [path]
    assert list(beside) == [f"addresses.1.{path}"]
    for message in [*alone.values(), *beside.values()]:
        assert len(value) < 4 or value not in message
    for table in ("recipients", "recipient_addresses", "audit_log"):
        assert await edge.rows(f"SELECT FROM {table}") == []


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", "Ada\r\nBcc: eve@example.com"),
        ("name", "Ada\u2028"),
        ("name", "=?utf-8?q?Ada?="),
        ("name", " "),
        ("locale", "english!"),
        ("locale", "e"),
        ("timezone", "Europe/Atlantis"),
        ("timezone", "../../etc/passwd"),
        ("is_active", None),
        ("preferences", {"x": "y" * 20_000}),
    ],
)
async def test_what_is_no_name_language_or_zone_is_refused(edge: Edge, member: str, value: Any) -> None:
    assert list(faults(await edge.client(service()).put(ADA, json={member: value}))) == [member]


async def test_a_phone_number_without_a_country_is_of_the_tenants_region(edge: Edge) -> None:
    settings = "/api/v1/tenant/settings"
    nothing: dict[str, Any] = {
        "region": None,
        "unknown_outcome": None,
        "retention_days": None,
        "legal_hold": False,
        "weekend_days": None,
        "holidays": [],
        "holiday_calendar": None,
    }
    assert (await edge.client(admin()).get(settings)).json() == nothing
    chosen: dict[str, Any] = {
        "region": "RW",
        "unknown_outcome": "give_up",
        "retention_days": 30,
        "legal_hold": True,
    }
    chosen |= {"weekend_days": [4, 5], "holidays": ["2026-12-24", "2027-01-02"], "holiday_calendar": "RW"}

    put = await edge.client(admin()).put(settings, json=chosen)

    assert put.json() == (await edge.client(admin()).get(settings)).json() == chosen
    assert (await edge.client(admin(OTHER_TENANT)).get(settings)).json() == nothing
    shown = await added(edge, service(), "sms", "0781 234 567")
    assert shown["hint"] == "+25***67"
    assert "value" in faults(
        await edge.client(service(OTHER_TENANT)).post(
            f"{ADA}/addresses", json={"channel": "sms", "value": "0781 234 567"}
        )
    )
    assert (await edge.client(service()).get(settings)).status_code == 403
    assert (await edge.client(service()).put(settings, json={})).status_code == 403
    for bad in ("XX", "gb", "GBR", ""):
        assert "region" in faults(await edge.client(admin()).put(settings, json={"region": bad}))
    for days in ([7], [-1], [1, 1], list(range(7))):
        refused = faults(await edge.client(admin()).put(settings, json={"weekend_days": days}))
        assert any(path.startswith("weekend_days") for path in refused)
    for member, value in (
        ("holidays", ["2026-12-24", "2026-12-24"]),
        ("holidays", ["2026-02-30"]),
        ("holidays", ["Christmas"]),
        ("holidays", [f"{year}-01-01" for year in range(1000, 1501)]),
        ("holiday_calendar", "XX"),
        ("holiday_calendar", "DE-ZZ"),
        ("holiday_calendar", "Rwanda"),
    ):
        refused = faults(await edge.client(admin()).put(settings, json={member: value}))
        assert any(path.startswith(member) for path in refused), value
    assert (await edge.client(admin()).put(settings, json={})).json() == nothing
    assert (await edge.client(admin()).get(settings)).json() == nothing


async def test_a_person_manages_themself_and_nobody_else(edge: Edge) -> None:
    ada, bob = edge.client(person("ada")), edge.client(person("bob"))
    address = await added(edge, person("ada"))
    one = f"{ADA}/addresses/{address['id']}"
    assert address["verified_at"] is None

    assert (await ada.put(ADA, json={"name": "Ada"})).status_code == 200
    assert (await ada.patch(one, json={"paused": True})).json()["pause_reason"] == "paused"
    assert (await ada.put(ADA, json={"is_active": True})).status_code == 403
    for answer in [
        await ada.get("/api/v1/recipients"),
        await bob.get(ADA),
        await bob.put(ADA, json={}),
        await bob.delete(ADA),
        await bob.get(f"{ADA}/addresses"),
        await bob.post(f"{ADA}/addresses", json={"channel": "email", "value": EMAIL}),
        await bob.patch(one, json={"paused": True}),
        await bob.delete(one),
        await bob.post(f"{one}/secret"),
        await bob.post(f"{one}/verification"),
        await bob.post(f"{one}/verification/confirm", json={"code": "123456"}),
    ]:
        assert answer.status_code == 403
    theirs = f"/api/v1/recipients/bob/addresses/{address['id']}"
    assert (await bob.delete(theirs)).status_code == 404
    assert (await ada.delete(ADA)).status_code == 204


async def test_another_tenants_people_are_not_there(edge: Edge) -> None:
    address = await added(edge, service())
    one = f"{ADA}/addresses/{address['id']}"
    stranger = edge.client(service(OTHER_TENANT))

    for answer in [
        await stranger.get(ADA),
        await stranger.delete(ADA),
        await stranger.patch(one, json={"paused": True}),
        await stranger.delete(one),
        await stranger.post(f"{one}/secret"),
        await stranger.post(f"{one}/verification"),
        await stranger.post(f"{one}/verification/confirm", json={"code": "123456"}),
        await edge.client(service()).delete(f"{ADA}/addresses/{uuid4()}"),
        await edge.client(service()).get("/api/v1/recipients/%E2%80%A8"),
        await edge.client(service()).get("/api/v1/recipients/%20ada"),
    ]:
        assert answer.status_code == 404, answer.text
    assert (await stranger.get("/api/v1/recipients")).json()["recipients"] == []
    assert len((await edge.client(service()).get(ADA)).json()["addresses"]) == 1


async def test_an_address_is_made_primary_paused_resumed_and_removed(edge: Edge) -> None:
    client = edge.client(service())
    first = await added(edge, service())
    second = await added(edge, service(), value="ada@work.example", primary=True)
    assert (first["is_primary"], second["is_primary"]) == (True, True)
    one = f"{ADA}/addresses/{first['id']}"

    assert (await client.patch(one, json={"paused": True})).json()["paused_at"] is not None
    assert (await client.patch(one, json={"primary": True})).status_code == 409
    both = (await client.patch(one, json={"primary": True, "paused": False})).json()
    assert (both["is_primary"], both["paused_at"]) == (True, None)
    assert (await client.delete(one)).status_code == 204
    [left] = (await client.get(f"{ADA}/addresses")).json()["addresses"]
    assert (left["id"], left["is_primary"]) == (second["id"], True)
    for bad in ({}, {"primary": False}, {"primary": None}, {"paused": None}, {"value": "x"}):
        assert (await client.patch(f"{ADA}/addresses/{second['id']}", json=bad)).status_code == 422


async def test_the_secret_of_a_webhook_is_shown_when_it_is_made_and_when_it_is_changed(edge: Edge) -> None:
    client = edge.client(service())
    hook = await added(edge, service(), "webhook", "https://hooks.example.com/a?token=b")
    again = await added(edge, service(), "webhook", "https://hooks.example.com/a?token=b")
    email = await added(edge, service())

    changed = (await client.post(f"{ADA}/addresses/{hook['id']}/secret")).json()["secret"]

    assert hook["hint"] == "https://hooks.example.com"
    assert hook["secret"].startswith("whsec_")
    assert again["secret"] is email["secret"] is None
    assert changed.startswith("whsec_")
    assert changed != hook["secret"]
    assert "secret" not in (await client.get(ADA)).text
    assert (await client.post(f"{ADA}/addresses/{email['id']}/secret")).status_code == 409


async def test_an_address_is_verified_by_the_code_that_was_sent_there(edge: Edge) -> None:
    ada = edge.client(person("ada"))
    address = await added(edge, person("ada"), "sms", PHONE)
    one = f"{ADA}/addresses/{address['id']}/verification"

    sent = await ada.post(one)
    assert sent.status_code == 202, sent.text
    code, said = await code_of(edge)
    [row] = await edge.rows(
        "SELECT d.channel, d.user_id, d.expires_at, n.* FROM notification_deliveries d"
        " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
    )
    assert (row["channel"], row["user_id"], row["notification_type"]) == (
        "sms",
        "ada",
        "address_verification",
    )
    assert said["address_id"] == address["id"]
    assert code not in str(dict(row))
    assert address["id"] in str(row["collapse_key"])

    confirmed = await ada.post(f"{one}/confirm", json={"code": code})
    assert confirmed.status_code == 200, confirmed.text
    assert confirmed.json()["verified_at"] is not None
    assert "code" in faults(await ada.post(f"{one}/confirm", json={"code": code}))
    assert (await ada.post(one)).status_code == 409


async def test_a_code_is_good_for_five_tries_and_ten_minutes(edge: Edge) -> None:
    ada = edge.client(person("ada"))
    address = await added(edge, person("ada"))
    one = f"{ADA}/addresses/{address['id']}/verification"
    await ada.post(one)
    code, _ = await code_of(edge)
    wrong = f"{(int(code) + 1) % 1_000_000:06}"

    for _ in range(5):
        assert "code" in faults(await ada.post(f"{one}/confirm", json={"code": wrong}))
    assert "code" in faults(await ada.post(f"{one}/confirm", json={"code": code}))

    await edge.rows("UPDATE address_verifications SET tries = 0, expires_at = now()")
    assert "code" in faults(await ada.post(f"{one}/confirm", json={"code": code}))
    await edge.rows("UPDATE address_verifications SET expires_at = now() + interval '5 minutes'")
    assert (await ada.post(f"{one}/confirm", json={"code": code})).status_code == 200
    for bad in ("12345", "1234567", "12345a", "١٢٣٤٥٦", 123456, None):
        assert (await ada.post(f"{one}/confirm", json={"code": bad})).status_code == 422


async def test_codes_are_sent_a_minute_apart_and_ten_a_day_whatever_is_removed_meanwhile(edge: Edge) -> None:
    ada = edge.client(person("ada"))
    address = await added(edge, person("ada"), "sms", PHONE)
    one = f"{ADA}/addresses/{address['id']}/verification"
    await ada.post(one)
    first, _ = await code_of(edge)

    early = await ada.post(one)
    assert early.status_code == 429
    assert 0 < int(early.headers["Retry-After"]) <= 60
    await edge.client(person("bob")).post(
        "/api/v1/recipients/bob/addresses", json={"channel": "sms", "value": PHONE}
    )
    [theirs] = (await edge.client(person("bob")).get("/api/v1/recipients/bob")).json()["addresses"]
    other = await edge.client(person("bob")).post(
        f"/api/v1/recipients/bob/addresses/{theirs['id']}/verification"
    )
    assert other.status_code == 429, "one number is not to be rung in many names"

    await edge.rows("UPDATE address_verifications SET expires_at = expires_at - interval '61 seconds'")
    assert (await ada.post(one)).status_code == 202
    second, _ = await code_of(edge)
    if first != second:
        assert "code" in faults(await ada.post(f"{one}/confirm", json={"code": first}))
    states = await edge.rows("SELECT status FROM notifications ORDER BY id")
    assert [row["status"] for row in states] == ["recalled", "published"]

    for _ in range(8):
        await ada.delete(f"{ADA}/addresses/{address['id']}")
        address = await added(edge, person("ada"), "sms", PHONE)
        again = await ada.post(f"{ADA}/addresses/{address['id']}/verification")
        assert again.status_code == 202, again.text
    await ada.delete(f"{ADA}/addresses/{address['id']}")
    address = await added(edge, person("ada"), "sms", PHONE)
    last = await ada.post(f"{ADA}/addresses/{address['id']}/verification")
    assert last.status_code == 429


def with_codes(edge: Edge, **settings: Any) -> Edge:
    """The same edge, with other settings for codes."""
    delivery = delivering(
        edge.database,
        edge.services.publisher,
        edge.services.delivery.vault,
        edge.services.clock,
        push=edge.services.delivery.push,
        codes=VerificationSettings(**settings),
    )
    return edge.with_services(delivery=delivery)


async def code_for(edge: Edge, user_id: str, number: str) -> int:
    """The status of a code that somebody asks for, for a number that they claim."""
    client = edge.client(person(user_id))
    path = f"/api/v1/recipients/{user_id}/addresses"
    address = await client.post(path, json={"channel": "sms", "value": number})
    return (await client.post(f"{path}/{address.json()['id']}/verification")).status_code


async def test_however_many_people_ask_for_codes_a_tenant_pays_for_so_many_a_day(edge: Edge) -> None:
    edge = with_codes(edge, tenant_per_day=12)

    asked = [code_for(edge, f"bot{n}", f"+4479110{n:05}") for n in range(30)]
    statuses = await asyncio.gather(*asked)

    assert sorted(statuses) == [202] * 12 + [429] * 18
    [row] = await edge.rows("SELECT count(*) AS n FROM notification_deliveries")
    assert row["n"] == 12


async def test_codes_go_to_phone_numbers_of_the_tenants_country_and_of_those_that_are_allowed(
    edge: Edge,
) -> None:
    assert await code_for(edge, "any", "+4915112345678") == 202
    await edge.client(admin()).put("/api/v1/tenant/settings", json={"region": "RW"})
    edge = with_codes(edge, countries=frozenset({"GB"}))

    assert await code_for(edge, "own", "0781 234 567") == 202
    assert await code_for(edge, "allowed", PHONE) == 202
    assert await code_for(edge, "far", "+4915112345679") == 409
    assert await code_for(edge, "satellite", "+881612345678") == 409, "of no country"


async def test_nobody_else_sends_what_is_for_codes(edge: Edge) -> None:
    body = {"title": "x", "message": "y", "user_id": "ada", "notification_type": "address_verification"}

    refused = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert list(faults(refused)) == ["notification_type"]


FIVE = ["email", "sms", "whatsapp", "telegram", "webhook"]
INLINE = {
    "user_id": "ada",
    "name": "Ada Lovelace",
    "locale": "en-GB",
    "timezone": "Europe/London",
    "email": EMAIL,
    "phone": PHONE,
    "telegram": "123456789",
    "webhook": "https://hooks.example.com/ada",
}
DRAFT = {"title": "Hello", "message": "There is news.", "channels": FIVE}


async def test_one_request_names_a_person_with_all_addresses_and_reaches_for_five_channels(
    edge: Edge,
) -> None:
    client = edge.client(service())
    for _ in range(2):
        sent = await client.post("/api/v1/notifications", json={**DRAFT, "recipients": [INLINE, "bob"]})
        assert sent.status_code == 201, sent.text

    shown = (await client.get(ADA)).json()
    assert (shown["name"], shown["locale"], shown["timezone"]) == ("Ada Lovelace", "en-GB", "Europe/London")
    assert {one["channel"]: one["is_primary"] for one in shown["addresses"]} == dict.fromkeys(FIVE, True)
    assert all(one["verified_at"] for one in shown["addresses"])
    rows = await edge.rows("SELECT channel FROM notification_deliveries WHERE user_id = 'ada'")
    assert sorted(row["channel"] for row in rows) == sorted(FIVE * 2)
    assert (await client.get("/api/v1/recipients/bob")).status_code == 404, "a bare name says nothing"


async def test_a_number_of_its_own_for_whatsapp_stands_beside_the_phone(edge: Edge) -> None:
    one = {"user_id": "ada", "phone": PHONE, "whatsapp": "+250781234567"}

    await edge.client(service()).post("/api/v1/notifications", json={**DRAFT, "recipients": [one]})

    shown = (await edge.client(service()).get(ADA)).json()["addresses"]
    assert {one["channel"]: one["hint"] for one in shown} == {"sms": "+44***18", "whatsapp": "+25***67"}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("email", "Ada <ada@example.com>"),
        ("phone", "12"),
        ("whatsapp", "+999123"),
        ("telegram", "ada"),
        ("webhook", "ftp://example.com"),
        ("locale", "!"),
        ("timezone", "Mars/Olympus"),
        ("name", "a\nb"),
        ("fax", "+442079460018"),
    ],
)
async def test_a_bad_inline_address_names_its_field_and_nothing_is_stored(
    edge: Edge, member: str, value: str
) -> None:
    people = ["bob", {"user_id": "cleo", "email": "cleo@example.com"}, {"user_id": "ada", member: value}]

    refused = faults(
        await edge.client(service()).post("/api/v1/notifications", json={**DRAFT, "recipients": people})
    )

    assert [path for path in refused if path.endswith(member)]
    assert all(path.startswith("recipients.2") for path in refused)
    for table in ("recipients", "recipient_addresses", "notifications", "notification_deliveries"):
        assert await edge.rows(f"SELECT FROM {table}") == []


async def test_one_person_of_whom_two_things_are_said_is_refused(edge: Edge) -> None:
    people = [INLINE, {"user_id": "ada", "email": "other@example.com"}]

    refused = faults(
        await edge.client(service()).post("/api/v1/notifications", json={**DRAFT, "recipients": people})
    )

    assert list(refused) == ["recipients.0.user_id", "recipients.1.user_id"]


async def test_a_request_that_is_repeated_or_refused_for_its_key_stores_no_address(edge: Edge) -> None:
    """A repetition may come a day later, and what the person has taken away meanwhile stays away."""
    client, headers = edge.client(service()), {"Idempotency-Key": "once"}
    draft = {**DRAFT, "recipients": [{"user_id": "ada", "email": EMAIL}]}
    await client.post("/api/v1/notifications", json=draft, headers=headers)
    await client.delete(ADA)

    again = await client.post("/api/v1/notifications", json=draft, headers=headers)
    other = {**DRAFT, "recipients": [{"user_id": "bob", "email": "bob@example.com"}]}
    refused = await client.post("/api/v1/notifications", json=other, headers=headers)

    assert again.headers["idempotent-replayed"] == "true"
    assert refused.json()["error"] == "idempotency_mismatch"
    assert await edge.rows("SELECT FROM recipients") == []
    assert await edge.rows("SELECT FROM recipient_addresses") == []


async def test_a_submission_that_is_refused_makes_nobody_known(edge: Edge) -> None:
    late = {**DRAFT, "recipients": [INLINE], "expires_at": "2001-01-01T00:00:00Z"}

    assert (await edge.client(service()).post("/api/v1/notifications", json=late)).status_code == 422
    other = await edge.client(person("bob")).post(
        "/api/v1/notifications", json={**DRAFT, "recipients": [INLINE]}
    )

    assert other.status_code == 403
    assert await edge.rows("SELECT FROM recipients") == []


async def test_what_a_person_names_of_themself_has_to_be_confirmed(edge: Edge) -> None:
    sent = await edge.client(person("ada")).post(
        "/api/v1/notifications", json={**DRAFT, "recipients": [INLINE]}
    )

    assert sent.status_code == 201, sent.text
    shown = (await edge.client(person("ada")).get(ADA)).json()["addresses"]
    assert [one["verified_at"] for one in shown] == [None] * 5


async def test_everything_that_is_done_to_a_person_is_on_record(edge: Edge) -> None:
    address = await added(edge, person("ada"))
    await edge.client(person("ada")).post(f"{ADA}/addresses/{address['id']}/verification")
    code, _ = await code_of(edge)
    await edge.client(person("ada")).post(
        f"{ADA}/addresses/{address['id']}/verification/confirm", json={"code": code}
    )
    await edge.client(admin()).put("/api/v1/tenant/settings", json={"region": "GB"})
    await edge.client(service()).delete(ADA)

    rows = await edge.rows("SELECT actor, action, subject, details FROM audit_log ORDER BY seq")
    assert [(row["actor"], row["action"], row["subject"]) for row in rows] == [
        ("person:ada", "recipient.added", "recipient:ada"),
        ("person:ada", "address.added", "recipient:ada"),
        ("person:ada", "address.code_sent", "recipient:ada"),
        ("person:ada", "address.verified", "recipient:ada"),
        ("jwt::root", "tenant.settings_changed", f"tenant:{TENANT}"),
        ("jwt::iep-svc", "recipient.deleted", "recipient:ada"),
    ]
    assert not any(EMAIL in row["details"] or code in row["details"] for row in rows)
    assert await edge.services.delivery.audit.verify(TENANT) is None
