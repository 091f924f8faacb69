"""Deliveries from the outbox to their ends, on a real PostgreSQL, with the simulator at the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from core.outcome import Outcome, Sent
from delivery.breaker import BreakerSettings
from delivery.broadcasts_store import Broadcasts
from delivery.budget_store import BudgetSettings
from delivery.channel import Address, Message
from delivery.conclusion import RetrySettings
from delivery.draft import Everyone, Users
from delivery.jobs import Jobs
from delivery.outbox import Completion, Outbox, Room, complete
from tests.stores import Stores, open_stores
from tests.submissions import person, service, submission
from tests.workers import Seen, a_worker, channel, introduce, simulated, working

FIVE = ("email", "sms", "whatsapp", "telegram", "webhook")
LEASE = timedelta(seconds=15)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, "ada", "bob")
        yield opened


async def states(stores: Stores) -> dict[str, str]:
    """Of every delivery, by its channel."""
    rows = await stores.query("SELECT channel, state FROM notification_deliveries ORDER BY channel")
    return {row["channel"]: row["state"] for row in rows}


async def only(stores: Stores) -> Any:
    """The one delivery."""
    [row] = await stores.query("SELECT * FROM notification_deliveries WHERE kind = 'notification'")
    return row


async def due_now(stores: Stores) -> None:
    """Time goes by until everything is due."""
    await stores.query("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")


class Recording:
    """A provider that keeps what it is given, and answers when it is let."""

    name, concurrency, rate = "recording", 64, None

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.may_answer = asyncio.Event()
        self.asked = asyncio.Event()

    def account_of(self, address: Address) -> str:
        return "one"

    async def send(self, message: Message) -> Outcome:
        self.messages.append(message)
        self.asked.set()
        await self.may_answer.wait()
        return Sent(provider_ref=f"ref-{len(self.messages)}")


async def test_one_notification_goes_out_by_every_channel_and_every_attempt_is_on_record(
    stores: Stores,
) -> None:
    await stores.send("ada", channels=("in_app", *FIVE))

    await a_worker(stores.database, simulated()).run_once()

    assert await states(stores) == dict.fromkeys(FIVE, "sent")
    attempts = await stores.query("SELECT * FROM delivery_attempts")
    assert [row["outcome"] for row in attempts] == ["sent"] * 5
    assert all(row["provider"] == "simulator" and row["provider_ref"] and row["gates"] for row in attempts)


async def test_what_has_no_provider_is_said_to_be_not_configured_and_is_no_failure(stores: Stores) -> None:
    await stores.send("ada", channels=("sms",))

    await a_worker(stores.database, {}).run_once()

    row = await only(stores)
    assert row["state"] == "suppressed"
    assert "configured" in row["reason"]


async def test_five_attempts_that_fail_make_a_dead_letter_and_delay_nobody(stores: Stores) -> None:
    await stores.send("ada", channels=("email",), metadata={"simulate": "unreachable"})
    worker = a_worker(stores.database, simulated(), breaker=BreakerSettings(failures=100))
    for _ in range(4):
        await worker.run_once()
        assert (await only(stores))["state"] == "queued"
        await due_now(stores)

    await stores.send("bob", channels=("email",))
    await worker.run_once()

    rows = await stores.query(
        "SELECT user_id, state, retries, attempt FROM notification_deliveries ORDER BY user_id"
    )
    assert [tuple(row) for row in rows] == [("ada", "failed", 5, 5), ("bob", "sent", 0, 1)]


async def test_a_refused_message_is_a_dead_letter_at_once(stores: Stores) -> None:
    await stores.send("ada", channels=("email",), metadata={"simulate": "reject"})

    await a_worker(stores.database, simulated()).run_once()

    row = await only(stores)
    assert (row["state"], row["attempt"]) == ("failed", 1)


async def test_who_is_not_on_whatsapp_falls_back_to_sms_once(stores: Stores) -> None:
    await stores.send("ada", channels=("whatsapp",))
    ways = {**simulated("131026", names=["whatsapp"]), **simulated(names=["sms"])}

    await a_worker(stores.database, ways).run_once()

    assert await states(stores) == {"sms": "sent", "whatsapp": "suppressed"}
    [sms] = await stores.query("SELECT * FROM notification_deliveries WHERE channel = 'sms'")
    [whatsapp] = await stores.query("SELECT * FROM notification_deliveries WHERE channel = 'whatsapp'")
    assert sms["fallback_of"] == whatsapp["id"]


async def test_who_stopped_us_is_sent_nothing_more_by_that_channel(stores: Stores) -> None:
    await stores.send("ada", channels=("sms",), metadata={"simulate": "twilio:21610"})
    worker = a_worker(stores.database, simulated())
    await worker.run_once()

    await stores.send("ada", channels=("sms", "email"))
    await worker.run_once()

    rows = await stores.query(
        "SELECT channel, state FROM notification_deliveries ORDER BY created_at, channel"
    )
    assert [tuple(row) for row in rows] == [("sms", "suppressed"), ("email", "sent"), ("sms", "suppressed")]
    [row] = await stores.query("SELECT * FROM opt_outs")
    assert (row["scope"], row["value"], row["reason"]) == ("channel", "sms", "provider")
    assert await stores.query("SELECT FROM audit_log WHERE action = 'opt_out.added'")


async def test_a_notification_that_is_recalled_goes_out_no_more(stores: Stores) -> None:
    notification_id = await stores.send("ada", channels=("in_app", "email"))
    await stores.notifications.recall(service(), notification_id)

    await a_worker(stores.database, simulated()).run_once()

    assert (await only(stores))["state"] == "cancelled"
    assert not await stores.query("SELECT FROM delivery_attempts")


async def test_what_was_read_anywhere_does_not_go_out_any_more(stores: Stores) -> None:
    notification_id = await stores.send(
        "ada", channels=("in_app", "email"), metadata={"simulate": "unreachable"}
    )
    worker = a_worker(stores.database, simulated())
    await worker.run_once()
    assert (await only(stores))["state"] == "queued"

    await stores.inbox.change(person("ada"), "read", [notification_id])
    await due_now(stores)
    await worker.run_once()

    assert (await only(stores))["state"] == "suppressed"


async def test_a_scheduled_notification_is_in_the_outbox_when_it_is_due_and_not_before(
    stores: Stores,
) -> None:
    woken: list[None] = []
    later = datetime.now(UTC) + timedelta(hours=1)
    await stores.send("ada", channels=("in_app", "email"), scheduled_for=later)
    await stores.send("*", channels=("email",), scheduled_for=later)
    jobs = Jobs(stores.database, stores.heard, SystemClock(), wake=lambda: woken.append(None))
    await jobs.publish_due()
    assert not await stores.query("SELECT FROM notification_deliveries")
    assert not woken

    await stores.query("UPDATE notifications SET scheduled_for = now()")
    await jobs.publish_due()

    assert await states(stores) == {"email": "queued"}
    assert await stores.query("SELECT FROM delivery_broadcasts")
    assert woken


async def test_a_worker_that_dies_loses_its_lease_and_not_the_delivery(stores: Stores) -> None:
    """The dead one is an outbox that claims and never completes."""
    await stores.send("ada", channels=("email",))
    dead = Outbox(stores.database, "dead", LEASE)
    assert len(await dead.claim([Room("email", 10, 4)])) == 1
    worker = a_worker(stores.database, simulated())
    await worker.run_once()
    assert (await only(stores))["state"] == "processing", "its lease is not over"

    await due_now(stores)
    await worker.run_once()

    row = await only(stores)
    assert (row["state"], row["attempt"], row["unknowns"]) == ("sent", 2, 1)
    outcomes = await stores.query("SELECT outcome, code FROM delivery_attempts ORDER BY attempt")
    assert [tuple(row) for row in outcomes] == [("unknown", "worker_lost"), ("sent", None)]


async def test_an_sms_of_a_dead_worker_waits_for_a_receipt_and_is_given_up_without_one(
    stores: Stores,
) -> None:
    await stores.send("ada", channels=("sms",))
    await Outbox(stores.database, "dead", LEASE).claim([Room("sms", 10, 4)])
    worker = a_worker(stores.database, simulated())

    await due_now(stores)
    await worker.run_once()
    assert (await only(stores))["state"] == "unknown"
    await due_now(stores)
    await worker.run_once()

    row = await only(stores)
    assert (row["state"], row["code"]) == ("failed", "unknown_outcome")


async def test_an_urgent_sms_of_which_nobody_knows_is_sent_once_more_and_not_twice(stores: Stores) -> None:
    await stores.send(
        "ada", channels=("sms",), priority="urgent", metadata={"simulate": "reset_after_accept"}
    )
    worker = a_worker(stores.database, simulated())

    for _ in range(3):
        await worker.run_once()
        await due_now(stores)

    row = await only(stores)
    assert (row["state"], row["unknowns"]) == ("failed", 2)
    assert worker.stats.attempted == 2


async def test_a_late_worker_decides_nothing(stores: Stores) -> None:
    """It wakes after its lease, with the news that it could not send; meanwhile another has sent."""
    await stores.send("ada", channels=("email",))
    late = Outbox(stores.database, "late", LEASE)
    [held] = await late.claim([Room("email", 1, 4)])
    await due_now(stores)
    await a_worker(stores.database, simulated()).run_once()

    news = Completion(
        tenant_id=held.tenant_id,
        id=held.id,
        attempt=held.attempt,
        state="queued",
        outcome="retry",
        wait=timedelta(0),
    )
    async with stores.database.transaction() as connection:
        assert await complete(connection, [news]) == set()

    assert (await only(stores))["state"] == "sent"
    [attempt] = await stores.query("SELECT * FROM delivery_attempts WHERE attempt = 1")
    assert (attempt["is_late"], attempt["outcome"]) == (True, "retry")

    async with stores.database.transaction() as connection:
        await complete(connection, [news], fenced=False)
    assert (await only(stores))["state"] == "queued", "without the fence it is sent twice"


async def test_urgent_overtakes_and_tenants_take_turns(database: str) -> None:
    async with open_stores(database) as stores:
        for tenant in ("big", "small"):
            for _ in range(20 if tenant == "big" else 2):
                await stores.ingest.submit(
                    submission("ada", channels=("email",), tenant_id=tenant), service(tenant_id=tenant)
                )
        await stores.ingest.submit(
            submission("ada", channels=("email",), tenant_id="big", priority="urgent"),
            service(tenant_id="big"),
        )
        outbox = Outbox(stores.database, "w", LEASE)

        claimed = await outbox.claim([Room("email", 5, 4)])

        assert (claimed[0].tenant_id, claimed[0].lane) == ("big", 0)
        assert sorted(one.tenant_id for one in claimed[1:]) == ["big", "big", "small", "small"]


async def test_a_claim_for_urgent_ones_leaves_the_others(stores: Stores) -> None:
    await stores.send("ada", channels=("email",))
    await stores.send("ada", channels=("email",), priority="urgent")

    claimed = await Outbox(stores.database, "w", LEASE).claim([Room("email", 5, 0)])

    assert [one.lane for one in claimed] == [0]


async def test_two_workers_never_hold_the_same_delivery(stores: Stores) -> None:
    await stores.send(Users.of("ada", "bob"), channels=("email",))
    for _ in range(40):
        await stores.send("ada", channels=("email",))
    outboxes = [Outbox(stores.database, f"w{n}", LEASE) for n in range(4)]

    held = await asyncio.gather(*(one.claim([Room("email", 7, 4)]) for one in outboxes for _ in range(3)))

    ids = [claimed.id for batch in held for claimed in batch]
    assert len(ids) == len(set(ids))
    again = await outboxes[0].claim([Room("email", 100, 4)])
    assert len(ids) + len(again) == 42


async def test_a_throttled_account_is_left_alone_until_it_may_be_asked_again(stores: Stores) -> None:
    for _ in range(20):
        await stores.send("ada", channels=("email",))
    worker = a_worker(stores.database, simulated("429", retry_after=timedelta(seconds=60), concurrency=1))

    await worker.run_once()

    assert worker.stats.attempted == 1
    rows = await stores.query("SELECT state, retries FROM notification_deliveries")
    assert {(row["state"], row["retries"]) for row in rows} == {("queued", 0)}


async def test_a_provider_that_is_down_is_asked_once_an_interval_and_nothing_is_lost(stores: Stores) -> None:
    for _ in range(50):
        await stores.send("ada", channels=("email",))
    breaker = BreakerSettings(failures=5, probe_interval=timedelta(hours=1))
    worker = a_worker(stores.database, simulated(*["503"] * 5, concurrency=1), breaker=breaker)

    await worker.run_once()

    assert worker.stats.attempted <= 7
    assert not await stores.query("SELECT FROM notification_deliveries WHERE finished_at IS NOT NULL")


async def test_a_broadcast_reaches_everybody_with_an_address(stores: Stores) -> None:
    await stores.send(Everyone(), channels=("in_app", "email", "sms"))

    await a_worker(stores.database, simulated()).run_once()

    rows = await stores.query(
        "SELECT user_id, channel, state, lane FROM notification_deliveries ORDER BY 1, 2"
    )
    assert [tuple(row) for row in rows] == [
        (name, way, "sent", 4) for name in ("ada", "bob") for way in ("email", "sms")
    ]
    [row] = await stores.query("SELECT state, people, deliveries FROM delivery_broadcasts")
    assert tuple(row) == ("done", 2, 4)


async def test_what_a_worker_had_in_hand_of_a_cancelled_broadcast_is_not_tried_again(stores: Stores) -> None:
    sent = await stores.send(Everyone(), channels=("email",), metadata={"simulate": "unreachable"})
    worker = a_worker(stores.database, simulated(), breaker=BreakerSettings(failures=100))
    await worker.run_once()
    await stores.query(
        "UPDATE notification_deliveries SET state = 'processing', claimed_by = 'w1' WHERE user_id = 'ada'"
    )

    await Broadcasts(stores.database).cancel(service(), sent)
    await due_now(stores)
    await worker.run_once()

    rows = await stores.query(
        "SELECT user_id, state, reason, attempt FROM notification_deliveries ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [
        ("ada", "cancelled", "the notification is cancelled", 2),
        ("bob", "cancelled", "the broadcast was cancelled", 1),
    ]


async def test_a_running_worker_is_woken_and_does_not_wait_for_its_poll(stores: Stores) -> None:
    provider = Recording()
    provider.may_answer.set()
    worker = a_worker(stores.database, {"email": channel("email", provider)}, poll=timedelta(seconds=60))
    async with working(worker):
        await stores.send("ada", channels=("email",))
        worker.wake()
        async with asyncio.timeout(30):
            await provider.asked.wait()

    assert (await only(stores))["state"] == "sent"
    [message] = provider.messages
    assert message.address.value == "ada@example.test"
    assert message.reference == str((await only(stores))["id"])


async def test_a_worker_that_stops_finishes_what_is_under_way(stores: Stores) -> None:
    provider = Recording()
    worker = a_worker(stores.database, {"email": channel("email", provider)})
    await stores.send("ada", channels=("email",))
    async with working(worker):
        async with asyncio.timeout(30):
            await provider.asked.wait()
        asyncio.get_running_loop().call_later(0.2, provider.may_answer.set)

    assert (await only(stores))["state"] == "sent"


async def test_looking_at_what_is_due_claims_and_sends_nothing(stores: Stores) -> None:
    await stores.send("ada", channels=("email", "sms"))
    provider = Recording()
    worker = a_worker(stores.database, {"email": channel("email", provider)})

    seen = await worker.preview()

    assert {(one.claimed.channel, one.decision) for one in seen} == {("email", "send"), ("sms", "drop")}
    assert "ada@example.test" not in str(seen)
    assert provider.messages == []
    assert not await stores.query("SELECT FROM delivery_attempts")


async def test_a_provider_that_raises_is_a_fault_of_ours_and_of_one_delivery_only(stores: Stores) -> None:
    class Broken(Recording):
        async def send(self, message: Message) -> Outcome:
            raise RuntimeError("a bug")

    await stores.send("ada", channels=("email", "sms"))
    worker = a_worker(
        stores.database,
        {"email": channel("email", Broken()), **simulated(names=["sms"])},
        retries=RetrySettings(),
    )

    await worker.run_once()

    assert await states(stores) == {"email": "queued", "sms": "sent"}


async def test_what_takes_longer_than_a_provider_may_is_unknown(stores: Stores) -> None:
    await stores.send("ada", channels=("sms",))
    seen = Seen()
    worker = a_worker(
        stores.database,
        {"sms": channel("sms", Recording(), unknown="reconcile")},
        observer=seen,
        provider_timeout=timedelta(milliseconds=50),
    )

    await worker.run_once()

    row = await only(stores)
    assert (row["state"], row["code"], row["unknowns"]) == ("unknown", "timeout", 1)
    assert [conclusion.outcome for _, conclusion in seen.concluded_] == ["unknown"]


async def test_what_was_to_be_gone_ends_also_while_nobody_can_send(stores: Stores) -> None:
    await stores.send("ada", channels=("email",), expires_at=datetime.now(UTC) + timedelta(minutes=1))
    await stores.query(
        "INSERT INTO channel_accounts (channel, provider, account, breaker) VALUES ('email', 'recording', 'one', 'halted')"
    )
    worker = a_worker(stores.database, {"email": channel("email", Recording())})
    await worker.run_once()
    assert (await only(stores))["state"] == "queued"

    await stores.query("UPDATE notification_deliveries SET expires_at = now()")
    await worker.run_once()

    assert (await only(stores))["state"] == "expired"


async def test_a_message_that_breaks_its_account_alone_is_a_dead_letter_in_the_end(stores: Stores) -> None:
    """Every try of it is a probe of the account, and none is counted: only its age ends it."""
    await stores.send("ada", channels=("email",))
    await stores.query(
        "INSERT INTO channel_accounts (channel, provider, account, breaker, opened_at) "
        "VALUES ('email', 'simulator', 'email', 'open', now())"
    )
    channels = simulated("unreachable", names=["email"])
    often = BreakerSettings(probe_interval=timedelta(0))
    await a_worker(stores.database, channels, breaker=often).run_once()
    assert (await only(stores))["state"] == "queued"

    await stores.query(
        "UPDATE notification_deliveries SET queued_at = now() - interval '1 day', due_at = now()"
    )
    await a_worker(stores.database, channels, breaker=often).run_once()

    row = await only(stores)
    assert (row["state"], row["retries"]) == ("failed", 0)


async def test_workers_that_claim_in_the_same_moment_leave_nothing_lying(stores: Stores) -> None:
    for _ in range(100):
        await stores.send(Users.of("ada", "bob"), channels=("email",))
    outboxes = [Outbox(stores.database, f"w{number}", LEASE) for number in range(6)]

    held = await asyncio.gather(*(one.claim([Room("email", 30, 4)]) for one in outboxes))

    short = [box for box, claimed in zip(outboxes, held, strict=True) if len(claimed) < 30]
    assert all("email" in box.unlooked for box in short), "they look again at once"
    for box in short:
        while await box.claim([Room("email", 30, 4)]) or box.unlooked:
            pass
    assert not await outboxes[0].claim([Room("email", 30, 4)]) or not short


async def test_no_number_of_workers_sends_more_paid_messages_than_a_day_may_cost(stores: Stores) -> None:
    """Somebody pumps 60 SMS through us (RELIABILITY, threat 31); the day is worth 25."""
    for _ in range(30):
        await stores.send(Users.of("ada", "bob"), channels=("sms", "email"))
    budget = BudgetSettings(paid_per_day=25)
    await stores.day_goes_on()
    workers = [
        a_worker(stores.database, simulated(), name=f"w{number}", budget=budget, batch_limit=7)
        for number in range(4)
    ]

    await asyncio.gather(*(one.run_once() for one in workers))

    rows = await stores.query(
        "SELECT channel, state, code, count(*) FROM notification_deliveries GROUP BY 1, 2, 3 ORDER BY 1, 2 DESC"
    )
    assert [tuple(row) for row in rows] == [
        ("email", "sent", None, 60),
        ("sms", "sent", None, 25),
        ("sms", "deferred", "budget_spent", 35),
    ]
    [wait] = await stores.query(
        "SELECT min(due_at) AT TIME ZONE 'UTC' >= (now() AT TIME ZONE 'UTC')::date + 1 AS is_tomorrow "
        "FROM notification_deliveries WHERE state = 'deferred'"
    )
    assert wait["is_tomorrow"]


async def test_what_was_not_sent_costs_nothing_of_the_day(stores: Stores) -> None:
    budget = BudgetSettings(paid_per_day=1)
    await stores.day_goes_on()
    await stores.send("ada", channels=("sms",), metadata={"simulate": "unreachable"})
    worker = a_worker(stores.database, simulated(), budget=budget)
    await worker.run_once()
    await worker.run_once()
    assert [row["used"] for row in await stores.query("SELECT used FROM paid_messages")] == [0]

    await stores.send("bob", channels=("sms",), metadata={"simulate": "reset_after_accept"})
    await worker.run_once()

    assert [row["used"] for row in await stores.query("SELECT used FROM paid_messages")] == [1], (
        "it may be out"
    )


async def test_two_attempts_of_one_worker_that_end_together_are_told_apart(stores: Stores) -> None:
    """It was too slow, took the delivery over from itself, and then both calls came back."""
    await stores.send("ada", channels=("email",))
    outbox = Outbox(stores.database, "slow", LEASE)
    [first] = await outbox.claim([Room("email", 1, 4)])
    await due_now(stores)
    [second] = await outbox.claim([Room("email", 1, 4)])

    async with stores.database.transaction() as connection:
        decided = await complete(
            connection,
            [
                Completion(
                    tenant_id=one.tenant_id, id=one.id, attempt=one.attempt, state="sent", outcome="sent"
                )
                for one in (first, second)
            ],
        )

    assert decided == {(second.tenant_id, second.id, 2)}
    rows = await stores.query("SELECT attempt, is_late FROM delivery_attempts ORDER BY attempt")
    assert [tuple(row) for row in rows] == [(1, True), (2, False)]
