"""
Keryu's paths, for its clients as they are: `subjects` are our recipients, its notifications are ours to one
person by WhatsApp. What they answer is its own records (KER-3, KER-4), but a phone number, which is masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from pydantic import ConfigDict, Field, JsonValue, StringConstraints, model_validator
from pydantic.config import JsonDict
from starlette.responses import Response

from app.api.models import Answer, Body, Moment, Parameters, UserId, Whole, one_of
from app.api.operation import Call, Operation, answer, nothing
from app.api.problems import refused
from app.api.reading import idempotency_key, query, read, read_hashed
from app.api.submission import IDEMPOTENCY, meaning_faults
from core.errors import ServiceError, invalid, not_found
from core.identity import is_user_id
from delivery.addresses import normalise
from delivery.audit_store import actor_of
from delivery.draft import Submission, Users
from delivery.ingest import Stored
from delivery.keryu_store import FARTHEST, TEMPLATE, TYPE, KeryuNotification, Status
from delivery.recipients_store import Recipient, RecipientAddress

_SCOPES = ("notifications:write",)
_KEYED = ("idempotency_in_flight", "idempotency_mismatch")

#: {{1}}, {{ name }}: as WhatsApp's templates have them.
_PLACEHOLDER = re.compile(r"\{\{\s*(\w{1,64})\s*\}\}", re.ASCII)

#: Its one template, and what its places are called (KER-10): as WhatsApp's template of that name has them.
TEMPLATES = {TYPE: "{{1}}: {{2}}\n{{3}}\n{{4}}"}
PLACES = {"1": "subject_name", "2": "alert_type", "3": "content", "4": "action_required"}

_MAX_TITLE = 255
_MAX_PREFERENCES_BYTES = 16 * 1024

Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"\S")]
Phone = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    Field(description="With the code of its country, or of the tenant's own country without."),
]
Variable = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class KeryuNew(Body):
    """What a subject is told by WhatsApp: a text, or a template that is known here."""

    model_config = ConfigDict(json_schema_extra=one_of("message_template", "template_id"))

    subject_id: UserId
    message_template: (
        Annotated[str, StringConstraints(min_length=1, max_length=8000, pattern=r"\S")] | None
    ) = None
    template_id: Literal["notification_alert"] | None = None
    variables: (
        Annotated[dict[str, Variable], Field(max_length=18)]
        | Annotated[list[Variable], Field(max_length=18)]
        | None
    ) = Field(default=None, description="What stands for {{1}}, {{2}}, …: by name, or in their order.")
    scheduled_for: Moment | None = Field(default=None, description="Sent then; within a year.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> KeryuNew:
        if (self.message_template is None) == (self.template_id is None):
            raise ValueError("Give message_template or template_id.")
        return self

    @property
    def template(self) -> str:
        return self.message_template or TEMPLATES[self.template_id or TYPE]

    @property
    def named(self) -> dict[str, str]:
        """The variables by name: the first in a list is {{1}}."""
        if isinstance(self.variables, list):
            return {str(place): value for place, value in enumerate(self.variables, 1)}
        return self.variables or {}


class KeryuShown(Answer):
    """A notification as Keryu keeps it."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    subject_id: str
    message_template: str
    status: Status
    created_at: datetime
    scheduled_for: datetime | None
    sent_at: datetime | None = Field(description="When the provider took it.")
    retry_count: int = Field(ge=0, description="Tries after the first.")


class KeryuList(Answer):
    """The newest first."""

    notifications: list[KeryuShown]
    total: int = Field(ge=0, description=f"Of all pages. Counting stops at {FARTHEST}.")
    limit: int
    offset: int


class _Paged(Parameters):
    limit: Annotated[Whole, Field(ge=1, le=500)] = 50
    offset: Annotated[Whole, Field(ge=0, le=FARTHEST)] = 0


class KeryuListQuery(_Paged):
    """Which page, and of which status."""

    status: Status | None = None


class SubjectsQuery(_Paged):
    """Which page."""


class NewSubject(Body):
    """Somebody who can be told things by WhatsApp."""

    name: Name
    phone_number: Phone
    is_active: bool = True
    preferences: dict[str, JsonValue] = Field(
        default_factory=dict, max_length=100, description="Your own; at most 16 KiB."
    )


def _says_something(schema: JsonDict) -> None:
    schema["minProperties"] = 1


class SubjectUpdate(Body):
    """What is said anew; what is not named stays."""

    model_config = ConfigDict(json_schema_extra=_says_something)

    # None of them may be null; the factories only keep a default out of the schema.
    name: Name = Field(default_factory=str)
    phone_number: Phone = Field(
        default_factory=str, description="In its place, not beside it. Masked as it is shown: it stays."
    )
    is_active: bool = Field(default_factory=bool)
    preferences: Annotated[dict[str, JsonValue], Field(max_length=100)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_a_member(self) -> SubjectUpdate:
        if not self.model_fields_set:
            raise ValueError("Name at least one member.")
        return self


class Subject(Answer):
    """A subject as Keryu keeps it."""

    id: str
    name: str | None
    phone_number: str | None = Field(description="Masked: what was given is sealed.")
    is_active: bool
    preferences: dict[str, JsonValue]


class Subjects(Answer):
    """By their ids."""

    subjects: list[Subject]
    total: int = Field(ge=0)
    limit: int
    offset: int


async def create(call: Call) -> Response:
    """Take a notification for a subject. It is stored when this answers, and sent after it."""
    wanted, digest = await read_hashed(call, KeryuNew)
    identity, services = call.identity, call.services
    faults = list(
        meaning_faults(
            services.clock.now(), services.settings.action_hosts, scheduled_for=wanted.scheduled_for
        )
    )
    if faults:
        raise refused(faults)
    words = rendered(wanted.template, wanted.named)
    await _subject(call, wanted.subject_id)
    accepted = await services.ingest.submit(
        Submission(
            tenant_id=identity.tenant_id,
            audience=Users.of(wanted.subject_id),
            title=_beginning(words),
            message=words,
            notification_type=TYPE,
            channels=("whatsapp",),
            metadata=_kept(wanted, words),
            scheduled_for=wanted.scheduled_for,
        ),
        identity,
        key=idempotency_key(call),
        body_hash=digest,
        render=lambda stored: (202, _taken(stored, wanted)),
    )
    if accepted.replayed:
        return answer(accepted.body, accepted.status, {"Idempotent-Replayed": "true"})
    services.metrics.stored(1)
    return answer(accepted.body, accepted.status)


def rendered(template: str, variables: Mapping[str, str]) -> str:
    """
    The words of a notification: the template with its variables in their places.

    Raises ServiceError (invalid) for a place without one, and for words that say nothing.
    """
    missing = [name for name in dict.fromkeys(_PLACEHOLDER.findall(template)) if name not in variables]
    if missing:
        raise invalid("variables", f"must say what stands for {', '.join(missing)}")
    words = _PLACEHOLDER.sub(lambda place: variables[place[1]], template)
    if not words.strip():
        raise invalid("variables", "must not leave the message empty")
    return words


def _kept(wanted: KeryuNew, words: str) -> dict[str, str]:
    """What the words were made from, under the names by which WhatsApp's template asks for it."""
    if words == wanted.template:
        return {}
    variables = wanted.named
    if variables.keys() == PLACES.keys():
        variables = {PLACES[place]: value for place, value in variables.items()}
    return {**variables, TEMPLATE: wanted.template}


def _beginning(words: str) -> str:
    """The title of what has none: the first line of its words, which channels do not say twice."""
    return words.strip().splitlines()[0][:_MAX_TITLE].strip()


def _taken(stored: Stored, wanted: KeryuNew) -> bytes:
    content = stored.content
    return (
        KeryuShown(
            id=str(content.id),
            subject_id=wanted.subject_id,
            message_template=wanted.template,
            status="queued",
            created_at=content.created_at,
            scheduled_for=wanted.scheduled_for,
            sent_at=None,
            retry_count=0,
        )
        .model_dump_json()
        .encode()
    )


async def listed(call: Call) -> Response:
    """What the tenant's services have handed in by this path, the newest first."""
    wanted = query(call, KeryuListQuery)
    page = await call.services.delivery.keryu.page(
        call.identity.tenant_id, wanted.status, limit=wanted.limit, offset=wanted.offset
    )
    return answer(
        KeryuList(
            notifications=[_shown(one) for one in page.notifications],
            total=page.total,
            limit=wanted.limit,
            offset=wanted.offset,
        )
    )


async def status(call: Call) -> Response:
    """How it stands with a notification to one person by WhatsApp, whichever path it came by."""
    return answer(_shown(await call.services.delivery.keryu.get(call.identity.tenant_id, call.id_in_path())))


async def retry(call: Call) -> Response:
    """Send again what has failed; `conflict` for what has not."""
    delivery, tenant_id, notification_id = (
        call.services.delivery,
        call.identity.tenant_id,
        call.id_in_path(),
    )
    found = await delivery.keryu.get(tenant_id, notification_id)
    if found.delivery_id is None:
        raise ServiceError("conflict", f"The notification is {found.status}.")
    await delivery.deliveries.retry(call.identity, found.delivery_id)
    delivery.wake()
    return answer(_shown(await delivery.keryu.get(tenant_id, notification_id)), 202)


def _shown(found: KeryuNotification) -> KeryuShown:
    return KeryuShown(
        id=str(found.id),
        subject_id=found.subject_id,
        message_template=found.message_template,
        status=found.status,
        created_at=found.created_at,
        scheduled_for=found.scheduled_for,
        sent_at=found.sent_at,
        retry_count=found.retry_count,
    )


async def create_subject(call: Call) -> Response:
    """Know a person by a new id, and their WhatsApp number."""
    wanted = await read(call, NewSubject)
    tenant_id, actor = call.identity.tenant_id, actor_of(call.identity)
    recipients = call.services.delivery.recipients
    _check_preferences(wanted.preferences)
    number = await _number(call, wanted.phone_number)
    subject_id = str(uuid4())
    given = wanted.model_dump(include={"name", "is_active", "preferences"})
    await recipients.put(tenant_id, subject_id, given, actor)
    await recipients.add(tenant_id, subject_id, "whatsapp", number, actor, verified=True, primary=True)
    return answer(_subject_shown(await recipients.get(tenant_id, subject_id)), 201)


async def subjects(call: Call) -> Response:
    """The tenant's recipients, however they became known."""
    wanted = query(call, SubjectsQuery)
    found, total = await call.services.delivery.recipients.page(
        call.identity.tenant_id, limit=wanted.limit, offset=wanted.offset
    )
    return answer(
        Subjects(
            subjects=[_subject_shown(one) for one in found],
            total=total,
            limit=wanted.limit,
            offset=wanted.offset,
        )
    )


async def update_subject(call: Call) -> Response:
    """Change a subject; another phone number takes the place of the one before."""
    wanted = await read(call, SubjectUpdate)
    tenant_id, actor = call.identity.tenant_id, actor_of(call.identity)
    subject_id = _subject_in_path(call)
    recipients = call.services.delivery.recipients
    before = await recipients.get(tenant_id, subject_id)
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set - {"phone_number"}}
    _check_preferences(given.get("preferences", {}))
    number = None
    if "phone_number" in wanted.model_fields_set and wanted.phone_number != _phone(before):
        number = await _number(call, wanted.phone_number)
    if given:
        await recipients.put(tenant_id, subject_id, given, actor)
    if number is not None:
        added = await recipients.add(
            tenant_id, subject_id, "whatsapp", number, actor, verified=True, primary=True
        )
        for old in _whatsapp(before):
            if old.id != added.address.id:
                await recipients.remove(tenant_id, subject_id, old.id, actor)
    return answer(_subject_shown(await recipients.get(tenant_id, subject_id)))


async def delete_subject(call: Call) -> Response:
    """Forget a subject and where they are reached. What is still on its way to them is dropped."""
    recipients, tenant_id = call.services.delivery.recipients, call.identity.tenant_id
    await recipients.delete(tenant_id, _subject_in_path(call), actor_of(call.identity))
    return nothing()


def _subject_in_path(call: Call) -> str:
    subject_id: str = call.path_params["subject_id"]
    if not is_user_id(subject_id):
        raise not_found("subject")
    return subject_id


async def _subject(call: Call, subject_id: str) -> Recipient:
    """Raises ServiceError (invalid) for somebody whom the tenant does not know."""
    try:
        return await call.services.delivery.recipients.get(call.identity.tenant_id, subject_id)
    except ServiceError as error:
        if error.code != "not_found":
            raise
        raise invalid("subject_id", "must be a subject that there is") from None


async def _number(call: Call, text: str) -> str:
    region = await call.services.delivery.recipients.region(call.identity.tenant_id)
    try:
        return normalise("whatsapp", text, region)
    except ValueError as error:  # a sentence that does not repeat the number
        raise invalid("phone_number", str(error)) from None


def _check_preferences(preferences: dict[str, Any]) -> None:
    if len(msgspec.json.encode(preferences)) > _MAX_PREFERENCES_BYTES:
        raise invalid("preferences", f"must be at most {_MAX_PREFERENCES_BYTES // 1024} KiB")


def _whatsapp(person: Recipient) -> list[RecipientAddress]:
    return [one for one in person.addresses if one.channel == "whatsapp"]


def _phone(person: Recipient) -> str | None:
    """The number that is used, masked."""
    return next((one.hint for one in _whatsapp(person) if one.is_primary), None)


def _subject_shown(person: Recipient) -> Subject:
    return Subject(
        id=person.user_id,
        name=person.name,
        phone_number=_phone(person),
        is_active=person.is_active,
        preferences=dict(person.preferences),
    )


def operations() -> tuple[Operation, ...]:
    """With the slash at their ends, as its document has them (X-59)."""
    one, subject = "/api/notifications/{notification_id:uuid}", "/api/subjects/{subject_id}"
    return (
        Operation(
            method="POST",
            path="/api/notifications/create/",
            handler=create,
            summary="Keryu: send a notification",
            tag="keryu",
            scopes=_SCOPES,
            body=KeryuNew,
            headers=IDEMPOTENCY,
            answers={202: KeryuShown},
            problems=_KEYED,
            examples={
                "an alert": {
                    "subject_id": "ada",
                    "template_id": "notification_alert",
                    "variables": ["Ada", "Fever", "38.9 °C at 14:05", "Please call back."],
                },
                "a text": {
                    "subject_id": "ada",
                    "message_template": "{{1}} is late by {{2}} minutes.",
                    "variables": {"1": "Bus 7", "2": "12"},
                },
            },
        ),
        Operation(
            method="GET",
            path="/api/notifications/list/",
            handler=listed,
            summary="Keryu: list notifications",
            tag="keryu",
            scopes=_SCOPES,
            query=KeryuListQuery,
            answers={200: KeryuList},
        ),
        Operation(
            method="GET",
            path=f"{one}/status/",
            handler=status,
            summary="Keryu: the status of a notification",
            tag="keryu",
            scopes=_SCOPES,
            answers={200: KeryuShown},
        ),
        Operation(
            method="POST",
            path=f"{one}/retry/",
            handler=retry,
            summary="Keryu: send again what has failed",
            tag="keryu",
            scopes=_SCOPES,
            answers={202: KeryuShown},
            problems=("conflict",),
        ),
        Operation(
            method="POST",
            path="/api/subjects/create/",
            handler=create_subject,
            summary="Keryu: add a subject",
            tag="keryu",
            scopes=_SCOPES,
            body=NewSubject,
            answers={201: Subject},
            examples={"a subject": {"name": "Ada", "phone_number": "+14155552671"}},
        ),
        Operation(
            method="GET",
            path="/api/subjects/list/",
            handler=subjects,
            summary="Keryu: list subjects",
            tag="keryu",
            scopes=_SCOPES,
            query=SubjectsQuery,
            answers={200: Subjects},
        ),
        Operation(
            method="PUT",
            path=f"{subject}/update/",
            handler=update_subject,
            summary="Keryu: change a subject",
            tag="keryu",
            scopes=_SCOPES,
            body=SubjectUpdate,
            answers={200: Subject},
            problems=("conflict",),
            examples={"another number": {"phone_number": "+14155552672"}},
        ),
        Operation(
            method="DELETE",
            path=f"{subject}/delete/",
            handler=delete_subject,
            summary="Keryu: forget a subject",
            tag="keryu",
            scopes=_SCOPES,
            answers={204: None},
        ),
    )
