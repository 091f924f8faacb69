"""What became of attempts, written down together: completions, what they bring about, and whom it concerns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from uuid import UUID

import asyncpg
import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError
from delivery.budget_store import give_back
from delivery.endpoints_store import emit
from delivery.events import delivery_event
from delivery.outbox import NO_FENCE, Claimed, Completion, complete, expire, fall_back, reach
from delivery.preferences_store import opt_out
from delivery.recipients_store import pause_address

log = structlog.stdlib.get_logger("delivery.recording")

#: Completions in one transaction.
_BATCH = 500

_UNSAID = "what the provider said cannot be stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """
    One attempt that has ended, and what it brings about if it decides.

    fallback: the channel that takes over. is_stopped: the person has stopped the channel. dead_address: to be
    paused, for `dead_because`. unspent: the day of whose budget a paid message was reserved that was not sent.
    """

    claimed: Claimed
    completion: Completion
    fallback: str | None = None
    is_stopped: bool = False
    dead_address: UUID | None = None
    dead_because: str | None = None
    unspent: date | None = None


class Recorder:
    """Writes what has ended; the one place of a worker that does. What it cannot write yet, it keeps."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        on_fallback: Callable[[], None],
        gather: timedelta = timedelta(milliseconds=5),
        failpoints: frozenset[str] = frozenset(),
    ) -> None:
        """on_fallback: told when a delivery was written that is due at once. failpoints: of test builds."""
        self._fenced = NO_FENCE not in failpoints
        self._database = database
        self._clock = clock
        self._on_fallback = on_fallback
        self._gather = gather.total_seconds()
        self._ended: list[Ended] = []
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Attempts that are not written down yet."""
        return len(self._ended)

    def add(self, ended: Ended) -> None:
        self._ended.append(ended)
        self._arrived.set()
        self._empty.clear()

    async def drained(self) -> None:
        """Returns when everything is written down."""
        await self._empty.wait()

    async def expire(self) -> int:
        """
        End what was to be gone by now, also where nobody can send at the moment; how many.

        Raises ServiceError (unavailable).
        """
        async with self._database.transaction() as connection:
            over = await expire(connection, _BATCH)
            reached = await reach(
                connection, [(one.tenant_id, one.id) for one in over if one.channel == "push"]
            )
            events = [
                event
                for one in over
                for known in (reached.get((one.tenant_id, one.id)),)
                if (
                    event := delivery_event(
                        tenant_id=one.tenant_id,
                        delivery_id=one.id,
                        notification_id=one.notification_id,
                        user_id=one.user_id,
                        channel=one.channel,
                        state=known.state if known is not None else "expired",
                        occurred_at=self._clock.now(),
                        reason=known.reason if known is not None else None,
                    )
                )
                is not None
            ]
            await emit(connection, events)
        return len(over)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._arrived.wait()
            await self._clock.sleep(self._gather)
            batch, self._ended[:_BATCH] = self._ended[:_BATCH], []
            try:
                await self._write(batch)
            except (
                ServiceError
            ) as error:  # the database is away: the attempts still hold, their leases or not
                log.warning("completions_postponed", code=error.code, attempts=len(batch))
                self._ended[:0] = batch
                await self._clock.sleep(0.5)
            if not self._ended:
                self._arrived.clear()
                self._empty.set()

    async def _write(self, batch: Sequence[Ended]) -> None:
        """In one transaction; when that is refused, each in one of its own. Raises ServiceError (unavailable)."""
        try:
            async with self._database.transaction() as connection:
                fallbacks = await _record(connection, batch, self._clock, fenced=self._fenced)
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one of them is, the others are written and it goes on
            if len(batch) == 1:
                await self._write_less(batch[0], error)
                return
            for one in batch:
                await self._write([one])
            return
        if fallbacks:
            self._on_fallback()

    async def _write_less(self, ended: Ended, error: Exception) -> None:
        """Write one that was refused without what the provider said, or it would be sent again."""
        if isinstance(error, asyncpg.exceptions.TransactionRollbackError):  # it gave way to another
            self.add(ended)
            return
        log.error(
            "completion_refused",
            delivery_id=str(ended.claimed.id),
            error=type(error).__name__,
            exc_info=error,
        )
        said_less = replace(
            ended, completion=replace(ended.completion, provider_ref=None, code=None, reason=_UNSAID)
        )
        if said_less != ended:  # else its lease runs out, and so many lost workers end it
            await self._write([said_less])


async def _as_reached(connection: Connection, deciding: Sequence[Ended]) -> list[Ended]:
    """As they are after what browsers have said by now; where one has it, no other channel takes over."""
    over = [
        (one.claimed.tenant_id, one.claimed.id)
        for one in deciding
        if one.claimed.channel == "push" and one.completion.wait is None
    ]
    reached = await reach(connection, over)
    return [
        one
        if (known := reached.get((one.claimed.tenant_id, one.claimed.id))) is None
        else replace(
            one,
            completion=replace(one.completion, state=known.state, reason=known.reason),
            fallback=None,
        )
        for one in deciding
    ]


async def _record(connection: Connection, batch: Sequence[Ended], clock: Clock, *, fenced: bool) -> int:
    """How many fallback deliveries were written."""
    decided = await complete(connection, [one.completion for one in batch], fenced=fenced)
    # What follows locks the audit logs of tenants: in one order, so that two workers never wait for each other.
    deciding = sorted(
        (one for one in batch if (one.claimed.tenant_id, one.claimed.id, one.claimed.attempt) in decided),
        key=lambda one: (one.claimed.tenant_id, one.claimed.user_id or "", one.claimed.id),
    )
    deciding = await _as_reached(connection, deciding)
    await give_back(
        connection,
        Counter((one.claimed.tenant_id, one.unspent) for one in deciding if one.unspent is not None),
    )
    fallbacks = 0
    for one in deciding:
        if one.fallback is not None and one.claimed.user_id is not None:
            fallbacks += await fall_back(connection, one.claimed, one.fallback)
        if one.dead_address is not None:
            await pause_address(
                connection,
                one.claimed.tenant_id,
                one.dead_address,
                one.dead_because or "dead",
                actor=f"provider:{one.completion.provider}",
            )
        if one.is_stopped and one.claimed.user_id is not None:
            await opt_out(
                connection,
                one.claimed.tenant_id,
                one.claimed.user_id,
                "channel",
                one.claimed.channel,
                reason="provider",
                actor=f"provider:{one.completion.provider}",
            )
    now = clock.now()
    events = [
        event
        for one in deciding
        if one.claimed.kind == "notification"
        and (
            event := delivery_event(
                tenant_id=one.claimed.tenant_id,
                delivery_id=one.claimed.id,
                notification_id=one.claimed.notification_id,
                user_id=one.claimed.user_id,
                channel=one.claimed.channel,
                state=one.completion.state,
                occurred_at=now,
                code=one.completion.code,
                reason=one.completion.reason,
            )
        )
        is not None
    ]
    await emit(connection, events)
    return fallbacks
