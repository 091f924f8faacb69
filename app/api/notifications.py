"""One notification: submitted, looked up, updated, recalled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import structs
from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator
from pydantic.config import JsonDict, JsonValue
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.inbox import Listed
from app.api.models import Body, Content, Moment, OwnKey, PriorityName, Topic, UserId, one_of
from app.api.operation import Call, answer, nothing
from app.api.problems import refused
from app.api.reading import idempotency_key, read, read_hashed
from app.api.recipients import InlinePerson, introduce
from app.api.submission import (
    ActionUrl,
    Draft,
    Message,
    Metadata,
    Title,
    meaning_faults,
    submission,
    submit,
    submitted,
)
from core.errors import ServiceError
from core.identity import Identity
from delivery import draft as delivery
from delivery.draft import Everyone, Users
from delivery.store import Record

_TARGETS = ("user_id", "recipients", "topic", "broadcast_to_tenant")


class NamedUser(InlinePerson):
    """A person, by the name that their token carries as `sub`; and what is to be known of them from now on."""

    user_id: UserId


def _named_user(value: Any) -> Any:
    """Only the name stands for the whole object."""
    return {"user_id": value} if isinstance(value, str) else value


def _at_most_one(schema: JsonDict) -> None:
    """Of the members that name an audience."""
    none: JsonValue = {"not": {"anyOf": [{"required": [name]} for name in _TARGETS]}}
    arms = one_of(*_TARGETS)["oneOf"]
    assert isinstance(arms, list), "what one_of makes"
    schema["oneOf"] = [*arms, none]


class NewNotification(Draft):
    """A notification. A person sends to themselves; a service says to whom."""

    model_config = ConfigDict(json_schema_extra=_at_most_one)

    user_id: UserId | None = None
    recipients: (
        Annotated[
            list[
                Annotated[NamedUser, BeforeValidator(_named_user, json_schema_input_type=UserId | NamedUser)]
            ],
            Field(
                min_length=1,
                max_length=1000,
                description="Each a name, or an object with user_id, and addresses.",
            ),
        ]
        | None
    ) = None
    topic: Topic | None = None
    broadcast_to_tenant: bool = False


class Produced(Content):
    """A notification as its producer sees it."""

    status: Literal["scheduled", "published", "cancelled", "recalled"]
    audience: Literal["user", "users", "topic", "tenant"]
    user_ids: list[str] = Field(description="Of audience user and users.")
    topic: str | None
    scheduled_for: datetime | None
    scheduled_local: str | None = Field(
        description="Of the clock of each recipient; scheduled_for is when it comes first."
    )
    published_at: datetime | None


class Found(RootModel[Listed | Produced]):
    """As its reader sees it; as its producer does, where the caller has not received it."""


class Update(Body):
    """What is said anew; what is not named stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    # No member but these may be null; the factories only keep a default out of the schema.
    title: Title = Field(default_factory=str)
    message: Message = Field(default_factory=str)
    priority: PriorityName = Field(default_factory=lambda: "normal")
    metadata: Metadata = Field(default_factory=dict)
    action_url: ActionUrl | None = None
    group_key: OwnKey | None = None
    expires_at: Moment | None = None
    scheduled_for: Moment = Field(
        default_factory=lambda: datetime.max.replace(tzinfo=UTC), description="While it is scheduled."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Update:
        if not self.model_fields_set:
            raise ValueError("Name at least one member.")
        return self


async def create(call: Call) -> Response:
    """
    Store a notification and show it at once to everybody whom it concerns and who is connected.

    A person's token sends to that person. A token with the scope notifications:write names at most one of
    user_id, recipients, topic and broadcast_to_tenant; without any of them it is refused, since a service
    has no inbox. Addresses that stand beside a recipient's user_id are kept, and are where it goes.
    """
    draft, digest = await read_hashed(call, NewNotification)
    made = submission(draft, call.identity.tenant_id, audience(draft, call.identity), call)
    named = [(f"recipients.{index}", one.user_id, one) for index, one in enumerate(draft.recipients or ())]
    people = [one for one in named if not one[2].is_empty]
    key = idempotency_key(call)
    # A request that is repeated, or refused for its key, does not bring back an address that was taken away since.
    if people and not (key is not None and await call.services.ingest.has_answered(call.identity, key)):
        await introduce(call, people)
    accepted = await submit(made, draft, call, key=key, body_hash=digest)
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


async def find(call: Call) -> Response:
    """
    A notification of the caller's inbox, archived and snoozed too; or one that they submitted, or with the
    scope notifications:write any of the tenant's.
    """
    services, identity = call.services, call.identity
    if identity.kind == "user":
        try:
            return answer(await services.inbox.get(identity, call.id_in_path()))
        except ServiceError as error:
            if error.code != "not_found":
                raise
    return answer(produced(await services.notifications.get(identity, call.id_in_path())))


async def update(call: Call) -> Response:
    """Say something else from now on; whoever received it is told. For its sender and for services of the tenant."""
    wanted = await read(call, Update)
    changes = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    now, settings = call.services.clock.now(), call.services.settings
    faults = list(meaning_faults(now, settings.action_hosts, **_judged(wanted)))
    if faults:
        raise refused(faults)
    record = await call.services.notifications.update(call.identity, call.id_in_path(), changes)
    return answer(produced(record))


def _judged(wanted: Update) -> dict[str, Any]:
    """The members whose meaning depends on the time and the settings."""
    names = wanted.model_fields_set & {"action_url", "expires_at", "scheduled_for"}
    return {name: getattr(wanted, name) for name in names}


async def recall(call: Call) -> Response:
    """Take it back from everybody; twice is once. For its sender and for services of the tenant."""
    await call.services.notifications.recall(call.identity, call.id_in_path())
    return nothing()


async def cancel(call: Call) -> Response:
    """See to it that a scheduled notification is never sent; twice is once."""
    return answer(produced(await call.services.notifications.cancel(call.identity, call.id_in_path())))


def produced(record: Record) -> dict[str, Any]:
    audience = record.audience
    user_ids = audience.user_ids if isinstance(audience, Users) else ()
    topic = audience.name if isinstance(audience, delivery.Topic) else None
    kind = "topic" if topic else {0: "tenant", 1: "user"}.get(len(user_ids), "users")
    return {
        **structs.asdict(record.content),
        "status": record.status,
        "audience": kind,
        "user_ids": user_ids,
        "topic": topic,
        "scheduled_for": record.scheduled_for,
        "scheduled_local": record.local_time and record.local_time.isoformat(),
        "published_at": record.published_at,
    }
