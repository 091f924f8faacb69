"""What a first run lacks: a database and a key. Taken from a wheel and made up, and said so."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple

from app.embedded import generated_secret, start_postgres
from app.settings import Settings

JWT_SECRET_FILE = "jwt_secret_key"
ENCRYPTION_KEY_FILE = "encryption_key"


class Prepared(NamedTuple):
    """Settings without a gap, and what was put into the gaps, for people to read."""

    settings: Settings
    notices: list[str]


@asynccontextmanager
async def prepared(settings: Settings) -> AsyncIterator[Prepared]:
    """
    Fill in what development may lack; in production nothing is missing (app/settings.py has seen to it).

    Raises ClusterError when the embedded PostgreSQL cannot be had.
    """
    notices: list[str] = []
    state = settings.process.state
    if settings.secrets.jwt_secret_key is None and not settings.production:
        secret = generated_secret(state, JWT_SECRET_FILE)
        settings = dataclasses.replace(
            settings, secrets=dataclasses.replace(settings.secrets, jwt_secret_key=secret)
        )
        notices.append(f"JWT_SECRET_KEY is not set: using the key generated in {state / JWT_SECRET_FILE}")
    if settings.secrets.delivery_encryption_keys is None and not settings.production:
        secret = generated_secret(state, ENCRYPTION_KEY_FILE)
        # A secret is 32 bytes or more of text; the key is 32 bytes.
        key = b64encode(sha256(secret.encode()).digest()).decode()
        settings = dataclasses.replace(
            settings,
            secrets=dataclasses.replace(settings.secrets, delivery_encryption_keys=f"generated:{key}"),
        )
        notices.append(
            f"DELIVERY_ENCRYPTION_KEYS is not set: using the key generated in {state / ENCRYPTION_KEY_FILE}"
        )
    if settings.database.url:
        yield Prepared(settings, notices)
        return
    postgres = await start_postgres(state)
    notices.append(f"DATABASE_URL is not set: using a PostgreSQL of our own, with its data in {state}/")
    try:
        database = dataclasses.replace(settings.database, url=postgres.dsn)
        yield Prepared(dataclasses.replace(settings, database=database), notices)
    finally:
        await postgres.stop()
