"""What became of a notification on its way by e-mail, SMS and the rest, and what an operator does about it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from app.api.models import (
    Answer,
    Body,
    Moment,
    Parameters,
    ProviderChannel,
    StoredChannel,
    UserId,
    Whole,
    unique,
)
from app.api.operation import Call, Operation, answer
from app.api.reading import query, read
from app.api.submission import Message, Title
from core.errors import ServiceError, not_found
from delivery.deliveries_store import MAX_REPLAY, Page, Replayed, Selection, State
from push.store import Ended

#: A provider's code, or one of ours: short and printable.
Code = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,62}[!-~])?$")]
Limit = Annotated[Whole, Field(ge=1, le=500)]
Cursor = Annotated[UUID | None, Field(description="The next_cursor of the page before.")]


class DeliveriesQuery(Parameters):
    """Which deliveries, and which page of them."""

    limit: Limit = 50
    cursor: Cursor = None
    state: State | None = None
    channel: ProviderChannel | None = None
    user_id: UserId | None = None
    notification_id: UUID | None = Field(default=None, description="Then the order is by person.")
    code: Code | None = None
    since: Moment | None = Field(default=None, description="Written then or later.")


class OfNotificationQuery(Parameters):
    """Which page."""

    limit: Annotated[Whole, Field(ge=1, le=100)] = 50
    cursor: Cursor = None


class DeadLettersQuery(Parameters):
    """Which dead letters, and which page of them."""

    limit: Limit = 50
    cursor: Cursor = None
    channel: ProviderChannel | None = None
    code: Code | None = None


class DeliveryAnswer(Answer):
    """One notification, for one person, by one channel; or what is told an endpoint about one."""

    model_config = ConfigDict(title="Delivery")

    id: UUID
    kind: Literal["notification", "event"]
    notification_id: UUID
    user_id: str | None
    endpoint_id: UUID | None = Field(description="Of an event: whom it is told.")
    channel: StoredChannel
    lane: int = Field(description="0 goes first; 4: campaigns.")
    state: State
    attempt: int = Field(description="How often a worker has taken it up.")
    retries: int
    deferrals: int
    unknowns: int = Field(description="Attempts of which nobody knows the end.")
    next_at: datetime | None = Field(
        description="Not before then; of one that waits for others to go out with, when its window closes as it stands. "
        "null: a worker has it, or it has ended."
    )
    expires_at: datetime | None
    provider: str | None
    provider_ref: str | None
    address_id: UUID | None
    address_hint: str | None = Field(description="Where the last attempt went, masked.")
    code: str | None = Field(description="The provider's, of the last outcome.")
    reason: str | None = Field(description="What decided, in words.")
    is_edited: bool
    fallback_of: UUID | None = Field(description="The delivery in whose place this one came.")
    created_at: datetime
    updated_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


class Gate(Answer):
    """What the policy asked, and what it saw."""

    gate: str
    passed: bool
    saw: str
    until: datetime | None


class Attempt(Answer):
    """One try. Without an end: a worker is at it, or has died."""

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    is_late: bool = Field(description="It ended after its lease and decided nothing.")
    provider: str | None
    account: str | None
    address_hint: str | None
    provider_ref: str | None
    code: str | None
    reason: str | None
    gates: list[Gate]


class Tried(DeliveryAnswer):
    """A delivery and its attempts."""

    model_config = ConfigDict(title="DeliveryWithAttempts")

    attempts: list[Attempt]


class ProviderEvent(Answer):
    """What a provider has reported."""

    provider: str
    status: str
    code: str | None
    occurred_at: datetime | None
    received_at: datetime


class InBrowser(Answer):
    """What became of a push in one browser."""

    subscription_id: UUID
    outcome: Ended
    status: int | None = Field(description="What its push service has answered last; null: nothing.")
    unknowns: int = Field(description="Tries of which nobody knows whether they arrived.")
    sent_at: datetime = Field(description="When it was tried last.")
    fetched_at: datetime | None = Field(description="When it got what the push held back.")
    shown_at: datetime | None
    clicked_at: datetime | None
    closed_at: datetime | None


class Timeline(Tried):
    """Everything that is known of one delivery."""

    model_config = ConfigDict(title="Timeline")

    provider_events: list[ProviderEvent]
    browsers: list[InBrowser] = Field(description="Of push; those that were tried, or have reported.")


class DeliveriesPage(Answer):
    """The newest first; of one notification, person by person."""

    deliveries: list[DeliveryAnswer]
    next_cursor: UUID | None = Field(description="null: nothing more matches.")


class NotificationDeliveries(Answer):
    """Person by person."""

    deliveries: list[Tried]
    next_cursor: UUID | None = Field(description="null: nothing more.")


class DeadCount(Answer):
    """How many ended so."""

    channel: StoredChannel
    state: Literal["failed", "undelivered"]
    code: str | None
    count: int


class DeadLetters(DeliveriesPage):
    """The newest first, and how many there are of each kind: of the newest 10,000 of either state."""

    counts: list[DeadCount]


class Correction(Body):
    """What a dead letter says, or where it goes, when it is replayed; null: as it was."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    title: Title | None = None
    text: Message | None = None
    address_id: UUID | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Correction:
        if not self.model_fields_set:
            raise ValueError("Name at least one member.")
        return self


class ReplayFilter(Body):
    """Dead letters by what ended them; without any member, all of them."""

    channel: ProviderChannel | None = None
    code: Code | None = None
    before: Moment | None = Field(default=None, description="Ended before then.")


class Replay(Body):
    """Dead letters that are to begin anew: those named, or those selected."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("delivery_ids", "filter")
            ]
        }
    )

    delivery_ids: (
        Annotated[
            list[UUID],
            Field(min_length=1, max_length=MAX_REPLAY, json_schema_extra={"uniqueItems": True}),
            AfterValidator(unique),
        ]
        | None
    ) = None
    filter: ReplayFilter | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Replay:
        if (self.delivery_ids is None) == (self.filter is None):
            raise ValueError("Give either delivery_ids or filter.")
        return self


class ReplayAnswer(Answer):
    """What was done."""

    model_config = ConfigDict(title="Replayed")

    replayed: int
    skipped: int = Field(description="No dead letter, expired, or of a notification that was taken back.")
    more: bool = Field(description="Of a filter: more may match; repeat it.")


async def deliveries(call: Call) -> Response:
    """The deliveries of the caller's tenant."""
    wanted = query(call, DeliveriesQuery)
    selection = Selection(
        state=wanted.state,
        channel=wanted.channel,
        user_id=wanted.user_id,
        notification_id=wanted.notification_id,
        code=wanted.code,
        since=wanted.since,
    )
    store = call.services.delivery.deliveries
    page = await store.list(call.identity.tenant_id, selection, cursor=wanted.cursor, limit=wanted.limit)
    return answer(page._asdict())


async def timeline(call: Call) -> Response:
    """One delivery, with every attempt, what the policy saw at each, and what the provider reported."""
    found = await call.services.delivery.deliveries.timeline(call.identity.tenant_id, _id(call))
    return answer(found)


async def of_notification(call: Call) -> Response:
    """
    Why somebody did or did not get a notification: its deliveries with their attempts.

    With the scope deliveries:read, or for who submitted it, those to everybody; for a person, their own.
    """
    wanted = query(call, OfNotificationQuery)
    store, identity, notification_id = call.services.delivery.deliveries, call.identity, call.id_in_path()
    everybody = identity.has("deliveries:read") or await _is_producer(call)
    page: Page = await store.of_notification(
        identity.tenant_id,
        notification_id,
        user_id=None if everybody else identity.user_id,
        cursor=wanted.cursor,
        limit=wanted.limit,
    )
    if not (everybody or page.deliveries):
        await _received(call)
    return answer(page._asdict())


async def _is_producer(call: Call) -> bool:
    try:
        await call.services.notifications.get(call.identity, call.id_in_path())
    except ServiceError as error:
        if error.code == "not_found":
            return False
        raise
    return True


async def _received(call: Call) -> None:
    """Raises ServiceError (not_found) when the notification is no business of the caller's."""
    if call.identity.kind != "user":
        raise not_found()
    await call.services.inbox.get(call.identity, call.id_in_path())


async def cancel(call: Call) -> Response:
    """See to it that a delivery which has not gone out does not go out; twice is once."""
    return answer(await call.services.delivery.deliveries.cancel(call.identity, _id(call)))


async def retry(call: Call) -> Response:
    """Begin a delivery anew that failed, was not delivered or was suppressed: at once, with all its tries."""
    found = await call.services.delivery.deliveries.retry(call.identity, _id(call))
    call.services.delivery.wake()
    return answer(found)


async def edit(call: Call) -> Response:
    """Change what a dead letter says or where it goes; replay it afterwards."""
    wanted = await read(call, Correction)
    changes: dict[str, Any] = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    return answer(await call.services.delivery.deliveries.edit(call.identity, _id(call), changes))


async def dead_letters(call: Call) -> Response:
    """Deliveries that failed for good or were reported as not delivered."""
    wanted = query(call, DeadLettersQuery)
    store, tenant_id = call.services.delivery.deliveries, call.identity.tenant_id
    page = await store.dead_letters(
        tenant_id, channel=wanted.channel, code=wanted.code, cursor=wanted.cursor, limit=wanted.limit
    )
    return answer({**page._asdict(), "counts": await store.dead_counts(tenant_id)})


async def replay(call: Call) -> Response:
    """Begin dead letters anew, at most 10,000 in one request."""
    wanted = await read(call, Replay)
    store = call.services.delivery.deliveries
    if wanted.delivery_ids is not None:
        done = await store.replay(call.identity, wanted.delivery_ids)
    else:
        chosen = wanted.filter or ReplayFilter()
        done = await store.replay_where(
            call.identity, channel=chosen.channel, code=chosen.code, before=chosen.before
        )
    if done.replayed:
        call.services.delivery.wake()
    return answer(_told(done))


def _told(done: Replayed) -> ReplayAnswer:
    return ReplayAnswer(replayed=done.replayed, skipped=done.skipped, more=done.more)


def _id(call: Call) -> UUID:
    return call.id_in_path("delivery_id")


_ONE = "/api/v1/deliveries/{delivery_id:uuid}"


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/api/v1/deliveries",
            handler=deliveries,
            summary="List deliveries",
            tag="deliveries",
            scopes=("deliveries:read",),
            query=DeliveriesQuery,
            answers={200: DeliveriesPage},
        ),
        Operation(
            method="GET",
            path=_ONE,
            handler=timeline,
            summary="Get the timeline of a delivery",
            tag="deliveries",
            scopes=("deliveries:read",),
            answers={200: Timeline},
        ),
        Operation(
            method="PATCH",
            path=_ONE,
            handler=edit,
            summary="Edit a dead letter",
            tag="deliveries",
            scopes=("admin",),
            body=Correction,
            answers={200: DeliveryAnswer},
            problems=("conflict",),
            examples={"other words": {"title": "Your class was moved", "text": "It is in room 12 now."}},
        ),
        Operation(
            method="POST",
            path=f"{_ONE}/cancel",
            handler=cancel,
            summary="Cancel a delivery",
            tag="deliveries",
            scopes=("notifications:write",),
            answers={200: DeliveryAnswer},
            problems=("conflict",),
        ),
        Operation(
            method="POST",
            path=f"{_ONE}/retry",
            handler=retry,
            summary="Retry a delivery",
            tag="deliveries",
            scopes=("notifications:write",),
            answers={200: DeliveryAnswer},
            problems=("conflict",),
        ),
        Operation(
            method="GET",
            path="/api/v1/notifications/{notification_id:uuid}/deliveries",
            handler=of_notification,
            summary="List the deliveries of a notification",
            tag="deliveries",
            query=OfNotificationQuery,
            answers={200: NotificationDeliveries},
        ),
        Operation(
            method="GET",
            path="/api/v1/dead-letters",
            handler=dead_letters,
            summary="List dead letters",
            tag="deliveries",
            scopes=("deliveries:read",),
            query=DeadLettersQuery,
            answers={200: DeadLetters},
        ),
        Operation(
            method="POST",
            path="/api/v1/dead-letters/replay",
            handler=replay,
            summary="Replay dead letters",
            tag="deliveries",
            scopes=("admin",),
            body=Replay,
            answers={200: ReplayAnswer},
            examples={"by what ended them": {"filter": {"channel": "sms", "code": "30005"}}},
        ),
    )
