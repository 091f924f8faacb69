"""`carillon vapid`, and what `carillon doctor` says about keys and contact."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from core.clock import SystemClock
from core.database import DatabaseSettings, open_database
from core.vault import Vault, read_keys
from push.keys import new_key, private_text, read_private, read_public
from push.keys_store import KeyRing
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET


@pytest.fixture
async def ring(database: str) -> AsyncIterator[KeyRing]:
    """The ring as a running service holds it."""
    opened = await open_database(DatabaseSettings(url=database))
    made = KeyRing(opened, Vault(read_keys(ENCRYPTION_KEYS)), SystemClock())
    await made.load()
    yield made
    await opened.close()


def carillon(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """The exit code, what was printed, and what was complained of."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def installed(dsn: str, **settings: str) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "JWT_SECRET_KEY": SECRET,
        "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        **settings,
    }


def test_a_created_pair_is_printed_for_an_environment_file_whatever_else_is_set() -> None:
    code, printed, _ = carillon("vapid", "create", CARILLON_ENV="production", PORT="many")

    made = dict(line.split("=", 1) for line in printed.splitlines())
    assert code == 0
    assert read_private(made["VAPID_PRIVATE_KEY"]).public_key == read_public(made["VAPID_PUBLIC_KEY"])


async def test_a_key_is_shown_rotated_and_retired(database: str, ring: KeyRing) -> None:
    old, settings = ring.current.id, installed(database)

    before = carillon("vapid", "show", **settings)
    rotated = carillon("vapid", "rotate", **settings)
    await ring.load()
    after = carillon("vapid", "show", **settings)
    refused = carillon("vapid", "retire", ring.current.id, **settings)
    retired = carillon("vapid", "retire", old, **settings)

    assert before[1].split()[:2] == [old, "current"]
    assert rotated[1].startswith(f"{ring.current.id} is current")
    assert [line.split()[:2] for line in after[1].splitlines()] == [
        [ring.current.id, "current"],
        [old, "sending"],
    ]
    assert (refused[0], "rotate first" in refused[2]) == (1, True)
    assert retired[1] == f"{old} is retired: 0 browsers must subscribe again\n"
    assert not any(private_text(ring.current) in said for said in (*rotated[1:], *after[1:]))


async def test_where_the_environment_names_the_key_it_is_rotated_there(database: str, ring: KeyRing) -> None:
    given = new_key()
    settings = installed(database, VAPID_PRIVATE_KEY=private_text(given))

    refused = carillon("vapid", "rotate", **settings)
    shown = carillon("vapid", "show", **settings)

    assert (refused[0], "VAPID_PRIVATE_KEY says which key is current" in refused[2]) == (2, True)
    assert f"{given.id}  becomes current at the next start" in shown[1]
    assert [key.state for key in await ring.all()] == ["current"]


async def test_doctor_tells_a_contact_that_apple_refuses_and_a_key_that_signs(
    database: str, ring: KeyRing
) -> None:
    local = carillon("doctor", **installed(database, VAPID_EMAIL="ops@localhost"))
    none = carillon("doctor", **installed(database))
    good = carillon("doctor", **installed(database, VAPID_EMAIL="ops@school.example"))

    assert "WARN  VAPID_EMAIL: is of a domain that nobody outside knows" in local[1]
    assert "WARN  VAPID_EMAIL: is not set" in none[1]
    assert "ok    VAPID_EMAIL" in good[1]
    assert f"ok    VAPID key: {ring.current.id} is current" in good[1]


async def test_doctor_tells_a_key_that_does_not_open(database: str, ring: KeyRing) -> None:
    other = "other:" + b64encode(b"o" * 32).decode()

    said = carillon("doctor", **installed(database, DELIVERY_ENCRYPTION_KEYS=other))

    assert said[0] == 1
    assert (
        f"FAIL  VAPID key: the VAPID key {ring.current.id} is sealed with a key that is not here" in said[1]
    )
    assert "mend: put the lost key back into DELIVERY_ENCRYPTION_KEYS" in said[1]


async def test_doctor_tells_halves_of_a_key_that_do_not_fit(database: str, ring: KeyRing) -> None:
    opened = await open_database(DatabaseSettings(url=database))
    async with opened.connection() as connection:
        await connection.execute("UPDATE vapid_keys SET public_key = $1", new_key().public_key)
    await opened.close()

    said = carillon("doctor", **installed(database))

    assert said[0] == 1
    assert f"FAIL  VAPID key: {ring.current.id}: its two halves do not fit" in said[1]
