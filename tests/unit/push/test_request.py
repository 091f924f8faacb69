"""How long a push service keeps a message, whom it wakes for it, and what it replaces."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from core.notification import Priority
from push.request import LONGEST_LIFE, topic, ttl, urgency

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("priority", list(Priority))
def test_every_priority_has_a_life_and_an_urgency(priority: Priority) -> None:
    assert 0 < ttl(priority, None, NOW) <= LONGEST_LIFE.total_seconds()
    assert urgency(priority) in {"very-low", "low", "normal", "high"}


def test_what_is_urgent_wakes_a_phone_and_what_is_low_does_not() -> None:
    assert [urgency(priority) for priority in ("low", "normal", "high", "urgent")] == [
        "low",
        "normal",
        "high",
        "high",
    ]


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (timedelta(minutes=5), 300),
        (timedelta(days=30), 86_400),
        (timedelta(seconds=1, milliseconds=900), 1),
        (timedelta(0), 0),
        (timedelta(hours=-1), 0),
    ],
)
def test_a_message_is_not_kept_beyond_its_notification(expires_in: timedelta, seconds: int) -> None:
    assert ttl("normal", NOW + expires_in, NOW) == seconds


def test_lives_are_settings_and_bounded_by_what_services_take() -> None:
    lives = {"normal": timedelta(days=400)}

    assert ttl("normal", None, NOW, lives) == 28 * 86_400


@pytest.mark.parametrize("key", ["", "order:1", "x" * 10_000, "Ünïcode 🎉", "\0"])
def test_a_topic_is_32_characters_that_a_push_service_takes(key: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", topic(b"secret", key))


def test_a_topic_hides_its_key_and_differs_between_keys_and_secrets() -> None:
    found = {topic(secret, key) for secret in (b"school", b"hospital") for key in ("order:1", "order:2")}

    assert len(found) == 4
    assert topic(b"school", "order:1") == topic(b"school", "order:1")
    assert not any("order" in one for one in found)
