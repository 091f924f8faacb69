"""What a measurement of deliveries needs: a database with people in it, the other side, processes on their cores."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import asyncpg

from app.migrate import migrate
from benchmarks.machine import Cores
from benchmarks.peer import free_port, python, server
from benchmarks.peers.carillon import TENANT
from core.clock import SystemClock
from core.database import Database, DatabaseSettings, open_database
from core.identity import ACTING, Identity
from core.vault import Vault, read_keys
from delivery.draft import Submission, Users
from delivery.ingest import Ingest
from delivery.recipients_store import Introduction, Recipients
from hub.history import Entry

CHANNEL = "whatsapp"
CONCURRENCY = 64  # calls under way at once, of every worker that is measured
THINKING_S = 0.02  # of the provider, before it answers
KEYS = "bench:" + "YmVu" * 10 + "YmU="

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Sink:
    """The other side (benchmarks.delivery.sink)."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/send"

    def arrivals(self) -> list[tuple[int, int]]:
        """(nanoseconds of the monotonic clock, number of the message), in the order of their coming."""
        return [(at, number) for at, number in self._ask("GET")]

    def forget(self) -> None:
        self._ask("DELETE")

    def _ask(self, method: str) -> list[list[int]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, "/")
            found: list[list[int]] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


@contextmanager
def sink(cores: Cores, folder: Path, seconds: float = THINKING_S) -> Iterator[Sink]:
    """On a core of the receivers. seconds: how long it thinks."""
    port = free_port()
    command = python("-m", "benchmarks.delivery.sink", str(port), str(seconds))
    folder.joinpath("sink").mkdir()
    with server(command, core=cores.receivers[0], port=port, folder=folder / "sink"):
        yield Sink(port)


@contextmanager
def redis(cores: Cores, folder: Path) -> Iterator[str | None]:
    """The URL of a Redis that wakes workers of other processes; None where there is none: they look once a second."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = free_port()
    command = [program, "--port", str(port), "--save", "", "--appendonly", "no"]
    folder.joinpath("redis").mkdir()
    with server(command, core=cores.others, port=port, folder=folder / "redis"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def carillon(
    roles: str, settings: Mapping[str, str], core: int, folder: Path
) -> Iterator[tuple[int, Popen[bytes]]]:
    """One process of ours; its port and itself."""
    port = free_port()
    folder.joinpath(roles).mkdir()
    command = python("-m", "app", "serve", "--port", str(port), "--roles", roles, "--workers", "1")
    environment = {
        "DELIVERY_ENCRYPTION_KEYS": KEYS,
        "CARILLON_STATE": str(folder / roles / "state"),
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "json",
        **settings,
    }
    with server(command, core=core, port=port, folder=folder / roles, environment=environment) as process:
        yield port, process


def sending(sink: Sink) -> dict[str, str]:
    """Settings of a worker that sends to the sink."""
    return {
        "WHATSAPP_API_URL": sink.url,
        "WHATSAPP_API_TOKEN": secrets.token_urlsafe(16),
        "WHATSAPP_RATE": "0",
        "WHATSAPP_CONCURRENCY": str(CONCURRENCY),
    }


@asynccontextmanager
async def database(dsn: str) -> AsyncIterator[Database]:
    """The migrated database."""
    await migrate(dsn)
    opened = await open_database(DatabaseSettings(url=dsn))
    try:
        yield opened
    finally:
        await opened.close()


async def introduce(database: Database, people: int) -> None:
    """person-0, person-1, …, each with a number for WhatsApp."""
    recipients = Recipients(database, Vault(read_keys(KEYS)))
    for first in range(0, people, _PAGE):
        page = [
            Introduction(user_id=f"person-{number}", addresses=[(CHANNEL, f"+4477{number:08}")])
            for number in range(first, min(first + _PAGE, people))
        ]
        await recipients.introduce(TENANT, page, "bench", verified=True)


class _Nobody:
    """Nobody is connected."""

    def publish(self, entries: Sequence[Entry]) -> None: ...
    def publish_message(self, tenant_id: str, channel: str, data: bytes) -> None: ...


async def submit(database: Database, count: int) -> None:
    """As many notifications, `#0`, `#1`, …, to one person each, without a delivery."""
    ingest = Ingest(database, _Nobody(), SystemClock())
    await ingest.start()
    sender = Identity(tenant_id=TENANT, user_id="bench", scopes=ACTING, kind="service")
    places = asyncio.Semaphore(_PAGE)

    async def one(number: int) -> None:
        async with places:
            submission = Submission(
                tenant_id=TENANT,
                audience=Users.of(f"person-{number}"),
                title=f"#{number}",
                message="Your appointment is tomorrow at nine; please bring the papers of last time.",
                notification_type="reminder",
            )
            await ingest.submit(submission, sender)

    try:
        await asyncio.gather(*(one(number) for number in range(count)))
    finally:
        await ingest.close()


async def until(connection: asyncpg.Connection[asyncpg.Record], question: str, seconds: float) -> bool:
    """Wait until the database says yes; False when it did not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if await connection.fetchval(question):
            return True
        await asyncio.sleep(0.1)
    return False
