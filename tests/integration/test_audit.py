"""The audit log: one chain per tenant, and whatever is done to it behind its back is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from core.errors import ServiceError
from core.identity import Identity
from delivery import audit_store
from delivery.audit_store import Audit, Entry, Head, Row, actor_of
from tests.stores import Stores, open_stores

SCHOOL, HOSPITAL = "school", "hospital"


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


@pytest.fixture
def audit(stores: Stores) -> Audit:
    return Audit(stores.database)


async def write(stores: Stores, count: int, tenant_id: str = SCHOOL) -> None:
    """So many rows, each in a transaction of its own."""
    for number in range(count):
        async with stores.database.transaction() as connection:
            await audit_store.append(
                connection, tenant_id, "person:ada", "opt_out.added", "recipient:ada", {"number": number}
            )


async def behind_its_back(stores: Stores, *statements: str) -> None:
    """As a superuser who has switched the trigger off."""
    async with stores.database.transaction() as connection:
        await connection.execute("ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only")
        for statement in statements:
            assert (await connection.execute(statement)).split()[-1] != "0"
        await connection.execute("ALTER TABLE audit_log ENABLE TRIGGER audit_log_is_append_only")


async def test_what_was_written_verifies_and_is_listed_newest_first(stores: Stores, audit: Audit) -> None:
    await write(stores, 5)
    await write(stores, 2, HOSPITAL)

    assert await audit.tenants() == [HOSPITAL, SCHOOL]
    assert await audit.verify(SCHOOL) is None
    assert await audit.verify(HOSPITAL) is None
    assert [row.seq for row in await audit.list(SCHOOL, limit=2)] == [5, 4]
    assert [row.seq for row in await audit.list(SCHOOL, before=4, subject="recipient:ada")] == [3, 2, 1]
    assert await audit.list(SCHOOL, subject="recipient:bob") == []


async def test_a_chain_longer_than_a_page_is_verified_to_its_end(
    stores: Stores, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_store, "_PAGE", 3)
    await write(stores, 10)

    assert await audit.verify(SCHOOL) is None
    await behind_its_back(stores, "UPDATE audit_log SET actor = 'person:bob' WHERE seq = 8")
    assert await audit.verify(SCHOOL) == 8


async def test_a_tenant_without_a_chain_verifies(audit: Audit) -> None:
    assert await audit.verify(SCHOOL) is None
    assert await audit.tenants() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'person:bob' WHERE seq = 3",
        "UPDATE audit_log SET action = 'opt_out.lifted' WHERE seq = 3",
        "UPDATE audit_log SET subject = 'recipient:bob' WHERE seq = 3",
        "UPDATE audit_log SET at = at - interval '1 microsecond' WHERE seq = 3",
        "UPDATE audit_log SET details = '{\"number\":7}' WHERE seq = 3",
        "UPDATE audit_log SET notification_id = gen_random_uuid() WHERE seq = 3",
        "UPDATE audit_log SET hash = sha256(hash) WHERE seq = 3",
        "DELETE FROM audit_log WHERE seq = 3",
    ],
)
async def test_a_row_that_was_changed_or_taken_out_is_found(
    stores: Stores, audit: Audit, statement: str
) -> None:
    await write(stores, 5)

    await behind_its_back(stores, statement)

    assert await audit.verify(SCHOOL) == 3


async def test_rows_in_another_order_are_found(stores: Stores, audit: Audit) -> None:
    await write(stores, 5)

    await behind_its_back(
        stores,
        "UPDATE audit_log SET seq = 100 WHERE seq = 2",
        "UPDATE audit_log SET seq = 2 WHERE seq = 4",
        "UPDATE audit_log SET seq = 4 WHERE seq = 100",
    )

    assert await audit.verify(SCHOOL) == 2


@pytest.mark.parametrize(
    ("seq", "last", "found"),
    [("3", "seq > 3", 3), ("6", "false", 6)],  # in the middle, behind the end
)
async def test_a_row_that_was_put_in_is_found(
    stores: Stores, audit: Audit, seq: str, last: str, found: int
) -> None:
    await write(stores, 5)
    copied = f"SELECT tenant_id, {seq}, at, actor, action, subject, notification_id, details, hash"
    moves = (
        [] if last == "false" else [f"UPDATE audit_log SET seq = seq + 1 WHERE seq = {n}" for n in (5, 4, 3)]
    )

    await behind_its_back(stores, *moves, f"INSERT INTO audit_log {copied} FROM audit_log WHERE seq = 2")

    assert await audit.verify(SCHOOL) == found


async def test_a_row_of_another_tenant_is_not_taken_for_this_ones(stores: Stores, audit: Audit) -> None:
    await write(stores, 1)
    await write(stores, 1, HOSPITAL)

    await behind_its_back(
        stores,
        "DELETE FROM audit_log WHERE tenant_id = 'school'",
        "UPDATE audit_log SET tenant_id = 'school' WHERE tenant_id = 'hospital'",
        "UPDATE audit_heads SET hash = (SELECT hash FROM audit_log) WHERE tenant_id = 'school'",
    )

    assert await audit.verify(SCHOOL) == 1


async def test_an_end_that_was_cut_off_is_found(stores: Stores, audit: Audit) -> None:
    await write(stores, 5)

    await behind_its_back(stores, "DELETE FROM audit_log WHERE seq > 3")

    assert await audit.verify(SCHOOL) == 4


async def test_an_end_that_was_cut_off_with_its_head_is_found_by_a_head_kept_elsewhere(
    stores: Stores, audit: Audit
) -> None:
    await write(stores, 5)
    kept = Head.read(str(await audit.head(SCHOOL)))

    await behind_its_back(
        stores,
        "DELETE FROM audit_log WHERE seq > 3",
        "UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit_log WHERE seq = 3)",
    )

    assert await audit.verify(SCHOOL) is None
    assert await audit.verify(SCHOOL, kept) == 4
    await write(stores, 2)
    assert await audit.verify(SCHOOL) is None
    assert await audit.verify(SCHOOL, kept) == 5


async def forge(stores: Stores, *statements: str, after: int = 0, up_to: int = 2**53) -> None:
    """Behind its back, by somebody who knows how the hashes are made: of these rows they are right again."""
    await behind_its_back(stores, *statements)
    rows = await stores.query("SELECT * FROM audit_log WHERE tenant_id = $1 ORDER BY seq", SCHOOL)
    last, hashes = b"", []
    for record in rows:
        row = Row(**{name: record[name] for name in Row.__dataclass_fields__})
        last = audit_store.digest(last, SCHOOL, row) if after < row.seq <= up_to else row.hash
        hashes.append(f"UPDATE audit_log SET hash = '\\x{last.hex()}' WHERE seq = {row.seq}")
    await behind_its_back(stores, *hashes)


async def test_a_row_that_was_changed_with_its_hash_is_found_by_the_next_one(
    stores: Stores, audit: Audit
) -> None:
    await write(stores, 5)

    await forge(stores, "UPDATE audit_log SET actor = 'person:bob' WHERE seq = 3", after=2, up_to=3)

    assert await audit.verify(SCHOOL) == 4


async def test_hashes_that_were_all_made_anew_are_found_by_the_head(stores: Stores, audit: Audit) -> None:
    await write(stores, 5)

    await forge(stores, "UPDATE audit_log SET actor = 'person:bob' WHERE seq = 3")

    assert await audit.verify(SCHOOL) == 5


async def test_a_gap_is_found_also_where_all_hashes_and_the_head_are_right(
    stores: Stores, audit: Audit
) -> None:
    await write(stores, 5)

    await forge(stores, "DELETE FROM audit_log WHERE seq = 3")
    await behind_its_back(stores, "UPDATE audit_heads SET hash = (SELECT hash FROM audit_log WHERE seq = 5)")

    assert await audit.verify(SCHOOL) == 3


async def test_a_head_that_is_gone_is_found(stores: Stores, audit: Audit) -> None:
    await write(stores, 2)

    await behind_its_back(stores, "DELETE FROM audit_heads")

    assert await audit.tenants() == [SCHOOL]
    assert await audit.verify(SCHOOL) == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'bob'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_the_log_refuses_everything_but_a_new_row(stores: Stores, statement: str) -> None:
    await write(stores, 1)

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stores.query(statement)


async def test_a_row_stands_exactly_when_what_it_tells_of_does(stores: Stores, audit: Audit) -> None:
    with pytest.raises(ServiceError):
        async with stores.database.transaction() as connection:
            await audit_store.append(connection, SCHOOL, "worker", "delivery.failed", "delivery:1", {})
            raise ServiceError("conflict")
    await write(stores, 1)

    assert [row.seq for row in await audit.list(SCHOOL)] == [1]
    assert await audit.verify(SCHOOL) is None


async def test_many_who_append_at_once_make_one_chain_in_the_order_of_their_times(
    stores: Stores, audit: Audit
) -> None:
    async def several(number: int) -> None:
        about: dict[str, Any] = {"actor": "worker", "action": "x", "subject": f"delivery:{number}"}
        order = [SCHOOL, HOSPITAL, SCHOOL] if number % 2 else [HOSPITAL, SCHOOL, SCHOOL]
        async with stores.database.transaction() as connection:
            await audit_store.append_many(
                connection, [Entry(tenant_id=tenant_id, **about) for tenant_id in order]
            )

    await asyncio.gather(*(several(number) for number in range(40)))

    rows = await audit.list(SCHOOL, limit=1000)
    assert [row.seq for row in rows] == list(range(80, 0, -1))
    assert [row.at for row in rows] == sorted((row.at for row in rows), reverse=True)
    assert len(await audit.list(HOSPITAL, limit=1000)) == 40
    assert await audit.verify(SCHOOL) is None
    assert await audit.verify(HOSPITAL) is None


def test_a_person_and_a_program_are_told_apart() -> None:
    assert actor_of(Identity(tenant_id=SCHOOL, user_id="ada")) == "person:ada"
    key = Identity.of_api_key("00ff", tenant_id=SCHOOL, scopes=["admin"], created_at=0)
    assert actor_of(key) == "api_key:00ff"
