"""
YoopRL's paths: alerts of machines to those who run them, and how their channels do.

An alert becomes a notification whose channels and priority its severity and action choose (delivery/routing.py).
It is stored, and the outbox sends it: there is no other way out (X-79).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict
from starlette.responses import Response

from app.api.models import Answer, Body, UserId
from app.api.operation import Call, Operation, answer
from app.api.reading import idempotency_key, read_hashed
from app.api.submission import IDEMPOTENCY, Message, Title
from core.errors import ServiceError
from delivery.breaker import Account
from delivery.draft import Submission, Users
from delivery.ingest import Stored
from delivery.routing import Fact, text, title

#: What an alert is about: what YoopRL's two hooks report (YOO-8), and anything else.
Kind = Literal["risk_event", "agent_action", "alert"]
KINDS: tuple[Kind, ...] = ("risk_event", "agent_action", "alert")

_KEYED = ("idempotency_in_flight", "idempotency_mismatch")

ChannelState = Literal["ok", "error", "disabled", "not_configured"]


def _lower(value: Any) -> Any:
    """WARNING is what Python's logging calls it."""
    return value.lower() if isinstance(value, str) else value


Severity = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
Action = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"),
    Field(description="What was done: BUY, SELL, …"),
]
Number = Annotated[float, Field(ge=-1e15, le=1e15)] | Annotated[int, Field(ge=-(10**15), le=10**15)]
Word = Annotated[str, StringConstraints(max_length=255)]


class AlertTest(Body):
    """What a test alert says; every member has a default."""

    severity: Severity = "warning"
    action: Action | None = None
    title: Title | None = None
    message: Message | None = None
    notification_type: Kind = "alert"
    price: Number | None = None
    qty: Number | None = None
    pnl: Number | None = None
    context: Annotated[dict[Word, Word | Number | bool | None], Field(max_length=15)] = Field(
        default_factory=dict, description="What else is known; a line each below the message."
    )
    user_id: UserId | None = Field(default=None, description="Without it: DELIVERY_ALERT_RECIPIENT.")

    @property
    def facts(self) -> dict[str, Fact]:
        return {"price": self.price, "qty": self.qty, "pnl": self.pnl, **self.context}


def _says_what(schema: JsonDict) -> None:
    schema["anyOf"] = [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
        for name in ("message", "action")
    ]


class Alert(AlertTest):
    """Something that happened."""

    model_config = ConfigDict(json_schema_extra=_says_what)

    severity: Severity = "info"

    @model_validator(mode="after")
    def _names_what_happened(self) -> Alert:
        if self.message is None and self.action is None:
            raise ValueError("Give a message or an action.")
        return self


class Way(Answer):
    """One channel of an alert. to: where it reaches the recipient, masked; null: nowhere, so nothing goes out."""

    channel: str
    to: str | None


class AlertTaken(Answer):
    """An alert that is stored; the outbox sends it."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    status: Literal["queued"]
    severity: str
    priority: str
    recipient: str
    channels: list[Way]
    created_at: datetime


class LastError(Answer):
    """What an account of a channel last answered that was no success."""

    at: datetime
    code: str | None
    reason: str | None


class ChannelShown(Answer):
    """
    One way out. disabled: NOTIFICATION_CHANNELS leaves it out. error: its accounts are stopped, or the last that
    happened was an error. to: where it reaches the recipient of alerts, masked.
    """

    channel: str
    state: ChannelState
    to: str | None
    backlog: int = Field(ge=0, description="Deliveries that wait. Counting stops at 10000.")
    last_error: LastError | None
    last_sent_at: datetime | None


class LastAlertShown(Answer):
    """The newest alert. outcome: the state of its delivery by channel; `shown` in the inbox."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    notification_type: str
    created_at: datetime
    outcome: dict[str, str]


class AlertStatus(Answer):
    """How the channels do that the routes of alerts name."""

    active_channels: list[str] = Field(description="Configured, and not left out by NOTIFICATION_CHANNELS.")
    last_error: dict[str, LastError | None] = Field(description="By active channel.")
    backlog: int = Field(ge=0, description="Deliveries that wait, in all of them.")
    recipient: str = Field(description="Whom alerts go to that name nobody.")
    channels: list[ChannelShown]
    last_alert: LastAlertShown | None


async def alert(call: Call) -> Response:
    """Take an alert: its severity and action choose by which channels it goes, and how urgent it is."""
    wanted, digest = await read_hashed(call, Alert)
    return await _submit(call, wanted, digest)


async def test(call: Call) -> Response:
    """Send an alert that says it is a test, the way a real one would go; the answer says what goes where."""
    if call.headers.get("content-length", "0") == "0" and "transfer-encoding" not in call.headers:
        return await _submit(call, _spoken(AlertTest()), b"")
    wanted, digest = await read_hashed(call, AlertTest)
    return await _submit(call, _spoken(wanted), digest)


def _spoken(wanted: AlertTest) -> AlertTest:
    message = wanted.message or "This is a test alert. Nothing has happened."
    return wanted.model_copy(update={"message": message, "title": wanted.title or "Test alert"})


async def _submit(call: Call, wanted: AlertTest, digest: bytes) -> Response:
    services, identity = call.services, call.identity
    alerts = services.delivery.alerting
    recipient = wanted.user_id or alerts.settings.recipient
    channels = alerts.routes.channels(wanted.severity, wanted.action, alerts.settings.active)
    priority = alerts.routes.priority(wanted.severity)
    hints = await _hints(call, recipient)
    ways = [Way(channel=channel, to=hints.get(channel)) for channel in channels]
    accepted = await services.ingest.submit(
        Submission(
            tenant_id=identity.tenant_id,
            audience=Users.of(recipient),
            title=wanted.title or title(wanted.severity, wanted.action),
            message=text(wanted.message, wanted.facts) or title(wanted.severity, wanted.action),
            notification_type=wanted.notification_type,
            priority=priority,
            channels=channels,
            metadata=_kept(wanted),
        ),
        identity,
        key=idempotency_key(call),
        body_hash=digest,
        render=lambda stored: (202, _taken(stored, wanted, recipient, ways)),
    )
    if accepted.replayed:
        return answer(accepted.body, accepted.status, {"Idempotent-Replayed": "true"})
    services.metrics.stored(1)
    return answer(accepted.body, accepted.status)


def _kept(wanted: AlertTest) -> dict[str, Any]:
    """What programs read, beside the words for people."""
    facts = {name: value for name, value in wanted.facts.items() if value is not None}
    return {"severity": wanted.severity, **({"action": wanted.action} if wanted.action else {}), **facts}


def _taken(stored: Stored, wanted: AlertTest, recipient: str, ways: list[Way]) -> bytes:
    content = stored.content
    return (
        AlertTaken(
            id=str(content.id),
            status="queued",
            severity=wanted.severity,
            priority=content.priority,
            recipient=recipient,
            channels=ways,
            created_at=content.created_at,
        )
        .model_dump_json()
        .encode()
    )


async def _hints(call: Call, user_id: str) -> dict[str, str]:
    """Where each channel reaches somebody, masked."""
    try:
        person = await call.services.delivery.recipients.get(call.identity.tenant_id, user_id)
    except ServiceError as error:
        if error.code != "not_found":
            raise
        return {}
    return {one.channel: one.hint for one in person.addresses if one.is_primary and one.paused_at is None}


async def status(call: Call) -> Response:
    """How the channels of alerts do: which are active, what went wrong last, what waits, the last alert."""
    delivery, tenant_id = call.services.delivery, call.identity.tenant_id
    alerts = delivery.alerting
    accounts = await delivery.accounts.load()
    backlog = await delivery.accounts.backlog(tenant_id, alerts.routes.named)
    hints = await _hints(call, alerts.settings.recipient)
    shown = [
        _channel(
            channel,
            [account for (of, _, _), account in accounts.items() if of == channel],
            configured=(way := delivery.channels.get(channel)) is not None and way.is_configured,
            active=channel in alerts.settings.active,
            to=hints.get(channel),
            backlog=backlog[channel].open if channel in backlog else 0,
        )
        for channel in alerts.routes.named
    ]
    active = [one for one in shown if one.state in ("ok", "error")]
    last = await delivery.last_alerts.get(tenant_id, KINDS)
    return answer(
        AlertStatus(
            active_channels=[one.channel for one in active],
            last_error={one.channel: one.last_error for one in active},
            backlog=sum(one.backlog for one in shown),
            recipient=alerts.settings.recipient,
            channels=shown,
            last_alert=None
            if last is None
            else LastAlertShown(
                id=str(last.id),
                notification_type=last.notification_type,
                created_at=last.created_at,
                outcome=last.outcome,
            ),
        )
    )


def _channel(
    channel: str, accounts: Sequence[Account], *, configured: bool, active: bool, to: str | None, backlog: int
) -> ChannelShown:
    failed = max((one for one in accounts if one.last_error_at is not None), key=_last_error_at, default=None)
    return ChannelShown(
        channel=channel,
        state=_state(accounts, configured=configured, active=active),
        to=to,
        backlog=backlog,
        last_error=None
        if failed is None
        else LastError(at=_last_error_at(failed), code=failed.last_code, reason=failed.last_reason),
        last_sent_at=max((one.last_sent_at for one in accounts if one.last_sent_at), default=None),
    )


def _state(accounts: Sequence[Account], *, configured: bool, active: bool) -> ChannelState:
    if not configured:
        return "not_configured"
    if not active:
        return "disabled"
    return "error" if any(one.breaker != "closed" or one.failures for one in accounts) else "ok"


def _last_error_at(account: Account) -> datetime:
    return account.last_error_at or datetime.min.replace(tzinfo=UTC)


def operations() -> tuple[Operation, ...]:
    """YoopRL's two, and the inlet that its hooks call."""
    return (
        Operation(
            method="GET",
            path="/api/monitoring/notifications/status",
            handler=status,
            summary="YoopRL: the channels of alerts",
            tag="yooprl",
            scopes=("deliveries:read",),
            answers={200: AlertStatus},
        ),
        Operation(
            method="POST",
            path="/api/monitoring/notifications/test",
            handler=test,
            summary="YoopRL: send a test alert",
            tag="yooprl",
            scopes=("admin",),
            body=AlertTest,
            headers=IDEMPOTENCY,
            answers={202: AlertTaken},
            problems=_KEYED,
            examples={"as it is": {}, "as an order would be sent": {"severity": "info", "action": "BUY"}},
        ),
        Operation(
            method="POST",
            path="/api/monitoring/notifications/alerts",
            handler=alert,
            summary="YoopRL: report what happened",
            tag="yooprl",
            scopes=("notifications:write",),
            body=Alert,
            headers=IDEMPOTENCY,
            answers={202: AlertTaken},
            problems=_KEYED,
            examples={
                "a risk event": {
                    "severity": "warning",
                    "notification_type": "risk_event",
                    "message": "Drawdown limit reached",
                    "pnl": -1250.5,
                },
                "an order": {
                    "action": "SELL",
                    "notification_type": "agent_action",
                    "price": 187.2,
                    "qty": 10,
                },
            },
        ),
    )
