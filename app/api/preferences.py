"""What people want by which channel, what their tenant has set for all of them, and opt-outs."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator
from pydantic.config import JsonDict
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import TYPE_PATTERN, Answer, Body, Parameters, UserId
from app.api.operation import Call, Operation, answer, nothing
from app.api.reading import query, read
from core.plugins import CHANNEL_NAME
from core.streams import is_topic
from delivery.audit_store import actor_of
from delivery.channel import PROVIDER_CHANNELS
from delivery.policy import Level
from delivery.preferences_store import StoredOptOut, Wishes

#: A channel that needs a provider; `*` is every one.
AnyChannel = Annotated[str, StringConstraints(pattern=rf"^(\*|{'|'.join(PROVIDER_CHANNELS)})$")]
StoredAnyChannel = Annotated[str, StringConstraints(pattern=rf"^(\*|{CHANNEL_NAME})$")]
AnyType = Annotated[str, StringConstraints(pattern=rf"^(\*|{TYPE_PATTERN[1:-1]})$")]
Scope = Literal["all", "channel", "topic", "type", "channel_type"]

#: No other names than those that fit their patterns.
_CLOSED: JsonDict = {"additionalProperties": False}

Row = Annotated[dict[AnyChannel, bool], Field(json_schema_extra=_CLOSED)]
Matrix = Annotated[
    dict[AnyType, Row],
    Field(
        max_length=200,
        description="By type, then by channel, whether it is on. `*` stands for every type, or every channel.",
        json_schema_extra=_CLOSED,
    ),
]

_TYPE = re.compile(TYPE_PATTERN[:-1] + r"\Z")


class PersonQuery(Parameters):
    """Whose. Only with the scope notifications:write may it be somebody else."""

    user_id: UserId | None = Field(default=None, description="The caller, where it is absent.")


class NewMatrix(Body):
    """Everything that is to be set; what is not named is not set."""

    matrix: Matrix


class Effective(Answer):
    """Whether something is on, and who has said so."""

    is_enabled: bool
    level: Level


class PreferencesAnswer(Answer):
    """
    What a person has set, what their tenant has set, and what follows.

    The person goes before the tenant; and of each, a type and channel before a type, before a channel, before all.
    """

    user_id: str
    matrix: dict[str, dict[StoredAnyChannel, bool]]
    tenant: dict[str, dict[StoredAnyChannel, bool]]
    effective: dict[str, dict[StoredAnyChannel, Effective]] = Field(
        description="For every type that is named anywhere; `*` is any other type."
    )


class TenantPreferences(Answer):
    """What holds for everybody who has set nothing else."""

    matrix: dict[str, dict[StoredAnyChannel, bool]]


class _OptOut:
    """What `value` must be follows from `scope`."""

    #: What may be named; None: any name, since what is not installed any more can still be lifted.
    channels: ClassVar[Collection[str] | None] = PROVIDER_CHANNELS

    @field_validator("value")
    @classmethod
    def _fits(cls, value: str, info: ValidationInfo) -> str:
        scope = info.data.get("scope")
        if scope is not None and (fault := _fault(scope, value, cls.channels)) is not None:
            raise ValueError(fault)
        return value


_VALUE = Field(
    default="",
    max_length=255,
    validate_default=True,
    description="A channel, a topic, a type, or `channel:type`; empty for all.",
)


class NewOptOut(_OptOut, Body):
    """What a person wants no more of."""

    scope: Scope
    value: str = _VALUE


class OptOutQuery(_OptOut, Parameters):
    """Which opt-out of whom."""

    channels: ClassVar[Collection[str] | None] = None

    user_id: UserId | None = Field(default=None, description="The caller, where it is absent.")
    scope: Scope
    value: str = _VALUE


class OptOutAnswer(Answer):
    """Something that a person wants no more of, until it is lifted."""

    scope: Scope
    value: str
    reason: str = Field(
        description="How it came: api, unsubscribe_link, keyword, provider, complaint, and others."
    )
    created_at: datetime


class OptOuts(Answer):
    """The newest first."""

    opt_outs: list[OptOutAnswer]


async def show(call: Call) -> Response:
    """One's own, or with `user_id` those of somebody for whom the caller may act."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    wishes = await call.services.delivery.preferences.of_person(call.identity.tenant_id, user_id)
    return answer(_shown(user_id, wishes))


async def replace(call: Call) -> Response:
    """In place of all that the person had set."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    wanted = await read(call, NewMatrix)
    identity = call.identity
    wishes = await call.services.delivery.preferences.replace_of_person(
        identity.tenant_id, user_id, wanted.matrix, actor_of(identity)
    )
    return answer(_shown(user_id, wishes))


async def show_tenant(call: Call) -> Response:
    """What the tenant has set for all its people."""
    matrix = await call.services.delivery.preferences.of_tenant(call.identity.tenant_id)
    return answer({"matrix": matrix})


async def replace_tenant(call: Call) -> Response:
    """In place of all that the tenant had set. A person's own settings go before it."""
    wanted = await read(call, NewMatrix)
    identity = call.identity
    matrix = await call.services.delivery.preferences.replace_of_tenant(
        identity.tenant_id, wanted.matrix, actor_of(identity)
    )
    return answer({"matrix": matrix})


async def opt_outs(call: Call) -> Response:
    """One's own, or with `user_id` those of somebody for whom the caller may act."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    found = await call.services.delivery.preferences.opt_outs(call.identity.tenant_id, user_id)
    return answer(OptOuts(opt_outs=[_opt_out(one) for one in found]))


async def opt_out(call: Call) -> Response:
    """Send no more of something. 200 where it stood already; its reason and its time stay as they were."""
    user_id = whose(call, query(call, PersonQuery).user_id)
    wanted = await read(call, NewOptOut)
    identity = call.identity
    stored, is_new = await call.services.delivery.preferences.opt_out(
        identity.tenant_id, user_id, wanted.scope, wanted.value, reason="api", actor=actor_of(identity)
    )
    return answer(_opt_out(stored), 201 if is_new else 200)


async def lift(call: Call) -> Response:
    """Send it again from now on. Unsubscribe links from before are refused, where one had brought it about."""
    named = query(call, OptOutQuery)
    user_id = whose(call, named.user_id)
    identity = call.identity
    await call.services.delivery.preferences.lift(
        identity.tenant_id, user_id, named.scope, named.value, actor=actor_of(identity)
    )
    return nothing()


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/api/v1/preferences",
            handler=show,
            summary="What a person wants by which channel",
            tag="preferences",
            query=PersonQuery,
            answers={200: PreferencesAnswer},
        ),
        Operation(
            method="PUT",
            path="/api/v1/preferences",
            handler=replace,
            summary="Set what a person wants by which channel",
            tag="preferences",
            query=PersonQuery,
            body=NewMatrix,
            answers={200: PreferencesAnswer},
            examples={"no e-mail but for what is due": {"matrix": _EXAMPLE}, "nothing set": {"matrix": {}}},
        ),
        Operation(
            method="GET",
            path="/api/v1/tenant/preferences",
            handler=show_tenant,
            summary="What a tenant sends by which channel",
            tag="preferences",
            scopes=("admin",),
            answers={200: TenantPreferences},
        ),
        Operation(
            method="PUT",
            path="/api/v1/tenant/preferences",
            handler=replace_tenant,
            summary="Set what a tenant sends by which channel",
            tag="preferences",
            scopes=("admin",),
            body=NewMatrix,
            answers={200: TenantPreferences},
            examples={"text messages for alerts only": {"matrix": {"*": {"sms": False}}}},
        ),
        Operation(
            method="GET",
            path="/api/v1/preferences/opt-outs",
            handler=opt_outs,
            summary="List opt-outs",
            tag="preferences",
            query=PersonQuery,
            answers={200: OptOuts},
        ),
        Operation(
            method="POST",
            path="/api/v1/preferences/opt-outs",
            handler=opt_out,
            summary="Opt out",
            tag="preferences",
            query=PersonQuery,
            body=NewOptOut,
            answers={200: OptOutAnswer, 201: OptOutAnswer},
            problems=("conflict",),
            examples={
                "of a channel": {"scope": "channel", "value": "sms"},
                "of a type by a channel": {"scope": "channel_type", "value": "email:iep_update"},
                "of everything": {"scope": "all"},
            },
        ),
        Operation(
            method="DELETE",
            path="/api/v1/preferences/opt-outs",
            handler=lift,
            summary="Lift an opt-out",
            tag="preferences",
            query=OptOutQuery,
            answers={204: None},
            problems=("not_found",),
        ),
    )


_EXAMPLE = {"*": {"email": False}, "billing.invoice-due": {"email": True}}


def whose(call: Call, user_id: str | None) -> str:
    """The person that a request is about. Raises InsufficientScope for somebody else's without the scope."""
    if user_id is None or user_id == call.identity.user_id:
        return call.identity.user_id
    if not call.identity.has("notifications:write"):
        raise InsufficientScope(["notifications:write"])
    return user_id


def _fault(scope: str, value: str, channels: Collection[str] | None) -> str | None:
    """What is wrong with the value of an opt-out."""
    match scope:
        case "all":
            return None if value == "" else "must be empty: the scope is all"
        case "channel":
            return None if _may_name(value, channels) else f"must be among {', '.join(PROVIDER_CHANNELS)}"
        case "topic":
            return None if is_topic(value) else "must be a topic"
        case "type":
            return None if _TYPE.match(value) else "must be a notification type"
        case _:
            channel, _, kind = value.partition(":")
            is_one = _may_name(channel, channels) and _TYPE.match(kind)
            return (
                None if is_one else f"must be channel:type, the channel among {', '.join(PROVIDER_CHANNELS)}"
            )


def _may_name(channel: str, channels: Collection[str] | None) -> bool:
    return bool(re.fullmatch(CHANNEL_NAME, channel)) if channels is None else channel in channels


def _shown(user_id: str, wishes: Wishes) -> PreferencesAnswer:
    return PreferencesAnswer.model_validate(
        {
            "user_id": user_id,
            "matrix": wishes.own,
            "tenant": wishes.tenant,
            "effective": {
                kind: {
                    channel: {"is_enabled": rule.is_enabled, "level": rule.level}
                    for channel, rule in row.items()
                }
                for kind, row in wishes.effective.items()
            },
        }
    )


def _opt_out(stored: StoredOptOut) -> OptOutAnswer:
    return OptOutAnswer.model_validate(
        {
            "scope": stored.scope,
            "value": stored.value,
            "reason": stored.reason,
            "created_at": stored.created_at,
        }
    )
