"""
Unsubscribe links (RFC 8058): sealed tokens that say who wants no more of what by which channel.

A token is authenticated encryption over tenant, person, channel, type and the person's version, so none can be
guessed, changed or used for another type, and none shows whose it is. It does not age: a link in an old mail must
work. It is refused once the person has asked for what it ended again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.vault import SealBroken, Vault
from delivery.policy import MANDATORY, channel_type
from delivery.preferences_store import SQL, UNSUBSCRIBE_LINK, opt_out

#: Where the links lead, below the public URL.
PATH = "/u/"

_CONTEXT = "unsubscribe"

#: Longer than any token of ours: a type, a tenant and a user id of 255 characters of four bytes.
_MAX_TOKEN = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One type of notification by one channel to one person. version: recipients.unsubscribe_version."""

    tenant_id: str
    user_id: str = field(repr=False)
    channel: str
    notification_type: str
    version: int


def make_token(vault: Vault, subscription: Subscription) -> str:
    said = [
        subscription.tenant_id,
        subscription.user_id,
        subscription.channel,
        subscription.notification_type,
        subscription.version,
    ]
    return vault.token(json.dumps(said, ensure_ascii=False, separators=(",", ":")), _CONTEXT)


def read_token(vault: Vault, token: str) -> Subscription | None:
    """None for what was not sealed here for this."""
    if len(token) > _MAX_TOKEN:
        return None
    try:
        said = json.loads(vault.read_token(token, _CONTEXT))
    except SealBroken:
        return None
    tenant_id, user_id, channel, notification_type, version = said
    return Subscription(
        tenant_id=tenant_id,
        user_id=user_id,
        channel=channel,
        notification_type=notification_type,
        version=version,
    )


def unsubscribe_url(public_url: str | None, vault: Vault, subscription: Subscription) -> str | None:
    """
    The one-click link for a message, or None: without a public URL, and for what nobody can opt out of.

    public_url: how people reach us, with or without a path.
    """
    if public_url is None or subscription.notification_type in MANDATORY:
        return None
    return f"{public_url.rstrip('/')}{PATH}{make_token(vault, subscription)}"


class Unsubscribing:
    """What stands behind the links."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def look(self, token: str) -> Subscription:
        """What a link would end; changes nothing. Raises ServiceError (not_found) as act() does."""
        subscription = self._read(token)
        async with self._database.connection() as connection:
            await _check(connection, subscription)
        return subscription

    async def act(self, token: str) -> Subscription:
        """
        Send the person no more of this type by this channel; twice is once.

        Raises ServiceError (not_found) for a token that is not ours, that the person has made void by asking
        for it again, or whose person is gone.
        """
        subscription = self._read(token)
        async with self._database.transaction() as connection:
            await connection.execute(SQL["lock_preferences"], subscription.tenant_id, subscription.user_id)
            await _check(connection, subscription)
            await opt_out(
                connection,
                subscription.tenant_id,
                subscription.user_id,
                "channel_type",
                channel_type(subscription.channel, subscription.notification_type),
                reason=UNSUBSCRIBE_LINK,
                actor=f"person:{subscription.user_id}",
            )
        return subscription

    def _read(self, token: str) -> Subscription:
        subscription = read_token(self._vault, token)
        if subscription is None:
            raise _refused()
        return subscription


async def _check(connection: Connection, subscription: Subscription) -> None:
    version = await connection.fetchval(
        SQL["unsubscribe_version"], subscription.tenant_id, subscription.user_id
    )
    if version != subscription.version:
        raise _refused()


def _refused() -> ServiceError:
    """One answer, whatever is wrong with a link."""
    return not_found("unsubscribe link, or it has been replaced: take that of a newer message")
