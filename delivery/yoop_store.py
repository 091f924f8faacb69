"""What became of the last alert: shown on YoopRL's status page (YOO-11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from core.database import Database
from core.sql import load

SQL = load("delivery", "yoop.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAlert:
    """outcome: how it stands by each of its channels; `shown` by those that are the inbox."""

    id: UUID
    notification_type: str
    priority: str
    created_at: datetime
    outcome: dict[str, str]


class LastAlerts:
    """The newest alert of each tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, types: Sequence[str]) -> LastAlert | None:
        """types: the kinds of notifications that are alerts."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["last_alert"], tenant_id, list(types))
        if row is None:
            return None
        states: dict[str, str] = msgspec.json.decode(row["states"] or "{}")
        return LastAlert(
            id=row["id"],
            notification_type=row["notification_type"],
            priority=row["priority"],
            created_at=row["created_at"],
            outcome={**dict.fromkeys(row["channels"], "shown"), **states},
        )
