"""WebSocket frames as a server reads and writes them (RFC 6455 sections 5 and 7). Pure: no socket, no clock."""

import codecs
from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from websockets.exceptions import ProtocolError
from websockets.frames import Close as CloseFrame

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler, no wheel for this machine: the same in Python
    from websockets.utils import apply_mask

NORMAL = 1000
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
NO_STATUS = 1005  # the peer closed without a code; never on the wire
ABNORMAL = 1006  # the socket vanished; never on the wire
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL, _RESERVED, _MASKED = 0x80, 0x70, 0x80
_CONTROL_MAX_BYTES = 125  # section 5.5
_SHORT = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack
_utf8 = codecs.getincrementaldecoder("utf-8")


def text_frame(payload: bytes) -> bytes:
    """One unmasked, unfragmented text frame (RFC 6455 section 5.2). payload: UTF-8, of any size."""
    return _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """One unmasked, unfragmented binary frame."""
    return _frame(_BINARY, payload)


def ping_frame(payload: bytes) -> bytes:
    """A ping. Raises ValueError above 125 bytes."""
    return _control(_PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to the ping that carried `payload`. Raises ValueError above 125 bytes."""
    return _control(_PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """
    A close frame (section 7.4). NO_STATUS makes an empty one: the answer to a peer who gave no code.

    Raises ValueError for a code that may not stand on the wire and for a reason above 123 bytes.
    """
    if code == NO_STATUS:
        return _control(_CLOSE, b"")
    try:
        payload = CloseFrame(code, reason).serialize()
    except ProtocolError as error:
        raise ValueError(f"close code {code} may not be sent") from error
    return _control(_CLOSE, payload)


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > _CONTROL_MAX_BYTES:
        raise ValueError(f"a control frame holds {_CONTROL_MAX_BYTES} bytes, not {len(payload)}")
    return _frame(opcode, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((_FINAL | opcode, size)) + payload
    if size < 65536:
        return _SHORT(_FINAL | opcode, 126, size) + payload
    return _LONG(_FINAL | opcode, 127, size) + payload


class Binary(NamedTuple):
    """One whole binary message."""

    data: bytes


class Ping(NamedTuple):
    """Owes a pong with the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """An answer to a ping, or a heartbeat of the peer's own (section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The peer closes; nothing follows. code is NO_STATUS when it gave none."""

    code: int
    reason: str


Event = str | Binary | Ping | Pong | Close  # str: one whole text message


class FramingError(Exception):
    """The peer broke the protocol or a limit: close with `code` and read no further (section 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameReader:
    """
    The bytes of one client in, its messages and control frames out.

    It keeps no more than one frame that has not arrived whole and one message that is not finished: a size
    above the limit is refused when its header is read, before the payload. UTF-8 is judged fragment by
    fragment, control frames may stand between fragments (section 5.4).
    """

    __slots__ = (
        "_binary",
        "_buffer",
        "_decoder",
        "_fragments",
        "_max_bytes",
        "_max_fragments",
        "_size",
        "_text",
        "_wanted",
    )

    def __init__(self, *, max_bytes: int, max_fragments: int) -> None:
        """max_bytes: of one message, all its fragments together. max_fragments: frames of one message."""
        self._max_bytes = max_bytes
        self._max_fragments = max_fragments
        self._buffer: bytearray | None = None  # an incomplete frame, from its first byte
        self._wanted = 0  # bytes the buffer must hold before reading on makes sense
        self._fragments = 0  # of the open message; 0: none is open
        self._size = 0  # bytes of the open message
        self._decoder: codecs.IncrementalDecoder | None = None  # of the open message, when it is text
        self._text = ""  # of the open message
        self._binary = b""  # of the open message

    def feed(self, data: bytes) -> Iterator[Event]:
        """
        What these bytes complete, in order. Exhaust it before the next call, or never call again.

        Raises FramingError, after the events before it.
        """
        buffer = self._buffer
        if buffer is not None:
            buffer += data
            if len(buffer) < self._wanted:
                return
            data = bytes(buffer)
            self._buffer = None
        position, end = 0, len(data)
        while position < end:
            start, size = self._header(data, position, end)
            if end < start + size:
                self._buffer = bytearray(memoryview(data)[position:])
                self._wanted = start + size - position
                return
            head = data[position]
            payload = apply_mask(data[start : start + size], data[start - 4 : start])
            position = start + size
            opcode = head & 0x0F
            if head == _FINAL | _TEXT:
                yield _whole_text(payload)
            elif opcode >= _CLOSE:
                yield _CONTROLS[opcode](payload)
            elif (message := self._fragment(opcode, payload, final=head >= _FINAL)) is not None:
                yield message

    def _header(self, data: bytes, position: int, end: int) -> tuple[int, int]:
        """
        Where the payload of the frame at `position` starts, and its size.

        Of a header that is not whole: where to read on, and 0. Raises FramingError.
        """
        head = data[position]
        opcode = head & 0x0F
        if head & _RESERVED:
            raise FramingError(PROTOCOL_ERROR, "reserved bits must be 0")
        if end < position + 2:
            return position + 2, 0
        size = data[position + 1]
        if not size & _MASKED:
            raise FramingError(PROTOCOL_ERROR, "frames of a client must be masked")
        size &= 0x7F
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise FramingError(PROTOCOL_ERROR, "invalid opcode")
            if head < _FINAL:
                raise FramingError(PROTOCOL_ERROR, "fragmented control frame")
            if size > _CONTROL_MAX_BYTES:
                raise FramingError(PROTOCOL_ERROR, "control frame too long")
            return position + 6, size
        if opcode > _BINARY:
            raise FramingError(PROTOCOL_ERROR, "invalid opcode")
        if opcode == _CONTINUATION and not self._fragments:
            raise FramingError(PROTOCOL_ERROR, "unexpected continuation frame")
        if opcode != _CONTINUATION and self._fragments:
            raise FramingError(PROTOCOL_ERROR, "expected a continuation frame")
        if self._fragments >= self._max_fragments:
            raise FramingError(MESSAGE_TOO_BIG, f"more than {self._max_fragments} fragments")
        start = position + 6
        if size >= 126:
            length = 2 if size == 126 else 8
            start += length
            if end < position + 2 + length:
                return start, 0
            size = int.from_bytes(data[position + 2 : position + 2 + length], "big")
        if self._size + size > self._max_bytes:
            raise FramingError(MESSAGE_TOO_BIG, f"more than {self._max_bytes} bytes")
        return start, size

    def _fragment(self, opcode: int, payload: bytes, *, final: bool) -> str | Binary | None:
        """Add one frame to the open message, which it may open; the whole message when it ends it."""
        if opcode == _TEXT:
            self._decoder = _utf8()
        self._fragments += 1
        self._size += len(payload)
        if self._decoder is None:
            self._binary += payload
        else:
            try:
                self._text += self._decoder.decode(payload, final)
            except UnicodeDecodeError as error:
                raise FramingError(INVALID_DATA, "text is not UTF-8") from error
        if not final:
            return None
        message = Binary(self._binary) if self._decoder is None else self._text
        self._fragments = self._size = 0
        self._decoder, self._text, self._binary = None, "", b""
        return message


def _whole_text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise FramingError(INVALID_DATA, "text is not UTF-8") from error


def _close(payload: bytes) -> Close:
    try:
        close = CloseFrame.parse(payload)
    except ProtocolError as error:
        raise FramingError(PROTOCOL_ERROR, "invalid close frame") from error
    except UnicodeDecodeError as error:
        raise FramingError(INVALID_DATA, "close reason is not UTF-8") from error
    return Close(int(close.code), close.reason)


_CONTROLS: dict[int, Callable[[bytes], Event]] = {_CLOSE: _close, _PING: Ping, _PONG: Pong}
