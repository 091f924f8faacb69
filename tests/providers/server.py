"""
A provider on loopback that behaves like the real one, and breaks on demand.

A subclass says in `take` what the provider does with a request: check who asks and what for, act, answer. The
base keeps what came, waits for it, and lets the next requests meet faults.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request. headers: case-insensitive, with all values of a name (`getall`)."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: CIMultiDict[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> dict[str, str]:
        """The fields of an urlencoded body; one that comes twice fails the test."""
        pairs = parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True)
        assert len({name for name, _ in pairs}) == len(pairs), "a field came twice"
        return dict(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer this, and do nothing. body: text as it is, anything else as JSON."""

    status: int
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Be slow: act, and answer only when `release` is set (for ever, when nobody sets it)."""

    release: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Reset the connection (RST). taken: after the provider has acted, so that only its answer is lost."""

    taken: bool


Fault = Refuse | Hold | Reset


class ProviderServer:
    """
    HTTP on a free port of loopback.

    received: every request, whatever became of it. accepted: what the provider acts on; `take` adds to it.
    faults: one for each of the next requests, in order. fault_of: asked when `faults` is empty.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.accepted: list[Any] = []
        self.faults: deque[Fault] = deque()
        self.fault_of: Callable[[Received], Fault | None] = lambda _request: None
        self._tls = tls
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._seen: set[object] = set()

    @property
    def port(self) -> int:
        return self._port

    @property
    def connections(self) -> int:
        """How many connections brought requests."""
        return len(self._seen)

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def take(self, request: Received) -> web.Response:
        """What the provider does with a request."""
        raise NotImplementedError

    async def start(self) -> None:
        """On the port it had before, if it was stopped in between."""
        self._ended.clear()
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            "127.0.0.1",
            self._port,
            ssl_context=self._tls,
            reuse_address=True,
        )
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._ended.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def wait_for(self, count: int, *, accepted: bool = False, seconds: float = 60) -> None:
        """Return when so many requests have come (or were accepted) since the start."""
        async with asyncio.timeout(seconds):
            while len(self.accepted if accepted else self.received) < count:
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        self._seen.add(request.protocol)
        received = Received(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers=CIMultiDict(request.headers),
            body=await request.read(),
        )
        self.received.append(received)
        fault = self.faults.popleft() if self.faults else self.fault_of(received)
        self._changed.set()
        if isinstance(fault, Refuse):
            return answer(fault.status, fault.body, fault.headers)
        if isinstance(fault, Reset) and not fault.taken:
            return _reset(request.transport)
        response = await self.take(received)
        self._changed.set()
        if isinstance(fault, Reset):
            return _reset(request.transport)
        if isinstance(fault, Hold):
            await _either(fault.release, self._ended)
        return response


def answer(status: int, body: Any = "", headers: Mapping[str, str] | None = None) -> web.Response:
    """A response; text as it is, anything else as JSON."""
    if isinstance(body, str):
        return web.Response(status=status, text=body, headers=headers)
    return web.json_response(body, status=status, headers=headers)


def _reset(transport: asyncio.Transport) -> web.Response:
    """Close with RST: linger on, for no time at all."""
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return web.Response()


async def _either(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
