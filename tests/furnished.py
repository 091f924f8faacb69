"""One of each thing that the paths of the table of routes speak of, so that every operation has something to act on."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from app.api.operation import Operation
from app.api.push import AIVO_SUBSCRIPTION
from core.clock import SystemClock
from core.ids import uuid7
from delivery.breaker import Account
from delivery.channel import UNKNOWN, Channel
from delivery.channels.push import Ticket
from delivery.channels.simulator import Simulator, SimulatorSettings
from delivery.hooks import Hooks
from delivery.inbound import Inbound
from delivery.unsubscribe import Subscription, make_token
from tests.api import TENANT, Edge, admin, person, service

#: To whom all of it belongs, in TENANT.
USER_ID, PHONE = "ada", "+14155550101"

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

HOOKS = Hooks(
    public_url="https://notify.example",
    twilio_token="a token of Twilio's",
    meta_secret="a secret of Meta's",
    meta_verify_token="what was entered at Meta",
    telegram_secret="t" * 40,
    telegram_bot="a_bot",
)


@dataclass(frozen=True)
class Furnished:
    """
    An edge in which an operation can do what it is there for. values: of its path. said: in its body, or in its query
    where it has no body.
    """

    edge: Edge
    operation: Operation
    values: Mapping[str, str]
    said: Mapping[str, Any] = field(default_factory=dict)

    def path(self, others: Mapping[str, str] | None = None) -> str:
        return path(self.operation, {**self.values, **(others or {})})

    def body(self, example: Any = None) -> Any:
        """An example, the first one without any, with what only holds here."""
        if self.operation.body is None:
            return None
        given = example if example is not None else next(iter(self.operation.examples.values()), {})
        return {**given, **self.said}


def path(operation: Operation, values: Mapping[str, str] | None = None) -> str:
    """The path with something in the place of each parameter, whether there is such a thing or not."""
    given = {**_NAMES, **(values or {})}
    return _PARAMETER.sub(lambda found: given.get(found[1], "") or str(uuid7()), operation.path)


async def furnish(edge: Edge, operation: Operation) -> Furnished:
    """The edge with providers and everything that the operation needs."""
    edge = _equipped(edge)
    await edge.services.delivery.recipients.put(TENANT, USER_ID, {"name": "Ada"}, "test")
    names = _PARAMETER.findall(operation.path)
    values: dict[str, str] = {}
    said: dict[str, Any] = {}
    for name in names:
        if name in _MAKERS:
            values[name] = await _MAKERS[name](edge, operation)
    if prepare := _STATES.get((operation.method, operation.path)):
        said = await prepare(edge, values) or {}
    return Furnished(edge, operation, values, said)


#: What is in a path by name alone.
_NAMES = {
    "topic": "news",
    "channel": "sms",
    "asset": "docs.js",
    "user_id": USER_ID,
    "subject_id": USER_ID,
    "hook": HOOKS.telegram_path or "",
    "key_id": "0123456789abcdef",
    "token": "AAAA",
}


def _equipped(edge: Edge) -> Edge:
    ways = {
        name: Channel(
            name=name, providers=[Simulator(SimulatorSettings(), name, SystemClock())], unknown=UNKNOWN[name]
        )
        for name in ("sms", "email")
    }
    return edge.with_services(delivery=replace(edge.services.delivery, hooks=HOOKS, channels=ways))


async def _notification(edge: Edge, operation: Operation) -> str:
    if operation.path.startswith("/api/v1/broadcasts"):
        body = {"title": "Hello", "message": "News.", "broadcast_to_tenant": True, "channels": ["email"]}
        made = await edge.client(service()).post("/api/v1/notifications", json=body)
        return str(made.json()["id"])
    if operation.path.startswith("/api/notifications/"):
        return await edge.submit(USER_ID, channels=["whatsapp"])
    if operation.path.endswith("/cancel"):
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        return await edge.submit(USER_ID, scheduled_for=tomorrow.isoformat())
    return await edge.submit(USER_ID)


async def _delivery(edge: Edge, operation: Operation) -> str:
    sent = await edge.submit(USER_ID, channels=["sms"])
    [row] = await edge.rows("SELECT id FROM notification_deliveries WHERE notification_id = $1", UUID(sent))
    return str(row["id"])


async def _address(edge: Edge, operation: Operation) -> str:
    """One that the operation can act on: a code goes where nobody has answered for, a secret is a webhook's."""
    channel, value, caller = "email", "ada@example.org", service()
    if operation.path.endswith("/secret"):
        channel, value = "webhook", "https://hooks.example/ada"
    if "/verification" in operation.path:
        caller = person()
    body = {"channel": channel, "value": value}
    made = await edge.client(caller).post(f"/api/v1/recipients/{USER_ID}/addresses", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def _webhook(edge: Edge, operation: Operation) -> str:
    made = await edge.client(admin()).post("/api/v1/webhooks", json={"url": "https://hooks.example/all"})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def _message(edge: Edge, operation: Operation) -> str:
    delivery = edge.services.delivery
    await delivery.recipients.add(TENANT, USER_ID, "sms", PHONE, "test", verified=True)
    words = Inbound(provider="twilio", provider_id="SM1", channel="sms", address=PHONE, text="Yes")
    await delivery.inbound.record([words])
    [row] = await edge.rows("SELECT id FROM inbound_messages")
    return str(row["id"])


async def _key(edge: Edge, operation: Operation) -> str:
    made = await edge.client(admin()).post("/api/v1/api-keys", json={"name": "k", "scopes": ["publish"]})
    return str(made.json()["id"])


async def _unsubscribe_token(edge: Edge, operation: Operation) -> str:
    link = Subscription(
        tenant_id=TENANT, user_id=USER_ID, channel="email", notification_type="iep_update", version=1
    )
    return make_token(edge.services.delivery.vault, link)


async def _subscription(edge: Edge, operation: Operation) -> str:
    made = await edge.client(admin()).post("/api/v1/push/subscribe", json=AIVO_SUBSCRIPTION)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def _pushed(edge: Edge, values: Mapping[str, str]) -> dict[str, Any]:
    await edge.submit(USER_ID, channels=["push"])
    [row] = await edge.rows("SELECT id FROM notification_deliveries")
    return {"token": Ticket(TENANT, row["id"], uuid4()).seal(edge.services.delivery.vault, "push-receipt")}


async def _held_back(edge: Edge, values: Mapping[str, str]) -> dict[str, Any]:
    sent = await edge.submit(USER_ID, channels=["push"])
    [row] = await edge.rows("SELECT id FROM notification_deliveries")
    made = await edge.client(person(USER_ID)).post("/api/v1/push/subscribe", json=AIVO_SUBSCRIPTION)
    token = Ticket(TENANT, row["id"], UUID(made.json()["id"])).seal(
        edge.services.delivery.vault, "push-fetch"
    )
    return {"id": sent, "token": token}


async def _subscribed(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.client(person()).post("/api/v1/push/subscribe", json=AIVO_SUBSCRIPTION)


#: What makes the thing that a parameter names. A parameter that is not here names nothing that there is.
_MAKERS: Mapping[str, Callable[[Edge, Operation], Awaitable[str]]] = {
    "notification_id": _notification,
    "delivery_id": _delivery,
    "address_id": _address,
    "webhook_id": _webhook,
    "message_id": _message,
    "subscription_id": _subscription,
    "key_id": _key,
    "token": _unsubscribe_token,
}


async def _dead(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.rows(
        "UPDATE notification_deliveries SET state = 'failed', finished_at = now() WHERE id = $1",
        UUID(values["delivery_id"]),
    )


async def _dead_at_keryus(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.rows(
        "UPDATE notification_deliveries SET state = 'failed', finished_at = now() WHERE notification_id = $1",
        UUID(values["notification_id"]),
    )


async def _paused(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.client(service()).post(f"/api/v1/broadcasts/{values['notification_id']}/pause")


async def _halted(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.services.delivery.accounts.record({("sms", "nowhere", "A1"): Account(breaker="halted")})


async def _code(edge: Edge, values: Mapping[str, str]) -> dict[str, Any]:
    one = f"/api/v1/recipients/{USER_ID}/addresses/{values['address_id']}/verification"
    assert (await edge.client(person()).post(one)).status_code == 202
    [row] = await edge.rows("SELECT id, edited FROM notification_deliveries WHERE edited IS NOT NULL")
    sealed = edge.services.delivery.vault.open(row["edited"], "delivery-edit", TENANT, str(row["id"]))
    [code] = re.findall(r"\b\d{6}\b", msgspec.json.decode(sealed)["text"])
    return {"code": code}


async def _followed(edge: Edge, values: Mapping[str, str]) -> None:
    await edge.client(person()).put("/api/v1/topics/news/follow")


async def _opted_out(edge: Edge, values: Mapping[str, str]) -> None:
    for caller in (person(), admin()):
        await edge.client(caller).post("/api/v1/preferences/opt-outs", json={"scope": "all"})


async def _wants_digests(edge: Edge, values: Mapping[str, str]) -> None:
    wanted = {"is_enabled": True, "delivery_time": "07:00", "timezone": "Europe/London", "frequency": "daily"}
    for caller, user_id in ((person(), USER_ID), (admin(), "root")):
        await edge.client(caller).put("/api/v1/digest/subscription", json=wanted)
        await edge.submit(user_id)


#: What must have happened before an operation can do what it is there for; what its body must then say.
_STATES: Mapping[tuple[str, str], Callable[[Edge, dict[str, str]], Awaitable[dict[str, Any] | None]]] = {
    ("PATCH", "/api/v1/deliveries/{delivery_id:uuid}"): _dead,
    ("POST", "/api/v1/deliveries/{delivery_id:uuid}/retry"): _dead,
    ("POST", "/api/notifications/{notification_id:uuid}/retry/"): _dead_at_keryus,
    ("POST", "/api/v1/broadcasts/{notification_id:uuid}/resume"): _paused,
    ("POST", "/api/v1/channels/{channel}/resume"): _halted,
    (
        "POST",
        "/api/v1/recipients/{user_id}/addresses/{address_id:uuid}/verification/confirm",
    ): _code,
    ("POST", "/api/v1/push/replace"): _subscribed,
    ("POST", "/api/v1/push/receipts"): _pushed,
    ("GET", "/api/v1/push/fetch"): _held_back,
    ("PUT", "/api/v1/topics/{topic:path}/mute"): _followed,
    ("DELETE", "/api/v1/topics/{topic:path}/mute"): _followed,
    ("DELETE", "/api/v1/preferences/opt-outs"): _opted_out,
    ("GET", "/api/v1/digest/preview"): _wants_digests,
    ("GET", "/api/v1/digest/pending"): _wants_digests,
    ("POST", "/api/v1/digest/run"): _wants_digests,
}


def absent(values: Mapping[str, str]) -> dict[str, str]:
    """The same path of a thing that there is not."""
    return {name: str(uuid4()) for name in values if name.endswith("_id")}
