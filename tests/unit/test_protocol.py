"""What clients say, as it is read: nothing that comes in can break what counts with it later."""

from __future__ import annotations

import pytest

from hub import positions, protocol
from hub.frames import encode


@pytest.mark.parametrize("command", ["resume", "received", "mark_all_read"])
def test_a_position_that_no_stream_can_have_is_refused(command: str) -> None:
    with pytest.raises(protocol.BadCommand):
        protocol.decode(encode({"type": command, "positions": {"user": 2**63}}).decode())


def test_so_is_one_in_the_since_of_a_channel() -> None:
    with pytest.raises(protocol.BadCommand):
        protocol.decode('{"type":"subscribe_channel","channel":"news","since":9223372036854775808}')


def test_and_one_in_a_position_word() -> None:
    word = positions.encode(positions.Vector("", {"user": 2**63}))
    with pytest.raises(ValueError, match="not a position"):
        positions.decode(word)


def test_the_last_position_there_can_be_is_one() -> None:
    decoded = protocol.decode(encode({"type": "received", "positions": {"user": 2**63 - 1}}).decode())
    assert isinstance(decoded, protocol.Received)


def test_a_ping_is_no_way_to_have_a_whole_frame_sent_back() -> None:
    assert protocol.decode('{"type":"ping","timestamp":"2026-01-31T09:00:00Z"}')
    with pytest.raises(protocol.BadCommand) as refused:
        protocol.decode(encode({"type": "ping", "id": 7, "timestamp": "x" * 60_000}).decode())
    assert refused.value.ref == 7
