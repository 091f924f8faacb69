"""
A push service on loopback, over TLS: stricter than those of the browsers, and it breaks on demand.

It takes a push only if RFC 8030, 8188, 8291 and 8292 have nothing to say against it and the browser can read it.
Raw sockets, so that an answer can be any bytes and a connection can end anywhere.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from core.keys import decode_base64url
from push.keys import VapidKey
from push.subscription import Subscription
from tests.providers.certificates import certificate
from tests.push_browser import Browser, Undecipherable

_DAY_S = 24 * 60 * 60
_URGENCIES = frozenset({"very-low", "low", "normal", "high"})
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_VAPID = re.compile(r"vapid t=([A-Za-z0-9_.-]+), ?k=([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One message that was taken."""

    text: bytes
    ttl: int
    urgency: str
    topic: str | None
    size: int  # of the body
    headers: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Device:
    """One browser with its subscription. pushes: what it has been sent."""

    token: str
    browser: Browser
    server_key: bytes
    is_gone: bool = False
    pushes: list[Push] = field(default_factory=list)


# --- what it does instead of answering as it should ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """Answer this, and take nothing. close: and end the connection."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    close: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Write these bytes. then: go on reading requests, end the connection, or say nothing more."""

    data: bytes
    then: str = "close"


@dataclass(frozen=True, slots=True)
class Silence:
    """Take it, and never answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection (RST). taken: after the push was taken."""

    taken: bool


Fault = Say | Raw | Silence | Reset


class PushService:
    """
    One push service with a name that it does not have in any DNS: `resolve` says where it is.

    script: one for each of the next requests, in order. fault_of: asked when the script is empty.
    refusals: why it has refused what was not scripted; a well-behaved sender adds none.
    """

    def __init__(self, folder: Path, host: str = "updates.push.services.mozilla.com") -> None:
        self.host = host
        self.devices: dict[str, Device] = {}
        self.script: deque[Fault] = deque()
        self.fault_of: Callable[[str], Fault | None] = lambda _token: None
        self.refusals: Counter[str] = Counter()
        self.taken = 0
        self.requests = 0
        self.connections = 0
        self.handshakes: list[str | None] = []  # the names that were asked for
        self.tokens: Counter[str] = Counter()  # how often each VAPID token came
        self.request_heads: list[bytes] = []
        self.shares_sender_keys = False  # a sender may take one for several messages (PUSH_BATCH_KEY)
        self._bodies: dict[bytes, int] = {}  # by salt and by sender key: what they were used for
        self._tls, self.ca_file = certificate(folder, host)
        self._tls.sni_callback = self._on_name
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[_Session] = set()
        self._changed = asyncio.Event()

    @property
    def origin(self) -> str:
        return f"https://{self.host}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def resolve(self) -> frozenset[str]:
        """For PUSH_RESOLVE."""
        return frozenset({f"{self.origin}=127.0.0.1:{self._port}"})

    def subscribe(self, key: VapidKey) -> Device:
        """A browser that has subscribed with this server key."""
        device = Device(token=uuid4().hex, browser=Browser(), server_key=key.public_key)
        self.devices[device.token] = device
        return device

    def endpoint(self, device: Device) -> str:
        return f"{self.origin}/wpush/v2/{device.token}"

    def subscription(self, device: Device, key: VapidKey) -> Subscription:
        """As it is stored."""
        return Subscription(
            id=uuid4(),
            tenant_id="acme",
            user_id="anna",
            endpoint=self.endpoint(device),
            origin=self.origin,
            p256dh=device.browser.p256dh,
            auth=device.browser.auth,
            vapid_key_id=key.id,
        )

    async def wait_for(self, count: int, *, seconds: float = 60) -> None:
        """Return when so many requests have come since the start."""
        async with asyncio.timeout(seconds):
            while self.requests < count:
                self._changed.clear()
                await self._changed.wait()

    def hang_up(self) -> None:
        """Reset every connection that is open."""
        for session in tuple(self._open):
            session.reset()

    def end_behind_the_loops_back(self) -> None:
        """End every connection in the kernel, now: no loop has heard of it when this returns."""
        for session in tuple(self._open):
            number = os.dup(session.raw.fileno())
            with socket.socket(fileno=number) as raw:
                raw.shutdown(socket.SHUT_RDWR)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Session(self), "127.0.0.1", self._port, ssl=self._tls, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        ending = [session.ended for session in self._open]
        for session in tuple(self._open):
            session.abort()
        if ending:
            await asyncio.wait(ending, timeout=5)

    def _on_name(self, _socket: Any, name: str | None, _context: ssl.SSLContext) -> None:
        self.handshakes.append(name)

    # --- what it thinks of a request ---------------------------------------------------------------------------------

    def take(self, head: bytes, headers: Mapping[str, str], body: bytes) -> Say:
        """What a well-behaved push service answers."""
        line = head.partition(b"\r\n")[0].decode()
        method, target, _ = line.split(" ")
        refusal = self._look(method, target, headers, body)
        if isinstance(refusal, Say):
            return refusal
        self.taken += 1
        return Say(201, {"Location": f"{self.origin}/m/{self.taken}", "TTL": headers["ttl"]})

    def _look(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Say | None:
        device = self.devices.get(target.rpartition("/")[2])
        if method != "POST" or not target.startswith("/wpush/v2/"):
            return self._no(404, "no such resource")
        if device is None:
            return Say(404)
        if device.is_gone:
            return Say(410)
        if headers.get("host") != self.host:
            return self._no(400, "the host is another's")
        fault = self._introduced(device, headers.get("authorization", ""))
        if fault is not None:
            return self._no(*fault)
        if not headers.get("ttl", "").isdigit():
            return self._no(400, "no TTL")
        if headers.get("urgency") not in _URGENCIES:
            return self._no(400, "no such urgency")
        if "topic" in headers and not _TOPIC.fullmatch(headers["topic"]):
            return self._no(400, "no such topic")
        if headers.get("content-encoding") != "aes128gcm":
            return self._no(415, "another content encoding")
        if {"encryption", "crypto-key", "transfer-encoding"} & headers.keys():
            return self._no(400, "headers of another time")
        if self.host.endswith(".notify.windows.com"):
            wanted = "no-cache" if headers["ttl"] == "0" else "cache"
            if headers.get("x-wns-cache-policy") != wanted:
                described = {"X-WNS-Error-Description": "Ttl value conflicts with X-WNS-Cache-Policy."}
                self.refusals["cache policy"] += 1
                return Say(400, described)
        if len(body) > 4096:
            return self._no(413, "more than 4096 bytes")
        try:
            opened = device.browser.open(body)
        except Undecipherable as error:
            return self._no(400, str(error))
        if opened.record_size != 4096:
            return self._no(400, "another record size")
        fault_of_keys = self._used_before(body)
        if fault_of_keys is not None:
            return self._no(400, fault_of_keys)
        device.pushes.append(
            Push(
                text=opened.plaintext,
                ttl=int(headers["ttl"]),
                urgency=headers["urgency"],
                topic=headers.get("topic"),
                size=len(body),
                headers=headers,
            )
        )
        return None

    def _used_before(self, body: bytes) -> str | None:
        """What of a message was of another one before (RFC 8188 §2, RFC 8291 §3.1); the same may come twice."""
        parts = {"salt": body[:16], "sender key": body[21:86]}
        if self.shares_sender_keys:
            del parts["sender key"]
        for name, part in parts.items():
            if self._bodies.setdefault(part, hash(body)) != hash(body):
                return f"a {name} that was used before"
        return None

    def _introduced(self, device: Device, authorization: str) -> tuple[int, str] | None:
        """RFC 8292, as strictly as Mozilla and Apple together."""
        match = _VAPID.fullmatch(authorization)
        if match is None:
            return 401, "no vapid"
        token, key = match.groups()
        if decode_base64url(key) != device.server_key:
            return 403, "another key than it was subscribed with"
        self.tokens[token] += 1
        if self.tokens[token] > 1:  # it was looked at
            return None
        public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), device.server_key)
        try:
            claims = jwt.decode(
                token,
                public,
                algorithms=["ES256"],
                audience=self.origin,
                options={"require": ["aud", "exp", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            del self.tokens[token]
            return 401, f"token: {error}"
        if type(claims["exp"]) is not int or claims["exp"] > time.time() + _DAY_S:
            return 401, "token: longer than a day"
        if not str(claims["sub"]).startswith(("mailto:", "https://")):
            return 401, "token: nobody is answerable"
        return None

    def _no(self, status: int, why: str) -> Say:
        self.refusals[why] += 1
        return Say(status, body=why.encode())


class _Session(asyncio.Protocol):
    """One connection: request after request, each answered before the next is read."""

    def __init__(self, service: PushService) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._service = service
        self._buffer = bytearray()
        self._is_deaf = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's inherits nothing
        self._service.connections += 1
        self._service._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._service._open.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def raw(self) -> Any:
        """Its socket."""
        return self._transport.get_extra_info("socket")

    def reset(self) -> None:
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._is_deaf:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end])
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
            }
            size = int(headers["content-length"])
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._request(head, headers, body)

    def _request(self, head: bytes, headers: Mapping[str, str], body: bytes) -> None:
        service = self._service
        service.requests += 1
        service.request_heads.append(head)
        service._changed.set()
        token = head.partition(b"\r\n")[0].split(b" ")[1].decode().rpartition("/")[2]
        fault = service.script.popleft() if service.script else service.fault_of(token)
        match fault:
            case None:
                self._say(service.take(head, headers, body))
            case Say():
                self._say(fault)
            case Raw():
                self._transport.write(fault.data)
                self._is_deaf = fault.then != "go on"
                if fault.then == "close":
                    self._transport.close()
            case Silence():
                service.take(head, headers, body)
                self._is_deaf = True
            case Reset():
                if fault.taken:
                    service.take(head, headers, body)
                self._is_deaf = True
                self.reset()

    def _say(self, answer: Say) -> None:
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        if answer.close:
            headers["Connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport.write(f"HTTP/1.1 {answer.status} X\r\n{lines}\r\n".encode() + answer.body)
        if answer.close:
            self._transport.close()
