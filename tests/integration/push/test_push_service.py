"""The push service of the tests takes what the RFCs allow and nothing else: else its silence would prove nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest

from core.keys import encode_base64url
from push.encryption import encrypt
from push.keys import VapidKey, new_key
from tests.providers.push_service import Device, PushService

KEY, OTHER = new_key(), new_key()


class Request(NamedTuple):
    """One push as it is written on the wire."""

    head: str
    headers: dict[str, str]
    body: bytes


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[PushService]:
    async with PushService(tmp_path) as service:
        yield service


def vapid(service: PushService, *, key: VapidKey = KEY, shown: VapidKey = KEY, **changes: Any) -> str:
    """The header of RFC 8292 §3, signed by one key and naming another."""
    claims = {"aud": service.origin, "exp": int(time.time()) + 3600, "sub": "mailto:ops@example.org"}
    token = jwt.encode({**claims, **changes}, key.private_key, algorithm="ES256")
    return f"vapid t={token}, k={encode_base64url(shown.public_key)}"


def request(service: PushService, device: Device, **headers: str | None) -> Request:
    body = encrypt(b"{}", device.browser.p256dh, device.browser.auth, pad_to=256)
    given = {
        "host": service.host,
        "authorization": vapid(service),
        "ttl": "60",
        "urgency": "normal",
        "content-encoding": "aes128gcm",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    target = f"POST /wpush/v2/{device.token} HTTP/1.1"
    return Request(target, {name: value for name, value in given.items() if value is not None}, body)


def taken(service: PushService, asked: Request) -> int:
    return service.take(asked.head.encode(), asked.headers, asked.body).status


async def test_a_push_by_the_book_is_taken_and_its_token_may_be_used_again(service: PushService) -> None:
    device = service.subscribe(KEY)
    asked = request(service, device, topic="a" * 32)

    assert [taken(service, asked), taken(service, asked)] == [201, 201]
    assert list(service.tokens.values()) == [2]


_CLAIMS: dict[str, Callable[[PushService], str]] = {
    "signed by another": lambda service: vapid(service, key=OTHER),
    "another key": lambda service: vapid(service, key=OTHER, shown=OTHER),
    "another aud": lambda service: vapid(service, aud="https://fcm.googleapis.com"),
    "an aud with a path": lambda service: vapid(service, aud=f"{service.origin}/"),
    "expired": lambda service: vapid(service, exp=int(time.time()) - 1),
    "longer than a day": lambda service: vapid(service, exp=int(time.time()) + 25 * 3600),
    "exp as text": lambda service: vapid(service, exp=str(int(time.time()) + 3600)),
    "exp as a fraction": lambda service: vapid(service, exp=time.time() + 3600.5),
    "nobody answerable": lambda service: vapid(service, sub="ops"),
    "another scheme": lambda service: vapid(service).replace("vapid", "WebPush"),
}


@pytest.mark.parametrize("name", _CLAIMS)
async def test_who_introduces_itself_otherwise_is_refused(service: PushService, name: str) -> None:
    device = service.subscribe(KEY)

    status = taken(service, request(service, device, authorization=_CLAIMS[name](service)))

    assert status in (401, 403)
    assert device.pushes == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ttl": None},
        {"ttl": "-1"},
        {"ttl": "soon"},
        {"urgency": "urgent"},
        {"urgency": None},
        {"topic": "a" * 33},
        {"topic": "a+b"},
        {"topic": ""},
        {"content_encoding": "aesgcm"},
        {"content_encoding": None},
        {"crypto_key": "dh=x"},
        {"transfer_encoding": "chunked"},
        {"authorization": None},
        {"host": "fcm.googleapis.com"},
    ],
    ids=str,
)
async def test_headers_that_no_rfc_allows_are_refused(
    service: PushService, headers: dict[str, str | None]
) -> None:
    device = service.subscribe(KEY)

    assert taken(service, request(service, device, **headers)) >= 400
    assert device.pushes == []


def _records(body: bytes) -> bytes:
    return body[:16] + (60).to_bytes(4) + body[20:]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda body: body + bytes(4097 - len(body)), 413),
        (lambda body: body[:-1] + bytes([body[-1] ^ 1]), 400),
        (lambda body: body[:16] + (4095).to_bytes(4) + body[20:], 400),
        (_records, 400),  # of a size that makes it several
        (lambda body: body[:20] + b"\x00" + body[86:], 400),
        (lambda body: b"", 400),
    ],
    ids=["too large", "damaged", "another record size", "several records", "no key", "nothing"],
)
async def test_bodies_that_a_browser_drops_are_refused(
    service: PushService, change: Callable[[bytes], bytes], status: int
) -> None:
    device = service.subscribe(KEY)
    asked = request(service, device)

    assert taken(service, asked._replace(body=change(asked.body))) == status
    assert device.pushes == []
