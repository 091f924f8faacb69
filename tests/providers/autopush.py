"""
Mozilla's push service on loopback: what Firefox connects to and what senders post to (autopush, docs/http.md).

Browsers hold a WebSocket (plain, as the profile of the test's Firefox allows) and answer each message with a code:
100, decrypted and handed to the worker; 101, not decrypted. Senders speak HTTPS to the name of the real service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from tests.providers.server import ProviderServer, Received, answer

HOST = "updates.push.services.mozilla.com"

#: Codes of acknowledgement.
DELIVERED = 100

MAX_BODY = 4096  # of RFC 8030 section 7.2. The real service takes more, and then Chromium's does not deliver
LONGEST_TOKEN = timedelta(hours=24)


@dataclass(slots=True)
class Registered:
    """One subscription. key: the sender's, as the page gave it; empty: any."""

    browser: str
    channel: str
    token: str
    key: bytes
    is_gone: bool = False
    posted: list[Received] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"https://{HOST}/wpush/v2/{self.token}"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a browser said of one message."""

    version: str
    code: int


def decode(text: str) -> bytes:
    """Base64url, padded or not."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def refusal(request: Received, origin: str, key: bytes) -> tuple[int, int, str] | None:
    """
    Why a push service refuses this request: status, autopush's errno, words. None: it does not.

    RFC 8030 (TTL, body), RFC 8188 (one record), RFC 8292 (who sends, to whom, until when).
    """
    ttl = request.headers.get("TTL", "")
    if not ttl.isdigit():
        return 400, 111, "TTL"
    if len(request.body) > MAX_BODY:
        return 413, 104, "more than a push may have"
    if request.body and request.headers.get("Content-Encoding") != "aes128gcm":
        return 400, 110, "Content-Encoding"
    if request.body and not _is_one_record(request.body):
        return 400, 110, "not one record"
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if scheme != "vapid" or parts.keys() != {"t", "k"}:
        return 401, 109, "Authorization"
    sender = decode(parts["k"])
    if key and sender != key:
        return 401, 109, "another key than the subscription's"
    try:
        claims = jwt.decode(
            parts["t"],
            EllipticCurvePublicKey.from_encoded_point(SECP256R1(), sender),
            algorithms=["ES256"],
            audience=origin,
            options={"require": ["exp", "aud", "sub"]},
        )
    except jwt.InvalidTokenError as error:
        return 401, 109, str(error)
    if claims["exp"] > (datetime.now(UTC) + LONGEST_TOKEN).timestamp():
        return 401, 109, "exp is more than a day ahead"
    return None


def _is_one_record(body: bytes) -> bool:
    """salt 16, record size 4, length of the key 1, key; then one record, no longer than its size (RFC 8188)."""
    size = int.from_bytes(body[16:20])
    return len(body) - 21 - body[20] <= size


class Autopush(ProviderServer):
    """Both sides of it. `url_for_browsers` goes into the profile, `port` is where HOST is to be found."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)
        self.registered: dict[str, Registered] = {}  # by token
        self.acknowledged: list[Acknowledged] = []
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._waiting: list[tuple[str, dict[str, Any]]] = []  # for browsers that are away
        self._runner_for_browsers: web.AppRunner | None = None
        self._moved = asyncio.Condition()
        self._port_for_browsers = 0

    @property
    def url_for_browsers(self) -> str:
        return f"ws://127.0.0.1:{self._port_for_browsers}/"

    @property
    def origin(self) -> str:
        return f"https://{HOST}"

    @property
    def live(self) -> list[Registered]:
        return [one for one in self.registered.values() if not one.is_gone]

    async def start(self) -> None:
        await super().start()
        app = web.Application()
        app.router.add_get("/", self._browser)
        self._runner_for_browsers = web.AppRunner(app, shutdown_timeout=0)
        await self._runner_for_browsers.setup()
        site = web.TCPSite(self._runner_for_browsers, "127.0.0.1", self._port_for_browsers)
        await site.start()
        self._port_for_browsers = self._runner_for_browsers.addresses[0][1]

    async def stop(self) -> None:
        for socket in list(self._sockets.values()):
            await socket.close()
        if self._runner_for_browsers is not None:
            await self._runner_for_browsers.cleanup()
        await super().stop()

    async def until(self, condition: Any, seconds: float = 60) -> None:
        """Return when what came from browsers or senders makes it true."""
        async with asyncio.timeout(seconds), self._moved:
            await self._moved.wait_for(condition)

    async def forget_browsers(self) -> None:
        """Lose all state: browsers come back, meet a new name, and drop their subscriptions."""
        for one in self.live:
            one.is_gone = True
        for browser, socket in list(self._sockets.items()):
            del self._sockets[browser]
            await socket.close()

    # -- senders ---------------------------------------------------------------------------------

    async def take(self, request: Received) -> web.Response:
        one = self.registered.get(request.path.removeprefix("/wpush/v2/"))
        if one is None:
            return _problem(404, 102, "no such endpoint")
        if one.is_gone:
            return _problem(410, 106, "gone")
        refused = refusal(request, self.origin, one.key)
        if refused is not None:
            return _problem(*refused)
        one.posted.append(request)
        self.accepted.append(request)
        version = await self.deliver(one, request.body)
        await self._tell()
        return answer(201, "", {"Location": f"{self.origin}/m/{version}", "TTL": request.headers["TTL"]})

    async def deliver(self, one: Registered, body: bytes) -> str:
        """Hand it to the browser, now or when it is back; by which name it will be acknowledged."""
        version = uuid4().hex
        message: dict[str, Any] = {
            "messageType": "notification",
            "channelID": one.channel,
            "version": version,
        }
        if body:
            message["data"] = urlsafe_b64encode(body).rstrip(b"=").decode()
            message["headers"] = {"encoding": "aes128gcm"}
        socket = self._sockets.get(one.browser)
        if socket is None or socket.closed:
            self._waiting.append((one.browser, message))
        else:
            await socket.send_json(message)
        return version

    # -- browsers --------------------------------------------------------------------------------

    async def _browser(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("push-notification",), autoping=True)
        await socket.prepare(request)
        name = ""
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            kind = message.get("messageType")
            if kind == "hello":
                name = await self._hello(socket, message)
            elif kind == "register":
                await self._register(socket, name, message)
            elif kind == "unregister":
                self._unregister(name, message["channelID"])
                await socket.send_json({**message, "status": 200})
            elif kind == "ack":
                self.acknowledged += [
                    Acknowledged(one["version"], one.get("code", DELIVERED)) for one in message["updates"]
                ]
            elif kind is None:
                await socket.send_str("{}")  # a ping
            await self._tell()
        if self._sockets.get(name) is socket:
            del self._sockets[name]
        return socket

    async def _hello(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> str:
        known = {one.browser for one in self.live}
        name = message.get("uaid") if message.get("uaid") in known else uuid4().hex
        assert isinstance(name, str)
        self._sockets[name] = socket
        await socket.send_json(
            {"messageType": "hello", "status": 200, "uaid": name, "use_webpush": True, "broadcasts": {}}
        )
        waiting, self._waiting = self._waiting, []
        for browser, kept in waiting:
            if browser == name:
                await socket.send_json(kept)
            else:
                self._waiting.append((browser, kept))
        return name

    async def _register(self, socket: web.WebSocketResponse, name: str, message: dict[str, Any]) -> None:
        """
        A subscription is what the browser calls by one name, however often it asks: Firefox asks twice when a worker
        subscribes just while the connection becomes ready (PushServiceWebSocket.sys.mjs, _sendPendingRequests).
        """
        channel, key = message["channelID"], decode(message.get("key") or "")
        again = (one for one in self.live if (one.browser, one.channel, one.key) == (name, channel, key))
        one = next(again, None) or Registered(name, channel, uuid4().hex, key)
        self.registered[one.token] = one
        await socket.send_json(
            {
                "messageType": "register",
                "status": 200,
                "channelID": one.channel,
                "pushEndpoint": one.endpoint,
            }
        )

    def _unregister(self, name: str, channel: str) -> None:
        for one in self.registered.values():
            if one.browser == name and one.channel == channel:
                one.is_gone = True

    async def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):
            async with self._moved:
                self._moved.notify_all()


def _problem(status: int, errno: int, message: str) -> web.Response:
    headers = {"Cache-Control": "max-age=86400"} if status == 410 else None
    return answer(status, {"code": status, "errno": errno, "error": "", "message": message}, headers)
