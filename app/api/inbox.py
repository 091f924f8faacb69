"""A person's inbox: the list, the counts, and what they do with their notifications."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from app.api.models import (
    Answer,
    Body,
    Content,
    Moment,
    NotificationType,
    Parameters,
    PriorityName,
    UnreadCount,
    Whole,
    one_of,
    unique,
)
from app.api.operation import Call, Handler, answer
from app.api.reading import query, read
from core.streams import wire_name
from delivery.inbox import Selection, State
from hub.inbox import StateChange

#: A stream by its wire name.
Stream = Annotated[
    str, StringConstraints(pattern=r"^(user|tenant|topic:[A-Za-z0-9][A-Za-z0-9._:/-]{0,126})$")
]
Types = Annotated[list[NotificationType], Field(min_length=1, max_length=32)]
Streams = Annotated[list[Stream], Field(min_length=1, max_length=32)]


def _integral(value: Any) -> Any:
    """7.0 is an integer to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Position = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_integral)]


class InboxQuery(Parameters):
    """Which notifications, and which page of them."""

    limit: Annotated[Whole, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,200}$")] | None = Field(
        default=None, description="The next_cursor of the page before."
    )
    state: State = Field(default="all", description="all: neither archived nor snoozed.")
    type: Types | None = None
    min_priority: PriorityName | None = None
    stream: Streams | None = None


class Listed(Content):
    """A notification and what its reader did with it."""

    stream: str = Field(description="Where it stands, by the wire name.")
    seq: int
    read: bool
    seen: bool
    archived: bool
    snoozed_until: datetime | None


class Page(Answer):
    """Newest first."""

    notifications: list[Listed]
    next_cursor: str | None = Field(description="null: nothing older matches.")
    unread_count: UnreadCount


class Counts(Answer):
    """What is unread, at the positions that the count is true for."""

    unread: UnreadCount
    unseen: UnreadCount
    positions: dict[str, int]


class Changed(Answer):
    """The change was made, or was so already."""

    unread_count: UnreadCount


class BulkChanged(Changed):
    """The change was made to what was named, or to the newest 1,000 of what was selected."""

    more: bool = Field(description="More may match: repeat it.")


class Snooze(Body):
    """Until when."""

    until: Moment


class ReadAll(Body):
    """Up to where."""

    positions: (
        Annotated[
            dict[Stream, Position], Field(max_length=1000, json_schema_extra={"additionalProperties": False})
        ]
        | None
    ) = Field(default=None, description="By the wire names of streams; without it, up to now.")


class Filter(Body):
    """A selection, as the parameters of the list say it."""

    state: State = "all"
    types: Types | None = None
    min_priority: PriorityName | None = None
    streams: Streams | None = None


class Bulk(Body):
    """One change to several notifications: those named, or those selected."""

    model_config = ConfigDict(json_schema_extra=one_of("notification_ids", "filter"))

    change: Literal["read", "unread", "seen", "archived", "unarchived", "snoozed"]
    notification_ids: (
        Annotated[
            list[UUID],
            Field(min_length=1, max_length=500, json_schema_extra={"uniqueItems": True}),
            AfterValidator(unique),
        ]
        | None
    ) = None
    filter: Filter | None = None
    until: Moment | None = Field(default=None, description="Belongs to snoozed, and only there.")

    @model_validator(mode="after")
    def _is_whole(self) -> Bulk:
        if (self.notification_ids is None) == (self.filter is None):
            raise ValueError("Give either notification_ids or filter.")
        if (self.until is None) == (self.change == "snoozed"):
            raise ValueError("until belongs to snoozed, and only there.")
        return self


async def page(call: Call) -> Response:
    """The caller's own notifications, newest first; not those recalled or expired."""
    wanted = query(call, InboxQuery)
    listing = await call.services.inbox.list(
        call.identity,
        selection=Selection(
            state=wanted.state, types=wanted.type, min_priority=wanted.min_priority, streams=wanted.stream
        ),
        cursor=wanted.cursor,
        limit=wanted.limit,
    )
    return answer(listing._asdict())


async def counts(call: Call) -> Response:
    """How many of the caller's notifications are unread, and how many they have not even seen."""
    inbox = call.services.inbox
    membership = await inbox.membership(call.identity)
    unseen = (await inbox.counts(call.identity)).unseen
    positions = {wire_name(key.name): seq for key, seq in membership.positions.items()}
    return answer(Counts(unread=membership.unread_count, unseen=unseen, positions=positions))


def changing(change: StateChange, meaning: str) -> Handler:
    """The handler that applies one change to the notification in the path; `meaning` is its description."""

    async def handler(call: Call) -> Response:
        unread = await call.services.inbox.change(call.identity, change, [call.id_in_path()])
        return answer(Changed(unread_count=unread))

    handler.__name__, handler.__doc__ = change, meaning
    return handler


async def snooze(call: Call) -> Response:
    """Out of the list until a moment, then back in it, unread."""
    wanted = await read(call, Snooze)
    unread = await call.services.inbox.change(
        call.identity, "snoozed", [call.id_in_path()], until=wanted.until
    )
    return answer(Changed(unread_count=unread))


async def read_all(call: Call) -> Response:
    """Everything up to positions is read; without positions, everything there is."""
    wanted = await read(call, ReadAll)
    unread = await call.services.inbox.read_all(call.identity, wanted.positions)
    return answer(Changed(unread_count=unread))


async def bulk(call: Call) -> Response:
    """All of the named notifications change, or none; of the selected ones, the newest 1,000."""
    wanted = await read(call, Bulk)
    inbox = call.services.inbox
    if wanted.notification_ids is not None:
        unread = await inbox.change(call.identity, wanted.change, wanted.notification_ids, until=wanted.until)
        return answer(BulkChanged(unread_count=unread, more=False))
    chosen = wanted.filter or Filter()
    selection = Selection(
        state=chosen.state, types=chosen.types, min_priority=chosen.min_priority, streams=chosen.streams
    )
    done = await inbox.change_where(call.identity, wanted.change, selection, until=wanted.until)
    return answer(BulkChanged(unread_count=done.unread_count, more=done.more))
