"""Tokens that are refused before they expire, in PostgreSQL; each node reads them all every few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from core.database import Database
from core.revocation import Revocation, TokenRevocation, UserRevocation, refused_until
from core.sql import load

SQL = load("delivery", "identities.sql")

#: Longer than any token that is still accepted may live.
LONGEST_LIFE = timedelta(days=366)

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class RevocationStore:
    """Writes what this node decides, and reads what every node decided."""

    def __init__(self, database: Database, longest_life: timedelta = LONGEST_LIFE) -> None:
        """longest_life: of a token, from `iat` to `exp`."""
        self._database = database
        self._longest_life = longest_life

    async def revoke_user(self, tenant_id: str, user_id: str) -> UserRevocation:
        """Refuse everything that a person was given until now."""
        async with self._database.connection() as connection:
            until = await connection.fetchval(SQL["revoke_user"], tenant_id, user_id, self._longest_life)
        return UserRevocation(tenant_id, user_id, until.timestamp())

    async def revoke_token(self, tenant_id: str, token_id: str, expires_at: float) -> TokenRevocation:
        """Refuse one token, by its `jti`. expires_at: of the token, epoch seconds; infinity is well."""
        latest = min(refused_until(expires_at), _LATEST.timestamp())
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["revoke_token"], tenant_id, token_id, datetime.fromtimestamp(latest, UTC)
            )
        return TokenRevocation(tenant_id, token_id, latest)

    async def live(self) -> Sequence[Revocation]:
        """All that count now; for core.revocation.Revocations.replace."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["live_revocations"])
        return [
            UserRevocation(row["tenant_id"], row["user_id"], row["not_before"].timestamp())
            if row["user_id"] is not None
            else TokenRevocation(row["tenant_id"], row["token_id"], row["expires_at"].timestamp())
            for row in rows
        ]
