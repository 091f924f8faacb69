"""A client's place in all its streams as one opaque word: SSE's Last-Event-ID, long polls, the query of a URL."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from hub.frames import encode as to_json
from hub.protocol import Positions

MAX_LENGTH = (
    8 * 1024
)  # characters: a URL must fit into a request's head (HUB_HTTP_*); the command resume has more room


class Vector(NamedTuple):
    """Positions by the wire names of their streams, and the life they belong to."""

    epoch: str
    positions: Mapping[str, int]


_decoder = msgspec.json.Decoder(tuple[str, Positions])

#: A word of many streams is compressed: their names are alike. This is what it may become again.
_MAX_TEXT = 64 * 1024  # bytes
_COMPRESSED = 0x78  # how zlib begins (RFC 1950 section 2.2); JSON begins with a bracket


def encode(vector: Vector) -> str:
    """URL-safe, without padding."""
    text = to_json((vector.epoch, vector.positions))
    if len(text) > 512:
        text = zlib.compress(text, 1)
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def decode(word: str) -> Vector:
    """Raises ValueError for what encode() has not made."""
    if len(word) > MAX_LENGTH or not word.isascii():
        raise ValueError("not a position")
    try:
        text = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        if text[:1] == bytes([_COMPRESSED]):
            text = zlib.decompressobj().decompress(text, _MAX_TEXT)
        epoch, positions = _decoder.decode(text)
    except (ValueError, zlib.error, msgspec.MsgspecError):
        raise ValueError("not a position") from None
    return Vector(epoch, positions)
