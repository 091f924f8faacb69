"""
Notifications in: stored, sequenced and answered, many callers in one transaction.

A stream's counter is locked until the commit, so a round trip per create would serialise a busy stream.
While one commit is under way, the creates that arrive are gathered for the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import structlog

from core.clock import Clock
from core.database import Connection, Database
from core.errors import ServiceError, invalid
from core.identity import Identity
from core.ids import uuid7
from core.notification import Content
from core.sql import load
from delivery.draft import Audience, Everyone, Submission, Topic, Users
from delivery.outbox import PROVIDED
from delivery.publication import Publication, publish
from delivery.telemetry import queued
from hub import frames
from hub.history import Entry
from hub.publisher import Publisher

SQL = load("delivery", "ingest.sql")

#: For tests: commits are not told to anybody, as if the process had died between the two.
PUBLISH_NEVER_HAPPENS = "publish_never_happens"

log = structlog.stdlib.get_logger("delivery.ingest")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """How creates are gathered. From HUB_INGEST_*."""

    gather: timedelta = timedelta(milliseconds=2)  # at most, for as many creates as came together before
    queue_limit: int = 2000  # creates waiting for their transaction; more are refused
    batch_limit: int = 500  # creates in one transaction
    batch_entries: int = 5000  # stream entries in one transaction, beyond its first create
    patience: timedelta = timedelta(seconds=3)  # how long a caller waits for an answer
    key_life: timedelta = timedelta(hours=48)  # how long an idempotency key is remembered
    failpoints: frozenset[str] = frozenset()  # of test builds


class Stored(NamedTuple):
    """A notification as it will be committed, for whoever renders the answer."""

    content: Content
    data: bytes  # the content as JSON
    submission: Submission
    status: str  # published, or scheduled


#: What the caller is answered: HTTP status and body.
Render = Callable[[Stored], tuple[int, bytes]]
RenderMany = Callable[[Sequence[Stored]], tuple[int, bytes]]


class Accepted(NamedTuple):
    """The answer to one request; the same bytes whenever it is asked again under its key."""

    status: int
    body: bytes
    replayed: bool
    notification_ids: list[UUID]  # empty for a replay: they stand in the body


class Written(NamedTuple):
    """What became of one request inside a transaction that is not committed yet."""

    accepted: Accepted
    stored: Sequence[Stored]
    entries: Sequence[Entry]  # to publish after the commit

    @property
    def has_deliveries(self) -> bool:
        """Whether there is work for a worker now."""
        return any(
            one.status == "published" and not PROVIDED.isdisjoint(one.content.channels) for one in self.stored
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request: what to store for whom, and how to answer."""

    submissions: Sequence[Submission]
    sender: Identity
    render: RenderMany
    key: str | None = None
    body_hash: bytes = b""

    @property
    def name(self) -> tuple[str, str, str] | None:
        """Whose key it is: keys of two clients, or of two tenants, never meet."""
        return None if self.key is None else (self.sender.tenant_id, self.sender.client, self.key)


def answer(stored: Stored) -> tuple[int, bytes]:
    """201 with the notification (one recipient, a topic, the tenant), or with the id that each person got."""
    match stored.submission.audience:
        case Users(user_ids) if len(user_ids) > 1:
            notification_id = stored.content.id
            listed = [{"id": notification_id, "user_id": user_id} for user_id in user_ids]
            return 201, msgspec.json.encode({"notifications": listed})
    return 201, stored.data


def answer_many(stored: Sequence[Stored]) -> tuple[int, bytes]:
    """201 with every notification, in the order of the request."""
    return 201, b'{"notifications":[%b]}' % b",".join(one.data for one in stored)


async def submit(
    connection: Connection,
    submission: Submission,
    sender: Identity,
    *,
    key: str | None = None,
    body_hash: bytes = b"",
    render: Render = answer,
) -> Written:
    """
    Store a notification in the caller's open transaction, which must be READ COMMITTED.

    It locks the counters of its streams: call it last, and once, or two such transactions may wait for each
    other. After the commit hand `entries` to the publisher; if that never happens, they arrive a moment later.

    Raises ServiceError: idempotency_in_flight, idempotency_mismatch.
    """
    order = Order(
        submissions=[submission],
        sender=sender,
        render=lambda stored: render(stored[0]),
        key=key,
        body_hash=body_hash,
    )
    [result] = await write(connection, [order], IngestSettings().key_life)
    if isinstance(result, Exception):
        raise result
    return result


async def write(
    connection: Connection, orders: Sequence[Order], key_life: timedelta
) -> list[Written | Exception]:
    """Store many requests in the open transaction; what became of each. The counters are locked last."""
    now, results = await _known(connection, orders, key_life)
    ids = iter(sorted(uuid7() for order in orders for _ in order.submissions))
    fresh: list[tuple[int, Order, list[Stored]]] = []
    for position, order in enumerate(orders):
        if results[position] is None:
            fresh.append((position, order, [_stored(one, next(ids), now) for one in order.submissions]))
    answers: list[tuple[Order, int, bytes]] = []
    for position, order, stored in fresh:
        try:
            status, body = order.render(stored)
        except Exception as error:  # noqa: BLE001 - one caller's rendering must not fail the others; it is raised to it
            results[position] = error
            continue
        results[position] = Written(
            Accepted(status, body, False, [one.content.id for one in stored]), stored, ()
        )
        answers.append((order, status, body))
    fresh = [part for part in fresh if isinstance(results[part[0]], Written)]
    await _insert(connection, answers, [(one, order.sender) for _, order, stored in fresh for one in stored])
    due = [(position, one) for position, _, stored in fresh for one in stored if one.status == "published"]
    entries = await publish(connection, [publication(one) for _, one in due], now)
    gathered: dict[int, list[Entry]] = {}
    for (position, _), own in zip(due, entries[:-1], strict=True):
        gathered.setdefault(position, []).extend(own)
    if entries[-1]:  # recalls belong to nobody in particular and come after all notifications
        gathered.setdefault(due[-1][0], []).extend(entries[-1])
    return [
        result._replace(entries=gathered.get(position, ())) if isinstance(result, Written) else result
        for position, result in enumerate(results)
        if result is not None
    ]


async def _known(
    connection: Connection, orders: Sequence[Order], key_life: timedelta
) -> tuple[datetime, list[Written | Exception | None]]:
    """
    The time of the transaction, and what is decided before anything is written: replays, mismatches, keys
    in flight. None: to be written.
    """
    results: list[Written | Exception | None] = [None] * len(orders)
    named = [(position, name) for position, order in enumerate(orders) if (name := order.name) is not None]
    if not named:
        return await connection.fetchval("SELECT now()"), results
    columns = [list(column) for column in zip(*(name for _, name in named), strict=True)]
    free = await connection.fetch(SQL["claim_keys"], *columns)
    rows = await connection.fetch(SQL["find_answers"], *columns, key_life)
    found = {(row["tenant_id"], row["client"], row["key"]): row for row in rows}
    for (position, name), claimed in zip(named, free, strict=True):
        row = found.get(name)
        if not claimed["free"]:
            results[position] = ServiceError("idempotency_in_flight", retry_after=1)
        elif row is not None and row["body_hash"] != orders[position].body_hash:
            results[position] = ServiceError("idempotency_mismatch")
        elif row is not None:
            results[position] = Written(Accepted(row["status"], row["body"], True, []), (), ())
    return free[0]["now"], results


def _stored(submission: Submission, notification_id: UUID, now: datetime) -> Stored:
    content = Content(
        id=notification_id,
        title=submission.title,
        message=submission.message,
        notification_type=submission.notification_type,
        action_url=submission.action_url,
        priority=str(submission.priority),
        channels=list(submission.channels),
        metadata=dict(submission.metadata),
        created_at=now,
        expires_at=submission.expires_at,
        collapse_key=submission.collapse_key,
        group_key=submission.group_key,
    )
    waits = submission.scheduled_for is not None and submission.scheduled_for > now
    return Stored(content, frames.content(content), submission, "scheduled" if waits else "published")


def publication(stored: Stored) -> Publication:
    """What is to be published of it."""
    submission = stored.submission
    return Publication(
        submission.tenant_id,
        stored.content,
        stored.data,
        submission.keys,
        submission.audience,
        submission.batching,
    )


async def _insert(
    connection: Connection,
    answers: Sequence[tuple[Order, int, bytes]],
    notifications: Sequence[tuple[Stored, Identity]],
) -> None:
    """Write the rows in one statement."""
    if not notifications:
        return
    keyed = [
        (*name, order.body_hash, status, body)
        for order, status, body in answers
        if (name := order.name) is not None
    ]
    rows = [_columns(stored, sender) for stored, sender in notifications]
    remembered = zip(*keyed, strict=True) if keyed else ((),) * 6
    await connection.execute(SQL["insert"], *map(list, zip(*rows, strict=True)), *map(list, remembered))


def _columns(stored: Stored, sender: Identity) -> tuple[object, ...]:
    submission, content = stored.submission, stored.content
    return (
        submission.tenant_id,
        content.id,
        *_audience_columns(submission.audience),
        stored.status,
        content.title,
        content.message,
        content.notification_type,
        content.priority,
        ",".join(content.channels),
        content.action_url,
        msgspec.json.encode(content.metadata).decode(),
        content.collapse_key,
        content.group_key,
        sender.client,
        submission.scheduled_for,
        content.expires_at,
        submission.local_time,
        None if submission.batching is None else msgspec.json.encode(submission.batching).decode(),
    )


def _audience_columns(audience: Audience) -> tuple[str, str | None, str | None, str | None]:
    """The kind, the only recipient, the recipients as JSON, the topic."""
    match audience:
        case Users((user_id,)):
            return "user", user_id, None, None
        case Users(user_ids):
            return "users", None, msgspec.json.encode(user_ids).decode(), None
        case Topic(name):
            return "topic", None, None, name
        case Everyone():
            return "tenant", None, None, None


@dataclass(slots=True)
class IngestStats:
    """Counts since the start; for metrics."""

    accepted: int = 0  # requests that were committed
    replayed: int = 0
    refused: int = 0  # because the queue was full
    failed: int = 0  # undecided: the database was away or too slow
    commits: int = 0
    commit_seconds: float = 0.0  # in transactions, together


class _Waiting(NamedTuple):
    """A request in the queue, and whom it is for."""

    order: Order
    size: int  # entries it will append
    answered: asyncio.Future[Accepted]


class Ingest:
    """The one writer of this process. Answers a caller when its rows are committed."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        clock: Clock,
        settings: IngestSettings | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """wake: told after a commit that has brought work for the workers."""
        self.stats = IngestStats()
        self._wake = wake
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._settings = settings or IngestSettings()
        self._patience = self._settings.patience.total_seconds()
        self._queue: deque[_Waiting] = deque()
        self._keys: set[tuple[str, str, str]] = set()  # of the queue and of the commit under way
        self._expected = 1  # creates that may come together
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ingest")

    async def close(self) -> None:
        """Take nothing more, commit what is in the queue, and return."""
        self._closing = True
        self._arrived.set()
        self._enough.set()
        if self._task is not None:
            await self._task

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def submit(
        self,
        submission: Submission,
        sender: Identity,
        *,
        key: str | None = None,
        body_hash: bytes = b"",
        render: Render = answer,
    ) -> Accepted:
        """
        Store and publish one notification; returns when it is committed.

        key: the caller's Idempotency-Key; body_hash: of the request it stands for. render: makes the answer,
        which is stored under the key and returned byte for byte when the request is repeated.

        Raises ServiceError: idempotency_in_flight, idempotency_mismatch, overloaded (nothing was stored),
        unavailable (whether it was stored is not known: repeat it with its key).
        """
        return await self._enqueue(
            Order(
                submissions=[submission],
                sender=sender,
                render=lambda stored: render(stored[0]),
                key=key,
                body_hash=body_hash,
            )
        )

    async def submit_many(
        self,
        submissions: Sequence[Submission],
        sender: Identity,
        *,
        key: str | None = None,
        body_hash: bytes = b"",
        render: RenderMany = answer_many,
    ) -> Accepted:
        """Several notifications as one request: all of them or none. Otherwise as `submit`."""
        return await self._enqueue(
            Order(submissions=submissions, sender=sender, render=render, key=key, body_hash=body_hash)
        )

    async def has_answered(self, sender: Identity, key: str) -> bool:
        """Whether a request under this key was answered, so that `submit` will store nothing; or it is under way."""
        name = sender.tenant_id, sender.client, key
        if name in self._keys:
            return True
        async with self._database.connection() as connection:
            columns = [[part] for part in name]
            return bool(await connection.fetch(SQL["find_answers"], *columns, self._settings.key_life))

    async def _enqueue(self, order: Order) -> Accepted:
        if not order.submissions:
            raise invalid("notifications", "must name at least one")
        if self._closing or self._task is None:
            raise ServiceError("unavailable", "The service is stopping.", retry_after=1)
        if len(self._queue) >= self._settings.queue_limit:
            self.stats.refused += 1
            raise ServiceError("overloaded", retry_after=1)
        name = order.name
        if name is not None:
            if name in self._keys:
                raise ServiceError("idempotency_in_flight", retry_after=1)
            self._keys.add(name)
        size = sum(_entries(submission) for submission in order.submissions)
        waiting = _Waiting(order, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        if len(self._queue) >= self._expected:
            self._enough.set()
        try:
            async with asyncio.timeout(self._patience):
                return await waiting.answered
        except TimeoutError:
            raise ServiceError("unavailable", "The database is too slow.", retry_after=1) from None

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                continue
            await self._gather()
            batch = self._take()
            try:
                await self._commit(batch)
            finally:
                self._keys.difference_update(w.order.name for w in batch if w.order.name is not None)
                # Those who were just answered may come again beside those who have come meanwhile.
                self._expected = len(batch) + len(self._queue)

    async def _gather(self) -> None:
        """Wait until as many creates are there as may come together, but not for long."""
        if len(self._queue) >= self._expected or self._closing:
            return
        self._enough.clear()
        try:
            async with asyncio.timeout(self._settings.gather.total_seconds()):
                await self._enough.wait()
        except TimeoutError:
            pass

    def _take(self) -> list[_Waiting]:
        """The next batch: bounded, in the order of arrival, without those whose caller has given up."""
        batch: list[_Waiting] = []
        entries = 0
        while self._queue and len(batch) < self._settings.batch_limit:
            if batch and entries + self._queue[0].size > self._settings.batch_entries:
                break
            waiting = self._queue.popleft()
            if waiting.answered.done():
                if waiting.order.name is not None:
                    self._keys.discard(waiting.order.name)
                continue
            batch.append(waiting)
            entries += waiting.size
        return batch

    async def _commit(self, batch: Sequence[_Waiting], *, attempts: int = 3) -> None:
        """Store a batch in one transaction; when its data is at fault, each request in one of its own."""
        if not batch:
            return
        began = self._clock.monotonic()
        try:
            async with self._database.transaction() as connection:
                results = await write(connection, [w.order for w in batch], self._settings.key_life)
        except ServiceError as error:
            self.stats.failed += len(batch)
            self._refuse(batch, error)
            return
        except asyncpg.exceptions.TransactionRollbackError as error:  # a deadlock: somebody had to give way
            if attempts > 1:
                await self._commit(batch, attempts=attempts - 1)
            else:
                self.stats.failed += len(batch)
                log.error("ingest_gave_way_too_often", sqlstate=error.sqlstate, requests=len(batch))
                self._refuse(batch, ServiceError("unavailable", retry_after=1))
            return
        except asyncpg.PostgresError as error:
            if len(batch) > 1:
                for waiting in batch:
                    await self._commit([waiting])
            else:
                self._refuse(batch, _unstorable(error))
            return
        except Exception as error:  # a bug must fail its callers, not end the writer of all others
            log.exception("ingest_failed", requests=len(batch))
            self._refuse(batch, error)
            return
        self.stats.commits += 1
        self.stats.commit_seconds += self._clock.monotonic() - began
        self._tell(results)
        for waiting, result in zip(batch, results, strict=True):
            self._answer(waiting, result)

    def _tell(self, results: Sequence[Written | Exception]) -> None:
        if PUBLISH_NEVER_HAPPENS in self._settings.failpoints:
            return
        entries = [entry for result in results if isinstance(result, Written) for entry in result.entries]
        if entries:
            self._publisher.publish(entries)
        due = [result for result in results if isinstance(result, Written) and result.has_deliveries]
        for stored in (one for result in due for one in result.stored if one.status == "published"):
            queued(publication(stored))
        if due:
            self._wake()

    def _answer(self, waiting: _Waiting, result: Written | Exception) -> None:
        if isinstance(result, Written):
            if result.accepted.replayed:
                self.stats.replayed += 1
            else:
                self.stats.accepted += 1
            if not waiting.answered.done():
                waiting.answered.set_result(result.accepted)
        elif not waiting.answered.done():
            waiting.answered.set_exception(result)

    def _refuse(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for waiting in batch:
            if not waiting.answered.done():
                waiting.answered.set_exception(_again(error))


def _again(error: Exception) -> Exception:
    """The same error for one of many callers: an exception object that is raised twice mixes their tracebacks."""
    if isinstance(error, ServiceError):
        return ServiceError(error.code, error.message, faults=error.faults, retry_after=error.retry_after)
    failure = ServiceError("internal")
    failure.__cause__ = error
    return failure


def _unstorable(error: asyncpg.PostgresError) -> ServiceError:
    """What the database says to data that every check let pass."""
    if isinstance(error, asyncpg.DataError):
        log.warning("ingest_refused_by_database", sqlstate=error.sqlstate)
        refusal = ServiceError("invalid", "The notification cannot be stored as it is.")
    else:
        log.error("ingest_refused_by_database", sqlstate=error.sqlstate)
        refusal = ServiceError("internal")
    refusal.__cause__ = error
    return refusal


def _entries(submission: Submission) -> int:
    return len(submission.audience.user_ids) if isinstance(submission.audience, Users) else 1
