"""
The promise of the hub as a state machine: whatever is lost, late, out of order, restored or forgotten, every
client is handed every entry in order, once, or is told to begin anew. Naive hubs break it, and are caught.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

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

from core.errors import ServiceError
from core.streams import StreamKey
from hub import frames
from hub.broker import BrokerStats
from hub.envelope import Envelope, Seal
from hub.history import Entry, Heads, Page
from hub.hub import Hub, HubSettings, Lost
from hub.stream import EVERYTHING, LiveStream, Member

KEY = StreamKey("default", "user:anna")
CHANNEL = "s:default/user:anna"
SEAL = Seal(b"k" * 32)
#: Small, so that runs of a few steps leave the ring and need several pages.
PAGE = 3


class Committed(NamedTuple):
    """One entry of the store; the text tells entries of different lives apart."""

    seq: int
    text: str


class Store:
    """A durable stream whose reads take as long as the machine wants."""

    def __init__(self) -> None:
        self.life = 1
        self.head = 0
        self.rows: list[Committed] = []
        self.gates: list[asyncio.Event] = []
        self.slow = False
        self.away = False

    def commit(self) -> Committed:
        self.head += 1
        row = Committed(self.head, f"{self.life}:{self.head}")
        self.rows.append(row)
        return row

    def restore(self, rows: int) -> None:
        """An older copy takes the place of the store."""
        self.life += 1
        self.rows = self.rows[:rows]
        self.head = self.rows[-1].seq if self.rows else 0

    async def heads(self, keys: Sequence[StreamKey]) -> Heads:
        found = Heads(str(self.life), dict.fromkeys(keys, self.head))
        await self._gate()
        return found

    async def changed(self, believed: Sequence[tuple[StreamKey, int]]) -> Heads:
        found = Heads(str(self.life), {key: self.head for key, seq in believed if seq != self.head})
        await self._gate()
        return found

    async def read(self, key: StreamKey, after: int, limit: int = PAGE) -> Page:
        rows = [row for row in self.rows if row.seq > after][:PAGE]
        await self._gate()
        if rows and rows[0].seq != after + 1:
            return Page((), complete=True, broken=True)
        return Page([entry(row) for row in rows], complete=len(rows) < PAGE)

    async def _gate(self) -> None:
        if self.away:
            raise ServiceError("unavailable")
        if self.slow:
            gate = asyncio.Event()
            self.gates.append(gate)
            await gate.wait()


class Wires:
    """A broker that carries only what the machine hands over, to whoever listens then."""

    healthy = True

    def __init__(self) -> None:
        self.stats = BrokerStats()
        self.channels: set[str] = set()

    async def start(self, listener: Any) -> None:
        return

    async def close(self) -> None:
        return

    async def subscribe(self, channel: str) -> None:
        await asyncio.sleep(0)
        self.channels.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        self.channels.discard(channel)

    def publish(self, channel: str, message: bytes) -> None:
        return


class Still:
    """A clock on which nothing happens by itself."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        if seconds:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class Reader:
    """A client that believes the protocol: it notices every hole, repetition and disorder."""

    wire = None

    def __init__(self, world: World, seen: list[Committed]) -> None:
        self.world = world
        self.seen = seen
        self.live = False
        self.lost = False

    @property
    def position(self) -> int:
        return self.seen[-1].seq if self.seen else 0

    def deliver(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            frame = json.loads(payload)
            if (
                frame["seq"] != self.position + 1
            ):  # noted, since callbacks of the loop swallow what they raise
                self.world.violations.append(f"{frame['seq']} came after {self.position}")
            self.seen.append(Committed(frame["seq"], frame["text"]))

    def on_membership(self, kind: str, payload: bytes) -> None:
        return

    def on_resync(self) -> None:
        self.lost = True

    async def drained(self) -> None:
        return


def entry(row: Committed) -> Entry:
    return Entry(KEY, row.seq, "seen", frames.state(KEY, row.seq, "seen", {"text": row.text}))


class World(RuleBasedStateMachine):
    """One node, one stream, some clients, and everything that can go wrong between them."""

    hub_class: ClassVar[type[Hub]] = Hub
    audits: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = Store()
        self.wires = Wires()
        self.in_flight: list[tuple[int, Committed]] = []
        self.readers: list[Reader] = []
        self.gone: list[tuple[int, list[Committed]]] = []
        self.joins: set[asyncio.Task[None]] = set()
        self.violations: list[str] = []

    @initialize(rows=st.integers(0, 8))
    def begin(self, rows: int) -> None:
        for _ in range(rows):
            self.store.commit()
        self.hub = self.run(self.make())

    async def make(self) -> Hub:
        hub = self.hub_class(
            node="b",
            history=self.store,
            broker=self.wires,
            seal=SEAL,
            clock=Still(),
            settings=HubSettings(
                gap_patience=timedelta(0), audit_patience=timedelta(0), audit_interval=timedelta(days=1)
            ),
        )
        await hub.start()
        return hub

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def turns(self, count: int = 30) -> None:
        async def wait() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.run(wait())
        for task in [task for task in self.joins if task.done()]:
            self.joins.discard(task)
            task.result()

    # -- what happens to the store

    @rule(count=st.integers(1, 4))
    def commit(self, count: int) -> None:
        """Committed, and told to the node: not yet, or never."""
        for _ in range(count):
            self.in_flight.append((self.store.life, self.store.commit()))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), turns=st.integers(0, 5))
    def hear(self, data: st.DataObject, turns: int) -> None:
        """The broker hands one publication over, whichever it likes; nobody hears it who does not listen."""
        life, row = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if CHANNEL in self.wires.channels:
            envelope = Envelope(
                origin="a",
                kind="entry",
                tenant_id=KEY.tenant_id,
                name=KEY.name,
                payload=entry(row).payload,
                epoch=str(life),
                seq=row.seq,
                event_kind="seen",
            )
            self.loop.call_soon(self.hub.on_message, CHANNEL, SEAL.close(envelope))
        self.turns(turns)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The broker loses one."""
        self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))

    @rule(slow=st.booleans())
    def set_reads_slow(self, slow: bool) -> None:
        self.store.slow = slow

    @rule(away=st.booleans())
    def set_store_away(self, away: bool) -> None:
        self.store.away = away

    @precondition(lambda self: self.store.gates)
    @rule(data=st.data())
    def let_a_read_return(self, data: st.DataObject) -> None:
        self.store.gates.pop(data.draw(st.integers(0, len(self.store.gates) - 1))).set()
        self.turns()

    @precondition(lambda self: self.store.rows)
    @rule(keep=st.integers(0, 3))
    def retain(self, keep: int) -> None:
        """Retention deletes old entries; the head stays where it is."""
        self.store.rows = self.store.rows[-keep:] if keep else []

    @rule(rows=st.integers(0, 5))
    def restore(self, rows: int) -> None:
        self.store.restore(rows)

    # -- what clients do

    @rule(turns=st.integers(0, 8))
    def connect(self, turns: int) -> None:
        """A new client, from the present head on."""
        self.join(Reader(self, list(self.store.rows[-1:])), turns)

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), turns=st.integers(0, 8))
    def come_back(self, data: st.DataObject, turns: int) -> None:
        life, seen = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        reader = Reader(self, seen)
        reader.lost = str(life) != self.hub.epoch  # as session.py judges a resume
        self.join(reader, turns)

    def join(self, reader: Reader, turns: int) -> None:
        async def enter() -> None:
            if reader.lost:
                return
            life = int(self.hub.epoch)
            try:
                outcome = await self.hub.join(reader, KEY, reader.position, certain=True)
            except ServiceError:  # its connection is closed, resumable
                self.readers.remove(reader)
                self.gone.append((life, reader.seen))
                return
            reader.live = not isinstance(outcome, Lost)
            reader.lost = reader.lost or not reader.live

        if not self.store.rows and self.store.head:
            reader.seen = [Committed(self.store.head, f"{self.store.life}:{self.store.head}")]
        self.readers.append(reader)
        self.joins.add(self.loop.create_task(enter()))
        self.turns(turns)

    @precondition(lambda self: any(reader.live for reader in self.readers))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from([reader for reader in self.readers if reader.live]))
        self.hub.leave(reader, KEY)
        self.readers.remove(reader)
        if not reader.lost:
            self.gone.append((int(self.hub.epoch), reader.seen))

    @rule(turns=st.integers(0, 30))
    def time_passes(self, turns: int) -> None:
        self.turns(turns)

    @invariant()
    def nobody_saw_a_hole_a_repetition_or_disorder(self) -> None:
        assert not self.violations

    @rule()
    def everything_settles(self) -> None:
        """Nothing is on its way any more; then every client has everything, or knows that it has not."""
        self.store.slow = self.store.away = False
        self.turns()
        while self.store.gates:
            self.store.gates.pop().set()
            self.turns()
        for _ in range(3):
            if self.audits:
                self.run(self.hub.audit())
            self.turns(100)
        assert not self.violations
        assert not self.joins, "somebody is still on the way in"
        for reader in self.readers:
            if reader.lost:
                continue
            assert reader.position == self.store.head, "a client lags behind"
            known = {row.seq: row.text for row in self.store.rows}
            for row in reader.seen:
                assert known.get(row.seq, row.text) == row.text, "a client holds what the store does not"
        self.readers = [reader for reader in self.readers if not reader.lost]

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        try:
            self.everything_settles()
        finally:
            self.run(self.hub.close())
            for task in self.joins:
                task.cancel()
            with suppress(asyncio.CancelledError):
                self.turns(3)
            self.loop.close()


class HistoryThenSubscribe(Hub):
    """Reads, and only then listens: what is published in between is missed."""

    async def _open(self, stream: LiveStream) -> None:
        head = await self._head(stream.key)
        stream.open(head)
        await self._listen(CHANNEL)

    async def audit(self) -> None:
        return


class ForwardsEverything(Hub):
    """Hands over whatever comes, as most hubs do."""

    def _take(self, entry: Entry, committed: float) -> None:
        stream = self._streams.get(entry.key)
        if stream is not None:
            for member in stream.members():
                member.deliver([entry.payload])


class NeverAsks(Hub):
    """Believes the broker: no gap is looked into, nothing is compared with the store."""

    async def audit(self) -> None:
        return


class EntersBesideTheRing(Hub):
    """Enters after reading, without the rest that came meanwhile."""

    async def _join(self, stream: LiveStream, member: Member, since: int | None, *_: Any) -> int | Lost:
        if not stream.is_open:
            await self._open(stream)
        page = await self._read(stream.key, since or 0)
        member.deliver([entry.payload for entry in page.entries])
        stream.enter(member, EVERYTHING)
        return stream.flushed


MACHINE = settings(
    max_examples=150,
    stateful_step_count=30,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_every_client_has_everything_in_order_once_or_begins_anew():
    run_state_machine_as_test(World, settings=MACHINE)


@pytest.mark.parametrize("mutant", [HistoryThenSubscribe, ForwardsEverything, NeverAsks, EntersBesideTheRing])
def test_the_machine_catches_a_naive_hub(mutant: type[Hub]):
    class NaiveWorld(World):
        hub_class = mutant

    with pytest.raises(AssertionError):
        run_state_machine_as_test(NaiveWorld, settings=settings(MACHINE, phases=[Phase.generate]))
