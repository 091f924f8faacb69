"""*Old snapshot + events = new snapshot*: whatever happens, a client that listens shows what a fresh one would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.clock import SystemClock
from core.errors import ServiceError
from core.streams import StreamKey, store_name, wire_name
from delivery import inbox as inbox_module
from delivery.draft import Users
from delivery.inbox import Selection
from delivery.jobs import Jobs
from hub.history_postgres import PostgresHistory
from tests.client_model import Client
from tests.postgres import TEMPLATE, PostgresServer
from tests.stores import Stores, open_stores
from tests.submissions import person, service

T = TypeVar("T")

TOPICS = ["iep"]
CHANGES = ["read", "unread", "seen", "archived", "unarchived", "snoozed"]
SOON = timedelta(hours=1)


class World:
    """A database, a loop, and a new tenant for each example."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.runner = asyncio.Runner()
        self._opened = AsyncExitStack()
        self.stores = self.run(self._open(postgres))
        self.jobs = Jobs(self.stores.database, self.stores.heard, SystemClock())
        self.history = PostgresHistory(self.stores.database)
        self._tenants = 0

    async def _open(self, postgres: PostgresServer) -> Stores:
        dsn = await self._opened.enter_async_context(postgres.database(template=TEMPLATE))
        return await self._opened.enter_async_context(open_stores(dsn))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def new_tenant(self) -> str:
        self._tenants += 1
        return f"tenant-{self._tenants}"

    def close(self) -> None:
        self.run(self._opened.aclose())
        self.runner.close()


@pytest.fixture
def world(postgres: PostgresServer) -> Iterator[World]:
    opened = World(postgres)
    yield opened
    opened.close()


class Listening(RuleBasedStateMachine):
    """Ada's device listens while she uses another one, and producers do what they do."""

    world: World

    @initialize()
    def connect(self) -> None:
        self.tenant = self.world.new_tenant()
        self.ada = person("ada", self.tenant)
        self.service = service(tenant_id=self.tenant)
        self.sent: list[UUID] = []
        self.unheard: set[str] = set()  # published while their topic was muted: in the list, never live
        self.muted: set[str] = set()
        self.take_snapshot()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.world.run(work)

    @rule()
    def take_snapshot(self) -> None:
        """What a client does that connects for the first time, or is told `resync`."""
        membership = self.run(self.world.stores.inbox.membership(self.ada))
        self.positions = dict(membership.positions)
        self.client = Client(
            self.run(self.everything()), [wire_name(key.name) for key in self.positions], self.muted
        )

    async def everything(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for state in ("all", "archived", "snoozed"):
            listing = await self.world.stores.inbox.list(
                self.ada, selection=Selection(state=state), limit=500
            )
            assert listing.next_cursor is None
            listed += listing.notifications
        return listed

    def listen(self, own_first: bool) -> None:
        """Read every stream up to its head, one after the other."""
        again = True
        while again:
            again = False
            for wire in sorted(self.client.streams, reverse=own_first):
                again |= self.read(wire)

    def read(self, wire: str) -> bool:
        name = store_name(wire, "ada")
        assert name is not None
        key = StreamKey(self.tenant, name)
        page = self.run(self.world.history.read(key, self.positions.get(key, 0)))
        for entry in page.entries:
            frame = json.loads(entry.payload)
            if frame["type"] in ("followed", "unmuted"):
                self.positions[StreamKey(self.tenant, f"topic:{frame['topic']}")] = frame["joined_seq"]
            if wire in self.client.streams:
                self.client.apply(frame)
            self.positions[key] = entry.seq
        return bool(page.entries)

    @rule(
        audience=st.sampled_from(["ada", "ada", "*", "#iep", "bob", Users.of("ada", "bob")]),
        collapse_key=st.sampled_from([None, None, "k"]),
    )
    def submit(self, audience: Any, collapse_key: str | None) -> None:
        one = self.run(
            self.world.stores.send(audience, self.service, tenant_id=self.tenant, collapse_key=collapse_key)
        )
        self.sent.append(one)
        if isinstance(audience, str) and audience[1:] in self.muted:
            self.unheard.add(str(one))

    def pick(self, data: st.DataObject) -> UUID:
        return data.draw(st.sampled_from(self.sent[-3:]))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), change=st.sampled_from(CHANGES), many=st.integers(1, 3))
    def change(self, data: st.DataObject, change: Any, many: int) -> None:
        ids = [one for one in (self.pick(data) for _ in range(many)) if str(one) not in self.unheard]
        for one in ids:
            try:
                self.run(
                    self.world.stores.inbox.change(
                        self.ada,
                        change,
                        [one],
                        until=datetime.now(UTC) + SOON if change == "snoozed" else None,
                    )
                )
            except ServiceError as error:
                if error.code != "not_found":  # bob's, or of a topic that is not followed
                    raise

    @rule(change=st.sampled_from(CHANGES[:4]), state=st.sampled_from(["all", "unread", "unseen", "read"]))
    def change_where(self, change: Any, state: Any) -> None:
        selection = Selection(state=state, streams=["user", "tenant"])
        self.run(self.world.stores.inbox.change_where(self.ada, change, selection))

    @rule(up_to=st.one_of(st.none(), st.integers(0, 12)))
    def read_all(self, up_to: int | None) -> None:
        positions = None if up_to is None else {"user": up_to, "tenant": up_to // 2}
        self.run(self.world.stores.inbox.read_all(self.ada, positions))

    @rule(
        topic=st.sampled_from(TOPICS), change=st.sampled_from(["followed", "unfollowed", "muted", "unmuted"])
    )
    def change_topic(self, topic: str, change: Any) -> None:
        self.listen(own_first=True)  # what has not arrived when a topic is left does not arrive any more
        followed = {one.topic for one in self.run(self.world.stores.inbox.topics(self.ada))}
        if topic not in followed and change in ("muted", "unmuted"):
            return
        self.run(self.world.stores.inbox.change_topic(self.ada, topic, change))
        if change == "muted":
            self.muted.add(topic)
        elif change != "followed":
            self.muted.discard(topic)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        self.run(self.world.stores.notifications.recall(self.service, self.pick(data)))

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(),
        changes=st.sampled_from([{"title": "Changed"}, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}]),
    )
    def update(self, data: st.DataObject, changes: dict[str, Any]) -> None:
        try:
            self.run(self.world.stores.notifications.update(self.service, self.pick(data), changes))
        except ServiceError as error:
            if error.code != "conflict":  # recalled
                raise

    @rule()
    def snoozes_end(self) -> None:
        self.run(
            self.world.stores.query(
                "UPDATE notification_receipts SET snoozed_until = now()"
                " WHERE tenant_id = $1 AND snoozed_until IS NOT NULL",
                self.tenant,
            )
        )
        self.run(self.world.jobs.wake_snoozed())

    @rule(own_first=st.booleans())
    def compare(self, own_first: bool) -> None:
        self.listen(own_first)
        self.shows_what_a_fresh_snapshot_shows()

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.listen(own_first=True)
            self.shows_what_a_fresh_snapshot_shows()

    def shows_what_a_fresh_snapshot_shows(self) -> None:
        now = datetime.now(UTC)
        fresh = {
            str(one["id"]): (
                one["title"],
                one["stream"],
                one["seq"],
                one["read"],
                one["seen"],
                one["archived"],
            )
            for one in self.run(self.everything())
            if str(one["id"]) not in self.unheard
        }
        shown = {
            item.id: (item.title, item.stream, item.seq, item.read, item.seen, item.archived)
            for item in self.client.items.values()
            if (item.expires_at is None or item.expires_at > now) and item.id not in self.unheard
        }
        assert shown == fresh
        assert self.client.unread(now) == self.run(self.world.stores.inbox.unread_count(self.ada))

    @invariant()
    def counts_what_it_lists(self) -> None:
        if not hasattr(self, "client"):
            return
        muted = {f"topic:{topic}" for topic in self.muted}
        listing = self.run(
            self.world.stores.inbox.list(self.ada, selection=Selection(state="unread"), limit=500)
        )
        assert listing.unread_count == sum(one["stream"] not in muted for one in listing.notifications)


def machine(world: World) -> type[Listening]:
    return type("Listening", (Listening,), {"world": world})


PATIENT = settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
HUNTING = settings(PATIENT, max_examples=300, phases=[Phase.generate], report_multiple_bugs=False)


@pytest.mark.slow
def test_old_snapshot_and_events_are_the_new_snapshot(world: World) -> None:
    run_state_machine_as_test(machine(world), settings=PATIENT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "mutant"),
    [
        # read_all that forgets what a receipt calls unread
        ("read_marked", "SELECT $1::text, $2::text, $3::text[], $4::bigint[]"),
        # reading that leaves a snooze as it is
        ("read", inbox_module.SQL["read"].replace(", snoozed_until = NULL", "")),
    ],
)
def test_a_server_whose_events_say_something_else_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch, query: str, mutant: str
) -> None:
    monkeypatch.setattr(inbox_module, "SQL", {**inbox_module.SQL, query: mutant})

    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(world), settings=HUNTING)
