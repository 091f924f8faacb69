"""The opening handshake as a server answers it (RFC 6455 section 4.2). Pure: a request in, bytes out."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

Headers = Sequence[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5
_TARGET = re.compile(rb"/[\x21-\x7e]*")  # origin-form; anything else is no address of ours
_NOT_OURS = frozenset((b"connection", b"sec-websocket-accept", b"sec-websocket-extensions", b"upgrade"))
_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
)


@dataclass(frozen=True, slots=True)
class Opening:
    """A client asks for a WebSocket, and may have one."""

    path: str  # decoded
    raw_path: bytes  # as it came
    query: bytes
    headers: list[tuple[bytes, bytes]]  # names in lower case
    subprotocols: list[str]  # offered, the preferred first
    key: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that cannot become a WebSocket, and the answer to it."""

    status: HTTPStatus
    reason: str  # for the developer of the client
    headers: tuple[tuple[bytes, bytes], ...] = ()


def opening(
    method: bytes,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    http_version: str = "1.1",
    max_bytes: int,
    max_headers: int,
) -> Opening | Refusal:
    """
    Judge one request whose `Upgrade: websocket` the HTTP server has seen (section 4.2.1).

    headers: names in lower case. max_bytes: of target, names and values together.
    """
    if len(headers) > max_headers:
        return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields")
    if len(target) + sum([len(name) + len(value) for name, value in headers]) > max_bytes:
        return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header fields too large")
    if method != b"GET" or http_version != "1.1":
        return Refusal(HTTPStatus.BAD_REQUEST, "a WebSocket is opened by GET and HTTP/1.1")
    if _TARGET.fullmatch(target) is None:
        return Refusal(HTTPStatus.BAD_REQUEST, "the request target is malformed")

    keys: list[bytes] = []
    versions: list[bytes] = []
    offers: list[bytes] = []
    for name, value in headers:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"sec-websocket-protocol":
            offers += value.split(b",")
    if versions != [b"13"]:
        return Refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
            ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")),
        )
    if len(keys) != 1 or not _is_nonce(keys[0]):
        return Refusal(HTTPStatus.BAD_REQUEST, "one Sec-WebSocket-Key of 16 bytes in Base64 is required")
    offers = [offer.strip(b" \t") for offer in offers]
    if not all(map(_TOKEN.fullmatch, offers)):
        return Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Protocol is malformed")

    raw_path, _, query = target.partition(b"?")
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return Opening(
        path=path.decode("utf-8", "replace"),
        raw_path=raw_path,
        query=query,
        headers=headers,
        subprotocols=[offer.decode("ascii") for offer in offers],
        key=keys[0],
    )


def _is_nonce(key: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False


def switching(key: bytes, headers: Headers, *, subprotocol: str | None = None) -> bytes:
    """
    The 101 that accepts an opening (section 4.2.2). Extensions are never accepted: frames are shared as they are.

    Raises ValueError for a header that would break the answer, or that is the handshake's own.
    """
    accept = base64.b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [_SWITCHING, accept, b"\r\n"]
    if subprotocol is not None:
        headers = [*headers, (b"sec-websocket-protocol", subprotocol.encode("ascii"))]
    for name, value in headers:
        if name.lower() in _NOT_OURS:
            raise ValueError(f"{name.decode('latin-1')} is the handshake's own header")
        lines += _field(name, value)
    lines.append(b"\r\n")
    return b"".join(lines)


def answer(status: int, headers: Headers, body: bytes = b"") -> bytes:
    """
    An HTTP answer after which the connection is closed. Content-Length and Connection are ours.

    Raises ValueError for a header that would break the answer and for a status outside 200..599.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no final status")
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    lines = [f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")]
    for name, value in headers:
        if name.lower() not in (b"content-length", b"connection", b"transfer-encoding"):
            lines += _field(name, value)
    lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    lines.append(body)
    return b"".join(lines)


_STATUSES = frozenset(status.value for status in HTTPStatus)


def _field(name: bytes, value: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    if _TOKEN.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
        raise ValueError(f"the header {name!r} is malformed")  # never the value: it may be a secret
    return name, b": ", value, b"\r\n"
