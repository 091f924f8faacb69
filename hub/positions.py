"""A client's place in all its streams as one opaque word: SSE's Last-Event-ID, long polls, the query of a URL."""

from __future__ import annotations

import base64
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


def encode(vector: Vector) -> str:
    """URL-safe, without padding."""
    return base64.urlsafe_b64encode(to_json((vector.epoch, vector.positions))).rstrip(b"=").decode()


def decode(word: str) -> Vector:
    """Raises ValueError for what encode() has not made."""
    if len(word) > MAX_LENGTH or not word.isascii():
        raise ValueError("not a position")
    try:
        text = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        epoch, positions = _decoder.decode(text)
    except (ValueError, msgspec.MsgspecError):
        raise ValueError("not a position") from None
    return Vector(epoch, positions)
