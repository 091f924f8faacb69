"""One notification: submitted, looked up, updated, recalled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import Body, Topic, UserId
from app.api.operation import Call
from app.api.reading import idempotency_key, read_hashed
from app.api.submission import Draft, submission, submitted
from core.errors import ServiceError
from core.identity import Identity
from delivery import draft as delivery
from delivery.draft import Everyone, Users

_TARGETS = ("user_id", "recipients", "topic", "broadcast_to_tenant")


class NamedUser(Body):
    """A person, by the name that their token carries as `sub`."""

    user_id: UserId


def _named_user(value: Any) -> Any:
    """Only the name stands for the whole object."""
    return {"user_id": value} if isinstance(value, str) else value


class NewNotification(Draft):
    """A notification. A person sends to themselves; a service says to whom."""

    user_id: UserId | None = None
    recipients: (
        Annotated[
            list[
                Annotated[NamedUser, BeforeValidator(_named_user, json_schema_input_type=UserId | NamedUser)]
            ],
            Field(min_length=1, max_length=1000, description="Each a name, or an object with user_id."),
        ]
        | None
    ) = None
    topic: Topic | None = None
    broadcast_to_tenant: bool = False


async def create(call: Call) -> Response:
    """
    Store a notification and show it at once to everybody whom it concerns and who is connected.

    A person's token sends to that person. A token with the scope notifications:write names at most one of
    user_id, recipients, topic and broadcast_to_tenant; without any of them it is refused, since a service
    has no inbox.
    """
    draft, digest = await read_hashed(call, NewNotification)
    accepted = await call.services.ingest.submit(
        submission(draft, call.identity.tenant_id, audience(draft, call.identity), call),
        call.identity,
        key=idempotency_key(call),
        body_hash=digest,
    )
    return submitted(accepted, call)


def audience(draft: NewNotification, sender: Identity) -> delivery.Audience:
    """
    Whom a draft is for (X-14).

    Raises ServiceError: invalid when several audiences are named, or none where the sender is no person;
    forbidden when a person names anybody but themselves.
    """
    named = [name for name in _TARGETS if getattr(draft, name)]
    if len(named) > 1:
        raise ServiceError("invalid", f"Name one audience; this names {' and '.join(named)}.")
    wanted = _named(draft)
    if wanted is None:
        if sender.kind == "user":
            return Users.of(sender.user_id)
        raise ServiceError(
            "invalid", "Say for whom this is: user_id, recipients, topic, or broadcast_to_tenant: true."
        )
    if wanted != Users.of(sender.user_id) and not sender.has("notifications:write"):
        raise InsufficientScope(["notifications:write"])
    return wanted


def _named(draft: NewNotification) -> delivery.Audience | None:
    if draft.user_id is not None:
        return Users.of(draft.user_id)
    if draft.recipients is not None:
        return Users.of(*(one.user_id for one in draft.recipients))
    if draft.topic is not None:
        return delivery.Topic(draft.topic)
    return Everyone() if draft.broadcast_to_tenant else None
