"""What this node depends on, and whether it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

import structlog

from core.clock import Clock
from core.database import Database
from core.errors import ServiceError
from hub.broker import Broker
from hub.history import History

log = structlog.stdlib.get_logger("app.api")

Status = Literal["ok", "degraded", "unavailable"]

#: So long an answer is given again: whoever asks often does not ask the database often.
FRESH = timedelta(seconds=1)
DEADLINE = timedelta(seconds=2)


class Check(NamedTuple):
    """One thing this node depends on."""

    name: str
    required: bool  # without it nothing can be promised: unavailable; otherwise degraded
    probe: Callable[[], Awaitable[str | None]]  # None when well, else a word of a closed set


class Report(NamedTuple):
    """What was found, by the names of the checks: "ok" or the word that says what is wrong."""

    status: Status
    findings: Mapping[str, str]


def database(database: Database) -> Check:
    async def probe() -> None:
        async with database.connection(deadline=DEADLINE) as connection:
            await connection.fetchval("SELECT 1")

    return Check("database", True, probe)


def broker(broker: Broker) -> Check:
    """The live path between nodes, proven by this node's own beats that come back on it."""

    async def probe() -> str | None:
        return None if broker.healthy else "no_beat"

    return Check("broker", False, probe)


def epoch(history: History, believed: Callable[[], str]) -> Check:
    """Whether the store lives the life that this node tells its clients of; the audit mends it within about 1 s."""

    async def probe() -> str | None:
        return None if (await history.heads([])).epoch == believed() else "changed"

    return Check("epoch", False, probe)


def migrations(pending: Callable[[], Awaitable[Sequence[str]]]) -> Check:
    """Whether the schema is that of this version. pending: the revisions that the database has not seen."""

    async def probe() -> str | None:
        return "pending" if await pending() else None

    return Check("migrations", False, probe)


class Health:
    """Runs all checks at once, and for many who ask at once only one time."""

    def __init__(self, checks: Sequence[Check], clock: Clock) -> None:
        self._checks = checks
        self._clock = clock
        self._report: Report | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def report(self) -> Report:
        async with self._lock:
            if self._report is None or self._clock.monotonic() >= self._until:
                self._report = await self._look()
                self._until = self._clock.monotonic() + FRESH.total_seconds()
            return self._report

    async def _look(self) -> Report:
        words = await asyncio.gather(*(self._probe(check) for check in self._checks))
        findings = {check.name: word or "ok" for check, word in zip(self._checks, words, strict=True)}
        bad = [check for check, word in zip(self._checks, words, strict=True) if word is not None]
        status: Status = "ok"
        if bad:
            status = "unavailable" if any(check.required for check in bad) else "degraded"
        return Report(status, findings)

    async def _probe(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                return await check.probe()
        except TimeoutError:
            return "timeout"
        except ServiceError as error:
            return error.code
        except Exception as error:  # noqa: BLE001 - a probe that fails in a new way is a finding too
            log.warning("check_failed", check=check.name, exception=type(error).__name__)
            return "failed"
