"""
A Linux desktop for Chromium: the session bus it looks for, with the one service that shows notifications.

Only what Chromium's client asks for: D-Bus (dbus.freedesktop.org/doc/dbus-specification.html) and Desktop Notifications
(specifications.freedesktop.org/notification-spec). What is on the screen is seen from outside the browser here, and a
click is one that the browser takes for a person's.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_BUS = "org.freedesktop.DBus"
_SERVICE = "org.freedesktop.Notifications"
_PATH = "/org/freedesktop/Notifications"
_OWNER = ":1.1"

_CALL, _ANSWER, _ERROR, _SIGNAL = 1, 2, 3, 4
_HEADER = {1: "o", 2: "s", 3: "s", 4: "s", 5: "u", 6: "s", 7: "s", 8: "g"}
_PATH_FIELD, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_TO, _TO, _FROM, _SIGNATURE = _HEADER

#: Of a notification that is gone: somebody put it away; the program that showed it did.
DISMISSED, CLOSED = 2, 3


@dataclass(frozen=True, slots=True)
class Notification:
    """One on the screen. buttons: their names, by the words on them."""

    title: str
    body: str
    buttons: dict[str, str]


class Desktop:
    """`address` is for DBUS_SESSION_BUS_ADDRESS. `folder` holds its socket."""

    def __init__(self, folder: Path) -> None:
        self.screen: dict[int, Notification] = {}
        self._socket = folder / "bus"
        self._server: asyncio.Server | None = None
        self._programs: set[asyncio.StreamWriter] = set()
        self._count = 0
        self._moved = asyncio.Condition()

    @property
    def address(self) -> str:
        return f"unix:path={self._socket}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._programs:
            writer.close()

    # -- the person before it --------------------------------------------------------------------

    async def see(self, *titles: str, seconds: float = 60) -> list[Notification]:
        """Wait until just these are on the screen, the oldest first."""
        await self.until(lambda: [one.title for one in self.screen.values()] == list(titles), seconds)
        return list(self.screen.values())

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"on the screen: {list(self.screen.values())}") from None

    def click(self, title: str, button: str | None = None) -> None:
        """On the notification, or on a button of it."""
        number = self._find(title)
        action = "default" if button is None else self.screen[number].buttons[button]
        self._signal("ActionInvoked", "us", number, action)
        self._put_away(number)

    def dismiss(self, title: str) -> None:
        self._put_away(self._find(title))

    def _find(self, title: str) -> int:
        return next(number for number, one in self.screen.items() if one.title == title)

    def _put_away(self, number: int) -> None:
        del self.screen[number]
        self._signal("NotificationClosed", "uu", number, DISMISSED)

    def _signal(self, member: str, signature: str, *values: Any) -> None:
        fields = {_PATH_FIELD: _PATH, _INTERFACE: _SERVICE, _MEMBER: member, _FROM: _OWNER}
        message = _message(_SIGNAL, 0, fields, signature, *values)
        for writer in self._programs:
            writer.write(message)

    # -- the programs on it ----------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(1)  # a nul
            while (line := await reader.readuntil(b"\r\n")) != b"BEGIN\r\n":
                is_login = line.startswith(b"AUTH EXTERNAL")
                refused = b"REJECTED EXTERNAL\r\n" if line.startswith(b"AUTH") else b"ERROR\r\n"
                writer.write(b"OK " + b"0" * 32 + b"\r\n" if is_login else refused)
            self._programs.add(writer)
            while True:
                kind, number, fields, body = await _read(reader)
                if kind == _CALL:
                    writer.write(self._answer(number, fields, body))
                    async with self._moved:
                        self._moved.notify_all()
        self._programs.discard(writer)
        writer.close()

    def _answer(self, number: int, fields: dict[int, Any], body: bytes) -> bytes:
        whom = fields.get(_TO)
        call = getattr(self, f"_{_snake(fields[_MEMBER])}", None) if whom in (_BUS, _SERVICE) else None
        about = {_REPLY_TO: number, _FROM: _BUS if whom == _BUS else _OWNER}
        if call is None:
            return _message(_ERROR, number, {**about, _ERROR_NAME: f"{_BUS}.Error.ServiceUnknown"})
        signature, *values = call(_Reader(body))
        return _message(_ANSWER, number, about, signature, *values)

    def _hello(self, _: _Reader) -> tuple[Any, ...]:
        return "s", ":1.2"

    def _add_match(self, _: _Reader) -> tuple[Any, ...]:
        return ("",)

    def _remove_match(self, _: _Reader) -> tuple[Any, ...]:
        return ("",)

    def _name_has_owner(self, body: _Reader) -> tuple[Any, ...]:
        return "b", body.text() == _SERVICE

    def _get_name_owner(self, body: _Reader) -> tuple[Any, ...]:
        return "s", _OWNER if body.text() == _SERVICE else ""

    def _list_activatable_names(self, _: _Reader) -> tuple[Any, ...]:
        return "as", [_SERVICE]

    def _start_service_by_name(self, _: _Reader) -> tuple[Any, ...]:
        return "u", 2  # it runs already

    def _get_capabilities(self, _: _Reader) -> tuple[Any, ...]:
        return "as", ["actions", "body", "x-kde-origin-name"]

    def _get_server_information(self, _: _Reader) -> tuple[Any, ...]:
        return "ssss", "desktop", "tests", "1", "1.2"

    def _notify(self, body: _Reader) -> tuple[Any, ...]:
        body.text()  # the program
        replaced = body.number()
        body.text()  # the icon
        title, said = body.text(), body.text()
        names = list(body.texts())
        buttons = {words: name for name, words in zip(names[::2], names[1::2], strict=True)}
        self._count += 1
        number = replaced or self._count
        self.screen[number] = Notification(title, said, buttons)
        return "u", number

    def _close_notification(self, body: _Reader) -> tuple[Any, ...]:
        number = body.number()
        if self.screen.pop(number, None):
            self._signal("NotificationClosed", "uu", number, CLOSED)
        return ("",)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


# -- D-Bus messages: little-endian, each value aligned to its size ---------------------------------


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._content)

    def align(self, size: int) -> None:
        self._at += -self._at % size

    def byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def number(self) -> int:
        self.align(4)
        self._at += 4
        return int.from_bytes(self._content[self._at - 4 : self._at], "little")

    def text(self) -> str:
        return self._text(self.number())

    def signature(self) -> str:
        return self._text(self.byte())

    def _text(self, length: int) -> str:
        self._at += length + 1
        return self._content[self._at - length - 1 : self._at - 1].decode()

    def texts(self) -> Iterator[str]:
        length = self.number()
        end = self._at + length
        while self._at < end:
            yield self.text()

    def of(self, kind: str) -> Any:
        return {"o": self.text, "s": self.text, "u": self.number, "g": self.signature}[kind]()


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, dict[int, Any], bytes]:
    """One message: its kind, number, header and body."""
    fixed = await reader.readexactly(16)
    assert fixed[:1] == b"l", "big-endian"
    length, number, of_header = struct.unpack("<III", fixed[4:])
    header = _Reader(await reader.readexactly(of_header + -of_header % 8))
    fields = {}
    while not header.is_at_end:
        field = header.byte()
        if not field:
            break  # padding
        fields[field] = header.of(header.signature())
        header.align(8)
    return fixed[1], number, fields, await reader.readexactly(length)


def _put(content: bytearray, kind: str, value: Any) -> None:
    if kind == "g":
        content += bytes([len(value)]) + value.encode() + b"\0"
        return
    content += b"\0" * (-len(content) % 4)
    if kind in "ub":
        content += struct.pack("<I", value)
    elif kind in "so":
        content += struct.pack("<I", len(value.encode())) + value.encode() + b"\0"
    else:  # "as"
        texts = bytearray()
        for one in value:
            _put(texts, "s", one)
        content += struct.pack("<I", len(texts)) + texts


def _message(kind: int, number: int, fields: dict[int, Any], signature: str = "", *values: Any) -> bytes:
    """number: of the call that it answers; a signal has none."""
    body = bytearray()
    kinds = ["as"] if signature == "as" else list(signature)
    for one, value in zip(kinds, values, strict=True):
        _put(body, one, value)
    header = bytearray()
    for field, value in {**fields, **({_SIGNATURE: signature} if signature else {})}.items():
        header += b"\0" * (-len(header) % 8)
        header.append(field)
        _put(header, "g", _HEADER[field])
        _put(header, _HEADER[field], value)
    start = struct.pack("<BBBBIII", ord("l"), kind, 1, 1, len(body), number + 1, len(header))
    return start + bytes(header) + b"\0" * (-len(header) % 8) + bytes(body)
