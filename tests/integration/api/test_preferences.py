"""What people want by which channel, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api import OTHER_TENANT, TENANT, Edge, admin, person, service

OWN = "/api/v1/preferences"
TENANTS = "/api/v1/tenant/preferences"
OPT_OUTS = "/api/v1/preferences/opt-outs"
CHANNELS = {"push", "email", "sms", "whatsapp", "telegram", "webhook"}


async def audit(edge: Edge) -> list[tuple[str, str, str]]:
    rows = await edge.rows("SELECT action, subject, actor FROM audit_log ORDER BY tenant_id, seq")
    return [tuple(row) for row in rows]


async def test_everything_is_on_for_somebody_who_has_said_nothing(edge: Edge) -> None:
    answer = await edge.client(person()).get(OWN)

    assert answer.status_code == 200
    said = answer.json()
    assert (said["user_id"], said["matrix"], said["tenant"]) == ("ada", {}, {})
    assert said["effective"].keys() == {"*"}
    assert said["effective"]["*"].keys() == CHANNELS
    assert all(one == {"is_enabled": True, "level": "system"} for one in said["effective"]["*"].values())


async def test_what_a_person_sets_goes_before_what_the_tenant_sets(edge: Edge) -> None:
    tenant = {"*": {"sms": False, "*": True}, "alert": {"sms": True}}
    own = {"iep_update": {"*": False, "email": True}, "*": {"telegram": False}}

    set_ = await edge.client(admin()).put(TENANTS, json={"matrix": tenant})
    answer = await edge.client(person()).put(OWN, json={"matrix": own})

    assert (set_.status_code, set_.json()) == (200, {"matrix": tenant})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["matrix"], said["tenant"]) == (own, tenant)
    assert said == (await edge.client(person()).get(OWN)).json()

    def follows(kind: str, channel: str) -> tuple[bool, str]:
        return said["effective"][kind][channel]["is_enabled"], said["effective"][kind][channel]["level"]

    assert follows("iep_update", "email") == (True, "user")
    assert follows("iep_update", "sms") == (False, "user")
    assert follows("alert", "telegram") == (False, "user")
    assert follows("alert", "sms") == (True, "tenant")
    assert follows("*", "sms") == (False, "tenant")
    assert follows("*", "email") == (True, "tenant")


async def test_a_matrix_takes_the_place_of_the_one_before_and_an_empty_one_sets_nothing(edge: Edge) -> None:
    client = edge.client(person())
    await client.put(OWN, json={"matrix": {"*": {"email": False, "sms": False}}})

    fewer = await client.put(OWN, json={"matrix": {"*": {"email": True}}})
    none = await client.put(OWN, json={"matrix": {}})

    assert fewer.json()["matrix"] == {"*": {"email": True}}
    assert none.json()["matrix"] == {}


async def test_a_service_acts_for_people_and_people_for_themselves_only(edge: Edge) -> None:
    wanted = {"matrix": {"*": {"email": False}}}

    by_service = await edge.client(service()).put(OWN, params={"user_id": "ada"}, json=wanted)
    by_bob = [
        await edge.client(person("bob")).put(OWN, params={"user_id": "ada"}, json={"matrix": {}}),
        await edge.client(person("bob")).get(OWN, params={"user_id": "ada"}),
        await edge.client(person("bob")).get(OPT_OUTS, params={"user_id": "ada"}),
        await edge.client(person("bob")).post(OPT_OUTS, params={"user_id": "ada"}, json={"scope": "all"}),
        await edge.client(person("bob")).delete(OPT_OUTS, params={"user_id": "ada", "scope": "all"}),
        await edge.client(person("bob")).get(TENANTS),
        await edge.client(service()).put(TENANTS, json=wanted),
    ]

    assert by_service.json()["user_id"] == "ada"
    assert [answer.status_code for answer in by_bob] == [403] * 7
    assert (await edge.client(person()).get(OWN, params={"user_id": "ada"})).json()["matrix"] == wanted[
        "matrix"
    ]
    assert (await edge.client(person(tenant_id=OTHER_TENANT)).get(OWN)).json()["matrix"] == {}


@pytest.mark.parametrize(
    ("matrix", "path"),
    [
        ({"iep_update": {"fax": True}}, "matrix.iep_update.fax"),
        ({"iep update": {"email": True}}, "matrix.iep update"),
        ({"": {"email": True}}, "matrix."),
        ({"**": {"email": True}}, "matrix.**"),
        ({"x" * 65: {"email": True}}, "matrix." + "x" * 64),
        ({"*": {"email": "no"}}, "matrix.*.email"),
        ({"*": {"email": None}}, "matrix.*.email"),
        ({"*": True}, "matrix.*"),
        ({f"t{number}": {} for number in range(201)}, "matrix"),
        ([], "matrix"),
    ],
)
@pytest.mark.parametrize(("path_", "token"), [(OWN, person()), (TENANTS, admin())])
async def test_an_unknown_channel_or_a_malformed_type_is_named_and_nothing_is_stored(
    edge: Edge, matrix: Any, path: str, path_: str, token: str
) -> None:
    answer = await edge.client(token).put(path_, json={"matrix": matrix})

    assert answer.status_code == 422, answer.text
    assert path in [fault["path"] for fault in answer.json()["details"]]
    assert await edge.rows("SELECT FROM preference_rules") == []


async def test_changes_are_on_record_with_what_they_changed_and_repetitions_are_not(edge: Edge) -> None:
    client = edge.client(person())
    for _ in range(2):
        await client.put(OWN, json={"matrix": {"*": {"email": False}}})
    await client.put(OWN, json={"matrix": {"*": {"email": True}}})

    assert await audit(edge) == [("preferences.changed", "recipient:ada", "person:ada")] * 2
    details = await edge.rows(
        "SELECT details::json ->> 'set' AS set, details ->> 'was' AS was FROM audit_log ORDER BY seq"
    )
    assert [tuple(row) for row in details] == [
        ('["*/email off"]', "[]"),
        ('["*/email on"]', '["*/email off"]'),
    ]


# --- opt-outs --------------------------------------------------------------------------------------------------------


VALUES = [
    ("all", ""),
    ("channel", "sms"),
    ("topic", "iep_updates"),
    ("type", "iep_update"),
    ("channel_type", "email:billing:due"),
]


@pytest.mark.parametrize(("scope", "value"), VALUES)
async def test_an_opt_out_stands_until_it_is_lifted_and_both_are_on_record(
    edge: Edge, scope: str, value: str
) -> None:
    client = edge.client(person())
    body = {"scope": scope, "value": value}

    made = await client.post(OPT_OUTS, json=body)
    again = await client.post(OPT_OUTS, json=body)
    listed = await client.get(OPT_OUTS)
    lifted = await client.delete(OPT_OUTS, params=body)
    gone = await client.delete(OPT_OUTS, params=body)

    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json() == body | {"reason": "api", "created_at": made.json()["created_at"]}
    assert listed.json() == {"opt_outs": [made.json()]}
    assert (lifted.status_code, gone.status_code) == (204, 404)
    assert (await client.get(OPT_OUTS)).json() == {"opt_outs": []}
    assert await audit(edge) == [
        ("opt_out.added", "recipient:ada", "person:ada"),
        ("opt_out.lifted", "recipient:ada", "person:ada"),
    ]


@pytest.mark.parametrize(
    ("scope", "value", "path"),
    [
        ("all", "email", "value"),
        ("channel", "fax", "value"),
        ("channel", "*", "value"),
        ("channel", None, "value"),
        ("channel", "in_app", "value"),
        ("topic", "a b", "value"),
        ("type", "", "value"),
        ("type", "a b", "value"),
        ("type", "iep_update\n", "value"),
        ("channel_type", "email", "value"),
        ("channel_type", "fax:iep_update", "value"),
        ("channel_type", "email:", "value"),
        ("everything", "", "scope"),
        ("type", "x" * 256, "value"),
    ],
)
async def test_an_opt_out_of_nothing_that_there_is_is_refused_by_its_member(
    edge: Edge, scope: str, value: str | None, path: str
) -> None:
    body = {"scope": scope} | ({} if value is None else {"value": value})

    posted = await edge.client(person()).post(OPT_OUTS, json=body)
    deleted = await edge.client(person()).delete(OPT_OUTS, params=body)

    if deleted.status_code == 404:  # it might have been a plugin's once, and is lifted by any name
        assert scope.startswith("channel")
        deleted = posted
    for answer in (posted, deleted):
        assert answer.status_code == 422, answer.text
        assert [fault["path"] for fault in answer.json()["details"]] == [path]
    assert await edge.rows("SELECT FROM opt_outs") == []


async def test_webhooks_of_the_tenant_are_told_of_opt_outs(edge: Edge) -> None:
    await edge.rows(
        "INSERT INTO webhook_endpoints (tenant_id, id, url, hint, events, secret, created_by)"
        " VALUES ($1, gen_random_uuid(), '', 'https://example.org', '{opt_out.added}', '', 'root')",
        TENANT,
    )

    await edge.client(person()).post(OPT_OUTS, json={"scope": "channel", "value": "sms"})
    await edge.client(person()).delete(OPT_OUTS, params={"scope": "channel", "value": "sms"})

    rows = await edge.rows(
        "SELECT event::json ->> 'type' AS type FROM notification_deliveries WHERE kind = 'event'"
    )
    assert [row["type"] for row in rows] == ["opt_out.added"]
