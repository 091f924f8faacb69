"""
What live connections notice of a campaign: the time from a request to its frame on a WebSocket, while nothing else
goes on and while pushes go out, in turns; with a sender of its own (`--senders 1`), with two, and with everything in one
process.

The whole service as processes, on a PostgreSQL and a Redis of its own, before an endpoint in a process of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import asyncpg
import uvloop

from benchmarks.push.part import Part
from benchmarks.push.sending import HOST, endpoint
from tests.client import Client
from tests.postgres import TEMPLATE, PostgresServer
from tests.process import ENCRYPTION_KEYS, ROOMY, SECRET, Node, service, token
from tests.push_browser import Browser, text
from tests.servers import RedisServer

PEOPLE = 400  # with a browser each
WAVES = 24  # notifications for all of them
TURNS = 3  # of quiet and campaign in one round: a hundredth of what is measured in one turn is three frames
IDLE = 300  # frames that are measured in one turn before the campaign
MOST = 1.5  # times the idle p99

SENT = "SELECT count(*) FROM push_sends WHERE outcome = 'sent'"
SPLIT = "one sender"
#: Arguments of `carillon serve`. PostgreSQL, Redis and what measures take the cores that one sender leaves.
LAYOUTS = {SPLIT: ("--senders", "1"), "two senders": ("--senders", "2"), "one process": ()}


class Measured(NamedTuple):
    """Seconds of each frame, alone and during the campaign; pushes per second of the campaign."""

    idle: Sequence[float]
    busy: Sequence[float]
    rate: float

    @property
    def ratio(self) -> float:
        return _p99(self.busy) / _p99(self.idle)


def run(rounds: int) -> str:
    """The table and the verdict of so many interleaved rounds."""
    measured: dict[str, list[Measured]] = {name: [] for name in LAYOUTS}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(rounds):
            for name, arguments in LAYOUTS.items():
                measured[name].append(runner.run(_measure(*arguments)))
    return "\n".join(_lines(measured))


def _lines(measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    lines = [
        "| | idle p99 ms | campaign p50 ms | campaign p99 ms | × idle p99 | pushes/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in measured.items():
        figures = (
            1000 * median(_p99(one.idle) for one in runs),
            1000 * median(median(one.busy) for one in runs),
            1000 * median(_p99(one.busy) for one in runs),
        )
        times = f"{median(one.ratio for one in runs):.2f} ({min(one.ratio for one in runs):.2f}-{max(one.ratio for one in runs):.2f})"
        shown = " | ".join(f"{figure:.1f}" for figure in figures)
        lines.append(f"| {name} | {shown} | {times} | {median(one.rate for one in runs):,.0f} |")
    found = median(one.ratio for one in measured[SPLIT])
    verdict = "met" if found <= MOST else "MISSED"
    lines += [
        "",
        f"- p99 of a frame during a campaign beside idle, split: {found:.2f}, target ≤ {MOST}: {verdict}",
    ]
    return lines


async def _measure(*arguments: str) -> Measured:
    with PostgresServer() as server, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        await server.create_template()
        with endpoint(Path(folder)) as port:
            async with server.database(template=TEMPLATE) as dsn:
                settings = {
                    "DATABASE_URL": dsn,
                    "REDIS_URL": redis.url,
                    "JWT_SECRET_KEY": SECRET,
                    "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
                    "VAPID_EMAIL": "push@example.org",
                    "PUSH_RESOLVE": f"https://{HOST}=127.0.0.1:{port}",
                    "PUSH_CA_FILE": f"{folder}/loopback.pem",
                    **ROOMY,
                }
                async with Node(*arguments, settings=settings) as node:
                    return await _campaign(node, dsn)


async def _campaign(node: Node, dsn: str) -> Measured:
    people = [f"person-{number}" for number in range(PEOPLE)]
    for start in range(0, PEOPLE, 20):
        await asyncio.gather(*(_subscribe(node, one) for one in people[start : start + 20]))
    person = await Client("ada").connect(node)
    connection = await asyncpg.connect(dsn)
    await _frames(node, person, 30)
    idle, busy, seconds = [], [], 0.0
    try:
        for turn in range(TURNS):
            idle += await _frames(node, person, IDLE)
            began = time.monotonic()
            await _submit(node, people, turn)
            while await connection.fetchval(SENT) < PEOPLE * WAVES * (turn + 1):
                busy += await _frames(node, person, 10)
                if time.monotonic() - began > 120:
                    raise RuntimeError("the campaign does not end")
            seconds += time.monotonic() - began
    finally:
        await connection.close()
        await person.leave()
    return Measured(idle, busy, PEOPLE * WAVES * TURNS / seconds)


async def _submit(node: Node, people: Sequence[str], turn: int) -> None:
    for wave in range(WAVES):
        body = {
            "title": f"Wave {turn}-{wave}",
            "message": "x" * 300,
            "channels": ["push"],
            "recipients": people,
        }
        (await node.ask("POST", "/api/v1/notifications", body, as_=service())).raise_for_status()


async def _subscribe(node: Node, user_id: str) -> None:
    browser = Browser()
    body = {
        "endpoint": f"https://{HOST}/push/{user_id}",
        "p256dh_key": text(browser.p256dh),
        "auth_key": text(browser.auth),
    }
    (await node.ask("POST", "/api/v1/push/subscribe", body, as_=token(user_id))).raise_for_status()


async def _frames(node: Node, person: Client, count: int) -> list[float]:
    """Seconds from the request to the frame, of so many, one after the other."""
    took = []
    for _ in range(count):
        title, began = f"Frame {time.monotonic_ns()}", time.monotonic()
        await node.broadcast(title, user_id=person.user_id)
        await person.until(lambda title=title: title in person.arrivals)  # type: ignore[misc]  # of this turn
        took.append(person.arrivals[title] - began)
        await asyncio.sleep(0.01)
    return took


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, len(seconds) * 99 // 100)]


PART = Part("campaign", "Live connections during a campaign", run)
