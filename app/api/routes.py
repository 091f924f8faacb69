"""Every path of the service in one table. The Starlette routes and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec
from starlette.responses import Response

from app.api import broadcast, docs, health, notifications
from app.api.broadcast import Broadcast, Publish, Published
from app.api.health import Alive, HealthAnswer, WebSocketStatus
from app.api.notifications import NewNotification
from app.api.openapi import document
from app.api.operation import PUBLIC, Call, Operation, answer
from app.api.submission import AIVO_NOTIFICATION, IDEMPOTENCY, Submitted

_KEYED = ("idempotency_in_flight", "idempotency_mismatch")


def public() -> list[Operation]:
    """What people and other services reach."""
    return [operation for operation in everything() if not operation.internal]


def internal() -> list[Operation]:
    """What only this installation's own services need; may be bound to a listener of its own."""
    return [operation for operation in everything() if operation.internal]


async def openapi(call: Call) -> Response:
    """This description."""
    return answer(_described(call.services.settings.version))


@cache
def _described(version: str) -> bytes:
    return msgspec.json.encode(document(everything(), version=version))


@cache
def everything() -> Sequence[Operation]:
    """The table. Fixed paths stand before those with parameters that would match them too."""
    return (
        Operation(
            method="POST",
            path="/internal/publish",
            handler=broadcast.publish,
            summary="Send ephemeral messages",
            tag="broadcast",
            scopes=("publish",),
            body=Publish,
            answers={202: Published},
            problems=("not_found",),
            examples=broadcast.PUBLISH_EXAMPLES,
            internal=True,
        ),
        Operation(
            method="POST",
            path="/internal/broadcast",
            handler=broadcast.broadcast,
            summary="Send one notification to many",
            tag="broadcast",
            scopes=("broadcast",),
            body=Broadcast,
            headers=IDEMPOTENCY,
            answers={201: Submitted},
            problems=("not_found", *_KEYED),
            examples=broadcast.EXAMPLES,
            internal=True,
        ),
        Operation(
            method="POST",
            path="/api/v1/notifications",
            handler=notifications.create,
            summary="Submit a notification",
            tag="notifications",
            body=NewNotification,
            headers=IDEMPOTENCY,
            answers={201: Submitted},
            problems=_KEYED,
            examples={
                "to oneself": AIVO_NOTIFICATION,
                "to several people": AIVO_NOTIFICATION | {"recipients": ["ada", {"user_id": "bob"}]},
            },
        ),
        Operation(
            method="GET",
            path="/health",
            handler=health.health,
            summary="What this node depends on",
            tag="operations",
            scopes=PUBLIC,
            answers={200: HealthAnswer, 503: HealthAnswer},
        ),
        Operation(
            method="GET",
            path="/livez",
            handler=health.livez,
            summary="Whether this process answers",
            tag="operations",
            scopes=PUBLIC,
            answers={200: Alive},
        ),
        Operation(
            method="GET",
            path="/ws/status",
            handler=health.websocket_status,
            summary="The state of live delivery",
            tag="operations",
            scopes=PUBLIC,
            optional_token=True,
            answers={200: WebSocketStatus},
            problems=("unavailable",),
        ),
        Operation(
            method="GET",
            path="/metrics",
            handler=health.metrics,
            summary="Prometheus' numbers",
            tag="operations",
            scopes=PUBLIC,
            optional_token=True,
            answers={200: "text/plain"},
            problems=("forbidden",),
            internal=True,
        ),
        Operation(
            method="GET",
            path="/openapi.json",
            handler=openapi,
            summary="This description",
            tag="docs",
            scopes=PUBLIC,
            answers={200: "application/json"},
        ),
        Operation(
            method="GET",
            path="/docs",
            handler=docs.page,
            summary="The documentation of this API",
            tag="docs",
            scopes=PUBLIC,
            answers={200: "text/html"},
        ),
        Operation(
            method="GET",
            path="/docs/{asset}",
            handler=docs.asset,
            summary="A script or style of the docs page",
            tag="docs",
            scopes=PUBLIC,
            answers={200: "text/plain"},
        ),
    )
