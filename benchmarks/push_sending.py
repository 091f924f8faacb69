"""
python -m benchmarks.push_sending [--rounds 5] [--node-modules DIR] [--json FILE]

Pushes end to end: encrypted, signed, and answered with 201 over TLS on kept connections by an endpoint in a process
of its own. Beside us pywebpush (`webpush_async`, one shared session) and web-push from npm (an agent that keeps
connections), round by round; then four of our processes at once beside one.

What is compared is pushes per second of processor time of the sender, so that neighbours on the machine matter little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast
from uuid import UUID

import aiohttp
import uvloop
from py_vapid import Vapid  # type: ignore[import-untyped]  # it has no types
from pywebpush import webpush_async  # type: ignore[import-untyped]  # it has no types

from core.clock import SystemClock
from push.keys import PushSettings, VapidKey, new_key, private_text
from push.sender import PushSender, SenderSettings
from push.subscription import Subscription
from tests.providers.certificates import certificate
from tests.push_browser import Browser, text

HOST = "push.example"
IN_FLIGHT = 64
PAYLOAD = b'{"title":"Build 5107 has failed","body":"' + b"x" * 940 + b'","url":"/builds/5107"}'
BROWSERS = 200
WARM_UP = 300

#: Pushes of one run: enough for a second or two of each.
PUSHES = {"ours": 4000, "pywebpush": 1200, "pywebpush, key prepared": 1200, "npm web-push": 500}


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

    @property
    def rate(self) -> float:
        return self.pushes / self.cpu


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


async def _ours(folder: Path, port: int, key: VapidKey, pushes: int) -> Ran:
    settings = PushSettings(
        vapid_email="push@example.org",
        resolve=frozenset({f"https://{HOST}=127.0.0.1:{port}"}),
        ca_file=folder / "loopback.pem",
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


SENDERS = {"ours": _ours, "pywebpush": _pywebpush, "pywebpush, key prepared": _pywebpush_prepared}


def _start(name: str, folder: Path, port: int, modules: Path | None) -> subprocess.Popen[str]:
    if name == "npm web-push":
        command = [
            "node", str(Path(__file__).with_suffix(".cjs")), str(modules), str(folder / "loopback.pem"), str(port),
            str(PUSHES[name]), str(WARM_UP), str(IN_FLIGHT), PAYLOAD.decode(),
        ]  # fmt: skip
    else:
        command = [sys.executable, "-m", "benchmarks.push_sending", "--send", name, str(folder), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _end(process: subprocess.Popen[str]) -> Ran:
    said, _ = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(f"a sender ended with {process.returncode}")
    return Ran(**json.loads(said))


# --- the comparison --------------------------------------------------------------------------------------------------


@contextmanager
def _endpoint(folder: Path) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.push_sending", "--serve", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def _compare(rounds: int, modules: Path | None) -> dict[str, list[Ran]]:
    names = [name for name in PUSHES if name in SENDERS or modules is not None]
    ran: dict[str, list[Ran]] = {name: [] for name in [*names, "ours, 4 at once"]}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with _endpoint(folder) as port:
            for _ in range(rounds):
                for name in names:
                    ran[name].append(_end(_start(name, folder, port, modules)))
                four = [_end(one) for one in [_start("ours", folder, port, None) for _ in range(4)]]
                together = Ran(
                    sum(one.pushes for one in four),
                    sum(one.cpu for one in four),
                    max(one.wall for one in four),
                )
                ran["ours, 4 at once"].append(together)
    return ran


def _print(ran: dict[str, list[Ran]]) -> None:
    print("| sender | pushes per CPU second | µs per push | wall pushes/s | ours is … times |")
    print("|---|---|---|---|---|")
    for name, runs in ran.items():
        rates = sorted(one.rate for one in runs)
        ratio = median(ours.rate / one.rate for ours, one in zip(ran["ours"], runs, strict=True))
        wall = median(one.pushes / one.wall for one in runs)
        print(
            f"| {name} | {median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f}) | {1e6 / median(rates):,.0f} "
            f"| {wall:,.0f} | {ratio:.2f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push_sending")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--node-modules", type=Path, help="where npm has put web-push; without it, npm's is left out"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve or options.send:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if options.serve:
                runner.run(_serve(options.serve))
            name, folder, port = options.send
            ran = runner.run(SENDERS[name](Path(folder), int(port), new_key(), PUSHES[name]))
        print(json.dumps(ran._asdict()))
        return 0
    modules = options.node_modules if shutil.which("node") else None
    if modules is None:
        print("npm web-push is left out: give --node-modules, and have node")
    results = _compare(options.rounds, modules and modules.resolve())
    _print(results)
    if options.json:
        kept = {name: [one._asdict() for one in runs] for name, runs in results.items()}
        options.json.write_text(json.dumps(kept, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
