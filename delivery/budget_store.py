"""
How many messages that cost money go out for a tenant in a day: a hard stop, whoever asks for them (RELIABILITY,
threat 31).

They are reserved before they are sent and given back when they were not, so that no number of workers sends more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from core.database import Connection, Database
from core.sql import load

SQL = load("delivery", "budget.sql")

#: Channels of which every message costs something.
PAID = frozenset({"sms", "whatsapp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What a day may cost. From DELIVERY_*."""

    paid_per_day: int = (
        100_000  # SMS and WhatsApp messages of one tenant in a day (UTC); more wait for the next day
    )


@dataclass(slots=True)
class Reserved:
    """What one tenant may send of what was asked for. day: UTC, to give back by."""

    day: date
    left: int

    def take(self) -> bool:
        """Whether there was one left, which is taken."""
        if self.left <= 0:
            return False
        self.left -= 1
        return True


class Budget:
    """The budgets of all tenants."""

    def __init__(self, database: Database, settings: BudgetSettings | None = None) -> None:
        self._database = database
        self._limit = (settings or BudgetSettings()).paid_per_day

    async def reserve(self, wanted: Mapping[str, int]) -> dict[str, Reserved]:
        """As much of what each tenant wants as the day has left. Raises ServiceError (unavailable)."""
        if not wanted:
            return {}
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["reserve"], list(wanted), list(wanted.values()), self._limit)
        return {row["tenant_id"]: Reserved(row["day"], row["granted"]) for row in rows}


async def give_back(connection: Connection, unsent: Counter[tuple[str, date]]) -> None:
    """What was reserved for (tenant id, day) and not sent, in the caller's transaction."""
    if not unsent:
        return
    lines = sorted((tenant_id, day, count) for (tenant_id, day), count in unsent.items())
    await connection.execute(SQL["give_back"], *map(list, zip(*lines, strict=True)))
