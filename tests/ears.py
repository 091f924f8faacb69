"""A broker's listener for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Ear:
    """Keeps what it hears, and lets a test wait for it."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.events: list[str] = []
        self.reasons: list[str] = []
        self.moments: list[float] = []  # time.perf_counter() of each event
        self._changed = asyncio.Event()

    def on_message(self, channel: str, message: bytes) -> None:
        self.messages.append((channel, message))
        self._changed.set()

    def on_lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self._note("lost")

    def on_restored(self) -> None:
        self._note("restored")

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Return when the condition holds, looking again after everything that is heard."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def heard(self, count: int) -> list[tuple[str, bytes]]:
        """The messages, once there are so many."""
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def event(self, name: str, *, after: int) -> float:
        """The moment of the first such event behind the first `after` events."""
        await self.until(lambda: name in self.events[after:])
        return self.moments[self.events.index(name, after)]

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.moments.append(time.perf_counter())
        self._changed.set()
