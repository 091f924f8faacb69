"""(pure) A day in one message: what came in is counted, ranked and cut to a length that somebody reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from core.notification import RANKS

#: How many are listed of one type, and in all (D-14).
PER_TYPE = 5
LISTED = 20
TOP = 5

#: Among the first five at most so many of one type, so that a noisy one does not push the others out (D-13).
_SAME_TYPE_IN_TOP = 2

#: After so long something counts half as much.
_HALF_LIFE = timedelta(hours=12)

_UNREAD_WEIGHT, _ACTION_WEIGHT, _OWN_WEIGHT, _GROUP_WEIGHT = 15.0, 5.0, 5.0, 4.0

#: Characters of a message, and of a title, in a list.
_TEASER = 200
_TITLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One notification of a window. is_own: it is for this person, not for all or for who follows a topic. seq: in the stream it came by; of two that tie, the later one goes first."""

    id: UUID
    title: str = field(repr=False)
    message: str = field(repr=False)
    notification_type: str
    priority: str
    action_url: str | None
    group_key: str | None
    created_at: datetime
    is_read: bool
    seq: int
    is_own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """
    What one digest says. `document` has the members of the AIVO document (AIVO-18), in its order, and ours behind
    them.
    """

    total: int
    unread: int
    document: Mapping[str, Any]
    top: tuple[Item, ...]

    @property
    def is_empty(self) -> bool:
        """Nothing to tell: nothing has come in, or all of it was read."""
        return self.unread == 0


def summarise(
    items: Sequence[Item],
    *,
    day: date,
    timezone: str,
    now: datetime,
    after: Mapping[str, int],
    until: Mapping[str, int],
    next_run_at: datetime | None,
    frequency: str = "daily",
    weekly: Mapping[str, Mapping[str, int]] | None = None,
    is_at_least: bool = False,
) -> Digest:
    """
    day: the local date it is for. after, until: the window, by streams, exclusive and inclusive. weekly: of types that
    come once a week, where theirs begins. is_at_least: more came in than the items, and every count says so.

    What was read already is counted and not listed. The same items give the same digest, whatever their order.
    """
    groups: Counter[str | None] = Counter(item.group_key for item in items if item.group_key is not None)
    ranked = sorted(
        items, key=lambda item: (-score(item, now, together=groups[item.group_key]), -item.seq, item.id)
    )
    listed = [item for item in ranked if not item.is_read]
    priorities = Counter(item.priority for item in items)
    types = Counter(item.notification_type for item in items)
    shown = _shown(listed)
    top = _diverse(listed)
    document = {
        "date": day.isoformat(),
        "summary": {
            "total_notifications": len(items),
            "unread_notifications": len(listed),
            "priority_breakdown": {
                name: priorities[name] for name in sorted(RANKS, key=lambda one: -RANKS[one])
            },
        },
        "notifications_by_type": {
            name: {
                "count": count,
                "notifications": [_listed(item) for item in shown if item.notification_type == name],
            }
            for name, count in sorted(types.items(), key=lambda one: (-one[1], one[0]))
        },
        "top_notifications": [_listed(item) for item in top],
        "groups": [
            {"group_key": name, "count": count}
            for name, count in sorted(groups.items(), key=lambda one: (-one[1], str(one[0])))[:LISTED]
            if count > 1
        ],
        "overflow_count": len(listed) - len(shown),
        "window": {"after": dict(after), "until": dict(until)} | ({"weekly": weekly} if weekly else {}),
        "timezone": timezone,
        "next_run_at": None if next_run_at is None else next_run_at.isoformat().replace("+00:00", "Z"),
        "frequency": frequency,
    } | ({"is_at_least": True} if is_at_least else {})
    return Digest(total=len(items), unread=len(listed), document=document, top=tuple(top))


def score(item: Item, now: datetime, *, together: int = 0) -> float:
    """
    How much it matters: its priority, whether it is unread, whether something is to be done, whether it is for them by
    name, how much belongs to it; and less of all that with every hour (D-13).

    together: how many have its group key, itself included; 0 without one.
    """
    weight = (
        RANKS[item.priority]
        + (0.0 if item.is_read else _UNREAD_WEIGHT)
        + (_ACTION_WEIGHT if item.action_url is not None else 0.0)
        + (_OWN_WEIGHT if item.is_own else 0.0)
        + _GROUP_WEIGHT * math.log2(max(together, 1))
    )
    age = max(now - item.created_at, timedelta(0))
    return weight * math.exp2(-(age / _HALF_LIFE))


def _shown(ranked: Sequence[Item]) -> list[Item]:
    """The first ones, few of a type."""
    counts: Counter[str] = Counter()
    shown: list[Item] = []
    for item in ranked:
        if counts[item.notification_type] < PER_TYPE and len(shown) < LISTED:
            counts[item.notification_type] += 1
            shown.append(item)
    return shown


def _diverse(ranked: Sequence[Item]) -> list[Item]:
    """The first five, at most two of a type as long as there are others."""
    counts: Counter[str] = Counter()
    top: list[Item] = []
    rest: list[Item] = []
    for item in ranked:
        if counts[item.notification_type] < _SAME_TYPE_IN_TOP:
            counts[item.notification_type] += 1
            top.append(item)
        else:
            rest.append(item)
    return (top + rest)[:TOP] if len(top) < TOP else top[:TOP]


def shortened(text: str, longest: int) -> str:
    """Its beginning, where it has more characters than that."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _listed(item: Item) -> dict[str, Any]:
    return {
        "id": str(item.id),
        "title": shortened(item.title, _TITLE),
        "message": shortened(item.message, _TEASER),
        "notification_type": item.notification_type,
        "priority": item.priority,
        "action_url": item.action_url,
        "created_at": item.created_at.isoformat().replace("+00:00", "Z"),
    }
