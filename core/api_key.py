"""
API keys: `ck_<id>_<secret>`. The id finds the row, the secret is compared with the row's hash.

The secret is 32 random bytes, so a plain SHA-256 is as hard to invert as a slow hash would be; those
are for secrets that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from core.identity import InvalidToken
from core.keys import encode_base64url

PREFIX = "ck_"

_FORM = re.compile(r"ck_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")

#: What an unknown id is compared with, so that it takes as long as a known one.
_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a caller presented. Nothing is known of it until `matches` says so."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Raises InvalidToken when the text has not the form of an API key."""
        form = _FORM.fullmatch(text) if len(text) < 100 else None
        if form is None:
            raise InvalidToken("api_key")
        return cls(form[1], form[2])

    @property
    def hash(self) -> bytes:
        """What the store keeps of the secret, 32 bytes."""
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, stored: bytes | None) -> bool:
        """Whether the store's hash is of this secret; None where the store knows no such id. Constant time."""
        return hmac.compare_digest(self.hash, stored if stored is not None else _NOBODY)


class NewApiKey(NamedTuple):
    """A key just made. The text is shown once; id and hash are stored."""

    id: str
    text: str
    hash: bytes


def new_api_key(entropy: Callable[[int], bytes] = secrets.token_bytes) -> NewApiKey:
    """
    Make an API key.

    entropy: gives that many unpredictable bytes.
    """
    key_id, secret = entropy(8).hex(), encode_base64url(entropy(32))
    return NewApiKey(key_id, f"{PREFIX}{key_id}_{secret}", ApiKey(key_id, secret).hash)
