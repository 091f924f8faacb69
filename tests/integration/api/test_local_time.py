"""Notifications that are to come at one time of the clock, wherever each person is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api import Edge, admin, service

BODY: dict[str, Any] = {"title": "Good morning", "message": "The day begins."}
DAY = (datetime.now(UTC) + timedelta(days=30)).date()
NINE = f"{DAY}T09:00"


async def live_in(edge: Edge, **zones: str) -> None:
    for user_id, zone in zones.items():
        put = await edge.client(admin()).put(f"/api/v1/recipients/{user_id}", json={"timezone": zone})
        assert put.status_code in (200, 201), put.text


async def test_each_person_gets_it_when_their_clock_shows_it(edge: Edge) -> None:
    await live_in(edge, ada="Asia/Tokyo", bob="Africa/Kigali", eve="Africa/Maputo")
    body = BODY | {"recipients": ["ada", "bob", "eve", "nobody-knows-me"], "scheduled_local": NINE}

    made = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert made.status_code == 201
    named = {one["user_id"]: one["id"] for one in made.json()["notifications"]}
    assert list(named) == ["ada", "bob", "eve", "nobody-knows-me"]
    rows = await edge.rows("SELECT id::text AS id, status, scheduled_for FROM notifications")
    due = {row["id"]: row["scheduled_for"] for row in rows}
    assert {row["status"] for row in rows} == {"scheduled"}
    assert due[named["ada"]].isoformat() == f"{DAY}T00:00:00+00:00"
    assert due[named["bob"]].isoformat() == f"{DAY}T07:00:00+00:00"
    assert named["bob"] == named["eve"], "their clocks show the same"
    assert due[named["nobody-knows-me"]].isoformat() == f"{DAY}T09:00:00+00:00"


async def test_what_a_recipient_is_introduced_with_counts_already(edge: Edge) -> None:
    body = BODY | {"recipients": [{"user_id": "ada", "timezone": "Asia/Tokyo"}], "scheduled_local": NINE}

    made = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert made.json()["title"] == "Good morning"
    [row] = await edge.rows("SELECT scheduled_for FROM notifications")
    assert row["scheduled_for"].isoformat() == f"{DAY}T00:00:00+00:00"


async def test_the_same_key_is_answered_as_before_though_somebody_has_moved(edge: Edge) -> None:
    await live_in(edge, ada="Asia/Tokyo", bob="Africa/Kigali")
    body = BODY | {"recipients": ["ada", "bob"], "scheduled_local": NINE}
    client, headers = edge.client(service()), {"Idempotency-Key": "morning"}
    first = await client.post("/api/v1/notifications", json=body, headers=headers)
    await live_in(edge, ada="Europe/Berlin")

    again = await client.post("/api/v1/notifications", json=body, headers=headers)

    assert again.content == first.content
    assert await edge.rows("SELECT count(*) FROM notifications") == [(2,)]


async def test_for_everybody_it_goes_where_everybody_has_a_moment_of_their_own(edge: Edge) -> None:
    body = BODY | {"broadcast_to_tenant": True, "scheduled_local": NINE, "channels": ["email"]}
    client = edge.client(service())

    made = (await client.post("/api/v1/notifications", json=body)).json()

    found = (await client.get(f"/api/v1/notifications/{made['id']}")).json()
    assert (found["status"], found["scheduled_local"]) == ("scheduled", f"{DAY}T09:00:00")
    assert found["scheduled_for"] == f"{DAY - timedelta(days=1)}T19:00:00Z"
    early = {"expires_at": f"{DAY}T09:30:00Z"}
    refused = await client.patch(f"/api/v1/notifications/{made['id']}", json=early)
    assert refused.status_code == 422, "some clocks show it later"
    moved = f"{DAY}T08:00:00Z"
    changed = await client.patch(f"/api/v1/notifications/{made['id']}", json={"scheduled_for": moved})
    assert changed.json()["scheduled_local"] is None, "it is for one moment now"
    [row] = await edge.rows("SELECT local_time FROM notifications")
    assert row["local_time"] is None


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"scheduled_local": "9:00"}, "scheduled_local"),
        ({"scheduled_local": "2027-02-30T09:00"}, "scheduled_local"),
        ({"scheduled_local": f"{DAY}T25:00"}, "scheduled_local"),
        ({"scheduled_local": f"{DAY}T09:00Z"}, "scheduled_local"),
        ({"scheduled_local": "0001-01-01T00:00"}, "scheduled_local"),
        ({"scheduled_local": "9999-12-31T23:59"}, "scheduled_local"),
        ({"scheduled_local": "2020-01-01T09:00"}, "scheduled_local"),
        ({"scheduled_local": "2099-01-01T09:00"}, "scheduled_local"),
        ({"scheduled_for": f"{DAY}T09:00:00Z"}, "scheduled_local"),
        ({"expires_at": f"{DAY}T20:00:00Z"}, "expires_at"),
        ({"channels": ["email", "in_app"], "broadcast_to_tenant": True}, "channels"),
        ({"topic": "news"}, "channels"),
    ],
)
async def test_what_cannot_be_meant_is_named(edge: Edge, changed: dict[str, Any], path: str) -> None:
    body = BODY | {"scheduled_local": NINE} | changed
    if not {"topic", "broadcast_to_tenant"} & set(changed):
        body["user_id"] = "ada"

    refused = await edge.client(service()).post("/api/v1/notifications", json=body)

    assert refused.status_code == 422, refused.text
    assert path in [fault["path"] for fault in refused.json()["details"]]
    assert await edge.rows("SELECT FROM notifications") == []
