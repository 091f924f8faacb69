"""
Every browser that a push was accepted for gets it, or a record says why not, while sender processes are killed and
frozen and the push service fails; a repetition has a try behind it of which nobody knew the end, each time, and takes
the place of the first. And the checker that says so is one that can say otherwise.

CARILLON_CHAOS_PUSHES says how many notifications, each for three browsers; CARILLON_CHAOS_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest

from core.keys import encode_base64url
from push.keys import VapidKey, new_key, private_text
from tests.acceptance.chaos.push_checker import Delivery, Pair, Row, Verdict, Witness, judge
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import Node, nodes, token
from tests.providers.push_service import Device, Fault, PushService, Reset, Say, Silence
from tests.workers import settled

NOTIFICATIONS = int(os.environ.get("CARILLON_CHAOS_PUSHES", "300"))
SEED = int(os.environ.get("CARILLON_CHAOS_SEED", random.randrange(10**6)))

SENDERS = 3
PEOPLE = 20
BROWSERS = 3  # of each
PER_SECOND = 40  # notifications
KILL_EVERY_S = 1.2
LEASE = timedelta(seconds=5)

#: What goes wrong with a request, and in how many of a hundred.
FAULTS = {
    "503": 4,
    "429": 1,
    "reset before it is taken": 3,
    "reset after it is taken": 3,
    "silence after it is taken": 2,
}

HASTY = {
    "DELIVERY_LEASE": str(LEASE.total_seconds()),
    "DELIVERY_PROVIDER_TIMEOUT": "2.5",
    "DELIVERY_ATTEMPTS": "30",
    "DELIVERY_RETRY_BASE": "0.5",
    "DELIVERY_RETRY_CAP": "1",
    "PUSH_CONNECT_TIMEOUT": "1",
    "PUSH_QUEUE": "0.5",
    "PUSH_TIMEOUT": "1.5",
}


@dataclass(slots=True)
class Trouble:
    """Makes a push service fail, and remembers which answers were lost on the way. share: of FAULTS."""

    service: PushService
    share: float = 1.0
    done: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[str, int]] = field(default_factory=list)  # browser, and which of its pushes
    random: random.Random = field(default_factory=lambda: random.Random(SEED))

    def fault(self, browser: str) -> Fault | None:
        drawn = self.random.random() * 100
        for name, percent in FAULTS.items():
            drawn -= percent * self.share
            if drawn < 0:
                self.done[name] += 1
                return self._fault(name, browser)
        return None

    def _fault(self, name: str, browser: str) -> Fault:
        match name:
            case "503":
                return Say(503)
            case "429":
                return Say(429)
            case "silence after it is taken":
                return Silence()  # our sender knows that it does not know
        if name == "reset after it is taken":  # on a kept connection, it is repeated at once
            self.lost.append((browser, len(self.service.devices[browser].pushes)))
        return Reset(taken="after" in name)

    def witness(self) -> Witness:
        taken: dict[Pair, list[str | None]] = defaultdict(list)
        order: dict[str, list[Pair]] = {browser: [] for browser in self.service.devices}
        for browser, device in self.service.devices.items():
            for push in device.pushes:
                pair = Pair(json.loads(push.text)["title"], browser)
                taken[pair].append(push.topic)
                order[browser].append(pair)
        return Witness(
            taken=taken, lost_answers=Counter(order[browser][number] for browser, number in self.lost)
        )


@dataclass(slots=True)
class Installation:
    """A supervisor with its senders, the database, and the browsers of everybody at one push service."""

    node: Node
    dsn: str
    trouble: Trouble
    ids: dict[str, str] = field(default_factory=dict)  # of browsers, by their subscriptions'
    owners: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # browsers of a person
    wanted: list[Pair] = field(default_factory=list)
    submitted: int = 0

    async def subscribe(self, user_id: str, device: Device) -> None:
        answer = await self.node.ask(
            "POST",
            "/api/v1/push/subscribe",
            {
                "endpoint": self.trouble.service.endpoint(device),
                "p256dh_key": encode_base64url(device.browser.p256dh),
                "auth_key": encode_base64url(device.browser.auth),
            },
            as_=token(user_id),
        )
        assert answer.status_code == 201, answer.text
        self.ids[answer.json()["id"]] = device.token
        self.owners[user_id].append(device.token)

    async def submit(self, count: int, per_second: float = PER_SECOND) -> None:
        began = time.monotonic()
        before = self.submitted
        self.submitted += count
        for first in range(0, count, 10):
            late = began + first / per_second - time.monotonic()
            await asyncio.sleep(max(late, 0))
            several = range(before + first, before + min(first + 10, count))
            await asyncio.gather(*(self._submit(number) for number in several))

    async def _submit(self, number: int) -> None:
        title, user_id = f"push {number}", f"person-{number % PEOPLE}"
        answer = await self.node.notify(
            title,
            user_id=user_id,
            channels=["push"],
            collapse_key=f"key-{number}" if number % 2 else None,
        )
        assert answer.status_code == 201, answer.text
        self.wanted += (Pair(title, browser) for browser in self.owners[user_id])

    async def verdict(self) -> Verdict:
        connection = await asyncpg.connect(self.dsn)
        try:
            deliveries = await connection.fetch(
                "SELECT n.title AS notification, d.state, d.reason,"
                " (SELECT count(*) FROM delivery_attempts a WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.id"
                "  AND (a.is_late OR a.code IN ('worker_lost', 'timeout')"
                "   OR a.outcome = 'unknown' AND a.code = 'unavailable')) AS unknown"
                " FROM notification_deliveries d"
                " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
            )
            rows = await connection.fetch(
                "SELECT n.title, p.subscription_id, p.outcome, p.unknowns FROM push_sends p"
                " JOIN notification_deliveries d ON d.tenant_id = p.tenant_id AND d.id = p.delivery_id"
                " JOIN notifications n ON n.tenant_id = d.tenant_id AND n.id = d.notification_id"
            )
        finally:
            await connection.close()
        return judge(
            self.wanted,
            [Delivery(**row) for row in deliveries],
            [
                Row(
                    pair=Pair(row["title"], self.ids[str(row["subscription_id"])]),
                    outcome=row["outcome"],
                    unknowns=row["unknowns"],
                )
                for row in rows
            ],
            self.trouble.witness(),
        )

    def senders(self) -> list[psutil.Process]:
        """The sender processes that are there now."""
        found = []
        for child in self.node.children():
            with contextlib.suppress(psutil.Error):
                if "worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found


@asynccontextmanager
async def installation(
    postgres: PostgresServer, folder: Path, *, faults: float = 1.0, **options: object
) -> AsyncIterator[Installation]:
    """faults: how much of what usually goes wrong with the push service."""
    await postgres.create_template()
    dsn, key = postgres.dsn(TEMPLATE), new_key()
    async with PushService(folder) as service:
        trouble = Trouble(service, faults)
        settings = {
            **HASTY,
            "VAPID_PRIVATE_KEY": private_text(key),
            "VAPID_EMAIL": "ops@example.org",
            "PUSH_CA_FILE": str(service.ca_file),
            "PUSH_RESOLVE": ",".join(service.resolve),
        }
        async with nodes(dsn, 1, allow_faults=True, **settings, **options) as [node]:  # type: ignore[arg-type]  # entry, and settings
            made = Installation(node, dsn, trouble)
            await asyncio.gather(*(made.subscribe(*one) for one in _people(service, key)))
            service.fault_of = trouble.fault
            yield made
        assert not service.refusals, "what was sent keeps to the RFCs, whoever died over it"


def _people(service: PushService, key: VapidKey) -> list[tuple[str, Device]]:
    return [(f"person-{number}", service.subscribe(key)) for number in range(PEOPLE) for _ in range(BROWSERS)]


class Nemesis:
    """kill -9 of a sender now and then, each fourth time SIGSTOP for longer than a lease; never all at once."""

    def __init__(self, installed: Installation) -> None:
        self.done: Counter[str] = Counter()
        self._installed = installed
        self._frozen: set[int] = set()
        self._random = random.Random(SEED)
        self._under_way: set[asyncio.Task[None]] = set()

    async def rage(self, until: asyncio.Event) -> None:
        turn = 0
        while not until.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_EVERY_S):  # the interval of the faults, no wait for something
                    await until.wait()
            awake = [one for one in self._installed.senders() if one.pid not in self._frozen]
            if len(awake) < 2:
                continue
            turn += 1
            sender = self._random.choice(awake)
            if turn % 4 == 2:
                self.done["SIGSTOP beyond the lease"] += 1
                self._under_way.add(asyncio.create_task(self._freeze(sender)))
            else:
                self.done["kill -9"] += 1
                sender.kill()
        await asyncio.gather(*self._under_way)

    async def _freeze(self, sender: psutil.Process) -> None:
        self._frozen.add(sender.pid)
        sender.suspend()
        try:
            await asyncio.sleep(LEASE.total_seconds() + 2)
        finally:
            sender.resume()
            self._frozen.discard(sender.pid)


def report(verdict: Verdict, installed: Installation, seconds: float, done: Counter[str]) -> str:
    service = installed.trouble.service
    faults = installed.trouble.done
    return (
        f"{len(installed.wanted)} pushes to {len(service.devices)} browsers, {service.requests} requests in"
        f" {seconds:.0f} s, {sum(faults.values()) / service.requests:.0%} of them with a fault"
        f"\n{len(verdict.lost)} lost, {len(verdict.stuck)} stuck, {len(verdict.invented)} invented,"
        f" {verdict.dead} dead letters"
        f"\n{verdict.repetitions} repetitions, {verdict.unknown} unknown outcomes;"
        f" {len(verdict.beside)} would stand beside the first"
        f"\nseed {SEED}: {', '.join(f'{count} × {what}' for what, count in sorted((done + faults).items()))}"
    )


@pytest.mark.alone
@pytest.mark.slow
async def test_no_push_is_lost_and_none_comes_twice_beside_itself_while_senders_die(
    own_postgres: PostgresServer, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    began = time.monotonic()
    async with installation(own_postgres, tmp_path, CARILLON_SENDERS=str(SENDERS)) as installed:
        await installed.node.logged("ready", SENDERS + 1)
        nemesis, calm = Nemesis(installed), asyncio.Event()
        raging = asyncio.create_task(nemesis.rage(calm))
        await installed.submit(NOTIFICATIONS)
        while (
            nemesis.done["kill -9"] < 3 and not raging.done()
        ):  # successors are slow to come on a busy machine
            await installed.submit(PER_SECOND)
        calm.set()
        await raging
        await settled(installed.dsn, 180)

        verdict = await installed.verdict()
        log = installed.node.log
    measured(report(verdict, installed, time.monotonic() - began, nemesis.done))
    assert verdict.clean, verdict
    assert verdict.repetitions <= verdict.unknown
    assert "Traceback" not in log


@pytest.mark.slow
async def test_the_checker_sees_senders_that_do_not_remember_who_has_it(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    forgetful = ("-m", "tests.acceptance.chaos.forgetful", "serve", "--port", "0")
    async with installation(own_postgres, tmp_path, faults=0, entry=forgetful) as installed:
        away = {browsers[0] for browsers in installed.owners.values()}
        installed.trouble.service.fault_of = lambda browser: Say(503) if browser in away else None
        await installed.submit(20, per_second=1000)
        while installed.trouble.service.taken < 80:  # twice each of those that are there
            await installed.trouble.service.wait_for(installed.trouble.service.requests + 1)
        installed.trouble.service.fault_of = lambda _browser: None
        await settled(installed.dsn, 90)

        verdict = await installed.verdict()
    assert verdict.doubled
    assert not verdict.lost
