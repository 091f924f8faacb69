"""The headers of a push request that say how long, how urgently and in whose place (RFC 8030 section 5). Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta

from core.keys import encode_base64url

#: How long a push service keeps a message for a browser that is away. What is urgent must be found after a weekend;
#: what is not is in the inbox anyway.
LIVES: Mapping[str, timedelta] = {
    "low": timedelta(hours=12),
    "normal": timedelta(days=1),
    "high": timedelta(days=3),
    "urgent": timedelta(days=3),
}

#: No push service keeps a message longer; FCM's bound is the lowest.
LONGEST_LIFE = timedelta(days=28)

_URGENCY = {"low": "low", "normal": "normal", "high": "high", "urgent": "high"}

_TOPIC_BYTES = 24  # 32 characters, the most that RFC 8030 section 5.4 allows


def ttl(
    priority: str, expires_at: datetime | None, now: datetime, lives: Mapping[str, timedelta] = LIVES
) -> int:
    """
    Seconds (RFC 8030 section 5.2): the life of that priority, cut where the notification expires.

    0: only a browser that is connected gets it. The header must always be sent: without it push services refuse.
    """
    life = min(lives[priority], LONGEST_LIFE)
    if expires_at is not None:
        life = min(life, expires_at - now)
    return max(0, int(life.total_seconds()))


def urgency(priority: str) -> str:
    """What a phone on battery is woken for (RFC 8030 section 5.3): `low`, `normal` or `high`."""
    return _URGENCY[priority]


def topic(secret: bytes, collapse_key: str) -> str:
    """
    A waiting message with the same topic is replaced (RFC 8030 section 5.4): 32 characters of base64url.

    Push services can read it, so it is a keyed hash. secret: of the tenant, so that topics of two do not compare.
    """
    digest = hmac.digest(secret, collapse_key.encode(), "sha256")
    return encode_base64url(digest[:_TOPIC_BYTES])
