"""A notification as somebody submits it: a checked value, before it has an id. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec

from core.errors import Fault, ServiceError
from core.identity import is_user_id
from core.notification import DEFAULT_CHANNELS, DELIVERY_CHANNELS, RANKS, SHOWN, Priority
from core.streams import TENANT, StreamKey, is_tenant_id, is_topic, topic_stream, user_stream
from delivery.local_time import last
from delivery.mail import header_faults

#: The character NUL in JSON text: not a backslash that is followed by "u0000".
_A_NUL = rb"\u0000"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

MAX_RECIPIENTS = 1000
MAX_CONTENT_BYTES = 16 * 1024  # title, message and metadata as JSON, together
MAX_TITLE_LENGTH = 255
MAX_KEY_LENGTH = 255
MAX_TYPE_LENGTH = 64
MAX_URL_LENGTH = 2048
BATCH_WINDOWS = timedelta(seconds=10), timedelta(days=1)  # the shortest and the longest
BATCH_LIMITS = 2, 100


@dataclass(frozen=True, slots=True)
class Users:
    """Named people, each once, in sorted order: one notification, an entry in the stream of each."""

    user_ids: tuple[str, ...]

    @classmethod
    def of(cls, *user_ids: str) -> Users:
        return cls(tuple(sorted(set(user_ids))))

    def streams(self) -> list[str]:
        return [user_stream(user_id) for user_id in self.user_ids]


@dataclass(frozen=True, slots=True)
class Everyone:
    """Everybody of the tenant: one entry in its stream."""

    def streams(self) -> list[str]:
        return [TENANT]


@dataclass(frozen=True, slots=True)
class Topic:
    """Whoever follows a topic: one entry in its stream."""

    name: str

    def streams(self) -> list[str]:
        return [topic_stream(self.name)]


Audience = Users | Everyone | Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """
    How what goes to one person through a provider waits for more of its type under the same key.

    window: from the first of them, or where it is sliding from the latest. limit: so many end it at once.
    """

    key: str
    window: timedelta
    is_sliding: bool = False
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """
    What a producer hands in.

    tenant_id: of the audience; whether the sender may enter it is judged where the sender is known.
    collapse_key: the notification replaces earlier ones with this key to the same audience.
    group_key: for clients, which show what has the same key together.
    scheduled_for: published then and not before; None, or past: at once.
    local_time: of a tenant or a topic, without an offset: sent to each person when their clock shows it. Then
    scheduled_for is the moment at which it does so first, and nothing is shown in a stream, which all have in common.

    batching: for named people: what is not urgent waits for more, except in inboxes and on connections.

    Raises ServiceError (invalid) with every fault that it finds.
    """

    tenant_id: str
    audience: Audience
    title: str = field(repr=False)
    message: str = field(repr=False)
    notification_type: str
    priority: Priority = Priority.NORMAL
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    action_url: str | None = field(default=None, repr=False)  # as core.links let it pass
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    collapse_key: str | None = None
    group_key: str | None = None
    expires_at: datetime | None = None
    scheduled_for: datetime | None = None
    local_time: datetime | None = None
    batching: Batching | None = None

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise ServiceError("invalid", faults=faults)

    @property
    def keys(self) -> list[StreamKey]:
        """The streams that get an entry: none, when it is for other channels only."""
        if SHOWN.isdisjoint(self.channels):
            return []
        return [StreamKey(self.tenant_id, name) for name in self.audience.streams()]


def _faults(submission: Submission) -> Iterator[Fault]:
    if not is_tenant_id(submission.tenant_id):
        yield Fault("tenant_id", "is no name of a tenant")
    yield from _audience_faults(submission.audience)
    yield from content_faults(submission.title, submission.message, submission.metadata)
    if "email" in submission.channels and (fault := header_faults(submission.title)):
        yield Fault("title", fault)
    yield from _text_faults("notification_type", submission.notification_type, MAX_TYPE_LENGTH)
    if submission.priority not in RANKS:
        yield Fault("priority", f"must be among {', '.join(RANKS)}")
    if not submission.channels:
        yield Fault("channels", "must name at least one channel")
    for channel in submission.channels:
        if channel not in DELIVERY_CHANNELS:
            yield Fault("channels", f"must be among {', '.join(DELIVERY_CHANNELS)}")
    if submission.action_url is not None:
        yield from _text_faults("action_url", submission.action_url, MAX_URL_LENGTH)
    for path, key in (("collapse_key", submission.collapse_key), ("group_key", submission.group_key)):
        if key is not None:
            yield from _text_faults(path, key, MAX_KEY_LENGTH)
    for path, moment in (("expires_at", submission.expires_at), ("scheduled_for", submission.scheduled_for)):
        if moment is not None and moment.tzinfo is None:
            yield Fault(path, "must have an offset from UTC")
            return
    expires_at, scheduled_for = submission.expires_at, submission.scheduled_for
    if expires_at is not None and scheduled_for is not None and expires_at <= scheduled_for:
        yield Fault("expires_at", "must be after scheduled_for")
    if submission.batching is not None:
        yield from _batching_faults(submission, submission.batching)
    if submission.local_time is not None:
        if isinstance(submission.audience, Users):
            yield Fault("local_time", "is for a tenant or a topic; people have a moment each")
        if not SHOWN.isdisjoint(submission.channels):
            yield Fault(
                "channels", "must not name in_app or websocket, which everybody has at the same moment"
            )
        if expires_at is not None and expires_at <= last(submission.local_time):
            yield Fault("expires_at", "must be after the last person's scheduled_local")


def _batching_faults(submission: Submission, batching: Batching) -> Iterator[Fault]:
    if not isinstance(submission.audience, Users):
        yield Fault("batch", "is for named people")
    if SHOWN.issuperset(submission.channels):
        yield Fault("batch", "is for channels with a provider; inboxes show each at once")
    yield from _text_faults("batch.key", batching.key, MAX_KEY_LENGTH)
    if not BATCH_WINDOWS[0] <= batching.window <= BATCH_WINDOWS[1]:
        yield Fault("batch.seconds", "must be 10-86400")
    if not BATCH_LIMITS[0] <= batching.limit <= BATCH_LIMITS[1]:
        yield Fault("batch.max", "must be 2-100")


def _audience_faults(audience: Audience) -> Iterator[Fault]:
    match audience:
        case Users(user_ids):
            if not 0 < len(user_ids) <= MAX_RECIPIENTS:
                yield Fault("user_ids", f"must name 1-{MAX_RECIPIENTS} people")
            if not all(map(is_user_id, user_ids)):
                yield Fault("user_ids", "must be 1-255 printable characters each")
            if any(one >= other for one, other in pairwise(user_ids)):
                yield Fault("user_ids", "must be sorted and name nobody twice")
        case Topic(name) if not is_topic(name):
            yield Fault("topic", "is no name of a topic")


def content_faults(title: str, message: str, metadata: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the words of a notification."""
    for path, text in (("title", title), ("message", message)):
        if not text.strip():
            yield Fault(path, "must not be empty")
    try:
        encoded = msgspec.json.encode((title, message, metadata))
    except (TypeError, ValueError):  # UnicodeEncodeError is one: half a surrogate pair
        yield Fault("", "title, message and metadata must be what JSON can say")
        return
    if not _is_finite(metadata):
        yield Fault("metadata", "must not hold numbers beyond what a double can say")
    if _A_NUL in encoded and _NUL.search(encoded):
        yield Fault("", "title, message and metadata must not contain the character NUL")
    if len(encoded) > MAX_CONTENT_BYTES:
        yield Fault(
            "", f"title, message and metadata are larger than {MAX_CONTENT_BYTES // 1024} KiB together"
        )


#: What most values in JSON are.
_PLAIN = (str, int, type(None))


def _is_finite(value: Any) -> bool:
    """Whether every number in a JSON value is one; 1e400 is read as infinity, which JSON cannot say."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, _PLAIN):
            continue
        if isinstance(one, float):
            if not math.isfinite(one):
                return False
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        elif isinstance(one, dict) or isinstance(one, Mapping):  # noqa: SIM101 - asking for Mapping is dear
            waiting.extend(one.values())
    return True


def _text_faults(path: str, text: str, longest: int) -> Iterator[Fault]:
    if not 0 < len(text) <= longest:
        yield Fault(path, f"must be 1-{longest} characters")
    elif not text.isprintable():  # no controls, NUL or lone surrogates
        yield Fault(path, "must be printable characters")
