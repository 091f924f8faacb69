"""How accounts do, as all workers together see it: a halt stands until it is lifted, a probe is one per interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import ServiceError
from core.identity import ADMIN, Identity
from delivery.accounts_store import Accounts
from delivery.audit_store import Audit
from delivery.breaker import Account
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID

OPERATOR = Identity(tenant_id=TENANT_ID, user_id="root", scopes=ADMIN, kind="service")
SMS = ("sms", "twilio", "AC12")
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


@pytest.fixture
def accounts(stores: Stores) -> Accounts:
    return Accounts(stores.database)


async def test_what_one_worker_has_seen_the_others_know(accounts: Accounts) -> None:
    seen = Account(
        breaker="open",
        failures=5,
        resume_at=NOW,
        opened_at=NOW,
        last_sent_at=NOW,
        last_error_at=NOW,
        last_code="20003",
        last_reason="refused",
    )

    await accounts.record({SMS: seen, ("email", "smtp", "mail.test"): Account()})
    await accounts.record({})

    assert await accounts.load() == {SMS: seen, ("email", "smtp", "mail.test"): Account()}


async def test_a_halt_stands_whatever_others_have_seen_and_a_pause_is_not_cut_short(
    accounts: Accounts,
) -> None:
    await accounts.record({SMS: Account(breaker="halted", opened_at=NOW, resume_at=NOW)})

    later = NOW + timedelta(seconds=1)
    await accounts.record({SMS: Account(last_sent_at=later)})

    known = (await accounts.load())[SMS]
    assert (known.breaker, known.opened_at, known.resume_at, known.last_sent_at) == (
        "halted",
        NOW,
        NOW,
        later,
    )


async def test_the_later_error_is_the_last_one(accounts: Accounts) -> None:
    await accounts.record({SMS: Account(last_error_at=NOW, last_code="late")})

    await accounts.record({SMS: Account(last_error_at=NOW - timedelta(seconds=1), last_code="early")})
    await accounts.record({SMS: Account()})

    known = (await accounts.load())[SMS]
    assert (known.last_error_at, known.last_code) == (NOW, "late")


async def test_of_all_workers_one_takes_the_probe_of_an_interval(stores: Stores, accounts: Accounts) -> None:
    await accounts.record({SMS: Account(breaker="open", failures=5)})

    first = await asyncio.gather(*(accounts.take_probe(*SMS, timedelta(hours=1)) for _ in range(8)))
    await stores.query("UPDATE channel_accounts SET resume_at = now()")
    second = await asyncio.gather(*(accounts.take_probe(*SMS, timedelta(hours=1)) for _ in range(8)))

    assert (sum(first), sum(second)) == (1, 1)


async def test_an_account_that_no_one_has_written_down_yet_is_probed_once_and_a_halted_one_never(
    accounts: Accounts,
) -> None:
    unheard = ("email", "smtp", "mail.test")
    await accounts.record({SMS: Account(breaker="halted")})

    assert [await accounts.take_probe(*unheard, timedelta(hours=1)) for _ in range(2)] == [True, False]
    assert not await accounts.take_probe(*SMS, timedelta(0))


async def test_an_operator_lifts_a_halt_and_it_is_on_record(stores: Stores, accounts: Accounts) -> None:
    await accounts.record({SMS: Account(breaker="halted", failures=3), ("sms", "other", "x"): Account()})

    freed = await accounts.resume(OPERATOR, "sms")

    assert freed == [("twilio", "AC12", "halted")]
    assert (await accounts.load())[SMS] == Account()
    [row] = await Audit(stores.database).list(TENANT_ID)
    assert (row.action, row.subject) == ("channel.resumed", "channel:sms")
    for named in ((None, None), ("twilio", "AC12"), ("nobody", None)):
        with pytest.raises(ServiceError, match="No account"):
            await accounts.resume(OPERATOR, "sms", *named)


async def test_what_waits_is_counted_by_channel_and_the_oldest_that_is_due_is_told(
    stores: Stores, accounts: Accounts
) -> None:
    for _ in range(3):
        await stores.send("ada", channels=("sms", "email"))
    await stores.query(
        "UPDATE notification_deliveries SET due_at = now() + interval '1 hour' WHERE channel = 'email'"
    )

    waiting = await accounts.backlog(TENANT_ID, ["sms", "email", "telegram"])

    assert {name: one.open for name, one in waiting.items()} == {"sms": 3, "email": 3, "telegram": 0}
    assert waiting["sms"].oldest_due_at is not None
    assert waiting["email"].oldest_due_at is None
    assert (await accounts.backlog("hospital", ["sms"]))["sms"].open == 0
    assert await accounts.depth(["sms", "telegram"]) == {"sms": 3, "telegram": 0}
