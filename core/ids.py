"""Identifiers."""

import os
import time
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_A = 0x0FFF
_RANDOM_B = (1 << 62) - 1


def uuid7() -> UUID:
    """A UUID that sorts by its time of birth, in milliseconds (RFC 9562 section 5.7)."""
    random = int.from_bytes(os.urandom(10))
    milliseconds = (time.time_ns() // 1_000_000) & 0xFFFF_FFFF_FFFF
    return UUID(
        int=(milliseconds << 80)
        | _VERSION_7
        | ((random >> 64 & _RANDOM_A) << 64)
        | _VARIANT
        | (random & _RANDOM_B)
    )
