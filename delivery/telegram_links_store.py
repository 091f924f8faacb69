"""Deep links that tie a Telegram chat to a person (core.telegram.org/bots/features#deep-linking)."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import structlog

from core.database import Database
from core.errors import ServiceError
from core.keys import encode_base64url
from core.sql import load
from delivery.recipients_store import Recipients

log = structlog.stdlib.get_logger("delivery.telegram_links")

SQL = load("delivery", "inbound.sql")

LINK_LIFE = timedelta(minutes=15)

#: In base64url 43 characters of the 64 that Telegram lets through.
_TOKEN_BYTES = 32


class Link(NamedTuple):
    """What stands behind `?start=`, once."""

    token: str
    expires_at: datetime


class TelegramLinks:
    """Issues and redeems."""

    def __init__(self, database: Database, recipients: Recipients, life: timedelta = LINK_LIFE) -> None:
        self._database = database
        self._recipients = recipients
        self._life = life

    async def issue(self, tenant_id: str, user_id: str) -> Link:
        """Whoever opens it in Telegram within 15 minutes is this person."""
        token = encode_base64url(secrets.token_bytes(_TOKEN_BYTES))
        async with self._database.connection() as connection:
            expires_at = await connection.fetchval(
                SQL["issue_link"], _hash(token), tenant_id, user_id, self._life
            )
        return Link(token, expires_at)

    async def redeem(self, token: str, chat: str) -> bool:
        """
        Make a chat a verified address of whom the token names; False when it is unknown, used or too old.

        Raises ServiceError (unavailable).
        """
        try:
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(SQL["redeem_link"], _hash(token))
                if row is None or row["is_expired"]:
                    return False
                tenant_id, user_id = row["tenant_id"], row["user_id"]
                await self._recipients.add_in(
                    connection, tenant_id, user_id, "telegram", chat, f"person:{user_id}", verified=True
                )
        except ServiceError as error:
            if error.code == "unavailable":
                raise
            # As many chats as a person may have: Telegram need not ask again.
            log.info("telegram_link_refused", code=error.code)
            return False
        return True


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()
