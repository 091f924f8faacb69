"""
Browsers that may be pushed to, in PostgreSQL: who they belong to, what reached them, and when they end.

A subscription belongs to a browser profile, not to a person: whoever signs in there next takes it over by showing
the keys that only that browser has. Endpoint and keys are sealed; a keyed hash of the endpoint finds them.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg
import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError, invalid, not_found
from core.ids import uuid7
from core.keys import decode_base64url, encode_base64url
from core.sql import load
from core.vault import SealBroken, Vault
from push.subscription import Subscription, identity

log = structlog.stdlib.get_logger("push.store")

SQL = load("push", "store.sql")

#: What became of one push: `refused`, by a service that does not know us; `unknown`: it may have been taken.
Ended: TypeAlias = Literal["sent", "gone", "refused", "retry", "unknown", "too_large"]

#: What a browser says of a push (docs/push.md).
Event: TypeAlias = Literal["shown", "clicked", "closed"]

#: Browsers of one person; one more ends the one that was seen longest ago.
MAX_BROWSERS = 20

#: Of those that have ended, for whoever asks why nothing came.
MAX_ENDED = 20

#: Refusals in a row after which a browser ends, where the same service takes what is for others.
REFUSALS = 5

#: For so long a service counts as one that takes what we send.
_WORKS_FOR = timedelta(hours=1)

#: How long what is left of an ended subscription is kept, for whoever asks why nothing came.
_KEPT = timedelta(days=30)

#: How often a request begins again that met another about the same browser.
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """
    A browser as its page describes it; everything checked already.

    vapid_key_id: the key it was made with, where the page says so.
    """

    endpoint: str = field(repr=False)
    origin: str
    p256dh: bytes = field(repr=False)
    auth: bytes = field(repr=False)
    vapid_key_id: str | None = None
    user_agent: str | None = None
    device_info: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A browser as its owner sees it."""

    id: UUID
    user_id: str
    origin: str
    vapid_key_id: str
    name: str | None
    user_agent: str | None
    device_info: Mapping[str, Any]
    created_at: datetime
    last_seen_at: datetime
    last_sent_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    What a delivery has still to reach.

    wait: until the first of those that have it not, and whose push services have asked for a pause, may be sent to;
    they are not among the subscriptions. has_sent: some browser has it already. is_refused: for some browser it was
    refused for good, which is not asked again. is_shown, is_clicked: some browser has said so.
    """

    subscriptions: Sequence[Subscription]
    wait: timedelta | None = None
    has_sent: bool = False
    is_refused: bool = False
    is_shown: bool = False
    is_clicked: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """
    How one push ended. delivery_id: None for a test. status: the push service's, HTTP. retry_after: for how long it
    has asked not to send to this browser.
    """

    subscription: Subscription
    delivery_id: UUID | None
    ended: Ended
    status: int | None = None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a browser has said already of a push that is just being written down."""

    is_shown: bool
    is_clicked: bool


class Subscriptions:
    """The browsers of all tenants."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._took: dict[tuple[str, str], float] = {}  # (origin, key id): when it last took a message

    # --- what pages do ---

    async def subscribe(self, tenant_id: str, user_id: str, offer: Offer, current_key_id: str) -> Device:
        """
        The browser is this person's from now on. Said again it is the same one, with what has changed.

        current_key_id: what a browser that is new was made with, unless the page says otherwise.

        Raises ServiceError: conflict, when somebody else has that endpoint and the keys are not the same; invalid, for
        a key that was retired.
        """
        for _ in range(_TRIES):
            async with self._database.transaction() as connection:
                device = await self._put(connection, tenant_id, user_id, offer, current_key_id)
                if device is not None:
                    await connection.execute(SQL["end_surplus"], tenant_id, user_id, MAX_BROWSERS)
                    return device
        raise ServiceError("unavailable", "This browser subscribes from several places.", retry_after=1)

    async def replace(
        self,
        endpoint: str,
        auth: bytes,
        offer: Offer,
        current_key_id: str,
        admit: Callable[[str, str], None],
    ) -> None:
        """
        The browser has given itself another subscription while nobody was signed in: whoever knows the old endpoint
        and its secret is that browser. It stays the same one, at another endpoint.

        admit: told whose it is (tenant id, user id), once that is shown; what it raises is raised.

        Raises ServiceError: not_found, for an endpoint that is not known, and for another secret; conflict, when
        somebody else has the new endpoint and the keys are not the same.
        """
        old, new = self._hash(endpoint), self._hash(offer.endpoint)
        for _ in range(_TRIES):
            try:
                async with self._database.transaction() as connection:
                    held = {
                        row["endpoint_hash"]: row for row in await connection.fetch(SQL["hold"], [old, new])
                    }
                    row = held.pop(old, None)
                    stored = None if row is None else self._opened(row)
                    if row is None or stored is None or not hmac.compare_digest(stored.auth, auth):
                        raise not_found("subscription")
                    admit(row["tenant_id"], row["user_id"])
                    if (other := held.get(new)) is not None:
                        await self._make_way(connection, other, offer)
                    await self._hold_key(connection, current_key_id)
                    await connection.execute(
                        SQL["move"],
                        row["tenant_id"],
                        row["id"],
                        new,
                        self._sealed(row["tenant_id"], row["id"], offer),
                        offer.origin,
                        current_key_id,
                        offer.expires_at,
                    )
                    return
            except asyncpg.UniqueViolationError:  # another request was quicker with that endpoint
                continue
        raise ServiceError("unavailable", "This browser subscribes from several places.", retry_after=1)

    async def devices(self, tenant_id: str, user_id: str) -> list[Device]:
        """The person's browsers, the newest first."""
        async with self._database.connection() as connection:
            return [_device(row) for row in await connection.fetch(SQL["list"], tenant_id, user_id)]

    async def find(self, tenant_id: str, user_id: str, subscription_id: UUID) -> Subscription:
        """One of the person's browsers. Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find"], tenant_id, user_id, subscription_id)
        found = None if row is None else self._opened(row)
        if found is None:
            raise not_found("subscription")
        return found

    async def rename(self, tenant_id: str, user_id: str, subscription_id: UUID, name: str | None) -> Device:
        """Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["rename"], tenant_id, user_id, subscription_id, name)
        if row is None:
            raise not_found("subscription")
        return _device(row)

    async def unlink(self, tenant_id: str, user_id: str, subscription_id: UUID) -> None:
        """The browser is nobody's. Raises ServiceError (not_found)."""
        async with self._database.connection() as connection:
            status = await connection.execute(SQL["unlink"], tenant_id, user_id, subscription_id)
        if status == "DELETE 0":
            raise not_found("subscription")

    async def forget(self, tenant_id: str, user_id: str) -> None:
        """Keep no browser of a person."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["forget"], tenant_id, user_id)

    async def report(self, tenant_id: str, delivery_id: UUID, subscription_id: UUID, event: Event) -> bool:
        """Keep what a browser says of a push; whether the delivery is to be moved for it, by nobody else."""
        async with self._database.connection() as connection:
            return bool(
                await connection.fetchval(SQL["report"], tenant_id, delivery_id, subscription_id, event)
            )

    async def take(self, tenant_id: str, delivery_id: UUID, subscription_id: UUID) -> bool:
        """Whether the browser may have the whole of the notification now: once."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(SQL["take"], tenant_id, delivery_id, subscription_id))

    # --- what senders do ---

    async def waiting(self, deliveries: Sequence[tuple[str, str, UUID]]) -> list[Waiting]:
        """What each delivery (tenant id, user id, delivery id) has still to reach, in the same order."""
        if not deliveries:
            return []
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["waiting"], *_columns(deliveries))
        found: list[list[Subscription]] = [[] for _ in deliveries]
        waits: list[timedelta | None] = [None for _ in deliveries]
        said: dict[int, asyncpg.Record] = {}
        for row in rows:
            place = row["place"] - 1
            said[place] = row
            if row["wait"] is not None:
                waits[place] = min(waits[place] or row["wait"], row["wait"])
            elif row["id"] is not None:
                tenant_id, user_id, _ = deliveries[place]
                one = self._open(tenant_id, user_id, row)
                if one is not None:
                    found[place].append(one)
        return [
            Waiting(
                subscriptions,
                wait=waits[place],
                has_sent=said[place]["has_sent"],
                is_refused=said[place]["is_refused"],
                is_shown=said[place]["is_shown"],
                is_clicked=said[place]["is_clicked"],
            )
            for place, subscriptions in enumerate(found)
        ]

    async def record(self, results: Sequence[Result]) -> Mapping[tuple[UUID, UUID], Heard]:
        """
        Write down how pushes ended, and end the browsers that will never be reached again.

        Returns what browsers have said already, by (delivery id, subscription id).
        """
        if not results:
            return {}
        now = self._clock.monotonic()
        for one in results:
            if one.ended == "sent":
                self._took[one.subscription.origin, one.subscription.vapid_key_id] = now
        ordered = sorted(results, key=lambda one: (one.subscription.tenant_id, one.subscription.id.int))
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                SQL["record"],
                *_columns(
                    (
                        one.subscription.tenant_id,
                        one.delivery_id,
                        one.subscription.id,
                        one.ended,
                        one.status,
                        self._works(one.subscription, now),
                        one.retry_after,
                    )
                    for one in ordered
                ),
                REFUSALS,
            )
        return {
            (row["delivery_id"], row["subscription_id"]): Heard(row["is_shown"], row["is_clicked"])
            for row in rows
            if row["outcome"] == "sent"
        }

    async def prune(self, unseen: timedelta, limit: int) -> int:
        """
        End browsers whose page was not opened for so long, and forget some that ended long ago; how many, 0 when
        there are no more.
        """
        async with self._database.connection() as connection:
            ended = await connection.execute(SQL["end_unseen"], unseen, limit)
            deleted = await connection.execute(SQL["delete_ended"], unseen + _KEPT, limit)
        return int(ended.rpartition(" ")[2]) + int(deleted.rpartition(" ")[2])

    # --- within ---

    async def _put(
        self,
        connection: Connection,
        tenant_id: str,
        user_id: str,
        offer: Offer,
        current_key_id: str,
    ) -> Device | None:
        """None: another request was quicker, begin again."""
        hashed = self._hash(offer.endpoint)
        row = await connection.fetchrow(SQL["hold"], [hashed])
        key_id = offer.vapid_key_id or current_key_id
        if row is not None:
            stored = self._opened(row)
            is_same = stored is not None and _is_same(stored, offer)
            if is_same and offer.vapid_key_id is None:
                key_id = row["vapid_key_id"]  # the same keys: it was made with the key it always had
            if (row["tenant_id"], row["user_id"]) == (tenant_id, user_id):
                if key_id != row["vapid_key_id"]:
                    await self._hold_key(connection, key_id)
                return _device(await self._see(connection, row, offer, key_id))
            await self._make_way(connection, row, offer)
        await self._hold_key(connection, key_id)
        subscription_id = uuid7()
        made = await connection.fetchrow(
            SQL["insert"],
            tenant_id,
            subscription_id,
            user_id,
            hashed,
            self._sealed(tenant_id, subscription_id, offer),
            offer.origin,
            key_id,
            offer.user_agent,
            json.dumps(offer.device_info),
            offer.expires_at,
        )
        if made is None:
            return None
        await connection.execute(SQL["delete_surplus"], tenant_id, user_id, MAX_ENDED)
        return _device(made)

    async def _make_way(self, connection: Connection, row: asyncpg.Record, offer: Offer) -> None:
        """What was this browser's until now ends. Raises ServiceError (conflict) where it is another one's."""
        stored = self._opened(row)
        if stored is not None and not _is_same(stored, offer):
            raise ServiceError("conflict", "This browser is somebody else's, and its keys are other ones.")
        await connection.execute(SQL["end"], row["tenant_id"], row["id"], "replaced")

    async def _hold_key(self, connection: Connection, key_id: str) -> None:
        """Raises ServiceError (invalid) for a key that was retired, by whatever process."""
        if not await connection.fetchval(SQL["hold_key"], key_id):
            raise invalid("vapid_key_id", "is no key of this installation, or one that was retired")

    async def _see(
        self, connection: Connection, row: asyncpg.Record, offer: Offer, key_id: str
    ) -> asyncpg.Record:
        seen = await connection.fetchrow(
            SQL["seen"],
            row["tenant_id"],
            row["id"],
            self._sealed(row["tenant_id"], row["id"], offer),
            key_id,
            offer.user_agent,
            json.dumps(offer.device_info),
            offer.expires_at,
        )
        assert seen is not None, "the row is held"
        return seen

    def _works(self, subscription: Subscription, now: float) -> bool:
        """Whether the push service has lately taken what was signed with the same key."""
        took = self._took.get((subscription.origin, subscription.vapid_key_id))
        return took is not None and now - took < _WORKS_FOR.total_seconds()

    def _hash(self, endpoint: str) -> bytes:
        return self._vault.lookup("push", identity(endpoint))

    def _sealed(self, tenant_id: str, subscription_id: UUID, offer: Offer) -> bytes:
        parts = [offer.endpoint, encode_base64url(offer.p256dh), encode_base64url(offer.auth)]
        return self._vault.seal(json.dumps(parts), "push-subscription", tenant_id, str(subscription_id))

    def _opened(self, row: asyncpg.Record) -> Subscription | None:
        return self._open(row["tenant_id"], row["user_id"], row)

    def _open(self, tenant_id: str, user_id: str, row: asyncpg.Record) -> Subscription | None:
        """None when its encryption key is gone: that is one browser lost, until its page is opened again."""
        try:
            text = self._vault.open(row["endpoint"], "push-subscription", tenant_id, str(row["id"]))
        except SealBroken:
            log.warning("push_subscription_sealed", subscription_id=str(row["id"]))
            return None
        endpoint, p256dh, auth = json.loads(text)
        return Subscription(
            id=row["id"],
            tenant_id=tenant_id,
            user_id=user_id,
            endpoint=endpoint,
            origin=row["origin"],
            p256dh=decode_base64url(p256dh),
            auth=decode_base64url(auth),
            vapid_key_id=row["vapid_key_id"],
        )


def _is_same(stored: Subscription, offer: Offer) -> bool:
    """Whether both are of one browser: it alone knows its secret."""
    keys = hmac.compare_digest(stored.p256dh, offer.p256dh)
    return hmac.compare_digest(stored.auth, offer.auth) and keys


def _device(row: asyncpg.Record) -> Device:
    said = {name: row[name] for name in Device.__dataclass_fields__ if name != "device_info"}
    return Device(**said, device_info=json.loads(row["device_info"]))


def _columns(rows: Any) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
