"""Senders of pushes as tests need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from core.clock import Clock, SystemClock
from push.guard import Guard, Resolver
from push.keys import PushSettings, VapidKey, new_key
from push.sender import PushSender, SenderSettings
from push.transport import KeepAliveTransport, Patience, Transport, trusting
from push.transport_aiohttp import AiohttpTransport
from tests.providers.push_service import PushService

TRANSPORTS = ("ours", "aiohttp")


class Ring:
    """Server keys that are in nobody's database."""

    def __init__(self, *keys: VapidKey) -> None:
        self._keys = {key.id: key for key in keys}

    async def find(self, key_id: str) -> VapidKey | None:
        return self._keys.get(key_id)


def settings_for(*services: PushService, **changes: Any) -> PushSettings:
    """Where these push services are found, and trusted."""
    given: dict[str, Any] = {
        "vapid_email": "push@example.org",
        "resolve": frozenset().union(*(service.resolve for service in services)),
        "ca_file": services[0].ca_file if services else None,
    }
    return PushSettings(**{**given, **changes})


def transport(
    kind: str,
    settings: PushSettings,
    *,
    patience: Patience | None = None,
    resolver: Resolver | None = None,
    ca_file: Path | None = None,
) -> tuple[Transport, Guard]:
    """One of TRANSPORTS, and the guard that it asks."""
    guard = Guard(settings, resolver)
    tls = trusting(ca_file or settings.ca_file)
    patience = patience or Patience(connect=timedelta(seconds=30), answer=timedelta(seconds=30))
    if kind == "aiohttp":
        return AiohttpTransport(guard, tls, patience), guard
    return KeepAliveTransport(guard, tls, patience), guard


def sender(
    *services: PushService,
    key: VapidKey,
    kind: str = "ours",
    patience: Patience | None = None,
    sending: SenderSettings | None = None,
    clock: Clock | None = None,
    **changes: Any,
) -> PushSender:
    """A sender that reaches these push services."""
    settings = settings_for(*services, **changes)
    made, _ = transport(kind, settings, patience=patience)
    return PushSender(
        settings,
        Ring(key, new_key()),
        clock or SystemClock(),
        sending=sending,
        transport=made,
    )


@asynccontextmanager
async def closing(made: PushSender) -> AsyncIterator[PushSender]:
    """The sender, closed at the end."""
    try:
        yield made
    finally:
        await made.close()
