"""RFC 6455 frames: every limit at its edge, any split of a byte stream, and the `websockets` library as judge."""

import logging
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from hub.framing import (
    INVALID_DATA,
    MESSAGE_TOO_BIG,
    NO_STATUS,
    PROTOCOL_ERROR,
    Binary,
    Close,
    Event,
    FrameReader,
    FramingError,
    Ping,
    Pong,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """A client's frame."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def reader(*, max_bytes: int = 1000, max_fragments: int = 4) -> FrameReader:
    return FrameReader(max_bytes=max_bytes, max_fragments=max_fragments)


def read(reader: FrameReader, chunks: Iterable[bytes]) -> tuple[list[Event], int | None]:
    """All events, and the code that the stream was failed with."""
    events: list[Event] = []
    try:
        for chunk in chunks:
            events += reader.feed(chunk)  # extends one by one: what came before an error is kept
    except FramingError as error:
        return events, error.code
    return events, None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize(("build", "opcode"), [(text_frame, Opcode.TEXT), (binary_frame, Opcode.BINARY)])
def test_a_frame_of_ours_is_the_frame_of_the_library(build, opcode, size):
    payload = b"x" * size

    assert build(payload) == Frame(opcode, payload).serialize(mask=False)


@pytest.mark.parametrize("build", [ping_frame, pong_frame])
def test_a_control_frame_holds_125_bytes(build):
    assert len(build(b"x" * 125)) == 127
    with pytest.raises(ValueError, match="125"):
        build(b"x" * 126)


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1012, 1013, 3000, 4401, 4999])
def test_a_close_frame_carries_its_code_and_reason(code):
    assert close_frame(code, "é") == b"\x88\x04" + code.to_bytes(2, "big") + "é".encode()


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536])
def test_a_code_that_may_not_stand_on_the_wire_is_not_sent(code):
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code)


def test_a_close_reason_holds_123_bytes_of_utf8():
    assert len(close_frame(1000, "é" * 61 + "x")) == 127
    with pytest.raises(ValueError, match="125"):
        close_frame(1000, "é" * 62)


def test_a_peer_that_gave_no_code_is_given_none():
    assert close_frame(NO_STATUS) == b"\x88\x00"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 999, 1000])
def test_a_message_up_to_the_limit_is_read(size):
    assert read(reader(), [masked(1, b"x" * size)]) == (["x" * size], None)
    assert read(reader(), [masked(2, b"x" * size)]) == ([Binary(b"x" * size)], None)


def test_a_message_above_the_limit_is_refused_by_its_header_alone():
    frame = masked(1, b"x" * 1001)

    assert read(reader(), [frame[:3]]) == ([], None)
    assert read(reader(), [frame[:4]]) == ([], MESSAGE_TOO_BIG)


def test_a_size_of_64_bits_is_refused_by_its_header_alone():
    assert read(reader(), [b"\x82\xff" + b"\xff" * 8]) == ([], MESSAGE_TOO_BIG)


@pytest.mark.parametrize(
    ("sizes", "code"), [((500, 499), None), ((500, 500), None), ((500, 501), MESSAGE_TOO_BIG)]
)
def test_the_fragments_of_a_message_are_limited_together(sizes, code):
    first, second = sizes

    events, failed = read(reader(), [masked(1, b"x" * first, final=False), masked(0, b"y" * second)])

    assert failed == code
    assert events == ([] if code else ["x" * first + "y" * second])


@pytest.mark.parametrize(("fragments", "code"), [(3, None), (4, None), (5, MESSAGE_TOO_BIG)])
def test_a_message_has_so_many_fragments_at_most(fragments, code):
    frames = [masked(1, b"", final=False), *[masked(0, b"", final=False)] * (fragments - 2), masked(0, b"x")]

    events, failed = read(reader(), frames)

    assert (events, failed) == ([] if code else ["x"], code)


def test_the_limits_are_those_of_one_message_not_of_the_connection():
    message = masked(1, b"x" * 600, final=False) + masked(0, b"x" * 400)

    events, failed = read(reader(), [message] * 50)

    assert (events, failed) == (["x" * 1000] * 50, None)


def test_control_frames_may_stand_between_fragments():
    stream = masked(1, b"a", final=False) + masked(9, b"?") + masked(0, b"b", final=False) + masked(10, b"!")

    events, failed = read(reader(), [stream + masked(0, b"c") + masked(8, b"\x03\xe8bye")])

    assert (events, failed) == ([Ping(b"?"), Pong(b"!"), "abc", Close(1000, "bye")], None)


def test_what_was_whole_before_an_error_is_still_an_event():
    events, failed = read(reader(), [masked(1, b"one") + masked(3, b"")])

    assert (events, failed) == (["one"], PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"\x81\x01x", PROTOCOL_ERROR),  # no mask
        (b"\xc1", PROTOCOL_ERROR),  # a reserved bit, seen in the first byte
        (masked(3, b""), PROTOCOL_ERROR),
        (masked(0xB, b""), PROTOCOL_ERROR),
        (masked(0, b"x"), PROTOCOL_ERROR),  # continues nothing
        (masked(1, b"x", final=False) + masked(1, b"x"), PROTOCOL_ERROR),
        (masked(9, b"", final=False), PROTOCOL_ERROR),
        (masked(9, b"x" * 126), PROTOCOL_ERROR),
        (masked(8, b"x"), PROTOCOL_ERROR),  # half a close code
        (masked(8, b"\x03\xed"), PROTOCOL_ERROR),  # 1005 on the wire
        (masked(8, b"\x03\xe8\xff"), INVALID_DATA),
        (masked(1, b"\xff"), INVALID_DATA),
        (masked(1, b"\xed\xa0\x80"), INVALID_DATA),  # a surrogate
        (masked(1, b"\xe2\x82", final=False) + masked(0, b""), INVALID_DATA),  # ends within a character
        (masked(1, b"\xf4", final=False) + masked(0, b"\x90", final=False), INVALID_DATA),  # before its end
    ],
)
def test_a_broken_stream_is_failed_with_the_code_of_its_fault(stream, code):
    assert read(reader(), [stream]) == ([], code)
    assert read(reader(), [stream[i : i + 1] for i in range(len(stream))]) == ([], code)


# --- Any bytes, in any pieces ----------------------------------------------------------------------------------------

_MAX = 200
_payloads = st.one_of(st.text(max_size=120).map(str.encode), st.binary(max_size=220))
_frames = st.builds(
    masked,
    st.sampled_from([0, 0, 0, 1, 1, 2, 8, 9, 10, 3, 11]),
    _payloads,
    final=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
)
_garbage = st.binary(max_size=30)
_streams = st.lists(st.one_of(_frames, _frames, _frames, _garbage), max_size=12).map(b"".join)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(_streams, st.lists(st.integers(min_value=0), max_size=20))
@settings(deadline=None)
def test_however_a_stream_is_cut_it_holds_the_same_messages(stream, cuts):
    whole = read(reader(max_bytes=_MAX, max_fragments=3), [stream])

    cut = read(reader(max_bytes=_MAX, max_fragments=3), pieces(stream, cuts))

    assert cut == whole


def judged_by_the_library(stream: bytes) -> tuple[list[Event], int | None]:
    """What the `websockets` library reads from the same bytes."""
    judge = ServerProtocol(state=OPEN, max_size=_MAX, logger=logging.getLogger("judge"))
    judge.receive_data(stream)
    events: list[Event] = []
    opcode, parts = Opcode.CONT, []
    for frame in judge.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode is Opcode.CLOSE:
            assert judge.close_rcvd is not None
            return [*events, Close(int(judge.close_rcvd.code), judge.close_rcvd.reason)], None
        if frame.opcode is Opcode.PING:
            events.append(Ping(bytes(frame.data)))
        elif frame.opcode is Opcode.PONG:
            events.append(Pong(bytes(frame.data)))
        else:
            if frame.opcode is not Opcode.CONT:
                opcode, parts = frame.opcode, []
            parts.append(bytes(frame.data))
            if frame.fin and opcode is Opcode.BINARY:
                events.append(Binary(b"".join(parts)))
            elif frame.fin:
                try:
                    events.append(b"".join(parts).decode())
                except UnicodeDecodeError:
                    return events, INVALID_DATA
    if judge.parser_exc is None:
        return events, None
    assert judge.close_sent is not None
    return events, int(judge.close_sent.code)


@given(_streams)
@example(masked(1, b"", final=False) + masked(8, b""))
@settings(max_examples=300, deadline=None)
def test_the_websockets_library_reads_the_same(stream):
    ours, our_code = read(reader(max_bytes=_MAX, max_fragments=10**6), [stream])
    theirs, their_code = judged_by_the_library(stream)
    if our_code is not None and their_code is None:  # the library judges a frame when it is whole
        theirs, their_code = judged_by_the_library(stream + bytes(2 * _MAX))

    if Close in map(type, ours):  # nothing follows a close, so nothing after it is judged
        end = [type(event) for event in ours].index(Close) + 1
        ours, our_code = ours[:end], None
        if (
            their_code == PROTOCOL_ERROR
        ):  # the library refuses a close between fragments; section 5.4 allows it
            ours, our_code = ours[:-1], their_code

    if our_code == INVALID_DATA:  # we refuse text at its first wrong byte, the library leaves it to its user
        assert ours == theirs[: len(ours)]
    elif our_code == their_code:
        assert ours == theirs
    else:  # both refuse, but a frame may break two rules and the size be looked at first
        assert {our_code, their_code} <= {PROTOCOL_ERROR, MESSAGE_TOO_BIG}
        assert ours == theirs
