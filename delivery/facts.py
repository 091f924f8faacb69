"""What the policy asks about deliveries: gathered for a whole batch in two statements, and a third for pushes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from core.database import Connection, Database
from core.notification import Content
from core.sql import load
from core.vault import SealBroken, Vault
from delivery.batching import words
from delivery.channel import Address
from delivery.outbox import CAMPAIGN_LANE, Claimed
from delivery.policy import SYSTEM_RULE, Facts, OptOut, Rule, StoredAddress, StoredRecipient
from hub.history_postgres import content

SQL = load("delivery", "facts.sql")

#: Why an address that does not open is paused, for the gates.
SEALED = "sealed"


class _Said(NamedTuple):
    """A notification as it is now."""

    says: Content
    status: str
    topic: str | None


#: Whether a person (tenant id, user id) has the application before their eyes.
Looking: TypeAlias = Callable[[str, str], Awaitable[bool]]


#: How many notifications people (tenant id, user id) have not read, in their order; None: not known.
Unread: TypeAlias = Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[int | None]]]


async def nobody_counts(people: Sequence[tuple[str, str]]) -> Sequence[int | None]:
    """Where badges are not kept."""
    return [None] * len(people)


async def nobody_looks(tenant_id: str, user_id: str) -> bool:
    """Where nobody knows who is there."""
    return False


class FactsReader:
    """Reads facts."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        configured: Collection[str],
        looking: Looking = nobody_looks,
        unread: Unread = nobody_counts,
    ) -> None:
        """
        configured: the channels that have a provider here. looking, unread: asked once per batch and person.
        """
        self._database = database
        self._vault = vault
        self._configured = frozenset(configured)
        self._looking = looking
        self._unread = unread

    async def gather(self, deliveries: Sequence[Claimed]) -> list[Facts]:
        """
        The facts of each delivery, in the same order. Deliveries are of notifications, not of events.

        Raises ServiceError (unavailable).
        """
        if not deliveries:
            return []
        wanted = {(one.tenant_id, one.notification_id) for one in deliveries}
        pushes = [one for one in deliveries if one.channel == "push"]
        async with self._database.connection() as connection:
            said = await connection.fetch(
                SQL["contents"], [pair[0] for pair in wanted], [pair[1] for pair in wanted]
            )
            people = await connection.fetch(
                SQL["people"],
                [one.tenant_id for one in deliveries],
                [one.notification_id for one in deliveries],
                [one.user_id for one in deliveries],
                [one.channel for one in deliveries],
            )
            notifications = {
                (row["tenant_id"], row["id"]): _Said(content(row["id"], row), row["status"], row["topic"])
                for row in said
            }
            wholes = [row for row in said if row["stands_for"] is not None]
            if wholes:
                await self._recompose(connection, wholes, notifications)
            pushed = await self._pushes(connection, pushes, notifications) if pushes else {}
        looking = await self._who_looks(pushes)
        unread = await self._counted(pushes)
        return [
            self._facts(
                claimed,
                notifications.get((claimed.tenant_id, claimed.notification_id)),
                row,
                pushed.get((claimed.tenant_id, claimed.id)),
                is_looking=(claimed.tenant_id, claimed.user_id) in looking,
                unread=unread.get((claimed.tenant_id, claimed.user_id)),
            )
            for claimed, row in zip(deliveries, people, strict=True)
        ]

    async def _recompose(
        self,
        connection: Connection,
        wholes: Sequence[asyncpg.Record],
        notifications: dict[tuple[str, UUID], _Said],
    ) -> None:
        """Let what goes out in the place of several say what still stands of them; of none, it is recalled."""
        parts = [(row["tenant_id"], row["id"], part) for row in wholes for part in row["stands_for"]]
        standing: dict[tuple[str, UUID], list[Content]] = {
            (row["tenant_id"], row["id"]): [] for row in wholes
        }
        for row in await connection.fetch(SQL["parts"], *map(list, zip(*parts, strict=True))):
            standing[row["tenant_id"], row["whole"]].append(content(row["id"], row))
        for key, contents in standing.items():
            if contents:
                title, message = words(contents)
                says = msgspec.structs.replace(notifications[key].says, title=title, message=message)
                notifications[key] = notifications[key]._replace(says=says)
            else:
                notifications[key] = notifications[key]._replace(status="recalled")

    async def _pushes(
        self,
        connection: Connection,
        pushes: Sequence[Claimed],
        notifications: Mapping[tuple[str, UUID], _Said],
    ) -> dict[tuple[str, UUID], asyncpg.Record]:
        said = [notifications.get((one.tenant_id, one.notification_id)) for one in pushes]
        rows = await connection.fetch(
            SQL["pushes"],
            [one.tenant_id for one in pushes],
            [one.user_id for one in pushes],
            [one.id for one in pushes],
            [None if one is None else one.says.notification_type for one in said],
        )
        return {(one.tenant_id, one.id): row for one, row in zip(pushes, rows, strict=True)}

    async def _who_looks(self, pushes: Sequence[Claimed]) -> set[tuple[str, str]]:
        people = sorted({(one.tenant_id, one.user_id) for one in pushes if one.user_id is not None})
        found = await asyncio.gather(*(self._looking(*person) for person in people))
        return {person for person, is_looking in zip(people, found, strict=True) if is_looking}

    async def _counted(self, pushes: Sequence[Claimed]) -> dict[tuple[str, str | None], int | None]:
        """For badges; not for what is for many, where counting would cost as much as sending."""
        people = sorted(
            {(one.tenant_id, one.user_id) for one in pushes if one.user_id and one.lane < CAMPAIGN_LANE}
        )
        return dict(zip(people, await self._unread(people), strict=True)) if people else {}

    def _facts(
        self,
        claimed: Claimed,
        notification: _Said | None,
        row: asyncpg.Record,
        push: asyncpg.Record | None,
        *,
        is_looking: bool,
        unread: int | None,
    ) -> Facts:
        says = None if notification is None else notification.says
        address_id, is_readable = None, True
        if claimed.edited is not None:
            try:
                edited = self._edited(claimed.edited, claimed)
            except SealBroken:
                is_readable = False
            else:
                says = says and _apply(says, edited)
                address_id = UUID(edited["address_id"]) if "address_id" in edited else None
        return Facts(
            now=row["now"],
            claimed=claimed,
            is_configured=claimed.channel in self._configured,
            content=says,
            status="cancelled" if notification is None else notification.status,
            is_read=row["is_read"],
            recipient=None if row["known"] is None else _recipient(row),
            addresses=self._addresses(claimed, row) if push is None else _browsers(claimed, push["browsers"]),
            rule=SYSTEM_RULE if row["rule_of"] is None else _rule(row),
            opt_outs=() if row["scopes"] is None else _opt_outs(row),
            topic=None if notification is None else notification.topic,
            address_id=address_id,
            is_readable=is_readable,
            is_looking=is_looking,
            unread=unread,
            privacy="full" if push is None or push["privacy"] is None else push["privacy"],
            reads=() if push is None else tuple(push["reads"] or ()),
        )

    def _edited(self, sealed: bytes, claimed: Claimed) -> dict[str, Any]:
        text = self._vault.open(sealed, "delivery-edit", claimed.tenant_id, str(claimed.id))
        edited: dict[str, Any] = json.loads(text)
        return edited

    def _addresses(self, claimed: Claimed, row: asyncpg.Record) -> tuple[StoredAddress, ...]:
        if row["ids"] is None:
            return ()
        return tuple(
            self._address(claimed, row["now"], *parts)
            for parts in zip(
                row["ids"],
                row["sealed"],
                row["hints"],
                row["secrets"],
                row["primary_ids"],
                row["verified_ids"],
                row["paused"],
                row["pause_reasons"],
                row["windows"],
                strict=True,
            )
        )

    def _address(
        self,
        claimed: Claimed,
        now: Any,
        address_id: UUID,
        sealed: bytes,
        hint: str,
        secret: bytes | None,
        is_primary: bool,
        is_verified: bool,
        paused_at: Any,
        pause_reason: str | None,
        window_until: Any,
    ) -> StoredAddress:
        tenant_id, context = claimed.tenant_id, str(address_id)
        value, opened = "", None
        try:
            value = self._vault.open(sealed, "address", tenant_id, context)
            if secret is not None:
                opened = self._vault.open(secret, "address-secret", tenant_id, context)
        except SealBroken:  # a key that is gone is one address lost, not a batch
            paused_at, pause_reason = paused_at or now, pause_reason or SEALED
        return StoredAddress(
            address=Address(
                id=address_id,
                channel=claimed.channel,
                value=value,
                hint=hint,
                secret=opened,
                window_until=window_until,
            ),
            is_primary=is_primary,
            is_verified=is_verified,
            paused_at=paused_at,
            pause_reason=pause_reason,
        )


def _browsers(claimed: Claimed, count: int) -> tuple[StoredAddress, ...]:
    """A person is reached in every browser that they have subscribed in, under their own name."""
    if not count or claimed.user_id is None:
        return ()
    hint = "1 browser" if count == 1 else f"{count} browsers"
    address = Address(id=None, channel=claimed.channel, value=claimed.user_id, hint=hint)
    return (StoredAddress(address=address, is_primary=True, is_verified=True),)


def _apply(says: Content, edited: dict[str, Any]) -> Content:
    return msgspec.structs.replace(
        says, title=edited.get("title", says.title), message=edited.get("text", says.message)
    )


def _recipient(row: asyncpg.Record) -> StoredRecipient:
    return StoredRecipient(
        user_id=row["known"],
        name=row["name"],
        locale=row["locale"],
        timezone=row["timezone"],
        is_active=row["is_active"],
        unsubscribe_version=row["unsubscribe_version"],
    )


def _rule(row: asyncpg.Record) -> Rule:
    return Rule(
        is_enabled=row["is_enabled"],
        level="user" if row["rule_of"] else "tenant",
        notification_type=row["rule_type"],
        channel=row["rule_channel"],
    )


def _opt_outs(row: asyncpg.Record) -> tuple[OptOut, ...]:
    return tuple(map(OptOut, row["scopes"], row["opt_out_values"], row["reasons"]))
