"""
One WebSocket and its I/O: carries out what client.py decides and hands over what the hub has.

An idle connection holds neither a task nor a timer: commands that need the store are carried out by a
task that ends with the last of them, and the node's sweep looks after time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from core.errors import ServiceError
from core.identity import ExpiredToken, Identity, InvalidToken
from core.ids import uuid7
from hub import disconnect, protocol
from hub.client import Answer, Client, Goodbye, Noted, Work
from hub.disconnect import Disconnect
from hub.inbox import StateChange, TopicChange
from hub.limits import Place, TooManyConnections
from hub.positions import Vector
from hub.session import Session
from hub.stream import FrameSink
from hub.transport import Wire

if TYPE_CHECKING:
    from hub.node import Node

log = structlog.stdlib.get_logger("hub.connection")

#: Commands waiting for their turn on one connection; the rate limit keeps honest clients far below.
MAX_JOBS = 200

#: Between two looks at how much of a client's history is still unsent.
_DRAIN_POLL_S = 0.05

_CHANGES: Mapping[type[protocol.StateCommand], StateChange] = {
    protocol.MarkRead: "read",
    protocol.MarkUnread: "unread",
    protocol.MarkSeen: "seen",
    protocol.Archive: "archived",
    protocol.Unarchive: "unarchived",
    protocol.Snooze: "snoozed",
}
_TOPIC_CHANGES: Mapping[type[protocol.TopicCommand], TopicChange] = {
    protocol.FollowTopic: "followed",
    protocol.UnfollowTopic: "unfollowed",
    protocol.MuteTopic: "muted",
    protocol.UnmuteTopic: "unmuted",
}

Job = Callable[[], Awaitable[None]]


class Connection:
    """One client's socket. A WireListener, and a Member of streams."""

    __slots__ = (
        "_jobs",
        "_node",
        "_place",
        "_received",
        "_session",
        "_task",
        "_wire",
        "client",
        "close_code",
        "id",
        "next_ping",
        "opened_at",
        "opened_on",
        "paused_at",
        "pinged_at",
        "resume",
        "warned",
        "wire",
    )

    def __init__(
        self, node: Node, wire: Wire, place: Place, *, prepared: bool, resume: Vector | None
    ) -> None:
        """prepared: the wire takes prepared frames. resume: where the client says it stood."""
        now = node.clock.monotonic()
        self.id: UUID = uuid7()
        self.client = Client(node.limits.messages, now)
        self.wire: FrameSink | None = wire if prepared else None
        self.opened_on = now  # monotonic
        self.opened_at = node.clock.now()
        self.paused_at: float | None = None  # monotonic, while the transport holds too much
        self.pinged_at: float | None = None  # monotonic, until something was received
        self.next_ping = now + node.ping_after()
        self.warned = False  # that its token expires
        self.close_code: int | None = None
        self.resume = resume
        self._node = node
        self._wire = wire
        self._place = place
        self._session: Session | None = None
        self._jobs: deque[Job] | None = None
        self._task: asyncio.Task[None] | None = None
        self._received: dict[str, int] | None = None

    # -- as seen by the node

    @property
    def identity(self) -> Identity | None:
        return self.client.identity

    @property
    def last_received(self) -> float:
        return self._wire.last_received

    def admit(self, identity: Identity) -> None:
        """The client is this person: greet it. A person with too many connections is told so."""
        try:
            self._place.identify(identity.tenant_id, identity.user_id)
        except TooManyConnections as error:
            self.refuse(error, disconnect.TOO_MANY)
            return
        self.client.identity = identity
        self._session = Session(
            hub=self._node.hub,
            inbox=self._node.inbox,
            identity=identity,
            member=self,
            send=self._wire.send,
            rules=self._node.channels,
            settings=self._node.session_settings,
        )
        self._node.admitted(self, identity)
        self._do(self._begin)

    def send(self, payload: bytes) -> None:
        self._wire.send(payload)

    def ping(self, now: float) -> None:
        """now: monotonic; silence after it means that the client is gone."""
        self.pinged_at = now
        self._wire.ping()

    def refuse(self, error: ServiceError, why: Disconnect) -> None:
        """Say why, then close: a code that was sent before the upgrade would never be seen (X-11)."""
        self._wire.send(protocol.error(None, error))
        self.close(why)

    def close(self, why: Disconnect) -> None:
        if self.close_code is None:
            self.close_code = why.code
            self._end_session()
            self._wire.close(why.code, why.reason)

    def abort(self) -> None:
        """The other side is gone: nobody would read a close frame."""
        self._wire.abort()

    # -- WireListener

    def on_message(self, data: str) -> None:
        outcome = self.client.hear(data, self._node.clock.monotonic(), self._wire.control_frames)
        match outcome:
            case Answer(payload):
                self._wire.send(payload)
            case Goodbye(payload, why):
                self._wire.send(payload)
                self.close(why)
            case Noted(protocol.Received() as receipt):
                self._note_receipt(receipt.positions)
            case Noted():
                self._node.presence_changed(self)
            case Work(command):
                self._do(lambda: self._carry_out(command))

    def on_closed(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code = code
        self._end_session()
        self._place.leave()
        self._node.ended(self)

    def on_paused(self) -> None:
        """The client reads more slowly than we write: it leaves the live set and reads the store later."""
        self.paused_at = self._node.clock.monotonic()
        self._node.stats.slow += 1
        if self._session is not None:
            self._session.suspend()

    def on_resumed(self) -> None:
        self.paused_at = None
        if self._session is not None:
            self._do(self._session.catch_up)

    # -- Member

    def deliver(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self._wire.send(payload)

    def on_membership(self, kind: str, payload: bytes) -> None:
        session = self._session
        if session is not None:
            self._do(lambda: session.on_membership(kind, payload))

    def on_resync(self) -> None:
        if self._session is not None:
            self._do(self._session.resync)

    async def drained(self) -> None:
        """
        Asked again and again: a transport tells when it holds too much and when that is over, and says
        nothing of what lies between. Only who is owed history and reads slowly comes here twice.
        """
        while True:
            if self.close_code is not None:
                raise ConnectionError("the client has gone")
            if self._wire.buffered < self._node.drain_bytes:
                return
            await self._node.clock.sleep(_DRAIN_POLL_S)

    # -- one piece of work after the other

    def _do(self, job: Job) -> None:
        if self.close_code is not None:
            return
        if self._jobs is None:
            self._jobs = deque()
        if len(self._jobs) >= MAX_JOBS:
            self.refuse(ServiceError("overloaded", retry_after=1), disconnect.SLOW_DOWN)
            return
        self._jobs.append(job)
        if self._task is None:
            self._task = self._node.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._jobs and self.close_code is None:
                await self._jobs.popleft()()
        except ConnectionError:
            pass  # the client is gone: nobody to tell
        except ServiceError as error:
            # What was promised to this client cannot be kept now: it comes back, and resumes.
            self.refuse(error, disconnect.OVERLOADED)
        except Exception:
            log.exception("connection_failed", connection_id=str(self.id))
            self.close(disconnect.INTERNAL)
        finally:
            self._jobs = None
            self._task = None

    async def _begin(self) -> None:
        session = self._current()
        if await self._node.crowded(session.identity):
            self.refuse(TooManyConnections("user"), disconnect.TOO_MANY)
            return
        await session.begin(str(self.id), self.resume)
        self.resume = None

    async def _carry_out(self, command: protocol.AnyCommand) -> None:
        """Raises ServiceError only for what breaks the session; the rest is answered."""
        match command:
            case protocol.Auth():
                await self._authenticate(command.token)
            case protocol.Refresh():
                await self._refresh(command)
            case protocol.Resume():
                await self._current().resume(command)
            case _:
                try:
                    self._wire.send(await self._answer(command))
                except ServiceError as error:
                    self._wire.send(protocol.error(command.id, error))

    async def _answer(self, command: protocol.AnyCommand) -> bytes:
        session, inbox = self._current(), self._node.inbox
        identity = session.identity
        match command:
            case protocol.StateCommand():
                until = command.until if isinstance(command, protocol.Snooze) else None
                change = _CHANGES[type(command)]
                unread = await inbox.change(identity, change, command.ids(), until=until)
                return protocol.reply("ack", command.id, unread_count=unread)
            case protocol.MarkAllRead():
                unread = await inbox.read_all(identity, command.positions)
                return protocol.reply("ack", command.id, unread_count=unread)
            case protocol.TopicCommand():
                await inbox.change_topic(identity, command.topic, _TOPIC_CHANGES[type(command)])
                return protocol.reply("ack", command.id)
            case protocol.Subscribe():
                subscribed = await session.subscribe(command)
                return protocol.reply(
                    "subscribed",
                    command.id,
                    channel=command.channel,
                    epoch=self._node.hub.epoch,
                    seq=subscribed.seq,
                    recovered=subscribed.recovered,
                )
            case protocol.Unsubscribe():
                session.unsubscribe(command.channel)
                return protocol.reply("unsubscribed", command.id, channel=command.channel)
            case protocol.Publish():
                self._publish(session, command)
                return protocol.reply("ack", command.id)
        raise AssertionError(f"no work: {command!r}")

    def _publish(self, session: Session, command: protocol.Publish) -> None:
        may = self._node.channels.may_publish(session.identity, command.channel)
        if not may or not session.subscribes(command.channel):
            raise ServiceError("forbidden", "Messages to this channel are not accepted from here.")
        self._node.hub.publish_message(session.identity.tenant_id, command.channel, bytes(command.data))

    async def _authenticate(self, token: str) -> None:
        try:
            self.admit(await self._node.authenticate(token))
        except ServiceError as error:
            self.refuse(error, refusal(error))

    async def _refresh(self, command: protocol.Refresh) -> None:
        """A newer token of the same person. A wrong one changes nothing: the old token counts on."""
        identity = self._current().identity
        try:
            newer = await self._node.authenticate(command.token)
        except ServiceError as error:
            self._wire.send(protocol.error(command.id, error))
            return
        if (newer.tenant_id, newer.user_id) != (identity.tenant_id, identity.user_id):
            problem = ServiceError("forbidden", "This token is somebody else's.")
            self._wire.send(protocol.error(command.id, problem))
            return
        self.client.identity = self._current().identity = newer
        self.warned = False
        expires_at = datetime.fromtimestamp(newer.expires_at, UTC)
        self._wire.send(protocol.reply("refreshed", command.id, expires_at=expires_at))

    # --

    def _current(self) -> Session:
        if self._session is None:
            raise ConnectionError("the client has gone")
        return self._session

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()

    def _note_receipt(self, positions: Mapping[str, int]) -> None:
        before = self._received or {}
        moved = sum(max(seq - before[name], 0) for name, seq in positions.items() if name in before)
        self._received = {**before, **positions} if len(before) < 1000 else dict(positions)
        self._node.stats.receipts += moved


def refusal(error: ServiceError) -> Disconnect:
    """The close code that belongs to a refused token."""
    if isinstance(error, ExpiredToken):
        return disconnect.TOKEN_EXPIRED
    if isinstance(error, InvalidToken):
        return disconnect.BAD_TOKEN
    if error.code == "forbidden":
        return disconnect.FORBIDDEN
    return disconnect.OVERLOADED if error.temporary else disconnect.BAD_TOKEN
