"""Receipts on a real PostgreSQL: each event once, deliveries forward, and what follows for the person (F26, threat 19)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import SystemClock
from core.database import Database, open_database
from core.identity import Identity
from core.ids import uuid7
from core.vault import Vault
from delivery.endpoints_store import Endpoints, NewEndpoint
from delivery.outbox import Claimed, Completion, Outbox, Room, complete
from delivery.preferences_store import Preferences
from delivery.receipts import RANKS, Effect, Receipt, ReportedState
from delivery.receipts_store import Receipts
from delivery.recipients_store import Recipients
from tests.postgres import TEMPLATE, PostgresServer, patient

TENANT = "school"
VAULT = Vault({"test": b"v" * 32})


class World:
    """Receipts over one database, and ways to put deliveries into it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.fallbacks = 0
        self.receipts = Receipts(database, SystemClock(), {"whatsapp": "sms"}, self._fell_back)
        self.recipients = Recipients(database, VAULT)

    def _fell_back(self) -> None:
        self.fallbacks += 1

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def delivery(
        self, state: str = "sent", *, channel: str = "sms", ref: str | None = None, user_id: str = "ada"
    ) -> UUID:
        """A delivery in a state, made by one attempt that has ended, or has not."""
        delivery_id, notification_id = uuid7(), uuid7()
        is_open = state in ("queued", "processing", "deferred", "unknown")
        await self.rows(
            """INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane, state,
                   attempt, claimed_by, provider, provider_ref, finished_at, due_at)
               VALUES ($1, $2, $3, $4, $5, 2, $6, 1, $7, 'twilio', $8, CASE WHEN $9 THEN NULL ELSE now() END,
                   now() + interval '1 hour')""",
            TENANT,
            delivery_id,
            notification_id,
            user_id,
            channel,
            state,
            "w1" if state == "processing" else None,
            ref,
            is_open,
        )
        await self.attempt(delivery_id, 1, ref)
        return delivery_id

    async def attempt(self, delivery_id: UUID, number: int, ref: str | None) -> None:
        await self.rows(
            """INSERT INTO delivery_attempts (tenant_id, delivery_id, attempt, worker, provider_ref)
               VALUES ($1, $2, $3, 'w1', $4)""",
            TENANT,
            delivery_id,
            number,
            ref,
        )

    async def get(self, delivery_id: UUID) -> Any:
        [row] = await self.rows("SELECT * FROM notification_deliveries WHERE id = $1", delivery_id)
        return row

    async def state(self, delivery_id: UUID) -> str:
        return str((await self.get(delivery_id))["state"])

    async def events(self) -> list[Any]:
        return await self.rows("SELECT * FROM provider_events ORDER BY event_id, status")

    async def address(self, delivery_id: UUID, channel: str = "sms", value: str = "+14155552671") -> UUID:
        """Where a delivery went."""
        added = await self.recipients.add(TENANT, "ada", channel, value, "jwt::svc", verified=True)
        await self.rows(
            "UPDATE notification_deliveries SET address_id = $2 WHERE id = $1", delivery_id, added.address.id
        )
        return added.address.id


def report(
    state: ReportedState | None,
    delivery_id: UUID | None = None,
    *,
    ref: str | None = None,
    status: str | None = None,
    event_id: str | None = None,
    code: str | None = None,
    effect: Effect | None = None,
    provider: str = "twilio",
) -> Receipt:
    return Receipt(
        provider=provider,
        event_id=event_id or ref or str(delivery_id),
        status=status or state or "other",
        state=state,
        ref=ref,
        delivery=None if delivery_id is None else (TENANT, delivery_id),
        code=code,
        effect=effect,
    )


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    opened = await open_database(patient(database))
    yield World(opened)
    await opened.close()


async def test_a_report_finds_its_delivery_by_what_it_carries_or_by_the_providers_name(world: World) -> None:
    carried, named = await world.delivery(), await world.delivery(ref="SM2", user_id="bob")

    await world.receipts.record([report("delivered", carried, ref="SM1"), report("delivered", ref="SM2")])

    assert await world.state(carried) == await world.state(named) == "delivered"
    assert (await world.get(carried))["provider_ref"] == "SM1"
    assert {row["delivery_id"] for row in await world.events()} == {carried, named}


async def test_a_report_of_nobodys_message_is_kept_and_touches_nothing(world: World) -> None:
    delivery_id = await world.delivery(ref="SM1")

    new = await world.receipts.record([report("failed", ref="SM9"), report("failed", uuid4(), ref="SM8")])

    assert new == 2
    assert len(await world.events()) == 2
    assert await world.state(delivery_id) == "sent"
    assert world.receipts.stats.unmatched == 1


async def test_the_same_report_counts_once_in_one_request_and_over_several(world: World) -> None:
    delivery_id = await world.delivery()
    one = report("delivered", delivery_id)

    assert await world.receipts.record([one, one, one]) == 1
    assert await world.receipts.record([one]) == 0

    assert len(await world.events()) == 1


async def test_who_report_the_same_at_the_same_time_make_one_row(world: World) -> None:
    deliveries = [await world.delivery(user_id=f"user{n}") for n in range(8)]
    reports = [report(state, one) for one in deliveries for state in ("sent", "delivered")]

    def shuffled(seed: int) -> Sequence[Receipt]:
        return random.Random(seed).sample(reports, len(reports))

    news = await asyncio.gather(*(world.receipts.record(shuffled(seed)) for seed in range(6)))

    assert sum(news) == len(reports)
    assert {await world.state(one) for one in deliveries} == {"delivered"}


@pytest.mark.parametrize(
    ("reported", "then"), [("sent", "sent"), ("delivered", "delivered"), ("failed", "failed")]
)
async def test_a_report_settles_what_nobody_knew_the_end_of(
    world: World, reported: ReportedState, then: str
) -> None:
    delivery_id = await world.delivery("unknown")

    await world.receipts.record([report(reported, delivery_id, ref="SM1")])

    row = await world.get(delivery_id)
    assert (row["state"], row["provider_ref"]) == (then, "SM1")
    assert row["finished_at"] is not None


async def test_a_report_that_is_here_before_the_workers_own_completion_is_kept_by_it(world: World) -> None:
    await world.rows(
        """INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane)
           VALUES ('school', $1, $2, 'ada', 'sms', 2)""",
        uuid7(),
        uuid7(),
    )
    [claimed] = await Outbox(world.database, "w1", timedelta(seconds=15)).claim([Room("sms", 10, 4)])

    await world.receipts.record([report("delivered", claimed.id, ref="SM1")])
    await completed(world, claimed, "sent", ref="SM1")

    row = await world.get(claimed.id)
    assert (row["state"], row["provider_ref"], row["claimed_by"]) == ("delivered", "SM1", None)
    [attempt] = await world.rows("SELECT * FROM delivery_attempts")
    assert (attempt["outcome"], attempt["provider_ref"]) == ("sent", "SM1")


@pytest.mark.parametrize("reported", ["delivered", "failed"])
async def test_a_worker_whose_answer_was_lost_does_not_undo_a_report(
    world: World, reported: ReportedState
) -> None:
    await world.rows(
        """INSERT INTO notification_deliveries (tenant_id, id, notification_id, user_id, channel, lane)
           VALUES ('school', $1, $2, 'ada', 'sms', 2)""",
        uuid7(),
        uuid7(),
    )
    [claimed] = await Outbox(world.database, "w1", timedelta(seconds=15)).claim([Room("sms", 10, 4)])

    await world.receipts.record([report(reported, claimed.id, ref="SM1")])
    await completed(world, claimed, "unknown")

    assert await world.state(claimed.id) == reported
    assert await Outbox(world.database, "w2", timedelta(seconds=15)).claim([Room("sms", 10, 4)]) == []


async def completed(world: World, claimed: Claimed, outcome: str, ref: str | None = None) -> None:
    completion = Completion(
        tenant_id=claimed.tenant_id,
        id=claimed.id,
        attempt=claimed.attempt,
        state=outcome,
        outcome=outcome,
        wait=timedelta(minutes=10) if outcome == "unknown" else None,
        provider="twilio",
        provider_ref=ref,
    )
    async with world.database.transaction() as connection:
        await complete(connection, [completion])


async def test_the_failure_of_an_older_attempts_message_does_not_end_the_newer_one(world: World) -> None:
    delivery_id = await world.delivery("processing", ref="SM1")
    await world.rows("UPDATE notification_deliveries SET attempt = 2 WHERE id = $1", delivery_id)
    await world.attempt(delivery_id, 2, None)

    await world.receipts.record([report("failed", delivery_id, ref="SM1")])
    assert await world.state(delivery_id) == "processing"

    await world.receipts.record([report("failed", delivery_id, ref="SM2")])
    assert await world.state(delivery_id) == "failed"


async def test_what_was_replayed_does_not_end_by_an_old_report_that_the_message_before_was_sent(
    world: World,
) -> None:
    """Reports come in any order: `undelivered`, then a replay, then `sent`, all of the same message."""
    delivery_id = await world.delivery("queued", ref="SM1")
    await world.rows(
        "UPDATE delivery_attempts SET ended_at = now(), outcome = 'sent' WHERE delivery_id = $1", delivery_id
    )

    await world.receipts.record([report("sent", delivery_id, ref="SM1")])
    assert await world.state(delivery_id) == "queued"

    await world.receipts.record([report("delivered", delivery_id, ref="SM1")])
    assert await world.state(delivery_id) == "delivered"


async def test_a_hard_bounce_pauses_the_address_and_a_complaint_ends_the_channel_too(world: World) -> None:
    bounced = await world.delivery(channel="email")
    address_id = await world.address(bounced, "email", "ada@example.com")

    await world.receipts.record([report("undelivered", bounced, effect="bounced")])
    [address] = await world.rows("SELECT * FROM recipient_addresses WHERE id = $1", address_id)
    assert address["pause_reason"] == "bounced"
    assert not await world.rows("SELECT FROM opt_outs")

    await world.receipts.record([report(None, bounced, effect="complained")])
    [opt_out] = await world.rows("SELECT * FROM opt_outs")
    assert (opt_out["user_id"], opt_out["value"], opt_out["reason"]) == ("ada", "email", "complaint")
    assert await world.state(bounced) == "undelivered"
    audited = await world.rows(
        "SELECT actor, action FROM audit_log WHERE actor LIKE 'provider:%' ORDER BY seq"
    )
    assert [tuple(row) for row in audited] == [
        ("provider:twilio", "address.paused"),
        ("provider:twilio", "opt_out.added"),
    ]


async def test_a_person_who_has_told_the_provider_to_stop_is_left_alone_from_now_on(world: World) -> None:
    delivery_id = await world.delivery()

    await world.receipts.record([report("failed", delivery_id, code="21610")])

    [opt_out] = await world.rows("SELECT * FROM opt_outs")
    assert (opt_out["scope"], opt_out["value"], opt_out["reason"]) == ("channel", "sms", "provider")


async def test_what_a_person_has_taken_back_is_not_done_again_by_an_old_report(world: World) -> None:
    delivery_id = await world.delivery()
    stopped = report("failed", delivery_id, code="21610")
    await world.receipts.record([stopped])
    await Preferences(world.database).lift(TENANT, "ada", "channel", "sms", actor="person:ada")

    await world.receipts.record([stopped])

    assert not await world.rows("SELECT FROM opt_outs")


async def test_a_failure_that_is_reported_late_takes_the_other_channel_once(world: World) -> None:
    delivery_id = await world.delivery(channel="whatsapp", ref="wamid.1")
    failed = report("failed", delivery_id, ref="wamid.1", code="131026", provider="meta")

    await world.receipts.record([failed])
    await world.receipts.record(
        [failed, report("undelivered", delivery_id, ref="wamid.1", code="131026", provider="meta")]
    )

    [instead] = await world.rows("SELECT * FROM notification_deliveries WHERE fallback_of IS NOT NULL")
    assert (instead["channel"], instead["fallback_of"], instead["state"]) == ("sms", delivery_id, "queued")
    assert (await world.get(delivery_id))["code"] == "131026"
    assert world.fallbacks == 1


async def test_the_tenants_webhooks_are_told_of_every_step_and_of_no_repetition(world: World) -> None:
    endpoints = Endpoints(world.database, VAULT, SystemClock())
    await endpoints.create(
        Identity(tenant_id=TENANT, user_id="root"),
        NewEndpoint(url="https://hooks.example/", hint="https://hooks.example", events=["*"]),
    )
    delivery_id = await world.delivery("unknown")

    for _ in range(2):
        await world.receipts.record([report("sent", delivery_id), report("delivered", delivery_id)])
    await world.receipts.record([report("sent", delivery_id, status="sent again")])

    told = await world.rows(
        "SELECT event->>'type' AS type, event->'data'->>'delivery_id' AS id FROM notification_deliveries "
        "WHERE kind = 'event' ORDER BY id"
    )
    assert [(row["type"], row["id"]) for row in told] == [
        ("delivery.sent", str(delivery_id)),
        ("delivery.delivered", str(delivery_id)),
    ]


# --- whatever the order ---

STATES: Sequence[ReportedState] = ("sent", "delivered", "read", "undelivered", "failed")


@pytest.fixture(scope="module")
def always(postgres: PostgresServer) -> Any:
    """One world for all examples, in a loop of its own; each example has a delivery of its own."""
    with asyncio.Runner() as runner:
        made = postgres.database(template=TEMPLATE)
        dsn = runner.run(made.__aenter__())
        opened = runner.run(open_database(patient(dsn)))
        yield runner, World(opened)
        runner.run(opened.close())
        runner.run(made.__aexit__(None, None, None))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    start=st.sampled_from(["processing", "unknown", "sent", "cancelled"]),
    reported=st.sets(st.sampled_from(STATES), min_size=1),
    order=st.randoms(use_true_random=False),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=30),
)
def test_five_times_each_event_in_any_order_and_grouping_is_one_row_and_one_end(
    always: Any, start: str, reported: set[ReportedState], order: random.Random, sizes: list[int]
) -> None:
    runner, world = always
    delivery_id = runner.run(world.delivery(start, user_id=str(uuid4())))
    arriving = [report(state, delivery_id, ref=f"SM{delivery_id}") for state in reported] * 5
    order.shuffle(arriving)

    seen = [runner.run(world.state(delivery_id))]
    while arriving:
        size = sizes[len(seen) % len(sizes)]
        runner.run(world.receipts.record(arriving[:size]))
        del arriving[:size]
        seen.append(runner.run(world.state(delivery_id)))

    assert seen[-1] == max(reported, key=lambda state: RANKS[state])
    assert [RANKS[state] for state in seen] == sorted(RANKS[state] for state in seen)
    rows = runner.run(world.rows("SELECT status FROM provider_events WHERE delivery_id = $1", delivery_id))
    assert sorted(row["status"] for row in rows) == sorted(reported)


# --- who watches ---


async def test_who_watches_is_told_what_moved_and_what_was_said_again(world: World) -> None:
    told: list[tuple[str, ...]] = []

    class Watching:
        def reported(
            self, *, tenant_id: str, delivery_id: UUID, channel: str, provider: str, state: str
        ) -> None:
            told.append((channel, provider, state))

        def repeated(self, *, provider: str, reports: int) -> None:
            told.append((provider, str(reports)))

    delivery_id = await world.delivery()
    receipts = Receipts(world.database, SystemClock(), {}, observer=Watching())

    for _ in range(2):
        await receipts.record([report("sent", delivery_id), report("delivered", delivery_id)])

    assert told == [("sms", "twilio", "delivered"), ("twilio", "2")]
