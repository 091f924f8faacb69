"""How long it takes from the answer to a submission to the request at the provider: alone, and during a campaign."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import asyncpg

from benchmarks.delivery.installation import (
    CHANNEL,
    Sink,
    carillon,
    database,
    introduce,
    redis,
    sending,
    until,
)
from benchmarks.machine import Cores
from benchmarks.peers.carillon import bearer, token

PRIORITIES = ("urgent", "high", "normal")
DIRECT = 300  # notifications for one person each, of every phase; only those of the campaign's time count
PER_SECOND = 20.0  # of them, on average, at random moments
_PATIENCE_S = 300.0
_DONE = (
    "SELECT NOT EXISTS (SELECT FROM notification_deliveries WHERE finished_at IS NULL)"
    " AND NOT EXISTS (SELECT FROM delivery_broadcasts WHERE finished_at IS NULL)"
)
_SECRET = "the secret of these measurements, 32 bytes or more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from the 201 to the arrival at the provider, by priority; 0 for what was there before the answer."""

    idle: Mapping[str, list[float]]
    busy: Mapping[str, list[float]]
    campaign: int  # deliveries that drained meanwhile
    campaign_rate: float  # per second
    missing: int
    woken: bool  # by Redis; otherwise workers look once a second
    greatest_depth: int  # deliveries that waited at once


async def latency(dsn: str, sink: Sink, cores: Cores, folder: Path, campaign: int, random: Random) -> Latency:
    """A web process and a worker; direct notifications first alone, then while a campaign of so many drains."""
    async with database(dsn) as opened:
        await introduce(opened, campaign)
    with redis(cores, folder) as redis_url:
        settings = {"DATABASE_URL": dsn, "JWT_SECRET_KEY": _SECRET, **sending(sink)}
        if redis_url is not None:
            settings["REDIS_URL"] = redis_url
        with (
            carillon("web,scheduler", settings, cores.receivers[-1], folder) as (port, _),
            carillon("worker", settings, cores.server, folder),
        ):
            headers = dict(bearer(token(_SECRET, "bench", roles=["service"])))
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:
                return await _phases(dsn, sink, http, campaign, random, woken=redis_url is not None)


async def _phases(
    dsn: str, sink: Sink, http: aiohttp.ClientSession, campaign: int, random: Random, *, woken: bool
) -> Latency:
    connection = await asyncpg.connect(dsn)
    try:
        answered = await _submit(http, range(DIRECT), campaign, random)
        await until(connection, _DONE, 30)
        idle, lost = _taken(sink, answered)
        sink.forget()

        await _post(http, {"broadcast_to_tenant": True, "priority": "low"}, DIRECT)
        await until(
            connection, "SELECT EXISTS (SELECT FROM delivery_attempts WHERE outcome = 'sent' OFFSET 1000)", 60
        )
        depths: list[int] = []
        watching = asyncio.create_task(_watch(dsn, depths))
        answered = await _submit(http, range(DIRECT + 1, 2 * DIRECT + 1), campaign, random)
        await until(connection, _DONE, _PATIENCE_S)
        watching.cancel()
        of_campaign = [at for at, number in sink.arrivals() if number == DIRECT]
        during = {number: one for number, one in answered.items() if one[1] < max(of_campaign)}
        busy, _ = _taken(sink, during)
        _, also_lost = _taken(sink, answered)
        return Latency(
            idle=idle,
            busy=busy,
            campaign=len(of_campaign),
            campaign_rate=len(of_campaign) / ((max(of_campaign) - min(of_campaign)) / 1e9),
            missing=lost + also_lost + campaign - len(of_campaign),
            woken=woken,
            greatest_depth=max(depths, default=0),
        )
    finally:
        await connection.close()


async def _submit(
    http: aiohttp.ClientSession, numbers: range, people: int, random: Random
) -> dict[int, tuple[str, int]]:
    """By number: its priority, and when it was answered, in nanoseconds of the monotonic clock."""
    answered: dict[int, tuple[str, int]] = {}
    due = time.monotonic()
    under_way = []
    for number in numbers:
        due += random.expovariate(PER_SECOND)
        await asyncio.sleep(max(due - time.monotonic(), 0))
        priority = PRIORITIES[number % len(PRIORITIES)]
        body = {"user_id": f"person-{random.randrange(people)}", "priority": priority}
        under_way.append(asyncio.create_task(_answered(http, body, number, answered)))
    await asyncio.gather(*under_way)
    return answered


async def _answered(
    http: aiohttp.ClientSession, body: Mapping[str, str], number: int, answered: dict[int, tuple[str, int]]
) -> None:
    await _post(http, body, number)
    answered[number] = (body["priority"], time.monotonic_ns())


async def _post(http: aiohttp.ClientSession, body: Mapping[str, object], number: int) -> None:
    full = {"title": f"#{number}", "message": "There is news.", "channels": [CHANNEL], **body}
    async with http.post("/api/v1/notifications", json=full) as response:
        if response.status != 201:
            raise RuntimeError(f"answered {response.status}: {await response.text()}")
        await response.read()


def _taken(sink: Sink, answered: Mapping[int, tuple[str, int]]) -> tuple[dict[str, list[float]], int]:
    """Seconds from the answer to the arrival, by priority; and how many never arrived."""
    arrived = {number: at for at, number in reversed(sink.arrivals())}
    seconds: dict[str, list[float]] = {priority: [] for priority in PRIORITIES}
    for number, (priority, at) in answered.items():
        if number in arrived:
            seconds[priority].append(max(arrived[number] - at, 0) / 1e9)
    return seconds, len(answered.keys() - arrived.keys())


async def _watch(dsn: str, depths: list[int]) -> None:
    """How many wait, twice a second."""
    connection = await asyncpg.connect(dsn)
    try:
        while True:
            depths.append(
                await connection.fetchval(
                    "SELECT count(*) FROM notification_deliveries WHERE finished_at IS NULL"
                )
            )
            await asyncio.sleep(0.5)
    finally:
        connection.terminate()
