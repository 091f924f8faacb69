"""
The command `carillon work`: deliveries carried out without serving anything, round by round.

`carillon serve --roles worker` does the same for ever, and is woken as soon as there is something to do. This is
for a timer, for a look at what would be sent, and for who is used to YoopRL's run_worker (YOO-10).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import aiohttp
import structlog

from app.build import open_channels
from app.first_run import prepared
from app.migrate import migrate
from app.pushing import open_push
from app.settings import Settings
from app.working import worker
from core.clock import SystemClock
from core.database import open_database
from core.errors import ServiceError
from core.vault import Vault, read_keys
from delivery.attempts import Preview
from delivery.facts import Looking, nobody_counts, nobody_looks
from delivery.inbox import PostgresInbox
from delivery.observer import Observer, Unobserved
from delivery.telemetry import DeliveryEvents
from delivery.worker import Worker
from hub.broker_redis import RedisBroker
from hub.history import Entry
from hub.presence_redis import RedisPresence

log = structlog.stdlib.get_logger("app.work")

#: How many deliveries a dry run shows; the most urgent ones.
SHOWN = 1000


async def work(settings: Settings, *, once: bool, dry_run: bool, interval: timedelta) -> int:
    """
    Rounds, until SIGTERM or SIGINT; what is under way is finished first. The exit code.

    once: one round. dry_run: say what a round would do; nothing is claimed, sent or changed.

    Raises BadSetting, and ServiceError (unavailable) when the database is away.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _opened(settings, dry_run=dry_run) as made:
        while not stop.is_set():
            round_ = asyncio.create_task(_preview(made) if dry_run else _round(made))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([round_, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not round_.done():
                round_.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await round_
            except ServiceError as error:
                if once or not error.temporary:
                    raise
                log.warning("round_postponed", code=error.code)
            if once:
                stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped, interval.total_seconds())
    return 0


@asynccontextmanager
async def _opened(settings: Settings, *, dry_run: bool) -> AsyncIterator[Worker]:
    """A worker over the database and the channels of the settings."""
    async with AsyncExitStack() as stack:
        settings, _ = await stack.enter_async_context(prepared(settings))
        if settings.process.migrate and not dry_run:
            await migrate(settings.database.url)
        database = await open_database(settings.database)
        stack.push_async_callback(database.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        vault, clock = Vault(read_keys(settings.secrets.delivery_encryption_keys or "")), SystemClock()
        made: Worker

        def wake() -> None:
            made.wake()

        push = await open_push(
            settings.push,
            database,
            vault,
            clock,
            stack,
            sending=settings.pushing,
            deadline=settings.worker.provider_timeout,
            looks_only=dry_run,
        )
        channels = await open_channels(
            settings, database, vault, http, clock, wake, stack, push=push.provider
        )
        observer: Observer = Unobserved() if dry_run else DeliveryEvents(clock)
        inbox = PostgresInbox(database, _Aside())

        made = worker(
            settings,
            database,
            vault,
            channels,
            observer,
            clock,
            await _looking(settings, stack),
            nobody_counts
            if dry_run
            else inbox.unread_counts,  # who is counted for is a member of their streams from then on
        )
        yield made


async def _looking(settings: Settings, stack: AsyncExitStack) -> Looking:
    """Who has the application before their eyes, as nodes have told Redis; without it only they know."""
    if settings.redis is None:
        return nobody_looks
    broker = RedisBroker(settings.redis)
    await broker.start(_Aside())
    stack.push_async_callback(broker.close)
    return RedisPresence(broker, settings.presence).looking


class _Aside:
    """Takes no part in the hub: what is sent changes no stream, and nobody is connected here who would hear."""

    def publish(self, entries: Sequence[Entry]) -> None: ...
    def publish_message(self, tenant_id: str, channel: str, data: bytes) -> None: ...
    def on_message(self, channel: str, message: bytes) -> None: ...
    def on_lost(self, reason: str) -> None: ...
    def on_restored(self) -> None: ...


async def _round(made: Worker) -> None:
    before = made.stats.attempted, made.stats.sent, made.stats.unknown
    stats = await made.run_once()
    attempted, sent, unknown = stats.attempted - before[0], stats.sent - before[1], stats.unknown - before[2]
    print(f"attempted {attempted}, sent {sent}, unknown {unknown}", flush=True)


async def _preview(made: Worker) -> None:
    previews = await made.preview(SHOWN)
    for one in previews:
        print(line(one))
    print(f"{len(previews)} due; nothing was claimed or sent", flush=True)


def line(preview: Preview) -> str:
    """One delivery: which, where to (masked), what would become of it, and what each gate saw."""
    claimed = preview.claimed
    said = (
        f"send by {preview.provider}"
        if preview.decision == "send"
        else f"{preview.decision}: {preview.reason}"
    )
    gates = "; ".join(f"{gate.gate}: {gate.saw}" for gate in preview.gates)
    parts = (str(claimed.id), claimed.channel, preview.hint or "-", said, f"({gates})" if gates else "")
    return "  ".join(part for part in parts if part)
