"""Keryu's paths (KER-8, KER-9): what its clients ask, what they are answered, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.api import OTHER_TENANT, TENANT, Edge, person, service

PHONE = "+14155552671"


async def subject(edge: Edge, **members: Any) -> str:
    body = {"name": "Ada", "phone_number": PHONE, **members}
    made = await edge.client(service()).post("/api/subjects/create/", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def created(edge: Edge, **members: Any) -> dict[str, Any]:
    body = {"subject_id": await subject(edge), "message_template": "Come back, please.", **members}
    made = await edge.client(service()).post("/api/notifications/create/", json=body)
    assert made.status_code == 202, made.text
    found: dict[str, Any] = made.json()
    return found


async def status(edge: Edge, notification_id: str, token: str | None = None) -> Any:
    return await edge.client(token or service()).get(f"/api/notifications/{notification_id}/status/")


async def set_state(
    edge: Edge, notification_id: str, state: str, *, finished: bool = True, **columns: Any
) -> None:
    """The delivery as a worker would have left it."""
    others = "".join(f", {name} = {value!r}" for name, value in columns.items())
    await edge.rows(
        f"UPDATE notification_deliveries SET state = $2, finished_at = CASE WHEN $3 THEN now() END{others}"
        " WHERE notification_id = $1",
        notification_id,
        state,
        finished,
    )


async def test_a_notification_is_taken_for_whatsapp_and_queued(edge: Edge) -> None:
    made = await created(edge)

    assert made["status"] == "queued"
    assert (made["message_template"], made["retry_count"], made["sent_at"]) == ("Come back, please.", 0, None)
    [row] = await edge.rows("SELECT user_id, channel, state FROM notification_deliveries")
    assert tuple(row) == (made["subject_id"], "whatsapp", "queued")


async def test_the_status_is_what_create_answered_until_something_happens(edge: Edge) -> None:
    made = await created(edge)

    answer = await status(edge, made["id"])

    assert answer.status_code == 200
    assert answer.json() == made


@pytest.mark.parametrize("variables", [["Bus 7", "12"], {"1": "Bus 7", "2": "12"}])
async def test_a_template_is_filled_in_and_kept_as_it_was(edge: Edge, variables: Any) -> None:
    made = await created(edge, message_template="{{1}} is late by {{ 2 }} minutes.", variables=variables)

    [row] = await edge.rows("SELECT message, title FROM notifications")
    assert row["message"] == row["title"] == "Bus 7 is late by 12 minutes."
    assert (await status(edge, made["id"])).json()["message_template"] == "{{1}} is late by {{ 2 }} minutes."


async def test_the_template_of_its_document_is_known_by_name(edge: Edge) -> None:
    variables = {"1": "Ada", "2": "Fever", "3": "38.9 °C at 14:05", "4": "Please call back."}
    made = await edge.client(service()).post(
        "/api/notifications/create/",
        json={
            "subject_id": await subject(edge),
            "template_id": "notification_alert",
            "variables": variables,
        },
    )

    assert made.status_code == 202, made.text
    [row] = await edge.rows("SELECT message, notification_type, metadata FROM notifications")
    assert row["message"] == "Ada: Fever\n38.9 °C at 14:05\nPlease call back."
    assert row["notification_type"] == "notification_alert"
    assert '"alert_type":"Fever"' in row["metadata"]
    assert '"action_required":"Please call back."' in row["metadata"]


async def test_a_variable_is_words_and_never_a_template(edge: Edge) -> None:
    await created(edge, message_template="{{1}}", variables=["{{2}}", "secret"])

    [row] = await edge.rows("SELECT message FROM notifications")
    assert row["message"] == "{{2}}"


async def test_what_is_scheduled_is_queued_and_has_no_delivery_yet(edge: Edge) -> None:
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)

    made = await created(edge, scheduled_for=when.isoformat())

    assert made["status"] == "queued"
    assert datetime.fromisoformat(made["scheduled_for"]) == when
    assert await edge.rows("SELECT FROM notification_deliveries") == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"subject_id": "nobody"}, "subject_id"),
        ({"message_template": "{{1}} {{2}}", "variables": ["one"]}, "variables"),
        ({"message_template": " "}, "message_template"),
        ({"message_template": None}, ""),
        ({"template_id": "notification_alert"}, ""),
        ({"scheduled_for": "2999-01-01T00:00:00Z"}, "scheduled_for"),
        ({"scheduled_for": "tomorrow"}, "scheduled_for"),
        ({"phone": PHONE}, "phone"),
    ],
)
async def test_a_notification_that_cannot_be_meant_is_refused_and_nothing_is_stored(
    edge: Edge, body: dict[str, Any], path: str
) -> None:
    given = {"subject_id": await subject(edge), "message_template": "Hello", **body}

    refused = await edge.client(service()).post("/api/notifications/create/", json=given)

    assert refused.status_code == 422
    assert path in [fault["path"] for fault in refused.json()["details"]]
    assert await edge.rows("SELECT FROM notifications") == []


@pytest.mark.parametrize(
    ("state", "finished", "shown"),
    [
        ("sent", True, "sent"),
        ("delivered", True, "delivered"),
        ("read", True, "read"),
        ("failed", True, "failed"),
        ("undelivered", True, "undelivered"),
        ("suppressed", True, "suppressed"),
        ("expired", True, "expired"),
        ("deferred", False, "deferred"),
        ("unknown", False, "processing"),
    ],
)
async def test_the_status_follows_the_delivery(edge: Edge, state: str, finished: bool, shown: str) -> None:
    made = await created(edge)
    await set_state(edge, made["id"], state, finished=finished, attempt=3)

    found = (await status(edge, made["id"])).json()
    listed = (await edge.client(service()).get(f"/api/notifications/list/?status={shown}")).json()

    assert (found["status"], found["retry_count"]) == (shown, 2)
    assert listed["notifications"] == [found]


async def test_what_fell_back_to_another_channel_is_as_that_one_is(edge: Edge) -> None:
    made = await created(edge)
    await set_state(edge, made["id"], "failed")
    await edge.rows(
        "INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state,"
        " finished_at, fallback_of) SELECT tenant_id, $1, notification_id, user_id, 'sms', lane, 'sent', now(), id"
        " FROM notification_deliveries",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    )

    failed = (await edge.client(service()).get("/api/notifications/list/?status=failed")).json()

    assert (await status(edge, made["id"])).json()["status"] == "sent"
    assert failed["notifications"] == []


async def test_what_has_failed_is_queued_again(edge: Edge) -> None:
    made = await created(edge)
    await set_state(edge, made["id"], "failed")

    retried = await edge.client(service()).post(f"/api/notifications/{made['id']}/retry/")

    assert (retried.status_code, retried.json()["status"]) == (202, "queued")
    [row] = await edge.rows("SELECT action FROM audit_log WHERE subject LIKE 'delivery:%'")
    assert row["action"].startswith("delivery.")


@pytest.mark.parametrize("state", ["sent", "queued"])
async def test_what_has_not_failed_is_not_retried(edge: Edge, state: str) -> None:
    made = await created(edge)
    await set_state(edge, made["id"], state, finished=state == "sent")

    refused = await edge.client(service()).post(f"/api/notifications/{made['id']}/retry/")

    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")


async def test_what_waits_for_its_time_is_not_retried(edge: Edge) -> None:
    made = await created(edge, scheduled_for=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

    refused = await edge.client(service()).post(f"/api/notifications/{made['id']}/retry/")

    assert refused.status_code == 409


async def test_the_list_has_pages_the_newest_first(edge: Edge) -> None:
    made = [await created(edge, message_template=f"Number {number}") for number in range(3)]
    await edge.submit(channels=["whatsapp"])  # not by its path: not in its list

    first = (await edge.client(service()).get("/api/notifications/list/?limit=2")).json()
    rest = (await edge.client(service()).get("/api/notifications/list/?limit=2&offset=2")).json()
    beyond = (await edge.client(service()).get("/api/notifications/list/?offset=9")).json()

    assert [one["id"] for one in first["notifications"]] == [made[2]["id"], made[1]["id"]]
    assert [one["id"] for one in rest["notifications"]] == [made[0]["id"]]
    assert {page["total"] for page in (first, rest, beyond)} == {3}
    assert beyond["notifications"] == []


async def test_the_list_of_what_is_queued_has_what_is_scheduled_too(edge: Edge) -> None:
    await created(edge)
    await created(edge, scheduled_for=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

    found = (await edge.client(service()).get("/api/notifications/list/?status=queued")).json()

    assert found["total"] == 2


async def test_an_older_path_and_ours_show_the_same_notification(edge: Edge) -> None:
    ada = await subject(edge)
    mine = await edge.submit(user_id=ada, channels=["whatsapp"], message="By the other path.")

    found = (await status(edge, mine)).json()

    assert (found["subject_id"], found["message_template"]) == (ada, "By the other path.")


async def test_another_tenant_sees_nothing_of_it(edge: Edge) -> None:
    made = await created(edge)
    stranger = edge.client(service(OTHER_TENANT))

    answers = [
        await status(edge, made["id"], service(OTHER_TENANT)),
        await stranger.post(f"/api/notifications/{made['id']}/retry/"),
        await stranger.put(f"/api/subjects/{made['subject_id']}/update/", json={"name": "Eve"}),
        await stranger.delete(f"/api/subjects/{made['subject_id']}/delete/"),
    ]

    assert [one.status_code for one in answers] == [404] * 4
    assert (await stranger.get("/api/notifications/list/")).json()["total"] == 0
    assert (await stranger.get("/api/subjects/list/")).json()["total"] == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/notifications/create/"),
        ("GET", "/api/notifications/list/"),
        ("GET", f"/api/notifications/{UUID(int=7)}/status/"),
        ("POST", f"/api/notifications/{UUID(int=7)}/retry/"),
        ("POST", "/api/subjects/create/"),
        ("GET", "/api/subjects/list/"),
        ("PUT", "/api/subjects/ada/update/"),
        ("DELETE", "/api/subjects/ada/delete/"),
    ],
)
async def test_every_path_needs_the_token_of_a_service(edge: Edge, method: str, path: str) -> None:
    assert (await edge.client().request(method, path)).status_code == 401
    assert (await edge.client(person()).request(method, path)).status_code == 403
    assert (await edge.client(service()).request(method, path.rstrip("/"))).status_code == 404


async def test_an_idempotency_key_takes_a_notification_once(edge: Edge) -> None:
    body = {"subject_id": await subject(edge), "message_template": "Once"}
    client, headers = edge.client(service()), {"Idempotency-Key": "once"}

    first = await client.post("/api/notifications/create/", json=body, headers=headers)
    again = await client.post("/api/notifications/create/", json=body, headers=headers)

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_subject_is_a_recipient_whose_number_is_shown_masked(edge: Edge) -> None:
    made = await edge.client(service()).post(
        "/api/subjects/create/",
        json={"name": "Ada", "phone_number": "+1 (415) 555-2671", "preferences": {"language": "sw"}},
    )

    shown = {"name": "Ada", "phone_number": "+14***71", "is_active": True, "preferences": {"language": "sw"}}
    assert made.json() == {"id": made.json()["id"], **shown}
    assert (await edge.client(service()).get("/api/subjects/list/")).json() == {
        "subjects": [made.json()],
        "total": 1,
        "limit": 50,
        "offset": 0,
    }
    [row] = await edge.rows("SELECT channel, hint, sealed FROM recipient_addresses")
    assert (row["channel"], row["hint"]) == ("whatsapp", "+14***71")
    assert b"4155552671" not in row["sealed"]


async def test_a_number_of_the_tenants_country_needs_no_code(edge: Edge) -> None:
    await edge.rows("INSERT INTO tenant_settings (tenant_id, region) VALUES ($1, 'RW')", TENANT)

    made = await edge.client(service()).post(
        "/api/subjects/create/", json={"name": "Ada", "phone_number": "0788 123 456"}
    )

    assert made.json()["phone_number"] == "+25***56"


@pytest.mark.parametrize("number", ["0788123456", "+1915", "not a number", "+1415555267x"])
async def test_what_is_no_phone_number_is_refused_by_name(edge: Edge, number: str) -> None:
    refused = await edge.client(service()).post(
        "/api/subjects/create/", json={"name": "Ada", "phone_number": number}
    )

    assert refused.status_code == 422
    assert [fault["path"] for fault in refused.json()["details"]] == ["phone_number"]
    assert number not in refused.text
    assert await edge.rows("SELECT FROM recipients") == []


async def test_another_number_takes_the_place_of_the_one_before(edge: Edge) -> None:
    ada = await subject(edge)

    changed = await edge.client(service()).put(
        f"/api/subjects/{ada}/update/", json={"phone_number": "+250788123456", "is_active": False}
    )

    assert changed.json()["phone_number"] == "+25***56"
    assert (changed.json()["name"], changed.json()["is_active"]) == ("Ada", False)
    [row] = await edge.rows("SELECT hint, is_primary FROM recipient_addresses")
    assert tuple(row) == ("+25***56", True)


async def test_a_client_may_send_back_what_it_was_shown(edge: Edge) -> None:
    ada = await subject(edge)
    [shown] = (await edge.client(service()).get("/api/subjects/list/")).json()["subjects"]
    shown.pop("id")

    changed = await edge.client(service()).put(
        f"/api/subjects/{ada}/update/", json={**shown, "name": "Ada L."}
    )

    assert changed.json() == {"id": ada, **shown, "name": "Ada L."}
    [row] = await edge.rows("SELECT count(*) FROM recipient_addresses")
    assert row["count"] == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [({}, ""), ({"phone_number": "12"}, "phone_number"), ({"name": None}, "name"), ({"name": ""}, "name")],
)
async def test_an_update_that_says_nothing_sensible_changes_nothing(
    edge: Edge, body: dict[str, Any], path: str
) -> None:
    ada = await subject(edge)

    refused = await edge.client(service()).put(f"/api/subjects/{ada}/update/", json=body)

    assert refused.status_code == 422
    assert path in [fault["path"] for fault in refused.json()["details"]]


async def test_a_forgotten_subject_is_gone_with_their_number(edge: Edge) -> None:
    ada = await subject(edge)
    client = edge.client(service())

    gone = await client.delete(f"/api/subjects/{ada}/delete/")

    assert gone.status_code == 204
    assert await edge.rows("SELECT FROM recipient_addresses") == []
    assert (await client.delete(f"/api/subjects/{ada}/delete/")).status_code == 404
    assert (await client.delete("/api/subjects/%E2%80%A8/delete/")).status_code == 404
