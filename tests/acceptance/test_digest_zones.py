"""The time zones of a whole process are those of the pinned package, and `doctor` tells of those that are gone."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import asyncpg

from core.locale import TZDATA, TZDATA_RELEASE
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, admin, nodes, token

WANTED = "/api/v1/digest/subscription"


def foreign_zones(folder: Path) -> Path:
    """A machine whose Kathmandu is Tokyo."""
    (folder / "Asia").mkdir()
    (folder / "Asia/Kathmandu").write_bytes(files("tzdata").joinpath("zoneinfo/Asia/Tokyo").read_bytes())
    return folder


async def test_zones_are_those_of_the_package_whatever_the_machine_has(database: str, tmp_path: Path) -> None:
    async with nodes(database, PYTHONTZPATH=str(foreign_zones(tmp_path))) as [node]:
        said = await node.ask("PUT", WANTED, {"timezone": "Asia/Kathmandu"}, as_=token())
        metrics = (await node.ask("GET", "/metrics", as_=admin())).text

    assert said.json()["next_run"]["utc_offset"] == "+05:45"
    assert f'digest_time_zone_data{{version="{version("tzdata")}"}} 1.0' in metrics
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT tzdata FROM digest_subscriptions") == TZDATA_RELEASE
    await connection.close()


async def test_doctor_names_a_zone_that_is_gone_and_how_many_live_there(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO digest_subscriptions (tenant_id, user_id, frequency, delivery_times, timezone, next_run_at,"
        " next_date, next_slot, tzdata) SELECT 'school', name, 'daily', '{07:00}', zone, now(), current_date, 0, '2020a'"
        " FROM (VALUES ('ada', 'Mars/Phobos'), ('bob', 'Mars/Phobos'), ('eve', 'EST5EDT')) AS people (name, zone)"
    )
    await connection.close()

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "doctor"),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    printed = (await process.communicate())[0].decode()

    assert f"WARN  time zone: Mars/Phobos is not in tzdata {TZDATA}: the digests of 2 go on" in printed
    assert "EST5EDT" not in printed
