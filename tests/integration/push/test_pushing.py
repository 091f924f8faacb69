"""From a subscription to the push in the browser's hands, through the outbox, past a strict push service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
import structlog

from app.api.services import ApiSettings
from app.api.throttle import Throttle
from core.clock import Clock
from core.errors import ServiceError
from delivery.conclusion import RetrySettings
from push.keys import PushSettings, VapidKey
from push.outcome import PushResult
from push.payload import words
from push.sender import PushSender
from push.store import MAX_ENDED, SQL, Subscriptions
from push.subscription import Subscription
from tests.api import TENANT, Edge, admin, person, serving
from tests.providers.push_service import Device, PushService, Say, Silence
from tests.workers import Seen, a_worker, channel

SUBSCRIBE = "/api/v1/push/subscribe"


class Impatient:
    """asyncio, but that who waits for pushes gives up as soon as the push service has each of them and says nothing."""

    def __init__(self, service: PushService) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def wait(self, pushes: Sequence[asyncio.Task[Any]], timeout: float) -> None:
        before = self._silent()
        while any(not one.done() for one in pushes):
            if len(self._silent() - before) == sum(not one.done() for one in pushes):
                return
            await asyncio.sleep(0.001)

    def _silent(self) -> set[Any]:
        """Connections on which it will not answer any more."""
        return {session for session in self._service._open if session._is_deaf}


@dataclass
class Town:
    """An edge, a worker's channel, and one push service."""

    edge: Edge
    service: PushService
    patching: pytest.MonkeyPatch

    def has_no_patience_with_silence(self) -> None:
        """In place of seconds."""
        self.patching.setattr("delivery.channels.push.asyncio", Impatient(self.service))

    @property
    def key(self) -> VapidKey:
        return self.edge.services.delivery.push.keys.current

    async def subscribe(self, user_id: str = "ada", device: Device | None = None, **more: Any) -> Browser:
        """A browser of that person."""
        device = device or self.service.subscribe(self.key)
        answer = await self.edge.client(person(user_id)).post(SUBSCRIBE, json=self.body(device, **more))
        assert answer.status_code == 201, answer.text
        return Browser(device, answer.json())

    def body(self, device: Device, **more: Any) -> dict[str, Any]:
        return {
            "endpoint": self.service.endpoint(device),
            "p256dh_key": encoded(device.browser.p256dh),
            "auth_key": encoded(device.browser.auth),
            **more,
        }

    async def work(self, provider: Any = None, **settings: Any) -> Seen:
        """Attempt what is due. provider: in place of push's."""
        seen = Seen()
        provider = provider or self.edge.services.delivery.push.provider
        made = a_worker(self.edge.database, {"push": channel("push", provider)}, observer=seen, **settings)
        await made.run_once()
        assert seen.errors == []
        return seen

    async def push(self, user_id: str = "ada", **members: Any) -> str:
        """Send something, and attempt it; the notification's id."""
        notification_id = await self.edge.submit(user_id, channels=["in_app", "push"], **members)
        await self.work()
        return notification_id

    async def delivery(self) -> Any:
        """The one there is."""
        [row] = await self.edge.rows("SELECT * FROM notification_deliveries")
        return row

    async def waits(self) -> float:
        """Seconds until the one delivery there is comes up again."""
        [row] = await self.edge.rows(
            "SELECT extract(epoch FROM due_at - now())::float AS wait FROM notification_deliveries"
        )
        return float(row["wait"])

    async def due_now(self) -> None:
        await self.edge.rows("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")

    async def rows(self) -> list[Any]:
        return await self.edge.rows("SELECT * FROM push_subscriptions ORDER BY id")

    async def report(self, said: Mapping[str, Any], event: str = "shown") -> httpx.Response:
        body = {"token": said["data"]["receipt"], "event": event}
        return await self.edge.client().post("/api/v1/push/receipts", json=body)

    async def fetch(self, said: Mapping[str, Any]) -> httpx.Response:
        return await self.edge.client().get("/api/v1/push/fetch", params=query_of(said["fetch"]))


@dataclass
class Browser:
    """A subscribed browser and what it was answered."""

    device: Device
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.answer["id"])

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it was pushed, opened."""
        return [json.loads(one.text) for one in self.device.pushes]

    @property
    def said(self) -> dict[str, Any]:
        """The one thing it was pushed."""
        [said] = self.told
        return said


def encoded(data: bytes) -> str:
    """As a page with `btoa` has it: base64 with padding."""
    from base64 import b64encode

    return b64encode(data).decode()


def query_of(fetch: Mapping[str, Any]) -> dict[str, str]:
    return {"id": fetch["id"], "token": fetch["token"]}


@pytest.fixture
async def town(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    async with PushService(tmp_path) as service:
        settings = PushSettings(
            vapid_email="ops@example.org", ca_file=service.ca_file, resolve=service.resolve
        )
        async with serving(database, push=settings) as edge:
            yield Town(edge, service, monkeypatch)
        assert not service.refusals, "the sender keeps to the RFCs"


async def test_a_notification_reaches_a_subscribed_browser(town: Town) -> None:
    browser = await town.subscribe()

    notification_id = await town.push(
        title="IEP Document Updated", message="Please review the changes.", action_url="/iep/12345/review"
    )

    said = browser.said
    assert (said["title"], said["body"], said["message"]) == (
        "IEP Document Updated",
        "Please review the changes.",
        "Please review the changes.",
    )
    assert said["data"]["action_url"] == "/iep/12345/review"
    assert said["data"]["notification_id"] == notification_id
    assert said["web_push"] == 8030
    assert said["notification"]["navigate"] == "/iep/12345/review"
    assert (await town.delivery())["state"] == "sent"


# --- Subscribing -----------------------------------------------------------------------------------------------------


async def test_a_page_says_the_same_at_each_start_and_stays_the_same_subscription(town: Town) -> None:
    first = await town.subscribe(
        user_agent="A browser", device_info={"platform": "web", "browser": "Firefox"}
    )

    again = await town.subscribe(device=first.device)

    assert again.id == first.id
    listed = (await town.edge.client(person()).get("/api/v1/push/subscriptions")).json()["subscriptions"]
    assert [one["id"] for one in listed] == [first.id]
    assert listed[0]["push_service"] == "mozilla"
    assert listed[0]["user_agent"] == "A browser"
    assert listed[0]["is_current_key"] is True
    assert town.service.endpoint(first.device) not in json.dumps(listed)


async def test_keys_come_as_base64_and_as_base64url(town: Town) -> None:
    device = town.service.subscribe(town.key)
    body = town.body(device)
    url = {
        name: text.replace("+", "-").replace("/", "_").rstrip("=") if name.endswith("_key") else text
        for name, text in body.items()
    }

    one = await town.edge.client(person()).post(SUBSCRIBE, json=body)
    other = await town.edge.client(person()).post(SUBSCRIBE, json=url)

    assert (one.status_code, other.status_code) == (201, 201)
    assert one.json()["id"] == other.json()["id"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("p256dh_key", encoded(b"\x02" + bytes(32))),
        ("p256dh_key", encoded(b"\x04" + bytes(64))),
        ("p256dh_key", "not base64!"),
        ("auth_key", encoded(bytes(15))),
        ("endpoint", "http://updates.push.services.mozilla.com/wpush/v2/x"),
        ("endpoint", "https://updates.push.services.mozilla.com:8443/x"),
        ("endpoint", "https://me@updates.push.services.mozilla.com/x"),
        ("endpoint", "https://push.example.org/x"),
        ("endpoint", "https://127.0.0.1/x"),
        ("endpoint", "https://[::ffff:10.0.0.1]/x"),
        ("endpoint", "https://updates.push.services.mozilla.com/" + "x" * 2048),
        ("vapid_key_id", "unknown"),
    ],
)
async def test_what_nothing_can_be_sent_to_is_refused_by_its_name(
    town: Town, member: str, value: str
) -> None:
    body = town.body(town.service.subscribe(town.key)) | {member: value}

    answer = await town.edge.client(person()).post(SUBSCRIBE, json=body)

    assert answer.status_code == 422
    assert [fault["path"] for fault in answer.json()["details"]] == [member]
    assert await town.rows() == []


async def test_the_next_person_at_a_browser_takes_it_over(town: Town) -> None:
    before = await town.subscribe("ada")

    after = await town.subscribe("bob", before.device)
    await town.push("ada")
    await town.push("bob", title="For Bob")

    assert after.id != before.id
    assert [one["title"] for one in after.told] == ["For Bob"]


async def test_who_has_learnt_an_endpoint_cannot_take_it_away(town: Town) -> None:
    ada = await town.subscribe("ada")
    stolen = town.body(ada.device) | {"auth_key": encoded(b"0123456789abcdef")}

    answer = await town.edge.client(person("eve")).post(SUBSCRIBE, json=stolen)
    await town.push("ada")

    assert answer.status_code == 409
    assert len(ada.told) == 1


async def test_who_knows_the_secret_of_a_browser_needs_its_public_key_too(town: Town) -> None:
    browser, other = await town.subscribe("ada"), town.service.subscribe(town.key)
    body = town.body(browser.device, p256dh_key=encoded(other.browser.p256dh))

    taken = await town.edge.client(person("eve")).post(SUBSCRIBE, json=body)

    assert taken.status_code == 409
    assert [row["user_id"] for row in await town.rows()] == ["ada"]


async def test_an_endpoint_in_another_spelling_is_the_same_browser(town: Town) -> None:
    mine = await town.subscribe("ada")
    token = mine.device.token
    for number, (here, there) in enumerate(
        (
            ("https", "HTTPS"),
            ("mozilla.com", "MOZILLA.com."),
            (".com/", ".com:443/"),
            (".com/", ".com:/"),
            ("wpush", "%77push"),
            ("/v2", "%2fv2"),
            (token, f"%{ord(token[0]):02x}{token[1:]}"),
            (token, "".join(f"%{ord(one):02X}" for one in token)),
            (token, f"{token}?"),
        )
    ):
        body = town.body(mine.device)
        spelt = body | {"endpoint": body["endpoint"].replace(here, there, 1)}
        assert spelt != body, number

        again = await town.edge.client(person("ada")).post(SUBSCRIBE, json=spelt)
        thief = await town.edge.client(person("eve")).post(SUBSCRIBE, json=spelt | {"auth_key": "A" * 22})

        assert (again.status_code, again.json()["id"], thief.status_code) == (201, mine.id, 409), there

    again = await town.edge.client(person("ada")).post(SUBSCRIBE, json=town.body(mine.device))
    assert again.json()["id"] == mine.id
    await town.push()
    assert len(mine.told) == 1


async def test_a_browser_that_replaces_its_subscription_by_another_spelling_has_one(town: Town) -> None:
    mine = await town.subscribe()
    endpoint = town.service.endpoint(mine.device)
    body = town.body(mine.device) | {
        "old_endpoint": endpoint.replace("wpush", "wpus%68"),
        "old_auth_key": encoded(mine.device.browser.auth),
    }

    answer = await town.edge.client().post("/api/v1/push/replace", json=body)

    assert answer.status_code == 204
    assert [row["ended_because"] for row in await town.rows()] == [None]


async def test_what_is_dialled_is_what_the_guard_has_seen(town: Town) -> None:
    """However the host is spelt: the name in the handshake and the Host of the request are the ones that were judged."""
    device = town.service.subscribe(town.key)
    body = town.body(device)
    spelt = body | {
        "endpoint": body["endpoint"]
        .replace("https://updates.", "HTTPS://Updates.")
        .replace(".com/", ".COM.:0443/")
    }

    await town.edge.client(person()).post(SUBSCRIBE, json=spelt)
    await town.push()

    assert len(device.pushes) == 1
    assert set(town.service.handshakes) == {town.service.host}
    assert b"\r\nHost: " + town.service.host.encode() + b"\r\n" in town.service.request_heads[-1]


async def test_an_endpoint_belongs_to_one_person_over_all_tenants(town: Town) -> None:
    ada = await town.subscribe("ada")

    client = town.edge.client(person("ada", "hospital"))
    moved = await client.post(SUBSCRIBE, json=town.body(ada.device))
    await town.push("ada")

    assert moved.status_code == 201
    assert ada.told == []


async def test_a_browser_is_subscribed_from_two_places_at_once(town: Town) -> None:
    device = town.service.subscribe(town.key)

    answers = await asyncio.gather(
        *(town.edge.client(person(user)).post(SUBSCRIBE, json=town.body(device)) for user in "abcdefgh")
    )

    assert {answer.status_code for answer in answers} <= {201, 503}
    assert sum(row["is_active"] for row in await town.rows()) == 1


async def test_after_a_logout_nothing_comes_and_nothing_is_kept(town: Town) -> None:
    browser = await town.subscribe()

    path = f"/api/v1/push/subscriptions/{browser.id}"
    gone = await town.edge.client(person()).delete(path)
    again = await town.edge.client(person()).delete(path)
    await town.push()

    assert (gone.status_code, again.status_code) == (204, 404)
    assert browser.told == []
    assert await town.rows() == []
    assert (await town.delivery())["reason"] == "no address for push"


async def test_a_device_has_a_name_and_nobody_elses_can_be_touched(town: Town) -> None:
    browser = await town.subscribe()
    path = f"/api/v1/push/subscriptions/{browser.id}"

    named = await town.edge.client(person()).patch(path, json={"name": "My phone"})
    others = [
        await town.edge.client(person("eve")).patch(path, json={"name": "Mine"}),
        await town.edge.client(person("eve")).delete(path),
        await town.edge.client(person("eve")).post(f"{path}/test"),
        await town.edge.client(person("ada", "hospital")).delete(path),
    ]

    assert named.json()["name"] == "My phone"
    assert {answer.status_code for answer in others} == {404}


async def test_a_browser_replaces_its_subscription_by_knowing_the_old_one(town: Town) -> None:
    old = await town.subscribe()
    new = town.service.subscribe(town.key)
    body = town.body(new) | {
        "old_endpoint": town.service.endpoint(old.device),
        "old_auth_key": encoded(old.device.browser.auth),
    }

    guessed = await town.edge.client().post(
        "/api/v1/push/replace", json=body | {"old_auth_key": encoded(bytes(16))}
    )
    replaced = await town.edge.client().post("/api/v1/push/replace", json=body)
    await town.push()

    assert (guessed.status_code, replaced.status_code) == (404, 204)
    assert old.told == []
    assert len(new.pushes) == 1
    assert [(str(row["id"]), row["ended_because"]) for row in await town.rows()] == [(old.id, None)]
    assert (await town.report(json.loads(new.pushes[0].text), "clicked")).status_code == 204


async def test_a_browser_that_replaces_its_subscription_again_and_again_leaves_one_row_and_is_held_to_a_rate(
    town: Town,
) -> None:
    old, bobs = await town.subscribe(), await town.subscribe("bob")
    one, two = town.body(old.device), town.body(town.service.subscribe(town.key))
    client = town.edge.client()

    async def replace(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
        body = {"old_endpoint": old["endpoint"], "old_auth_key": old["auth_key"], **new}
        return (await client.post("/api/v1/push/replace", json=body)).status_code

    onto_bobs = await replace(one, {**two, "endpoint": town.body(bobs.device)["endpoint"]})
    answers = [204]
    while answers[-1] == 204 and len(answers) < 1000:
        answers.append(await replace(one, two))
        one, two = two, one

    assert onto_bobs == 409
    assert answers[-1] == 429
    assert (await town.edge.client(person()).get("/api/v1/push/subscriptions")).status_code == 429
    assert (await town.edge.client(person("bob")).get("/api/v1/push/subscriptions")).status_code == 200
    assert [(row["user_id"], row["is_active"]) for row in await town.rows()] == [("ada", True), ("bob", True)]


async def test_two_requests_that_replace_each_others_subscription_do_not_wait_for_each_other(
    town: Town,
) -> None:
    one, two = await town.subscribe(), await town.subscribe("bob")
    bodies = [town.body(browser.device) for browser in (one, two)]

    async def replace(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
        body = {"old_endpoint": old["endpoint"], "old_auth_key": old["auth_key"], **new}
        return (await town.edge.client().post("/api/v1/push/replace", json=body)).status_code

    for _ in range(10):
        both = await asyncio.gather(replace(*bodies), replace(*reversed(bodies)))
        assert set(both) <= {204, 404}
    assert sum(row["is_active"] for row in await town.rows()) == 1


async def test_what_has_ended_of_a_persons_browsers_is_kept_within_bounds(town: Town) -> None:
    device = town.service.subscribe(town.key)
    for _ in range(MAX_ENDED + 5):
        await town.subscribe("ada", device)
        await town.subscribe("bob", device)

    kept = [row["user_id"] for row in await town.rows()]
    assert kept.count("ada") <= MAX_ENDED + 1
    assert kept.count("bob") <= MAX_ENDED + 1


async def test_nobody_subscribes_with_a_key_that_another_process_has_retired(town: Town) -> None:
    keys = town.edge.services.delivery.push.keys
    old, device = keys.current, town.service.subscribe(town.key)
    kept = await town.subscribe("bob")
    await keys.rotate()
    assert old.id != keys.current.id
    await town.edge.rows("UPDATE vapid_keys SET state = 'retired' WHERE id = $1", old.id)

    new = await town.edge.client(person()).post(SUBSCRIBE, json=town.body(device, vapid_key_id=old.id))
    seen = await town.edge.client(person("bob")).post(SUBSCRIBE, json=town.body(kept.device))

    assert new.status_code == 422
    assert "vapid_key_id" in new.text
    assert seen.status_code == 201, "it says so in its answer"
    assert seen.json()["is_current_key"] is False


async def test_a_person_keeps_the_browsers_that_were_seen_last(town: Town) -> None:
    browsers = [await town.subscribe() for _ in range(21)]

    rows = await town.rows()

    assert [str(row["id"]) for row in rows if not row["is_active"]] == [browsers[0].id]


async def test_nothing_that_lets_push_to_a_browser_stands_open_in_the_database(town: Town) -> None:
    browser = await town.subscribe()

    [row] = await town.rows()

    stored = b"".join(value for value in row if isinstance(value, bytes)) + repr(row).encode()
    for secret in (
        town.service.endpoint(browser.device),
        encoded(browser.device.browser.auth),
        encoded(browser.device.browser.p256dh),
    ):
        assert secret.encode() not in stored


# --- Sending ---------------------------------------------------------------------------------------------------------


async def test_every_browser_of_a_person_is_pushed_to_and_nobody_elses(town: Town) -> None:
    phone, laptop, bobs = await town.subscribe(), await town.subscribe(), await town.subscribe("bob")

    await town.push()

    assert (len(phone.told), len(laptop.told), len(bobs.told)) == (1, 1, 0)


async def test_a_delivery_is_for_browsers_of_its_tenant_that_have_not_expired(town: Town) -> None:
    await town.subscribe("ada")
    await town.edge.submit("ada", channels=["in_app", "push"])
    await town.subscribe("ada", expires_at="2000-01-01T00:00:00Z")
    [mine, expired] = await town.rows()
    foreign = town.service.subscribe(town.key)
    answer = await town.edge.client(person("ada", "elsewhere")).post(SUBSCRIBE, json=town.body(foreign))

    delivery_id = (await town.delivery())["id"]
    waiting = await town.edge.rows(SQL["waiting"], [TENANT], ["ada"], [delivery_id])

    assert answer.status_code == 201
    assert [row["id"] for row in waiting] == [mine["id"]] != [expired["id"]]


async def test_a_retry_goes_to_those_who_have_it_not(town: Town) -> None:
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None
    await town.push()
    assert (await town.delivery())["state"] == "queued"
    town.service.fault_of = lambda token: None

    await town.due_now()
    await town.work()

    assert (len(phone.told), len(laptop.told)) == (1, 1)
    assert (await town.delivery())["state"] == "sent"


async def test_a_pause_that_one_browser_needs_holds_up_no_other(town: Town) -> None:
    laptop, phone = await town.subscribe(), await town.subscribe()
    pause, fault = Say(429, {"Retry-After": "3600"}), Say(408)
    town.service.fault_of = lambda token: pause if token == laptop.device.token else fault
    await town.push(priority="urgent")
    assert await town.waits() <= 60, "as long as after any failure"

    town.service.fault_of = lambda _token: fault
    for _ in range(3):
        await town.due_now()
        await town.work()
    await town.due_now()
    await town.work()

    assert town.service.requests == 6, "both, and then the phone alone"
    row = await town.delivery()
    assert (row["state"], row["retries"]) == ("queued", 4), "the laptop has had one try"
    assert 3500 < await town.waits() <= 3600 * 5 / 4

    town.service.fault_of = lambda token: None
    await town.edge.rows("UPDATE push_sends SET not_before = now()")
    await town.due_now()
    await town.work()
    assert (len(laptop.told), len(phone.told)) == (1, 1)
    assert (await town.delivery())["state"] == "sent"


async def test_what_one_has_waits_for_the_end_of_the_pause_of_another(town: Town) -> None:
    laptop, phone = await town.subscribe(), await town.subscribe()
    pause = Say(429, {"Retry-After": "600"})
    town.service.fault_of = lambda token: pause if token == laptop.device.token else None
    await town.push()
    town.service.fault_of = lambda token: None
    for _ in range(6):
        assert 500 < await town.waits() <= 600 * 5 / 4
        await town.due_now()
        await town.work()

    assert (await town.delivery())["state"] == "queued"
    assert (len(laptop.told), len(phone.told)) == (0, 1)
    await town.edge.rows("UPDATE notification_deliveries SET queued_at = now(), due_at = now()")
    await town.work()  # an operator who replays it asks again
    assert (len(laptop.told), len(phone.told)) == (1, 1)


async def test_when_a_browser_is_never_reached_a_delivery_counts_as_sent_where_another_was(
    town: Town,
) -> None:
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None

    await town.push()
    for _ in range(4):
        await town.due_now()
        await town.work()

    row = await town.delivery()
    assert row["state"] == "sent"
    assert row["reason"].startswith("not everywhere: ")
    assert len(phone.told) == 1


async def test_a_push_outlasts_a_push_service_that_is_away_for_long(town: Town) -> None:
    browser = await town.subscribe()
    town.service.fault_of = lambda _token: Say(503)
    await town.push()
    for _ in range(12):
        await town.due_now()
        await town.work()
    assert (await town.delivery())["state"] == "queued"

    town.service.fault_of = lambda _token: None
    for gate in town.edge.services.delivery.push.sender._gates.values():
        gate.origin._closed_until = 0  # in place of a second
    await town.due_now()
    await town.work()

    assert (await town.delivery())["state"] == "sent"
    assert len(browser.told) == 1


async def test_a_push_that_had_no_turn_for_a_day_is_given_up(town: Town) -> None:
    await town.subscribe()
    town.service.fault_of = lambda _token: Say(503)
    await town.push()
    for _ in range(6):
        await town.due_now()
        await town.work()
    await town.edge.rows("UPDATE notification_deliveries SET queued_at = now() - interval '25 hours'")

    await town.due_now()
    await town.work()

    row = await town.delivery()
    assert (row["state"], row["reason"][:35]) == ("failed", "could not be sent for too long; at ")


@pytest.mark.parametrize("status", [404, 410])
async def test_a_subscription_that_has_ended_is_forgotten_at_once(town: Town, status: int) -> None:
    gone, there = await town.subscribe(), await town.subscribe()
    town.service.script.extend([])
    town.service.fault_of = lambda token: Say(status) if token == gone.device.token else None

    await town.push()

    assert [row["ended_because"] for row in await town.rows()] == ["gone", None]
    assert (await town.delivery())["state"] == "sent"
    assert len(there.told) == 1


async def test_when_the_last_browser_is_gone_the_delivery_says_so(town: Town) -> None:
    gone = await town.subscribe()
    gone.device.is_gone = True

    await town.push()

    row = await town.delivery()
    assert (row["state"], row["code"]) == ("failed", "no_browser")


async def test_refusals_end_a_browser_only_where_the_service_takes_what_is_for_others(town: Town) -> None:
    refused, taken = await town.subscribe("ada"), await town.subscribe("bob")
    town.service.fault_of = lambda token: Say(403) if token == refused.device.token else None

    for _ in range(6):
        await town.push("ada")
    assert [row["is_active"] for row in await town.rows()] == [True, True], "it may be our key that is wrong"
    await town.push("bob")
    await town.push("ada")

    assert [row["ended_because"] for row in await town.rows()] == ["refused", None]
    assert len(taken.told) == 1


async def test_a_browser_that_refuses_is_asked_and_counted_once_for_a_delivery(town: Town) -> None:
    refusing, away = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(403 if token == refusing.device.token else 503)
    await town.push()
    for _ in range(3):
        await town.due_now()
        await town.work()
    results = town.edge.services.delivery.push.sender.stats.results
    assert results["mozilla", "refused"] == 1
    assert {str(row["id"]): row["failures"] for row in await town.rows()} == {refusing.id: 1, away.id: 0}

    away.device.is_gone = True
    town.service.fault_of = lambda _token: None
    await town.due_now()
    await town.work()
    row = await town.delivery()
    assert (row["state"], row["code"]) == ("failed", "refused"), "one is left, and will not have it"

    await town.edge.client(admin()).post(f"/api/v1/deliveries/{row['id']}/retry")
    await town.work()
    assert (await town.delivery())["state"] == "sent", "an operator has mended what was wrong"
    assert len(refusing.told) == 1


async def test_a_message_that_is_too_large_for_one_service_is_sent_smaller(town: Town) -> None:
    browser = await town.subscribe()
    town.service.script.append(Say(413))

    await town.push(message="long " * 800)

    [said] = browser.device.pushes
    assert len(said.text) <= 2000
    assert (await town.delivery())["state"] == "sent"


async def test_a_fault_in_one_browser_undoes_nothing_that_the_others_have_said(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, odd, gone = [await town.subscribe() for _ in range(3)]
    gone.device.is_gone = True
    send = PushSender.send

    async def failing(self: PushSender, subscription: Subscription, *said: Any, **more: Any) -> PushResult:
        if str(subscription.id) == odd.id:
            raise RuntimeError(f"something about {subscription.endpoint}")
        return await send(self, subscription, *said, **more)

    monkeypatch.setattr(PushSender, "send", failing)
    with structlog.testing.capture_logs() as logs:
        await town.push()
    await town.due_now()
    monkeypatch.undo()
    await town.work()

    assert (len(well.told), len(odd.told)) == (1, 1)
    assert {str(row["id"]): row["ended_because"] for row in await town.rows()}[gone.id] == "gone"
    assert (await town.delivery())["state"] == "sent"
    [raised] = [entry for entry in logs if entry["event"] == "push_raised"]
    assert (raised["subscription_id"], raised["error"]) == (odd.id, "RuntimeError")
    assert odd.device.token not in str(raised)


async def test_headers_follow_from_priority_and_what_replaces_what(town: Town) -> None:
    browser = await town.subscribe()

    await town.push(priority="urgent", collapse_key="iep-12345")
    await town.push(priority="low", collapse_key="iep-12345")
    await town.push()

    urgent, low, plain = browser.device.pushes
    assert (urgent.urgency, low.urgency, plain.urgency) == ("high", "low", "normal")
    assert (urgent.ttl, low.ttl) == (3 * 24 * 3600, 12 * 3600)
    assert urgent.topic == low.topic != plain.topic
    tags = [json.loads(one.text)["tag"] for one in (urgent, low, plain)]
    assert tags[0] == tags[1] != tags[2]
    assert "iep" not in str(urgent.topic)
    assert json.loads(urgent.text)["requireInteraction"] is True


@pytest.mark.parametrize("members", [{}, {"collapse_key": "iep-12345"}])
async def test_a_push_service_does_not_see_who_is_sent_the_same(town: Town, members: dict[str, str]) -> None:
    browsers = [await town.subscribe(user_id) for user_id in ("ada", "ada", "bob")]

    sent = {"title": "x", "message": "y", "channels": ["push"], "recipients": ["ada", "bob"], **members}
    await town.edge.client(admin()).post("/api/v1/notifications", json=sent)
    await town.work()

    assert len({browser.device.pushes[0].topic for browser in browsers}) == 3
    if members:
        assert len({browser.said["tag"] for browser in browsers}) == 1, "which only browsers read"
        assert browsers[0].said["tag"] not in {browser.device.pushes[0].topic for browser in browsers}


async def test_the_topics_of_a_tenant_are_made_with_a_secret_of_its_own(town: Town) -> None:
    provider = cast(Any, town.edge.services.delivery.push.provider)
    browser, notification_id = uuid4(), uuid4()

    topics, tags = set(), set()
    for tenant_id in ("school", "clinic"):
        for key in ("iep-12345", None):
            message = SimpleNamespace(tenant_id=tenant_id, collapse_key=key, notification_id=notification_id)
            topics.add(provider._topic(message, browser))
            tags.add(provider._tag(message))

    assert len(topics) == 4
    assert len(tags - {None}) == 2


async def test_an_answer_that_is_lost_is_repeated_under_the_same_topic(town: Town, database: str) -> None:
    browser = await town.subscribe()
    town.service.script.extend([Silence(), Silence()])
    town.has_no_patience_with_silence()

    await town.push()
    assert (await town.delivery())["state"] == "queued"
    for _ in range(2):
        await town.due_now()
        await town.work()

    assert len({one.topic for one in browser.device.pushes}) == 1
    assert (await town.delivery())["state"] == "sent"
    [row] = await town.edge.rows("SELECT * FROM push_sends")
    assert (row["outcome"], row["unknowns"]) == ("sent", 2)


async def test_a_browser_that_shows_a_push_whose_answer_was_lost_is_not_sent_it_again(town: Town) -> None:
    browser = await town.subscribe()
    town.service.script.append(Silence())
    town.has_no_patience_with_silence()

    await town.push()
    await town.report(browser.said)
    await town.due_now()
    await town.work()

    assert len(browser.told) == 1
    assert (await town.delivery())["state"] == "delivered"


async def test_after_a_rotation_old_browsers_are_sent_to_with_their_key(town: Town) -> None:
    old = await town.subscribe()
    await town.edge.services.delivery.push.keys.rotate()
    await town.subscribe(device=old.device)  # its page is opened, and has not looked at the key
    new = await town.subscribe()

    await town.push()

    assert (len(old.told), len(new.told)) == (1, 1)
    listed = (await town.edge.client(person()).get("/api/v1/push/subscriptions")).json()["subscriptions"]
    assert {one["id"]: one["is_current_key"] for one in listed} == {old.id: False, new.id: True}


async def test_the_test_button_reaches_one_browser_now(town: Town) -> None:
    browser, other = await town.subscribe(), await town.subscribe()

    answer = await town.edge.client(person()).post(f"/api/v1/push/subscriptions/{browser.id}/test")

    assert answer.json()["status"] == "sent"
    assert browser.said["title"] == words("en")[0]
    assert other.told == []


async def test_the_test_button_says_that_a_browser_is_gone(town: Town) -> None:
    browser = await town.subscribe()
    browser.device.is_gone = True

    answer = await town.edge.client(person()).post(f"/api/v1/push/subscriptions/{browser.id}/test")

    assert answer.json()["status"] == "gone"
    assert [row["ended_because"] for row in await town.rows()] == ["gone"]


async def test_the_test_button_is_held_to_a_rate_of_its_own(town: Town) -> None:
    now = 0.0
    clock = cast(Clock, SimpleNamespace(monotonic=lambda: now))
    throttle = Throttle(ApiSettings().push_test_rate, clock, holds_services=True)
    edge = town.edge.with_services(push_tests=throttle)
    phone, laptop, bobs = await town.subscribe(), await town.subscribe(), await town.subscribe("bob")

    async def test(browser: Browser, user_id: str = "ada") -> httpx.Response:
        return await edge.client(person(user_id)).post(f"/api/v1/push/subscriptions/{browser.id}/test")

    unknown = await edge.client(person()).post(f"/api/v1/push/subscriptions/{uuid4()}/test")
    taken = [await test(phone) for _ in range(5)]
    refused = [await test(phone), await test(laptop)]
    others = await test(bobs, "bob")
    now = 10.0
    later = await test(laptop)

    assert unknown.status_code == 404, "and costs nothing"
    assert [answer.status_code for answer in (*taken, others, later)] == [200] * 7
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "10"
    assert (len(phone.told), len(laptop.told), len(bobs.told)) == (5, 1, 1)


async def test_a_sandbox_sends_nothing_by_the_test_button_either(town: Town) -> None:
    browser = await town.subscribe()
    sandbox = town.edge.with_services(delivery=replace(town.edge.services.delivery, is_sandbox=True))

    answer = await sandbox.client(person()).post(f"/api/v1/push/subscriptions/{browser.id}/test")

    assert answer.status_code == 409
    assert browser.told == []


async def test_no_log_holds_what_lets_push_to_a_browser_or_what_was_pushed(
    town: Town, capfd: pytest.CaptureFixture[str]
) -> None:
    browser = await town.subscribe()
    town.service.script.extend([Say(503), Say(403, body=b"no"), Silence()])
    town.has_no_patience_with_silence()

    await town.push(title="canary title", message="canary text")
    for _ in range(3):
        await town.due_now()
        await town.work()

    printed = "".join(capfd.readouterr())
    rows = await town.edge.rows(
        "SELECT d::text, a::text FROM notification_deliveries d JOIN delivery_attempts a ON true"
    )
    told = printed + str(rows)
    for secret in ("canary", browser.device.token, encoded(browser.device.browser.auth)):
        assert secret not in told


# --- Who looks -------------------------------------------------------------------------------------------------------


async def looks(tenant_id: str, user_id: str) -> bool:
    return True


async def test_who_looks_at_the_application_is_not_pushed_to_until_they_stop(town: Town) -> None:
    browser = await town.subscribe()
    await town.edge.submit(channels=["in_app", "push"])

    await town.work(looking=looks)
    row = await town.delivery()
    assert (row["state"], row["reason"]) == ("deferred", "the person is looking at the application")
    await town.due_now()
    await town.work()

    assert len(browser.told) == 1


async def test_what_is_read_meanwhile_is_not_pushed(town: Town) -> None:
    browser = await town.subscribe()
    notification_id = await town.edge.submit(channels=["in_app", "push"])
    await town.work(looking=looks)

    await town.edge.client(person()).post(f"/api/v1/notifications/{notification_id}/read")
    await town.due_now()
    await town.work()

    assert browser.told == []
    assert (await town.delivery())["reason"] == "read already"


@pytest.mark.parametrize(("priority", "waited"), [("urgent", 61), ("normal", 15 * 60 + 1)])
async def test_a_screen_that_nobody_sits_at_holds_a_push_not_for_ever(
    town: Town, priority: str, waited: int
) -> None:
    browser = await town.subscribe()
    await town.edge.submit(channels=["in_app", "push"], priority=priority)
    await town.work(looking=looks)
    await town.edge.rows(
        "UPDATE notification_deliveries SET queued_at = queued_at - $1::interval, due_at = now()",
        timedelta(seconds=waited),
    )

    await town.work(looking=looks)

    assert len(browser.told) == 1


async def test_who_looks_when_it_is_due_is_not_pushed_what_was_written_long_before(town: Town) -> None:
    browser = await town.subscribe()
    await town.edge.submit(channels=["in_app", "push"])
    await town.edge.rows("UPDATE notification_deliveries SET created_at = created_at - interval '5 hours'")

    await town.work(looking=looks)

    assert browser.told == []


async def test_presence_is_asked_once_for_each_person_of_a_batch(town: Town) -> None:
    asked: list[str] = []

    async def looking(tenant_id: str, user_id: str) -> bool:
        asked.append(user_id)
        return user_id == "ada"

    ada, bob = await town.subscribe("ada"), await town.subscribe("bob")
    for user in ("ada", "ada", "bob"):
        await town.edge.submit(user, channels=["in_app", "push"])
    await town.work(looking=looking)

    assert sorted(asked) == ["ada", "bob"]
    assert (len(ada.told), len(bob.told)) == (0, 1)


# --- What may be seen ------------------------------------------------------------------------------------------------


SECRET = {"title": "IEP of John Doe", "message": "John's plan was changed.", "action_url": "/iep/12345"}


async def private(town: Town, types: dict[str, str]) -> None:
    answer = await town.edge.client(admin()).put("/api/v1/push/privacy", json={"types": types})
    assert answer.status_code == 200, answer.text


async def test_a_private_push_says_only_that_there_is_something(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private"})

    metadata = {"student_name": "John Doe", "push": {"icon": "/iep.png", "badge": "/iep-badge.png"}}
    await town.push(**SECRET, metadata=metadata)

    said = browser.said
    assert said["title"] == said["notification"]["title"] == "You have a new notification"
    text = json.dumps(said)
    assert all(word not in text for word in ("John", "IEP", "iep", "plan"))


async def test_the_whole_is_fetched_after_a_click_once(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private"})
    await town.push(**SECRET)

    assert browser.said["fetch"]["when"] == "clicked"
    first, second = await town.fetch(browser.said), await town.fetch(browser.said)

    whole = first.json()
    assert (whole["title"], whole["body"]) == (SECRET["title"], SECRET["message"])
    assert whole["data"]["action_url"] == SECRET["action_url"]
    assert "fetch" not in whole
    assert second.status_code == 404


async def test_of_a_type_the_title_alone_may_be_shown(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private", "iep_update": "title_only"})

    looks = {"image": "/john.png", "actions": [{"action": "call", "title": "Call John", "url": "/call"}]}
    members: dict[str, Any] = {**SECRET, "metadata": {"push": looks}}
    await town.push(notification_type="iep_update", **members)

    assert browser.said["title"] == SECRET["title"]
    assert "John's plan" not in json.dumps(browser.said)
    assert [one["action"] for one in browser.said["actions"]] == ["view"]
    assert {"actions", "image"}.isdisjoint(browser.said["notification"])


async def test_a_private_push_speaks_the_language_of_the_person(town: Town) -> None:
    browser = await town.subscribe()
    await town.edge.services.delivery.recipients.put(
        TENANT, "ada", {"name": "Ada", "locale": "de-AT"}, "test"
    )
    await private(town, {"*": "private"})

    await town.push(**SECRET)

    assert browser.said["title"] == "Sie haben eine neue Benachrichtigung"
    assert browser.said["notification"]["lang"] == "de-AT"


async def test_what_does_not_fit_is_fetched_at_once(town: Town) -> None:
    browser = await town.subscribe()
    title, message = "\u00fc" * 250, "long " * 1500
    await town.push(title=title, message=message, action_url="/" + "p" * 1900)

    said = browser.said
    assert said["fetch"]["when"] == "shown"
    whole = (await town.fetch(said)).json()

    assert (whole["title"], whole["body"]) == (title, message)


async def test_after_a_logout_nothing_more_is_fetched(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private"})
    await town.push(**SECRET)
    gone = await town.edge.client(person()).delete(f"/api/v1/push/subscriptions/{browser.id}")
    assert gone.status_code == 204, gone.text

    assert (await town.fetch(browser.said)).status_code == 404


async def test_the_next_person_at_a_browser_fetches_nothing_of_the_one_before(town: Town) -> None:
    browser = await town.subscribe("ada")
    await private(town, {"*": "private"})
    await town.push("ada", **SECRET)
    await town.subscribe("bob", browser.device)

    assert (await town.fetch(browser.said)).status_code == 404


async def test_what_was_recalled_is_not_fetched(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private"})
    notification_id = await town.push(**SECRET)
    recalled = await town.edge.client(admin()).delete(f"/api/v1/notifications/{notification_id}")
    assert recalled.status_code == 204, recalled.text

    assert (await town.fetch(browser.said)).status_code == 404


async def test_privacy_is_the_tenants_and_is_in_its_audit_log(town: Town) -> None:
    await private(town, {"*": "title_only"})

    other = await town.edge.client(admin("hospital")).get("/api/v1/push/privacy")
    own = await town.edge.client(admin()).get("/api/v1/push/privacy")

    assert (own.json(), other.json()) == ({"types": {"*": "title_only"}}, {"types": {}})
    rows = await town.edge.rows("SELECT action FROM audit_log WHERE tenant_id = $1", TENANT)
    assert "push.privacy_changed" in [row["action"] for row in rows]


# --- Read anywhere, gone everywhere ----------------------------------------------------------------------------------


async def test_what_was_read_elsewhere_is_named_in_the_next_push(town: Town) -> None:
    browser = await town.subscribe()
    read = await town.push()
    await town.push(title="Not read")
    await town.edge.client(person()).post(f"/api/v1/notifications/{read}/read")

    await town.push(title="Third")

    [_, _, third] = browser.told
    assert third["reads"] == [read]


async def test_reading_everything_is_carried_too(town: Town) -> None:
    browser = await town.subscribe()
    ids = [await town.push() for _ in range(3)]
    await town.edge.client(person()).post("/api/v1/notifications/read-all", json={})

    await town.push(title="Last")

    assert browser.told[-1]["reads"] == ids[::-1]


async def test_the_badge_says_how_many_are_unread(town: Town) -> None:
    browser = await town.subscribe()
    await town.edge.submit()
    await town.edge.submit(channels=["in_app", "push"])

    await town.work(unread=town.edge.services.inbox.unread_counts)

    assert browser.said["app_badge"] == 2


async def test_each_lookup_of_a_sender_goes_to_the_row(town: Town) -> None:
    for query, arguments in (
        ("waiting", [["school"], ["ada"], [uuid4()]]),
        ("record", [["school"], [uuid4()], [uuid4()], ["sent"], [201], [True], [None], 5]),
        ("report", ["school", uuid4(), uuid4(), "shown"]),
        ("end_unseen", [timedelta(days=60), 100]),
    ):
        plan = await town.edge.rows("EXPLAIN (FORMAT JSON) " + SQL[query], *arguments)

        assert "Seq Scan" not in plan[0][0], query


# --- What browsers report --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (["shown"], "delivered"),
        (["shown", "clicked"], "read"),
        (["clicked", "shown"], "read"),
        (["closed"], "delivered"),
        (["shown", "shown"], "delivered"),
    ],
)
async def test_a_delivery_moves_as_browsers_report(town: Town, events: list[str], state: str) -> None:
    browser = await town.subscribe()
    await town.push()

    for event in events:
        assert (await town.report(browser.said, event)).status_code == 204

    assert (await town.delivery())["state"] == state
    [row] = await town.edge.rows("SELECT * FROM push_sends")
    assert row["shown_at"] is not None
    assert (row["clicked_at"] is not None) == ("clicked" in events)
    assert (row["closed_at"] is not None) == ("closed" in events)


async def test_a_report_does_not_keep_the_others_from_being_tried_again(town: Town) -> None:
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None
    await town.push()

    await town.report(phone.said)
    assert (await town.delivery())["state"] == "queued"
    town.service.fault_of = lambda token: None
    await town.due_now()
    await town.work()

    assert len(laptop.told) == 1
    assert (await town.delivery())["state"] == "delivered", "the phone has said so"


async def test_a_click_counts_where_another_browser_was_never_reached(town: Town) -> None:
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None
    await town.push()
    for _ in range(4):
        await town.due_now()
        await town.work()
    assert (await town.delivery())["state"] == "sent"

    await town.report(phone.said, "clicked")

    assert (await town.delivery())["state"] == "read"


async def test_what_somebody_has_seen_was_not_given_up_after_all(town: Town) -> None:
    browser = await town.subscribe()
    town.service.fault_of = lambda _token: Silence()
    town.has_no_patience_with_silence()
    await town.push()
    for _ in range(4):
        await town.due_now()
        await town.work()
    assert (await town.delivery())["state"] == "failed"

    for event, state in (("shown", "delivered"), ("clicked", "read")):
        assert (await town.report(browser.told[0], event)).status_code == 204
        assert (await town.delivery())["state"] == state

    dead = (await town.edge.client(admin()).get("/api/v1/dead-letters")).json()
    assert dead["deliveries"] == []


@dataclass
class Between:
    """A provider after whose sending something happens, before anybody has written the end of the delivery."""

    real: Any
    happens: Callable[[], Awaitable[object]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def send(self, message: Any) -> Any:
        ended = await self.real.send(message)
        await self.happens()
        return ended


@pytest.mark.parametrize(("event", "state"), [("shown", "delivered"), ("clicked", "read")])
async def test_a_report_just_before_a_delivery_is_given_up_counts(town: Town, event: str, state: str) -> None:
    browser = await town.subscribe()
    town.service.fault_of = lambda _token: Silence()
    town.has_no_patience_with_silence()
    real = town.edge.services.delivery.push.provider
    await town.edge.submit(channels=["in_app", "push"])

    provider = Between(real, lambda: town.report(browser.said, event))
    await town.work(provider, retries=RetrySettings(attempts=1))

    row = await town.delivery()
    assert row["state"] == state
    assert row["reason"].startswith("not everywhere: given up after 1 attempts")


async def test_a_report_just_before_the_end_of_what_was_sent_counts(town: Town) -> None:
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None
    await town.edge.submit(channels=["in_app", "push"])

    provider = Between(town.edge.services.delivery.push.provider, lambda: town.report(phone.said))
    await town.work(provider, retries=RetrySettings(attempts=1))

    row = await town.delivery()
    assert (row["state"], row["reason"][:16]) == ("delivered", "not everywhere: ")


async def test_a_report_and_the_end_of_its_delivery_wait_for_each_other(town: Town) -> None:
    browser = await town.subscribe()
    town.service.fault_of = lambda _token: Silence()
    town.has_no_patience_with_silence()
    await town.push()

    await town.edge.rows("UPDATE notification_deliveries SET state = 'processing', claimed_by = 'w1'")
    async with town.edge.database.transaction() as connection:  # a worker's, that has looked for reports
        await connection.execute(
            "UPDATE notification_deliveries SET state = 'failed', claimed_by = NULL, finished_at = now()"
        )
        reporting = asyncio.create_task(town.report(browser.said))
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            assert not reporting.done(), "it did not wait for the end"
    await reporting

    assert (await town.delivery())["state"] == "delivered"


async def test_where_a_browser_has_it_nothing_else_takes_over(town: Town) -> None:
    phone, _laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda _token: Silence()
    town.has_no_patience_with_silence()
    await town.push()
    await town.edge.client(person()).delete(f"/api/v1/push/subscriptions/{phone.id}")
    town.service.fault_of = lambda _token: Say(410)
    await town.due_now()

    provider = Between(town.edge.services.delivery.push.provider, lambda: town.report(phone.said))
    await town.work(provider, retries=RetrySettings(fallback="push:email"))

    row = await town.delivery()
    assert (row["state"], row["channel"]) == ("delivered", "push")


async def half_sent(town: Town, **members: Any) -> tuple[Browser, Browser, str]:
    """A delivery that a phone has and a laptop has not yet; it is due again."""
    phone, laptop = await town.subscribe(), await town.subscribe()
    town.service.fault_of = lambda token: Say(503) if token == laptop.device.token else None
    notification_id = await town.push(**members)
    assert (await town.delivery())["state"] == "queued"
    await town.due_now()
    return phone, laptop, notification_id


@pytest.mark.parametrize(("event", "state"), [(None, "sent"), ("shown", "delivered"), ("clicked", "read")])
async def test_what_a_phone_has_and_was_read_before_the_laptop_had_it(
    town: Town, event: str | None, state: str
) -> None:
    phone, laptop, notification_id = await half_sent(town)
    if event is not None:
        await town.report(phone.said, event)

    await town.edge.client(person()).post(f"/api/v1/notifications/{notification_id}/read")
    await town.work()

    row = await town.delivery()
    assert (row["state"], row["reason"]) == (state, "not everywhere: read already")
    path = f"/api/v1/deliveries/{row['id']}"
    said = (await town.edge.client(admin()).get(path)).json()["browsers"]
    assert {one["subscription_id"]: (one["outcome"], one["status"]) for one in said} == {
        phone.id: ("sent", 201),
        laptop.id: ("retry", 503),
    }
    assert [one["shown_at"] is not None for one in said if one["subscription_id"] == phone.id] == [
        event is not None
    ]


async def test_what_a_phone_has_and_expired_before_the_laptop_had_it(town: Town) -> None:
    *_, notification_id = await half_sent(town)
    await town.edge.rows("UPDATE notification_deliveries SET expires_at = now()")

    await town.work()

    row = await town.delivery()
    assert (row["state"], row["reason"]) == ("sent", "not everywhere: it was to be gone by now")


async def test_what_a_phone_has_and_was_taken_back_before_the_laptop_had_it(town: Town) -> None:
    *_, notification_id = await half_sent(town)

    await town.edge.client(admin()).delete(f"/api/v1/notifications/{notification_id}")

    row = await town.delivery()
    assert (row["state"], row["reason"]) == ("sent", "not everywhere: recalled")


async def test_what_nobody_has_and_was_read_is_suppressed(town: Town) -> None:
    await town.subscribe()
    town.service.fault_of = lambda _token: Say(503)
    notification_id = await town.push()
    await town.edge.client(person()).post(f"/api/v1/notifications/{notification_id}/read")
    await town.due_now()

    await town.work()

    row = await town.delivery()
    assert (row["state"], row["reason"]) == ("suppressed", "read already")


async def test_a_token_is_good_for_one_thing(town: Town) -> None:
    browser = await town.subscribe()
    await private(town, {"*": "private"})
    await town.push()
    said = browser.said

    as_receipt = await town.report({"data": {"receipt": said["fetch"]["token"]}})
    as_fetch = await town.fetch({"fetch": {"id": said["fetch"]["id"], "token": said["data"]["receipt"]}})
    forged = await town.report({"data": {"receipt": said["data"]["receipt"][:-2] + "AA"}})

    assert {as_receipt.status_code, as_fetch.status_code, forged.status_code} == {404}


# --- The end of a browser --------------------------------------------------------------------------------------------


async def test_a_browser_that_nobody_opens_for_60_days_is_pushed_to_no_more(town: Town) -> None:
    old, new = await town.subscribe(), await town.subscribe()
    await town.edge.rows(
        "UPDATE push_subscriptions SET last_seen_at = now() - interval '61 days' WHERE id = $1", UUID(old.id)
    )
    pruned = await town.edge.services.delivery.push.prune(100)
    await town.push()

    assert pruned == 1
    assert [row["ended_because"] for row in await town.rows()] == ["expired", None]
    assert (len(old.told), len(new.told)) == (0, 1)
    await town.edge.rows("UPDATE push_subscriptions SET last_seen_at = now() - interval '91 days'")
    while await town.edge.services.delivery.push.prune(100):
        pass
    assert await town.rows() == []


async def test_a_browser_whose_encryption_key_is_gone_is_lost_alone(town: Town) -> None:
    lost, there = await town.subscribe(), await town.subscribe()
    await town.edge.rows(
        "UPDATE push_subscriptions SET endpoint = $2 WHERE id = $1", UUID(lost.id), b"\x03old" + bytes(40)
    )

    await town.push()

    assert len(there.told) == 1
    assert (await town.delivery())["state"] == "sent"


async def test_what_was_pushed_and_not_written_down_is_one_of_which_nobody_knows_the_end(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await town.subscribe()
    record, refusals = Subscriptions.record, [ServiceError("unavailable")]

    async def away_once(self: Subscriptions, results: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await record(self, results)

    monkeypatch.setattr(Subscriptions, "record", away_once)
    await town.push()

    [attempt] = await town.edge.rows("SELECT outcome, code FROM delivery_attempts")
    assert tuple(attempt) == ("unknown", "unavailable")
    assert (await town.delivery())["unknowns"] == 1
    await town.due_now()
    await town.work()
    assert (await town.delivery())["state"] == "sent"
    first, again = browser.device.pushes
    assert first.topic == again.topic, "the second takes the place of the first"


async def test_what_reached_nobody_and_was_not_written_down_is_tried_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.subscribe()
    town.service.fault_of = lambda device: Say(503)

    async def away(self: Subscriptions, results: Any) -> Any:
        raise ServiceError("unavailable")

    monkeypatch.setattr(Subscriptions, "record", away)
    await town.push()

    [attempt] = await town.edge.rows("SELECT outcome, code FROM delivery_attempts")
    assert tuple(attempt) == ("retry", "unavailable")
