"""Who is there now, and how many listen to a channel (G-27)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import Answer, Parameters, UserId
from app.api.operation import Call, answer
from app.api.reading import query
from core.errors import invalid, not_found
from core.streams import is_topic
from hub.node import channel_lease


class PresenceQuery(Parameters):
    """Of whom."""

    user_id: Annotated[list[UserId], Field(min_length=1, max_length=100)]


class Person(Answer):
    """One person, over all nodes."""

    online: bool
    looking: bool = Field(description="A page of theirs is visible.")
    connections: int
    last_seen_at: datetime | None = Field(description="null: never, or forgotten.")


class People(Answer):
    """By user id."""

    users: dict[str, Person]


class ChannelPresence(Answer):
    """One channel, over all nodes."""

    connections: int = Field(description="That listen to it; of other nodes as of 20 s ago at most.")


async def people(call: Call) -> Response:
    """Of each, whether they are there now. A person's token asks for that person only."""
    wanted = query(call, PresenceQuery).user_id
    identity = call.identity
    if not identity.is_service and set(wanted) != {identity.user_id}:
        raise InsufficientScope(["notifications:write"])
    found = await call.services.presence.online(identity.tenant_id, wanted)
    return answer(
        People(
            users={
                user_id: Person(
                    online=seen.online,
                    looking=seen.looking,
                    connections=seen.connections,
                    last_seen_at=seen.at,
                )
                for user_id, seen in found.items()
            }
        )
    )


async def channel(call: Call) -> Response:
    """How many connections of the tenant listen to a channel now."""
    name: str = call.path_params["channel"]
    if not is_topic(name):
        raise invalid("channel", "is no name of a channel")
    identity, node = call.identity, call.services.node
    if not (identity.is_service or node.channels.may_subscribe(identity, name)):
        raise not_found("channel")
    elsewhere = await call.services.presence.connections(
        identity.tenant_id, channel_lease(name), besides=node.hub.node
    )
    return answer(ChannelPresence(connections=node.hub.listeners(identity.tenant_id, name) + elsewhere))
