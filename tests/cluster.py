"""A Redis Cluster of three masters for tests."""

from __future__ import annotations

import contextlib
import subprocess
import time
from types import TracebackType
from typing import Self

from tests.servers import RedisServer, free_port, redis_binary, redis_cli

SLOTS = 16384


class RedisCluster:
    """Three masters that share the slots, without replicas; each is a RedisServer with faults of its own."""

    def __init__(self) -> None:
        # The bus of the cluster listens on a port of its own, by default 10,000 above: too high for most free ones.
        self._bus_ports = [free_port() for _ in range(3)]
        self.servers = [
            RedisServer(
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--cluster-port", str(port))
            )
            for port in self._bus_ports
        ]

    @staticmethod
    def possible() -> bool:
        """Sharded pub/sub came with Redis 7.0."""
        binary = redis_binary()
        if binary is None:
            return False
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        return int(version.split("v=")[1].split(".")[0]) >= 7

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            for server in self.servers:
                started.enter_context(server)
            self._join()
            self._started = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def _join(self) -> None:
        """Give each its slots, introduce them, and wait until all three agree that the cluster is whole."""
        share = -(-SLOTS // len(self.servers))
        for index, server in enumerate(self.servers):
            first, last = index * share, min((index + 1) * share, SLOTS) - 1
            redis_cli(server.port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            redis_cli(server.port, "CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
        for server in self.servers[1:]:
            first_port, first_bus = str(self.servers[0].port), str(self._bus_ports[0])
            redis_cli(server.port, "CLUSTER", "MEET", "127.0.0.1", first_port, first_bus)
        deadline = time.monotonic() + 60
        while not all(
            "cluster_state:ok" in self._info(s) and "cluster_slots_ok:16384" in self._info(s)
            for s in self.servers
        ):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.02)  # another process: there is no event to await

    def _info(self, server: RedisServer) -> str:
        return str(redis_cli(server.port, "CLUSTER", "INFO"))
