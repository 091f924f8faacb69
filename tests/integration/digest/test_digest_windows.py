"""
Whatever happens between two digests, every notification that somebody follows is in one of them, once: sends, runs,
skips, follows and mutes in any order, on a real PostgreSQL. And however often they move, no date has two digests.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import time, timedelta
from typing import Any
from uuid import UUID

import pytest

from delivery.draft import Everyone, Topic, Users
from digest.store import Window
from digest.subscription import Wanted
from tests.integration.digest.test_digest_job import Desk
from tests.stores import open_stores
from tests.submissions import TENANT_ID, person

TOPICS = ("news", "sports")
ZONES = (
    "Pacific/Kiritimati",
    "Etc/GMT+12",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "America/New_York",
    "Africa/Cairo",
)


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_stores(database) as stores:
        yield Desk(stores)


class Model:
    """What each of Ada's streams has had since her last digest, and what her digests have told."""

    def __init__(self) -> None:
        self.followed: set[str] = set()
        self.muted: set[str] = set()
        self.waiting: dict[str, list[UUID]] = {"user": [], "tenant": []}
        self.silent: dict[str, list[UUID]] = {}  # what came while a topic was muted, the last time
        self.expected: list[UUID] = []

    def sent(self, stream: str, notification: UUID) -> None:
        if stream in self.waiting:
            self.waiting[stream].append(notification)
        if stream in self.muted:
            self.silent[stream].append(notification)

    def ran(self) -> None:
        for stream, waiting in self.waiting.items():
            self.expected += [one for one in waiting if one not in self.silent.get(stream, ())]
            waiting.clear()


async def seen(desk: Desk) -> list[UUID]:
    """What stood in the windows of the runs that were sent or had nothing to tell, read by their stored bounds."""
    rows = await desk.stores.query(
        "SELECT e.notification_id FROM digest_runs r, json_each_text(r.until) AS u (stream, seq), stream_events e"
        " JOIN notifications n ON n.tenant_id = e.tenant_id AND n.id = e.notification_id"
        " WHERE r.state <> 'skipped_late' AND e.tenant_id = r.tenant_id AND e.stream = u.stream"
        " AND e.seq > (r.after ->> u.stream)::bigint AND e.seq <= u.seq::bigint AND n.notification_type <> 'digest'"
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("seed", range(6))
async def test_every_notification_is_in_one_digest_once(desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    model, told = Model(), list[UUID]()
    await desk.subscribe(timezone="UTC")
    inbox = desk.stores.inbox
    windows = desk.digests.windows

    async def listening(*arguments: Any) -> list[Window]:
        found = await windows(*arguments)
        told.extend(item.id for window in found for item in window.items)
        return found

    for step in range(60):
        match chance.choices(["send", "run", "late", "follow", "mute", "change"], [12, 4, 1, 2, 2, 1])[0]:
            case "send":
                stream = chance.choice(["user", "tenant", *TOPICS])
                audience = {"user": Users.of("ada"), "tenant": Everyone()}.get(stream) or Topic(stream)
                model.sent(stream, await desk.stores.send(audience, title=f"{step}"))
            case "run":
                await desk.stores.query("DELETE FROM digest_runs WHERE state = 'skipped_late'")
                before = len(told)
                desk.digests.windows = listening  # type: ignore[assignment,method-assign]  # it listens, and changes nothing
                await run(desk)
                desk.digests.windows = windows  # type: ignore[method-assign]  # as it was
                model.ran()
                assert sorted(told[before:]) == sorted(model.expected[before:]), f"step {step}"
            case "late":
                await desk.due_now(timedelta(hours=5))
                await desk.job.run_due()
            case "follow":
                topic = chance.choice(TOPICS)
                if topic in model.followed:
                    await inbox.change_topic(person("ada"), topic, "unfollowed")
                    model.followed.discard(topic)
                    model.muted.discard(topic)
                    model.waiting.pop(topic, None)
                    model.silent.pop(topic, None)
                else:
                    await inbox.change_topic(person("ada"), topic, "followed")
                    model.followed.add(topic)
                    model.waiting[topic] = []
            case "mute" if model.followed:
                topic = chance.choice(sorted(model.followed))
                await inbox.change_topic(person("ada"), topic, "unmuted" if topic in model.muted else "muted")
                model.muted ^= {topic}
                if topic in model.muted:
                    model.silent[topic] = []
            case "change":
                await desk.subscribe(
                    timezone=chance.choice(ZONES), delivery_times=(time(chance.randrange(24)),)
                )

    assert len(model.expected) > 10
    assert max(Counter(told).values()) == 1
    assert sorted(told) == sorted(model.expected)
    assert max(Counter(await seen(desk)).values()) == 1, "nor do the windows on record overlap"


async def run(desk: Desk) -> None:
    """The next digest, as if its day had come; the runs before it are on earlier days."""
    await desk.stores.query("UPDATE digest_runs SET local_date = local_date - 400")
    await desk.due_now()
    assert await desk.job.run_due() == 1


async def test_however_often_somebody_moves_near_the_minute_no_date_has_two(desk: Desk) -> None:
    """A sample on the database of what the unit test tries ten thousand times."""
    chance = random.Random(5)
    await desk.subscribe()
    for _ in range(120):
        now = (await desk.stores.query("SELECT now()"))[0][0]
        soon = (now + timedelta(minutes=chance.randrange(-3, 4))).time().replace(second=0, microsecond=0)
        await desk.digests.put(
            TENANT_ID,
            "ada",
            Wanted(timezone=chance.choice((*ZONES, "UTC")), delivery_times=(soon,), channels=("in_app",)),
            "test",
        )
        await desk.stores.send("ada")
        if chance.random() < 0.3:  # the minute comes
            await desk.stores.query(
                "UPDATE digest_subscriptions SET next_run_at = now() WHERE next_run_at < now() + interval '12 hours'"
            )
        await desk.job.run_due()

    rows = await desk.stores.query("SELECT local_date, due_at FROM digest_runs ORDER BY due_at")
    assert len(rows) >= 1
    assert len({row["local_date"] for row in rows}) == len(rows)
