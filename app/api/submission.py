"""What producers send, and how it becomes a submission: shared by /api/v1/notifications and /internal/broadcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, Field, JsonValue, RootModel, StringConstraints
from starlette.responses import Response

from app.api.models import (
    Answer,
    Body,
    Content,
    DeliveryChannel,
    Moment,
    NotificationType,
    OwnKey,
    PriorityName,
    unique,
)
from app.api.operation import Call, answer
from app.api.problems import refused
from core.errors import Fault, ServiceError
from core.links import validate_action_url
from core.notification import DEFAULT_CHANNELS, DELIVERY_CHANNELS, Priority
from delivery import local_time
from delivery.draft import BATCH_LIMITS, BATCH_WINDOWS, Audience, Batching, Submission, Users
from delivery.ingest import Accepted, Stored
from delivery.policy import ADDRESS_VERIFICATION


def _wall_clock(text: str) -> str:
    """Raises ValueError for a date that no calendar has, and for years that clocks cannot be told in."""
    if not 1970 <= datetime.fromisoformat(text).year <= 9000:
        raise ValueError("must be a time of this age")
    return text


#: A promise for later than this is a mistake in the year more often than a wish.
FARTHEST = timedelta(days=366)

Channels = Annotated[
    list[DeliveryChannel],
    Field(min_length=1, max_length=len(DELIVERY_CHANNELS), json_schema_extra={"uniqueItems": True}),
    AfterValidator(unique),
]
Title = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"\S")]
Message = Annotated[str, StringConstraints(min_length=1, max_length=8000, pattern=r"\S")]
ActionUrl = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2048, pattern=r"^(/|[Hh][Tt][Tt][Pp][Ss]://)[!-~]*$"),
    Field(description="A path of the application's own site, or https to an allowed host."),
]
WallClock = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"),
    AfterValidator(_wall_clock),
]
Metadata = Annotated[
    dict[str, JsonValue],
    Field(max_length=20, description="Your own data; with title and message at most 16 KiB."),
]

#: Named by the producer; the same key and body again is the same notification, not a second one.
IDEMPOTENCY = {"Idempotency-Key": {"type": "string", "pattern": "^[!-~]{1,255}$"}}


_SECONDS = [int(window.total_seconds()) for window in BATCH_WINDOWS]


class Batch(Body):
    """How what goes through a provider waits for more of its type to the same person under the same key."""

    key: OwnKey
    seconds: int = Field(
        ge=_SECONDS[0], le=_SECONDS[1], description="How long the first, or with sliding the latest, waits."
    )
    mode: Literal["fixed", "sliding"] = Field(
        default="fixed",
        description="sliding: each that comes extends the window, to ten times its length at most.",
    )
    max: int = Field(
        default=50, ge=BATCH_LIMITS[0], le=BATCH_LIMITS[1], description="So many go out at once."
    )

    def batching(self) -> Batching:
        return Batching(
            key=self.key,
            window=timedelta(seconds=self.seconds),
            is_sliding=self.mode == "sliding",
            limit=self.max,
        )


class Draft(Body):
    """What a notification says, and when."""

    title: Title
    message: Message
    notification_type: NotificationType = "system"
    priority: PriorityName = "normal"
    channels: Channels | None = Field(default=None, description="Without it: in_app and websocket.")
    action_url: ActionUrl | None = None
    metadata: Metadata = Field(default_factory=dict)
    collapse_key: OwnKey | None = Field(default=None, description="Replaces what has the same key.")
    group_key: OwnKey | None = Field(default=None, description="Shown together with what has the same key.")
    batch: Batch | None = Field(default=None, description="Go out as one message with what has the same key.")
    expires_at: Moment | None = Field(default=None, description="Gone then; in the future.")
    scheduled_for: Moment | None = Field(default=None, description="Sent then; within a year.")
    scheduled_local: WallClock | None = Field(
        default=None,
        description="Sent when the clock of each recipient shows this, as in 2027-03-01T09:00; within a year.",
    )


class Recipient(Answer):
    """One of several people, and the notification they got."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    user_id: str


class Recipients(Answer):
    """The notifications of several people."""

    notifications: list[Recipient]


class Submitted(RootModel[Content | Recipients]):
    """The notification, for one person or one audience; the list of recipients, for several people."""


async def submit(
    made: Submission, draft: Draft, call: Call, *, key: str | None, body_hash: bytes
) -> Accepted:
    """
    Store what `submission` has made of a draft: one notification, or several where the clocks of named people show
    scheduled_local at several moments.

    Raises what Ingest.submit raises.
    """
    ingest = call.services.ingest
    if draft.scheduled_local is None or not isinstance(made.audience, Users):
        return await ingest.submit(made, call.identity, key=key, body_hash=body_hash)
    local = datetime.fromisoformat(draft.scheduled_local)
    moments = await call.services.delivery.broadcasts.moments(made.tenant_id, made.audience.user_ids, local)
    together: dict[datetime, list[str]] = {}
    for user_id, moment in moments.items():
        together.setdefault(moment, []).append(user_id)
    parts = [
        replace(made, audience=Users.of(*user_ids), scheduled_for=moment)
        for moment, user_ids in sorted(together.items())
    ]
    if len(parts) == 1:
        return await ingest.submit(parts[0], call.identity, key=key, body_hash=body_hash)
    return await ingest.submit_many(parts, call.identity, key=key, body_hash=body_hash, render=_each)


def _each(stored: Sequence[Stored]) -> tuple[int, bytes]:
    """201 with the notification that each person got, by their names."""
    named = [
        {"id": one.content.id, "user_id": user_id}
        for one in stored
        if isinstance(one.submission.audience, Users)
        for user_id in one.submission.audience.user_ids
    ]
    return 201, msgspec.json.encode({"notifications": sorted(named, key=lambda one: str(one["user_id"]))})


def submission(draft: Draft, tenant_id: str, audience: Audience, call: Call) -> Submission:
    """Raises ServiceError (invalid) with every fault in the meaning of the draft."""
    scheduled_for, local = draft.scheduled_for, None
    if draft.scheduled_local is not None:
        local = datetime.fromisoformat(draft.scheduled_local)
        # Of named people each has a moment of their own, which `submit` finds: at the latest this one.
        scheduled_for = (local_time.last if isinstance(audience, Users) else local_time.first)(local)
    faults = list(
        meaning_faults(
            call.services.clock.now(),
            call.services.settings.action_hosts,
            action_url=draft.action_url,
            expires_at=draft.expires_at,
            scheduled_for=draft.scheduled_for,
            scheduled_local=draft.scheduled_local,
        )
    )
    if draft.notification_type == ADDRESS_VERIFICATION:
        faults.append(Fault("notification_type", "is for the codes that this service sends to addresses"))
    try:
        made = Submission(
            tenant_id=tenant_id,
            audience=audience,
            title=draft.title,
            message=draft.message,
            notification_type=draft.notification_type,
            priority=Priority(draft.priority),
            channels=tuple(draft.channels or DEFAULT_CHANNELS),
            action_url=draft.action_url,
            metadata=draft.metadata,
            collapse_key=draft.collapse_key,
            group_key=draft.group_key,
            expires_at=draft.expires_at,
            scheduled_for=scheduled_for,
            local_time=None if isinstance(audience, Users) else local,
            batching=None if draft.batch is None else draft.batch.batching(),
        )
    except ServiceError as error:
        raise refused([*faults, *error.faults]) from error
    if faults:
        raise refused(faults)
    return made


def meaning_faults(
    now: datetime,
    action_hosts: Set[str],
    *,
    action_url: str | None = None,
    expires_at: datetime | None = None,
    scheduled_for: datetime | None = None,
    scheduled_local: str | None = None,
) -> Iterator[Fault]:
    """What is well formed and cannot be meant."""
    if action_url is not None:
        try:
            validate_action_url(action_url, action_hosts)
        except ValueError as error:  # a sentence of core.links that quotes nothing
            yield Fault("action_url", f"must be a link that {error}")
    if expires_at is not None and expires_at <= now:
        yield Fault("expires_at", "must be in the future")
    if scheduled_for is not None and scheduled_for > now + FARTHEST:
        yield Fault("scheduled_for", "must be within a year")
    if scheduled_local is not None:
        local = datetime.fromisoformat(scheduled_local)
        if scheduled_for is not None:
            yield Fault("scheduled_local", "must not stand beside scheduled_for")
        if local.replace(tzinfo=UTC) > now + FARTHEST:
            yield Fault("scheduled_local", "must be within a year")
        elif local_time.last(local) < now:
            yield Fault("scheduled_local", "must not be past everywhere on earth")


class _Made(msgspec.Struct):
    id: str | None = None


_made = msgspec.json.Decoder(_Made)


def submitted(accepted: Accepted, call: Call) -> Response:
    """201, or the first answer again when the idempotency key is known."""
    headers = {}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    else:
        call.services.metrics.stored(len(accepted.notification_ids))
    if (made := _made.decode(accepted.body)).id is not None:
        headers["Location"] = f"/api/v1/notifications/{made.id}"
    return answer(accepted.body, accepted.status, headers)


AIVO_NOTIFICATION: dict[str, Any] = {
    "title": "IEP Document Updated",
    "message": "The IEP document for John Doe requires your review.",
    "notification_type": "iep_update",
    "priority": "high",
    "channels": ["websocket", "push", "in_app"],
    "action_url": "/iep/12345/review",
    "metadata": {"iep_id": "12345", "student_name": "John Doe"},
}
