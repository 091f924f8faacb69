"""A person's digest, over HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.api.digest import AIVO_SUBSCRIPTION
from tests.api import OTHER_TENANT, Edge, admin, person, service
from tests.push_browser import Browser

WANTED = "/api/v1/digest/subscription"
PREVIEW = "/api/v1/digest/preview"
NEXT = "/api/v1/digest/next-runs"
PAST = "/api/v1/digest/runs"
NOW = "/api/v1/digest/run"
PENDING = "/api/v1/digest/pending"

EVERY = [
    ("GET", WANTED),
    ("PUT", WANTED),
    ("GET", PREVIEW),
    ("GET", NEXT),
    ("GET", PAST),
    ("POST", NOW),
    ("GET", PENDING),
]


async def want(edge: Edge, caller: str | None = None, **said: Any) -> dict[str, Any]:
    answer = await edge.client(caller or person()).put(WANTED, json=said)
    assert answer.status_code == 200, answer.text
    given: dict[str, Any] = answer.json()
    return given


async def runs(edge: Edge, days: int) -> list[dict[str, Any]]:
    answer = await edge.client(person()).get(PREVIEW, params={"days": days})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["runs"]
    return found


def at(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["at"])


async def test_what_aivo_sends_is_stored_as_it_is_and_the_next_run_follows_at_once(edge: Edge) -> None:
    before = datetime.now(UTC)
    said = await want(edge, **AIVO_SUBSCRIPTION)

    assert {name: said[name] for name in AIVO_SUBSCRIPTION} == AIVO_SUBSCRIPTION
    assert said["delivery_times"] == ["07:00"]
    assert said["channels"] == ["in_app", "email"]
    next_run = said["next_run"]
    there = at(next_run).astimezone(ZoneInfo("America/New_York"))
    assert (there.hour, there.minute) == (7, 0)
    assert timedelta(0) < at(next_run) - before <= timedelta(hours=25)
    assert next_run["local"] == f"{there:%Y-%m-%dT%H:%M}"
    assert (await edge.client(person()).get(WANTED)).json() == said


async def test_who_has_said_nothing_has_the_defaults_switched_off_and_no_runs(edge: Edge) -> None:
    client = edge.client(person())

    said = (await client.get(WANTED)).json()

    assert (said["is_enabled"], said["next_run"], said["frequency"]) == (False, None, "daily")
    assert (await client.get(NEXT)).json() == {"timezone": "UTC", "runs": []}
    assert (await client.get(PREVIEW, params={"days": 400})).json() == {"timezone": "UTC", "runs": []}
    assert (await client.get(PAST)).json() == {"runs": []}
    assert [(await client.request(*one)).status_code for one in (("GET", PREVIEW), ("POST", NOW))] == [
        404,
        404,
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("delivery_time", {"delivery_time": "25:00"}),
        ("delivery_time", {"delivery_time": "7:00pm"}),
        ("delivery_time", {"delivery_time": "7:00"}),
        ("delivery_time", {"delivery_time": "24:00"}),
        ("delivery_time", {"delivery_time": "07:60"}),
        ("delivery_time", {"delivery_time": "07:00\n"}),
        ("delivery_time", {"delivery_time": "٠٧:٠٠"}),
        ("delivery_time", {"delivery_time": 7}),
        ("delivery_times", {"delivery_times": []}),
        ("delivery_times", {"delivery_times": ["07:00", "07:00"]}),
        ("delivery_times.1", {"delivery_times": ["07:00", "25:00"]}),
        ("delivery_times", {"delivery_times": [f"{n // 60:02}:{n % 60:02}" for n in range(25)]}),
        ("timezone", {"timezone": "Mars/Phobos"}),
        ("timezone", {"timezone": ""}),
        ("timezone", {"timezone": "../../etc/passwd"}),
        ("timezone", {"timezone": "Europe"}),
        ("timezone", {"timezone": "Europe/Berlin\u0000"}),
        ("timezone", {"timezone": None}),
        ("frequency", {"frequency": "fortnightly"}),
        ("weekly_day", {"frequency": "weekly", "weekly_day": 7}),
        ("weekly_day", {"frequency": "daily", "weekly_day": 1}),
        ("weekly_day", {"frequency": "weekly", "weekly_day": 6, "exclude_weekends": True}),
        ("include_types", {"include_types": []}),
        ("include_types", {"include_types": [f"type_{n}" for n in range(51)]}),
        ("exclude_types.0", {"exclude_types": ["No, this is none"]}),
        ("timezone", {"timezone": "Factory"}),
        ("timezone", {"timezone": "localtime"}),
        ("include_types", {"include_types": ["iep_update", "digest"]}),
        ("exclude_types", {"include_types": ["a", "b"], "exclude_types": ["c", "b"]}),
        ("delivery_times", {"frequency": "hourly", "delivery_times": ["07:00", "08:30"]}),
        ("min_priority", {"min_priority": "critical"}),
        ("channels", {"channels": []}),
        ("channels.0", {"channels": ["pigeon"]}),
        ("exclude_weekends", {"exclude_weekends": "perhaps"}),
        ("is_on", {"is_on": True}),
    ],
)
async def test_what_cannot_be_is_refused_by_the_name_of_its_member(
    edge: Edge, path: str, said: dict[str, Any]
) -> None:
    refused = await edge.client(person()).put(WANTED, json=said)

    assert refused.status_code == 422, refused.text
    assert path in {one["path"] for one in refused.json()["details"]}
    assert (await edge.client(person()).get(WANTED)).json()["is_enabled"] is False, "nothing was stored"


async def test_one_time_and_several_at_once_are_refused(edge: Edge) -> None:
    said = {"delivery_time": "07:00", "delivery_times": ["08:00"]}

    refused = await edge.client(person()).put(WANTED, json=said)

    assert (refused.status_code, refused.json()["details"][0]["path"]) == (422, "delivery_times")


@pytest.mark.parametrize("alias", ["EST5EDT", "US/Eastern", "GB", "Asia/Calcutta", "Etc/GMT-14", "UTC"])
async def test_an_alias_of_a_zone_is_stored_as_the_person_chose_it(edge: Edge, alias: str) -> None:
    said = await want(edge, timezone=alias, delivery_time="00:00")

    assert said["timezone"] == alias
    assert at(said["next_run"]).astimezone(ZoneInfo(alias)).hour == 0


async def test_off_has_no_next_run_and_on_again_has_one(edge: Edge) -> None:
    assert (await want(edge))["next_run"] is not None
    assert (await want(edge, is_enabled=False))["next_run"] is None
    assert (await want(edge, frequency="off"))["next_run"] is None
    assert (await want(edge))["next_run"] is not None


async def test_the_days_on_which_clocks_change_are_marked_and_have_one_run_each(edge: Edge) -> None:
    await want(edge, timezone="Europe/Berlin", delivery_time="02:30")

    found = await runs(edge, 400)

    dates = [date.fromisoformat(one["date"]) for one in found]
    assert len(found) in (400, 401)
    assert all(later - one == timedelta(days=1) for one, later in pairwise(dates))
    marked = {one["date"]: one for one in found if one["is_clock_change"]}
    assert 2 <= len(marked) <= 3
    for one in marked.values():
        month = date.fromisoformat(one["date"]).month
        assert (month, one["local"][-5:], one["utc_offset"]) in {
            (3, "03:00", "+02:00"),
            (10, "02:30", "+02:00"),
        }
    lengths = {later - one for one, later in pairwise([at(one) for one in found])}
    assert lengths >= {timedelta(hours=24), timedelta(hours=25)}, "a day is not 24 hours"


async def test_a_zone_whose_clocks_never_change_has_no_such_day(edge: Edge) -> None:
    await want(edge, timezone="Asia/Kathmandu", delivery_time="07:15")

    found = await runs(edge, 400)

    assert not any(one["is_clock_change"] for one in found)
    assert {one["utc_offset"] for one in found} == {"+05:45"}


@pytest.mark.parametrize("days", ["0", "401", "-1", "ten", ""])
async def test_only_so_many_days_can_be_looked_at(edge: Edge, days: str) -> None:
    refused = await edge.client(person()).get(PREVIEW, params={"days": days})

    assert refused.status_code == 422
    assert refused.json()["details"][0]["path"] == "days"


async def test_the_next_ten_begin_with_the_next_and_keep_to_the_days_that_are_wanted(edge: Edge) -> None:
    said = await want(
        edge, frequency="weekdays", delivery_times=["19:30", "07:00"], timezone="America/New_York"
    )

    answered = (await edge.client(person()).get(NEXT)).json()

    assert answered["timezone"] == "America/New_York"
    assert len(answered["runs"]) == 10
    assert answered["runs"][0] == said["next_run"]
    assert {date.fromisoformat(one["date"]).weekday() for one in answered["runs"]} == set(range(5))
    assert {(one["slot"], one["local"][-5:]) for one in answered["runs"]} == {(0, "07:00"), (1, "19:30")}


async def test_an_hourly_digest_comes_while_people_are_awake(edge: Edge) -> None:
    await want(edge, frequency="hourly", delivery_time="00:15", timezone="Asia/Kolkata")

    found = await runs(edge, 3)

    assert {one["local"][-5:] for one in found} == {f"{hour:02}:15" for hour in range(8, 21)}


async def test_a_preview_says_what_the_digest_would_and_moves_nothing(edge: Edge) -> None:
    await want(edge, **{**AIVO_SUBSCRIPTION, "include_types": ["iep_update"]})
    await edge.submit("ada", title="Sign", notification_type="iep_update", priority="urgent")
    await edge.submit("ada", title="Other", notification_type="other", priority="urgent")
    await edge.submit("ada", title="Low", notification_type="iep_update", priority="low")
    client = edge.client(person())

    first, second = [(await client.get(PREVIEW)).json() for _ in range(2)]

    assert (first["total"], first["unread"]) == (1, 1)
    assert first["digest"]["summary"]["priority_breakdown"] == {"urgent": 1, "high": 0, "normal": 0, "low": 0}
    assert [one["title"] for one in first["digest"]["top_notifications"]] == ["Sign"]
    assert first["digest"]["timezone"] == "America/New_York"
    assert second["digest"]["window"] == first["digest"]["window"]
    assert await edge.rows("SELECT FROM digest_runs") == []


async def test_what_waits_for_the_next_digest_is_listed_after_its_filters_the_newest_first(
    edge: Edge,
) -> None:
    await want(edge, exclude_types=["noise"])
    for title in ("First", "Second", "Third"):
        await edge.submit("ada", title=title)
    await edge.submit("ada", title="Noise", notification_type="noise")
    client = edge.client(person())

    every = (await client.get(PENDING)).json()
    two = (await client.get(PENDING, params={"limit": 2})).json()
    refused = await client.get(PENDING, params={"limit": 0})

    assert every["total"] == 3
    assert [one["title"] for one in every["items"]] == ["Third", "Second", "First"]
    assert every["items"][0].keys() == {"id", "title", "notification_type", "priority", "created_at", "read"}
    assert (two["total"], [one["title"] for one in two["items"]]) == (3, ["Third", "Second"])
    assert refused.status_code == 422
    assert await edge.rows("SELECT FROM digest_runs") == []


async def test_one_is_sent_now_and_stands_in_the_inbox_as_a_digest(edge: Edge) -> None:
    client = edge.client(person())
    await want(edge)
    nothing = await client.post(NOW)
    await edge.submit("ada", title="One")

    sent = await client.post(NOW)
    await a_minute_passes(edge)
    again = await client.post(NOW)

    assert (nothing.status_code, nothing.json()["error"]) == (409, "conflict")
    assert (sent.status_code, again.status_code) == (201, 201)
    assert sent.json()["notification_type"] == "digest"
    assert sent.json()["metadata"]["digest"]["summary"]["total_notifications"] == 1
    assert again.json()["metadata"]["digest"]["summary"]["total_notifications"] == 1, (
        "a digest is in no digest"
    )
    listed = (await client.get("/api/v1/notifications", params={"type": "digest"})).json()
    assert {one["id"] for one in listed["notifications"]} == {sent.json()["id"], again.json()["id"]}


async def a_minute_passes(edge: Edge) -> None:
    await edge.rows(
        "UPDATE digest_subscriptions SET asked_at = (SELECT coalesce(array_agg(at - interval '1 minute' ORDER BY at), '{}')"
        " FROM unnest(asked_at) AS at)"
    )


async def test_one_is_sent_now_once_a_minute_and_so_many_times_a_day_whoever_asks(edge: Edge) -> None:
    await want(edge)
    await edge.client(person()).post(NOW)  # nothing has come in: that does not count
    await edge.submit("ada", title="One")
    whose = {"user_id": "ada"}
    first = await edge.client(person()).post(NOW)
    soon = await edge.client(service()).post(NOW, params=whose)
    answers = []
    for _ in range(10):
        await a_minute_passes(edge)
        answers.append(await edge.client(service()).post(NOW, params=whose))
    together = await asyncio.gather(*(edge.client(person()).post(NOW) for _ in range(3)))
    await edge.rows("UPDATE digest_subscriptions SET asked_at[1] = asked_at[1] - interval '1 day'")
    tomorrow = await asyncio.gather(*(edge.client(person()).post(NOW) for _ in range(3)))

    assert (first.status_code, soon.status_code, soon.json()["error"]) == (201, 429, "rate_limited")
    assert 0 < int(soon.headers["Retry-After"]) <= 60
    assert [one.status_code for one in answers] == [*[201] * 9, 429]
    assert 23 * 3600 < int(answers[-1].headers["Retry-After"]) <= 24 * 3600
    assert [one.status_code for one in together] == [429] * 3
    assert sorted(one.status_code for one in tomorrow) == [201, 429, 429], "not two of those at the same time"
    [row] = await edge.rows("SELECT cardinality(asked_at) AS remembered FROM digest_subscriptions")
    assert row["remembered"] == 10, "those of a day"


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
@pytest.mark.parametrize("said", [{"frequency": "weekly"}, {"is_enabled": False}, {}])
async def test_one_that_is_sent_now_is_that_of_today_and_says_when_the_next_one_comes(
    edge: Edge, zone: str, said: dict[str, Any]
) -> None:
    if said.get("frequency"):
        said = {**said, "weekly_day": (datetime.now(ZoneInfo(zone)).weekday() + 3) % 7}
    wanted = await want(edge, timezone=zone, **said)
    await edge.submit("ada", title="One")

    before = datetime.now(ZoneInfo(zone)).date()
    sent = await edge.client(person()).post(NOW)

    document = sent.json()["metadata"]["digest"]
    assert before.isoformat() <= document["date"] <= datetime.now(ZoneInfo(zone)).date().isoformat()
    assert document["next_run_at"] == (wanted["next_run"] and wanted["next_run"]["at"])


async def test_a_preview_of_who_has_switched_it_off_is_of_today(edge: Edge) -> None:
    await want(edge, timezone="Pacific/Kiritimati", is_enabled=False)

    before = datetime.now(ZoneInfo("Pacific/Kiritimati")).date()
    shown = (await edge.client(person()).get(PREVIEW)).json()["digest"]["date"]

    assert before.isoformat() <= shown <= datetime.now(ZoneInfo("Pacific/Kiritimati")).date().isoformat()


async def test_a_run_that_was_due_is_told_of(edge: Edge) -> None:
    await want(edge, timezone="Asia/Tokyo")
    await edge.submit("ada", title="One")
    await edge.rows("UPDATE digest_subscriptions SET next_run_at = now()")
    assert await edge.services.digest_job.run_due() == 1

    [one] = (await edge.client(person()).get(PAST)).json()["runs"]

    assert (one["state"], one["total"], one["unread"], one["timezone"]) == ("sent", 1, 1, "Asia/Tokyo")
    assert one["notification_id"]


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_it_is_a_persons_own_or_a_services_business(edge: Edge, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {}} if method == "PUT" else {}
    whose = {"user_id": "ada"}
    await want(edge)
    await edge.submit("ada")

    foreign = await edge.client(person("bob")).request(method, path, params=whose, **body)
    own = await edge.client(person()).request(method, path, params=whose, **body)
    await a_minute_passes(edge)
    served = await edge.client(service()).request(method, path, params=whose, **body)
    nobody = await edge.client().request(method, path, params=whose, **body)

    assert (foreign.status_code, nobody.status_code) == (403, 401)
    assert own.status_code in (200, 201)
    assert served.status_code in (200, 201)


async def test_another_tenants_person_of_the_same_name_is_another(edge: Edge) -> None:
    await want(edge, timezone="Asia/Tokyo")
    await edge.submit("ada", title="Secret")
    for stranger in (person("ada", OTHER_TENANT), admin(OTHER_TENANT)):
        client, whose = edge.client(stranger), {"user_id": "ada"}

        assert (await client.get(WANTED, params=whose)).json()["is_enabled"] is False
        assert (await client.get(PREVIEW, params=whose)).status_code == 404
        assert (await client.get(NEXT, params=whose)).json()["runs"] == []
        assert (await client.post(NOW, params=whose)).status_code == 404
    await want(edge, person("ada", OTHER_TENANT), timezone="Europe/Paris")

    assert (await edge.client(person()).get(WANTED)).json()["timezone"] == "Asia/Tokyo"
    assert (await edge.client(person("ada", OTHER_TENANT)).get(PREVIEW)).json()["total"] == 0


@pytest.mark.parametrize(
    ("asked", "left"), [({}, 1), ({"move_window": "false"}, 1), ({"move_window": "true"}, 0)]
)
async def test_one_that_is_sent_now_takes_nothing_from_the_next_unless_it_is_asked_to(
    edge: Edge, asked: dict[str, str], left: int
) -> None:
    await want(edge)
    await edge.submit("ada", title="Please sign")

    sent = await edge.client(person()).post(NOW, params=asked)

    assert sent.status_code == 201, sent.text
    assert (await edge.client(person()).get(PENDING)).json()["total"] == left


@pytest.mark.parametrize("asked", ["yes", "1", "True", ""])
async def test_whether_the_window_moves_is_said_in_one_way(edge: Edge, asked: str) -> None:
    refused = await edge.client(person()).post(NOW, params={"move_window": asked})

    assert refused.status_code == 422
    assert refused.json()["details"][0]["path"] == "move_window"


async def test_whoever_changes_a_digest_or_the_days_off_is_in_the_audit_log(edge: Edge) -> None:
    await want(edge, timezone="Asia/Tokyo", include_types=["diagnosis"])
    ada = {"user_id": "ada"}
    for caller, hour in ((admin(), "06:00"), (service(), "05:00")):
        said = {"timezone": "Asia/Tokyo", "include_types": ["diagnosis"], "delivery_time": hour}
        assert (await edge.client(caller).put(WANTED, params=ada, json=said)).status_code == 200
    days_off = {"weekend_days": [4, 5], "holidays": ["2027-03-01"], "holiday_calendar": "RW"}
    for _ in range(2):
        await edge.client(admin()).put("/api/v1/tenant/settings", json=days_off)
    refused = await edge.client(person()).put(WANTED, json={"timezone": "Mars/Phobos"})
    assert refused.status_code == 422

    rows = await edge.rows("SELECT actor, action, subject, details FROM audit_log ORDER BY seq")
    assert [tuple(row)[:3] for row in rows] == [
        ("person:ada", "digest.changed", "recipient:ada"),
        ("jwt::root", "digest.changed", "recipient:ada"),
        ("jwt::iep-svc", "digest.changed", "recipient:ada"),
        ("jwt::root", "tenant.settings_changed", "tenant:school"),
    ]
    details = [json.loads(row["details"]) for row in rows]
    changed = [one.get("changed") for one in details]
    assert changed == [
        ["is_enabled", "timezone", "include_types"],
        ["delivery_times"],
        ["delivery_times"],
        None,
    ]
    assert details[-1].items() >= days_off.items()
    assert not any("diagnosis" in row["details"] for row in rows)


async def test_the_weekend_is_the_tenants(edge: Edge) -> None:
    await edge.client(admin()).put("/api/v1/tenant/settings", json={"weekend_days": [4, 5]})

    await want(edge, exclude_weekends=True, timezone="Asia/Dubai")

    days = {date.fromisoformat(run["date"]).weekday() for run in await runs(edge, 30)}
    assert days == {6, 0, 1, 2, 3}


async def test_the_holidays_of_a_tenant_and_of_its_country_are_weekend(edge: Edge) -> None:
    today = datetime.now(UTC).date()
    own = [(today + timedelta(days=n)).isoformat() for n in (3, 4)]
    said = {"weekend_days": [], "holidays": own, "holiday_calendar": "RW"}
    answer = await edge.client(admin()).put("/api/v1/tenant/settings", json=said)
    assert answer.status_code == 200, answer.text

    await want(edge, exclude_weekends=True, timezone="Africa/Kigali")
    left_out = {run["date"] for run in await runs(edge, 400)}
    await want(edge, timezone="Africa/Kigali")
    every = {run["date"] for run in await runs(edge, 400)}

    missing = every - left_out
    assert missing >= set(own)
    assert {day[5:] for day in missing} >= {"01-01", "04-07", "07-01", "07-04", "12-25"}
    assert len(missing) < 30


async def test_a_day_off_is_told_of_in_the_history(edge: Edge) -> None:
    await edge.client(admin()).put("/api/v1/tenant/settings", json={"weekend_days": [0, 1, 2, 3, 4, 5]})
    said = await want(edge, exclude_weekends=True, timezone="UTC")
    assert date.fromisoformat(said["next_run"]["date"]).weekday() == 6
    await edge.rows("UPDATE digest_subscriptions SET next_run_at = now(), next_date = '2026-11-24'")

    assert await edge.services.digest_job.run_due() == 1

    [one] = (await edge.client(person()).get(PAST)).json()["runs"]
    assert (one["state"], one["date"], one["notification_id"]) == ("skipped_weekend", "2026-11-24", None)


ZONES = (
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Apia",
    "America/Havana",
    "Pacific/Chatham",
)


@pytest.mark.parametrize("wall", ["00:00", "02:30", "07:00"])
@pytest.mark.parametrize("name", ZONES)
async def test_four_hundred_days_are_those_that_the_clocks_show(edge: Edge, name: str, wall: str) -> None:
    """Beside a walk from minute to minute, which only asks what a clock shows."""
    zone, wanted = ZoneInfo(name), time.fromisoformat(wall)
    await want(edge, timezone=name, delivery_time=wall)

    found = await runs(edge, 400)

    moment, end = at(found[0]) - timedelta(days=2), at(found[-1]) + timedelta(days=2)
    due: dict[date, datetime] = {}
    offsets: dict[date, set[timedelta | None]] = {}
    before = moment.astimezone(zone).utcoffset()
    while moment < end:
        local = moment.astimezone(zone)
        if local.time() >= wanted:
            due.setdefault(local.date(), moment)
        offsets.setdefault(local.date(), {before}).add(local.utcoffset())
        before = local.utcoffset()
        moment += timedelta(minutes=15)
    told = {date.fromisoformat(one["date"]): one for one in found}
    assert len(told) == len(found) >= 399
    assert {day: at(one) for day, one in told.items()} == {day: due[day] for day in told}
    assert sorted(told) == [day for day in sorted(due) if min(told) <= day <= max(told)], "none is left out"
    marked = {day for day, one in told.items() if one["is_clock_change"]}
    assert marked == {day for day in told if len(offsets[day]) > 1}
    assert all(one["local"][:10] == one["date"] for one in found)


async def abroad(edge: Edge, zone: str, caller: str | None = None) -> Any:
    """What is proposed to somebody whose device shows a zone."""
    answer = await edge.client(caller or person()).get(WANTED, params={"device_timezone": zone})
    assert answer.status_code == 200, answer.text
    return answer.json()["proposed_timezone"]


async def pass_time(edge: Edge, hours: float) -> None:
    await edge.rows(
        "UPDATE digest_subscriptions SET device_timezone_since = device_timezone_since - make_interval(secs => $1)",
        hours * 3600,
    )


async def test_a_zone_is_proposed_when_a_device_shows_it_for_a_day_and_accepted_by_a_put(edge: Edge) -> None:
    await want(edge, timezone="Europe/Berlin", min_priority="high")

    assert await abroad(edge, "Asia/Tokyo") is None
    await pass_time(edge, 23.9)
    assert await abroad(edge, "Asia/Tokyo") is None
    await pass_time(edge, 0.2)
    assert await abroad(edge, "Asia/Tokyo") == "Asia/Tokyo"
    assert (await edge.client(person()).get(WANTED)).json()["proposed_timezone"] == "Asia/Tokyo", (
        "whoever asks"
    )
    assert (await want(edge, timezone="Europe/Berlin"))["proposed_timezone"] == "Asia/Tokyo", (
        "not accepted yet"
    )

    accepted = await want(edge, timezone="Asia/Tokyo")

    assert (accepted["timezone"], accepted["proposed_timezone"]) == ("Asia/Tokyo", None)
    assert await abroad(edge, "Asia/Tokyo") is None


async def test_who_travels_on_or_comes_home_is_proposed_nothing(edge: Edge) -> None:
    await want(edge, timezone="Europe/Berlin")
    await abroad(edge, "Asia/Tokyo")
    await pass_time(edge, 20)
    await abroad(edge, "Asia/Seoul")
    await pass_time(edge, 20)
    assert await abroad(edge, "Asia/Seoul") is None, "in each for less than a day"
    await pass_time(edge, 20)
    assert await abroad(edge, "Asia/Seoul") == "Asia/Seoul"

    assert await abroad(edge, "Europe/Vienna") is None, "the same time by another name is home"
    assert [
        tuple(row)
        for row in await edge.rows("SELECT device_timezone, device_timezone_since FROM digest_subscriptions")
    ] == [(None, None)]


@pytest.mark.parametrize("zone", ["Mars/Phobos", "", "../etc/passwd", "Europe"])
async def test_a_zone_that_no_device_shows_is_refused_by_its_name(edge: Edge, zone: str) -> None:
    await want(edge, timezone="Europe/Berlin")

    refused = await edge.client(person()).get(WANTED, params={"device_timezone": zone})

    assert refused.status_code == 422, refused.text
    assert refused.json()["details"][0]["path"] == "device_timezone"


async def test_of_somebody_without_a_subscription_no_zone_is_kept(edge: Edge) -> None:
    assert await abroad(edge, "Asia/Tokyo") is None
    assert await edge.rows("SELECT FROM digest_subscriptions") == []


async def test_accepting_on_the_day_of_a_digest_brings_no_second_one_that_day(edge: Edge) -> None:
    await want(edge, timezone="Pacific/Kiritimati", delivery_time="07:00")
    await edge.submit("ada")
    await edge.rows("UPDATE digest_subscriptions SET next_run_at = now()")
    assert await edge.services.digest_job.run_due() == 1
    [sent] = (await edge.client(person()).get(PAST)).json()["runs"]

    moved = await want(edge, timezone="Etc/GMT+12", delivery_time="07:00")

    assert date.fromisoformat(moved["next_run"]["date"]) > date.fromisoformat(sent["date"])
    assert at(moved["next_run"]) - datetime.fromisoformat(sent["due_at"]) >= timedelta(hours=12)


async def test_who_is_forgotten_has_neither_a_digest_nor_a_browser_any_more(edge: Edge) -> None:
    await edge.client(service()).put("/api/v1/recipients/ada", json={"name": "Ada"})
    endpoint = "https://fcm.googleapis.com/fcm/send/ada"
    keys: Any = Browser().subscription(endpoint)["keys"]
    offer = {"endpoint": endpoint, "p256dh_key": keys["p256dh"], "auth_key": keys["auth"]}
    subscribed = await edge.client(person()).post("/api/v1/push/subscribe", json=offer)
    assert subscribed.status_code == 201, subscribed.text
    await want(edge)
    await want(edge, caller=person("bob"))

    assert (await edge.client(service()).delete("/api/v1/recipients/ada")).status_code == 204

    assert [row["user_id"] for row in await edge.rows("SELECT user_id FROM digest_subscriptions")] == ["bob"]
    assert not await edge.rows("SELECT FROM push_subscriptions")
