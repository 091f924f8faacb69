"""
Links in mails to the page on which somebody sees what they are sent, and changes it, without signing in.

A token is authenticated encryption over tenant, person, address and the end of its life. It opens the page for as
long as the address it was sent to is the person's, and no longer than its life: what a mail is forwarded with is not
a key for ever. It is good for nothing else: links to unsubscribe have another context, and do not age.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from core.clock import Clock
from core.database import Database
from core.vault import SealBroken, Vault
from delivery.preferences_store import SQL

#: Where the links lead, below the public URL.
PATH = "/p/"

_CONTEXT = "preferences-page"

#: Longer than any token of ours.
_MAX_TOKEN = 3000

#: What a mail can hold of a link; that of somebody with a user id of a thousand bytes is left out.
_MAX_URL = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Who may see and change whose settings. address_id: of the address that the link was sent to."""

    tenant_id: str
    user_id: str = field(repr=False)
    address_id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who came by a link that is good. locale, timezone: as their recipient has them."""

    tenant_id: str
    user_id: str = field(repr=False)
    locale: str | None
    timezone: str | None


def make_token(vault: Vault, given: Pass) -> str:
    said = [given.tenant_id, given.user_id, given.address_id.hex, int(given.expires_at.timestamp())]
    return vault.token(json.dumps(said, ensure_ascii=False, separators=(",", ":")), _CONTEXT)


def read_token(vault: Vault, token: str) -> Pass | None:
    """None for what was not sealed here for this."""
    if len(token) > _MAX_TOKEN:
        return None
    try:
        tenant_id, user_id, address_id, expires_at = json.loads(vault.read_token(token, _CONTEXT))
    except SealBroken:
        return None
    return Pass(
        tenant_id=tenant_id,
        user_id=user_id,
        address_id=UUID(hex=address_id),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
    )


def preferences_url(public_url: str, vault: Vault, given: Pass) -> str | None:
    """The link for a mail; None where it would be longer than a mail can hold. public_url: how people reach us."""
    url = f"{public_url.rstrip('/')}{PATH}{make_token(vault, given)}"
    return url if len(url) <= _MAX_URL else None


class PreferencesLinks:
    """What stands behind the links."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    async def visitor(self, token: str) -> Visitor | Literal["unknown", "over"]:
        """
        Who comes by this link. unknown: it is none of ours. over: it was one, whatever has ended it: time, or the
        address or the person being gone; to tell which would tell of the person.
        """
        given = read_token(self._vault, token)
        if given is None:
            return "unknown"
        if given.expires_at <= self._clock.now():
            return "over"
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["visitor"], given.tenant_id, given.user_id, given.address_id)
        if row is None:
            return "over"
        return Visitor(
            tenant_id=given.tenant_id, user_id=given.user_id, locale=row["locale"], timezone=row["timezone"]
        )
