"""
One run after the other: who is due is claimed, what came in is read and summed up, the digest is submitted, and
the next run is set, all in one transaction per batch.

Any number of schedulers may do it. One that dies leaves nothing half done; a run that happened stands in a row
whose key no second one can have.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeAlias
from zoneinfo import ZoneInfo

import msgspec
import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.identity import Identity
from core.notification import Priority
from delivery.draft import MAX_CONTENT_BYTES, Submission, Users
from delivery.facts import Looking, nobody_looks
from delivery.ingest import Accepted, Order, Stored, Written, write
from delivery.outbox import PROVIDED
from digest.store import Digests, DigestSettings, Ran, Step, Subscription, Window
from digest.summary import Digest, Item, shortened, summarise
from digest.timetable import Run, kept
from hub.history import Entry
from hub.publisher import Publisher

log = structlog.stdlib.get_logger("digest.job")

#: What a digest is called among notifications. None of them is ever part of another.
DIGEST_TYPE = "digest"

_DEADLINE = timedelta(seconds=30)
_KEY_LIFE = timedelta(hours=48)

#: Transactions of one scheduler at once, when much is due: while the database works on one, the other is prepared.
_LANES = 2

#: The window of a run that looks at nothing: the next one begins where this one would have.
NOTHING = Window(after={}, until={}, items=())

#: Who submits digests.
_SENDER_ID = "digest"


class Words(Protocol):
    """Says in a person's language what a digest is called, and what stands in its first line."""

    def __call__(self, digest: Digest, locale: str | None) -> tuple[str, str]: ...


class Ended(NamedTuple):
    """What came of a batch: notifications, what is said of the runs, and who could not be served, and why."""

    written: list[Written]
    ran: list[Ran]
    faults: list[tuple[Subscription, Exception]]


_Runner: TypeAlias = Callable[[Connection, Sequence[Subscription], datetime], Awaitable[Ended]]


@dataclass(slots=True)
class DigestStats:
    """Counts since the start; for metrics."""

    sent: int = 0
    skipped_empty: int = 0
    skipped_late: int = 0
    skipped_weekend: int = 0
    failed: int = 0


class DigestJob:
    """The digests of one scheduler."""

    def __init__(
        self,
        database: Database,
        digests: Digests,
        publisher: Publisher,
        words: Words,
        clock: Clock,
        settings: DigestSettings | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
        on_lateness: Callable[[float], None] = lambda seconds: None,
        looking: Looking = nobody_looks,
    ) -> None:
        """
        wake: told after a commit that has brought work for the workers. on_lateness: told of each digest that is
        sent how many seconds after its minute, the spread included. looking: who has the application before their eyes.
        """
        self.stats = DigestStats()
        self._database = database
        self._digests = digests
        self._publisher = publisher
        self._words = words
        self._clock = clock
        self._settings = settings or DigestSettings()
        self._wake = wake
        self._on_lateness = on_lateness
        self._looking = looking

    async def run_due(self) -> int:
        """Send every digest that is due; how many runs there were."""
        taken = await self._batch(self._settings.batch)
        if taken < self._settings.batch:
            return taken
        lanes = await asyncio.gather(*(self._lane() for _ in range(_LANES)), return_exceptions=True)
        for end in lanes:
            if isinstance(end, BaseException):
                raise end
        return taken + sum(count for count in lanes if isinstance(count, int))

    async def _lane(self) -> int:
        """Batch after batch until nothing is due."""
        count = 0
        while True:
            taken = await self._batch(self._settings.batch)
            count += taken
            if taken < self._settings.batch:
                return count

    async def recompute_zones(self) -> int:
        """Say anew when digests are due that were computed with older time zone data; how many."""
        count = 0
        while True:
            async with self._database.transaction(deadline=_DEADLINE) as connection:
                old = await self._digests.take_old_zones(connection, self._settings.batch)
                await self._digests.advance(connection, [Step(one) for one in old.people], old.now)
            count += len(old.people)
            if len(old.people) < self._settings.batch:
                return count

    async def preview(self, tenant_id: str, user_id: str) -> tuple[Subscription, Digest]:
        """What the next digest would say if it were due now. Raises ServiceError (not_found)."""
        one, window, now = await self._window(tenant_id, user_id)
        run = one.next_sent()
        return one, self._now(one, window, now) if run is None else self._digest(one, run, window, now)

    async def _window(self, tenant_id: str, user_id: str) -> tuple[Subscription, Window, datetime]:
        """What has come in since the last digest, and the database's time."""
        one = await self._digests.get(tenant_id, user_id)
        if one is None:
            raise not_found("digest subscription")
        async with self._database.connection() as connection:
            now: datetime = await connection.fetchval("SELECT now()")
            [window] = await self._digests.windows(connection, [one])
        return one, window, now

    async def pending(self, tenant_id: str, user_id: str) -> list[Item]:
        """What the next digest would be made of if it were due now, the newest first. Raises as preview() does."""
        _, window, _ = await self._window(tenant_id, user_id)
        return sorted(window.items, key=lambda item: (item.created_at, item.id), reverse=True)

    async def run_now(self, tenant_id: str, user_id: str, *, moves_window: bool = False) -> Accepted:
        """
        Send somebody what has come in since their last digest, as that of today. It all stands in the next one too,
        unless the window moves: then that one begins where this one ends.

        Raises ServiceError: not_found; rate_limited; conflict when nothing has come in, which does not count as asked.
        """
        async with self._database.transaction(deadline=_DEADLINE) as connection:
            one, now = await self._digests.ask(connection, tenant_id, user_id)
            [window] = await self._digests.windows(connection, [one])
            digest = self._now(one, window, now)
            if digest.is_empty:
                raise ServiceError("conflict", "Nothing unread has come in since the last digest.")
            locale = (await self._digests.locales(connection, [one]))[0]
            [written] = await write(connection, [self._order(one, digest, locale)], _KEY_LIFE)
            if isinstance(written, Exception):
                raise written
            if moves_window:
                await self._digests.move(connection, one, window)
        self._tell([written])
        return written.accepted

    async def _batch(self, limit: int) -> int:
        """One transaction; when the data of one person is at fault, again with a savepoint for each."""
        try:
            return await self._transaction(limit, self._run)
        except ServiceError:
            raise  # the database is away: nobody is at fault, and the next tick tries again
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not keep back everybody else's
            log.warning("digest_batch_failed", error=type(error).__name__)
        return await self._transaction(limit, self._run_each)

    async def _transaction(self, limit: int, run: _Runner) -> int:
        async with self._database.transaction(deadline=_DEADLINE) as connection:
            due = await self._digests.take_due(connection, limit)
            ended = await run(connection, due.people, due.now)
            await self._digests.put_off(connection, [(one.tenant_id, one.user_id) for one in due.unreadable])
            await self._digests.remember(connection, ended.ran)
        # A traceback takes its time, and the database waits for nobody who sits in a transaction.
        for row in due.unreadable:
            log.error("digest_subscription_unreadable", tenant_id=row.tenant_id, exc_info=row.error)
        for one, error in ended.faults:
            log.error("digest_failed", tenant_id=one.tenant_id, exc_info=error)
        self.stats.failed += len(due.unreadable)
        self._count(ended.ran, due.now)
        self._tell(ended.written)
        return len(due.people) + len(due.unreadable)

    async def _run_each(self, connection: Connection, people: Sequence[Subscription], now: datetime) -> Ended:
        """The same one by one: who cannot be served is left behind, and the others are served."""
        ended = Ended([], [], [])
        for one in people:
            try:
                async with connection.transaction():
                    done = await self._run(connection, [one], now)
            except Exception as error:  # noqa: BLE001  # of one person
                ended.faults.append((one, error))
                done = Ended([], await self._give_up(connection, one, now), [])
            ended.written.extend(done.written)
            ended.ran.extend(done.ran)
        return ended

    async def _give_up(self, connection: Connection, one: Subscription, now: datetime) -> list[Ran]:
        """Say that a run has failed: what it would have held stands in the next one. Where not even that can be said, later."""
        assert one.next_run is not None, "it was due"
        failed = [Ran(one, one.next_run, "failed", False, NOTHING, 0, 0, None, None)]
        try:
            async with connection.transaction():
                await self._digests.finish(connection, failed, now)
        except Exception as error:  # noqa: BLE001  # the fault itself has been logged
            log.warning("digest_put_off", tenant_id=one.tenant_id, error=type(error).__name__)
            await self._digests.put_off(connection, [(one.tenant_id, one.user_id)])
        return failed

    async def _run(self, connection: Connection, people: Sequence[Subscription], now: datetime) -> Ended:
        done = [one for one in people if one.is_done]
        due = [(one, one.next_run) for one in people if not one.is_done and one.next_run is not None]
        ran = [
            Ran(one, run, "skipped_weekend", False, NOTHING, 0, 0, None, None)
            for one, run in due
            if _is_off(one, run)
        ]
        due = [(one, run) for one, run in due if not _is_off(one, run)]
        windows = await self._digests.windows(connection, [one for one, _ in due])
        locales = await self._digests.locales(connection, [one for one, _ in due])
        there = await self._who_is_there(connection, [one for one, _ in due if one.wanted.inbox_when_active])
        quiet = await self._who_heard_nothing(connection, [two for two in due if two[0].wanted.all_quiet])
        orders: list[Order] = []
        sent: list[tuple[Subscription, Run, Window, Digest, bool]] = []
        for (one, run), window, locale in zip(due, windows, locales, strict=True):
            is_late = now - run.at > self._settings.catch_up
            digest = self._digest(one, run, window, now)
            if is_late or (digest.is_empty and id(one) not in quiet):
                state = "skipped_late" if is_late else "skipped_empty"
                ran.append(Ran(one, run, state, is_late, window, digest.total, digest.unread, None, None))
                continue
            late = now - run.at > self._settings.punctual
            try:
                orders.append(self._order(one, digest, locale, there=id(one) in there))
            except ServiceError as error:  # one person's must not keep back everybody's
                log.error("digest_not_submitted", exc_info=error)
                ran.append(Ran(one, run, "failed", late, window, digest.total, digest.unread, None, None))
                continue
            sent.append((one, run, window, digest, late))
        results = await write(connection, orders, _KEY_LIFE) if orders else []
        written: list[Written] = []
        for (one, run, window, digest, late), result in zip(sent, results, strict=True):
            if isinstance(result, Exception):
                log.error("digest_not_submitted", exc_info=result)
                ran.append(Ran(one, run, "failed", late, window, digest.total, digest.unread, None, None))
                continue
            written.append(result)
            ran.append(
                Ran(
                    one,
                    run,
                    "sent",
                    late,
                    window,
                    digest.total,
                    digest.unread,
                    hashlib.sha256(msgspec.json.encode(digest.document)).digest(),
                    result.accepted.notification_ids[0],
                )
            )
        await self._digests.finish(connection, ran, now)
        await self._digests.advance(connection, [Step(one, one.next_run, is_sent=True) for one in done], now)
        return Ended(written, ran, [])

    def _digest(self, one: Subscription, run: Run, window: Window, now: datetime) -> Digest:
        """That of one run."""
        table = one.timetable()
        following = None if table is None else kept(table, self._digests.following(one, run, now))
        return _summary(one, run.date, window, now, following)

    def _now(self, one: Subscription, window: Window, now: datetime) -> Digest:
        """That of no run: of today, where they are."""
        zone = one.zone or ZoneInfo(one.wanted.timezone)
        return _summary(one, now.astimezone(zone).date(), window, now, one.next_sent())

    async def _who_is_there(self, connection: Connection, people: Sequence[Subscription]) -> frozenset[int]:
        """Who has the application before their eyes, or has read something in it lately; by id()."""
        looking = await asyncio.gather(*(self._looking(one.tenant_id, one.user_id) for one in people))
        active = await self._digests.active(connection, people)
        return frozenset(id(one) for one, *signs in zip(people, looking, active, strict=True) if any(signs))

    async def _who_heard_nothing(
        self, connection: Connection, due: Sequence[tuple[Subscription, Run]]
    ) -> frozenset[int]:
        """Who has not been sent anything for a week; by id()."""
        told = await self._digests.told_on(connection, [one for one, _ in due])
        return frozenset(
            id(one) for (one, run), day in zip(due, told, strict=True) if run.date - day >= timedelta(weeks=1)
        )

    def _order(self, one: Subscription, digest: Digest, locale: str | None, *, there: bool = False) -> Order:
        """there: they are in the application and want it there only."""
        title, message = self._words(digest, locale)
        urgent = any(item.priority == "urgent" for item in digest.top)
        submission = Submission(
            tenant_id=one.tenant_id,
            audience=Users.of(one.user_id),
            title=title,
            message=message,
            notification_type=DIGEST_TYPE,
            priority=Priority.HIGH if urgent else Priority.NORMAL,
            channels=("in_app",) if there else one.wanted.channels,
            metadata={"digest": _fitting(digest.document, title, message)},
        )
        sender = Identity(tenant_id=one.tenant_id, user_id=_SENDER_ID, kind="service")
        return Order(submissions=[submission], sender=sender, render=_render)

    def _tell(self, written: Sequence[Written]) -> None:
        entries: list[Entry] = [entry for one in written for entry in one.entries]
        if entries:
            self._publisher.publish(entries)
        if any(not PROVIDED.isdisjoint(stored.content.channels) for one in written for stored in one.stored):
            self._wake()

    def _count(self, ran: Sequence[Ran], now: datetime) -> None:
        for one in ran:
            match one.state:
                case "sent":
                    self.stats.sent += 1
                    self._on_lateness((now - one.run.at).total_seconds())
                case "skipped_empty":
                    self.stats.skipped_empty += 1
                case "skipped_late":
                    self.stats.skipped_late += 1
                case "skipped_weekend":
                    self.stats.skipped_weekend += 1
                case _:
                    self.stats.failed += 1


def _summary(one: Subscription, day: date, window: Window, now: datetime, following: Run | None) -> Digest:
    """following: when the next digest comes."""
    return summarise(
        window.items,
        day=day,
        timezone=one.wanted.timezone,
        now=now,
        after=window.after,
        until=window.until,
        next_run_at=None if following is None else following.at,
        frequency=one.wanted.frequency,
        weekly=window.weekly,
        is_at_least=window.is_at_least,
    )


def _is_off(one: Subscription, run: Run) -> bool:
    """Whether a run is for a day off, which its row says and nobody is told."""
    table = one.timetable()
    return table is not None and run.date in table.off


def _render(stored: Sequence[Stored]) -> tuple[int, bytes]:
    return 201, stored[0].data


#: What gives way, in this order, where a digest is too large for a notification: characters of a message, listed of a
#: type, of the first five, types, groups; and from the second on the window, which the run keeps.
_CUTS = ((200, 5, 5, 1000, 20), (80, 3, 5, 100, 10), (80, 1, 5, 30, 5), (0, 0, 3, 20, 0), (0, 0, 0, 0, 0))


def _fitting(document: Mapping[str, Any], title: str, message: str) -> Mapping[str, Any]:
    """The document within the bounds of a notification: its lists give way, its counts stay."""
    room = MAX_CONTENT_BYTES - len(msgspec.json.encode((title, message))) - 64
    if len(msgspec.json.encode(document)) <= room:
        return document
    return next(cut for cut in _cuts(document) if len(msgspec.json.encode(cut)) <= room)


def _cuts(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Smaller and smaller; the last one fits whatever came in."""
    for place, (words, listed, top, types, groups) in enumerate(_CUTS):
        by_type = {
            name: {
                "count": one["count"],
                "notifications": [_cut(item, words) for item in one["notifications"][:listed]],
            }
            for name, one in islice(document["notifications_by_type"].items(), types)
        }
        left = sum(len(one["notifications"]) for one in by_type.values())
        yield {
            **document,
            "notifications_by_type": by_type,
            "overflow_count": document["summary"]["unread_notifications"] - left,
            "top_notifications": [_cut(item, words) for item in document["top_notifications"][:top]],
            "groups": document["groups"][:groups],
            "window": document["window"] if place == 0 else {},
        }


def _cut(item: Mapping[str, Any], words: int) -> dict[str, Any]:
    return {**item, "message": shortened(item["message"], words) if words else ""}
