"""
A WebSocket client that keeps to docs/protocol.md and nothing else: what it knows is what frames told it.

`State` is pure: frames in, knowledge out. `Client` is one device with a socket that may come and go.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub import positions as vectors
from hub.positions import Vector
from tests import client_model
from tests.process import Node, token

Frame = dict[str, Any]


class State:
    """Where one person's client stands, and what it shows there."""

    def __init__(self) -> None:
        self.epoch = ""
        self.positions: dict[str, int] = {}
        self.inbox = client_model.Client([], [])
        self.resyncs = 0
        self._guessed: set[str] = set()

    def shown(self) -> dict[str, Any]:
        """What two devices of one person must agree on."""
        return {"epoch": self.epoch, "positions": dict(self.positions), "items": dict(self.inbox.items)}

    @property
    def unread(self) -> int:
        return self.inbox.unread(datetime.now(UTC))

    def greet(self, frame: Frame, *, resuming: bool = False) -> None:
        """`welcome`. resuming: our own positions count, and those of other streams are the server's guess."""
        own = self.positions if resuming and frame["epoch"] == self.epoch else {}
        self.epoch, self.positions = frame["epoch"], {**frame["positions"], **own}
        self._guessed = {*frame["positions"]} - {*own} if own else set()

    @property
    def own_positions(self) -> dict[str, int]:
        return {stream: seq for stream, seq in self.positions.items() if stream not in self._guessed}

    def begin_anew(self, frame: Frame) -> None:
        """`resync`: forget what there was."""
        self.resyncs += 1
        self.epoch, self.positions = frame["epoch"], dict(frame["positions"])
        self.inbox = client_model.Client(frame["newest"], frame["positions"])

    def take(self, frame: Frame) -> Literal["applied", "known", "hole"]:
        """A frame with `stream` and `seq`, by the rule of docs/protocol.md."""
        stream, seq = frame["stream"], frame["seq"]
        position = self.positions.get(stream, 0)
        if seq <= position:
            return "known"
        if seq > position + 1:
            return "hole"
        self.positions[stream] = seq
        if frame["type"] in ("followed", "unmuted"):
            self._follow(f"topic:{frame['topic']}", frame["joined_seq"])
        if frame["type"] != "notification" or frame["data"]["id"] not in self.inbox.items:
            self.inbox.apply(frame)
        return "applied"

    def _follow(self, stream: str, joined_seq: int) -> None:
        here = -1 if stream in self._guessed else self.positions.get(stream, -1)
        self.positions[stream] = max(joined_seq, here)
        self._guessed.discard(stream)


class Client:
    """
    One device of a person.

    `frames` are those of the present connection, `applied` the (stream, seq, title) that it took over all of them,
    `heard_of` the (stream, seq, id) of every notification that came, taken or not.
    `surprises` are what a server must not do to a client that has not asked for it: repeat, or leave a hole.
    """

    def __init__(self, user_id: str = "ada", *, tenant_id: str = "default", shown: str | None = None) -> None:
        """shown: the token or API key it presents, if not one of its own making."""
        self.user_id = user_id
        self.token = shown or token(user_id, tenant_id)
        self.state = State()
        self.frames: list[Frame] = []
        self.applied: list[tuple[str, int, str | None]] = []
        self.heard_of: list[tuple[str, int, str]] = []
        self.arrivals: dict[str, float] = {}  # when a notification with a title came first; monotonic
        self.surprises: list[str] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._refs = count(1)
        self._resuming = False
        self._keep = False

    # -- coming and going

    async def connect(
        self,
        node: Node,
        *,
        by: Literal["token", "ticket", "subprotocol", "frame", "none"] = "subprotocol",
        resume: Literal["url", "command"] = "url",
        query: str = "",
        welcome: bool = True,
        **options: Any,
    ) -> Self:
        """
        Connect; one that was connected before goes on where it stood. welcome: wait until it is greeted and
        has caught up. options: of websockets.connect. Raises InvalidStatus for a refused upgrade.
        """
        parameters = [query] if query else []
        subprotocols = None
        if by == "token":
            parameters.append(f"token={self.token}")
        elif by == "ticket":
            answer = await node.ask("POST", "/api/v1/ws/ticket", as_=self.token)
            parameters.append(f"ticket={answer.json()['ticket']}")
        elif by == "subprotocol":
            subprotocols = ["carillon.v1", f"bearer.{self.token}"]
        was_here = bool(self.state.epoch)
        if was_here and resume == "url":
            parameters.append(f"positions={self.word}")
        settings = {"compression": None, "max_size": None, "ping_interval": None, "proxy": None, **options}
        url = node.websocket_url + ("?" + "&".join(parameters) if parameters else "")
        self.frames, self.close_code, self.close_reason = [], None, ""
        self._socket = await connect(url, subprotocols=subprotocols, **settings)
        self._resuming = was_here
        self._keep = was_here and resume == "command"
        self._reader = asyncio.create_task(self._read(self._socket))
        if by == "frame":
            await self.say("auth", token=self.token)
        if welcome:
            await self.heard("welcome")
            if self._keep:
                await self.command("resume", epoch=self.state.epoch, positions=self.state.own_positions)
            elif was_here:
                await self.until(lambda: not self._resuming)
        return self

    @property
    def word(self) -> str:
        """Where it stands, for a URL."""
        return vectors.encode(Vector(self.state.epoch, self.state.positions))

    @property
    def connected(self) -> bool:
        return self._reader is not None and not self._reader.done()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None, "never connected"
        return self._socket

    async def leave(self) -> None:
        """Say goodbye."""
        await self.socket.close()
        await self._over()

    async def vanish(self) -> None:
        """Be gone without a word, as a laptop whose lid is closed."""
        self.socket.transport.abort()
        await self._over()

    async def closed(self, seconds: float = 60) -> int:
        """Wait until the server has closed the connection; the code."""
        assert self._reader is not None, "never connected"
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._reader)
        assert self.close_code is not None
        return self.close_code

    async def _over(self) -> None:
        if self._reader is not None:
            await self._reader

    # -- talking

    async def say(self, type_: str, **members: Any) -> None:
        await self.socket.send(json.dumps({"type": type_, **members}))

    async def command(self, type_: str, **members: Any) -> Frame:
        """Say something and wait for the reply to it."""
        ref = next(self._refs)
        if type_ == "resume":
            self._resuming = True
        await self.say(type_, id=ref, **members)
        # A `resume` may be answered by `resync`, which carries no id.
        await self.until(lambda: self._reply(ref) is not None or (type_ == "resume" and not self._resuming))
        return self._reply(ref) or {}

    def _reply(self, ref: int) -> Frame | None:
        return next((frame for frame in self.frames if frame.get("id") == ref), None)

    async def subscribe(self, channel: str, **wanted: Any) -> Frame:
        """Listen to a channel, from where it stood in it if it did. wanted: `types`, `min_priority`."""
        known = self.state.positions.get(f"topic:{channel}")
        place = {} if known is None else {"since": known, "epoch": self.state.epoch}
        return await self.command("subscribe_channel", channel=channel, **place, **wanted)

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for frames until something holds."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    assert self.connected, f"closed {self.close_code} {self.close_reason}: {self.frames[-3:]}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.user_id} waited in vain; the last frames: {self.frames[-5:]}"
            ) from None

    async def heard(self, type_: str, seconds: float = 60) -> Frame:
        """The first frame of a type on this connection."""
        await self.until(lambda: any(frame["type"] == type_ for frame in self.frames), seconds)
        return next(frame for frame in self.frames if frame["type"] == type_)

    async def has(self, *titles: str, seconds: float = 60) -> None:
        """Wait until it shows notifications with these titles."""
        await self.until(lambda: {*titles} <= {*self.titles()}, seconds)

    def titles(self) -> Sequence[str]:
        """Of the notifications it has applied, in their order."""
        return [title for _, _, title in self.applied if title is not None]

    # -- hearing

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                frame = json.loads(text)
                self._hear(frame)
                self.frames.append(frame)
                self._news.set()
        except ConnectionClosed:
            pass
        self.close_code, self.close_reason = socket.close_code, socket.close_reason or ""
        self._news.set()

    def _hear(self, frame: Frame) -> None:
        match frame["type"]:
            case "welcome":
                self.state.greet(frame, resuming=self._resuming)
            case "resync":
                self.state.begin_anew(frame)
                self._resuming = False
            case "resumed":
                for stream, seq in frame["positions"].items():
                    if self.state.positions.get(stream) != seq:
                        self.surprises.append(f"resumed at {stream} {seq}, not {self.state.positions}")
                self._resuming = False
            case "subscribed":
                self.state.positions[f"topic:{frame['channel']}"] = frame["seq"]
            case "position":
                self.state.positions[frame["stream"]] = frame["seq"]
            case _ if "seq" in frame and "stream" in frame:
                self._follow(frame)

    def _follow(self, frame: Frame) -> None:
        if frame["type"] == "notification":
            self.heard_of.append((frame["stream"], frame["seq"], frame["data"]["id"]))
        outcome = self.state.take(frame)
        if outcome == "applied":
            title = frame["data"]["title"] if frame["type"] == "notification" else None
            self.applied.append((frame["stream"], frame["seq"], title))
            if title is not None:
                self.arrivals.setdefault(title, time.monotonic())
        elif not (self._keep and self._resuming):  # both are to be expected until a `resume` is answered
            at = self.state.positions.get(frame["stream"])
            self.surprises.append(f"{outcome}: {frame['stream']} {frame['seq']} at {at}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.connected:
            await self.leave()


async def refused(client: Client, node: Node, **options: Any) -> int:
    """The HTTP status of an upgrade that is refused."""
    try:
        await client.connect(node, welcome=False, **options)
    except InvalidStatus as error:
        return error.response.status_code
    raise AssertionError("the upgrade was not refused")
