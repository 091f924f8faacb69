"""
What stands encrypted at rest: addresses of people, secrets of webhooks, what a sandbox has captured.

AES-256-GCM with a key id, so that keys can be rotated; the context is authenticated, so that a sealed value
moved to another tenant or another use does not open. Lookups go by a keyed hash: a plain hash of a phone
number is undone by counting through all numbers.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.keys import decode_base64url, encode_base64url

KEY_BYTES = 32
_NONCE_BYTES = 12
_LOOKUP = b"carillon lookup v1"


class SealBroken(ValueError):
    """A sealed value that was not sealed here, not for this context, or by a key that is gone."""


class Vault:
    """
    Seals and opens. The first key seals; all of them open.

    keys: by their ids (1-63 characters), each 32 random bytes.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"an encryption key has {KEY_BYTES} bytes")
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self._current = next(iter(keys))
        # Lookups must survive a rotation, so they hang on the oldest key: the last one listed.
        oldest = list(keys.values())[-1]
        self._lookup = hmac.digest(oldest, _LOOKUP, "sha256")

    def seal(self, text: str, *context: str) -> bytes:
        """The sealed text. context: what it is and whose; needed again to open it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        name = self._current.encode()
        sealed = self._ciphers[self._current].encrypt(nonce, text.encode(), _joined(context))
        return bytes([len(name)]) + name + nonce + sealed

    def open(self, sealed: bytes, *context: str) -> str:
        """Raises SealBroken."""
        length = sealed[0] if sealed else 0
        name = sealed[1 : 1 + length].decode(errors="replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise SealBroken("sealed with a key that is not here")
        body = sealed[1 + length :]
        try:
            opened = cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], _joined(context))
        except (InvalidTag, ValueError):
            raise SealBroken("not sealed here, or not for this") from None
        return opened.decode()

    def token(self, text: str, *context: str) -> str:
        """A sealed text for a URL."""
        return encode_base64url(self.seal(text, *context))

    def read_token(self, token: str, *context: str) -> str:
        """Raises SealBroken, also for what is no base64url in its one canonical form."""
        try:
            sealed = decode_base64url(token)
        except ValueError:
            raise SealBroken("no token") from None
        if encode_base64url(sealed) != token:
            raise SealBroken("no token")
        return self.open(sealed, *context)

    def lookup(self, *parts: str) -> bytes:
        """A keyed hash to find a sealed value by: 16 bytes, the same for the same parts."""
        return hmac.digest(self._lookup, _joined(parts), hashlib.sha256)[:16]


def _joined(parts: tuple[str, ...]) -> bytes:
    """The parts with their lengths, so that no two lists of parts look alike."""
    return b"".join(len(encoded := part.encode()).to_bytes(4) + encoded for part in parts)


def read_keys(text: str) -> dict[str, bytes]:
    """
    `id:base64,id:base64`, newest first, as DELIVERY_ENCRYPTION_KEYS has them.

    Raises ValueError that repeats nothing of the text.
    """
    keys: dict[str, bytes] = {}
    for part in text.split(","):
        name, _, encoded = part.strip().partition(":")
        try:
            key = b64decode(encoded, validate=True)
        except (Error, ValueError):
            key = b""
        if not name or len(name.encode()) > 63 or len(key) != KEY_BYTES or name in keys:
            raise ValueError(f"must be id:base64 of {KEY_BYTES} bytes, comma-separated, the newest first")
        keys[name] = key
    return keys
