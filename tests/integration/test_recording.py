"""Completions that are written twice, or that the database does not take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from core.clock import SystemClock
from core.outcome import Outcome, Sent
from delivery.channel import Message
from delivery.draft import Users
from delivery.outbox import Completion, Outbox, Room, complete
from delivery.receipts import Receipt
from delivery.receipts_store import Receipts
from tests.integration.test_worker_faults import Told, becomes, ways
from tests.stores import Stores, open_stores
from tests.workers import a_worker, introduce, working


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, "ada", "bob", channels=("email",))
        yield opened


async def completion(stores: Stores, state: str, outcome: str, wait: timedelta | None) -> Completion:
    """Of the one delivery, which is claimed."""
    await stores.send("ada", channels=("email",))
    [claimed] = await Outbox(stores.database, "w1", timedelta(seconds=15)).claim([Room("email", 1, 4)])
    return Completion(
        tenant_id=claimed.tenant_id,
        id=claimed.id,
        attempt=claimed.attempt,
        state=state,
        outcome=outcome,
        wait=wait,
        provider="told",
        provider_ref="ref-1" if outcome == "sent" else None,
    )


async def decided(stores: Stores, written: Completion) -> bool:
    """Write it; whether it decided."""
    async with stores.database.transaction() as connection:
        return bool(await complete(connection, [written]))


@pytest.mark.parametrize(
    ("state", "outcome", "wait"),
    [("sent", "sent", None), ("failed", "fail", None), ("queued", "retry", timedelta(seconds=30))],
)
async def test_what_is_written_again_because_the_answer_was_lost_decides_once(
    stores: Stores, state: str, outcome: str, wait: timedelta | None
) -> None:
    written = await completion(stores, state, outcome, wait)

    assert [await decided(stores, written) for _ in range(2)] == [True, False]

    [attempt] = await stores.query("SELECT outcome, is_late FROM delivery_attempts")
    assert tuple(attempt) == (outcome, False)


async def test_a_completion_behind_a_report_of_the_same_state_decides_nothing(stores: Stores) -> None:
    """Else the tenant's webhooks would be told twice."""
    written = await completion(stores, "sent", "sent", None)
    report = Receipt(
        provider="told", event_id="1", status="sent", state="sent", delivery=(written.tenant_id, written.id)
    )
    await Receipts(stores.database, SystemClock(), {}).record([report])

    assert not await decided(stores, written)


class Odd(Told):
    """Calls the first person's message by a name that no database takes."""

    reference = ""

    async def send(self, message: Message) -> Outcome:
        taken = await super().send(message)
        return Sent(provider_ref=self.reference) if message.recipient_id == "ada" else taken


@pytest.mark.parametrize("reference", ["nul \0", "half a pair \ud800"])
async def test_what_a_provider_says_that_cannot_be_stored_does_not_make_it_sent_again(
    stores: Stores, reference: str
) -> None:
    provider = Odd()
    provider.reference = reference
    await stores.send(Users.of("ada", "bob"), channels=("email",))

    async with working(a_worker(stores.database, ways(provider))):
        await becomes(stores, "SELECT FROM notification_deliveries HAVING count(sent_at) = 2")

    rows = await stores.query(
        "SELECT user_id, state, provider_ref IS NULL, reason FROM notification_deliveries"
    )
    assert sorted(tuple(row) for row in rows) == [
        ("ada", "sent", True, "what the provider said cannot be stored"),
        ("bob", "sent", False, None),
    ]
