"""Notifications for many: every person once, whoever dies on the way, and never further ahead than helps."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from core.database import Connection, open_database
from core.errors import ServiceError
from core.identity import ADMIN, Identity
from core.streams import topic_stream
from delivery.audit_store import Audit
from delivery.broadcasts_store import Broadcasts, BroadcastSettings
from tests.postgres import patient
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID

OPERATOR = Identity(tenant_id=TENANT_ID, user_id="root", scopes=ADMIN, kind="service")
ROOT = Path(__file__).parents[2]
STRANGER = Identity(tenant_id="hospital", user_id="root", scopes=ADMIN, kind="service")


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


def broadcasts_of(stores: Stores, **settings: Any) -> Broadcasts:
    return Broadcasts(stores.database, BroadcastSettings(**settings))


async def people(stores: Stores, count: int, *channels: str, tenant_id: str = TENANT_ID) -> None:
    """p00000, p00001, …, each with an address of these channels."""
    await stores.query(
        "INSERT INTO recipients (tenant_id, user_id)"
        " SELECT $1, 'p' || lpad(n::text, 5, '0') FROM generate_series(0, $2::int - 1) n",
        tenant_id,
        count,
    )
    await stores.query(
        "INSERT INTO recipient_addresses (tenant_id, id, user_id, channel, sealed, lookup, hint)"
        " SELECT r.tenant_id, gen_random_uuid(), r.user_id, c, '\\x', substr(sha256(convert_to(r.user_id || c, 'UTF8')), 1, 16), 'x'"
        " FROM recipients r, unnest($2::text[]) c WHERE r.tenant_id = $1",
        tenant_id,
        list(channels),
    )


async def finish(broadcasts: Broadcasts) -> int:
    """Write pages until there is nothing to do; how many turns that took."""
    turns = 0
    while await broadcasts.expand_once():
        turns += 1
    return turns


async def written(stores: Stores, notification_id: UUID) -> list[tuple[str, str]]:
    rows = await stores.query(
        "SELECT user_id, channel FROM notification_deliveries WHERE notification_id = $1 ORDER BY 1, 2",
        notification_id,
    )
    return [(row["user_id"], row["channel"]) for row in rows]


async def test_everyone_with_an_address_is_written_once_for_each_channel(stores: Stores) -> None:
    await people(stores, 7, "email", "sms", "telegram")
    await people(stores, 3, "email", tenant_id="hospital")
    await stores.query("UPDATE recipients SET is_active = false WHERE user_id = 'p00002'")
    await stores.query("DELETE FROM recipient_addresses WHERE user_id = 'p00003' AND channel = 'sms'")
    await stores.query("DELETE FROM recipient_addresses WHERE user_id = 'p00004'")
    sent = await stores.send("*", channels=("email", "sms", "in_app"), priority="high")
    broadcasts = broadcasts_of(stores, page=3)

    turns = await finish(broadcasts)

    both = ["p00000", "p00001", "p00005", "p00006"]
    expected = {(one, channel) for one in both for channel in ("email", "sms")} | {("p00003", "email")}
    assert turns == 3
    assert set(await written(stores, sent)) == expected
    assert len(await written(stores, sent)) == len(expected)
    progress = await broadcasts.progress(TENANT_ID, sent)
    assert (progress.state, progress.people, progress.deliveries) == ("done", 7, 9)
    assert progress.by_state == {"queued": 9}
    assert await stores.query("SELECT DISTINCT lane FROM notification_deliveries") == [(2,)]


async def test_a_topic_reaches_who_follows_it_and_has_not_muted_it(stores: Stores) -> None:
    await people(stores, 4, "email")
    await follow(stores, p00000=False, p00001=True, p00003=False, **{"without-address": False})
    sent = await stores.send("#news", channels=("email",))
    broadcasts = broadcasts_of(stores, page=2)

    await finish(broadcasts)

    assert await written(stores, sent) == [("p00000", "email"), ("p00003", "email")]
    assert (await broadcasts.progress(TENANT_ID, sent)).people == 4


async def follow(stores: Stores, **muted: bool) -> None:
    """These people follow the topic `news`, or have muted it."""
    for user_id, is_muted in muted.items():
        await stores.query(
            "INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq, muted)"
            " VALUES ($1, $2, $3, 0, 0, $4)",
            TENANT_ID,
            user_id,
            topic_stream("news"),
            is_muted,
        )


async def browse(
    stores: Stores,
    *user_ids: str,
    tenant_id: str = TENANT_ID,
    ended: str | None = None,
    expires_in: timedelta | None = None,
) -> None:
    """Each of these people has one browser more."""
    await stores.query(
        "INSERT INTO vapid_keys (id, public_key, private_key, state)"
        " VALUES ('one', decode(repeat('04', 65), 'hex'), '', 'current') ON CONFLICT DO NOTHING"
    )
    for user_id in user_ids:
        await stores.query(
            "INSERT INTO push_subscriptions (tenant_id, id, user_id, endpoint_hash, endpoint, origin, vapid_key_id,"
            " is_active, ended_because, expires_at)"
            " VALUES ($1, gen_random_uuid(), $2, $3, '', 'https://push.example', 'one', $4::text IS NULL, $4,"
            " now() + $5::interval)",
            tenant_id,
            user_id,
            uuid4().bytes,
            ended,
            expires_in,
        )


async def a_browser_of_each_kind(stores: Stores) -> None:
    """People with a browser each: one who is well, and one of each kind that is not pushed to."""
    await browse(stores, "well", "muted", "inactive")
    await browse(stores, "soon", expires_in=timedelta(hours=1))
    await browse(stores, "expired", "known-expired", expires_in=timedelta(hours=-1))
    await browse(stores, "ended", ended="gone")
    await browse(stores, "elsewhere", tenant_id="hospital")
    for user_id in ("inactive", "known-expired", "elsewhere"):
        await stores.query(
            "INSERT INTO recipients (tenant_id, user_id, is_active) VALUES ($1, $2, $3)",
            TENANT_ID,
            user_id,
            user_id != "inactive",
        )


async def test_everyone_with_a_browser_that_can_be_pushed_to_is_written_and_nobody_else(
    stores: Stores,
) -> None:
    await a_browser_of_each_kind(stores)
    sent = await stores.send("*", channels=("push",))
    broadcasts = broadcasts_of(stores, page=3)

    await finish(broadcasts)

    assert await written(stores, sent) == [("muted", "push"), ("soon", "push"), ("well", "push")]
    assert (await broadcasts.progress(TENANT_ID, sent)).people == 6, "three of them known by name alone"


async def test_a_topic_is_pushed_to_browsers_of_who_follows_it(stores: Stores) -> None:
    await a_browser_of_each_kind(stores)
    names = ("well", "muted", "inactive", "ended", "expired", "known-expired", "elsewhere")
    await follow(stores, **{user_id: user_id == "muted" for user_id in names})
    sent = await stores.send("#news", channels=("push",))

    await finish(broadcasts_of(stores, page=2))

    assert await written(stores, sent) == [("well", "push")]


async def test_it_expires_with_its_notification_and_says_so_to_its_deliveries(stores: Stores) -> None:
    await people(stores, 4, "email")
    end = datetime.now(UTC) + timedelta(hours=1)
    sent = await stores.send("*", channels=("email",), expires_at=end)
    broadcasts = broadcasts_of(stores, page=2)
    await broadcasts.expand_once()
    await stores.query("UPDATE notifications SET expires_at = now()")

    await finish(broadcasts)

    assert len(await written(stores, sent)) == 2
    assert (await broadcasts.progress(TENANT_ID, sent)).state == "done"
    assert await stores.query("SELECT DISTINCT expires_at FROM notification_deliveries") == [(end,)]


async def test_broadcasts_take_turns(stores: Stores) -> None:
    await people(stores, 4, "email")
    first, second = [await stores.send("*", channels=("email",)) for _ in range(2)]
    broadcasts = broadcasts_of(stores, page=2)

    await broadcasts.expand_once()
    await broadcasts.expand_once()

    assert len(await written(stores, first)) == len(await written(stores, second)) == 2


async def test_it_waits_while_enough_is_waiting_and_goes_on_when_that_has_gone_out(stores: Stores) -> None:
    await people(stores, 9, "email", "sms")
    sent = await stores.send("*", channels=("email", "sms"))
    broadcasts = broadcasts_of(stores, page=3, ahead=4, hold=timedelta(0))

    await finish(broadcasts)
    held = await written(stores, sent)
    await stores.query(
        "UPDATE notification_deliveries SET state = 'sent', finished_at = now() WHERE channel = 'email'"
    )
    await finish(broadcasts)
    still_held = await written(stores, sent)
    await stores.query("UPDATE notification_deliveries SET state = 'sent', finished_at = now()")
    await finish(broadcasts)

    assert (len(held), len(still_held)) == (12, 12)  # one channel that waits is enough
    assert len(await written(stores, sent)) == 18


async def test_a_held_broadcast_of_one_tenant_does_not_hold_anothers(stores: Stores) -> None:
    await people(stores, 6, "email")
    await people(stores, 2, "email", tenant_id="hospital")
    await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores, page=3, ahead=3)
    await broadcasts.expand_once()
    other = await stores.send("*", channels=("email",), tenant_id="hospital")

    assert await broadcasts.expand_once() == 0
    await finish(broadcasts)

    assert len(await written(stores, other)) == 2


class Stumbling(Broadcasts):
    """Cannot write one of the broadcasts."""

    over: UUID | None = None

    async def _people(self, connection: Connection, row: asyncpg.Record) -> list[asyncpg.Record]:
        if row["notification_id"] == self.over:
            raise RuntimeError("nobody can write this one")
        return await super()._people(connection, row)


async def test_a_broadcast_that_cannot_be_written_does_not_stand_before_the_others(stores: Stores) -> None:
    await people(stores, 2, "email")
    broadcasts = Stumbling(stores.database)
    broadcasts.over = await stores.send("*", channels=("email",))
    other = await stores.send("*", channels=("email",))

    with pytest.raises(RuntimeError):
        await broadcasts.expand_once()
    await broadcasts.expand_once()

    assert len(await written(stores, other)) == 2
    broadcasts.over = None
    await stores.query("UPDATE delivery_broadcasts SET due_at = now() WHERE state = 'running'")
    assert await finish(broadcasts) == 1


async def test_several_workers_at_once_write_everybody_once(stores: Stores) -> None:
    await people(stores, 60, "email")
    sent = [await stores.send("*", channels=("email",)) for _ in range(3)]
    workers = [broadcasts_of(stores, page=7) for _ in range(6)]

    async def work(one: Broadcasts) -> None:
        while True:
            if not await one.expand_once() and all(
                [(await one.progress(TENANT_ID, each)).state == "done" for each in sent]
            ):
                return

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, workers))

    for each in sent:
        assert len(await written(stores, each)) == 60
        progress = await workers[0].progress(TENANT_ID, each)
        assert (progress.people, progress.deliveries) == (60, 60)


_WORKER = """
import asyncio, sys
from core.database import open_database
from delivery.broadcasts_store import Broadcasts, BroadcastSettings
from tests.postgres import patient

async def main():
    database = await open_database(patient(sys.argv[1]))
    broadcasts = Broadcasts(database, BroadcastSettings(page=20))
    print("ready", flush=True)
    for _ in range(100):  # so many pages that it is killed between two of them or within one, and not all
        if not await broadcasts.expand_once():
            return
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_workers_that_are_killed_leave_nobody_out_and_nobody_twice(
    stores: Stores, database: str
) -> None:
    await people(stores, 3000, "email")
    sent = await stores.send("*", channels=("email",))
    killed_in_the_middle = 0

    for _ in range(6):
        before = len(await written(stores, sent))
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WORKER, database, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        await worker.stdout.readline()
        while len(await written(stores, sent)) == before and worker.returncode is None:
            await asyncio.sleep(0)  # another process: there is no event to await
        if worker.returncode is None:
            worker.send_signal(signal.SIGKILL)
        await worker.wait()
        killed_in_the_middle += 0 < len(await written(stores, sent)) < 3000

    broadcasts = broadcasts_of(stores)
    async with asyncio.timeout(60):
        while (await broadcasts.progress(TENANT_ID, sent)).state != "done":
            await broadcasts.expand_once()

    found = await written(stores, sent)
    assert killed_in_the_middle
    assert len(found) == len(set(found)) == 3000
    progress = await broadcasts.progress(TENANT_ID, sent)
    assert (progress.people, progress.deliveries) == (3000, 3000)


async def test_a_page_written_again_doubles_nothing(stores: Stores) -> None:
    await people(stores, 4, "email")
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores, page=2)
    await broadcasts.expand_once()
    await stores.query("UPDATE delivery_broadcasts SET position = ''")

    await finish(broadcasts)

    assert len(await written(stores, sent)) == 4
    assert (await broadcasts.progress(TENANT_ID, sent)).deliveries == 4


async def test_paused_is_not_written_and_resumed_goes_on_where_it_was(stores: Stores) -> None:
    await people(stores, 4, "email")
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores, page=2)
    await broadcasts.expand_once()

    paused = await broadcasts.pause(OPERATOR, sent)
    again = await broadcasts.pause(OPERATOR, sent)
    assert (paused.state, again.state) == ("paused", "paused")
    assert await broadcasts.expand_once() == 0
    assert (await broadcasts.resume(OPERATOR, sent)).state == "running"
    await finish(broadcasts)

    assert len(await written(stores, sent)) == 4
    for steer in (broadcasts.pause, broadcasts.resume):
        with pytest.raises(ServiceError, match="is done"):
            await steer(OPERATOR, sent)


async def test_cancelled_is_written_no_further_and_what_waits_does_not_go_out(stores: Stores) -> None:
    await people(stores, 6, "email")
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores, page=3)
    await broadcasts.expand_once()
    await stores.query(
        "UPDATE notification_deliveries SET state = 'sent', finished_at = now() WHERE user_id = 'p00000'"
    )

    cancelled = await broadcasts.cancel(OPERATOR, sent)

    assert cancelled.state == "cancelled"
    assert cancelled.by_state == {"sent": 1, "cancelled": 2}
    assert await broadcasts.expand_once() == 0
    audit = Audit(stores.database)
    assert [row.action for row in await audit.list(TENANT_ID)] == ["broadcast.cancelled"]
    assert await audit.verify(TENANT_ID) is None


async def test_what_was_written_to_its_end_can_be_cancelled_too(stores: Stores) -> None:
    await people(stores, 3, "email")
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores)
    await finish(broadcasts)

    assert (await broadcasts.cancel(OPERATOR, sent)).by_state == {"cancelled": 3}
    assert (await broadcasts.cancel(OPERATOR, sent)).state == "cancelled"


async def test_recalling_the_notification_ends_its_broadcast(stores: Stores) -> None:
    await people(stores, 4, "email")
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores, page=2)
    await broadcasts.expand_once()

    await stores.notifications.recall(OPERATOR, sent)
    await finish(broadcasts)

    progress = await broadcasts.progress(TENANT_ID, sent)
    assert (progress.state, progress.by_state) == ("cancelled", {"cancelled": 2})


async def test_a_recall_that_the_page_overtook_still_stops_it(stores: Stores) -> None:
    await people(stores, 4, "email")
    sent = await stores.send("*", channels=("email",))
    await stores.query("UPDATE notifications SET status = 'recalled'")
    broadcasts = broadcasts_of(stores, page=2)

    await finish(broadcasts)

    assert await written(stores, sent) == []
    assert (await broadcasts.progress(TENANT_ID, sent)).state == "cancelled"


async def test_another_tenants_broadcast_is_not_there(stores: Stores) -> None:
    sent = await stores.send("*", channels=("email",))
    broadcasts = broadcasts_of(stores)

    for steer in (broadcasts.pause, broadcasts.resume, broadcasts.cancel):
        with pytest.raises(ServiceError, match="no such broadcast"):
            await steer(STRANGER, sent)
    with pytest.raises(ServiceError, match="no such broadcast"):
        await broadcasts.progress(TENANT_ID, uuid4())
    assert (await broadcasts.list("hospital")).broadcasts == []


async def test_the_list_goes_back_page_by_page(stores: Stores) -> None:
    sent = sorted([await stores.send("*", channels=("email",)) for _ in range(3)])
    broadcasts = broadcasts_of(stores)

    first = await broadcasts.list(TENANT_ID, limit=2)
    assert first.next_cursor == sent[1]
    second = await broadcasts.list(TENANT_ID, cursor=first.next_cursor, limit=2)

    assert {one.notification_id for one in first.broadcasts} == {*sent[1:]}
    assert [one.notification_id for one in second.broadcasts] == [sent[0]]
    assert second.next_cursor is None


async def test_without_broadcasts_there_is_nothing_to_do(database: str) -> None:
    opened = await open_database(patient(database))
    try:
        assert await Broadcasts(opened).expand_once() == 0
    finally:
        await opened.close()


async def test_everybody_with_a_browser_is_pushed_to_whether_they_have_addresses_or_not(
    stores: Stores,
) -> None:
    await people(stores, 3, "email")
    await stores.query("UPDATE recipients SET is_active = false WHERE user_id = 'p00002'")
    await browse(stores, "a-browser-only", "p00001", "p00001", "p00002", "z-browser-only")
    await browse(stores, "gone", ended="gone")
    sent = await stores.send("*", channels=("push", "email"))
    mail = await stores.send("*", channels=("email",))

    await finish(broadcasts_of(stores, page=2))

    assert await written(stores, sent) == [
        ("a-browser-only", "push"),
        ("p00000", "email"),
        ("p00001", "email"),
        ("p00001", "push"),
        ("z-browser-only", "push"),
    ]
    assert await written(stores, mail) == [("p00000", "email"), ("p00001", "email")]


async def test_at_a_time_of_each_persons_clock_each_delivery_is_due_then_and_holds_nobody_up(
    stores: Stores,
) -> None:
    await people(stores, 3, "email")
    await stores.query("UPDATE recipients SET timezone = 'Asia/Tokyo' WHERE user_id = 'p00000'")
    await stores.query("UPDATE recipients SET timezone = 'America/New_York' WHERE user_id = 'p00001'")
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).replace(hour=9, minute=0, second=0, microsecond=0)
    sent = await stores.send("*", channels=("email",), local_time=tomorrow.replace(tzinfo=None))
    broadcasts = broadcasts_of(stores, page=1, ahead=1, timezone="Africa/Kigali")

    assert await finish(broadcasts) == 4, "waiting for their clocks, they do not count as ahead"

    rows = await stores.query(
        "SELECT user_id, due_at, queued_at FROM notification_deliveries WHERE notification_id = $1 ORDER BY 1",
        sent,
    )
    kigali, tokyo = tomorrow - timedelta(hours=2), tomorrow - timedelta(hours=9)
    assert [row["due_at"] for row in rows if row["user_id"] != "p00001"] == [tokyo, kigali]
    assert rows[1]["due_at"] > tomorrow
    assert all(row["queued_at"] == row["due_at"] for row in rows), "only then does it begin to wait"
    ordinary = await stores.send("*", channels=("email",))
    assert await broadcasts.expand_once() == 1
    assert len(await written(stores, ordinary)) == 1
