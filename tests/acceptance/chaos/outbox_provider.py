"""Receivers of webhooks and an HTTP API for WhatsApp that count what they take, and fail as often as they are told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.providers.server import Fault, Hold, ProviderServer, Received, Refuse, Reset, answer

#: What goes wrong with a request, and in how many of a hundred: seventeen together, and FAILS_SLOWLY of the rest.
FAULTS = {
    "503": 6,
    "429": 1,
    "reset before it is taken": 3,
    "reset after it is taken": 3,
    "hang after it is taken": 2,
    "slow": 2,
}

FAILS_SLOWLY = 4  # of a hundred: a 500, after a while

RECEIVERS = 8
SLOW_S = 0.5


class Ledger:
    """
    What all providers together have taken, by name: the title of the notification.

    may_answer: cleared, they take what comes and say nothing.
    """

    def __init__(self, seed: int, share: float = 1.0) -> None:
        """share: of the faults above."""
        self.taken: Counter[str] = Counter()
        self.asked = 0
        self.done: Counter[str] = Counter()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._random = random.Random(seed)
        self._share = share

    def fault(self, _request: Received) -> Fault | None:
        self.asked += 1
        drawn = self._random.random() * 100
        for name, percent in FAULTS.items():
            drawn -= percent * self._share
            if drawn < 0:
                self.done[name] += 1
                return _fault(name)
        return None

    async def take(self, name: str) -> web.Response:
        if self._random.random() * 100 < FAILS_SLOWLY * self._share:
            self.done["500, slowly"] += 1
            await asyncio.sleep(SLOW_S)
            return answer(500)
        self.taken[name] += 1
        await self.may_answer.wait()
        return answer(200, {"success": True})


def _fault(name: str) -> Fault:
    match name:
        case "503":
            return Refuse(status=503)
        case "429":
            return Refuse(status=429, headers={"Retry-After": "1"})
        case "reset before it is taken" | "reset after it is taken":
            return Reset(taken="after" in name)
        case "hang after it is taken":
            return Hold()
    release = asyncio.Event()
    asyncio.get_running_loop().call_later(SLOW_S, release.set)
    return Hold(release=release)


class Receiver(ProviderServer):
    """Takes webhooks (POST /hook) and messages of WhatsApp (POST /send)."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self.fault_of = ledger.fault

    async def take(self, request: Received) -> web.Response:
        body = request.json()
        if request.path == "/send":
            title, _, _ = body["message"].partition("\n")
            return await self._ledger.take(title)
        assert request.headers["webhook-id"] == body["data"]["delivery_id"]
        return await self._ledger.take(body["data"]["title"])


class Providers:
    """Several receivers, each a host of its own to a breaker, for as long as the context lasts."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._receivers = [Receiver(ledger) for _ in range(RECEIVERS)]
        self._stack = AsyncExitStack()

    @property
    def settings(self) -> dict[str, str]:
        """What makes a worker use them."""
        return {
            "DELIVERY_WEBHOOK_PRIVATE": "on",
            "DELIVERY_WEBHOOK_HTTP": "on",
            "WHATSAPP_API_URL": f"{self._receivers[0].url}/send",
            "WHATSAPP_RATE": "0",
        }

    def hook(self, number: int) -> str:
        return f"{self._receivers[number % RECEIVERS].url}/hook"

    async def __aenter__(self) -> Self:
        for receiver in self._receivers:
            await self._stack.enter_async_context(receiver)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
