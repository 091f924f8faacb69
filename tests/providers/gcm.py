"""
Google's push service on loopback, for Chromium: check-in, registration and the stream of messages (MCS) that
browsers hold, and the endpoint that senders post to (FCM as a Web Push service).

Only what Chromium's client asks for (components/gcm_driver, google_apis/gcm/protocol). It tells nobody whether it
could decrypt: silence is its only complaint.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.providers.autopush import decode, refusal
from tests.providers.server import ProviderServer, Received, answer

#: By which of them a browser's endpoint is called depends on who built it.
HOSTS = ("fcm.googleapis.com", "jmt17.google.com")

_VERSION = 41  # of MCS
_PING, _PONG, _LOGIN, _LOGGED_IN, _MESSAGE = 0, 1, 2, 3, 8

#: A whole number, text, or bytes; `Fixed` where it takes eight bytes.
Value = int | str | bytes


class Fixed(int):
    """fixed64."""


@dataclass(slots=True)
class Registered:
    """One subscription. sender: the key of the page, base64url; app and subtype: where its messages go."""

    token: str
    app: str
    sender: str
    subtype: str
    is_gone: bool = False
    posted: list[Received] = field(default_factory=list)


class Gcm(ProviderServer):
    """All of it. `arguments` are for the browser; senders find HOSTS at `port`."""

    def __init__(self, tls: ssl.SSLContext, certificate: Path) -> None:
        super().__init__(tls)
        self.registered: dict[str, Registered] = {}  # by token
        self._certificate = certificate
        self._streams: set[asyncio.StreamWriter] = set()
        self._waiting: list[bytes] = []  # no browser is there
        self._moved = asyncio.Condition()
        self._runner_for_browsers: web.AppRunner | None = None
        self._stream_server: asyncio.Server | None = None

    @property
    def live(self) -> list[Registered]:
        return [one for one in self.registered.values() if not one.is_gone]

    @property
    def arguments(self) -> list[str]:
        assert self._runner_for_browsers is not None
        assert self._stream_server is not None
        plain = f"http://127.0.0.1:{self._runner_for_browsers.addresses[0][1]}"
        stream = self._stream_server.sockets[0].getsockname()[1]
        key = x509.load_pem_x509_certificate(self._certificate.read_bytes()).public_key()
        known = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        return [
            f"--gcm-checkin-url={plain}/checkin",
            f"--gcm-registration-url={plain}/register",
            f"--gcm-mcs-endpoint=https://localhost:{stream}",
            f"--ignore-certificate-errors-spki-list={b64encode(known).decode()}",
        ]

    async def start(self) -> None:
        await super().start()
        app = web.Application()
        app.router.add_post("/checkin", self._check_in)
        app.router.add_post("/register", self._register)
        self._runner_for_browsers = web.AppRunner(app, shutdown_timeout=0)
        await self._runner_for_browsers.setup()
        await web.TCPSite(self._runner_for_browsers, "127.0.0.1", 0).start()
        self._stream_server = await asyncio.start_server(self._stream, "localhost", 0, ssl=self._tls)

    async def stop(self) -> None:
        for writer in list(self._streams):
            writer.close()
        if self._stream_server is not None:
            self._stream_server.close()
        if self._runner_for_browsers is not None:
            await self._runner_for_browsers.cleanup()
        await super().stop()

    async def until(self, condition: Any, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds), self._moved:
            await self._moved.wait_for(condition)

    # -- senders ---------------------------------------------------------------------------------

    async def take(self, request: Received) -> web.Response:
        one = self.registered.get(request.path.rpartition("/")[2])
        if one is None:
            return answer(404, "A valid push subscription endpoint should be specified")
        if one.is_gone:
            return answer(410, "push subscription has unsubscribed or expired.")
        host = request.headers["Host"]
        refused = refusal(request, f"https://{host}", decode(one.sender))
        if host not in HOSTS or refused is not None:
            status, _, words = refused or (404, 0, "another host")
            return answer(403 if status == 401 else status, words)
        one.posted.append(request)
        self.accepted.append(request)
        self.deliver(one, request.body, int(request.headers["TTL"]))
        await self._tell()
        return answer(201, "", {"Location": f"https://{host}/0:{uuid4().hex}"})

    def deliver(self, one: Registered, body: bytes, ttl: int = 60) -> None:
        """Hand it to the browser, now or when it is there. ttl: seconds."""
        fields: list[tuple[int, Value]] = [(3, one.sender), (5, one.app)]
        known = {"subtype": one.subtype}
        if body:
            known["content-encoding"] = "aes128gcm"
        fields += [(7, _message([(1, name), (2, value)])) for name, value in known.items()]
        fields += [(9, uuid4().hex), (17, ttl), (18, _now_ms()), (21, body)]
        frame = _frame(_MESSAGE, _message(fields))
        if not self._streams:
            self._waiting.append(frame)
        for writer in self._streams:
            writer.write(frame)

    # -- browsers --------------------------------------------------------------------------------

    async def _check_in(self, request: web.Request) -> web.Response:
        await request.read()
        fields: list[tuple[int, Value]] = [
            (1, 1),
            (3, _now_ms()),
            (7, Fixed(0x1234567)),
            (8, Fixed(0x7654321)),
        ]
        return web.Response(body=_message(fields), content_type="application/x-protobuffer")

    async def _register(self, request: web.Request) -> web.Response:
        form: Mapping[str, Any] = await request.post()
        subtype = form.get("X-subtype", "")
        if form.get("delete") == "true":
            for one in self.live:
                one.is_gone |= one.subtype == subtype or not subtype
            await self._tell()
            return web.Response(text=f"deleted={form.get('app', '')}")
        one = Registered(uuid4().hex, form["app"], form["sender"], subtype)
        self.registered[one.token] = one
        await self._tell()
        return web.Response(text=f"token={one.token}")

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await reader.readexactly(1)  # its version
            while True:
                tag = (await reader.readexactly(1))[0]
                await reader.readexactly(await _read_varint(reader))
                if tag == _LOGIN:
                    welcome = _frame(_LOGGED_IN, _message([(1, "login"), (8, _now_ms())]))
                    writer.write(bytes([_VERSION]) + welcome)
                    self._streams.add(writer)
                    for frame in self._waiting:
                        writer.write(frame)
                    self._waiting.clear()
                elif tag == _PING:
                    writer.write(_frame(_PONG, b""))
        self._streams.discard(writer)
        writer.close()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def _now_ms() -> int:
    return int(time.time() * 1000)


# -- protocol buffers (protobuf.dev/programming-guides/encoding) -----------------------------------


def _varint(number: int) -> bytes:
    return bytes(_groups(number))


def _groups(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


async def _read_varint(reader: asyncio.StreamReader) -> int:
    number = shift = 0
    while True:
        group = (await reader.readexactly(1))[0]
        number |= (group & 0x7F) << shift
        shift += 7
        if not group & 0x80:
            return number


def _message(fields: list[tuple[int, Value]]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, Fixed):
        return _varint(number << 3 | 1) + value.to_bytes(8, "little")
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _frame(tag: int, payload: bytes) -> bytes:
    return bytes([tag]) + _varint(len(payload)) + payload
