"""
The whole service for tests: `python -m app serve` as a process of its own, with an environment of its own,
known by its process id; and several of them as one installation.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from core.identity import mint
from core.keys import Key
from tests.servers import RedisServer

ROOT = Path(__file__).parents[1]
SECRET = "the secret of these tests, 32 bytes or more"
ENCRYPTION_KEYS = "test:" + "dnZ2" * 10 + "dnY="

#: What makes one address able to play many people, and an end that need not be waited for.
ROOMY = {
    "HUB_CONNECTIONS_PER_IP": "100000",
    "HUB_SILENT_PER_IP": "100000",
    "HUB_HANDSHAKE_RATE": "100000/100000",
    "HUB_DRAIN": "0",
}

_DEADLINE_S = 120.0


def token(user_id: str = "ada", tenant_id: str = "default", life: float = 3600, **rights: Any) -> str:
    """life: seconds from now, below zero for one that has expired. rights: as core.identity.mint has them."""
    now = datetime.now(UTC).timestamp()
    issued = now if life > 0 else now + life - 60
    seconds = timedelta(seconds=life if life > 0 else 60)
    return mint(Key.secret(SECRET), user_id, now=issued, life=seconds, tenant_id=tenant_id, **rights)


def service(tenant_id: str = "default") -> str:
    """A token of one of the installation's own services."""
    return token("a-service", tenant_id, roles=["service"])


def admin(tenant_id: str = "default") -> str:
    return token("an-admin", tenant_id, roles=["admin"])


class StartRefused(Exception):
    """The process ended before it was ready."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"exit code {code}:\n{log}")
        self.code = code
        self.log = log


class ServiceProcess:
    """
    One process (with `--workers`: one supervisor and its children), for as long as the context lasts.

    settings: its whole environment, besides PATH, HOME and the form of the log. entry: what Python runs.
    processes: that must be ready, of this role.
    """

    def __init__(
        self,
        *arguments: str,
        settings: Mapping[str, str],
        entry: Sequence[str] = ("-m", "app", "serve", "--port", "0"),
        processes: int = 1,
        role: str = "web",
    ) -> None:
        self._command = [sys.executable, *entry, *arguments]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = {**inherited, "LOG_FORMAT": "json", **settings}
        self._folder = TemporaryDirectory(prefix="carillon-process-")
        self._process: asyncio.subprocess.Process | None = None
        self._processes = processes
        self._role = role
        self.port = 0

    @property
    def log(self) -> str:
        """Everything it has logged, over all its lives."""
        return self._log_file.read_text(errors="replace")

    @property
    def printed(self) -> str:
        """Everything it has said to whoever started it, over all its lives."""
        return self._printed_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return Path(self._folder.name) / "stderr"

    @property
    def _printed_file(self) -> Path:
        return Path(self._folder.name) / "stdout"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/notify"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Return when it accepts connections. Raises StartRefused."""
        with self._log_file.open("ab") as log, self._printed_file.open("ab") as printed:
            logged = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=ROOT, env=self._environment, stdout=printed, stderr=log
            )
        async with asyncio.timeout(_DEADLINE_S):
            while not self._is_ready(self.log[logged:]):
                if not self.running:
                    raise StartRefused(self._process.returncode or 0, self.log[logged:])
                await asyncio.sleep(0.02)

    def _is_ready(self, log: str) -> bool:
        events = _events(log)
        ready = [event for event in events if event.get("event") == "ready" and self._role in event["roles"]]
        if len(ready) < self._processes:
            return False
        self.port = ready[0]["port"]
        return True

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self, seconds: float = _DEADLINE_S) -> int:
        """Wait for its end; the exit code, or the signal that ended it as a negative number."""
        assert self._process is not None, "not started"
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """kill -9: no goodbye to anybody."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM, and wait for the orderly end."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    @property
    def resident_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))

    def faults(self) -> list[str]:
        """What it has logged as an error, and whatever has come past the log: tracebacks, warnings of Python."""
        grave = ("error", "critical")
        return [str(event) for event in _events(self.log) if event.get("level", "error") in grave]

    async def logged(self, event: str, count: int = 1, seconds: float = 90) -> None:
        """Wait until it has logged an event so many times."""
        async with asyncio.timeout(seconds):
            while sum(one.get("event") == event for one in _events(self.log)) < count:
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        """However it stands: nothing of it is left."""
        if self.running:
            children = self.children()
            self.thaw()
            try:
                self.signal(signal.SIGTERM)
                await self.ended(15)
            except TimeoutError:
                await self.kill()
            for child in children:
                if child.is_running():
                    child.kill()
        self._folder.cleanup()


def _events(log: str) -> list[dict[str, Any]]:
    """The events of a log; a line that is none stands for itself."""
    events = []
    for line in log.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # half a line is still being written, or somebody wrote past the log
            events.append({"line": line})
    return events


class Node(ServiceProcess):
    """One process of an installation, and what is asked of it."""

    def __init__(self, *arguments: str, settings: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, settings=settings, **options)
        self._http = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=50))

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        as_: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """as_: the token or API key to show."""
        shown = {} if as_ is None else {"Authorization": f"Bearer {as_}"}
        content = {} if body is None else {"json": body}
        return await self._http.request(
            method, f"{self.url}{path}", headers={**shown, **(headers or {})}, **content
        )

    async def notify(self, title: str = "Ding", **members: Any) -> httpx.Response:
        """POST /api/v1/notifications by a service; members: `user_id` and others of the body."""
        return await self.ask(
            "POST",
            "/api/v1/notifications",
            {"title": title, "message": "There is news.", **members},
            as_=service(),
        )

    async def broadcast(self, title: str = "Ding", **members: Any) -> httpx.Response:
        """POST /internal/broadcast by a service, to the whole tenant unless members name somebody."""
        target = {} if members.keys() & {"user_id", "user_ids", "topic"} else {"broadcast_to_tenant": True}
        body = {"title": title, "message": "There is news.", **target, **members}
        return await self.ask("POST", "/internal/broadcast", body, as_=service())

    async def metric(self, name: str) -> float:
        """The sum of one metric over its labels."""
        text = (await self.ask("GET", "/metrics", as_=admin())).text
        values = re.findall(rf"^{re.escape(name)}(?:_total)?(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert values, f"no metric {name} in:\n{text}"
        return sum(map(float, values))

    async def metric_is(self, name: str, wanted: Callable[[float], bool], seconds: float = 60) -> None:
        """Wait until a metric is as wanted."""
        async with asyncio.timeout(seconds):
            while not wanted(await self.metric(name)):
                await asyncio.sleep(0.02)

    async def _end(self) -> None:
        await self._http.aclose()
        await super()._end()


@asynccontextmanager
async def nodes(
    dsn: str,
    count: int = 1,
    *,
    redis: RedisServer | None = None,
    allow_faults: bool = False,
    entry: Sequence[str] | None = None,
    role: str | None = None,
    **settings: str,
) -> AsyncIterator[list[Node]]:
    """
    Several processes on one database, and on one Redis where there is one. role: all that they do; None: everything.

    A node that has logged an error fails the test at its end, unless faults are what the test is about.
    """
    given = {
        "DATABASE_URL": dsn,
        "JWT_SECRET_KEY": SECRET,
        "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        **ROOMY,
    }
    if redis is not None:
        given["REDIS_URL"] = redis.url
    options: dict[str, Any] = {} if entry is None else {"entry": entry}
    if role is not None:
        given["CARILLON_ROLES"] = options["role"] = role
    started = [
        Node(settings={**given, "CARILLON_NODE": f"{role or 'node'}-{number}", **settings}, **options)
        for number in range(count)
    ]
    try:
        await asyncio.gather(*(node.start() for node in started))
        yield started
        if not allow_faults:
            faults = [fault for node in started for fault in node.faults()]
            assert not faults, "\n".join(faults)
    finally:
        await asyncio.gather(*(node._end() for node in started))
