"""
The rules of one client, without a socket: a frame comes in, what is to be done comes out.

An answer is sent at once; work is done by the connection, one piece after the other; a goodbye ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from core.errors import ServiceError
from core.identity import Identity
from hub import disconnect, protocol
from hub.disconnect import Disconnect
from hub.limits import Rate, TokenBucket


@dataclass(frozen=True, slots=True)
class Answer:
    """Send this frame."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """Carry out this command and answer it; commands are carried out in the order they came."""

    command: protocol.AnyCommand


@dataclass(frozen=True, slots=True)
class Noted:
    """Nothing to answer: `received` and `presence`."""

    command: protocol.Received | protocol.Presence


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Send this frame, then close."""

    payload: bytes
    disconnect: Disconnect


Outcome: TypeAlias = Answer | Work | Noted | Goodbye

#: Whoever is told to slow down more often than this, and does not, is disconnected.
_WARNINGS = Rate(1, burst=60)


class Client:
    """One client: who it is, how much it may say."""

    __slots__ = ("_bucket", "_control_frames", "_warnings", "identity", "visible")

    def __init__(self, rate: Rate, now: float) -> None:
        """now: monotonic seconds."""
        self.identity: Identity | None = None
        self.visible = False  # whether somebody is looking; nobody, until the client says so
        self._bucket = TokenBucket(rate, now)
        self._warnings = TokenBucket(_WARNINGS, now)
        self._control_frames = 0

    def hear(self, text: str, now: float, control_frames: int = 0) -> Outcome:
        """
        Judge one frame.

        control_frames: how many pings and pongs have come since the connection began; they count too.
        """
        wait = self._bucket.take(now)
        for _ in range(min(control_frames - self._control_frames, 100)):
            wait = self._bucket.take(now) or wait
        self._control_frames = control_frames
        if wait:
            return self._slow_down(text, wait, now)
        try:
            command = protocol.decode(text)
        except protocol.BadCommand as error:
            return Answer(protocol.error(error.ref, error))
        if self.identity is None:
            return self._first(command)
        if isinstance(command, protocol.Ping):
            return Answer(protocol.pong(command))
        if isinstance(command, protocol.Presence):
            self.visible = command.visible
            return Noted(command)
        if isinstance(command, protocol.Received):
            return Noted(command)
        if isinstance(command, protocol.Auth):
            problem = ServiceError("conflict", "This connection knows who you are.")
            return Answer(protocol.error(command.id, problem))
        return Work(command)

    def _first(self, command: protocol.AnyCommand) -> Outcome:
        if isinstance(command, protocol.Auth):
            return Work(command)
        if isinstance(command, protocol.Ping):
            return Answer(protocol.pong(command))
        problem = ServiceError("unauthorized", "The first command must be `auth`.")
        return Goodbye(protocol.error(command.id, problem), disconnect.BAD_TOKEN)

    def _slow_down(self, text: str, wait: float, now: float) -> Outcome:
        problem = ServiceError("rate_limited", retry_after=wait)
        if self._warnings.take(now):
            return Goodbye(protocol.error(None, problem), disconnect.SLOW_DOWN)
        return Answer(protocol.error(protocol.reference(text), problem))
