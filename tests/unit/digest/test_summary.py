"""What a digest says of a day."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digest.summary import Digest, Item, score, summarise

NOW = datetime(2025, 1, 15, 12, tzinfo=UTC)


def item(number: int, **members: Any) -> Item:
    given: dict[str, Any] = {
        "id": UUID(int=number),
        "title": f"Title {number}",
        "message": f"Message {number}",
        "notification_type": "iep_update",
        "priority": "normal",
        "action_url": None,
        "group_key": None,
        "created_at": NOW - timedelta(hours=1),
        "is_read": False,
        "seq": number,
    }
    return Item(**given | members)


def digest(*items: Item) -> Digest:
    return summarise(
        items,
        day=date(2025, 1, 15),
        timezone="America/New_York",
        now=NOW,
        after={"user:ada": 3},
        until={"user:ada": 9},
        next_run_at=datetime(2025, 1, 16, 12, tzinfo=UTC),
    )


def test_the_document_has_the_members_of_aivo_in_its_order() -> None:
    made = digest(
        item(1, priority="urgent"),
        item(2, is_read=True, priority="low"),
        item(3, notification_type="assessment_complete", action_url="/a/3"),
    )

    assert list(made.document)[:4] == ["date", "summary", "notifications_by_type", "top_notifications"]
    assert made.document["date"] == "2025-01-15"
    assert made.document["summary"] == {
        "total_notifications": 3,
        "unread_notifications": 2,
        "priority_breakdown": {"urgent": 1, "high": 0, "normal": 1, "low": 1},
    }
    assert list(made.document["summary"]["priority_breakdown"]) == ["urgent", "high", "normal", "low"]
    by_type = made.document["notifications_by_type"]
    assert {name: one["count"] for name, one in by_type.items()} == {
        "iep_update": 2,
        "assessment_complete": 1,
    }
    assert [one["id"] for one in by_type["iep_update"]["notifications"]] == [str(UUID(int=1))]
    assert [one["id"] for one in made.document["top_notifications"]] == [str(UUID(int=1)), str(UUID(int=3))]
    assert made.document["next_run_at"] == "2025-01-16T12:00:00Z"
    assert made.document["window"] == {"after": {"user:ada": 3}, "until": {"user:ada": 9}}


def test_what_was_read_is_counted_and_not_listed() -> None:
    made = digest(item(1, is_read=True))

    assert (made.total, made.unread) == (1, 0)
    assert made.document["top_notifications"] == []
    assert made.document["notifications_by_type"]["iep_update"] == {"count": 1, "notifications": []}


def test_a_noisy_type_does_not_push_the_others_out() -> None:
    noisy = [item(number, priority="urgent") for number in range(10)]
    quiet = [item(20, notification_type="system", priority="low"), item(21, notification_type="billing")]

    top = digest(*noisy, *quiet).top

    assert [one.notification_type for one in top] == [
        "iep_update",
        "iep_update",
        "billing",
        "system",
        "iep_update",
    ]


def test_lists_are_bounded_and_say_how_much_they_leave_out() -> None:
    made = digest(*(item(n, notification_type=f"type-{n % 10}") for n in range(100)))

    listed = [
        one for kind in made.document["notifications_by_type"].values() for one in kind["notifications"]
    ]
    assert len(listed) == 20
    assert made.document["overflow_count"] == 80
    assert len(made.document["top_notifications"]) == 5


def test_what_is_older_matters_less_and_what_belongs_together_more() -> None:
    old = item(1, priority="high", notification_type="a", created_at=NOW - timedelta(days=2))
    alone = item(2, notification_type="b")
    group = [item(n, notification_type="c", group_key="g") for n in (3, 4, 5, 6)]

    top = digest(old, alone, *group).top

    assert [one.id.int for one in top] == [6, 5, 2, 1, 4]
    assert digest(*group).document["groups"] == [{"group_key": "g", "count": 4}]


def test_what_can_be_acted_on_goes_before_what_cannot_and_a_link_is_worth_less_than_a_step_of_priority() -> (
    None
):
    plain, linked = item(2), item(1, action_url="/a")
    high = item(3, priority="high", created_at=plain.created_at)

    assert [one.id.int for one in digest(plain, linked).top] == [1, 2], "though the other came later"
    assert [one.id.int for one in digest(linked, high).top] == [3, 1]


def test_one_alone_is_no_group() -> None:
    made = digest(item(1, group_key="alone"), item(2, group_key="two"), item(3, group_key="two"), item(4))

    assert made.document["groups"] == [{"group_key": "two", "count": 2}]


def test_a_digest_of_what_was_read_has_nothing_to_tell() -> None:
    assert digest().is_empty
    assert digest(item(1, is_read=True)).is_empty
    assert not digest(item(1, is_read=True), item(2)).is_empty


GOLDEN: list[tuple[str, dict[str, Any], float]] = [
    # What sets it apart, and the score: priority + 15 unread + 5 to open + 5 for them + 4 * log2(group), halved every 12 h.
    ("urgent", {"priority": "urgent"}, 55.0),
    ("high, to open", {"priority": "high", "action_url": "/x"}, 50.0),
    ("high", {"priority": "high"}, 45.0),
    ("for them", {"is_own": True}, 40.0),
    ("to open", {"action_url": "/x"}, 40.0),
    ("nothing else", {}, 35.0),
    ("urgent, 12 hours old", {"priority": "urgent", "created_at": NOW - timedelta(hours=12)}, 27.5),
    ("low", {"priority": "low"}, 25.0),
    ("read", {"is_read": True}, 20.0),
    ("high, two days old", {"priority": "high", "created_at": NOW - timedelta(days=2)}, 2.8125),
    ("from the future, by another clock", {"created_at": NOW + timedelta(hours=1)}, 35.0),
]


@pytest.mark.parametrize(("title", "members", "weight"), GOLDEN)
def test_what_matters_how_much(title: str, members: dict[str, Any], weight: float) -> None:
    assert score(item(1, title=title, **{"created_at": NOW, **members}), NOW) == pytest.approx(weight)


@pytest.mark.parametrize(("together", "more"), [(0, 0.0), (1, 0.0), (2, 4.0), (8, 12.0)])
def test_a_group_matters_by_the_logarithm_of_its_size(together: int, more: float) -> None:
    alone = item(1, created_at=NOW)

    assert score(alone, NOW, together=together) - score(alone, NOW) == pytest.approx(more)


def test_the_first_five_of_a_day_are_these() -> None:
    """Among them at most two of a type while there are others; of two that tie, the later."""
    day = [
        item(number, title=title, **{"notification_type": f"type {number}", "created_at": NOW, **members})
        for number, (title, members, _) in enumerate(GOLDEN, 1)
    ]
    noisy = [
        item(
            20 + n,
            title=f"noise {n}",
            notification_type="noise",
            priority="urgent",
            action_url="/x",
            created_at=NOW,
        )
        for n in range(9)
    ]

    assert [one.title for one in digest(*day).top] == [
        "urgent",
        "high, to open",
        "high",
        "to open",
        "for them",
    ]
    assert [one.title for one in digest(*noisy, *day).top] == [
        "noise 8",
        "noise 7",
        "urgent",
        "high, to open",
        "high",
    ]


@given(st.integers())
def test_the_order_in_which_things_are_found_changes_nothing(seed: int) -> None:
    items = [item(n, priority=("low", "high")[n % 2], is_read=n % 3 == 0) for n in range(30)]
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)

    assert digest(*items).document == digest(*shuffled).document
