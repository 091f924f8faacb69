"""Every path of the service in one table. The Starlette routes and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import msgspec
from starlette.responses import Response

from app.api import (
    asyncapi,
    audit,
    broadcast,
    broadcasts,
    channels,
    deliveries,
    digest,
    docs,
    endpoints,
    events,
    health,
    inbound,
    inbox,
    keryu,
    keys,
    notifications,
    preferences,
    preferences_page,
    presence,
    provider_hooks,
    push,
    recipients,
    sandbox,
    telegram,
    tenant_settings,
    tickets,
    tokens,
    topics,
    unsubscribe,
    yoop,
)
from app.api.broadcast import Broadcast, Publish, Published
from app.api.events import EventsPage, EventsQuery
from app.api.health import Alive, HealthAnswer, WebSocketStatus
from app.api.inbox import Bulk, BulkChanged, Changed, Counts, InboxQuery, Page, ReadAll, Snooze
from app.api.keys import CreatedKey, Keys, NewKey
from app.api.notifications import Found, NewNotification, Produced, Update
from app.api.openapi import document
from app.api.operation import EVENT_STREAM, PUBLIC, Call, Operation, answer
from app.api.presence import ChannelPresence, People, PresenceQuery
from app.api.submission import AIVO_NOTIFICATION, IDEMPOTENCY, Submitted
from app.api.tickets import TicketAnswer
from app.api.tokens import Revocation
from app.api.topics import Topics
from hub.inbox import StateChange

_KEYED = ("idempotency_in_flight", "idempotency_mismatch")


def public() -> list[Operation]:
    """What people and other services reach."""
    return [operation for operation in everything() if not operation.internal]


def internal() -> list[Operation]:
    """What only this installation's own services need; may be bound to a listener of its own."""
    return [operation for operation in everything() if operation.internal]


def watching() -> list[Operation]:
    """What a process without clients answers: to whoever watches over it."""
    return [operation for operation in everything() if operation.path in {"/health", "/livez", "/metrics"}]


async def openapi(call: Call) -> Response:
    """This description."""
    return answer(_described(call.services.settings.version))


@cache
def _described(version: str) -> bytes:
    return msgspec.json.encode(document(everything(), version=version))


async def asyncapi_document(call: Call) -> Response:
    """The AsyncAPI 3.0 description of /ws/notify."""
    return answer(_protocol_described(call.services.settings.version))


@cache
def _protocol_described(version: str) -> bytes:
    return msgspec.json.encode(asyncapi.document(version))


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
        *_inbox(),
        *_one(),
        *_events(),
        *_topics(),
        *_presence(),
        *_identities(),
        *_delivery(),
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
            path="/asyncapi.json",
            handler=asyncapi_document,
            summary="The WebSocket protocol",
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
            answers={200: "text/javascript"},
            also="text/css",
        ),
    )


#: What a person does with one notification: the last part of the path, the change, words for both.
_CHANGES: Sequence[tuple[str, StateChange, str, str]] = (
    ("read", "read", "Mark read", "Read, and so seen; a snooze ends."),
    ("unread", "unread", "Mark unread", "Unread again; a snooze ends."),
    ("seen", "seen", "Mark seen", "Noticed in a list, not opened."),
    ("archive", "archived", "Archive", "Out of the list, and not counted; a snooze ends."),
    ("unarchive", "unarchived", "Take out of the archive", "Back in the list, as it was before."),
)
_ONE = "/api/v1/notifications/{notification_id:uuid}"


def _inbox() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/api/v1/notifications",
        handler=inbox.page,
        summary="List one's notifications",
        tag="inbox",
        query=InboxQuery,
        answers={200: Page},
    )
    yield Operation(
        method="GET",
        path="/api/v1/notifications/counts",
        handler=inbox.counts,
        summary="Count what is unread",
        tag="inbox",
        answers={200: Counts},
    )
    yield Operation(
        method="POST",
        path="/api/v1/notifications/read-all",
        handler=inbox.read_all,
        summary="Mark everything read",
        tag="inbox",
        body=ReadAll,
        answers={200: Changed},
        problems=("not_found",),
        examples={"up to now": {}, "up to what the reader saw": {"positions": {"user": 0}}},
    )
    yield Operation(
        method="POST",
        path="/api/v1/notifications/bulk",
        handler=inbox.bulk,
        summary="Change several notifications",
        tag="inbox",
        body=Bulk,
        answers={200: BulkChanged},
        problems=("not_found",),
        examples={"archive what is read": {"change": "archived", "filter": {"state": "read"}}},
    )
    for part, change, summary, meaning in _CHANGES:
        yield Operation(
            method="POST",
            path=f"{_ONE}/{part}",
            handler=inbox.changing(change, meaning),
            summary=summary,
            tag="inbox",
            answers={200: Changed},
        )
    yield Operation(
        method="POST",
        path=f"{_ONE}/snooze",
        handler=inbox.snooze,
        summary="Snooze",
        tag="inbox",
        body=Snooze,
        answers={200: Changed},
        examples={"for long": {"until": "2100-01-31T09:00:00Z"}},
    )


def _one() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path=_ONE,
        handler=notifications.find,
        summary="Look up a notification",
        tag="notifications",
        answers={200: Found},
    )
    yield Operation(
        method="PATCH",
        path=_ONE,
        handler=notifications.update,
        summary="Update a notification",
        tag="notifications",
        body=Update,
        answers={200: Produced},
        problems=("conflict",),
        examples={"another title": {"title": "IEP Document Updated Again"}},
    )
    yield Operation(
        method="DELETE",
        path=_ONE,
        handler=notifications.recall,
        summary="Recall a notification",
        tag="notifications",
        answers={204: None},
        problems=("conflict",),
    )
    yield Operation(
        method="POST",
        path=f"{_ONE}/cancel",
        handler=notifications.cancel,
        summary="Cancel a scheduled notification",
        tag="notifications",
        answers={200: Produced},
        problems=("conflict",),
    )


def _events() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/api/v1/events",
        handler=events.events,
        summary="The WebSocket's events without one",
        tag="events",
        query=EventsQuery,
        headers={"Last-Event-ID": {"type": "string"}},
        answers={200: EventsPage},
        also=EVENT_STREAM,
    )


def _topics() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/api/v1/topics",
        handler=topics.topics,
        summary="List followed topics",
        tag="topics",
        answers={200: Topics},
    )
    for method, part, handler, summary in (
        ("PUT", "follow", topics.follow, "Follow a topic"),
        ("DELETE", "follow", topics.unfollow, "Leave a topic"),
        ("PUT", "mute", topics.mute, "Mute a topic"),
        ("DELETE", "mute", topics.unmute, "Unmute a topic"),
    ):
        yield Operation(
            method=method,
            path=f"/api/v1/topics/{{topic:path}}/{part}",
            handler=handler,
            summary=summary,
            tag="topics",
            answers={204: None},
            problems=("conflict", "invalid"),
        )


def _presence() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/api/v1/presence",
        handler=presence.people,
        summary="Who is there now",
        tag="presence",
        query=PresenceQuery,
        answers={200: People},
    )
    yield Operation(
        method="GET",
        path="/api/v1/channels/{channel:path}/presence",
        handler=presence.channel,
        summary="How many listen to a channel",
        tag="presence",
        answers={200: ChannelPresence},
        problems=("invalid",),
    )


def _identities() -> Iterator[Operation]:
    yield Operation(
        method="POST",
        path="/api/v1/ws/ticket",
        handler=tickets.ticket,
        summary="Get a WebSocket ticket",
        tag="identity",
        answers={201: TicketAnswer},
    )
    yield Operation(
        method="POST",
        path="/api/v1/tokens/revoke",
        handler=tokens.revoke,
        summary="Revoke tokens",
        tag="identity",
        scopes=("admin",),
        body=Revocation,
        answers={204: None},
        problems=("not_found",),
        examples={"a person": {"user_id": "ada"}, "a token": {"token_id": "7f9c"}},
    )
    yield Operation(
        method="POST",
        path="/api/v1/api-keys",
        handler=keys.create,
        summary="Make an API key",
        tag="identity",
        scopes=("admin",),
        body=NewKey,
        answers={201: CreatedKey},
        examples={"of a service": {"name": "IEP service", "scopes": ["broadcast", "publish"]}},
    )
    yield Operation(
        method="GET",
        path="/api/v1/api-keys",
        handler=keys.keys,
        summary="List API keys",
        tag="identity",
        scopes=("admin",),
        answers={200: Keys},
    )
    yield Operation(
        method="DELETE",
        path="/api/v1/api-keys/{key_id}",
        handler=keys.revoke,
        summary="Revoke an API key",
        tag="identity",
        scopes=("admin",),
        answers={204: None},
    )


def _delivery() -> list[Operation]:
    """Deliveries by the other channels: each module lists its own."""
    return [
        *preferences.operations(),
        *unsubscribe.operations(),
        *preferences_page.operations(),
        *recipients.operations(),
        *tenant_settings.operations(),
        *keryu.operations(),
        *yoop.operations(),
        *endpoints.operations(),
        *inbound.operations(),
        *telegram.operations(),
        *provider_hooks.operations(),
        *deliveries.operations(),
        *broadcasts.operations(),
        *channels.operations(),
        *sandbox.operations(),
        *push.operations(),
        *audit.operations(),
        *digest.operations(),
    ]
