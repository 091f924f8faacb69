"""A client's place in all its streams, as one word."""

from __future__ import annotations

import base64
import zlib

import pytest

from hub import positions
from hub.positions import Vector


@pytest.mark.parametrize("topics", [0, 1, 20, 300])
def test_a_word_says_what_it_was_made_of(topics):
    vector = Vector(
        "7710833635346928789-00000001-0", {"user": 12, **{f"topic:news/{n}": n for n in range(topics)}}
    )

    word = positions.encode(vector)

    assert positions.decode(word) == vector
    assert len(word) <= positions.MAX_LENGTH


@pytest.mark.parametrize(
    "word",
    [
        "",
        "é",
        "not base64!",
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b'["e",{"user":-1}]').decode(),
        base64.urlsafe_b64encode(zlib.compress(b"[" * 100_000)).decode(),
        base64.urlsafe_b64encode(b"\x78nonsense").decode(),
        "A" * (positions.MAX_LENGTH + 1),
    ],
)
def test_what_is_no_word_of_ours_is_refused(word):
    with pytest.raises(ValueError, match="not a position"):
        positions.decode(word)


def test_a_bomb_is_unpacked_no_further_than_a_position_may_be_long():
    bomb = (
        base64.urlsafe_b64encode(zlib.compress(b'["' + b"e" * 5_000_000 + b'",{}]', 9)).rstrip(b"=").decode()
    )

    with pytest.raises(ValueError, match="not a position"):
        positions.decode(bomb)
