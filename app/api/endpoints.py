"""Outgoing webhooks: where a tenant is told what becomes of its deliveries, and what people answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints
from starlette.responses import Response

from app.api.models import Answer, Body, unique
from app.api.operation import Call, Operation, answer, nothing
from app.api.reading import read
from core.errors import invalid
from delivery import addresses
from delivery.endpoints_store import Endpoint, NewEndpoint
from delivery.events import EventType

Events = Annotated[
    list[EventType | Literal["*"]],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}, description="`*`: every one."),
    AfterValidator(unique),
]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048), Field(description="With https.")]
Description = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00]*$")]


class NewWebhook(Body):
    """Where somebody wants to be told, of what."""

    url: Url
    events: Events = Field(default=["*"], validate_default=False)
    description: Description | None = None
    is_enabled: bool = True


class WebhookChanges(Body):
    """What is absent stays."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    is_enabled: bool | None = None


class Webhook(Answer):
    """A webhook, without its secret and the rest of its address."""

    id: UUID
    host: str = Field(description="The scheme and host of its address: the rest may be a password.")
    events: list[str]
    description: str | None
    is_enabled: bool
    created_by: str
    created_at: datetime


class CreatedWebhook(Webhook):
    """A webhook, with its secret: nobody can show it again."""

    secret: str = Field(description="Signs each event as Standard Webhooks has it: `whsec_…`.")


class Webhooks(Answer):
    """The oldest first."""

    webhooks: list[Webhook]


class RotatedSecret(Answer):
    """Signs from now on; nobody can show it again."""

    secret: str


class Tested(Answer):
    """The delivery of the test, to be looked up as any other."""

    delivery_id: UUID


async def create(call: Call) -> Response:
    """Be told of what becomes of deliveries, and of what people answer."""
    wanted = await read(call, NewWebhook)
    url, hint = _address(call, wanted.url)
    endpoint, secret = await call.services.delivery.endpoints.create(
        call.identity,
        NewEndpoint(
            url=url,
            hint=hint,
            events=wanted.events,
            description=wanted.description,
            is_enabled=wanted.is_enabled,
        ),
    )
    return answer(CreatedWebhook(**_shown(endpoint).model_dump(), secret=secret), 201)


async def webhooks(call: Call) -> Response:
    """The webhooks of the caller's tenant, at most 50."""
    found = await call.services.delivery.endpoints.of_tenant(call.identity.tenant_id)
    return answer(Webhooks(webhooks=[_shown(endpoint) for endpoint in found]))


async def webhook(call: Call) -> Response:
    """One webhook of the caller's tenant."""
    found = await call.services.delivery.endpoints.find(
        call.identity.tenant_id, call.id_in_path("webhook_id")
    )
    return answer(_shown(found))


async def change(call: Call) -> Response:
    """Change what is named. What waits for a webhook that is switched off is cancelled."""
    wanted = await read(call, WebhookChanges)
    changed = await call.services.delivery.endpoints.change(
        call.identity,
        call.id_in_path("webhook_id"),
        url=None if wanted.url is None else _address(call, wanted.url),
        events=wanted.events,
        description=wanted.description,
        is_enabled=wanted.is_enabled,
    )
    return answer(_shown(changed))


async def delete(call: Call) -> Response:
    """Tell it nothing more; what waits for it is cancelled."""
    await call.services.delivery.endpoints.delete(call.identity, call.id_in_path("webhook_id"))
    return nothing()


async def rotate(call: Call) -> Response:
    """A new secret. The one before it signs nothing more."""
    secret = await call.services.delivery.endpoints.rotate(call.identity, call.id_in_path("webhook_id"))
    return answer(RotatedSecret(secret=secret))


async def test(call: Call) -> Response:
    """Tell it `webhook.test`, whatever it is asked to be told."""
    delivery_id = await call.services.delivery.endpoints.test(
        call.identity.tenant_id, call.id_in_path("webhook_id")
    )
    call.services.delivery.wake()
    return answer(Tested(delivery_id=delivery_id), 202)


def _address(call: Call, text: str) -> tuple[str, str]:
    """The address in its one form, and what of it may be shown. Raises ServiceError (invalid)."""
    try:
        url = addresses.normalise(
            "webhook", text, None, plain_http=call.services.delivery.recipients.plain_http
        )
    except ValueError as error:  # one of its own sentences
        raise invalid("url", str(error)) from None
    return url, addresses.hint("webhook", url)


def _shown(endpoint: Endpoint) -> Webhook:
    return Webhook(
        id=endpoint.id,
        host=endpoint.hint,
        events=list(endpoint.events),
        description=endpoint.description,
        is_enabled=endpoint.is_enabled,
        created_by=endpoint.created_by,
        created_at=endpoint.created_at,
    )


_ALL = "/api/v1/webhooks"
_ONE = "/api/v1/webhooks/{webhook_id:uuid}"
_ADMIN = ("admin",)


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="POST",
            path=_ALL,
            handler=create,
            summary="Make a webhook",
            tag="webhooks",
            scopes=_ADMIN,
            body=NewWebhook,
            answers={201: CreatedWebhook},
            problems=("conflict",),
            examples={
                "of failures": {
                    "url": "https://hooks.example.com/carillon",
                    "events": ["delivery.failed", "delivery.undelivered"],
                }
            },
        ),
        Operation(
            method="GET",
            path=_ALL,
            handler=webhooks,
            summary="List webhooks",
            tag="webhooks",
            scopes=_ADMIN,
            answers={200: Webhooks},
        ),
        Operation(
            method="GET",
            path=_ONE,
            handler=webhook,
            summary="Look up a webhook",
            tag="webhooks",
            scopes=_ADMIN,
            answers={200: Webhook},
        ),
        Operation(
            method="PATCH",
            path=_ONE,
            handler=change,
            summary="Change a webhook",
            tag="webhooks",
            scopes=_ADMIN,
            body=WebhookChanges,
            answers={200: Webhook},
            examples={"switch it off": {"is_enabled": False}},
        ),
        Operation(
            method="DELETE",
            path=_ONE,
            handler=delete,
            summary="Delete a webhook",
            tag="webhooks",
            scopes=_ADMIN,
            answers={204: None},
        ),
        Operation(
            method="POST",
            path=f"{_ONE}/rotate",
            handler=rotate,
            summary="Give a webhook another secret",
            tag="webhooks",
            scopes=_ADMIN,
            answers={200: RotatedSecret},
        ),
        Operation(
            method="POST",
            path=f"{_ONE}/test",
            handler=test,
            summary="Test a webhook",
            tag="webhooks",
            scopes=_ADMIN,
            answers={202: Tested},
            problems=("conflict",),
        ),
    )
