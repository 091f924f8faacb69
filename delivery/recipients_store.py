"""
People as the providers' channels know them, and where each channel reaches them.

Addresses are sealed; they are found by their keyed hash and shown by their hint. Of a person's addresses of one
channel exactly one is the primary. Whoever changes addresses of a person locks the person first.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.ids import uuid7
from core.sql import load
from core.vault import Vault
from delivery import addresses, audit_store

SQL = load("delivery", "recipients.sql")

#: Of one person in one channel.
MAX_ADDRESSES = 10

#: What `put` may be given of a person.
FIELDS = ("name", "locale", "timezone", "is_active", "preferences")

_SECRET_BYTES = 32

#: Of a transaction that locks many people, and may have to give way to another that does.
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientSettings:
    """People and their addresses. From DELIVERY_*."""

    webhook_http: bool = False  # webhooks may do without TLS: for development


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientAddress:
    """Where one channel reaches one person, as it may be shown."""

    id: UUID
    user_id: str
    channel: str
    hint: str
    is_primary: bool
    verified_at: datetime | None
    paused_at: datetime | None
    pause_reason: str | None
    window_until: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """A person. preferences: the older systems' own, kept as given."""

    user_id: str
    name: str | None
    locale: str | None
    timezone: str | None
    is_active: bool
    preferences: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    addresses: Sequence[RecipientAddress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """A person as a producer names them. What is None stays as it is. addresses: (channel, normalised value)."""

    user_id: str
    name: str | None = None
    locale: str | None = None
    timezone: str | None = None
    addresses: Sequence[tuple[str, str]] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An address that stands now. secret: of a new webhook, which nobody can show again."""

    address: RecipientAddress
    is_new: bool
    secret: str | None = field(default=None, repr=False)


class Owner(NamedTuple):
    """Who has an address."""

    tenant_id: str
    user_id: str
    address_id: UUID


class _Written(NamedTuple):
    id: UUID
    user_id: str
    channel: str
    is_new: bool
    secret: str | None


class Recipients:
    """The people of all tenants. `actor` is who does it, for the audit log (delivery.audit_store.actor_of)."""

    def __init__(self, database: Database, vault: Vault, settings: RecipientSettings | None = None) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings or RecipientSettings()

    @property
    def plain_http(self) -> bool:
        """Whether webhooks may do without TLS."""
        return self._settings.webhook_http

    async def region(self, tenant_id: str) -> str | None:
        """The country of the tenant, for phone numbers that name none."""
        async with self._database.connection() as connection:
            region: str | None = await connection.fetchval(SQL["region"], tenant_id)
        return region

    async def put(
        self,
        tenant_id: str,
        user_id: str,
        given: Mapping[str, Any],
        actor: str,
        *,
        named: Sequence[tuple[str, str]] = (),
        verified: bool = False,
    ) -> tuple[Recipient, bool]:
        """
        A person with what is given of FIELDS; what is not given stays. Whether they are new.

        The values are as app/api checks them. named, verified: addresses, as for `introduce`.

        Raises ServiceError (conflict) for too many addresses.
        """
        assert given.keys() <= set(FIELDS), "a column that there is"
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                SQL["put_recipient"],
                tenant_id,
                user_id,
                given.get("name"),
                given.get("locale"),
                given.get("timezone"),
                given.get("is_active"),
                msgspec.json.encode(given.get("preferences") or {}).decode(),
                list(given),
            )
            changed = {} if row is None else {user_id: bool(row["is_new"])}
            wanted = [(user_id, channel, value) for channel, value in named]
            written = await self._add(connection, tenant_id, wanted, verified=verified, lead=True)
            found = await self._find(connection, tenant_id, user_id)
            await audit_store.append_many(connection, _introduced(tenant_id, actor, changed, written, given))
        return found, changed.get(user_id, False)

    async def get(self, tenant_id: str, user_id: str) -> Recipient:
        """Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            return await self._find(connection, tenant_id, user_id)

    async def list(
        self, tenant_id: str, *, after: str = "", limit: int = 50
    ) -> tuple[Sequence[Recipient], str | None]:
        """People by their names, and after which one the next page begins; None: there is none."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["recipients_after"], tenant_id, after, limit + 1)
            found = await self._with_addresses(connection, tenant_id, rows[:limit])
        return found, found[-1].user_id if len(rows) > limit else None

    async def page(self, tenant_id: str, *, limit: int, offset: int) -> tuple[Sequence[Recipient], int]:
        """A page by its offset, and how many people there are: for the older systems' lists."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["recipients_from"], tenant_id, limit, offset)
            total: int = await connection.fetchval(SQL["count_recipients"], tenant_id)
            found = await self._with_addresses(connection, tenant_id, rows)
        return found, total

    async def delete(self, tenant_id: str, user_id: str, actor: str) -> None:
        """
        Forget a person: their addresses, what they have written, where their deliveries were redirected to.

        What is still on its way finds nobody and is dropped. What they want no more of stays known.

        Raises ServiceError (not_found).
        """
        async with self._database.transaction() as connection:
            # Before the person: a worker that pauses an address holds the delivery and then wants the person.
            await connection.execute(SQL["delete_redirections"], tenant_id, user_id)
            await connection.execute(SQL["delete_said"], tenant_id, user_id)
            await connection.execute(SQL["delete_links"], tenant_id, user_id)
            if await connection.fetchval(SQL["delete_recipient"], tenant_id, user_id) is None:
                raise not_found("recipient")
            subject = f"recipient:{user_id}"
            await audit_store.append(connection, tenant_id, actor, "recipient.deleted", subject, {})

    async def introduce(
        self, tenant_id: str, people: Sequence[Introduction], actor: str, *, verified: bool
    ) -> None:
        """
        Know these people and their addresses from now on; an address that is named is the primary of its channel,
        unless it is paused. Doing it twice is doing it once.

        verified: whoever names the addresses answers for them.

        Raises ServiceError (conflict) for too many addresses of one person.
        """
        for _ in range(_TRIES):
            try:
                async with self._database.transaction() as connection:
                    await self.introduce_in(connection, tenant_id, people, actor, verified=verified)
            except (
                asyncpg.exceptions.TransactionRollbackError
            ):  # a deadlock with a worker that pauses addresses
                continue
            return
        raise ServiceError("unavailable", "Too much is changing about these people.", retry_after=1)

    async def introduce_in(
        self,
        connection: Connection,
        tenant_id: str,
        people: Sequence[Introduction],
        actor: str,
        *,
        verified: bool,
    ) -> None:
        """As `introduce`, in the caller's transaction; it ends with the tenant's audit log locked."""
        changed = await self._introduce(connection, tenant_id, people)
        wanted = [
            (person.user_id, channel, value) for person in people for channel, value in person.addresses
        ]
        written = await self._add(connection, tenant_id, wanted, verified=verified, lead=True)
        await audit_store.append_many(connection, _introduced(tenant_id, actor, changed, written))

    async def add(
        self,
        tenant_id: str,
        user_id: str,
        channel: str,
        value: str,
        actor: str,
        *,
        verified: bool,
        primary: bool = False,
    ) -> Added:
        """
        An address of a person, who need not be known before. The first of a channel is its primary.

        value: normalised. Raises ServiceError (conflict) for too many of one channel.
        """
        async with self._database.transaction() as connection:
            return await self.add_in(
                connection, tenant_id, user_id, channel, value, actor, verified=verified, primary=primary
            )

    async def add_in(
        self,
        connection: Connection,
        tenant_id: str,
        user_id: str,
        channel: str,
        value: str,
        actor: str,
        *,
        verified: bool,
        primary: bool = False,
    ) -> Added:
        """As `add`, in the caller's transaction; it ends with the tenant's audit log locked."""
        wanted = [(user_id, channel, value)]
        changed = await self._introduce(connection, tenant_id, [Introduction(user_id=user_id)])
        written = await self._add(connection, tenant_id, wanted, verified=verified, lead=primary)
        [stored] = await self._stored(connection, tenant_id, wanted)
        address = await self._address(connection, tenant_id, user_id, stored["id"])
        await audit_store.append_many(connection, _introduced(tenant_id, actor, changed, written))
        is_new = any(one.is_new for one in written)
        return Added(address=address, is_new=is_new, secret=written[0].secret if is_new else None)

    async def change(
        self,
        tenant_id: str,
        user_id: str,
        address_id: UUID,
        actor: str,
        *,
        primary: bool = False,
        paused: bool | None = None,
    ) -> RecipientAddress:
        """
        Make an address the primary of its channel, pause it or send to it again.

        Raises ServiceError: not_found; conflict when a paused address is to be the primary.
        """
        async with self._database.transaction() as connection:
            before = await self.lock_address(connection, tenant_id, user_id, address_id)
            done: list[str] = []
            if paused is True and await connection.fetchval(SQL["pause"], tenant_id, address_id, "paused"):
                done.append("address.paused")
            if paused is False and await connection.fetchval(SQL["unpause"], tenant_id, address_id):
                done.append("address.resumed")
            if primary:
                if paused is True or (before.paused_at is not None and paused is None):
                    raise ServiceError("conflict", "The address is paused.")
                if await self._promote(connection, tenant_id, [address_id]):
                    done.append("address.made_primary")
            await self._settle(connection, tenant_id, {user_id})
            address = await self._address(connection, tenant_id, user_id, address_id)
            await audit_store.append_many(
                connection, [_about(tenant_id, actor, action, address) for action in done]
            )
        return address

    async def remove(self, tenant_id: str, user_id: str, address_id: UUID, actor: str) -> None:
        """Raises ServiceError (not_found)."""
        async with self._database.transaction() as connection:
            address = await self.lock_address(connection, tenant_id, user_id, address_id)
            await connection.fetchval(SQL["delete_address"], tenant_id, address_id, user_id)
            await self._settle(connection, tenant_id, {user_id})
            await audit_store.append_many(connection, [_about(tenant_id, actor, "address.removed", address)])

    async def lock_address(
        self, connection: Connection, tenant_id: str, user_id: str, address_id: UUID
    ) -> RecipientAddress:
        """An address whose owner is locked until the caller's transaction ends. Raises ServiceError (not_found)."""
        await connection.execute(SQL["lock_recipient"], tenant_id, user_id)
        return await self._address(connection, tenant_id, user_id, address_id)

    async def new_secret(self, tenant_id: str, user_id: str, address_id: UUID, actor: str) -> str:
        """
        Another secret for a webhook, shown now and never again; the one before it is worth nothing.

        Raises ServiceError: not_found, conflict for what is no webhook.
        """
        secret = _new_secret()
        sealed = self._vault.seal(secret, "address-secret", tenant_id, str(address_id))
        async with self._database.transaction() as connection:
            address = await self.lock_address(connection, tenant_id, user_id, address_id)
            if await connection.fetchval(SQL["set_secret"], tenant_id, address_id, user_id, sealed) is None:
                raise ServiceError("conflict", "Only webhooks have a secret.")
            await audit_store.append_many(
                connection, [_about(tenant_id, actor, "address.secret_changed", address)]
            )
        return secret

    async def find_by_address(self, channel: str, value: str) -> Sequence[Owner]:
        """
        Who has this address, in any tenant: what comes in at our one number does not say for whom.

        Only where somebody has answered for it. value: as the provider writes it.
        """
        try:
            value = addresses.normalise(channel, value, plain_http=True)
        except ValueError:  # it is nobody's, then, unless it was stored before the rules for it changed
            pass
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["who_has"], channel, self._vault.lookup(channel, value))
        return [Owner(row["tenant_id"], row["user_id"], row["id"]) for row in rows]

    async def open_window(
        self, connection: Connection, tenant_id: str, address_id: UUID, until: datetime
    ) -> None:
        """The person has written to us: until then WhatsApp takes free text for them."""
        await connection.execute(SQL["open_window"], tenant_id, address_id, until)

    async def mark_verified(
        self, connection: Connection, tenant_id: str, address_id: UUID, actor: str
    ) -> None:
        """Somebody has answered from there. In the caller's transaction, which locked the person."""
        owner = await connection.fetchrow(SQL["owner"], tenant_id, address_id)
        if owner is None or await connection.fetchval(SQL["verify"], tenant_id, address_id) is None:
            return
        await self._settle(connection, tenant_id, {owner["user_id"]})
        address = await self._address(connection, tenant_id, owner["user_id"], address_id)
        await audit_store.append_many(connection, [_about(tenant_id, actor, "address.verified", address)])

    async def _find(self, connection: Connection, tenant_id: str, user_id: str) -> Recipient:
        row = await connection.fetchrow(SQL["find_recipient"], tenant_id, user_id)
        if row is None:
            raise not_found("recipient")
        [found] = await self._with_addresses(connection, tenant_id, [row])
        return found

    async def _with_addresses(
        self, connection: Connection, tenant_id: str, rows: Sequence[asyncpg.Record]
    ) -> Sequence[Recipient]:
        names = [row["user_id"] for row in rows]
        listed = await connection.fetch(SQL["addresses_of"], tenant_id, names) if names else []
        by_person: dict[str, list[RecipientAddress]] = {}
        for row in listed:
            by_person.setdefault(row["user_id"], []).append(RecipientAddress(**row))
        return [
            Recipient(
                **{
                    **row,
                    "preferences": msgspec.json.decode(row["preferences"]),
                    "addresses": by_person.get(row["user_id"], ()),
                }
            )
            for row in rows
        ]

    async def _address(
        self, connection: Connection, tenant_id: str, user_id: str, address_id: UUID
    ) -> RecipientAddress:
        row = await connection.fetchrow(SQL["find_address"], tenant_id, address_id, user_id)
        if row is None:
            raise not_found("address")
        return RecipientAddress(**row)

    async def _introduce(
        self, connection: Connection, tenant_id: str, people: Sequence[Introduction]
    ) -> dict[str, bool]:
        """Those who were changed, and whether they are new."""
        named = {one.user_id: one for one in people}.values()
        if not named:
            return {}
        columns = zip(*((one.user_id, one.name, one.locale, one.timezone) for one in named), strict=True)
        rows = await connection.fetch(SQL["introduce"], tenant_id, *(list(column) for column in columns))
        return {row["user_id"]: row["is_new"] for row in rows}

    async def _add(
        self,
        connection: Connection,
        tenant_id: str,
        wanted: Sequence[tuple[str, str, str]],
        *,
        verified: bool,
        lead: bool,
    ) -> Sequence[_Written]:
        """
        Those that were added or confirmed by this. wanted: (user id, channel, value), of people who are locked.

        lead: they are to be the primaries of their channels; of several in one channel, the first.
        """
        if not wanted:
            return []
        shown: dict[UUID, str] = {}
        rows = []
        for user_id, channel, value in dict.fromkeys(wanted):
            address_id = uuid7()
            sealed = self._vault.seal(value, "address", tenant_id, str(address_id))
            sealed_secret = None
            if channel == "webhook":
                shown[address_id] = _new_secret()
                sealed_secret = self._vault.seal(
                    shown[address_id], "address-secret", tenant_id, str(address_id)
                )
            lookup, hint = self._vault.lookup(channel, value), addresses.hint(channel, value)
            rows.append((address_id, user_id, channel, sealed, lookup, hint, sealed_secret))
        columns = [list(column) for column in zip(*rows, strict=True)]
        written = await connection.fetch(SQL["add_addresses"], tenant_id, *columns, verified)
        if await connection.fetchval(SQL["count_addresses"], tenant_id, columns[1]) > MAX_ADDRESSES:
            raise ServiceError("conflict", f"A person has at most {MAX_ADDRESSES} addresses of one channel.")
        if lead:
            await self._lead(connection, tenant_id, wanted)
        await self._settle(connection, tenant_id, set(columns[1]))
        return [_Written(**row, secret=shown.get(row["id"])) for row in written]

    async def _lead(
        self, connection: Connection, tenant_id: str, wanted: Sequence[tuple[str, str, str]]
    ) -> None:
        first: dict[tuple[str, str], tuple[str, str, str]] = {}
        for one in wanted:
            first.setdefault(one[:2], one)
        stored = await self._stored(connection, tenant_id, list(first.values()))
        chosen = [row["id"] for row in stored if row["paused_at"] is None and not row["is_primary"]]
        await self._promote(connection, tenant_id, chosen)

    async def _stored(
        self, connection: Connection, tenant_id: str, wanted: Sequence[tuple[str, str, str]]
    ) -> Sequence[asyncpg.Record]:
        names, channels, values = (list(column) for column in zip(*wanted, strict=True))
        lookups = [
            self._vault.lookup(channel, value) for channel, value in zip(channels, values, strict=True)
        ]
        return await connection.fetch(SQL["addresses_by_value"], tenant_id, names, channels, lookups)

    async def _promote(self, connection: Connection, tenant_id: str, ids: Sequence[UUID]) -> bool:
        """Make these the primaries of their channels; whether any was not."""
        if not ids:
            return False
        await connection.execute(SQL["demote"], tenant_id, ids)
        return bool(await connection.fetch(SQL["promote"], tenant_id, ids))

    async def _settle(self, connection: Connection, tenant_id: str, user_ids: Iterable[str]) -> None:
        await settle(connection, tenant_id, sorted(user_ids))


async def settle(connection: Connection, tenant_id: str, user_ids: Sequence[str]) -> None:
    """One primary for every channel of these people, who are locked: where there is none, or it is paused."""
    heirs = [row["id"] for row in await connection.fetch(SQL["heir"], tenant_id, user_ids)]
    if heirs:
        await connection.execute(SQL["demote"], tenant_id, heirs)
        await connection.fetch(SQL["promote"], tenant_id, heirs)


async def pause_address(
    connection: Connection, tenant_id: str, address_id: UUID, reason: str, actor: str = "worker"
) -> bool:
    """
    Send nothing more there; another verified address of the channel serves in its place. Whether it was not
    paused before. In the caller's transaction: call it last, as it ends with the tenant's audit log locked.

    reason: a word: bounced, complained, blocked, gone.
    """
    owner = await connection.fetchrow(SQL["owner"], tenant_id, address_id)
    if owner is None:
        return False
    await connection.execute(SQL["lock_recipient"], tenant_id, owner["user_id"])
    if await connection.fetchval(SQL["pause"], tenant_id, address_id, reason) is None:
        return False
    await settle(connection, tenant_id, [owner["user_id"]])
    details = {"address_id": str(address_id), "channel": owner["channel"], "reason": reason}
    subject = f"recipient:{owner['user_id']}"
    await audit_store.append(connection, tenant_id, actor, "address.paused", subject, details)
    return True


def _about(tenant_id: str, actor: str, action: str, address: RecipientAddress) -> audit_store.Entry:
    return audit_store.Entry(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        subject=f"recipient:{address.user_id}",
        details={"address_id": str(address.id), "channel": address.channel},
    )


def _introduced(
    tenant_id: str,
    actor: str,
    changed: Mapping[str, bool],
    written: Iterable[_Written],
    given: Iterable[str] = (),
) -> Iterator[audit_store.Entry]:
    """What stands in the log of people who are new or changed, and of addresses that were added or confirmed."""
    for user_id, is_new in changed.items():
        action = "recipient.added" if is_new else "recipient.changed"
        details = {"given": names} if (names := sorted(given)) else {}
        yield audit_store.Entry(
            tenant_id=tenant_id,
            actor=actor,
            action=action,
            subject=f"recipient:{user_id}",
            details=details,
        )
    for one in written:
        yield audit_store.Entry(
            tenant_id=tenant_id,
            actor=actor,
            action="address.added" if one.is_new else "address.verified",
            subject=f"recipient:{one.user_id}",
            details={"address_id": str(one.id), "channel": one.channel},
        )


def _new_secret() -> str:
    """A secret of Standard Webhooks: `whsec_` and the base64 of its bytes, of which it wants 24 to 64."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
