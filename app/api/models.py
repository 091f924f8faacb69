"""The forms that the models of the REST bodies and answers share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from core.identity import is_user_id
from core.notification import DELIVERY_CHANNELS
from core.plugins import CHANNEL_NAME
from core.streams import is_tenant_id, is_topic
from delivery.addresses import ADDRESS_CHANNELS
from delivery.channel import PROVIDER_CHANNELS

#: RFC 3339 section 5.6. Without an offset a moment means nothing.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


class Body(BaseModel):
    """What a caller sends: closed, and no type is taken for another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Parameters(BaseModel):
    """A query string: closed; every value is text, and a list where the name stands several times."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """What we answer. Closed, so that a test which holds answers to it sees what we add."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _moment(value: Any) -> Any:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a date and time with an offset, as in 2026-01-31T09:00:00Z (RFC 3339)")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999") from None


def _number(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise ValueError("must be a whole number")
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise ValueError("must be true or false")
        return value == "true"
    return value


def _user_id(value: str) -> str:
    if not is_user_id(value):
        raise ValueError("must be 1-255 printable characters without white space at an end")
    return value


def _topic(value: str) -> str:
    if not is_topic(value):
        raise ValueError("must be 1-127 of A-Z a-z 0-9 . _ : / -, the first a letter or digit")
    return value


def _tenant_id(value: str) -> str:
    if not is_tenant_id(value):
        raise ValueError("must be 1-63 of A-Z a-z 0-9 . _ : -, the first a letter or digit")
    return value


def unique(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("must not name anything twice")
    return values


def one_of(*names: str) -> JsonDict:
    """The JSON Schema of a body that has exactly one of these members, and not as null."""
    return {
        "oneOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
    }


TOPIC_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}$"}

Moment: TypeAlias = Annotated[AwareDatetime, Strict(False), BeforeValidator(_moment), AfterValidator(_utc)]

#: A whole number in a query string: decimal digits and nothing else.
Whole: TypeAlias = Annotated[int, BeforeValidator(_number)]

#: Yes or no in a query string: `true` or `false` and nothing else.
Flag: TypeAlias = Annotated[bool, BeforeValidator(_flag)]

#: Printable, as core.identity.is_user_id has it: neither controls nor separators but inner spaces.
_PRINTABLE = r"^[^\p{C}\p{Z}]+( +[^\p{C}\p{Z}]+)*$"

UserId: TypeAlias = Annotated[
    str,
    AfterValidator(_user_id),
    WithJsonSchema({"type": "string", "maxLength": 255, "pattern": _PRINTABLE}),
]

Topic: TypeAlias = Annotated[str, AfterValidator(_topic), WithJsonSchema(TOPIC_SCHEMA)]

TenantId: TypeAlias = Annotated[
    str,
    AfterValidator(_tenant_id),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$"}),
]

#: How producers call a kind of notification: `iep_update`, `billing.invoice-due`.
TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
NotificationType: TypeAlias = Annotated[str, StringConstraints(pattern=TYPE_PATTERN)]

PriorityName: TypeAlias = Literal["low", "normal", "high", "urgent"]


def _among(names: Sequence[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """One of a closed set that is known when the process begins: what is installed belongs to it."""
    listed = ", ".join(names)

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be among {listed}")
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(names)})


#: Every way to a person; those with a provider; those that reach people at addresses of theirs.
DeliveryChannel: TypeAlias = Annotated[str, *_among(DELIVERY_CHANNELS)]
ProviderChannel: TypeAlias = Annotated[str, *_among(PROVIDER_CHANNELS)]
AddressChannel: TypeAlias = Annotated[str, *_among(ADDRESS_CHANNELS)]

#: A channel as it stands somewhere, whether it is installed now or was once.
StoredChannel: TypeAlias = Annotated[str, StringConstraints(pattern=f"^{CHANNEL_NAME}$")]

#: A key of the producer's own: what replaces what, what belongs together.
OwnKey: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=255)]

UnreadCount: TypeAlias = Annotated[int, Field(ge=0, description="Counting stops at 1000: show 999+.")]


class Content(Answer):
    """A notification as its audience sees it."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    title: str
    message: str
    notification_type: str
    action_url: str | None
    priority: PriorityName
    channels: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    collapse_key: str | None
    group_key: str | None
    updated_at: datetime | None


class Problem(BaseModel):
    """A request that was not served, and why (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="A reference to the explanation of this kind of problem.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str = Field(
        description="Names this occurrence; also in the header X-Request-Id and in our logs."
    )
    error: str = Field(description="The stable code of the problem.")
    details: list[FaultAnswer] = Field(description="What is wrong with the request, member by member.")


class FaultAnswer(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid", title="Fault")

    path: str = Field(description="Of the member, as in recipients.2.user_id; empty for the whole body.")
    message: str


Problem.model_rebuild()
