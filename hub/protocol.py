"""
The commands of a client and the replies to them: JSON text frames (docs/protocol.md).

Every command may carry an `id`, echoed in its reply. Unknown types are an error, unknown members are
ignored: an older server understands what it can of a newer client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from core.errors import ServiceError
from hub.frames import encode

Ref: TypeAlias = Annotated[str, Meta(max_length=64)] | int | None
#: A place in a stream; what the store can hold, since it is counted with and asked for.
MAX_POSITION = 2**63 - 1
Position: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_POSITION)]
Positions: TypeAlias = Annotated[dict[str, Position], Meta(max_length=1000)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=127)]
Token: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]

#: Bytes of JSON that a ping may have sent back: who does not read must not make us keep its frames.
MAX_TIMESTAMP = 128

#: How many notifications one command may change.
MAX_IDS = 500


class Command(Struct, tag_field="type", kw_only=True, gc=False, frozen=True):
    """Whatever a client says."""

    id: Ref = None


class Ping(Command, tag="ping", frozen=True, kw_only=True):
    """Is anybody there? Answered by `pong` with the same timestamp."""

    timestamp: Raw = Raw(b"null")


class Auth(Command, tag="auth", frozen=True, kw_only=True):
    """The first frame of a connection that brought no token otherwise."""

    token: Token


class Refresh(Command, tag="refresh", frozen=True, kw_only=True):
    """A newer token of the same person; answered by `refreshed`."""

    token: Token


class Resume(Command, tag="resume", frozen=True, kw_only=True):
    """Hand over what came after these positions; answered by `resumed` after it, or by `resync`."""

    positions: Positions
    epoch: str | None = None  # None: that of this connection


class Subscribe(Command, tag="subscribe_channel", frozen=True, kw_only=True):
    """Listen to a channel for the life of this connection; with `since`: and hand over what came after it."""

    channel: Name
    epoch: str | None = None
    since: Position | None = None
    types: (
        Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(min_length=1, max_length=32)]
        | None
    ) = None
    min_priority: str | None = None


class Unsubscribe(Command, tag="unsubscribe_channel", frozen=True, kw_only=True):
    """Listen no longer."""

    channel: Name


class TopicCommand(Command, frozen=True, kw_only=True):
    """What a person does with a topic: it holds for all their devices, now and later."""

    topic: Name


class FollowTopic(TopicCommand, tag="follow_topic", frozen=True, kw_only=True):
    """Receive what is sent to the topic."""


class UnfollowTopic(TopicCommand, tag="unfollow_topic", frozen=True, kw_only=True):
    """Receive it no longer."""


class MuteTopic(TopicCommand, tag="mute_topic", frozen=True, kw_only=True):
    """Keep following, without live notifications and without counting as unread."""


class UnmuteTopic(TopicCommand, tag="unmute_topic", frozen=True, kw_only=True):
    """Undo a mute."""


class StateCommand(Command, frozen=True, kw_only=True):
    """What a person does with notifications: one by `notification_id`, or up to 500 by `notification_ids`."""

    notification_id: UUID | None = None
    notification_ids: Annotated[list[UUID], Meta(min_length=1, max_length=MAX_IDS)] | None = None

    def ids(self) -> list[UUID]:
        """Raises ServiceError (bad_request) unless exactly one of the members is given."""
        if (self.notification_id is None) == (self.notification_ids is None):
            raise ServiceError("bad_request", "Give either notification_id or notification_ids.")
        if self.notification_ids is not None:
            return self.notification_ids
        assert self.notification_id is not None  # the check above
        return [self.notification_id]


class MarkRead(StateCommand, tag="mark_read", frozen=True, kw_only=True):
    """Read."""


class MarkUnread(StateCommand, tag="mark_unread", frozen=True, kw_only=True):
    """Unread again."""


class MarkSeen(StateCommand, tag="mark_seen", frozen=True, kw_only=True):
    """Noticed in a list, not opened."""


class Archive(StateCommand, tag="archive", frozen=True, kw_only=True):
    """Out of the list, and not counted; read or unread as it was."""


class Unarchive(StateCommand, tag="unarchive", frozen=True, kw_only=True):
    """Back into the list."""


class Snooze(StateCommand, tag="snooze", frozen=True, kw_only=True):
    """Out of the list until a moment, then back, unread."""

    until: datetime


class MarkAllRead(Command, tag="mark_all_read", frozen=True, kw_only=True):
    """Everything up to these positions is read; without them, everything there is."""

    positions: Positions | None = None


class Publish(Command, tag="publish", frozen=True, kw_only=True):
    """An ephemeral message to a channel this connection listens to, where its namespace allows that."""

    channel: Name
    data: Raw


class Received(Command, tag="received", frozen=True, kw_only=True):
    """How far the client has got: receipts of delivery, not needed for correctness. No reply."""

    positions: Positions


class Presence(Command, tag="presence", frozen=True, kw_only=True):
    """Whether somebody is looking. No reply."""

    visible: bool


AnyCommand: TypeAlias = (
    Ping
    | Auth
    | Refresh
    | Resume
    | Subscribe
    | Unsubscribe
    | FollowTopic
    | UnfollowTopic
    | MuteTopic
    | UnmuteTopic
    | MarkRead
    | MarkUnread
    | MarkSeen
    | Archive
    | Unarchive
    | Snooze
    | MarkAllRead
    | Publish
    | Received
    | Presence
)

COMMANDS: tuple[type[Command], ...] = AnyCommand.__args__

_decoder: msgspec.json.Decoder[AnyCommand] = msgspec.json.Decoder(AnyCommand)


class _Reference(Struct):
    id: Ref = None


_reference = msgspec.json.Decoder(_Reference)


class BadCommand(ServiceError):
    """A frame that is no command of ours; `ref` is its id where that could be read."""

    def __init__(self, message: str, ref: Ref) -> None:
        super().__init__("bad_request", message)
        self.ref = ref


def decode(text: str) -> AnyCommand:
    """Raises BadCommand, saying what is wrong and where."""
    try:
        command = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadCommand(str(error), reference(text)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise BadCommand("The frame is not a JSON object.", None) from None
    if isinstance(command, Ping) and len(bytes(command.timestamp)) > MAX_TIMESTAMP:
        raise BadCommand(f"Expected at most {MAX_TIMESTAMP} bytes - at `$.timestamp`", command.id)
    return command


def reference(text: str) -> Ref:
    """The id of a frame that is not carried out, where it has one that can be read."""
    try:
        return _reference.decode(text).id
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


# -- replies


def welcome(
    *,
    connection_id: str,
    user_id: str,
    tenant_id: str,
    epoch: str,
    positions: Mapping[str, int],
    unread_count: int,
    heartbeat_ms: int,
) -> bytes:
    """The first frame after the token was accepted. Everything after `positions` follows."""
    return encode(
        {
            "type": "welcome",
            "connection_id": connection_id,
            "user_id": user_id,
            "tenant_id": tenant_id,
            "epoch": epoch,
            "positions": positions,
            "unread_count": unread_count,
            "heartbeat_ms": heartbeat_ms,
        }
    )


def reply(type_: str, ref: Ref, **members: Any) -> bytes:
    """A reply; `id` is there when the command had one."""
    if ref is not None:
        members["id"] = ref
    return encode({"type": type_, **members})


def pong(command: Ping) -> bytes:
    if command.id is None:
        return b'{"type":"pong","timestamp":%b}' % bytes(command.timestamp)
    return b'{"type":"pong","timestamp":%b,"id":%b}' % (bytes(command.timestamp), encode(command.id))


def error(ref: Ref, problem: ServiceError) -> bytes:
    """What was wrong with a command; the connection stays."""
    members: dict[str, Any] = {"code": problem.code, "message": problem.message}
    if problem.retry_after is not None:
        members["retry_after_ms"] = round(problem.retry_after * 1000)
    return reply("error", ref, **members)


def resync(
    epoch: str, positions: Mapping[str, int], unread_count: int, newest: Sequence[Mapping[str, Any]]
) -> bytes:
    """Continuity is lost: forget what you had, this is how things stand at `positions`."""
    return encode(
        {
            "type": "resync",
            "epoch": epoch,
            "positions": positions,
            "unread_count": unread_count,
            "newest": newest,
        }
    )


def token_expiring(expires_at: datetime) -> bytes:
    return encode({"type": "token_expiring", "expires_at": expires_at})


def reconnect(after_ms: int) -> bytes:
    """This node goes away: come back elsewhere after so long."""
    return encode({"type": "reconnect", "after_ms": after_ms})
