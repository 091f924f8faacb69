"""
Presence for several nodes, kept in Redis.

It speaks over the broker's connection, whose path is proven: while that is lost, presence knows so at once and
keeps nobody waiting. Leases end by the clock of the Redis server, so that the clocks of the nodes do not matter.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice

import structlog

from core.clock import Clock
from hub.broker import BrokerUnavailable
from hub.broker_redis import RedisBroker
from hub.link_redis import Refused, Reply, Word
from hub.presence import Held, LastSeen, Lease, PresenceSettings, last_seen

log = structlog.stdlib.get_logger("hub.presence")

TOUCH = files("hub").joinpath("lua/presence_touch.lua").read_text()
TOUCH_SHA = hashlib.sha1(TOUCH.encode(), usedforsecurity=False).hexdigest()
NODE = "node:"  # before the names of nodes among the fields of a hash
BATCH = 100  # leases renewed at a time: about 2 ms of Redis, which messages may have to wait for


class RedisPresence:
    """
    Presence in Redis.

    clock: for tests; None is the clock of the server.
    """

    def __init__(self, broker: RedisBroker, settings: PresenceSettings, clock: Clock | None = None) -> None:
        self._broker = broker
        self._settings = settings
        self._clock = clock
        self._away = False  # so that an outage is logged once

    async def touch(
        self, tenant_id: str, user_id: str, node: str, visible: bool, connections: int = 1
    ) -> None:
        await self.touch_many([Lease(tenant_id, user_id, node, visible, connections)])

    async def touch_many(self, leases: Iterable[Lease]) -> None:
        rest = iter(leases)
        while batch := list(islice(rest, BATCH)):
            try:
                async with asyncio.timeout(self._settings.timeout.total_seconds()):
                    await asyncio.gather(*map(self._touch, batch))
            except (BrokerUnavailable, Refused, TimeoutError) as error:
                self._note(error)
                return
        self._note(None)

    async def leave(self, tenant_id: str, user_id: str, node: str) -> None:
        await self.touch(tenant_id, user_id, node, False, 0)

    async def looking(self, tenant_id: str, user_id: str) -> bool:
        return (await self.online(tenant_id, [user_id]))[user_id].looking

    async def online(self, tenant_id: str, user_ids: Sequence[str]) -> dict[str, LastSeen]:
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                found = await asyncio.gather(*(self._read(tenant_id, user_id) for user_id in user_ids))
        except (BrokerUnavailable, Refused, TimeoutError) as error:
            self._note(error)
            return {user_id: LastSeen() for user_id in user_ids}
        return dict(zip(user_ids, found, strict=True))

    async def connections(self, tenant_id: str, user_id: str, *, besides: str | None = None) -> int:
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                return (await self._read(tenant_id, user_id, besides)).connections
        except (BrokerUnavailable, Refused, TimeoutError) as error:
            self._note(error)
            return 0

    async def _touch(self, lease: Lease) -> None:
        key = self._key(lease.tenant_id, lease.user_id)
        arguments: list[Word] = [
            NODE + lease.node,
            lease.connections,
            int(lease.visible),
            _milliseconds(self._settings.lease),
            _milliseconds(self._settings.keep),
            "" if self._clock is None else int(self._clock.now().timestamp() * 1000),
        ]
        try:
            await self._broker.ask(key, "EVALSHA", TOUCH_SHA, 1, key, *arguments)
        except Refused as error:
            if not str(error).startswith("NOSCRIPT"):  # a server that is new or was restarted
                raise
            await self._broker.ask(key, "EVAL", TOUCH, 1, key, *arguments)

    async def _read(self, tenant_id: str, user_id: str, besides: str | None = None) -> LastSeen:
        key = self._key(tenant_id, user_id)
        fields, time = await asyncio.gather(
            self._broker.ask(key, "HGETALL", key), self._broker.ask(key, "TIME")
        )
        now = self._clock.now() if self._clock else _moment(time)
        return _last_seen(fields, now, besides)

    def _key(self, tenant_id: str, user_id: str) -> bytes:
        # With the length of the tenant's name, so that no two people share a key whatever their names hold.
        return self._broker.key(f"presence:{len(tenant_id)}:{tenant_id}:{user_id}")

    def _note(self, error: Exception | None) -> None:
        """Log the beginning and the end of an outage."""
        if error is not None and not self._away:
            log.warning("presence_lost", reason=str(error) or "no answer in time")
        if error is None and self._away:
            log.info("presence_restored")
        self._away = error is not None


def _last_seen(fields: Reply, now: datetime, besides: str | None) -> LastSeen:
    """One person, from the hash that presence_touch.lua keeps."""
    leases, at = [], None
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if name == b"seen":
            at = datetime.fromtimestamp(int(value) / 1000, UTC)
        elif name.decode().removeprefix(NODE) != besides:
            ends, connections, visible = map(int, value.split())
            leases.append(Held(datetime.fromtimestamp(ends / 1000, UTC), connections, bool(visible)))
    return last_seen(leases, at, now)


def _moment(reply: Reply) -> datetime:
    """The answer to TIME: seconds and microseconds of the server's clock."""
    assert isinstance(reply, list)
    seconds, microseconds = map(int, reply)
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
