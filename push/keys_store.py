"""
The ring of VAPID keys in PostgreSQL. One is current: pages subscribe with it. Those before it go on sending to the
browsers that have subscribed with them, until they are retired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.sql import load
from core.vault import SealBroken, Vault
from push.keys import VapidKey, new_key, private_text, read_private

log = structlog.stdlib.get_logger("push.keys")

SQL = load("push", "keys_store.sql")

State = Literal["current", "sending", "retired"]

#: What other processes do to the ring is seen after this long.
FRESH = timedelta(seconds=30)

#: A key that is not known is looked for at most so often: whoever asks for one that is not there costs no more.
_ASKED_AGAIN = timedelta(seconds=1)

#: Subscriptions ended in one statement, so that none takes longer than statements may.
_ENDED_AT_ONCE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key of the ring, without its private half."""

    id: str
    public_key: bytes
    state: State
    created_at: datetime
    subscriptions: int  # browsers that it reaches


class KeyRing:
    """
    The keys of this installation.

    `load` once before anything is asked; `refresh` before what must not be older than FRESH.
    """

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._keys: Mapping[str, VapidKey] = {}
        self._current: VapidKey | None = None
        self._read_at = float("-inf")
        self._loading = asyncio.Lock()
        self._broken: set[str] = set()  # ids of keys that do not open: said once

    @property
    def current(self) -> VapidKey:
        """The key that pages subscribe with."""
        assert self._current is not None, "the ring was not loaded"
        return self._current

    def get(self, key_id: str) -> VapidKey | None:
        """A key that may sign: the current one, or one that still sends. None: it is retired, or not known here."""
        return self._keys.get(key_id)

    async def find(self, key_id: str) -> VapidKey | None:
        """The same, where another process may have made the key a moment ago."""
        if key_id not in self._keys:
            await self._load_when_older(_ASKED_AGAIN)
        return self._keys.get(key_id)

    async def load(self) -> None:
        """
        Read the ring; make its first key where there is none. Nodes that start together make one.

        A key that does not open any more is left out. Raises ServiceError (unavailable), and SealBroken when it is the
        current one: `carillon vapid rotate` then makes another.
        """
        read_at = self._clock.monotonic()
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["ring"])
        if not any(row["state"] == "current" for row in rows):
            async with self._database.transaction() as connection:
                await connection.execute(SQL["one_at_a_time"])
                rows = await connection.fetch(SQL["ring"])
                if not any(row["state"] == "current" for row in rows):
                    made = new_key()
                    await self._put(connection, made)
                    log.info("vapid_key_made", key_id=made.id)
                    rows = await connection.fetch(SQL["ring"])
        keys, current = {}, None
        for row in rows:
            if row["state"] == "retired":
                continue
            try:
                key = self._keys.get(row["id"]) or self._open(row["id"], row["private_key"])
            except SealBroken as error:
                if row["state"] == "current":
                    raise
                if row["id"] not in self._broken:
                    self._broken.add(row["id"])
                    log.error("vapid_key_unusable", key_id=row["id"], reason=str(error))
                continue
            keys[key.id] = key
            if row["state"] == "current":
                current = key
        self._keys, self._current, self._read_at = keys, current, read_at

    async def refresh(self) -> None:
        """Read the ring again when what is known of it is older than FRESH."""
        await self._load_when_older(FRESH)

    async def adopt(self, key: VapidKey) -> None:
        """
        Make a key from outside (VAPID_PRIVATE_KEY) the current one; the one before goes on sending.

        Raises ServiceError (conflict) for one that was retired: whoever has it may be somebody else.
        """
        async with self._database.transaction() as connection:
            await connection.execute(SQL["one_at_a_time"])
            state = await connection.fetchval(SQL["state_of"], key.id)
            if state == "retired":
                raise ServiceError("conflict", "VAPID_PRIVATE_KEY is a key that was retired: make another.")
            if state != "current":
                await self._put(connection, key)
                log.info("vapid_key_adopted", key_id=key.id)
        await self.load()

    async def rotate(self) -> VapidKey:
        """
        A new current key. Pages see that theirs is another and subscribe again; until then the old one sends.
        """
        key = new_key()
        async with self._database.transaction() as connection:
            await connection.execute(SQL["one_at_a_time"])
            await self._put(connection, key)
        log.info("vapid_key_rotated", key_id=key.id)
        await self.load()
        return key

    async def retire(self, key_id: str) -> int:
        """
        End a key that still sends, and the subscriptions that were made with it; how many those were.

        Done again after it was interrupted, it ends the rest. Raises ServiceError: not_found; conflict for the
        current key, which must be rotated first.
        """
        async with self._database.transaction() as connection:
            await connection.execute(SQL["one_at_a_time"])
            state = await connection.fetchval(SQL["state_of"], key_id)
            if state is None:
                raise not_found("key")
            if state == "current":
                raise ServiceError("conflict", "This is the current key: rotate first.")
            await connection.execute(SQL["retire"], key_id, self._clock.now())
        self._keys = {name: key for name, key in self._keys.items() if name != key_id}
        ended = 0
        while True:
            async with self._database.connection() as connection:
                done = await connection.execute(SQL["end_subscriptions"], key_id, _ENDED_AT_ONCE)
            count = int(done.rpartition(" ")[2])
            ended += count
            if count < _ENDED_AT_ONCE:
                log.info("vapid_key_retired", key_id=key_id, subscriptions=ended)
                return ended

    async def all(self) -> list[StoredKey]:
        """Every key that there ever was, the newest first. Opens none of them."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["ring"])
            counts = {row["vapid_key_id"]: row["count"] for row in await connection.fetch(SQL["subscribed"])}
        return [
            StoredKey(
                id=row["id"],
                public_key=row["public_key"],
                state=row["state"],
                created_at=row["created_at"],
                subscriptions=counts.get(row["id"], 0),
            )
            for row in rows
        ]

    async def _put(self, connection: Connection, key: VapidKey) -> None:
        sealed = self._vault.seal(private_text(key), "vapid-key", key.id)
        await connection.execute(SQL["step_down"], key.id)
        put = await connection.fetchval(SQL["put_current"], key.id, key.public_key, sealed, self._clock.now())
        assert put == "current", "a retired key comes no further than adopt"

    def _open(self, key_id: str, sealed: bytes) -> VapidKey:
        try:
            key = read_private(self._vault.open(sealed, "vapid-key", key_id))
        except SealBroken as error:
            raise SealBroken(f"the VAPID key {key_id} is {error}") from None
        if key.id != key_id:
            raise SealBroken(f"the VAPID key {key_id} is another than its name says")
        return key

    async def _load_when_older(self, age: timedelta) -> None:
        """Many who ask at once read once."""
        if self._age() < age.total_seconds():
            return
        async with self._loading:
            if self._age() >= age.total_seconds():
                await self.load()

    def _age(self) -> float:
        return self._clock.monotonic() - self._read_at
