"""What a caller submits and what a person receives."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from core.plugins import BUILT_IN, installed


class Priority(StrEnum):
    """Ordered: low < normal < high < urgent (X-3). "At least normal" includes normal."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"

    @property
    def rank(self) -> int:
        return RANKS[self]


RANKS: dict[str, int] = {"low": 10, "normal": 20, "high": 30, "urgent": 40}

#: The stored names of every way to a person (AIVO-10), those of plugins last. The first two need no provider.
DELIVERY_CHANNELS = (*BUILT_IN, *installed())

#: The ways that are the streams themselves: whoever is sent something by one of them is shown it live and finds
#: it in the inbox. A notification for none of them is stored, and is the other channels' business (X-31).
SHOWN = frozenset({"websocket", "in_app"})

#: Where a notification goes when its submission names no channel (X-31).
DEFAULT_CHANNELS = ("in_app", "websocket")


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """
    A notification as its audience sees it: the `data` of a `notification` frame and of the REST answers.

    The first five members are the AIVO document's (AIVO-9); the rest stands beside them.
    """

    id: UUID
    title: str
    message: str
    notification_type: str
    action_url: str | None
    priority: str
    channels: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None = None
    collapse_key: str | None = None  # a later notification with the same key replaces this one
    group_key: str | None = None
    updated_at: datetime | None = None
