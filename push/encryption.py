"""
The body of a push message: aes128gcm (RFC 8188) with the keys of one browser (RFC 8291).

Always one record: RFC 8291 section 4 forbids a second, and Chromium drops a message that has one without a word.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: What every push service takes, in bytes (RFC 8030 section 7.2), and the record size that we announce.
RECORD_BYTES = 4096

PUBLIC_KEY_BYTES = 65  # an uncompressed point of P-256: 0x04, x, y
AUTH_BYTES = 16
SALT_BYTES = 16

_HEADER_BYTES = SALT_BYTES + 4 + 1 + PUBLIC_KEY_BYTES  # salt, rs, idlen, keyid (RFC 8188 section 2.1)
_TAG_BYTES = 16

#: The longest plaintext whose body has 4096 bytes: header, delimiter and tag take the rest.
MAX_PLAINTEXT = RECORD_BYTES - _HEADER_BYTES - 1 - _TAG_BYTES

#: Lengths that messages are padded to, so that theirs says little about what they are. The last but one keeps the
#: body below 2,744 bytes, which is all that reaches Firefox on Android.
BUCKETS = (256, 512, 1024, 2048, 2560, MAX_PLAINTEXT)

_CURVE = SECP256R1()
_ECDH = ECDH()
_RECORD_SIZE_AND_KEY_LENGTH = RECORD_BYTES.to_bytes(4) + bytes([PUBLIC_KEY_BYTES])
_KEY_INFO = b"WebPush: info\x00"
_CEK_INFO = b"Content-Encoding: aes128gcm\x00\x01"
_NONCE_INFO = b"Content-Encoding: nonce\x00\x01"
_LAST_RECORD = b"\x02"


@dataclass(frozen=True, slots=True)
class SenderKey:
    """
    Our half of the key agreement. Made for one message, or for one batch of messages, and then forgotten.

    Several messages may share one: each has a salt of its own, and no two browsers have the same secret
    (RFC 8188 section 4.3). It is never the VAPID key (RFC 8292 section 3.2), and never stored.
    """

    private_key: EllipticCurvePrivateKey = field(repr=False)
    public_key: bytes

    @classmethod
    def new(cls) -> SenderKey:
        return cls.of(generate_private_key(_CURVE))

    @classmethod
    def of(cls, private_key: EllipticCurvePrivateKey) -> SenderKey:
        return cls(
            private_key,
            private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        )


class SenderKeys:
    """
    Sender keys for many messages, each key for so many of them and so many seconds.

    messages: 1 makes a key for every message. More is cheaper by a third, but lets a push service see which
    messages belong together, and opens them all to whoever gets hold of the one key.
    """

    def __init__(self, messages: int = 1, *, seconds: float = 60.0) -> None:
        if messages < 1:
            raise ValueError("a key is for one message or more")
        self._messages, self._seconds = messages, seconds
        self._key: SenderKey | None = None
        self._left = 0
        self._until = 0.0

    def next(self, monotonic: float) -> SenderKey | None:
        """The key for one message. None: one of its own, which `encrypt` makes. monotonic: seconds of any clock."""
        if self._messages == 1:
            return None
        if self._key is None or self._left == 0 or monotonic >= self._until:
            self._key = SenderKey.new()
            self._left, self._until = self._messages, monotonic + self._seconds
        self._left -= 1
        return self._key


class Secrets(NamedTuple):
    """What a message is encrypted with, and what it was derived from, by its names in RFC 8291 and RFC 8188."""

    prk_key: bytes
    ikm: bytes
    prk: bytes
    cek: bytes
    nonce: bytes


def encrypt(
    plaintext: bytes,
    p256dh: bytes,
    auth: bytes,
    *,
    pad_to: int | None = None,
    sender: SenderKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """
    The body of one push message: at most 4096 bytes, with `Content-Encoding: aes128gcm`.

    p256dh: the browser's public key, an uncompressed point. auth: its secret of 16 bytes.
    pad_to: the length as which the plaintext shall appear, `bucket(len(plaintext))`; None: its own.
    sender: None: a key for this message alone. salt: 16 bytes that were never used before; None: random.

    Raises ValueError for a plaintext beyond MAX_PLAINTEXT, a padding that does not fit, and keys that are none.
    """
    padding = 0 if pad_to is None else pad_to - len(plaintext)
    if len(plaintext) > MAX_PLAINTEXT or (pad_to is not None and pad_to > MAX_PLAINTEXT):
        raise ValueError(f"a push message has at most {MAX_PLAINTEXT} bytes")
    if padding < 0:
        raise ValueError("a message is not padded to less than it has")
    browser = public_key(p256dh)
    if len(auth) != AUTH_BYTES:
        raise ValueError(f"the authentication secret has {AUTH_BYTES} bytes")
    if salt is None:
        salt = os.urandom(SALT_BYTES)
    elif len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    if sender is None:
        sender = SenderKey.new()
    shared = sender.private_key.exchange(_ECDH, browser)
    secrets = derive(shared, auth, p256dh, sender.public_key, salt)
    record = plaintext + _LAST_RECORD + bytes(padding)
    sealed = AESGCM(secrets.cek).encrypt(secrets.nonce, record, None)
    return salt + _RECORD_SIZE_AND_KEY_LENGTH + sender.public_key + sealed


def derive(shared: bytes, auth: bytes, p256dh: bytes, sender: bytes, salt: bytes) -> Secrets:
    """
    Key and nonce of the one record (RFC 8291 section 3.4, RFC 8188 sections 2.2 and 2.3).

    shared: what ECDH gave. p256dh, sender: the two public keys. Every HKDF here yields at most one hash, so that its
    expansion is a single HMAC with the counter 1 (RFC 5869 section 2.3).
    """
    prk_key = hmac.digest(auth, shared, "sha256")
    ikm = hmac.digest(prk_key, _KEY_INFO + p256dh + sender + b"\x01", "sha256")
    prk, cek, nonce = derive_record(ikm, salt)
    return Secrets(prk_key, ikm, prk, cek, nonce)


def derive_record(ikm: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """PRK, key (16 bytes) and nonce (12 bytes) of the first record (RFC 8188 sections 2.2 and 2.3)."""
    prk = hmac.digest(salt, ikm, "sha256")
    cek = hmac.digest(prk, _CEK_INFO, "sha256")[:16]
    nonce = hmac.digest(prk, _NONCE_INFO, "sha256")[:12]
    return prk, cek, nonce


def public_key(point: bytes) -> EllipticCurvePublicKey:
    """
    An uncompressed point of P-256 as a key.

    Raises ValueError for another length, the compressed form, and what is not on the curve: with such a point whoever
    sent it could learn a private key (RFC 8291 section 7).
    """
    if len(point) != PUBLIC_KEY_BYTES or point[0] != 4:
        raise ValueError(f"a public key has {PUBLIC_KEY_BYTES} bytes and begins with 4")
    try:
        return EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except ValueError:
        raise ValueError("the public key is not on the curve P-256") from None


def bucket(size: int) -> int:
    """The length to pad a plaintext of this size to. Raises ValueError for one that is too long."""
    for length in BUCKETS:
        if size <= length:
            return length
    raise ValueError(f"a push message has at most {MAX_PLAINTEXT} bytes")
