"""API keys in PostgreSQL. The secret is shown once; what is kept is its hash."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from core.api_key import ApiKey, new_api_key
from core.clock import Clock
from core.database import Database
from core.errors import not_found
from core.identity import Identity, InvalidToken
from core.revocation import TokenRevocation
from core.sql import load

SQL = load("delivery", "identities.sql")

#: A revoked key is refused on every node after this long, also if no announcement reaches it.
REMEMBERED_FOR = timedelta(seconds=5)
_REMEMBERED = 1000
_LISTED = 500

#: How long live connections of a revoked key are still looked for; new ones are refused by the row.
_ANNOUNCED_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key, without its secret."""

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    created_by: str  # the client that made it
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What a lookup found, for a short while."""

    identity: Identity
    secret_hash: bytes
    until: float  # by the monotonic clock


class ApiKeys:
    """The keys of all tenants."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, _Known] = {}  # oldest first

    async def create(
        self, identity: Identity, name: str, scopes: Iterable[str], expires_at: datetime | None = None
    ) -> tuple[StoredKey, str]:
        """A new key of the caller's tenant, and its text, which nobody can show again."""
        key = new_api_key()
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                SQL["create_api_key"],
                key.id,
                identity.tenant_id,
                name,
                key.hash,
                sorted(set(scopes)),
                identity.client,
                expires_at,
            )
        assert row is not None, "an insertion returns its row"
        return _stored(row), key.text

    async def list(self, identity: Identity) -> Sequence[StoredKey]:
        """The newest 500 keys of the caller's tenant, revoked ones too."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["list_api_keys"], identity.tenant_id, _LISTED)
        return [_stored(row) for row in rows]

    async def revoke(self, identity: Identity, key_id: str) -> TokenRevocation:
        """
        Refuse a key from now on; what to announce, so that its live connections end.

        Raises ServiceError (not_found) for a key of another tenant, or of none.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(SQL["revoke_api_key"], identity.tenant_id, key_id)
            if row is None:
                raise not_found("API key")
            until = datetime.now(UTC) + _ANNOUNCED_FOR
            await connection.execute(SQL["revoke_token"], identity.tenant_id, key_id, until)
        self._known.pop(key_id, None)
        return TokenRevocation(identity.tenant_id, key_id, until.timestamp())

    async def authenticate(self, key: ApiKey) -> Identity:
        """The caller behind a key. Raises InvalidToken, ServiceError (unavailable)."""
        known = self._known.get(key.id)
        if known is None or known.until <= self._clock.monotonic():
            known = await self._look_up(key.id)
        if not key.matches(None if known is None else known.secret_hash):
            raise InvalidToken("api_key")
        assert known is not None, "nothing matches the hash of no key"
        return known.identity

    async def _look_up(self, key_id: str) -> _Known | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find_api_key"], key_id)
        self._known.pop(key_id, None)
        if row is None:
            return None
        identity = Identity.of_api_key(
            row["id"],
            tenant_id=row["tenant_id"],
            scopes=row["scopes"],
            created_at=row["created_at"].timestamp(),
            expires_at=math.inf if row["expires_at"] is None else row["expires_at"].timestamp(),
        )
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        until = self._clock.monotonic() + REMEMBERED_FOR.total_seconds()
        known = self._known[key_id] = _Known(identity, row["secret_hash"], until)
        return known


def _stored(row: asyncpg.Record) -> StoredKey:
    return StoredKey(
        id=row["id"],
        tenant_id=row["tenant_id"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
