"""The ring of VAPID keys on a real PostgreSQL: one first key, rotation, retirement, and what races do to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from core.database import Database, open_database
from core.errors import ServiceError
from core.vault import SealBroken, Vault
from push.keys import VapidKey, new_key, private_text
from push.keys_store import FRESH, KeyRing
from tests.postgres import patient

VAULT = Vault({"test": b"v" * 32})


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 31, 9, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.pass_(timedelta(seconds=seconds))

    def pass_(self, time: timedelta) -> None:
        self._now += time


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    pool = await open_database(patient(database))
    yield pool
    await pool.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def ring(opened: Database, clock: SetClock) -> KeyRing:
    made = KeyRing(opened, VAULT, clock)
    await made.load()
    return made


async def query(database: Database, text: str, *arguments: Any) -> list[Any]:
    async with database.connection() as connection:
        return list(await connection.fetch(text, *arguments))


async def subscribe(database: Database, key: VapidKey, count: int, tenant_id: str = "school") -> None:
    """Browsers that have subscribed with a key."""
    await query(
        database,
        """
        INSERT INTO push_subscriptions (tenant_id, id, user_id, endpoint_hash, endpoint, origin, vapid_key_id)
        SELECT $1, md5($2 || n::text)::uuid, 'ada', decode(md5($1 || $2 || n::text), 'hex'), '', 'https://push.example', $2
        FROM generate_series(1, $3::int) AS n
        """,
        tenant_id,
        key.id,
        count,
    )


async def states(database: Database) -> dict[str, str]:
    return {row["id"]: row["state"] for row in await query(database, "SELECT id, state FROM vapid_keys")}


# --- the first key ---------------------------------------------------------------------------------------------------


async def test_a_first_start_makes_a_key_and_later_ones_find_it(opened: Database, ring: KeyRing) -> None:
    again = KeyRing(opened, VAULT, SetClock())

    await again.load()

    assert again.current == ring.current
    assert private_text(again.current) == private_text(ring.current)
    assert ring.get(ring.current.id) is ring.current
    assert await states(opened) == {ring.current.id: "current"}


async def test_nodes_that_start_together_make_one_key(database: str, clock: SetClock) -> None:
    pools = [await open_database(patient(database, connections=2)) for _ in range(4)]
    rings = [KeyRing(pool, VAULT, clock) for pool in pools for _ in range(4)]

    await asyncio.gather(*(one.load() for one in rings))

    assert len({one.current for one in rings}) == 1
    assert len(await states(pools[0])) == 1
    for pool in pools:
        await pool.close()


async def test_the_private_key_is_sealed_at_rest(opened: Database, ring: KeyRing) -> None:
    (row,) = await query(opened, "SELECT * FROM vapid_keys")

    number = ring.current.private_key.private_numbers().private_value.to_bytes(32)
    assert row["public_key"] == ring.current.public_key
    assert number not in row["private_key"]
    assert private_text(ring.current).encode() not in row["private_key"]
    assert VAULT.open(row["private_key"], "vapid-key", ring.current.id) == private_text(ring.current)


async def test_there_is_never_a_second_current_key_whoever_writes(opened: Database, ring: KeyRing) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await query(
            opened,
            "INSERT INTO vapid_keys (id, public_key, private_key, state) VALUES ('x', $1, '', 'current')",
            new_key().public_key,
        )


# --- a key from outside ----------------------------------------------------------------------------------------------


async def test_a_key_from_outside_becomes_current_and_the_one_before_goes_on_sending(
    opened: Database, ring: KeyRing
) -> None:
    before, given = ring.current, new_key()

    await ring.adopt(given)

    assert ring.current == given
    assert ring.get(before.id) == before
    assert await states(opened) == {before.id: "sending", given.id: "current"}


async def test_a_key_from_outside_needs_none_of_our_own(opened: Database, clock: SetClock) -> None:
    given = new_key()
    ring = KeyRing(opened, VAULT, clock)

    await ring.adopt(given)
    await ring.adopt(given)

    assert await states(opened) == {given.id: "current"}


async def test_nodes_that_adopt_the_same_key_together_write_it_once(
    opened: Database, clock: SetClock
) -> None:
    given = new_key()
    rings = [KeyRing(opened, VAULT, clock) for _ in range(6)]

    await asyncio.gather(*(one.adopt(given) for one in rings), *(one.load() for one in rings))

    found = await states(opened)
    assert found.pop(given.id) == "current"
    assert set(found.values()) <= {"sending"}  # a load that came first has made one
    assert len(found) <= 1


async def test_a_key_that_sends_can_be_put_back(opened: Database, ring: KeyRing) -> None:
    first = ring.current
    second = await ring.rotate()

    await ring.adopt(first)

    assert await states(opened) == {first.id: "current", second.id: "sending"}


async def test_a_retired_key_is_not_taken_from_outside_again(ring: KeyRing) -> None:
    first = ring.current
    second = await ring.rotate()
    await ring.retire(first.id)

    with pytest.raises(ServiceError, match="was retired") as caught:
        await ring.adopt(first)

    assert caught.value.code == "conflict"
    assert ring.current == second


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_after_a_rotation_old_subscriptions_are_sent_to_with_their_key(
    opened: Database, ring: KeyRing
) -> None:
    old = ring.current
    await subscribe(opened, old, 3)

    new = await ring.rotate()

    assert ring.current == new != old
    assert ring.get(old.id) == old
    active = await query(opened, "SELECT is_active FROM push_subscriptions")
    assert [row["is_active"] for row in active] == [True] * 3


async def test_other_processes_see_a_rotation_within_half_a_minute(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    other = KeyRing(opened, VAULT, clock)
    await other.load()
    new = await ring.rotate()

    await other.refresh()
    assert other.current != new

    clock.pass_(FRESH)
    await other.refresh()
    assert other.current == new


async def test_a_key_that_another_process_has_just_made_is_found(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    other = KeyRing(opened, VAULT, clock)
    await other.load()
    new = await ring.rotate()
    clock.pass_(timedelta(seconds=2))

    assert other.get(new.id) is None
    assert await other.find(new.id) == new


async def test_a_key_that_is_not_there_is_asked_for_once_a_second(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    clock.pass_(timedelta(seconds=2))
    assert await ring.find("nothing") is None
    await query(opened, "ALTER TABLE vapid_keys RENAME TO away")

    assert await ring.find("nothing") is None  # not asked

    clock.pass_(timedelta(seconds=1))
    with pytest.raises(asyncpg.UndefinedTableError):
        await ring.find("nothing")


async def test_many_who_ask_at_once_for_what_is_not_there_read_once(
    opened: Database, ring: KeyRing, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    load = ring.load

    async def counted() -> None:
        nonlocal reads
        reads += 1
        await load()

    monkeypatch.setattr(ring, "load", counted)
    clock.pass_(FRESH)

    found = await asyncio.gather(*(ring.find("nothing") for _ in range(50)), ring.refresh())

    assert set(found) == {None}
    assert reads == 1


async def test_rotations_at_the_same_time_leave_one_current_key(opened: Database, clock: SetClock) -> None:
    rings = [KeyRing(opened, VAULT, clock) for _ in range(5)]

    made = await asyncio.gather(*(one.rotate() for one in rings))

    found = await states(opened)
    assert len({key.id for key in made}) == 5
    assert sorted(found.values()) == ["current"] + ["sending"] * 4


# --- retirement ------------------------------------------------------------------------------------------------------


async def test_a_retired_key_signs_nothing_and_its_subscriptions_end(opened: Database, ring: KeyRing) -> None:
    old = ring.current
    await subscribe(opened, old, 5000, "school")
    await subscribe(opened, old, 7, "hospital")
    new = await ring.rotate()
    await subscribe(opened, new, 3)

    ended = await ring.retire(old.id)

    assert ended == 5007
    assert ring.get(old.id) is None
    rows = await query(
        opened,
        "SELECT vapid_key_id, is_active, ended_because, count(*) FROM push_subscriptions GROUP BY 1, 2, 3",
    )
    assert {tuple(row) for row in rows} == {
        (old.id, False, "key_retired", 5007),
        (new.id, True, None, 3),
    }


async def test_the_private_half_of_a_retired_key_is_forgotten(opened: Database, ring: KeyRing) -> None:
    old = ring.current
    await ring.rotate()

    await ring.retire(old.id)

    (row,) = await query(opened, "SELECT * FROM vapid_keys WHERE id = $1", old.id)
    assert row["private_key"] == b""
    assert row["retired_at"] is not None
    assert [key.state for key in await ring.all()].count("retired") == 1


async def test_the_current_key_and_one_that_is_not_there_cannot_be_retired(ring: KeyRing) -> None:
    with pytest.raises(ServiceError) as current:
        await ring.retire(ring.current.id)
    with pytest.raises(ServiceError) as unknown:
        await ring.retire("nothing")

    assert (current.value.code, unknown.value.code) == ("conflict", "not_found")


async def test_a_retirement_that_was_interrupted_is_carried_on(opened: Database, ring: KeyRing) -> None:
    old = ring.current
    await ring.rotate()
    await ring.retire(old.id)
    await subscribe(opened, old, 4)  # as if the first had not come so far

    assert await ring.retire(old.id) == 4
    assert await ring.retire(old.id) == 0


async def test_every_key_is_shown_with_the_browsers_that_it_reaches(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    old = ring.current
    await subscribe(opened, old, 4)
    clock.pass_(timedelta(days=1))
    new = await ring.rotate()

    shown = await ring.all()

    assert [(key.id, key.state, key.subscriptions) for key in shown] == [
        (new.id, "current", 0),
        (old.id, "sending", 4),
    ]
    assert private_text(old) not in repr(shown)


# --- encryption keys that are gone -----------------------------------------------------------------------------------


async def test_a_current_key_that_does_not_open_stops_the_start_and_a_rotation_mends_it(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    old = ring.current
    other = KeyRing(opened, Vault({"other": b"o" * 32}), clock)

    with pytest.raises(SealBroken, match=f"{old.id} is sealed with a key that is not here"):
        await other.load()

    new = await other.rotate()
    assert other.current == new
    assert other.get(old.id) is None
    assert await other.retire(old.id) == 0


async def test_a_sealed_key_in_another_keys_place_does_not_open(
    opened: Database, ring: KeyRing, clock: SetClock
) -> None:
    sealed = VAULT.seal(private_text(new_key()), "vapid-key", ring.current.id)
    await query(opened, "UPDATE vapid_keys SET private_key = $1", sealed)

    with pytest.raises(SealBroken, match="another than its name says"):
        await KeyRing(opened, VAULT, clock).load()
