"""Web Push of this process: keys, browsers, the way to push services, and the channel that uses them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog

from core.clock import Clock
from core.database import Database
from core.errors import ServiceError
from core.vault import Vault
from delivery.channels.push import PushProvider
from push.keys import PushSettings
from push.keys_store import FRESH, KeyRing
from push.sender import PushSender, SenderSettings
from push.store import Subscriptions

log = structlog.stdlib.get_logger("app.pushing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushing:
    """What Web Push needs."""

    settings: PushSettings
    keys: KeyRing
    subscriptions: Subscriptions
    sender: PushSender
    provider: PushProvider

    async def follow_keys(self, clock: Clock) -> None:
        """Hear of keys that are made, rotated and retired elsewhere; until cancelled."""
        while True:
            await clock.sleep(FRESH.total_seconds())
            try:
                await self.keys.refresh()
            except ServiceError as error:  # the keys that are known serve on
                log.warning("vapid_keys_not_read", code=error.code)

    async def prune(self, limit: int) -> int:
        """End some browsers whose page was not opened for long; how many."""
        return await self.subscriptions.prune(self.settings.unseen, limit)


async def open_push(
    settings: PushSettings,
    database: Database,
    vault: Vault,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    sending: SenderSettings | None = None,
    deadline: timedelta = timedelta(seconds=8),
    looks_only: bool = False,
) -> Pushing:
    """
    With the key of the settings, else with one that is made once and kept in the database.

    deadline: of one delivery. looks_only: nothing will be sent, and no key is made.

    Raises ServiceError (unavailable; conflict for a key that was retired) and SealBroken.
    """
    keys = KeyRing(database, vault, clock)
    if looks_only:
        pass
    elif settings.key is not None:
        await keys.adopt(settings.key)
    else:
        await keys.load()
    subscriptions = Subscriptions(database, vault, clock)
    sender = PushSender(settings, keys, clock, sending=sending)
    stack.push_async_callback(sender.close)
    provider = PushProvider(settings, subscriptions, sender, vault, clock, deadline=deadline)
    return Pushing(
        settings=settings, keys=keys, subscriptions=subscriptions, sender=sender, provider=provider
    )
