"""How the accounts do by which channels send: one row each, shared by all workers and shown to operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from core.database import Database
from core.errors import ServiceError
from core.identity import Identity
from core.sql import load
from delivery import audit_store
from delivery.audit_store import actor_of
from delivery.breaker import Account, Key

SQL = load("delivery", "accounts.sql")

#: Counting the deliveries that wait stops here: 10,000 says enough to a person, 100,000 to a graph.
_COUNTED = 10_000
DEPTH_CAP = 100_000

_FORGOTTEN_AFTER = timedelta(days=30)  # an account that is well and was not used for so long


class Backlog(NamedTuple):
    """
    What waits in one channel of a tenant. open: counting stops at 10,000. oldest_due_at: since when the oldest
    could have gone out.
    """

    open: int
    oldest_due_at: datetime | None


class Resumed(NamedTuple):
    """An account that is sent by again. was: open, halted, or closed and paused."""

    provider: str
    account: str
    was: str


class Sight(NamedTuple):
    """What all workers together know, and when that was, by the clock of the database, which all times are of."""

    now: datetime
    accounts: dict[Key, Account]


class Accounts:
    """The rows of channel_accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[Key, Account]:
        """What all workers together know. An account without a row is well."""
        return (await self.look()).accounts

    async def look(self) -> Sight:
        """What all workers together know, and when that was."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["load"], _FORGOTTEN_AFTER)
        accounts = {
            (row["channel"], row["provider"], row["account"]): Account(
                breaker=row["breaker"],
                failures=row["failures"],
                resume_at=row["resume_at"],
                opened_at=row["opened_at"],
                last_sent_at=row["last_sent_at"],
                last_error_at=row["last_error_at"],
                last_code=row["last_code"],
                last_reason=row["last_reason"],
            )
            for row in rows
            if row["channel"] is not None
        }
        return Sight(rows[0]["now"], accounts)

    async def record(self, changes: Mapping[Key, Account]) -> None:
        """
        Write what one worker has seen. It does not lift a halt, and does not cut a pause short that somebody
        else was asked for.
        """
        if not changes:
            return
        channels, providers, names = zip(*changes, strict=True)
        seen = list(changes.values())
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["record"],
                channels,
                providers,
                names,
                [one.breaker for one in seen],
                [one.failures for one in seen],
                [one.resume_at for one in seen],
                [one.opened_at for one in seen],
                [one.last_sent_at for one in seen],
                [one.last_error_at for one in seen],
                [one.last_code for one in seen],
                [one.last_reason for one in seen],
            )

    async def take_probe(self, channel: str, provider: str, account: str, interval: timedelta) -> bool:
        """
        Whether the next look at an account in trouble is the caller's: one per interval over all workers, on
        the clock of the database.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["take_probe"], channel, provider, account, interval)
        return row is not None

    async def resume(
        self, identity: Identity, channel: str, provider: str | None = None, account: str | None = None
    ) -> list[Resumed]:
        """
        Send by these accounts of a channel again, after a halt or while a breaker is open; those that this has
        freed. The workers hear of it with the next load.

        Raises ServiceError (conflict) when none of them was stopped.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(SQL["resume"], channel, provider, account)
            if not rows:
                raise ServiceError("conflict", "No account of the channel is stopped.")
            freed = [Resumed(row["provider"], row["account"], row["was"]) for row in rows]
            await audit_store.append(
                connection,
                identity.tenant_id,
                actor_of(identity),
                "channel.resumed",
                f"channel:{channel}",
                {"accounts": [one._asdict() for one in freed]},
            )
        return freed

    async def backlog(self, tenant_id: str, channels: Sequence[str]) -> dict[str, Backlog]:
        """What waits, by channel."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["backlog"], tenant_id, channels, _COUNTED)
        return {row["channel"]: Backlog(row["backlog"], row["oldest_due_at"]) for row in rows}

    async def depth(self, channels: Sequence[str]) -> dict[str, int]:
        """What waits of all tenants together, by channel; at most DEPTH_CAP each."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["depth"], channels, DEPTH_CAP)
        return {row["channel"]: row["depth"] for row in rows}
