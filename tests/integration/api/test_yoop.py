"""YoopRL's paths (YOO-9): alerts become notifications by the routes, and the channels' state is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from app.delivering import Alerting
from delivery.breaker import Account
from delivery.routing import AlertSettings
from tests.api import OTHER_TENANT, TENANT, Edge, admin, person, service, token
from tests.workers import simulated

STATUS = "/api/monitoring/notifications/status"
TEST = "/api/monitoring/notifications/test"
ALERTS = "/api/monitoring/notifications/alerts"


@pytest.fixture
async def operators(edge: Edge) -> None:
    """Whom alerts go to, at the addresses of YoopRL's environment."""
    recipients = edge.services.delivery.recipients
    for channel, value in (("whatsapp", "+14155552671"), ("telegram", "471104711")):
        await recipients.add(TENANT, "operators", channel, value, "test", verified=True)


def configured(edge: Edge, *channels: str, **settings: Any) -> Edge:
    """An edge whose channels have providers, and whose alerts have other settings."""
    delivery = replace(
        edge.services.delivery,
        channels=simulated(names=channels),
        alerting=Alerting(settings=AlertSettings(**settings)),
    )
    return edge.with_services(delivery=delivery)


async def report(edge: Edge, **alert: Any) -> dict[str, Any]:
    taken = await edge.client(service()).post(ALERTS, json=alert)
    assert taken.status_code == 202, taken.text
    answered: dict[str, Any] = taken.json()
    return answered


async def deliveries(edge: Edge) -> list[tuple[str, str]]:
    rows = await edge.rows("SELECT user_id, channel FROM notification_deliveries ORDER BY channel")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("severity", ["warning", "WARNING", "critical"])
async def test_a_warning_goes_out_once_by_each_of_its_channels(
    edge: Edge, operators: None, severity: str
) -> None:
    taken = await report(edge, severity=severity, message="Drawdown limit reached")

    assert taken["channels"] == [
        {"channel": "whatsapp", "to": "+14***71"},
        {"channel": "telegram", "to": "***11"},
    ]
    assert taken["recipient"] == "operators"
    assert await deliveries(edge) == [("operators", "telegram"), ("operators", "whatsapp")]


@pytest.mark.parametrize("action", ["BUY", "SELL"])
async def test_an_order_goes_out_by_telegram(edge: Edge, action: str) -> None:
    await report(edge, action=action, notification_type="agent_action", price=187.2, qty=10, pnl=-3.5)

    assert await deliveries(edge) == [("operators", "telegram")]
    [row] = await edge.rows("SELECT title, message, notification_type, priority, metadata FROM notifications")
    assert (row["title"], row["message"]) == (f"INFO: {action}", "price: 187.2\nqty: 10\npnl: -3.5")
    assert (row["notification_type"], row["priority"]) == ("agent_action", "low")
    facts = {"severity": "info", "action": action, "price": 187.2, "qty": 10, "pnl": -3.5}
    assert msgspec.json.decode(row["metadata"]) == facts


@pytest.mark.parametrize(
    ("severity", "priority"),
    [("debug", "low"), ("info", "low"), ("warning", "high"), ("error", "urgent"), ("critical", "urgent")],
)
async def test_the_more_severe_an_alert_the_more_urgent_it_is(
    edge: Edge, severity: str, priority: str
) -> None:
    assert (await report(edge, severity=severity, message="m"))["priority"] == priority


async def test_what_is_neither_severe_nor_an_order_stands_in_the_inbox(edge: Edge) -> None:
    taken = await report(edge, message="Model reloaded", user_id="ada")

    inbox = (await edge.client(person()).get("/api/v1/notifications")).json()
    assert [one["id"] for one in inbox["notifications"]] == [taken["id"]]
    assert await deliveries(edge) == []


async def test_a_channel_that_is_left_out_gets_nothing(edge: Edge) -> None:
    await report(configured(edge, channels=frozenset({"telegram"})), severity="error", message="m")

    assert await deliveries(edge) == [("operators", "telegram")]


async def test_who_alerts_go_to_is_a_setting_and_may_be_named(edge: Edge) -> None:
    await report(configured(edge, recipient="desk"), action="BUY")
    await report(edge, action="SELL", user_id="ada")

    assert sorted(await deliveries(edge)) == [("ada", "telegram"), ("desk", "telegram")]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"severity": "grave", "message": "m"}, "severity"),
        ({"action": "BUY NOW\n"}, "action"),
        ({"message": "m", "notification_type": "spam"}, "notification_type"),
        ({"message": "m", "price": "187.2"}, "price"),
        ({"message": "m", "context": {"a": [1]}}, "context.a"),
        ({"message": "m", "colour": "red"}, "colour"),
    ],
)
async def test_an_alert_that_cannot_be_meant_is_refused(edge: Edge, body: dict[str, Any], path: str) -> None:
    refused = await edge.client(service()).post(ALERTS, json=body)

    assert refused.status_code == 422
    assert any(fault["path"].startswith(path) for fault in refused.json()["details"])
    assert await edge.rows("SELECT FROM notifications") == []


async def test_an_idempotency_key_takes_an_alert_once(edge: Edge) -> None:
    client, headers = edge.client(service()), {"Idempotency-Key": "drawdown-7"}

    first = await client.post(ALERTS, json={"action": "SELL"}, headers=headers)
    again = await client.post(ALERTS, json={"action": "SELL"}, headers=headers)

    assert again.json() == first.json()
    assert len(await deliveries(edge)) == 1


@pytest.mark.parametrize("body", [None, {}])
async def test_a_test_alert_goes_the_way_of_a_real_one(
    edge: Edge, operators: None, body: dict[str, Any] | None
) -> None:
    given = {} if body is None else {"json": body}

    taken = await edge.client(admin()).post(TEST, **given)

    assert taken.status_code == 202, taken.text
    assert [way["channel"] for way in taken.json()["channels"]] == ["whatsapp", "telegram"]
    assert len(await deliveries(edge)) == 2
    [row] = await edge.rows("SELECT title, message FROM notifications")
    assert row["title"] == "Test alert"


async def test_a_test_alert_may_be_like_an_order(edge: Edge) -> None:
    taken = await edge.client(admin()).post(TEST, json={"severity": "info", "action": "BUY", "price": 1})

    assert taken.json()["channels"] == [{"channel": "telegram", "to": None}]


async def test_who_may_do_what(edge: Edge) -> None:
    reader = token("dashboard", scopes=["deliveries:read"])

    assert (await edge.client().post(TEST)).status_code == 401
    assert (await edge.client(service()).post(TEST)).status_code == 403
    assert (await edge.client(person()).post(ALERTS, json={"action": "BUY"})).status_code == 403
    assert (await edge.client(person()).get(STATUS)).status_code == 403
    assert (await edge.client(reader).get(STATUS)).status_code == 200


async def status(edge: Edge, tenant_id: str = TENANT) -> dict[str, Any]:
    answer = await edge.client(admin(tenant_id)).get(STATUS)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of(found: dict[str, Any], channel: str) -> dict[str, Any]:
    return next(one for one in found["channels"] if one["channel"] == channel)


async def test_the_status_tells_what_is_active_switched_off_and_not_set_up(
    edge: Edge, operators: None
) -> None:
    found = await status(configured(edge, "whatsapp", "telegram", channels=frozenset({"telegram"})))
    bare = await status(configured(edge, "telegram"))

    assert found["active_channels"] == bare["active_channels"] == ["telegram"]
    assert (of(found, "telegram")["state"], of(found, "telegram")["to"]) == ("ok", "***11")
    assert of(found, "whatsapp")["state"] == "disabled"
    assert of(bare, "whatsapp")["state"] == "not_configured"
    assert (found["backlog"], found["last_alert"]) == (0, None)


async def test_the_status_tells_the_last_error_of_each_channel(edge: Edge) -> None:
    here = configured(edge, "whatsapp", "telegram")
    now = edge.services.clock.now()
    refused = Account(failures=2, last_error_at=now, last_code="429", last_reason="too many requests")
    await edge.services.delivery.accounts.record(
        {
            ("telegram", "telegram", "bot"): refused,
            ("whatsapp", "twilio", "AC1"): Account(last_sent_at=now),
        }
    )

    found = await status(here)

    assert of(found, "telegram")["state"] == "error"
    assert found["last_error"]["telegram"]["code"] == "429"
    assert found["last_error"]["whatsapp"] is None
    assert of(found, "whatsapp")["last_sent_at"] is not None


async def test_the_status_tells_what_waits_and_what_became_of_the_last_alert(edge: Edge) -> None:
    await report(edge, severity="error", message="earlier", notification_type="risk_event")
    last = await report(edge, severity="warning", message="later")
    await edge.rows(
        "UPDATE notification_deliveries SET state = 'sent', finished_at = now()"
        " WHERE notification_id = $1 AND channel = 'telegram'",
        last["id"],
    )

    found = await status(edge)

    assert found["backlog"] == 3
    assert found["last_alert"]["id"] == last["id"]
    assert found["last_alert"]["outcome"] == {"whatsapp": "queued", "telegram": "sent"}
    assert (await status(edge, OTHER_TENANT))["last_alert"] is None
    assert (await status(edge, OTHER_TENANT))["backlog"] == 0
