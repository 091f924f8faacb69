"""What pushes hold back: how much of a notification may be seen, and the whole of it for the browser that asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias
from uuid import UUID

from core.database import Database
from core.sql import load
from delivery.audit_store import append
from delivery.channel import Address, Message
from delivery.channels.push import NAME
from delivery.composing import Composer
from delivery.facts import FactsReader
from delivery.outbox import Claimed

SQL = load("delivery", "pushes.sql")

#: How much of a notification a lock screen may show (X-27).
Privacy: TypeAlias = Literal["full", "title_only", "private"]


class Pushes:
    """Of all tenants."""

    def __init__(self, database: Database, facts: FactsReader, compose: Composer) -> None:
        self._database = database
        self._facts = facts
        self._compose = compose

    async def message(self, tenant_id: str, delivery_id: UUID) -> Message | None:
        """What a delivery says; None when it is gone, called off or too late."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["delivery"], tenant_id, delivery_id)
        if row is None:
            return None
        claimed = Claimed(**row)
        [facts] = await self._facts.gather([claimed])
        content = facts.content
        if content is None or facts.status != "published" or not facts.is_readable:
            return None
        if content.expires_at is not None and content.expires_at <= facts.now:
            return None
        address = Address(id=None, channel=claimed.channel, value=claimed.user_id or "", hint="a browser")
        return self._compose(facts, address, NAME)

    async def privacy(self, tenant_id: str) -> dict[str, Privacy]:
        """How much of each type of notification may be seen; `*`: of any other."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["privacy"], tenant_id)
        return {row["notification_type"]: row["privacy"] for row in rows}

    async def put_privacy(self, tenant_id: str, privacy: Mapping[str, Privacy], actor: str) -> None:
        """In place of what the tenant had."""
        async with self._database.transaction() as connection:
            await connection.execute(SQL["forget_privacy"], tenant_id)
            await connection.execute(SQL["put_privacy"], tenant_id, list(privacy), list(privacy.values()))
            subject = f"tenant:{tenant_id}"
            await append(connection, tenant_id, actor, "push.privacy_changed", subject, dict(privacy))
