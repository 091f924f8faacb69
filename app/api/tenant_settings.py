"""What a tenant has chosen for all of its people."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from starlette.responses import Response

from app.api.models import Answer, Body, unique
from app.api.operation import Call, Operation, answer
from app.api.reading import read
from delivery.addresses import is_region
from delivery.audit_store import actor_of
from delivery.tenants_store import TenantSettings, UnknownOutcome
from digest.days_off import is_calendar

#: Some years of a school's calendar.
MAX_HOLIDAYS = 500

#: A hundred years: longer than anything here is kept.
MAX_RETENTION_DAYS = 36_525


def _region(value: str) -> str:
    if not is_region(value):
        raise ValueError("must be a country, as in AT or GB (ISO 3166)")
    return value


def _calendar(value: str) -> str:
    if not is_calendar(value):
        raise ValueError(
            "must be a country whose holidays are known, or a part of one, as in RW or DE-BY (ISO 3166)"
        )
    return value


def _in_order(days: list[date]) -> list[date]:
    return sorted(days)


Region = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$"), AfterValidator(_region)]


class TenantSettingsBody(Body):
    """All of it: what is not named is as if it had never been chosen."""

    region: Region | None = Field(default=None, description="For phone numbers that name no country.")
    unknown_outcome: UnknownOutcome | None = Field(
        default=None,
        description="About an SMS, WhatsApp or Telegram message of which nobody knows whether it was sent. Without it, "
        "high and urgent ones are sent once more.",
    )
    retention_days: Annotated[int, Field(ge=1, le=MAX_RETENTION_DAYS)] | None = None
    legal_hold: bool = Field(default=False, description="Retention deletes nothing of the tenant.")
    weekend_days: (
        Annotated[list[Annotated[int, Field(ge=0, le=6)]], Field(max_length=6), AfterValidator(unique)] | None
    ) = Field(default=None, description="0 is Monday; without it Saturday and Sunday. Digests heed them.")
    holidays: Annotated[
        list[date], Field(max_length=MAX_HOLIDAYS), AfterValidator(unique), AfterValidator(_in_order)
    ] = Field(default_factory=list, description="More days off: they count as weekend.")
    holiday_calendar: (
        Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$"), AfterValidator(_calendar)]
        | None
    ) = Field(
        default=None,
        description="Whose public holidays count as weekend too: a country, or a part of one (ISO 3166), as in RW and DE-BY.",
    )


class TenantSettingsAnswer(Answer):
    """What the tenant has chosen; null: nothing."""

    region: str | None
    unknown_outcome: UnknownOutcome | None
    retention_days: int | None
    legal_hold: bool
    weekend_days: list[int] | None
    holidays: list[date]
    holiday_calendar: str | None


async def find(call: Call) -> Response:
    """The settings of the caller's tenant."""
    return answer(_shown(await call.services.delivery.tenants.settings(call.identity.tenant_id)))


async def put(call: Call) -> Response:
    """Change the settings of the caller's tenant. What is stored already stays as it is."""
    wanted = await read(call, TenantSettingsBody)
    settings = TenantSettings(**wanted.model_dump())
    await call.services.delivery.tenants.put(call.identity.tenant_id, settings, actor_of(call.identity))
    return answer(_shown(settings))


def _shown(settings: TenantSettings) -> TenantSettingsAnswer:
    return TenantSettingsAnswer(
        region=settings.region,
        unknown_outcome=settings.unknown_outcome,
        retention_days=settings.retention_days,
        legal_hold=settings.legal_hold,
        weekend_days=settings.weekend_days,
        holidays=settings.holidays,
        holiday_calendar=settings.holiday_calendar,
    )


def operations() -> tuple[Operation, ...]:
    """The lines of the table of routes."""
    path = "/api/v1/tenant/settings"
    return (
        Operation(
            method="GET",
            path=path,
            handler=find,
            summary="See the tenant's settings",
            tag="tenant",
            scopes=("admin",),
            answers={200: TenantSettingsAnswer},
        ),
        Operation(
            method="PUT",
            path=path,
            handler=put,
            summary="Change the tenant's settings",
            tag="tenant",
            scopes=("admin",),
            body=TenantSettingsBody,
            answers={200: TenantSettingsAnswer},
            examples={"a country": {"region": "GB"}},
        ),
    )
