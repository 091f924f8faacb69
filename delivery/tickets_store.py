"""One-time tickets for WebSockets, in PostgreSQL: connecting never needs Redis."""

from __future__ import annotations

import hashlib
import math
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from core.database import Database
from core.identity import Identity, Kind
from core.keys import encode_base64url
from core.sql import load

SQL = load("delivery", "identities.sql")

TICKET_LIFE = timedelta(seconds=30)

#: 32 bytes in base64url. What is longer or shorter is not looked up.
_LENGTH = 43


class Ticket(NamedTuple):
    """What the caller is given, once."""

    text: str
    expires_at: datetime


class _Holder(msgspec.Struct, frozen=True, kw_only=True):
    """An identity as it is stored: JSON knows neither sets nor infinity."""

    tenant_id: str
    user_id: str
    scopes: list[str]
    expires_at: float | None
    token_id: str | None
    issued_at: float | None
    issuer: str | None
    kind: Kind


class Tickets:
    """Issues and redeems. Whether the holder has been revoked meanwhile is for whoever redeems to judge."""

    def __init__(self, database: Database, life: timedelta = TICKET_LIFE) -> None:
        self._database = database
        self._life = life

    async def issue(self, identity: Identity) -> Ticket:
        """A ticket that stands for the caller. Raises ServiceError (unavailable)."""
        text = encode_base64url(secrets.token_bytes(32))
        holder = _Holder(
            tenant_id=identity.tenant_id,
            user_id=identity.user_id,
            scopes=sorted(identity.scopes),
            expires_at=None if math.isinf(identity.expires_at) else identity.expires_at,
            token_id=identity.token_id,
            issued_at=identity.issued_at,
            issuer=identity.issuer,
            kind=identity.kind,
        )
        async with self._database.connection() as connection:
            expires_at = await connection.fetchval(
                SQL["issue_ticket"],
                _hash(text),
                identity.tenant_id,
                msgspec.json.encode(holder).decode(),
                self._life,
            )
        return Ticket(text, expires_at)

    async def redeem(self, text: str) -> Identity | None:
        """
        Whom a ticket stands for; None when it is unknown, used or too old. It is used now, whatever follows.

        Raises ServiceError (unavailable).
        """
        if len(text) != _LENGTH or not text.isascii():
            return None
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["redeem_ticket"], _hash(text))
        if row is None or row["expired"]:
            return None
        holder = msgspec.json.decode(row["identity"], type=_Holder)
        return Identity(
            tenant_id=holder.tenant_id,
            user_id=holder.user_id,
            scopes=frozenset(holder.scopes),
            expires_at=math.inf if holder.expires_at is None else holder.expires_at,
            token_id=holder.token_id,
            issued_at=holder.issued_at,
            issuer=holder.issuer,
            kind=holder.kind,
        )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
