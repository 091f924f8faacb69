"""What people have answered, to be read by whoever may read deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from app.api.models import Answer, Parameters, UserId, Whole
from app.api.operation import Call, Operation, answer
from app.api.reading import query
from delivery.inbound_store import StoredInbound


class InboundQuery(Parameters):
    """The newest first."""

    user_id: UserId | None = Field(default=None, description="Of one person.")
    before: UUID | None = Field(default=None, description="An id: the older ones follow.")
    limit: Annotated[Whole, Field(ge=1, le=100, json_schema_extra={"minimum": 1, "maximum": 100})] = (
        50  # pydantic loses the bounds of a number that is read from text
    )


class InboundMessage(Answer):
    """Words, a tap on a button, or a keyword."""

    id: UUID
    user_id: str
    channel: str
    provider: str
    kind: Literal["reply", "tap", "stop", "start", "help"]
    text: str
    payload: str | None = Field(description="Of the button.")
    delivery_id: UUID | None = Field(description="What it answers, where that is known.")
    received_at: datetime


class InboundPage(Answer):
    """before: for the next page; null: there is none."""

    messages: list[InboundMessage]
    before: UUID | None


async def page(call: Call) -> Response:
    """What the people of the caller's tenant have answered, the newest first."""
    asked = query(call, InboundQuery)
    found = await call.services.delivery.inbound.page(
        call.identity.tenant_id, user_id=asked.user_id, before=asked.before, limit=asked.limit
    )
    before = found[-1].id if len(found) == asked.limit else None
    return answer(InboundPage(messages=[_shown(one) for one in found], before=before))


async def message(call: Call) -> Response:
    """One message that came in."""
    found = await call.services.delivery.inbound.find(call.identity.tenant_id, call.id_in_path("message_id"))
    return answer(_shown(found))


def _shown(one: StoredInbound) -> InboundMessage:
    return InboundMessage(
        id=one.id,
        user_id=one.user_id,
        channel=one.channel,
        provider=one.provider,
        kind=one.kind,
        text=one.text,
        payload=one.payload,
        delivery_id=one.delivery_id,
        received_at=one.received_at,
    )


def operations() -> tuple[Operation, ...]:
    scopes = ("deliveries:read",)
    return (
        Operation(
            method="GET",
            path="/api/v1/inbound",
            handler=page,
            summary="List what people have answered",
            tag="inbound",
            scopes=scopes,
            query=InboundQuery,
            answers={200: InboundPage},
        ),
        Operation(
            method="GET",
            path="/api/v1/inbound/{message_id:uuid}",
            handler=message,
            summary="Look up an answer",
            tag="inbound",
            scopes=scopes,
            answers={200: InboundMessage},
        ),
    )
