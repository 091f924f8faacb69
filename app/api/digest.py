"""A person's digest: what they want, what the next one would say, when the next ones come."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, RootModel, StringConstraints
from starlette.responses import Response

from app.api.models import Answer, Body, Content, Flag, NotificationType, PriorityName, Whole, unique
from app.api.operation import Call, Operation, answer
from app.api.preferences import PersonQuery, whose
from app.api.reading import query, read
from app.api.submission import Channels
from core.errors import invalid
from core.notification import Priority
from core.wall_time import clocks_change
from delivery.audit_store import actor_of
from digest.days_off import DaysOff
from digest.store import PastRun, Subscription
from digest.subscription import DEFAULT_CHANNELS, MAX_TIMES, MAX_TYPES, Wanted
from digest.summary import Item
from digest.timetable import Run, Timetable, runs

#: As AIVO writes a time of day.
WallTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Zone = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$"),
    Field(description="A time zone of IANA's, as in America/New_York."),
]
Types = Annotated[list[NotificationType], Field(max_length=MAX_TYPES), AfterValidator(unique)]

#: Further ahead nobody plans, and the zones' rules are guesses.
MAX_DAYS = 400

#: Listed at once of what waits for the next digest.
MAX_PENDING = 200


class DigestWanted(Body):
    """What a person wants; what is left out is as by default."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["delivery_time", "delivery_times"]}})

    is_enabled: bool = True
    delivery_time: WallTime | None = Field(default=None, description="Of the wall clock; without it 07:00.")
    delivery_times: (
        Annotated[list[WallTime], Field(min_length=1, max_length=MAX_TIMES), AfterValidator(unique)] | None
    ) = Field(default=None, description="Several times a day, in place of delivery_time.")
    timezone: Zone = "UTC"
    frequency: Literal["daily", "weekdays", "weekly", "hourly", "off"] = Field(
        default="daily", description="hourly: from 08 to 20 o'clock, at the minute of delivery_time."
    )
    weekly_day: Annotated[int, Field(ge=0, le=6)] | None = Field(
        default=None,
        description="Of frequency weekly, and of weekly_types: 0 is Monday, and what is meant without it.",
    )
    include_types: Annotated[Types, Field(min_length=1)] | None = Field(
        default=None, description="Only these; without it every type."
    )
    exclude_types: Types = Field(default_factory=list)
    weekly_types: Types = Field(
        default_factory=list,
        description="These stand only in the digest of weekly_day, a week of them at once.",
    )
    exclude_weekends: bool = False
    min_priority: PriorityName = Field(default="low", description="This one and what is more urgent.")
    unread_only: bool = False
    channels: Channels | None = Field(default=None, description="Without it: in_app and email.")
    all_quiet: bool = Field(
        default=False, description="Send one that says so when there was nothing for a week."
    )
    inbox_when_active: bool = Field(
        default=False,
        description="Who is in the application when it comes, or was just now, has it in the inbox only.",
    )


class WantedQuery(PersonQuery):
    """Whose, and where they are."""

    device_timezone: Zone | None = Field(
        default=None,
        description="What the asking device shows. When it is another time than that of `timezone` for 24 hours, it is proposed.",
    )


class RunQuery(PersonQuery):
    """To whom, and what becomes of what it holds."""

    move_window: Flag = Field(
        default=False, description="What stands in this one does not stand in the next one again."
    )


class NextRun(Answer):
    """A digest to come."""

    date: date
    slot: int
    at: datetime = Field(description="UTC; it is begun within the two minutes after.")
    local: str = Field(description="What the person's clock shows then.")
    utc_offset: str
    is_clock_change: bool = Field(description="Their clocks change on this date.")


class DigestSubscription(Answer):
    """What a person wants, and when the next digest comes."""

    is_enabled: bool
    delivery_time: str = Field(description="The first of delivery_times.")
    delivery_times: list[str]
    timezone: str
    frequency: Literal["daily", "weekdays", "weekly", "hourly", "off"]
    weekly_day: int | None
    include_types: list[str] | None
    exclude_types: list[str]
    weekly_types: list[str]
    exclude_weekends: bool
    min_priority: PriorityName
    unread_only: bool
    channels: list[str]
    all_quiet: bool
    inbox_when_active: bool
    next_run: NextRun | None
    proposed_timezone: str | None = Field(
        description="What their device has shown for 24 hours, where that is another time. To accept it, PUT it as timezone."
    )


class NextRuns(Answer):
    """Digests to come, in their order."""

    timezone: str
    runs: list[NextRun]


class DigestPreview(Answer):
    """What the next digest would say if it were due now."""

    total: int
    unread: int
    digest: dict[str, Any]


class Previewed(RootModel[DigestPreview | NextRuns]):
    """The digest; with `days`, every run within so many."""


class PreviewQuery(PersonQuery):
    """What to look at."""

    days: Annotated[Whole, Field(ge=1, le=MAX_DAYS)] | None = Field(
        default=None,
        description="Every coming run within so many days, with the days on which clocks change.",
    )


class PendingQuery(PersonQuery):
    """Whose, and how many of them."""

    limit: Annotated[Whole, Field(ge=1, le=MAX_PENDING)] = 50


class PendingItem(Answer):
    """A notification that the next digest will count."""

    id: str
    title: str
    notification_type: str
    priority: PriorityName
    created_at: datetime
    read: bool = Field(description="Counted and not listed: who has read it needs it no more.")


class Pending(Answer):
    """The newest first."""

    total: int
    items: list[PendingItem]


class PastRunAnswer(Answer):
    """A digest that was due."""

    date: date
    slot: int
    state: Literal["sent", "skipped_empty", "skipped_late", "skipped_weekend", "failed"]
    due_at: datetime
    ran_at: datetime
    is_late: bool
    timezone: str
    total: int
    unread: int
    notification_id: str | None


class PastRuns(Answer):
    """The latest first."""

    runs: list[PastRunAnswer]


async def put(call: Call) -> Response:
    """
    Say when the digest comes and what stands in it; it replaces what was said before.

    The next run is computed at once. It is never a second one for a local date that had its digest.
    """
    user_id = whose(call, query(call, PersonQuery).user_id)
    said = await read(call, DigestWanted)
    identity = call.identity
    stored = await call.services.digests.put(identity.tenant_id, user_id, _wanted(said), actor_of(identity))
    return answer(_shown(stored, call.services.clock.now()))


async def get(call: Call) -> Response:
    """
    What is wanted now; of somebody who has never said it, the defaults, switched off.

    A client that says which zone its device shows has another one proposed when that lasts (`proposed_timezone`).
    """
    asked = query(call, WantedQuery)
    user_id = whose(call, asked.user_id)
    now = call.services.clock.now()
    stored = await call.services.digests.get(call.identity.tenant_id, user_id)
    if stored is not None and asked.device_timezone is not None:
        stored = await call.services.digests.device_shows(stored, asked.device_timezone, now)
    return answer(_shown(stored or _nobody(call.identity.tenant_id, user_id), now))


async def preview(call: Call) -> Response:
    """What the next digest would say; with `days`, when the next ones come. Nothing is sent or moved."""
    asked = query(call, PreviewQuery)
    user_id = whose(call, asked.user_id)
    if asked.days is None:
        _, digest = await call.services.digest_job.preview(call.identity.tenant_id, user_id)
        return answer(DigestPreview(total=digest.total, unread=digest.unread, digest=dict(digest.document)))
    stored = await call.services.digests.get(call.identity.tenant_id, user_id)
    now = call.services.clock.now()
    found = _coming(stored, now) if stored is not None else iter(())
    until = now + timedelta(days=asked.days)
    table = stored.timetable() if stored is not None else None
    listed = []
    for run in found:
        if run.at > until:
            break
        listed.append(_run(run, table))
    return answer(NextRuns(timezone=stored.wanted.timezone if stored is not None else "UTC", runs=listed))


async def next_runs(call: Call) -> Response:
    """The next ten."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    stored = await call.services.digests.get(call.identity.tenant_id, user_id)
    if stored is None:
        return answer(NextRuns(timezone="UTC", runs=[]))
    table = stored.timetable()
    listed = [_run(run, table) for run in islice(_coming(stored, call.services.clock.now()), 10)]
    return answer(NextRuns(timezone=stored.wanted.timezone, runs=listed))


async def pending(call: Call) -> Response:
    """What waits for the next digest, after its filters."""
    asked = query(call, PendingQuery)
    user_id = whose(call, asked.user_id)
    items = await call.services.digest_job.pending(call.identity.tenant_id, user_id)
    return answer(Pending(total=len(items), items=[_pending(one) for one in items[: asked.limit]]))


async def past_runs(call: Call) -> Response:
    """The last fifty that were due, and what became of each."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    found = await call.services.digests.runs(call.identity.tenant_id, user_id)
    return answer(PastRuns(runs=[_past(one) for one in found]))


async def run_now(call: Call) -> Response:
    """
    Send one now, with what has come in since the last digest, as that of today. It all stands in the next one too,
    unless `move_window` is true.

    Once in a minute and ten times in 24 hours to one person, whoever asks (`DIGEST_RUN_GAP`, `DIGEST_RUN_LIMIT`).
    """
    asked = query(call, RunQuery)
    user_id = whose(call, asked.user_id)
    accepted = await call.services.digest_job.run_now(
        call.identity.tenant_id, user_id, moves_window=asked.move_window
    )
    return answer(accepted.body, 201)


def _wanted(said: DigestWanted) -> Wanted:
    if said.delivery_time is not None and said.delivery_times is not None:
        raise invalid("delivery_times", "must not stand beside delivery_time")
    times = said.delivery_times or [said.delivery_time or "07:00"]
    return Wanted(
        is_enabled=said.is_enabled,
        delivery_times=tuple(sorted(time.fromisoformat(one) for one in times)),
        timezone=said.timezone,
        frequency=said.frequency,
        weekly_day=said.weekly_day,
        include_types=None if said.include_types is None else tuple(said.include_types),
        exclude_types=tuple(said.exclude_types),
        weekly_types=tuple(said.weekly_types),
        exclude_weekends=said.exclude_weekends,
        min_priority=Priority(said.min_priority),
        unread_only=said.unread_only,
        channels=tuple(said.channels or DEFAULT_CHANNELS),
        all_quiet=said.all_quiet,
        inbox_when_active=said.inbox_when_active,
    )


def _nobody(tenant_id: str, user_id: str) -> Subscription:
    return Subscription(
        tenant_id=tenant_id,
        user_id=user_id,
        wanted=Wanted(is_enabled=False),
        off=DaysOff(),
        next_run=None,
        last=None,
    )


def _shown(stored: Subscription, now: datetime) -> DigestSubscription:
    wanted, table = stored.wanted, stored.timetable()
    times = [f"{one:%H:%M}" for one in wanted.delivery_times]
    return DigestSubscription(
        is_enabled=wanted.is_enabled,
        delivery_time=times[0],
        delivery_times=times,
        timezone=wanted.timezone,
        frequency=wanted.frequency,
        weekly_day=wanted.weekly_day,
        include_types=None if wanted.include_types is None else list(wanted.include_types),
        exclude_types=list(wanted.exclude_types),
        weekly_types=list(wanted.weekly_types),
        exclude_weekends=wanted.exclude_weekends,
        min_priority=wanted.min_priority.value,
        unread_only=wanted.unread_only,
        channels=list(wanted.channels),
        all_quiet=wanted.all_quiet,
        inbox_when_active=wanted.inbox_when_active,
        next_run=None if (run := stored.next_sent()) is None else _run(run, table),
        proposed_timezone=stored.proposed_timezone(now),
    )


def _coming(stored: Subscription, now: datetime) -> Any:
    """Every run from the next one on."""
    table = stored.timetable()
    if table is None or stored.next_run is None:
        return iter(())
    first = stored.next_run
    return (run for run in runs(table, first.date) if run.at >= first.at and run.at > now - timedelta(days=1))


def _run(run: Run, table: Timetable | None) -> NextRun:
    zone = UTC if table is None else table.zone
    local = run.at.astimezone(zone)
    offset = f"{local:%z}"
    return NextRun(
        date=run.date,
        slot=run.slot,
        at=run.at,
        local=f"{local:%Y-%m-%dT%H:%M}",
        utc_offset=f"{offset[:3]}:{offset[3:5]}",
        is_clock_change=clocks_change(run.date, zone),
    )


def _pending(item: Item) -> PendingItem:
    return PendingItem(
        id=str(item.id),
        title=item.title,
        notification_type=item.notification_type,
        priority=item.priority,  # type: ignore[arg-type]  # it was one of these words when it was submitted
        created_at=item.created_at,
        read=item.is_read,
    )


def _past(one: PastRun) -> PastRunAnswer:
    return PastRunAnswer(
        date=one.local_date,
        slot=one.slot,
        state=one.state,  # type: ignore[arg-type]  # the column has a CHECK with these words
        due_at=one.due_at,
        ran_at=one.ran_at,
        is_late=one.is_late,
        timezone=one.timezone,
        total=one.total,
        unread=one.unread,
        notification_id=None if one.notification_id is None else str(one.notification_id),
    )


AIVO_SUBSCRIPTION: dict[str, Any] = {
    "is_enabled": True,
    "delivery_time": "07:00",
    "timezone": "America/New_York",
    "frequency": "daily",
    "include_types": ["iep_update", "assessment_complete", "signature_request"],
    "exclude_weekends": False,
    "min_priority": "normal",
}


def operations() -> tuple[Operation, ...]:
    """For the table of routes."""
    return (
        Operation(
            method="GET",
            path="/api/v1/digest/subscription",
            handler=get,
            summary="What one wants of the digest",
            tag="digest",
            query=WantedQuery,
            answers={200: DigestSubscription},
        ),
        Operation(
            method="PUT",
            path="/api/v1/digest/subscription",
            handler=put,
            summary="Say when the digest comes and what stands in it",
            tag="digest",
            body=DigestWanted,
            query=PersonQuery,
            answers={200: DigestSubscription},
            examples={"every morning in New York": AIVO_SUBSCRIPTION},
        ),
        Operation(
            method="GET",
            path="/api/v1/digest/preview",
            handler=preview,
            summary="What the next digest would say, or when the next ones come",
            tag="digest",
            query=PreviewQuery,
            answers={200: Previewed},
            problems=("not_found",),
        ),
        Operation(
            method="GET",
            path="/api/v1/digest/next-runs",
            handler=next_runs,
            summary="The next ten digests",
            tag="digest",
            query=PersonQuery,
            answers={200: NextRuns},
        ),
        Operation(
            method="GET",
            path="/api/v1/digest/pending",
            handler=pending,
            summary="What waits for the next digest",
            tag="digest",
            query=PendingQuery,
            answers={200: Pending},
            problems=("not_found",),
        ),
        Operation(
            method="GET",
            path="/api/v1/digest/runs",
            handler=past_runs,
            summary="Digests that were due",
            tag="digest",
            query=PersonQuery,
            answers={200: PastRuns},
        ),
        Operation(
            method="POST",
            path="/api/v1/digest/run",
            handler=run_now,
            summary="Send me one now",
            tag="digest",
            query=RunQuery,
            answers={201: Content},
            problems=("not_found", "conflict", "rate_limited"),
        ),
    )
