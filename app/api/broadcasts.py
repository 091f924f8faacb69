"""Notifications for many on their way out: how far they are; paused, resumed, cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field
from starlette.responses import Response

from app.api.models import Answer, Parameters, Whole
from app.api.operation import Call, Operation, answer
from app.api.reading import query
from core.identity import Identity
from delivery.broadcasts_store import Broadcast, State


class BroadcastsQuery(Parameters):
    """Which page."""

    limit: Annotated[Whole, Field(ge=1, le=500)] = 50
    cursor: UUID | None = Field(default=None, description="The next_cursor of the page before.")


class BroadcastAnswer(Answer):
    """How far a notification for many is."""

    model_config = ConfigDict(title="BroadcastInProgress")

    notification_id: UUID
    channels: list[str]
    state: State
    people: int = Field(description="Looked at so far.")
    deliveries: int = Field(description="Written so far: by people and channels.")
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class Progress(BroadcastAnswer):
    """And what became of its deliveries."""

    model_config = ConfigDict(title="BroadcastProgress")

    by_state: dict[str, int] = Field(
        description="How many deliveries are in which state; of 100,000 at most."
    )


class BroadcastsPage(Answer):
    """The newest first."""

    broadcasts: list[BroadcastAnswer]
    next_cursor: UUID | None = Field(description="null: nothing older.")


async def broadcasts(call: Call) -> Response:
    """Notifications of the caller's tenant that go to all of it, or to a topic, by channels with providers."""
    wanted = query(call, BroadcastsQuery)
    listing = await call.services.delivery.broadcasts.list(
        call.identity.tenant_id, cursor=wanted.cursor, limit=wanted.limit
    )
    return answer(
        {
            "broadcasts": [_shown(one, "by_state") for one in listing.broadcasts],
            "next_cursor": listing.next_cursor,
        }
    )


async def progress(call: Call) -> Response:
    """How far one is."""
    store = call.services.delivery.broadcasts
    return answer(_shown(await store.progress(call.identity.tenant_id, call.id_in_path())))


async def pause(call: Call) -> Response:
    """Write no more deliveries for now; those that are written go out. Twice is once."""
    return await _steer(call, call.services.delivery.broadcasts.pause)


async def resume(call: Call) -> Response:
    """Go on where it was paused; twice is once."""
    steered = await _steer(call, call.services.delivery.broadcasts.resume)
    call.services.delivery.wake()
    return steered


async def cancel(call: Call) -> Response:
    """
    Write no more, and let what has not gone out not go out; twice is once. What a worker has in hand at that
    moment may still go out.
    """
    return await _steer(call, call.services.delivery.broadcasts.cancel)


async def _steer(call: Call, act: Callable[[Identity, UUID], Awaitable[Broadcast]]) -> Response:
    return answer(_shown(await act(call.identity, call.id_in_path())))


def _shown(broadcast: Broadcast, *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(broadcast).items() if name not in left_out}


_ONE = "/api/v1/broadcasts/{notification_id:uuid}"


def operations() -> tuple[Operation, ...]:
    steering = [
        ("pause", pause, "Pause a broadcast", ("conflict",)),
        ("resume", resume, "Resume a broadcast", ("conflict",)),
        ("cancel", cancel, "Cancel a broadcast", ()),
    ]
    return (
        Operation(
            method="GET",
            path="/api/v1/broadcasts",
            handler=broadcasts,
            summary="List broadcasts",
            tag="deliveries",
            scopes=("deliveries:read",),
            query=BroadcastsQuery,
            answers={200: BroadcastsPage},
        ),
        Operation(
            method="GET",
            path=_ONE,
            handler=progress,
            summary="Get the progress of a broadcast",
            tag="deliveries",
            scopes=("deliveries:read",),
            answers={200: Progress},
        ),
        *(
            Operation(
                method="POST",
                path=f"{_ONE}/{part}",
                handler=handler,
                summary=summary,
                tag="deliveries",
                scopes=("notifications:write",),
                answers={200: Progress},
                problems=problems,
            )
            for part, handler, summary, problems in steering
        ),
    )
