"""`carillon doctor`: looks at what usually goes wrong, and says how to mend it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Literal

import aiohttp
import jwt

from app import logs
from app.embedded import generated_secret
from app.first_run import JWT_SECRET_FILE, prepared
from app.migrate import pending
from app.settings import Settings
from core.clock import SystemClock
from core.database import Database, open_database
from core.errors import ServiceError
from core.keys import SECRET_MIN_BYTES, InvalidKey, read_jwks
from core.locale import TZDATA, is_timezone
from core.vault import SealBroken, Vault, read_keys
from digest.store import Digests
from hub.broker_redis import RedisBroker
from push.encryption import public_key
from push.keys import VapidKey, is_local
from push.keys_store import KeyRing
from push.vapid import Headers

Level = Literal["ok", "note", "warn", "fail"]

#: A clock that is wrong by more refuses good tokens (leeway 10 s) or accepts old ones.
CLOCK_NOTE_S, CLOCK_FAIL_S = 1.0, 5.0
OLDEST_POSTGRES = 140000
#: The patch levels from which the standard library's mail headers cannot be injected (CVE-2024-6923).
SAFE_PYTHON = {11: 10, 12: 5}
FILES_WANTED = 65_536


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    found: str
    mend: str = ""  # what to do about it; nothing when all is well


Look = Callable[[Settings], AsyncIterator[Finding]]


def development_secret(settings: Settings) -> str:
    """The generated key of a development installation."""
    return generated_secret(settings.process.state, JWT_SECRET_FILE)


async def run(settings: Settings) -> int:
    """Print all findings; 1 when something must be mended."""
    worst = 0
    async for finding in look(settings):
        mark = {"ok": "ok  ", "note": "note", "warn": "WARN", "fail": "FAIL"}[finding.level]
        print(f"{mark}  {finding.subject}: {logs.redact(finding.found)}")
        if finding.mend:
            print(f"      mend: {finding.mend}")
        worst = max(worst, 1 if finding.level == "fail" else 0)
    return worst


async def look(settings: Settings) -> AsyncIterator[Finding]:
    """Everything, in the order in which it is worth reading."""
    async for finding in _process(settings):
        yield finding
    async for finding in _keys(settings):
        yield finding
    async for finding in _contact(settings):
        yield finding
    try:
        async with prepared(settings) as (filled, notices):
            for notice in notices:
                yield Finding("note", "first run", notice, "fine for a try; set it for anything else")
            async for finding in _database(filled):
                yield finding
    except (ServiceError, OSError) as error:
        yield Finding(
            "fail", "PostgreSQL", str(error), "is DATABASE_URL right, and may this machine and user connect?"
        )
    async for finding in _redis(settings):
        yield finding


async def _process(settings: Settings) -> AsyncIterator[Finding]:
    yield Finding("ok", "settings", f"read, for {settings.process.env}")
    minor, patch = sys.version_info.minor, sys.version_info.micro
    found = f"{sys.version_info.major}.{minor}.{patch}"
    if patch < SAFE_PYTHON.get(minor, 0):
        yield Finding(
            "warn",
            "Python",
            f"{found} lets mail headers be injected (CVE-2024-6923)",
            f"update to 3.{minor}.{SAFE_PYTHON[minor]} or later",
        )
    else:
        yield Finding("ok", "Python", found)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FILES_WANTED:
        yield Finding(
            "warn",
            "open files",
            f"{files} at most, so about {max(files - 100, 0)} connections",
            f"ulimit -n {FILES_WANTED}, or LimitNOFILE= in the unit (the hard limit is {most})",
        )
    else:
        yield Finding("ok", "open files", str(files))
    tzdata = version("tzdata")
    age = date.today().year - int(tzdata.partition(".")[0])  # noqa: DTZ011 - a year is precise enough
    if age > 1:
        yield Finding("warn", "tzdata", f"{tzdata} is {age} years old", "pip install --upgrade tzdata")
    else:
        yield Finding("ok", "tzdata", tzdata)
    if settings.production and settings.endpoint.query_token:
        yield Finding(
            "note",
            "tokens in URLs",
            "/ws/notify?token= is accepted; proxies in front of this server may log it",
            "HUB_QUERY_TOKEN=off once your clients use tickets",
        )


async def _keys(settings: Settings) -> AsyncIterator[Finding]:
    secret = settings.secrets.jwt_secret_key
    if secret is not None and len(secret.encode()) < SECRET_MIN_BYTES:
        yield Finding(
            "warn",
            "JWT_SECRET_KEY",
            f"{len(secret.encode())} bytes can be guessed",
            'python3 -c "import secrets; print(secrets.token_urlsafe(48))"',
        )
    elif secret is not None:
        yield Finding(
            "ok", "JWT_SECRET_KEY", f"{len(secret.encode())} bytes, {settings.secrets.jwt_algorithm}"
        )
    if settings.jwks is None:
        return
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(settings.jwks.url) as answer,
        ):
            published = read_jwks(await answer.content.read(settings.jwks.max_bytes + 1))
        yield Finding("ok", "JWKS_URL", f"{len(published.keys)} keys, {len(published.refused)} refused")
    except (aiohttp.ClientError, TimeoutError, InvalidKey) as error:
        yield Finding(
            "fail", "JWKS_URL", f"{type(error).__name__}", "it must answer with the issuer's public keys"
        )


async def _contact(settings: Settings) -> AsyncIterator[Finding]:
    """The subject of VAPID tokens (RFC 8292 section 2.1). That a pair of keys fits is seen when settings are read."""
    subject = settings.push.subject
    if subject is None:
        yield Finding(
            "warn",
            "VAPID_EMAIL",
            "is not set: Apple refuses every push without a contact",
            "VAPID_EMAIL=a mail address of yours, or the https URL of a page that names one",
        )
    elif is_local(subject):
        yield Finding(
            "warn",
            "VAPID_EMAIL",
            "is of a domain that nobody outside knows: Apple answers 403 BadJwtToken",
            "take an address of a public domain",
        )
    else:
        yield Finding("ok", "VAPID_EMAIL", "a contact that push services accept")


async def _vapid(settings: Settings, database: Database) -> AsyncIterator[Finding]:
    """Whether the keys of Web Push open and sign, and whether pages get the one that the settings name."""
    vault = Vault(read_keys(settings.secrets.delivery_encryption_keys or ""))
    ring = KeyRing(database, vault, SystemClock())
    stored = [key for key in await ring.all() if key.state != "retired"]
    given = settings.push.key
    current = next((key for key in stored if key.state == "current"), None)
    if current is None:
        yield Finding(
            "note", "VAPID key", "none yet", "the first start makes one, or takes VAPID_PRIVATE_KEY"
        )
        return
    try:
        await ring.load()
    except SealBroken as error:
        yield Finding(
            "fail",
            "VAPID key",
            str(error),
            "put the lost key back into DELIVERY_ENCRYPTION_KEYS; or carillon vapid rotate, and browsers subscribe anew",
        )
        return
    for key in stored:
        if ring.get(key.id) is None:
            yield Finding(
                "fail",
                "VAPID key",
                f"{key.id} does not open: {key.subscriptions} browsers cannot be reached",
                f"put the lost key back into DELIVERY_ENCRYPTION_KEYS, or carillon vapid retire {key.id}",
            )
    if _signs(ring.current, current.public_key):
        others = f", {len(stored) - 1} before it still send" if len(stored) > 1 else ""
        yield Finding("ok", "VAPID key", f"{current.id} is current{others}")
    else:
        yield Finding(
            "fail",
            "VAPID key",
            f"{current.id}: its two halves do not fit",
            "carillon vapid rotate, and browsers subscribe anew",
        )
    if given is not None and given.id != current.id:
        yield Finding(
            "note",
            "VAPID key",
            f"VAPID_PRIVATE_KEY is another, {given.id}",
            "it becomes current when this installation is started with it",
        )


def _signs(key: VapidKey, public: bytes) -> bool:
    """Whether a push service that was told this public key accepts what we sign; asked of PyJWT, as one might be."""
    origin = "https://push.example"
    told = Headers(None).authorization(key, origin, datetime.now(UTC))
    token = told.removeprefix("vapid t=").partition(",")[0]
    try:
        jwt.decode(token, public_key(public), ["ES256"], audience=origin)
    except jwt.InvalidTokenError:
        return False
    return True


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    database = await open_database(settings.database)
    try:
        async for finding in _server(database):
            yield finding
        missing = await pending(settings.database.url)
        if missing:
            yield Finding("fail", "schema", f"lacks {', '.join(missing)}", "carillon migrate")
        else:
            yield Finding("ok", "schema", "up to date")
            async for finding in _vapid(settings, database):
                yield finding
            async for finding in _zones(database):
                yield finding
    finally:
        await database.close()


async def _zones(database: Database) -> AsyncIterator[Finding]:
    """Time zones that people with a digest have chosen and the data do not have (any more)."""
    chosen = await Digests(database).zones()
    gone = {name: people for name, people in sorted(chosen.items()) if not is_timezone(name)}
    for name, people in gone.items():
        yield Finding(
            "warn",
            "time zone",
            f"{name} is not in tzdata {TZDATA}: the digests of {people} go on by its last known offset",
            "have them choose another one (PUT /api/v1/digest/subscription), or go back to a release that has it",
        )
    if not gone:
        yield Finding("ok", "time zones", f"all {len(chosen)} that digests need are there")


async def _server(database: Database) -> AsyncIterator[Finding]:
    names = (
        "server_version_num",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "max_connections",
        "server_version",
    )
    async with database.connection() as connection:
        began = time.time()
        told = await connection.fetchval("SELECT clock_timestamp()")
        skew = abs((told - datetime.fromtimestamp((began + time.time()) / 2, UTC)).total_seconds())
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", names
        )
        standby = await connection.fetchval("SELECT pg_is_in_recovery()")
    values = {row["name"]: row["setting"] for row in rows}
    if int(values["server_version_num"]) < OLDEST_POSTGRES:
        yield Finding("fail", "PostgreSQL", values["server_version"], "14 or later is needed")
    elif standby:
        yield Finding(
            "fail", "PostgreSQL", "is a standby, which cannot store", "point DATABASE_URL at the primary"
        )
    else:
        yield Finding("ok", "PostgreSQL", values["server_version"])
    for name in ("fsync", "full_page_writes"):
        if values[name] != "on":
            yield Finding(
                "fail",
                name,
                f"{values[name]}: what was acknowledged is lost in a crash",
                f"ALTER SYSTEM SET {name} = on",
            )
    if values["synchronous_commit"] == "off":
        yield Finding(
            "fail",
            "synchronous_commit",
            "off: the last acknowledged notifications are lost in a crash",
            "ALTER SYSTEM SET synchronous_commit = on",
        )
    elif values["fsync"] == "on":
        yield Finding("ok", "durability", "commits are on disk when they are acknowledged")
    if skew >= CLOCK_FAIL_S:
        yield Finding(
            "fail", "clock", f"{skew:.1f} s away from the database's", "run an NTP client on both machines"
        )
    elif skew >= CLOCK_NOTE_S:
        yield Finding(
            "warn", "clock", f"{skew:.1f} s away from the database's", "run an NTP client on both machines"
        )
    else:
        yield Finding("ok", "clock", f"{skew * 1000:.0f} ms away from the database's")


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    if settings.redis is None:
        yield Finding("note", "Redis", "not set: one process only, which is fine for one machine")
        return
    broker = RedisBroker(settings.redis)

    class Ears:
        def on_message(self, channel: str, message: bytes) -> None: ...
        def on_lost(self, reason: str) -> None: ...
        def on_restored(self) -> None: ...

    began = time.monotonic()
    await broker.start(Ears())
    try:
        if broker.healthy:
            took = (time.monotonic() - began) * 1000
            yield Finding(
                "ok", "Redis", f"our own beat came back, {took:.0f} ms after the first attempt to connect"
            )
        else:
            yield Finding(
                "fail",
                "Redis",
                "no beat of ours came back",
                "is REDIS_URL right, and may this user publish and subscribe?",
            )
    finally:
        await broker.close()
