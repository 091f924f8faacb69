"""What operators, producers and people see and do over HTTP: deliveries, dead letters, broadcasts, channels, the audit log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from core.outcome import Outcome, Sent
from delivery import audit_store
from delivery.breaker import Account
from delivery.channel import Address, Channel, Message
from tests.api import OTHER_TENANT, TENANT, Edge, admin, person, service, token

READER = token("auditor", scopes=["deliveries:read"])


class Nowhere:
    """A provider that takes everything."""

    name = "nowhere"
    concurrency = 1
    rate = None

    def account_of(self, address: Address) -> str:
        return "A1"

    async def send(self, message: Message) -> Outcome:
        return Sent()


async def submitted(edge: Edge, user_id: str = "ada", **members: Any) -> tuple[str, str]:
    """The ids of a notification and of its only delivery."""
    sent = await edge.submit(user_id, channels=["sms"], **members)
    [row] = await edge.rows("SELECT id FROM notification_deliveries WHERE notification_id = $1", sent)
    return sent, str(row["id"])


async def failed(edge: Edge, user_id: str = "ada") -> str:
    _, delivery = await submitted(edge, user_id)
    await edge.rows(
        "UPDATE notification_deliveries SET state = 'failed', code = '30005', finished_at = now() WHERE id = $1",
        delivery,
    )
    return delivery


async def attempted(edge: Edge, delivery: str) -> None:
    await edge.rows(
        "INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker, ended_at, outcome, gates)"
        " VALUES ($1, $2, 1, 'w1', now(), 'policy_drop',"
        """ '[{"gate": "not_opted_out", "passed": false, "saw": "opted out of sms", "until": null}]')""",
        TENANT,
        delivery,
    )


async def test_the_list_and_the_timeline_are_for_whoever_may_read_deliveries(edge: Edge) -> None:
    sent, delivery = await submitted(edge)
    await attempted(edge, delivery)

    listed = (await edge.client(READER).get("/api/v1/deliveries", params={"user_id": "ada"})).json()
    told = (await edge.client(READER).get(f"/api/v1/deliveries/{delivery}")).json()

    assert [one["id"] for one in listed["deliveries"]] == [delivery]
    assert (told["notification_id"], told["state"]) == (sent, "queued")
    assert told["attempts"][0]["gates"][0]["saw"] == "opted out of sms"
    assert (await edge.client(person()).get("/api/v1/deliveries")).status_code == 403
    elsewhere = edge.client(admin(OTHER_TENANT))
    assert (await elsewhere.get(f"/api/v1/deliveries/{delivery}")).status_code == 404
    assert (await elsewhere.get("/api/v1/deliveries")).json()["deliveries"] == []


async def test_a_person_learns_why_they_did_not_get_it_and_nothing_of_others(edge: Edge) -> None:
    body = {"title": "Hello", "message": "News.", "recipients": ["ada", "bob"], "channels": ["sms"]}
    sent = (await edge.client(service()).post("/api/v1/notifications", json=body)).json()["notifications"]
    of_ada = next(one["id"] for one in sent if one["user_id"] == "ada")
    [row] = await edge.rows("SELECT id FROM notification_deliveries WHERE user_id = 'ada'")
    await attempted(edge, str(row["id"]))
    path = f"/api/v1/notifications/{of_ada}/deliveries"

    own = (await edge.client(person("ada")).get(path)).json()["deliveries"]
    of_all = (await edge.client(service()).get(path)).json()["deliveries"]
    read = (await edge.client(READER).get(path)).json()["deliveries"]

    assert {one["user_id"] for one in own} == {"ada"}
    assert own[0]["attempts"][0]["gates"][0]["gate"] == "not_opted_out"
    assert len(of_all) == len(read) >= 1
    for stranger in (person("eve"), person("ada", OTHER_TENANT), token("x", scopes=["publish"])):
        assert (await edge.client(stranger).get(path)).status_code == 404
    assert (await edge.client(READER).get(f"/api/v1/notifications/{uuid4()}/deliveries")).status_code == 404


async def test_a_notification_that_only_the_inbox_got_has_no_deliveries(edge: Edge) -> None:
    sent = await edge.submit("ada")

    found = await edge.client(person("ada")).get(f"/api/v1/notifications/{sent}/deliveries")

    assert (found.status_code, found.json()) == (200, {"deliveries": [], "next_cursor": None})


async def test_a_delivery_is_cancelled_or_begun_anew_and_the_worker_is_woken(edge: Edge) -> None:
    woken: list[str] = []
    edge = edge.with_services(delivery=replace(edge.services.delivery, wake=lambda: woken.append("")))
    _, waiting = await submitted(edge)
    dead = await failed(edge)
    client = edge.client(service())

    assert (await client.post(f"/api/v1/deliveries/{waiting}/cancel")).json()["state"] == "cancelled"
    assert (await client.post(f"/api/v1/deliveries/{dead}/cancel")).status_code == 409
    assert woken == []
    assert (await client.post(f"/api/v1/deliveries/{dead}/retry")).json()["state"] == "queued"
    assert (await client.post(f"/api/v1/deliveries/{dead}/retry")).status_code == 409
    assert (await client.post(f"/api/v1/deliveries/{uuid4()}/retry")).status_code == 404
    assert len(woken) == 1


async def test_dead_letters_are_counted_edited_and_replayed(edge: Edge) -> None:
    first, second = await failed(edge), await failed(edge, "bob")
    client = edge.client(admin())

    listed = (await client.get("/api/v1/dead-letters")).json()
    edited = await client.patch(f"/api/v1/deliveries/{first}", json={"title": "Other words"})
    named = await client.post("/api/v1/dead-letters/replay", json={"delivery_ids": [first, str(uuid4())]})
    rest = await client.post("/api/v1/dead-letters/replay", json={"filter": {"code": "30005"}})

    assert {one["id"] for one in listed["deliveries"]} == {first, second}
    assert listed["counts"] == [{"channel": "sms", "state": "failed", "code": "30005", "count": 2}]
    assert (edited.status_code, edited.json()["is_edited"]) == (200, True)
    assert "Other words" not in edited.text
    assert named.json() == {"replayed": 1, "skipped": 1, "more": False}
    assert rest.json() == {"replayed": 1, "skipped": 0, "more": False}
    assert (
        await edge.client(service()).post("/api/v1/dead-letters/replay", json={"filter": {}})
    ).status_code == 403


@pytest.mark.parametrize("title", ["Hello\r\nBcc: eve@example.com", "Hello\u2028Bcc: eve", "=?utf-8?q?x?="])
async def test_the_edited_title_of_a_mail_is_no_way_into_its_header(edge: Edge, title: str) -> None:
    dead = await failed(edge)
    await edge.rows("UPDATE notification_deliveries SET channel = 'email' WHERE id = $1", dead)

    refused = await edge.client(admin()).patch(f"/api/v1/deliveries/{dead}", json={"title": title})

    assert (refused.status_code, refused.json()["details"][0]["path"]) == (422, "title")
    assert await edge.rows("SELECT FROM notification_deliveries WHERE edited IS NOT NULL") == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"delivery_ids": []},
        {"filter": {"code": "x" * 65}},
        {"filter": {}, "delivery_ids": [str(uuid4())]},
    ],
)
async def test_a_replay_of_nothing_or_of_two_things_is_refused(edge: Edge, body: dict[str, Any]) -> None:
    assert (await edge.client(admin()).post("/api/v1/dead-letters/replay", json=body)).status_code == 422


@pytest.mark.parametrize("body", [{}, {"title": ""}, {"title": "x" * 256}, {"address_id": "nowhere"}])
async def test_an_edit_that_says_nothing_is_refused(edge: Edge, body: dict[str, Any]) -> None:
    dead = await failed(edge)

    assert (await edge.client(admin()).patch(f"/api/v1/deliveries/{dead}", json=body)).status_code == 422


async def test_a_broadcast_is_shown_paused_resumed_and_cancelled(edge: Edge) -> None:
    body = {"title": "Hello", "message": "News.", "broadcast_to_tenant": True, "channels": ["email"]}
    sent = (await edge.client(service()).post("/api/v1/notifications", json=body)).json()["id"]
    client, path = edge.client(service()), f"/api/v1/broadcasts/{sent}"

    listed = (await edge.client(READER).get("/api/v1/broadcasts")).json()["broadcasts"]
    states = [(await client.post(f"{path}/{act}")).json()["state"] for act in ("pause", "resume", "cancel")]
    after = (await edge.client(READER).get(path)).json()

    assert [(one["notification_id"], one["state"]) for one in listed] == [(sent, "running")]
    assert states == ["paused", "running", "cancelled"]
    assert (after["state"], after["by_state"]) == ("cancelled", {})
    assert (await client.post(f"{path}/resume")).status_code == 409
    assert (await edge.client(admin(OTHER_TENANT)).get(path)).status_code == 404


def with_sms(edge: Edge) -> Edge:
    channel = Channel(name="sms", providers=[Nowhere()], unknown="reconcile")
    return edge.with_services(delivery=replace(edge.services.delivery, channels={"sms": channel}))


async def test_a_channel_without_credentials_is_not_configured_and_one_in_trouble_says_why(
    edge: Edge,
) -> None:
    edge = with_sms(edge)
    await submitted(edge)
    await edge.services.delivery.accounts.record(
        {
            ("sms", "nowhere", "A1"): Account(breaker="halted", last_code="20003", last_reason="refused"),
            ("webhook", "webhook", "hooks.secret.test"): Account(breaker="open"),
        }
    )

    shown = (await edge.client(admin()).get("/api/v1/channels")).json()

    by_name = {one["name"]: one for one in shown["channels"]}
    assert (shown["mode"], shown["notice"]) == ("live", None)
    assert by_name["email"]["is_configured"] is False
    assert (
        by_name["sms"] | {"is_configured": True, "providers": ["nowhere"], "breaker": "halted", "backlog": 1}
        == by_name["sms"]
    )
    assert by_name["sms"]["accounts"][0]["last_reason"] == "refused"
    assert by_name["webhook"]["accounts"] == []
    everywhere = token("root", roles=["admin"], scopes=["tenants:all"])
    seen = (await edge.client(everywhere).get("/api/v1/channels")).json()["channels"]
    assert [one["accounts"][0]["account"] for one in seen if one["name"] == "webhook"] == [
        "hooks.secret.test"
    ]


async def test_a_channel_is_tried_by_a_message_that_goes_the_way_of_all_others(edge: Edge) -> None:
    edge = with_sms(edge)
    client = edge.client(admin())

    sent = await client.post("/api/v1/channels/sms/test", json={"user_id": "ada"})

    told = (await client.get(f"/api/v1/deliveries/{sent.json()['delivery_id']}")).json()
    assert (sent.status_code, told["user_id"], told["channel"], told["state"]) == (
        201,
        "ada",
        "sms",
        "queued",
    )
    [row] = await edge.rows("SELECT notification_type FROM notifications")
    assert row["notification_type"] == "channel_test"
    assert (await client.post("/api/v1/channels/sms/test", json={})).status_code == 201
    assert (await client.post("/api/v1/channels/email/test", json={})).status_code == 409
    assert (await client.post("/api/v1/channels/pigeon/test", json={})).status_code == 404
    assert (await edge.client(service()).post("/api/v1/channels/sms/test", json={})).status_code == 403


async def test_a_halted_channel_is_resumed_and_others_hosts_are_left_alone(edge: Edge) -> None:
    await edge.services.delivery.accounts.record(
        {
            ("sms", "nowhere", "A1"): Account(breaker="halted"),
            ("webhook", "webhook", "hooks.test"): Account(breaker="open"),
        }
    )
    client = edge.client(admin())

    resumed = await client.post("/api/v1/channels/sms/resume", json={})

    assert resumed.json() == {"accounts": [{"provider": "nowhere", "account": "A1", "was": "halted"}]}
    assert (await client.post("/api/v1/channels/sms/resume", json={})).status_code == 409
    assert (await client.post("/api/v1/channels/webhook/resume", json={})).status_code == 422
    assert (
        await client.post("/api/v1/channels/webhook/resume", json={"account": "hooks.test"})
    ).status_code == 200


async def test_the_audit_log_is_read_page_by_page_and_verified_by_admins(edge: Edge) -> None:
    async with edge.database.transaction() as connection:
        for number in range(3):
            await audit_store.append(
                connection, TENANT, "person:ada", "opt_out.added", f"recipient:{number}", {"scope": "all"}
            )
    client = edge.client(admin())

    first = (await client.get("/api/v1/audit", params={"limit": 2})).json()
    second = (await client.get("/api/v1/audit", params={"limit": 2, "before": first["next_before"]})).json()
    about = (await client.get("/api/v1/audit", params={"subject": "recipient:1"})).json()
    whole = (await client.get("/api/v1/audit/verify")).json()

    assert [row["seq"] for row in first["rows"] + second["rows"]] == [3, 2, 1]
    assert second["next_before"] is None
    assert [row["details"] for row in about["rows"]] == [{"scope": "all"}]
    assert (whole["intact"], whole["first_bad_seq"]) == (True, None)
    assert whole["head"] == f"3:{first['rows'][0]['hash']}"
    assert (await edge.client(admin(OTHER_TENANT)).get("/api/v1/audit")).json()["rows"] == []
    assert (await edge.client(READER).get("/api/v1/audit")).status_code == 403
