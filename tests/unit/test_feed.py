"""Where the reader of an event stream stands after each frame: what is cut off there must be handed over again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hub.feed import Feed
from hub.frames import encode
from hub.positions import Vector

WELCOME = {"type": "welcome", "epoch": "2", "positions": {"user": 9, "tenant": 9, "topic:news": 50}}


def reader(resume: Vector | None) -> Feed:
    node: Any = SimpleNamespace(
        hub=SimpleNamespace(epoch="2"), inbox=None, channels=None, session_settings=None, clock=None
    )
    identity: Any = SimpleNamespace(tenant_id="default", user_id="anna")
    return Feed(node, identity, resume)


async def stands(feed: Feed, *frames: dict[str, Any]) -> Vector:
    """After these frames were taken."""
    feed.deliver([encode(frame) for frame in frames])
    feed.take()
    return feed.vector


def entry(stream: str, seq: int, **members: Any) -> dict[str, Any]:
    return {"type": "notification", "stream": stream, "seq": seq, **members}


async def test_a_new_reader_stands_where_it_is_greeted() -> None:
    assert await stands(reader(None), WELCOME) == Vector("2", WELCOME["positions"])  # type: ignore[arg-type]  # a dict


async def test_the_greeting_moves_nobody_who_is_to_be_told_that_its_positions_are_void() -> None:
    before = Vector("1", {"user": 4, "tenant": 4})
    assert await stands(reader(before), WELCOME) == before


async def test_a_topic_followed_while_the_reader_was_away_is_theirs_from_there_on() -> None:
    feed = reader(Vector("2", {"user": 8, "tenant": 9}))
    assert "topic:news" not in (await stands(feed, WELCOME, entry("topic:news", 51))).positions

    followed = entry("user", 9, topic="news", joined_seq=40) | {"type": "followed"}
    assert (await stands(feed, followed)).positions["topic:news"] == 40
    assert (await stands(feed, entry("topic:news", 41))).positions["topic:news"] == 41


async def test_a_topic_that_is_followed_again_begins_where_it_was_followed_again() -> None:
    feed = reader(None)
    await stands(feed, WELCOME, entry("user", 10, topic="news") | {"type": "unfollowed"})

    again = entry("user", 11, topic="news", joined_seq=90) | {"type": "followed"}
    assert (await stands(feed, again)).positions["topic:news"] == 90


async def test_a_fault_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = reader(None)  # it has no inbox to ask: a bug

    await feed.run("1")

    assert feed.ended is not None
