"""What a sandbox has kept from going out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from app.api.models import Answer, Parameters, ProviderChannel, Whole
from app.api.operation import Call, Operation, answer, nothing
from app.api.reading import query


class SandboxQuery(Parameters):
    """Which messages, and which page of them."""

    limit: Annotated[Whole, Field(ge=1, le=500)] = 50
    cursor: UUID | None = Field(default=None, description="The next_cursor of the page before.")
    channel: ProviderChannel | None = None


class CapturedAnswer(Answer):
    """A message that reached nobody."""

    id: UUID
    delivery_id: UUID
    channel: str
    to: str = Field(description="Masked.")
    captured_at: datetime
    title: str
    text: str
    notification_type: str
    priority: str
    action_url: str | None
    metadata: dict[str, Any]
    recipient_id: str | None
    locale: str | None
    attempt: int
    event: dict[str, Any] | None = Field(description="Of what an endpoint would have been told.")


class SandboxPage(Answer):
    """The newest first."""

    messages: list[CapturedAnswer]
    next_cursor: UUID | None = Field(description="null: nothing older.")


async def messages(call: Call) -> Response:
    """What the sandbox has captured in the caller's tenant; none where messages go out (DELIVERY_MODE=live)."""
    wanted = query(call, SandboxQuery)
    found = await call.services.delivery.sandbox.list(
        call.identity.tenant_id, channel=wanted.channel, cursor=wanted.cursor, limit=wanted.limit
    )
    shown = [
        CapturedAnswer(
            id=one.id,
            delivery_id=one.delivery_id,
            channel=one.channel,
            to=one.hint,
            captured_at=one.captured_at,
            **one.says,
        )
        for one in found
    ]
    return answer(
        SandboxPage(messages=shown, next_cursor=found[-1].id if len(found) == wanted.limit else None)
    )


async def clear(call: Call) -> Response:
    """Forget all that was captured in the caller's tenant."""
    await call.services.delivery.sandbox.clear(call.identity.tenant_id)
    return nothing()


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/api/v1/sandbox/messages",
            handler=messages,
            summary="List captured messages",
            tag="deliveries",
            scopes=("admin",),
            query=SandboxQuery,
            answers={200: SandboxPage},
        ),
        Operation(
            method="DELETE",
            path="/api/v1/sandbox/messages",
            handler=clear,
            summary="Forget captured messages",
            tag="deliveries",
            scopes=("admin",),
            answers={204: None},
        ),
    )
