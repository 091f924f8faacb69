"""
A browser's side of Web Push: its keys, and what it makes of a message.

Written from RFC 8291 and RFC 8188 with the HKDF of cryptography, and shares no line with push/encryption.py.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Undecipherable(ValueError):
    """A body that a browser drops, and why."""


class Opened(NamedTuple):
    """What a body held."""

    plaintext: bytes
    padding: int
    salt: bytes
    sender: bytes  # public key of the one message or batch
    record_size: int


@dataclass(frozen=True, slots=True)
class Browser:
    """The keys of one push subscription."""

    private_key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP256R1()))
    auth: bytes = field(default_factory=lambda: os.urandom(16))

    @classmethod
    def of(cls, private: bytes, auth: bytes) -> Browser:
        return cls(derive_private_key(int.from_bytes(private), SECP256R1()), auth)

    @property
    def p256dh(self) -> bytes:
        return self.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def subscription(self, endpoint: str = "https://push.example/v1/a") -> dict[str, object]:
        """What `PushSubscription.toJSON()` says."""
        return {"endpoint": endpoint, "keys": {"p256dh": text(self.p256dh), "auth": text(self.auth)}}

    def decrypt(self, body: bytes) -> bytes:
        """Raises Undecipherable."""
        return self.open(body).plaintext

    def open(self, body: bytes) -> Opened:
        """
        The plaintext of a body of one record, and what its header says. Stricter than browsers: what comes after the
        first record is refused. Raises Undecipherable.
        """
        if len(body) > 4096:
            raise Undecipherable(f"{len(body)} bytes")
        if len(body) < 21:
            raise Undecipherable("no header")
        salt, record_size, length = body[:16], int.from_bytes(body[16:20]), body[20]
        sender, record = body[21 : 21 + length], body[21 + length :]
        if length != 65:
            raise Undecipherable("the keyid is no public key")
        if record_size < 18:
            raise Undecipherable("rs below 18")
        if len(record) > record_size:
            raise Undecipherable("more than one record")
        try:
            theirs = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), sender)
        except ValueError:
            raise Undecipherable("the keyid is not on the curve") from None
        shared = self.private_key.exchange(ECDH(), theirs)
        ikm = _hkdf(shared, self.auth, b"WebPush: info\x00" + self.p256dh + sender, 32)
        key = _hkdf(ikm, salt, b"Content-Encoding: aes128gcm\x00", 16)
        nonce = _hkdf(ikm, salt, b"Content-Encoding: nonce\x00", 12)
        try:
            padded = AESGCM(key).decrypt(nonce, record, None)
        except (InvalidTag, ValueError):
            raise Undecipherable("its tag is wrong") from None
        plaintext = padded.rstrip(b"\x00")
        if not plaintext.endswith(b"\x02"):
            raise Undecipherable("not the last record")
        return Opened(plaintext[:-1], len(padded) - len(plaintext), salt, sender, record_size)


def text(data: bytes) -> str:
    """Base64url, as browsers and RFCs write it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _hkdf(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(material)
