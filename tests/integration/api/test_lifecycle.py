"""A notification through the REST API: submitted, read, changed, taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api import Edge, admin, person, service

BODY: dict[str, Any] = {"title": "Hello", "message": "There is news."}


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


async def test_a_person_sends_to_themselves(edge: Edge) -> None:
    made = await edge.client(person("ada")).post("/api/v1/notifications", json=BODY)

    assert made.status_code == 201
    assert made.headers["location"] == f"/api/v1/notifications/{made.json()['id']}"
    listed = (await edge.client(person("ada")).get("/api/v1/notifications")).json()
    assert [one["id"] for one in listed["notifications"]] == [made.json()["id"]]
    assert listed["unread_count"] == 1
    assert made.json()["channels"] == ["in_app", "websocket"]


@pytest.mark.parametrize(
    "target",
    [{"user_id": "bob"}, {"recipients": ["ada", "bob"]}, {"topic": "news"}, {"broadcast_to_tenant": True}],
)
async def test_a_person_sends_to_nobody_else(edge: Edge, target: dict[str, Any]) -> None:
    refused = await edge.client(person("ada")).post("/api/v1/notifications", json=BODY | target)

    assert refused.status_code == 403
    assert await edge.rows("SELECT FROM notifications") == []


async def test_a_service_says_for_whom(edge: Edge) -> None:
    refused = await edge.client(service()).post("/api/v1/notifications", json=BODY)

    assert refused.status_code == 422
    assert "user_id" in refused.json()["detail"]


async def test_several_people_are_listed_with_the_notification_that_each_got(edge: Edge) -> None:
    body = BODY | {"recipients": ["bob", {"user_id": "ada"}, "bob"]}
    made = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert [one["user_id"] for one in made.json()["notifications"]] == ["ada", "bob"]
    for name in ("ada", "bob"):
        assert (await edge.client(person(name)).get("/api/v1/notifications")).json()["unread_count"] == 1


async def test_the_same_key_and_body_is_the_same_notification(edge: Edge) -> None:
    client, headers = edge.client(service()), {"Idempotency-Key": "order-7"}
    body = BODY | {"user_id": "ada"}
    first = await client.post("/api/v1/notifications", json=body, headers=headers)
    again = await client.post("/api/v1/notifications", json=body, headers=headers)
    other = await client.post("/api/v1/notifications", json=body | {"title": "Else"}, headers=headers)
    elsewhere = await client.post("/internal/broadcast", json=body, headers=headers)

    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    for refused in (other, elsewhere):
        assert (refused.status_code, refused.json()["error"]) == (422, "idempotency_mismatch")
    assert len(await edge.rows("SELECT FROM notifications")) == 1


async def test_what_a_person_does_is_told_in_their_list(edge: Edge) -> None:
    one, two = await edge.submit(), await edge.submit()
    client = edge.client(person())

    assert (await client.post(f"/api/v1/notifications/{one}/read")).json() == {"unread_count": 1}
    assert (await client.post(f"/api/v1/notifications/{one}/unread")).json() == {"unread_count": 2}
    assert (await client.post(f"/api/v1/notifications/{one}/seen")).json() == {"unread_count": 2}
    assert (await client.post(f"/api/v1/notifications/{two}/archive")).json() == {"unread_count": 1}
    archived = await client.get("/api/v1/notifications", params={"state": "archived"})
    assert [item["id"] for item in archived.json()["notifications"]] == [two]
    assert (await client.post(f"/api/v1/notifications/{two}/unarchive")).json() == {"unread_count": 2}
    snoozed = await client.post(f"/api/v1/notifications/{two}/snooze", json={"until": later(hours=1)})
    assert snoozed.json() == {"unread_count": 1}
    counted = (await client.get("/api/v1/notifications/counts")).json()
    assert (counted["unread"], counted["unseen"]) == (1, 0)
    assert counted["positions"]["user"] >= 2


async def test_many_are_changed_at_once_by_name_and_by_selection(edge: Edge) -> None:
    ids = [await edge.submit(notification_type=name) for name in ("iep_update", "iep_update", "system")]
    client = edge.client(person())

    named = await client.post(
        "/api/v1/notifications/bulk", json={"change": "read", "notification_ids": ids[:1]}
    )
    selected = await client.post(
        "/api/v1/notifications/bulk", json={"change": "archived", "filter": {"types": ["iep_update"]}}
    )
    everything = await client.post("/api/v1/notifications/read-all", json={})

    assert named.json() == {"unread_count": 2, "more": False}
    assert selected.json() == {"unread_count": 1, "more": False}
    assert everything.json() == {"unread_count": 0}


async def test_pages_follow_each_other_without_a_hole(edge: Edge) -> None:
    ids = [await edge.submit() for _ in range(5)]
    client = edge.client(person())
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/api/v1/notifications", params=params)).json()
        seen += [one["id"] for one in page["notifications"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == ids[::-1]


async def test_lists_are_filtered_by_type_priority_and_stream(edge: Edge) -> None:
    wanted = await edge.submit(notification_type="iep_update", priority="urgent")
    await edge.submit(notification_type="iep_update", priority="low")
    await edge.submit(notification_type="system", priority="urgent")
    client = edge.client(person())

    params = {"type": ["iep_update", "other"], "min_priority": "high", "stream": "user"}
    page = (await client.get("/api/v1/notifications", params=params)).json()

    assert [one["id"] for one in page["notifications"]] == [wanted]


async def test_an_update_is_what_its_reader_sees(edge: Edge) -> None:
    one = await edge.submit(action_url="/old", metadata={"a": 1})

    changed = await edge.client(service()).patch(
        f"/api/v1/notifications/{one}", json={"title": "Corrected", "action_url": None}
    )

    assert changed.status_code == 200
    read = (await edge.client(person()).get(f"/api/v1/notifications/{one}")).json()
    assert (read["title"], read["action_url"], read["metadata"]) == ("Corrected", None, {"a": 1})
    assert read["updated_at"] is not None


async def test_a_recalled_notification_is_gone(edge: Edge) -> None:
    one = await edge.submit()

    assert (await edge.client(service()).delete(f"/api/v1/notifications/{one}")).status_code == 204
    assert (await edge.client(person()).get(f"/api/v1/notifications/{one}")).status_code == 404
    assert (await edge.client(person()).get("/api/v1/notifications")).json()["unread_count"] == 0


async def test_a_scheduled_notification_is_not_there_yet_and_can_be_cancelled(edge: Edge) -> None:
    one = await edge.submit(scheduled_for=later(hours=1))
    client = edge.client(service())

    assert (await edge.client(person()).get("/api/v1/notifications")).json()["notifications"] == []
    found = (await client.get(f"/api/v1/notifications/{one}")).json()
    assert (found["status"], found["audience"], found["user_ids"]) == ("scheduled", "user", ["ada"])
    moved = await client.patch(f"/api/v1/notifications/{one}", json={"scheduled_for": later(hours=2)})
    assert moved.json()["scheduled_for"] > found["scheduled_for"]
    assert (await client.post(f"/api/v1/notifications/{one}/cancel")).json()["status"] == "cancelled"
    assert (await client.delete(f"/api/v1/notifications/{one}")).json()["error"] == "conflict"


async def test_topics_are_followed_muted_and_left(edge: Edge) -> None:
    client = edge.client(person())

    assert (await client.put("/api/v1/topics/room/42/follow")).status_code == 204
    assert (await client.put("/api/v1/topics/room/42/mute")).status_code == 204
    [topic] = (await client.get("/api/v1/topics")).json()["topics"]
    assert (topic["topic"], topic["muted"]) == ("room/42", True)
    assert (await client.delete("/api/v1/topics/room/42/mute")).status_code == 204
    assert (await client.delete("/api/v1/topics/room%2F42/follow")).status_code == 204
    assert (await client.get("/api/v1/topics")).json() == {"topics": []}
    assert (await client.put("/api/v1/topics/news/mute")).status_code == 404


async def test_a_ticket_stands_for_whoever_asked_for_it_once(edge: Edge) -> None:
    made = await edge.client(person()).post("/api/v1/ws/ticket")

    assert made.status_code == 201
    redeemed = await edge.services.tickets.redeem(made.json()["ticket"])
    assert redeemed is not None
    assert redeemed.user_id == "ada"
    assert await edge.services.tickets.redeem(made.json()["ticket"]) is None


async def test_an_api_key_opens_what_its_scopes_say_until_it_is_revoked(edge: Edge) -> None:
    made = await edge.client(admin()).post("/api/v1/api-keys", json={"name": "IEP", "scopes": ["broadcast"]})
    key = edge.client(made.json()["key"])
    to_ada = BODY | {"user_id": "ada"}

    assert (await key.post("/internal/broadcast", json=to_ada)).status_code == 201
    assert (await key.post("/internal/publish", json={"channel": "a", "data": 1})).status_code == 403
    by_header = await edge.client().post(
        "/internal/broadcast", json=to_ada, headers={"X-API-Key": made.json()["key"]}
    )
    assert by_header.status_code == 201
    listed = (await edge.client(admin()).get("/api/v1/api-keys")).json()["api_keys"]
    assert [(one["name"], one["scopes"]) for one in listed] == [("IEP", ["broadcast"])]
    assert made.json()["key"] not in str(listed)
    gone = await edge.client(admin()).delete(f"/api/v1/api-keys/{made.json()['id']}")
    assert gone.status_code == 204
    assert (await key.post("/internal/broadcast", json=to_ada)).status_code == 401


async def test_nobody_makes_a_key_that_can_more_than_they_can(edge: Edge) -> None:
    body = {"name": "all", "scopes": ["broadcast", "tenants:all"]}

    refused = await edge.client(admin()).post("/api/v1/api-keys", json=body)

    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")


async def test_a_revoked_person_is_out_with_every_token_they_have(edge: Edge) -> None:
    ada = edge.client(person())
    assert (await ada.get("/api/v1/notifications")).status_code == 200

    assert (
        await edge.client(admin()).post("/api/v1/tokens/revoke", json={"user_id": "ada"})
    ).status_code == 204

    assert (await ada.get("/api/v1/notifications")).status_code == 401


async def test_presence_is_told_to_services_and_to_the_person(edge: Edge) -> None:
    await edge.services.presence.touch("school", "ada", "elsewhere", True)

    told = await edge.client(service()).get("/api/v1/presence", params={"user_id": ["ada", "bob"]})
    own = await edge.client(person("bob")).get("/api/v1/presence", params={"user_id": "bob"})
    others = await edge.client(person("bob")).get("/api/v1/presence", params={"user_id": "ada"})

    assert told.json()["users"]["ada"]["online"] is True
    assert told.json()["users"]["bob"]["online"] is False
    assert (own.status_code, others.status_code) == (200, 403)
    listeners = await edge.client(person()).get("/api/v1/channels/room:1/presence")
    assert listeners.json() == {"connections": 0}


async def test_the_state_of_live_delivery_is_public_and_its_figures_are_not(edge: Edge) -> None:
    assert (await edge.client().get("/ws/status")).json() == {"status": "ok"}
    assert (await edge.client(person()).get("/ws/status")).json() == {"status": "ok"}
    told = (await edge.client(admin()).get("/ws/status")).json()
    assert (told["connections"], told["nodes"][0]["node"]) == (0, "here")
    assert (await edge.client("nonsense").get("/ws/status")).status_code == 401


async def test_health_names_what_it_depends_on(edge: Edge) -> None:
    answer = await edge.client().get("/health")

    assert answer.status_code == 200
    assert answer.json()["checks"] == {"database": "ok", "broker": "ok", "epoch": "ok"}
    assert (await edge.client().get("/livez")).json() == {"status": "ok"}


async def test_metrics_are_for_admins_unless_they_are_open(edge: Edge) -> None:
    await edge.submit()

    assert (await edge.client().get("/metrics")).status_code == 401
    assert (await edge.client(person()).get("/metrics")).status_code == 403
    told = await edge.with_settings(open_metrics=True).client().get("/metrics")
    assert 'notifications_delivered_total{channel="in_app",status="stored"} 1.0' in told.text
    assert 'route="/api/v1/notifications"' in told.text


async def test_notifications_under_one_key_wait_for_each_other(edge: Edge) -> None:
    batch = {"key": "build-512", "seconds": 300, "mode": "sliding", "max": 20}
    for _ in range(2):
        await edge.submit(channels=["in_app", "email"], batch=batch)

    assert (await edge.client(person()).get("/api/v1/notifications")).json()["unread_count"] == 2
    [waiting] = await edge.rows("SELECT user_id, channel, key, size, size_limit FROM delivery_batches")
    assert tuple(waiting) == ("ada", "email", "build-512", 2, 20)
    deliveries = await edge.client(admin()).get("/api/v1/deliveries")
    assert {one["state"] for one in deliveries.json()["deliveries"]} == {"deferred"}


async def test_what_waits_for_its_batch_says_when_that_closes_and_goes_at_once_when_it_is_urgent(
    edge: Edge,
) -> None:
    async def shown() -> list[dict[str, Any]]:
        """Of each delivery, the oldest first: as the list, and as its own page has it."""
        answered = (await edge.client(admin()).get("/api/v1/deliveries")).json()["deliveries"]
        for one in answered:
            alone = (await edge.client(admin()).get(f"/api/v1/deliveries/{one['id']}")).json()
            assert alone["next_at"] == one["next_at"]
        return sorted(answered, key=lambda one: str(one["created_at"]))

    async def closes_at() -> datetime:
        [row] = await edge.rows("SELECT closes_at FROM delivery_batches")
        moment: datetime = row["closes_at"]
        return moment

    batch = {"key": "k", "seconds": 300, "mode": "sliding", "max": 3}
    first = await edge.submit(channels=["email"], batch=batch)
    one_waits = await closes_at()
    assert [datetime.fromisoformat(one["next_at"]) for one in await shown()] == [one_waits]
    assert timedelta(0) < one_waits - datetime.now(UTC) <= timedelta(seconds=301)

    await edge.submit(channels=["email"], batch=batch)
    two_wait = await closes_at()
    assert two_wait > one_waits
    assert [datetime.fromisoformat(one["next_at"]) for one in await shown()] == [two_wait] * 2

    changed = await edge.client(service()).patch(
        f"/api/v1/notifications/{first}", json={"priority": "urgent"}
    )
    assert changed.status_code == 200
    hurried, waiting = await shown()
    assert (hurried["state"], hurried["lane"], hurried["reason"]) == ("queued", 0, None)
    assert datetime.fromisoformat(hurried["next_at"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert (waiting["state"], datetime.fromisoformat(waiting["next_at"])) == ("deferred", two_wait)

    await edge.rows(
        "DELETE FROM delivery_batches"
    )  # as when it was closed while somebody had this one in hand
    [row] = await edge.rows("SELECT due_at FROM notification_deliveries WHERE state = 'deferred'")
    assert datetime.fromisoformat((await shown())[1]["next_at"]) == row["due_at"]


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"batch": {"key": "k", "seconds": 9}}, "batch.seconds"),
        ({"batch": {"key": "k", "seconds": 86_401}}, "batch.seconds"),
        ({"batch": {"key": "k", "seconds": 60, "max": 1}}, "batch.max"),
        ({"batch": {"key": "k", "seconds": 60, "mode": "rolling"}}, "batch.mode"),
        ({"batch": {"key": "", "seconds": 60}}, "batch.key"),
        ({"batch": {"seconds": 60}}, "batch.key"),
        ({"batch": {"key": "k", "seconds": 60}, "channels": ["in_app"]}, "batch"),
        ({"batch": {"key": "k", "seconds": 60}, "user_id": None, "topic": "news"}, "batch"),
    ],
)
async def test_a_batch_that_cannot_be_is_named(edge: Edge, changed: dict[str, Any], path: str) -> None:
    body = BODY | {"user_id": "ada", "channels": ["email"]} | changed

    refused = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert refused.status_code == 422, refused.text
    assert path in [fault["path"] for fault in refused.json()["details"]]
    assert await edge.rows("SELECT FROM notifications") == []
