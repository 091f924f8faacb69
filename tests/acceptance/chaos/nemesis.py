"""What goes wrong: one fault after the other, each healed before the next, chosen by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from tests.postgres import PostgresServer
from tests.process import Node
from tests.servers import RedisServer, redis_cli


class Nemesis:
    """Has the processes of an installation, and a seed. `done` counts what it did."""

    def __init__(
        self, nodes: Sequence[Node], redis: RedisServer, postgres: PostgresServer, seed: int
    ) -> None:
        self.done: Counter[str] = Counter()
        self._nodes = nodes
        self._redis = redis
        self._postgres = postgres
        self._random = random.Random(seed)
        self._faults: Sequence[Callable[[], Awaitable[None]]] = (
            self.kill_node,
            self.stop_node,
            self.kill_redis,
            self.cut_redis_clients,
            self.crash_postgres,
        )

    async def rage(self, seconds: float) -> None:
        """Fault after fault; each kind at least once."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        deck: list[Callable[[], Awaitable[None]]] = []
        while loop.time() < ends_at or len(self.done) < len(self._faults):
            deck = deck or self._random.sample(self._faults, len(self._faults))
            await deck.pop()()
            await self._while_it_lasts(0.1, 0.5)

    async def kill_node(self) -> None:
        """kill -9, and another process in its place."""
        self.done["kill -9 of a node"] += 1
        node = self._random.choice(self._nodes)
        await node.kill()
        await self._while_it_lasts(0, 0.5)
        await node.start()

    async def stop_node(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers."""
        self.done["SIGSTOP of a node"] += 1
        node = self._random.choice(self._nodes)
        node.freeze()
        try:
            await self._while_it_lasts(0.5, 3)
        finally:
            node.thaw()

    async def kill_redis(self) -> None:
        """kill -9, and back, empty."""
        self.done["kill -9 of Redis"] += 1
        await asyncio.to_thread(self._redis.kill)
        await self._while_it_lasts(0, 1.5)
        await asyncio.to_thread(self._redis.start)

    async def cut_redis_clients(self) -> None:
        """CLIENT KILL of every connection of the nodes."""
        self.done["CLIENT KILL"] += 1
        for kind in ("pubsub", "normal"):
            await asyncio.to_thread(redis_cli, self._redis.port, "CLIENT", "KILL", "TYPE", kind)

    async def crash_postgres(self) -> None:
        """An immediate stop, and recovery."""
        self.done["crash of PostgreSQL"] += 1
        await asyncio.to_thread(self._postgres.restart, "immediate")

    async def _while_it_lasts(self, shortest: float, longest: float) -> None:
        """The time of a fault, not a wait for something to be ready."""
        await asyncio.sleep(self._random.uniform(shortest, longest))
