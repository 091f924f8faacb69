"""Who wants a digest when, which ones went out, and what stands in their windows: in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec

from core.database import Connection, Database
from core.errors import ServiceError, invalid, not_found
from core.locale import TZDATA_RELEASE, is_timezone
from core.notification import RANKS, Priority
from core.sql import load
from core.wall_time import alike
from delivery.audit_store import Entry, append, append_many
from delivery.inbox import SQL as INBOX
from digest.days_off import NONE, WEEKEND, DaysOff
from digest.subscription import Wanted, check, is_weekly_turn, rhythm, timetable
from digest.summary import Item
from digest.timetable import Run, Timetable, anew, kept, next_run, spread

SQL = load("digest", "store.sql")

#: Entries of one stream that one digest looks at; where there are more in one window, it says that it counts at least.
MAX_ENTRIES = 2000


#: Type -> stored stream -> seq.
Held: TypeAlias = Mapping[str, Mapping[str, int]]

#: Whose device shows another zone for so long is not just passing through.
_AWAY = timedelta(hours=24)
_DAY = timedelta(hours=24)

#: Who does in the audit log what nobody has asked for.
_SCHEDULER = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestSettings:
    """Digests. From DIGEST_*."""

    tick: timedelta = timedelta(seconds=5)  # between two looks at what is due
    batch: int = 200  # people in one transaction
    spread: timedelta = timedelta(seconds=120)  # over which those who share a minute are spread
    catch_up: timedelta = timedelta(
        hours=4
    )  # later than this a digest is skipped, and its content is the next one's

    active: timedelta = timedelta(
        minutes=5
    )  # who was in the application within this has it only there, if they want so

    run_gap: timedelta = timedelta(minutes=1)  # between two that somebody has sent to them at once
    run_limit: int = 10  # such digests to one person in 24 hours

    def __post_init__(self) -> None:
        if self.batch < 1 or self.run_limit < 1:
            raise ValueError("must be at least 1")

    @property
    def punctual(self) -> timedelta:
        """Begun within this after its minute, a digest is not late: the spread, and what ticks and a queue take."""
        return self.spread + max(2 * self.tick, timedelta(minutes=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """
    What one person wants, and where they stand.

    next_run: without the spread, perhaps for a day off. off: of their tenant. positions: stored stream -> seq, how far the last
    digest went. device: the zone that their device shows, where it is another, and since when. held: how far each of
    their weekly types was told; also of one that is none any more, until it is. weekly_on: for which local date that
    was. sent: the last one that went out; its slot does not count. next_rhythm, last_rhythm: by which the next and the
    last run are named. off_since: since when there is no next run. is_done: the next digest has happened already, in a transaction whose end was not seen. zone: the
    last known offset of a time zone that the data does not have any more; doctor tells of those.
    """

    tenant_id: str
    user_id: str
    wanted: Wanted
    off: DaysOff
    next_run: Run | None
    last: Run | None
    positions: Mapping[str, int] = field(default_factory=dict)
    is_done: bool = False
    zone: tzinfo | None = None
    device: tuple[str, datetime] | None = None
    held: Held = field(default_factory=dict)
    weekly_on: date | None = None
    sent: Run | None = None
    next_rhythm: str | None = None
    last_rhythm: str | None = None
    off_since: datetime | None = None

    def proposed_timezone(self, now: datetime) -> str | None:
        """What to move to: the zone that their device has shown for so long that it is no short trip (W-22)."""
        if self.device is None or now - self.device[1] < _AWAY:
            return None
        return self.device[0]

    def timetable(self) -> Timetable | None:
        """None: never."""
        return timetable(self.wanted, self.off, self.zone)

    def is_weekly_turn(self) -> bool:
        """Whether the next digest has the weekly types in it."""
        run = self.next_sent()
        return run is not None and is_weekly_turn(self.wanted, run.date, self.weekly_on)

    def next_sent(self) -> Run | None:
        """The next run that is not for a day off."""
        table = self.timetable()
        return None if table is None else kept(table, self.next_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    What came in between two digests: positions by stored streams, exclusive and inclusive.

    weekly: of types that have a turn of their own, where theirs begins. held: how far those are told with this one.
    is_at_least: there is more than the items, which nobody looked at.
    """

    after: Mapping[str, int]
    until: Mapping[str, int]
    items: tuple[Item, ...]
    is_at_least: bool = False
    weekly: Held = field(default_factory=dict)
    held: Held = field(default_factory=dict)


class AlreadySent(Exception):
    """A digest of this date and slot has gone out: whoever wants to record another is wrong."""


class Unreadable(NamedTuple):
    """Whose row cannot be read, and why."""

    tenant_id: str
    user_id: str
    error: Exception


class Due(NamedTuple):
    """Whose digests are due, locked, at which time. unreadable: rows that say nothing we know."""

    now: datetime
    people: list[Subscription]
    unreadable: list[Unreadable]


class Ran(NamedTuple):
    """What became of one run."""

    subscription: Subscription
    run: Run
    state: str
    is_late: bool
    window: Window
    total: int
    unread: int
    content_hash: bytes | None
    notification_id: UUID | None


class Step(NamedTuple):
    """
    Whose next run is to be set, and which one is over (None: none is, only the clocks have changed). positions: how far
    it went (JSON; None: no further than the one before). is_sent: it went out.
    """

    subscription: Subscription
    run: Run | None = None
    positions: str | None = None
    is_sent: bool = False


class PastRun(NamedTuple):
    """A run as its person may see it."""

    local_date: date
    slot: int
    state: str
    due_at: datetime
    ran_at: datetime
    is_late: bool
    timezone: str
    total: int
    unread: int
    notification_id: UUID | None


class Digests:
    """The subscriptions of all tenants."""

    def __init__(self, database: Database, settings: DigestSettings | None = None) -> None:
        self._database = database
        self._settings = settings or DigestSettings()

    async def get(self, tenant_id: str, user_id: str) -> Subscription | None:
        """None: they have never said what they want."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["find"], tenant_id, user_id)
        return None if row is None else _subscription(row)

    async def put(self, tenant_id: str, user_id: str, wanted: Wanted, actor: str) -> Subscription:
        """
        From now on this. The next run is computed at once; it is never a second one for a date that had its
        digest (D-7), and one that is due already goes out, with what is wanted now. Whoever subscribes, or comes back
        after a day, is told of what comes in from now on.

        Raises ServiceError (invalid) with every fault; also when no day is left.
        """
        check(wanted)
        async with self._database.transaction() as connection:
            await connection.execute(INBOX["join"], tenant_id, user_id)
            row = await connection.fetchrow(SQL["find"] + "\nFOR UPDATE OF s", tenant_id, user_id)
            before = None if row is None else _subscription(row)
            now: datetime = await connection.fetchval("SELECT now()")
            off = _days_off(await connection.fetchval(SQL["days_off"], tenant_id))
            check(wanted, off)
            table = timetable(wanted, off)
            run, named = _moved(before, wanted, table, now)
            positions = None
            told: Mapping[str, int] = {} if before is None else before.positions
            held: Held = {} if before is None else before.held
            if before is None or (before.off_since is not None and now - before.off_since >= _AWAY):
                heads = await connection.fetch(SQL["heads_of"], tenant_id, user_id)
                told, held = {head["stream"]: head["head"] for head in heads}, {}
                positions = _json(told)
            held = {**dict.fromkeys(wanted.weekly_types, told), **held}
            weekly_on = None if before is None else before.weekly_on
            if table is not None and (weekly_on is None or not wanted.weekly_types):
                weekly_on = now.astimezone(table.zone).date() - timedelta(days=1)  # their day may be today
            await connection.execute(
                SQL["put"],
                tenant_id,
                user_id,
                wanted.is_enabled,
                wanted.frequency,
                list(wanted.delivery_times),
                wanted.weekly_day,
                wanted.timezone,
                wanted.exclude_weekends,
                None if wanted.include_types is None else list(wanted.include_types),
                list(wanted.exclude_types),
                wanted.min_priority.value,
                wanted.unread_only,
                list(wanted.channels),
                None if run is None else run.at + self._spread(tenant_id, user_id),
                None if run is None else run.date,
                None if run is None else run.slot,
                TZDATA_RELEASE,
                positions,
                wanted.all_quiet,
                wanted.inbox_when_active,
                list(wanted.weekly_types),
                msgspec.json.encode(held).decode(),
                weekly_on,
                self._spread(tenant_id, user_id),
                named,
            )
            stored = await connection.fetchrow(SQL["find"], tenant_id, user_id)
            assert stored is not None, "it was put there"
            changed = _changed(None if before is None else before.wanted, wanted)
            if before is None or changed:
                details = {
                    "changed": changed,
                    "frequency": wanted.frequency,
                    "timezone": wanted.timezone,
                    "is_enabled": wanted.is_enabled,
                }
                await append(connection, tenant_id, actor, "digest.changed", f"recipient:{user_id}", details)
        return _subscription(stored)

    async def device_shows(self, one: Subscription, zone: str, now: datetime) -> Subscription:
        """
        Keep what somebody's device shows, and since when it is another time than that of the zone they chose; a
        device that shows the same takes it back. Raises ServiceError (invalid).
        """
        if not is_timezone(zone):
            raise invalid("device_timezone", "must be a time zone of IANA's, as in Europe/Berlin")
        chosen = ZoneInfo(one.wanted.timezone) if one.zone is None else one.zone
        shown = None if alike(chosen, ZoneInfo(zone), now) else zone
        if shown == (None if one.device is None else one.device[0]):
            return one
        async with self._database.connection() as connection:
            await connection.execute(SQL["device"], one.tenant_id, one.user_id, shown)
            row = await connection.fetchrow(SQL["find"], one.tenant_id, one.user_id)
        return one if row is None else _subscription(row)

    async def runs(self, tenant_id: str, user_id: str, limit: int = 50) -> list[PastRun]:
        """The latest first."""
        async with self._database.connection() as connection:
            return [PastRun(*row) for row in await connection.fetch(SQL["runs"], tenant_id, user_id, limit)]

    async def prune(self, limit: int, days: int) -> int:
        """
        Forget so many runs at most of those that are older than their tenant keeps its history, or than `days`;
        how many there were.
        """
        async with self._database.transaction() as connection:
            status: str = await connection.execute(SQL["prune"], limit, days)
        return int(status.rpartition(" ")[2])

    async def forget(self, tenant_id: str, user_id: str) -> None:
        """Keep nothing of a person: neither their wishes nor their runs."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["forget"], tenant_id, user_id)

    async def zones(self) -> Mapping[str, int]:
        """The zones that people with a digest to come have chosen, and how many they are."""
        async with self._database.connection() as connection:
            return {row["timezone"]: row["people"] for row in await connection.fetch(SQL["zones"])}

    def _spread(self, tenant_id: str, user_id: str) -> timedelta:
        return spread(f"{tenant_id}/{user_id}", self._settings.spread)

    async def ask(
        self, connection: Connection, tenant_id: str, user_id: str
    ) -> tuple[Subscription, datetime]:
        """
        Somebody wants a digest at once: whom it is for, locked, and the time of the transaction, which is remembered.

        Raises ServiceError: not_found; rate_limited with the time after which there is room again.
        """
        row = await connection.fetchrow(SQL["find"] + "\nFOR UPDATE OF s", tenant_id, user_id)
        if row is None:
            raise not_found("digest subscription")
        now: datetime = await connection.fetchval("SELECT now()")
        asked = [at for at in row["asked_at"] if at > now - _DAY]
        free = [now, *(at + self._settings.run_gap for at in asked[-1:])]
        if len(asked) >= self._settings.run_limit:
            free.append(asked[-self._settings.run_limit] + _DAY)
        if (wait := (max(free) - now).total_seconds()) > 0:
            raise ServiceError("rate_limited", "No more digests are sent at once for now.", retry_after=wait)
        await connection.execute(SQL["asked"], tenant_id, user_id, [*asked, now])
        return _subscription(row), now

    # --- in the transaction of a run ---

    async def take_due(self, connection: Connection, limit: int) -> Due:
        """What is due, and the time of the transaction."""
        return await self._due(connection, await connection.fetch(SQL["take_due"], limit))

    async def _due(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> Due:
        now: datetime = rows[0]["now"] if rows else await connection.fetchval("SELECT now()")
        due = Due(now, [], [])
        for row in rows:
            try:
                due.people.append(_subscription(row, is_done=row.get("is_done", False)))
            except Exception as error:  # noqa: BLE001  # one row must not keep back all the others
                due.unreadable.append(Unreadable(row["tenant_id"], row["user_id"], error))
        return due

    async def put_off(self, connection: Connection, people: Sequence[tuple[str, str]]) -> None:
        """Try again in an hour. people: tenant and person; their rows are locked."""
        if people:
            await connection.execute(SQL["put_off"], *map(list, zip(*people, strict=True)))

    async def take_old_zones(self, connection: Connection, limit: int) -> Due:
        """Subscriptions that were computed with older time zone data than ours, and are not due yet, locked."""
        return await self._due(
            connection, await connection.fetch(SQL["take_old_zones"], TZDATA_RELEASE, limit)
        )

    async def windows(self, connection: Connection, people: Sequence[Subscription]) -> list[Window]:
        """What came in for each of them since their last digest, filtered as they want it."""
        if not people:
            return []
        rows = await connection.fetch(
            SQL["windows"],
            [one.tenant_id for one in people],
            [one.user_id for one in people],
            [msgspec.json.encode(one.positions).decode() for one in people],
        )
        turns = [one.is_weekly_turn() if one.held else False for one in people]
        asked = list(_asked(people, turns, rows))
        columns = [list(column) for column in zip(*asked, strict=True)]
        found = await connection.fetch(SQL["items"], *columns, MAX_ENTRIES) if asked else []
        beyond = await self._beyond(connection, asked)
        items: list[dict[UUID, Item]] = [{} for _ in people]
        for row in found:
            item = _item(row)
            items[row["place"] - 1].setdefault(item.id, item)
        after: list[dict[str, int]] = [{} for _ in people]
        until: list[dict[str, int]] = [{} for _ in people]
        weekly: list[dict[str, dict[str, int]]] = [{} for _ in people]
        held: list[dict[str, dict[str, int]]] = [{} for _ in people]
        for row in rows:
            place, stream = row["place"] - 1, row["stream"]
            one = people[place]
            after[place][stream] = row["after"]
            until[place][stream] = max(row["after"], row["until"])
            for kind in one.held:
                begins = _held_from(one, kind, row)
                is_told = turns[place] or kind not in one.wanted.weekly_types
                if is_told:
                    weekly[place].setdefault(kind, {})[stream] = begins
                if kind in one.wanted.weekly_types:
                    held[place].setdefault(kind, {})[stream] = (
                        until[place][stream] if is_told or not any(_spans(row, begins)) else begins
                    )
        return [
            Window(after=a, until=u, items=tuple(i.values()), weekly=w, held=h, is_at_least=place in beyond)
            for place, (a, u, i, w, h) in enumerate(zip(after, until, items, weekly, held, strict=True), 1)
        ]

    async def _beyond(self, connection: Connection, asked: Sequence[tuple[Any, ...]]) -> frozenset[int]:
        """Places of those of whom a stream has more than is looked at."""
        wide = [
            (place, tenant_id, stream, after, until)
            for place, tenant_id, _, stream, after, until, *_ in asked
            if until - after > MAX_ENTRIES
        ]
        if not wide:
            return frozenset()
        columns = [list(column) for column in zip(*wide, strict=True)]
        return frozenset(row["place"] for row in await connection.fetch(SQL["more"], *columns, MAX_ENTRIES))

    async def locales(self, connection: Connection, people: Sequence[Subscription]) -> list[str | None]:
        """In which language each of them reads; None where nobody has said."""
        tenants, users = [one.tenant_id for one in people], [one.user_id for one in people]
        rows = await connection.fetch(SQL["locales"], tenants, users) if people else []
        return [row["locale"] for row in rows]

    async def told_on(self, connection: Connection, people: Sequence[Subscription]) -> list[date]:
        """The local date of the last digest that each was sent, or on which they subscribed."""
        tenants, users = [one.tenant_id for one in people], [one.user_id for one in people]
        rows = await connection.fetch(SQL["told_on"], tenants, users) if people else []
        return [row["told_on"] for row in rows]

    async def active(self, connection: Connection, people: Sequence[Subscription]) -> list[bool]:
        """Whether each has read something lately."""
        tenants, users = [one.tenant_id for one in people], [one.user_id for one in people]
        rows = await connection.fetch(SQL["active"], tenants, users, self._settings.active) if people else []
        return [row["active"] for row in rows]

    async def finish(self, connection: Connection, ran: Sequence[Ran], now: datetime) -> None:
        """
        Record runs, and say when the next ones are due; raises AlreadySent when one of them has gone out already.
        """
        if ran:
            rows = [
                (
                    one.subscription.tenant_id,
                    one.subscription.user_id,
                    one.run.date,
                    one.run.slot,
                    one.state,
                    one.run.at,
                    one.is_late,
                    one.subscription.wanted.timezone,
                    _json(one.window.after),
                    _json(one.window.until),
                    one.total,
                    one.unread,
                    one.content_hash,
                    one.notification_id,
                )
                for one in ran
            ]
            status: str = await connection.execute(SQL["record"], *map(list, zip(*rows, strict=True)))
            if int(status.rpartition(" ")[2]) != len(rows):
                raise AlreadySent
        told = [one for one in ran if one.state in ("sent", "skipped_empty") and one.subscription.held]
        if told:
            holds = [
                (
                    one.subscription.tenant_id,
                    one.subscription.user_id,
                    msgspec.json.encode(one.window.held).decode(),
                    one.run.date if one.subscription.is_weekly_turn() else None,
                )
                for one in told
            ]
            await connection.execute(SQL["hold"], *map(list, zip(*holds, strict=True)))
        moved = {id(one.subscription): one for one in ran}
        await self.advance(
            connection,
            [
                Step(
                    one.subscription,
                    one.run,
                    _json(one.window.until) if one.state in ("sent", "skipped_empty") else None,
                    one.state == "sent",
                )
                for one in moved.values()
            ],
            now,
        )

    async def move(self, connection: Connection, one: Subscription, window: Window) -> None:
        """What stood in a digest that was sent out of turn does not stand in the next one again. Their row is locked."""
        run = one.next_sent()
        await connection.execute(
            SQL["move"],
            one.tenant_id,
            one.user_id,
            _json(window.until),
            msgspec.json.encode(window.held).decode(),
            run.date if run is not None and one.is_weekly_turn() else None,
        )

    async def remember(self, connection: Connection, ran: Sequence[Ran]) -> None:
        """
        Say in the audit log which runs came too late, so that somebody had no digest (D-8). It locks the chains of their
        tenants: nothing may follow but the commit.
        """
        await append_many(
            connection,
            [
                Entry(
                    tenant_id=one.subscription.tenant_id,
                    actor=_SCHEDULER,
                    action="digest.skipped_late",
                    subject=f"recipient:{one.subscription.user_id}",
                    details={
                        "date": one.run.date.isoformat(),
                        "slot": one.run.slot,
                        "due_at": one.run.at.isoformat().replace("+00:00", "Z"),
                    },
                )
                for one in ran
                if one.state == "skipped_late"
            ],
        )

    async def advance(self, connection: Connection, steps: Sequence[Step], now: datetime) -> None:
        """When each is due next."""
        if not steps:
            return
        rows = []
        for one, run, positions, is_sent in steps:
            following = self.following(one, run, now, is_sent=is_sent)
            rows.append(
                (
                    one.tenant_id,
                    one.user_id,
                    None if following is None else following.at + self._spread(one.tenant_id, one.user_id),
                    None if following is None else following.date,
                    None if following is None else following.slot,
                    None if run is None else run.date,
                    None if run is None else run.slot,
                    None if run is None else run.at,
                    positions,
                    self._spread(one.tenant_id, one.user_id),
                    one.next_rhythm if run is None else rhythm(one.wanted),
                    is_sent,
                )
            )
        await connection.execute(SQL["advance"], *map(list, zip(*rows, strict=True)), TZDATA_RELEASE)

    def following(
        self, one: Subscription, run: Run | None, now: datetime, *, is_sent: bool = True
    ) -> Run | None:
        """
        The next run after `run`; what lies further back than a late digest may be is passed over. None: none is
        over, and the coming one is due when the time zone data say.
        """
        table = one.timetable()
        if table is None:
            return None
        if run is None:
            return None if one.next_run is None else anew(table, one.next_run, one.last)
        since = max(run.at, now - self._settings.catch_up)
        if one.next_rhythm in (None, rhythm(one.wanted)):
            return next_run(table, since, last=run)
        return next_run(table, since, last=run if is_sent else one.sent, changed=True)


def _changed(before: Wanted | None, wanted: Wanted) -> list[str]:
    """Names of what is wanted otherwise than before; None: of what was never said, which was nothing."""
    had = Wanted(is_enabled=False) if before is None else before
    return [one.name for one in fields(Wanted) if getattr(had, one.name) != getattr(wanted, one.name)]


def _moved(
    before: Subscription | None, wanted: Wanted, table: Timetable | None, now: datetime
) -> tuple[Run | None, str | None]:
    """The next run of somebody who wants this now, and the rhythm that it is named by."""
    if table is None:
        return None, None
    named = rhythm(wanted)
    if before is None:
        return next_run(table, now), named
    if (run := before.next_run) is not None and (run.at <= now or before.timetable() == table):
        return (
            run,
            before.next_rhythm,
        )  # what changes is what stands in it; and what was due is not taken away
    if before.last_rhythm == named:
        return next_run(table, now, last=before.last), named
    return next_run(table, now, last=before.sent, changed=True), named


def _asked(
    people: Sequence[Subscription], turns: Sequence[bool], rows: Sequence[asyncpg.Record]
) -> Iterator[tuple[Any, ...]]:
    """The arguments of `items`: a line for each stream of each person, and one for each type with a turn of its own."""
    for row in rows:
        one, turn = people[row["place"] - 1], turns[row["place"] - 1]
        wanted = one.wanted
        excluded = (*wanted.exclude_types, *one.held)
        for span in _spans(row, row["after"]):
            yield _line(one, row, span, wanted.include_types, excluded)
        for kind in one.held:
            is_told = turn or kind not in wanted.weekly_types
            passes = wanted.include_types is None or kind in wanted.include_types
            if is_told and passes:
                for span in _spans(row, _held_from(one, kind, row)):
                    yield _line(one, row, span, (kind,), wanted.exclude_types)


def _spans(row: asyncpg.Record, begins: int) -> Iterator[tuple[int, int]]:
    """From a position of a stream to its head, without what came while it was muted: exclusive and inclusive."""
    for after, until in (
        (begins, min(row["muted_from"], row["until"])),
        (max(begins, row["muted_to"]), row["until"]),
    ):
        if after < until:
            yield after, until


def _held_from(one: Subscription, kind: str, row: asyncpg.Record) -> int:
    """How far one of their weekly types was told in a stream."""
    begins: int = max(row["joined_seq"], one.held[kind].get(row["stream"], 0))
    return begins


def _line(
    one: Subscription,
    row: asyncpg.Record,
    span: tuple[int, int],
    include: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[Any, ...]:
    least = RANKS[one.wanted.min_priority]
    return (
        row["place"],
        one.tenant_id,
        one.user_id,
        row["stream"],
        *span,
        row["read_all_seq"],
        None if include is None else ",".join(include),
        ",".join(exclude),
        ",".join(name for name, rank in RANKS.items() if rank >= least),
        one.wanted.unread_only,
    )


def _item(row: asyncpg.Record) -> Item:
    return Item(
        id=row["id"],
        title=row["title"],
        message=row["message"],
        notification_type=row["notification_type"],
        priority=row["priority"],
        action_url=row["action_url"],
        group_key=row["group_key"],
        created_at=row["created_at"],
        is_read=bool(row["is_read"]),
        is_own=row["stream"].startswith("user:"),
        seq=row["seq"],
    )


class _Chosen(msgspec.Struct):
    """What a tenant has said of its days off."""

    weekend_days: frozenset[int] | None
    holidays: frozenset[date]
    holiday_calendar: str | None


def _days_off(chosen: str | None) -> DaysOff:
    """From JSON; None: their tenant has never said anything."""
    if chosen is None:
        return DaysOff()
    said = _CHOSEN.decode(chosen)
    weekend = WEEKEND if said.weekend_days is None else said.weekend_days
    return DaysOff(weekend=weekend, dates=said.holidays, calendar=said.holiday_calendar)


_CHOSEN = msgspec.json.Decoder(_Chosen)


def _json(positions: Mapping[str, int]) -> str:
    return msgspec.json.encode(dict(positions)).decode()


def _subscription(row: asyncpg.Record, *, is_done: bool = False) -> Subscription:
    wanted = Wanted(
        is_enabled=row["is_enabled"],
        delivery_times=tuple(row["delivery_times"]),
        timezone=row["timezone"],
        frequency=row["frequency"],
        weekly_day=row["weekly_day"],
        include_types=None if row["include_types"] is None else tuple(row["include_types"]),
        exclude_types=tuple(row["exclude_types"]),
        weekly_types=tuple(row["weekly_types"]),
        exclude_weekends=row["exclude_weekends"],
        min_priority=Priority(row["min_priority"]),
        unread_only=row["unread_only"],
        channels=tuple(row["channels"]),
        all_quiet=row["all_quiet"],
        inbox_when_active=row["inbox_when_active"],
    )
    run = last = sent = None
    if row["next_run_at"] is not None:
        run = Run(row["next_run_at"] - row["next_spread"], row["next_date"], row["next_slot"])
    if row["last_due_at"] is not None:
        last = Run(row["last_due_at"], row["last_date"], row["last_slot"])
    if row["sent_due_at"] is not None:
        sent = Run(row["sent_due_at"], row["sent_date"], 0)
    return Subscription(
        tenant_id=row["tenant_id"],
        user_id=row["user_id"],
        wanted=wanted,
        off=_days_off(row["days_off"]),
        next_run=run,
        last=last,
        positions=msgspec.json.decode(row["positions"], type=dict[str, int]),
        is_done=is_done,
        device=None
        if row["device_timezone"] is None
        else (row["device_timezone"], row["device_timezone_since"]),
        held=msgspec.json.decode(row["weekly_positions"], type=dict[str, dict[str, int]]),
        weekly_on=row["weekly_on"],
        sent=sent,
        next_rhythm=row["next_rhythm"],
        last_rhythm=row["last_rhythm"],
        off_since=row["off_since"],
        zone=None if is_timezone(wanted.timezone) else _last_offset(wanted, run),
    )


def _last_offset(wanted: Wanted, run: Run | None) -> tzinfo:
    """What the clocks of a zone that is gone from the data showed beside UTC, by the run that is to come."""
    table = timetable(wanted, NONE, UTC)
    if run is None or table is None or run.slot >= len(table.times):
        return UTC
    offset = datetime.combine(run.date, table.times[run.slot], tzinfo=UTC) - run.at
    return timezone(offset) if abs(offset) < timedelta(days=1) else UTC
