"""Carillon itself, the whole product: tokens, streams, limits and metrics in the path."""

import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import jwt

from app.cluster import Cluster, account, binaries
from benchmarks.machine import Cores, pinned
from benchmarks.peer import Serving, free_port, post, python, server
from benchmarks.workload import MARK, Workload, compact, padded

TENANT = "bench"
CHANNEL = "bench"
TOKEN_LIFE_S = 3600


class _Carillon:
    """One web process on the server's core, a PostgreSQL of its own on another, the in-process broker."""

    workloads: Sequence[str] = ("w1",)
    is_ours = True

    def missing(self) -> str | None:
        return None

    @contextmanager
    def serve(self, workload: Workload, cores: Cores, folder: Path) -> Iterator[Serving]:
        port, secret = free_port(), secrets.token_urlsafe(32)
        with postgres(cores.others) as (dsn, pid):
            environment = {
                "DATABASE_URL": dsn,
                "JWT_SECRET_KEY": secret,
                "CARILLON_STATE": str(folder / "state"),
                # Everybody comes from the loopback, and in one minute.
                "HUB_CONNECTIONS_PER_IP": str(workload.connections),
                "HUB_SILENT_PER_IP": str(workload.connections),
                "HUB_HANDSHAKE_RATE": f"{workload.connections}/{workload.connections}",
            }
            command = python("-m", "app", "serve", "--port", str(port), "--roles", "web", "--workers", "1")
            with server(
                command, core=cores.server, port=port, folder=folder, environment=environment
            ) as process:
                yield Serving(
                    port=port,
                    pid=process.pid,
                    beside=pid,
                    targets=[
                        f"/ws/notify?token={token(secret, f'person-{number}')}"
                        for number in range(workload.connections)
                    ],
                    hellos=self._hellos(),
                    ready=self._ready(),
                    requests=[self._request(workload, token(secret, "publisher", roles=["service"]))],
                )

    def _hellos(self) -> Sequence[str]:
        raise NotImplementedError

    def _ready(self) -> str:
        raise NotImplementedError

    def _request(self, workload: Workload, service_token: str) -> bytes:
        raise NotImplementedError


class Ephemeral(_Carillon):
    """POST /internal/publish to a channel that everybody subscribes to; nothing is stored."""

    name = "carillon-ephemeral"

    def _hellos(self) -> Sequence[str]:
        return [f'{{"type":"subscribe_channel","channel":"{CHANNEL}"}}']

    def _ready(self) -> str:
        return '"subscribed"'

    def _request(self, workload: Workload, service_token: str) -> bytes:
        body = compact({"channel": CHANNEL, "data": workload.payload()})
        return post("/internal/publish", body, bearer(service_token))


class Durable(_Carillon):
    """POST /internal/broadcast to a tenant in which everybody is: stored, sequenced, then shown."""

    name = "carillon-durable"

    def _hellos(self) -> Sequence[str]:
        return []

    def _ready(self) -> str:
        return '"welcome"'

    def _request(self, workload: Workload, service_token: str) -> bytes:
        broadcast = {"title": "Benchmark", "message": f"{MARK} ", "broadcast_to_tenant": True}
        body = compact(padded(broadcast, "message", workload.payload_bytes))
        return post("/internal/broadcast", body, bearer(service_token))


def bearer(value: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {value}"}


def token(secret: str, subject: str, **claims: object) -> str:
    """A JWT (HS256) of one person of the tenant."""
    expiry = int(time.time()) + TOKEN_LIFE_S
    return jwt.encode(
        {"sub": subject, "tenant_id": TENANT, "exp": expiry, **claims}, secret, algorithm="HS256"
    )


@contextmanager
def postgres(core: int) -> Iterator[tuple[str, int]]:
    """
    The DSN and the process id of a new PostgreSQL with its default durability, on one core.

    Raises ClusterError, with the server's own words, when it cannot be had.
    """
    folder = Path(mkdtemp(prefix="carillon-bench-pg-"))
    folder.chmod(0o755)  # the server may run as another account; its own folder inside has mode 0700
    owner = account()
    cluster = Cluster(folder / "cluster", binaries(owner), owner)
    try:
        cluster.create()
        with pinned(core):
            cluster.start()
        try:
            pid = cluster.pid()
            assert pid is not None
            yield cluster.dsn("postgres"), pid
        finally:
            cluster.stop("immediate")
    finally:
        shutil.rmtree(folder)
