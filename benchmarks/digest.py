"""
python -m benchmarks.digest [--people 100000] [--schedulers 2,5,20] [--idle 1000000] [--due 1000]

Digests that are all due at once, claimed by several schedulers of which one is killed midway; and few that are due among
many that are not. Prints a Markdown table and the plan of the claim. What the figures mean: benchmarks/README.md, "Digests".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from app.migrate import migrate
from benchmarks.machine import load_average
from benchmarks.peers.carillon import postgres
from core.clock import SystemClock
from core.database import DatabaseSettings, open_database
from core.locale import TZDATA_RELEASE
from digest.job import DigestJob
from digest.rendering import words
from digest.store import SQL, Digests

TENANT = "bench"
TICK_S = 1

#: People of whom each follows their own stream and the tenant's, with two notifications in the one and three in the other.
PEOPLE = """
INSERT INTO stream_members (tenant_id, user_id, stream, joined_seq, read_all_seq)
SELECT 'bench', 'person-' || n, s, 0, 0
FROM generate_series({first}, {last}) AS n, LATERAL (VALUES ('tenant'), ('user:person-' || n)) AS streams (s);

INSERT INTO streams (tenant_id, name, seq)
SELECT 'bench', 'user:person-' || n, {own} FROM generate_series({first}, {last}) AS n;

INSERT INTO notifications (tenant_id, id, audience, user_id, status, title, message, notification_type, priority, channels,
    metadata, created_by, published_at)
SELECT 'bench', md5(n || '-' || k)::uuid, 'user', 'person-' || n, 'published', 'Please sign number ' || k,
    'The document of ' || n || ' waits for a signature. It has to be there by tomorrow, and nobody else can do it.',
    'signature_request', 'high', '{{in_app}}', '{{}}', 'bench', now()
FROM generate_series({first}, {last}) AS n, generate_series(1, {own}) AS k;

INSERT INTO stream_events (tenant_id, stream, seq, kind, notification_id)
SELECT 'bench', 'user:person-' || n, k, 'notification', md5(n || '-' || k)::uuid
FROM generate_series({first}, {last}) AS n, generate_series(1, {own}) AS k;
"""

TENANTS_OWN = """
INSERT INTO streams (tenant_id, name, seq) VALUES ('bench', 'tenant', 3);
INSERT INTO notifications (tenant_id, id, audience, status, title, message, notification_type, priority, channels,
    metadata, created_by, published_at)
SELECT 'bench', md5('all-' || k)::uuid, 'tenant', 'published', 'To all, number ' || k, 'The school is closed tomorrow.',
    'system', 'normal', '{in_app}', '{}', 'bench', now()
FROM generate_series(1, 3) AS k;
INSERT INTO stream_events (tenant_id, stream, seq, kind, notification_id)
SELECT 'bench', 'tenant', k, 'notification', md5('all-' || k)::uuid FROM generate_series(1, 3) AS k;
"""

#: They are due at these times; the local date of the run is today's.
SUBSCRIPTIONS = """
INSERT INTO digest_subscriptions (tenant_id, user_id, frequency, delivery_times, timezone, channels, next_run_at, next_date,
    next_slot, tzdata)
SELECT 'bench', 'person-' || n, 'daily', '{{07:00}}', 'Europe/Berlin', '{{in_app,email}}', {at}, current_date, 0, '{tzdata}'
FROM generate_series({first}, {last}) AS n;
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of digests that were all due at once."""

    schedulers: int
    killed: int
    people: int
    seconds: float  # until all were claimed, submitted and recorded
    half: float  # until half of them were
    missed: int
    double: int


async def furnish(connection: asyncpg.Connection, people: int, *, own: int = 2) -> None:
    """People with something in their inboxes; nobody has a digest yet."""
    await connection.execute(TENANTS_OWN)
    await connection.execute(PEOPLE.format(first=1, last=people, own=own))


async def subscribe(connection: asyncpg.Connection, first: int, last: int, at: str) -> None:
    """at: SQL, of person n."""
    await connection.execute(SUBSCRIPTIONS.format(first=first, last=last, at=at, tzdata=TZDATA_RELEASE))
    await connection.execute("ANALYZE")


async def double(connection: asyncpg.Connection) -> int:
    """How many digests there are beyond the first to each person."""
    counted: int = await connection.fetchval(
        "SELECT count(*) - count(DISTINCT user_id) FROM notifications WHERE notification_type = 'digest'"
    )
    return counted


@contextmanager
def schedulers(
    dsn: str, count: int, folder: Path, **settings: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes with the scheduler role alone, once they are ready."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": dsn,
        "HUB_MIGRATE": "off",
        "JWT_SECRET_KEY": secrets.token_hex(32),
        "DELIVERY_ENCRYPTION_KEYS": "bench:" + "YmVu" * 10 + "YmU=",
        "DIGEST_TICK": str(TICK_S),
        "HUB_DATABASE_CONNECTIONS": "3",  # twenty processes, and PostgreSQL has a hundred
        "LOG_FORMAT": "json",
        **settings,
    }
    started = []
    try:
        for number in range(count):
            with folder.joinpath(f"scheduler-{count}-{number}").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "app", "serve", "--roles", "scheduler", "--port", "0"],
                        env=environment | {"CARILLON_NODE": f"scheduler-{number}"},
                        stdout=log,
                        stderr=log,
                    )
                )
        deadline = time.monotonic() + 120
        for number in range(count):
            log_file = folder.joinpath(f"scheduler-{count}-{number}")
            while b'"ready"' not in log_file.read_bytes():
                if time.monotonic() > deadline or started[number].poll() is not None:
                    raise RuntimeError(log_file.read_text(errors="replace"))
                time.sleep(0.05)
        yield started
    finally:
        for one in started:
            one.send_signal(signal.SIGKILL)
            one.wait()


async def all_at_once(dsn: str, people: int, count: int, folder: Path) -> Result:
    """People who are due within the same minute, that ends now; one of the schedulers is killed when a third are done."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE digest_runs, digest_subscriptions, notification_deliveries CASCADE")
    await connection.execute(
        "DELETE FROM stream_events e USING notifications n WHERE n.id = e.notification_id AND n.notification_type = 'digest'"
    )
    await connection.execute("DELETE FROM notifications WHERE notification_type = 'digest'")
    await connection.execute("UPDATE streams SET seq = 2 WHERE name LIKE 'user:%' AND seq > 2")
    await connection.execute("VACUUM ANALYZE")
    await subscribe(connection, 1, people, "now() + interval '1 day'")
    half, is_killed = 0.0, False
    with schedulers(dsn, count, folder) as running:
        await connection.execute(
            "UPDATE digest_subscriptions SET next_run_at = now() - random() * interval '1 minute'"
        )
        began = time.monotonic()  # nobody can see them as due before that is committed
        while (done := await connection.fetchval("SELECT count(*) FROM digest_runs")) < people:
            took = time.monotonic() - began
            if not is_killed and done > people / 3:
                running[0].send_signal(signal.SIGKILL)
                is_killed = True
            if not half and done >= people / 2:
                half = took
            if took > 900:
                break
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        await asyncio.sleep(TICK_S * 3)  # whoever would send one a second time has the time for it
    sent = await connection.fetchval(
        "SELECT count(DISTINCT user_id) FROM notifications WHERE notification_type = 'digest'"
    )
    result = Result(count, int(is_killed), people, took, half, people - sent, await double(connection))
    await connection.close()
    return result


async def few_among_many(dsn: str, idle: int, due: int) -> str:
    """What the claim costs where few of very many are due, and its plan."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE digest_runs, digest_subscriptions")
    await subscribe(connection, 1, due, "now()")
    await subscribe(connection, due + 1, idle, "now() + interval '1 hour' + n * interval '80 milliseconds'")
    await connection.execute("VACUUM ANALYZE digest_subscriptions")
    await connection.execute(
        "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"
    )  # as ours are
    plan = await connection.fetch("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) " + SQL["take_due"], 100)
    began = time.monotonic()
    await connection.fetch(SQL["take_due"], 100)
    claim_ms = (time.monotonic() - began) * 1000
    database = await open_database(DatabaseSettings(url=dsn))

    class Nobody:
        def publish(self, entries: Sequence[object]) -> None: ...
        def publish_message(self, *message: object) -> None: ...

    job = DigestJob(database, Digests(database), Nobody(), words, SystemClock())
    began = time.monotonic()
    done = await job.run_due()
    took = time.monotonic() - began
    began = time.monotonic()
    await job.run_due()
    nothing_ms = (time.monotonic() - began) * 1000
    await database.close()
    await connection.close()
    lines = [
        f"{idle:,} subscriptions, {done:,} due: sent in {took:.1f} s by one scheduler; the claim of 100 takes {claim_ms:.1f} ms,"
        f" a tick with nothing due {nothing_ms:.1f} ms.",
        "",
        *(f"    {row[0]}" for row in plan),
    ]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    head = ["schedulers", "killed", "due at once", "half s", "all s", "per second", "missed", "double"]
    figures = [
        [
            str(one.schedulers),
            str(one.killed),
            f"{one.people:,}",
            f"{one.half:.1f}",
            f"{one.seconds:.1f}",
            f"{one.people / one.seconds:,.0f}",
            str(one.missed),
            str(one.double),
        ]
        for one in results
    ]
    rows = [head, ["---"] * len(head), *figures]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """0, or 1 when a digest was missed or came twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digest")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument(
        "--schedulers", type=lambda text: [int(one) for one in text.split(",")], default=[2, 5, 20]
    )
    parser.add_argument("--idle", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"Load average {load_average():.1f} before.", file=sys.stderr)
    results: list[Result] = []
    every = sorted(os.sched_getaffinity(0))
    with TemporaryDirectory(prefix="carillon-bench-") as made, postgres(every[0]) as (dsn, server):
        os.sched_setaffinity(server, every)  # whoever it starts from now on: the whole machine is measured
        asyncio.run(_prepared(dsn, options.people))
        for count in options.schedulers:
            results.append(asyncio.run(all_at_once(dsn, options.people, count, Path(made))))
            print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        if options.schedulers:
            print(table(results))
        if options.idle:
            print("\n" + asyncio.run(few_among_many(dsn, options.idle, options.due)))
    if options.json:
        options.json.write_text(json.dumps([one.__dict__ for one in results], indent=1))
    return 1 if any(one.missed or one.double for one in results) else 0


async def _prepared(dsn: str, people: int) -> None:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await furnish(connection, people)
    await connection.close()


if __name__ == "__main__":
    sys.exit(main())
