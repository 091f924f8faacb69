"""Receipts in PostgreSQL: each event once, deliveries moved forward, and what follows from it, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

import asyncpg
import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError
from core.sql import load
from delivery.endpoints_store import emit
from delivery.events import Event, delivery_event
from delivery.outbox import Claimed, fall_back
from delivery.preferences_store import opt_out
from delivery.receipts import FAILURES, Consequence, Receipt, advanced, consequence
from delivery.recipients_store import pause_address

log = structlog.stdlib.get_logger("delivery.receipts")

SQL = load("delivery", "receipts.sql")

#: Receipts in one transaction.
_BATCH = 200

#: How often a transaction is begun again that met another in a circle.
_TRIES = 5

_Key: TypeAlias = tuple[str, UUID]  # tenant id, delivery id

_CLAIMED = tuple(Claimed.__dataclass_fields__)


class ReceiptObserver(Protocol):
    """Who is told what providers report: events of the log, metrics."""

    def reported(
        self, *, tenant_id: str, delivery_id: UUID, channel: str, provider: str, state: str
    ) -> None: ...
    def repeated(self, *, provider: str, reports: int) -> None: ...


@dataclass(slots=True)
class ReceiptStats:
    """Counts since the start; for metrics."""

    received: int = 0
    repeated: int = 0  # were known already
    unmatched: int = 0  # of no delivery here
    moved: int = 0


class _Located(NamedTuple):
    receipt: Receipt
    delivery: _Key | None


class _Done(NamedTuple):
    """What a transaction has done: events that were new, deliveries that moved, deliveries in place of others."""

    new: int
    moved: Sequence[_Held] = ()
    fallbacks: int = 0


@dataclass(slots=True)
class _Held:
    """A delivery that is locked, and where reports have taken it."""

    claimed: Claimed
    address_id: UUID | None
    state: str
    older: set[str] = field(default_factory=set)  # messages that attempts before the last one have sent
    sent: set[str] = field(
        default_factory=set
    )  # messages of which an attempt that decided has said that it sent them
    receipt: Receipt | None = None  # that decided
    reason: str | None = None

    def advance(self, receipt: Receipt, reason: str | None) -> bool:
        """Whether the report moved it."""
        if receipt.state is None:
            return False
        state = advanced(
            self.state,
            receipt.state,
            is_of_last_attempt=receipt.ref not in self.older,
            is_known_as_sent=receipt.ref in self.sent,
            is_first_hand=receipt.is_first_hand,
        )
        if state == self.state:
            return False
        self.state, self.receipt, self.reason = state, receipt, reason
        return True


class Receipts:
    """What providers report about the deliveries of all tenants."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        fallbacks: Mapping[str, str],
        on_fallback: Callable[[], None] = lambda: None,
        observer: ReceiptObserver | None = None,
    ) -> None:
        """fallbacks: the channel that takes over from each. on_fallback: told when a delivery was written."""
        self.stats = ReceiptStats()
        self._database = database
        self._clock = clock
        self._fallbacks = fallbacks
        self._on_fallback = on_fallback
        self._observer = observer

    async def record(self, receipts: Sequence[Receipt]) -> int:
        """
        Keep these reports of one provider and act on them; how many are new. It is durable when this returns, and doing it again
        changes nothing.

        Raises ServiceError (unavailable): some may be kept; let the provider send all of them again.
        """
        new = 0
        for batch in _batches(await self._located(receipts)):
            new += await self._record(batch)
        self.stats.received += len(receipts)
        repeated = len(receipts) - new
        self.stats.repeated += repeated
        if repeated and self._observer is not None:
            self._observer.repeated(provider=receipts[0].provider, reports=repeated)
        return new

    async def _located(self, receipts: Sequence[Receipt]) -> list[_Located]:
        """Each with its delivery: as the report names it, or by the provider's name for the message."""
        named = {(one.provider, one.ref) for one in receipts if one.delivery is None and one.ref is not None}
        found: dict[tuple[str, str | None], _Key] = {}
        if named:
            async with self._database.connection() as connection:
                rows = await connection.fetch(SQL["find"], *_columns(named))
            found = {(row["provider"], row["provider_ref"]): (row["tenant_id"], row["id"]) for row in rows}
        return [_Located(one, one.delivery or found.get((one.provider, one.ref))) for one in receipts]

    async def _record(self, batch: Sequence[_Located]) -> int:
        done = await self._applied(batch)
        self.stats.unmatched += sum(one.delivery is None for one in batch)
        self.stats.moved += len(done.moved)
        for held in done.moved:
            self._tell(held)
        if done.fallbacks:
            self._on_fallback()
        return done.new

    def _tell(self, held: _Held) -> None:
        if self._observer is not None and held.receipt is not None:
            self._observer.reported(
                tenant_id=held.claimed.tenant_id,
                delivery_id=held.claimed.id,
                channel=held.claimed.channel,
                provider=held.receipt.provider,
                state=held.state,
            )

    async def _applied(self, batch: Sequence[_Located]) -> _Done:
        """In a transaction; again where it met another in a circle, and PostgreSQL chose this one to give way."""
        for _ in range(_TRIES):
            try:
                async with self._database.transaction() as connection:
                    return await self._apply(connection, batch)
            except asyncpg.DeadlockDetectedError:
                log.info("receipts_gave_way", receipts=len(batch))
        raise ServiceError("unavailable", "The deliveries are busy.", retry_after=1)

    async def _apply(self, connection: Connection, batch: Sequence[_Located]) -> _Done:
        rows = await connection.fetch(SQL["insert"], *_columns(map(_event_row, batch)))
        news = _news(batch, {(row["provider"], row["event_id"], row["status"]) for row in rows})
        if not news:
            return _Done(new=len(rows))
        held = await self._lock(connection, news)
        events: list[Event] = []
        fallbacks = 0
        for receipt, delivery in news:
            one = held.get(delivery)
            if one is None:  # gone, by retention
                continue
            follows, was = consequence(receipt), one.state
            if one.advance(receipt, follows.reason):
                events += self._told(one)
            if follows.falls_back and one.state in FAILURES and was not in FAILURES:
                fallbacks += await self._fall_back(connection, one)
            await _touch_person(connection, one, receipt.provider, follows)
        moved = [one for one in held.values() if one.receipt is not None]
        if moved:
            await connection.execute(SQL["move"], *_columns(map(_moved_row, moved)))
        await emit(connection, events)
        return _Done(len(rows), moved, fallbacks)

    async def _lock(self, connection: Connection, news: Sequence[tuple[Receipt, _Key]]) -> dict[_Key, _Held]:
        rows = await connection.fetch(
            SQL["lock"], *_columns((*delivery, receipt.ref) for receipt, delivery in news)
        )
        held: dict[_Key, _Held] = {}
        for row in rows:
            claimed = Claimed(**{name: row[name] for name in _CLAIMED})
            one = held.setdefault(
                (claimed.tenant_id, claimed.id), _Held(claimed, row["address_id"], row["state"])
            )
            if not row["is_of_last_attempt"]:
                one.older.add(row["ref"])
            if row["is_known_as_sent"]:
                one.sent.add(row["ref"])
        return held

    def _told(self, one: _Held) -> list[Event]:
        event = delivery_event(
            tenant_id=one.claimed.tenant_id,
            delivery_id=one.claimed.id,
            notification_id=one.claimed.notification_id,
            user_id=one.claimed.user_id,
            channel=one.claimed.channel,
            state=one.state,
            occurred_at=self._clock.now(),
            code=one.receipt.code if one.receipt is not None else None,
            reason=one.reason,
        )
        return [] if event is None else [event]

    async def _fall_back(self, connection: Connection, one: _Held) -> bool:
        instead = self._fallbacks.get(one.claimed.channel)
        if one.claimed.edited is not None:  # its words, or its address, are for this channel alone
            return False
        return instead is not None and await fall_back(connection, one.claimed, instead)


async def _touch_person(connection: Connection, one: _Held, provider: str, follows: Consequence) -> None:
    """It ends with the tenant's audit log locked, so a transaction does this for one report alone."""
    tenant_id, user_id, channel = one.claimed.tenant_id, one.claimed.user_id, one.claimed.channel
    actor = f"provider:{provider}"
    if follows.opt_out is not None and user_id is not None:
        await opt_out(connection, tenant_id, user_id, "channel", channel, reason=follows.opt_out, actor=actor)
    if follows.pause is not None and one.address_id is not None:
        await pause_address(connection, tenant_id, one.address_id, follows.pause, actor=actor)


def _news(batch: Sequence[_Located], fresh: set[tuple[str, str, str]]) -> list[tuple[Receipt, _Key]]:
    """The reports that are new and of a delivery; one that stands twice among them climbs no further than once."""
    return [
        (receipt, delivery)
        for receipt, delivery in batch
        if delivery is not None and (receipt.provider, receipt.event_id, receipt.status) in fresh
    ]


def _batches(located: Iterable[_Located]) -> Iterator[Sequence[_Located]]:
    """Those that touch the delivery alone together, and each that touches a person by itself."""
    plain = []
    for one in located:
        if consequence(one.receipt):
            yield [one]
        else:
            plain.append(one)
    for start in range(0, len(plain), _BATCH):
        yield plain[start : start + _BATCH]


def _event_row(one: _Located) -> tuple[object, ...]:
    receipt = one.receipt
    tenant_id, delivery_id = one.delivery or (None, None)
    return (
        receipt.provider,
        receipt.event_id,
        receipt.status,
        tenant_id,
        delivery_id,
        receipt.code,
        receipt.occurred_at,
    )


def _moved_row(one: _Held) -> tuple[object, ...]:
    receipt = one.receipt
    assert receipt is not None, "a report has moved it"
    key = one.claimed.tenant_id, one.claimed.id
    return *key, one.state, receipt.provider, receipt.ref, receipt.code, one.reason


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
