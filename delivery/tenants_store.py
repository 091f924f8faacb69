"""What each tenant has chosen for all of its people."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Literal

from core.database import Database
from core.sql import load
from delivery import audit_store

SQL = load("delivery", "tenants.sql")

UnknownOutcome = Literal["retry_once", "give_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSettings:
    """
    region: ISO 3166, for phone numbers that name no country. unknown_outcome: of an SMS, WhatsApp or Telegram message
    of which nobody knows whether it was sent; None: high and urgent are sent once more. retention_days: None: as the
    service keeps them. legal_hold: nothing of the tenant is deleted. weekend_days: of its people, 0 is Monday; None:
    Saturday and Sunday. holidays, holiday_calendar: days off beside it, by date and by a country's calendar.
    """

    region: str | None = None
    unknown_outcome: UnknownOutcome | None = None
    retention_days: int | None = None
    legal_hold: bool = False
    weekend_days: list[int] | None = None
    holidays: list[date] = field(default_factory=list)
    holiday_calendar: str | None = None


class Tenants:
    """The settings of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settings(self, tenant_id: str) -> TenantSettings:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["settings"], tenant_id)
        return TenantSettings() if row is None else TenantSettings(**row)

    async def put(self, tenant_id: str, settings: TenantSettings, actor: str) -> None:
        """From now on. What is stored already stays as it is."""
        said = asdict(settings)
        async with self._database.transaction() as connection:
            if await connection.fetchval(SQL["put_settings"], tenant_id, *said.values()) is not None:
                subject = f"tenant:{tenant_id}"
                details = {**said, "holidays": [day.isoformat() for day in settings.holidays]}
                await audit_store.append(
                    connection, tenant_id, actor, "tenant.settings_changed", subject, details
                )
