"""
Pushes end to end: encrypted, signed, and answered with 201 over TLS on kept connections by an endpoint in a process
of its own. CPU time of the sender, each run in a process of its own.

Beside us `pywebpush.webpush_async` over one shared session, with its key as text (as its README has it) and as an
object prepared beforehand; npm's web-push with an agent that keeps connections; and four of our processes at once,
which should cost no more for each push than one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast
from uuid import UUID

import aiohttp
import uvloop
from py_vapid import Vapid  # type: ignore[import-untyped]  # it has no types
from pywebpush import webpush_async  # type: ignore[import-untyped]  # it has no types

from benchmarks.push.part import Part, Target, microseconds, ratio
from core.clock import SystemClock
from push.keys import PushSettings, VapidKey, new_key, private_text
from push.sender import PushSender, SenderSettings
from push.subscription import Subscription
from tests.conformance.npm import prepare
from tests.providers.certificates import certificate
from tests.push_browser import Browser, text

FRESH, SHARED = "carillon, a key per message", "carillon, a key per 256 messages"
FOUR = "carillon, four processes at once"
REFERENCE, PREPARED = "pywebpush", "pywebpush, its key prepared"
NODE = "npm web-push"

HOST = "push.example"
IN_FLIGHT = 64
PAYLOAD = b'{"title":"Build 5107 has failed","body":"' + b"x" * 940 + b'","url":"/builds/5107"}'
BROWSERS = 200
WARM_UP = 300

#: Pushes of one run: enough for a second or two of each.
PUSHES = {FRESH: 4000, SHARED: 4000, REFERENCE: 1200, PREPARED: 1200, NODE: 500}


#: As long as those of the push services of browsers.
ANSWER = (
    b"HTTP/1.1 201 Created\r\nLocation: https://push.example/m/0:1763800000000000%0011223344556677\r\n"
    b"TTL: 60\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: SAMEORIGIN\r\nX-XSS-Protection: 0\r\n"
    b"Date: Sat, 22 Nov 2025 07:00:00 GMT\r\nContent-Length: 0\r\nContent-Type: text/html; charset=UTF-8\r\n"
    b'Alt-Svc: h3=":443"; ma=2592000\r\n\r\n'
)


class Ran(NamedTuple):
    """pushes sent in the time that was measured, the sender's processor time and wall time, in seconds."""

    pushes: int
    cpu: float
    wall: float


# --- the endpoint, in a process of its own ---------------------------------------------------------------------------


class _Taken(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's inherits nothing

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + size:
                return
            del self._buffer[: end + 4 + size]
            self._transport.write(
                b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n"
            )


async def _serve(folder: Path) -> None:
    context, _ = certificate(folder, HOST)
    server = await asyncio.get_running_loop().create_server(_Taken, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- the senders, each run in a process of its own -------------------------------------------------------------------


async def _run(send: Callable[[int], Awaitable[None]], pushes: int) -> Ran:
    """So many pushes, IN_FLIGHT at once, after a warm-up that is not counted."""

    async def some(numbers: Sequence[int]) -> None:
        left = iter(numbers)

        async def one_after_another() -> None:
            for number in left:
                await send(number)

        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))

    await some(range(WARM_UP))
    wall, cpu = time.perf_counter(), time.process_time()
    await some(range(pushes))
    return Ran(pushes, time.process_time() - cpu, time.perf_counter() - wall)


async def _ours(folder: Path, port: int, key: VapidKey, pushes: int, *, batch: int = 1) -> Ran:
    settings = PushSettings(
        vapid_email="push@example.org",
        resolve=frozenset({f"https://{HOST}=127.0.0.1:{port}"}),
        ca_file=folder / "loopback.pem",
        batch_key=batch,
    )
    subscriptions = [
        Subscription(
            id=UUID(int=number),
            tenant_id="t",
            user_id="u",
            endpoint=f"https://{HOST}/push/{number:0100}",
            origin=f"https://{HOST}",
            p256dh=browser.p256dh,
            auth=browser.auth,
            vapid_key_id=key.id,
        )
        for number, browser in enumerate(Browser() for _ in range(BROWSERS))
    ]

    class Keys:
        async def find(self, key_id: str) -> VapidKey | None:
            return key if key_id == key.id else None

    sender = PushSender(settings, Keys(), SystemClock(), sending=SenderSettings())

    async def send(number: int) -> None:
        result = await sender.send(
            subscriptions[number % BROWSERS], PAYLOAD, ttl=60, urgency="normal", topic=None
        )
        assert result.kind == "sent", result

    try:
        return await _run(send, pushes)
    finally:
        await sender.close()


async def _pywebpush(folder: Path, port: int, key: VapidKey, pushes: int) -> Ran:
    """With its key as text, as its documentation has it, and one session for all."""
    return await _webpush_async(folder, port, private_text(key), pushes)


async def _pywebpush_prepared(folder: Path, port: int, key: VapidKey, pushes: int) -> Ran:
    """With its key read once: the fastest way through its API."""
    return await _webpush_async(folder, port, Vapid(key.private_key), pushes)


async def _webpush_async(folder: Path, port: int, key: Any, pushes: int) -> Ran:
    browsers = [Browser() for _ in range(BROWSERS)]
    given = [
        {
            "endpoint": f"https://127.0.0.1:{port}/push/{number:0100}",
            "keys": {"p256dh": text(browser.p256dh), "auth": text(browser.auth)},
        }
        for number, browser in enumerate(browsers)
    ]
    context = ssl.create_default_context(cafile=str(folder / "loopback.pem"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=IN_FLIGHT)) as session:

        async def send(number: int) -> None:
            answer: Any = await webpush_async(
                given[number % BROWSERS],
                PAYLOAD.decode(),
                vapid_private_key=key,
                vapid_claims={"sub": "mailto:push@example.org"},
                ttl=60,
                timeout=30,
                aiohttp_session=session,
            )
            assert answer.status == 201
            answer.release()

        return await _run(send, pushes)


SENDERS: Mapping[str, Callable[[Path, int, VapidKey, int], Coroutine[Any, Any, Ran]]] = {
    FRESH: _ours,
    SHARED: partial(_ours, batch=256),
    REFERENCE: _pywebpush,
    PREPARED: _pywebpush_prepared,
}


# --- the comparison --------------------------------------------------------------------------------------------------


def run(rounds: int) -> str:
    """The table and verdicts of so many interleaved rounds."""
    modules = _modules()
    ran: dict[str, list[Ran]] = {name: [] for name in (*PUSHES, FOUR) if name != NODE or modules}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with endpoint(folder) as port:
            for _ in range(rounds):
                for name in PUSHES:
                    if name in ran:
                        ran[name].append(_end(_start(name, folder, port, modules)))
                four = [_end(one) for one in [_start(FRESH, folder, port, None) for _ in range(4)]]
                together = Ran(
                    sum(one.pushes for one in four),
                    sum(one.cpu for one in four),
                    max(one.wall for one in four),
                )
                ran[FOUR].append(together)
    return "\n".join(_lines(ran))


def _lines(ran: Mapping[str, Sequence[Ran]]) -> Iterator[str]:
    costs = {name: [one.cpu / one.pushes for one in runs] for name, runs in ran.items()}
    yield "| sender | µs per push | per CPU-second | per second | × pywebpush | × prepared |"
    yield "|---|---|---|---|---|---|"
    for name, runs in ran.items():
        rate = 1 / median(costs[name])
        wall = median(one.pushes / one.wall for one in runs)
        beside = f"{ratio(costs, name, REFERENCE):.2f} | {ratio(costs, name, PREPARED):.2f}"
        yield f"| {name} | {microseconds(costs[name])} | {rate:,.0f} | {wall:,.0f} | {beside} |"
    yield ""
    yield Target("end to end beside webpush_async with a shared session", 3.0).line(
        ratio(costs, FRESH, REFERENCE)
    )
    if NODE in ran:
        yield Target("end to end beside npm's web-push on kept connections", 8.0).line(
            ratio(costs, FRESH, NODE)
        )
    else:
        yield f"- {NODE} is left out: node or its packages are missing (tests/conformance/npm)"
    yield Target("four processes at once: what a push costs in one, as a share of it", 0.85).line(
        ratio(costs, FOUR, FRESH)
    )


def _modules() -> Path | None:
    """Where npm's web-push is; None where it is not."""
    try:
        prepare.prepare()
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(prepare.MODULES)


@contextmanager
def endpoint(folder: Path) -> Iterator[int]:
    """Its port. It answers every POST with 201; its certificate is `loopback.pem` in the folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.push.sending", "--serve", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _start(name: str, folder: Path, port: int, modules: Path | None) -> subprocess.Popen[str]:
    if name == NODE:
        command = [
            "node", str(Path(__file__).with_name("sending.cjs")), str(modules), str(folder / "loopback.pem"), str(port),
            str(PUSHES[name]), str(WARM_UP), str(IN_FLIGHT), PAYLOAD.decode(),
        ]  # fmt: skip
    else:
        command = [sys.executable, "-m", "benchmarks.push.sending", "--send", name, str(folder), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _end(process: subprocess.Popen[str]) -> Ran:
    said, _ = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(f"a sender ended with {process.returncode}")
    return Ran(**json.loads(said))


def main() -> None:
    """What the processes do that the comparison starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--send", nargs=3, metavar=("NAME", "FOLDER", "PORT"))
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.serve:
            runner.run(_serve(options.serve))
        else:
            name, folder, port = options.send
            ran = runner.run(SENDERS[name](Path(folder), int(port), new_key(), PUSHES[name]))
            print(json.dumps(ran._asdict()))


PART = Part("sending", "Pushes end to end", run)

if __name__ == "__main__":
    main()
