"""From services to many: one POST for one audience (AIVO-7), and ephemeral messages that nobody stores."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from pydantic import ConfigDict, Field, JsonValue
from starlette.responses import Response

from app.api import reading
from app.api.auth import tenant_of
from app.api.models import Answer, Body, TenantId, Topic, UserId, one_of
from app.api.operation import Call, answer
from app.api.reading import idempotency_key, read_hashed
from app.api.submission import Draft, submission, submit, submitted
from core.errors import ServiceError, invalid
from delivery import draft as delivery
from delivery.draft import Everyone, Users

TOPIC = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}\Z"
TENANT = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}\Z"

#: One of these says for whom a broadcast is.
_TARGETS = ("user_id", "user_ids", "topic", "broadcast_to_tenant")


class Broadcast(Draft):
    """A notification for one person, several, whoever follows a topic, or everybody of a tenant."""

    model_config = ConfigDict(json_schema_extra=one_of(*_TARGETS))

    user_id: UserId | None = None
    user_ids: Annotated[list[UserId], Field(min_length=1, max_length=1000)] | None = None
    topic: Topic | None = None
    broadcast_to_tenant: bool = False
    tenant_id: TenantId | None = Field(
        default=None, description="Another tenant than the token's needs the scope tenants:all."
    )


async def broadcast(call: Call) -> Response:
    """
    Store one notification for its audience and show it at once to everybody of it who is connected.

    Exactly one of user_id, user_ids, topic and broadcast_to_tenant says who that is.
    """
    draft, digest = await read_hashed(call, Broadcast)
    tenant_id = tenant_of(call.identity, draft.tenant_id)
    made = submission(draft, tenant_id, audience(draft), call)
    accepted = await submit(made, draft, call, key=idempotency_key(call), body_hash=digest)
    return submitted(accepted, call)


def audience(draft: Broadcast) -> delivery.Audience:
    """Raises ServiceError (invalid) unless exactly one target is named."""
    named = [name for name in _TARGETS if getattr(draft, name)]
    if len(named) != 1:
        found = f"; this names {' and '.join(named)}" if named else ""
        raise ServiceError(
            "invalid",
            "Say for whom this is: exactly one of user_id, user_ids, topic, "
            f"or broadcast_to_tenant: true{found}.",
        )
    if draft.user_id is not None:
        return Users.of(draft.user_id)
    if draft.user_ids is not None:
        return Users.of(*draft.user_ids)
    return delivery.Topic(draft.topic) if draft.topic is not None else Everyone()


class Message(Body):
    """One ephemeral message."""

    channel: Topic
    data: JsonValue


class Publish(Body):
    """One ephemeral message, or up to 1,000 as `messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["channel", "data"], "not": {"required": ["messages"]}},
                {
                    "required": ["messages"],
                    "not": {"anyOf": [{"required": ["channel"]}, {"required": ["data"]}]},
                },
            ]
        }
    )

    # A factory keeps the default out of the schema, and null out of the member.
    channel: Topic = Field(default_factory=str)
    data: JsonValue = Field(default_factory=lambda: None)
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] = Field(default_factory=list)
    tenant_id: TenantId | None = Field(
        default=None, description="Another tenant than the token's needs the scope tenants:all."
    )


class Published(Answer):
    """How many messages went on their way."""

    accepted: int


class _Message(Struct, forbid_unknown_fields=True, gc=False):
    channel: Annotated[str, Meta(pattern=TOPIC)]
    data: Raw  # goes out as it came in


class _Publish(Struct, forbid_unknown_fields=True, gc=False):
    channel: Annotated[str, Meta(pattern=TOPIC)] | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=1000)] | UnsetType = UNSET
    tenant_id: Annotated[str, Meta(pattern=TENANT)] | None = None


_publish = msgspec.json.Decoder(_Publish)


async def publish(call: Call) -> Response:
    """
    Hand messages to whoever listens to their channels now. They are not stored and have no seq; at most once.

    Either `channel` and `data`, or `messages`.
    """
    text = await reading.body(call)
    request = _decoded(text)
    tenant_id = tenant_of(call.identity, request.tenant_id)
    publisher = call.services.publisher
    if request.messages is UNSET:
        if request.channel is UNSET or request.data is UNSET:
            raise invalid("", "Give channel and data, or messages.")
        publisher.publish_message(tenant_id, request.channel, bytes(request.data))
        return answer(b'{"accepted":1}', 202)
    if request.channel is not UNSET or request.data is not UNSET:
        raise invalid("", "Give either channel and data, or messages.")
    for message in request.messages:
        publisher.publish_message(tenant_id, message.channel, bytes(message.data))
    return answer(b'{"accepted":%d}' % len(request.messages), 202)


def _decoded(text: bytes) -> _Publish:
    """
    The request with its data as the bytes they are: this is the way of many small messages.

    Whatever is wrong is looked for again by the model, which finds all of it.
    """
    try:
        if not text.isascii():
            text.decode()  # the decoder skips raw data without looking into its texts; a frame must be UTF-8
        return _publish.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reading.parse(text, Publish)
        message = (
            "The body is no proper JSON object." if not isinstance(error, msgspec.ValidationError) else None
        )
        raise ServiceError("bad_request", message) from None


EXAMPLES: dict[str, Any] = {
    "one person": {
        "title": "IEP Updated: John Doe",
        "message": "The IEP document for John Doe has been updated and requires your review.",
        "notification_type": "iep_update",
        "priority": "high",
        "channels": ["websocket", "push", "in_app"],
        "action_url": "/iep/12345/review",
        "metadata": {"iep_id": "12345", "student_name": "John Doe"},
        "user_id": "teacher-7",
    },
    "everybody of the tenant": {
        "title": "Assessment Complete",
        "message": "A new assessment has been completed and is ready for review.",
        "notification_type": "assessment_complete",
        "broadcast_to_tenant": True,
        "metadata": {"assessment_id": "a-1"},
    },
    "a topic": {"title": "Maintenance", "message": "Tonight at 22:00.", "topic": "announcements"},
}

PUBLISH_EXAMPLES: dict[str, Any] = {
    "one": {"channel": "room:42", "data": {"typing": "ada"}},
    "several": {
        "messages": [
            {"channel": "room:42", "data": {"progress": 0.5}},
            {"channel": "room:43", "data": "done"},
        ]
    },
}
