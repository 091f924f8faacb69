"""What people send back, in PostgreSQL: kept sealed, each message once, with what it brings about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from core.clock import Clock
from core.database import Connection, Database
from core.errors import not_found
from core.ids import uuid7
from core.sql import load
from core.vault import Vault
from delivery.endpoints_store import emit
from delivery.events import Event, EventType
from delivery.inbound import Inbound, Kind, kind
from delivery.preferences_store import lift, opt_out
from delivery.recipients_store import Owner, Recipients
from delivery.telegram_links_store import TelegramLinks

SQL = load("delivery", "inbound.sql")

#: How long WhatsApp takes free text after somebody's last message.
WINDOW = timedelta(hours=24)

_EVENTS: dict[Kind, EventType] = {"reply": "inbound.reply", "help": "inbound.reply", "tap": "inbound.tap"}


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed."""

    text: str = ""
    payload: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInbound:
    """A message that came in. text and payload stay out of logs."""

    id: UUID
    user_id: str
    channel: str
    provider: str
    kind: Kind
    text: str = field(repr=False)
    payload: str | None = field(repr=False)
    delivery_id: UUID | None
    received_at: datetime


class InboundMessages:
    """The messages of all tenants."""

    def __init__(
        self, database: Database, vault: Vault, recipients: Recipients, links: TelegramLinks, clock: Clock
    ) -> None:
        self._database = database
        self._vault = vault
        self._recipients = recipients
        self._links = links
        self._clock = clock

    async def record(self, messages: Sequence[Inbound]) -> int:
        """
        Keep these and act on them, with everybody who has the address they came from, in whichever tenant; how many
        rows are new. It is durable when this returns, and doing it again changes nothing.

        Raises ServiceError (unavailable): let the provider send all of them again.
        """
        new = 0
        for message in messages:
            if message.link is not None:
                await self._links.redeem(message.link, message.address)
                continue
            for owner in await self._recipients.find_by_address(message.channel, message.address):
                async with self._database.transaction() as connection:
                    new += await self._record(connection, message, owner)
        return new

    async def page(
        self, tenant_id: str, *, user_id: str | None = None, before: UUID | None = None, limit: int = 50
    ) -> list[StoredInbound]:
        """The newest first. before: an id."""
        async with self._database.connection() as connection:
            if user_id is None:
                rows = await connection.fetch(SQL["page"], tenant_id, before, limit)
            else:
                rows = await connection.fetch(SQL["page_of_person"], tenant_id, before, limit, user_id)
        return [self._opened(tenant_id, row) for row in rows]

    async def find(self, tenant_id: str, message_id: UUID) -> StoredInbound:
        """Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find"], tenant_id, message_id)
        if row is None:
            raise not_found("message")
        return self._opened(tenant_id, row)

    async def _record(self, connection: Connection, message: Inbound, owner: Owner) -> bool:
        """Whether it is new."""
        tenant_id, user_id = owner.tenant_id, owner.user_id
        answered = None
        if message.answers is not None:
            answered = await connection.fetchrow(
                SQL["answered"], tenant_id, user_id, message.provider, message.answers
            )
        message_id, what = uuid7(), kind(message)
        said = msgspec.json.encode(Said(text=message.text, payload=message.payload)).decode()
        inserted = await connection.fetchval(
            SQL["insert"],
            tenant_id,
            message_id,
            user_id,
            message.channel,
            message.provider,
            message.provider_id,
            what,
            self._vault.seal(said, "inbound", tenant_id, str(message_id)),
            None if answered is None else answered["id"],
        )
        if inserted is None:
            return False
        now = self._clock.now()
        if message.channel == "whatsapp" and message.told not in ("blocked", "unblocked"):
            since = min(message.occurred_at or now, now)
            await self._recipients.open_window(connection, tenant_id, owner.address_id, since + WINDOW)
        await emit(connection, _events(message, owner, message_id, what, answered, now))
        await _heed(connection, message, owner, what)
        return True

    def _opened(self, tenant_id: str, row: asyncpg.Record) -> StoredInbound:
        opened = self._vault.open(row["sealed"], "inbound", tenant_id, str(row["id"]))
        said = msgspec.json.decode(opened, type=Said)
        return StoredInbound(
            id=row["id"],
            user_id=row["user_id"],
            channel=row["channel"],
            provider=row["provider"],
            kind=row["kind"],
            text=said.text,
            payload=said.payload,
            delivery_id=row["delivery_id"],
            received_at=row["received_at"],
        )


def _events(
    message: Inbound,
    owner: Owner,
    message_id: UUID,
    what: Kind,
    answered: asyncpg.Record | None,
    now: datetime,
) -> list[Event]:
    """Of a reply or a tap; a keyword that stops or starts is told as the opt-out that it makes or ends."""
    if what not in _EVENTS:
        return []
    delivery_id, notification_id = (None, None) if answered is None else answered
    data = {
        "inbound_id": message_id,
        "user_id": owner.user_id,
        "channel": message.channel,
        "kind": what,
        "delivery_id": delivery_id,
        "notification_id": notification_id,
    }
    return [
        Event(
            tenant_id=owner.tenant_id,
            type=_EVENTS[what],
            occurred_at=now,
            data=data,
            notification_id=notification_id,
        )
    ]


async def _heed(connection: Connection, message: Inbound, owner: Owner, what: Kind) -> None:
    """
    Stop the channel, or take that back; last, as it locks the tenant's audit log.

    What a person has said themselves is not undone by a chat that is unblocked; the word START undoes everything.
    """
    tenant_id, user_id, channel = owner.tenant_id, owner.user_id, message.channel
    in_app = message.told in ("blocked", "unblocked")
    actor = f"provider:{message.provider}" if in_app else f"person:{user_id}"
    if what == "stop":
        reason = "provider" if in_app else "keyword"
        await opt_out(connection, tenant_id, user_id, "channel", channel, reason=reason, actor=actor)
    elif what == "start":
        if in_app:
            because = await connection.fetchval(SQL["stopped_because"], tenant_id, user_id, channel)
            if because != "provider":
                return
        await lift(connection, tenant_id, user_id, "channel", channel, actor=actor)
