"""A browser that may be pushed to: where, and by which keys. Read from strangers, so held to the letter."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from dataclasses import dataclass, field
from urllib.parse import unquote
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

#: The longest endpoint that is stored; those of today's push services have 150 to 600 characters.
ENDPOINT_MAX_CHARACTERS = 2048

#: An uncompressed point of P-256 (SEC 1 §2.3.3): 0x04, x, y.
P256DH_BYTES = 65
AUTH_BYTES = 16


class BadSubscription(ValueError):
    """A subscription nothing can be sent to. field: `endpoint`, `p256dh_key` or `auth_key`. Repeats no value."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """
    One browser of one person.

    endpoint: the URL that the push service gave to the browser; who knows it can try to push to it.
    origin: `https://host` of it, normalised. p256dh, auth: the browser's keys (RFC 8291 §2.1).
    vapid_key_id: of the server key it was made with; the push service takes no other (RFC 8292 §4.2).
    """

    id: UUID
    tenant_id: str
    user_id: str
    endpoint: str = field(repr=False)
    origin: str
    p256dh: bytes = field(repr=False)
    auth: bytes = field(repr=False)
    vapid_key_id: str


def read_keys(p256dh_text: str, auth_text: str) -> tuple[bytes, bytes]:
    """
    The browser's public key and its authentication secret, from base64 or base64url, padded or not.

    A compressed point is refused: no browser sends one, and the derivation of RFC 8291 §3.4 is over 65 bytes.

    Raises BadSubscription.
    """
    p256dh = _decoded("p256dh_key", p256dh_text, P256DH_BYTES)
    if p256dh[0] != 0x04:
        raise BadSubscription("p256dh_key", "must be an uncompressed point: 65 bytes that begin with 4")
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), p256dh)
    except ValueError:
        raise BadSubscription("p256dh_key", "must be a point of the curve P-256") from None
    return p256dh, _decoded("auth_key", auth_text, AUTH_BYTES)


def identity(endpoint: str) -> str:
    """
    What is alike in every spelling of an endpoint, of which the origin is normalised already.

    An encoded character is the character (RFC 3986 §6.2.2.2); push services read it so also where the RFC leaves it
    open. For comparing only: what is sent to is what the browser has said.
    """
    return unquote(endpoint.removesuffix("?"), encoding="latin-1")


def _decoded(field: str, text: str, size: int) -> bytes:
    """Raises BadSubscription."""
    if len(text) > 4 * size:  # before anything is copied
        raise BadSubscription(field, f"must be {size} bytes in base64url")
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (Error, ValueError):  # ValueError: not ASCII
        raise BadSubscription(field, "must be base64url") from None
    if len(data) != size:
        raise BadSubscription(field, f"must be {size} bytes, and has {len(data)}")
    return data
