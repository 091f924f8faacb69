"""The ticker of digests. It only ticks: rows, locks and the clock of the database decide what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from core.errors import ServiceError
from digest.job import DigestJob
from digest.store import DigestSettings

log = structlog.stdlib.get_logger("digest.schedule")

#: Between two looks for what older time zone data has computed: while nodes of two versions run, the older ones go on.
_ZONES = timedelta(seconds=30)


class DigestTicker:
    """Runs the job every few seconds, for as long as the process has the scheduler role."""

    def __init__(
        self, job: DigestJob, settings: DigestSettings | None = None, *, zones: timedelta = _ZONES
    ) -> None:
        self._job = job
        self._tick = (settings or DigestSettings()).tick
        self._zones = zones

    async def run(self) -> None:
        """Tick until cancelled. What older time zone data has computed is computed anew, and first."""
        await self._attempt(self._job.recompute_zones)
        ticker = AsyncIOScheduler(timezone=UTC)
        for work, every in ((self._job.run_due, self._tick), (self._job.recompute_zones, self._zones)):
            ticker.add_job(
                self._attempt,
                "interval",
                args=[work],
                seconds=every.total_seconds(),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        ticker.start()
        try:
            await asyncio.Event().wait()
        finally:
            ticker.shutdown(wait=False)

    async def _attempt(self, work: Callable[[], Awaitable[int]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            log.info("digest_cut_short")  # rolled back, and due as before
        except ServiceError as error:
            log.warning("digest_postponed", code=error.code)
        except Exception:  # a fault must not end the ticker; the next tick tries again
            log.exception("digest_tick_failed")
