"""
What the server says: the JSON text frames of the protocol (docs/protocol.md), encoded.

Frames of a stream are spliced from parts that are encoded once: a notification for a thousand
recipients costs one encoding and a thousand joins of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from core.notification import Content
from core.streams import StreamKey, wire_name

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def content(notification: Content) -> bytes:
    """The `data` member of a notification's frames."""
    return encode(notification)


def timestamp(moment: datetime) -> bytes:
    """RFC 3339, as a JSON string."""
    return encode(moment)


def notification(key: StreamKey, seq: int, data: bytes, created_at: bytes) -> bytes:
    """A new entry: `data` from content(), `created_at` from timestamp()."""
    return b'{"type":"notification","data":%b,"timestamp":%b,"stream":%b,"seq":%d}' % (
        data,
        created_at,
        _stream(key),
        seq,
    )


def updated(key: StreamKey, seq: int, data: bytes) -> bytes:
    """A notification says something else now; `data` is its whole new content."""
    return b'{"type":"updated","data":%b,"stream":%b,"seq":%d}' % (data, _stream(key), seq)


def recalled(key: StreamKey, seq: int, notification_id: str, reason: str = "recalled") -> bytes:
    """
    A notification is gone; clients drop it. Also stands in the place of an entry that is read
    later than its recall (`recalled`) or expiry (`expired`), so that the sequence has no hole.
    """
    return b'{"type":"recalled","notification_id":"%b","reason":"%b","stream":%b,"seq":%d}' % (
        notification_id.encode(),
        reason.encode(),
        _stream(key),
        seq,
    )


def state(key: StreamKey, seq: int, kind: str, data: Mapping[str, Any]) -> bytes:
    """A change of state (`read`, `followed`, …); data as written by changed_notifications() and its like."""
    return encode({"type": kind, **data, "stream": wire_name(key.name), "seq": seq})


def changed_notifications(ids: Sequence[str], until: datetime | None = None) -> dict[str, Any]:
    """What `read`, `unread`, `seen`, `archived`, `unarchived` and `snoozed` say; one id stands alone besides."""
    data: dict[str, Any] = {"notification_ids": list(ids)}
    if len(ids) == 1:
        data["notification_id"] = ids[0]
    if until is not None:
        data["until"] = until
    return data


def position(key: StreamKey, seq: int) -> bytes:
    """Where a client stands whose filter holds entries back: everything up to seq is dealt with."""
    return b'{"type":"position","stream":%b,"seq":%d}' % (_stream(key), seq)


def message(channel: str, data: bytes) -> bytes:
    """An ephemeral message: no seq, at most once. `data` is JSON text."""
    return b'{"type":"message","channel":%b,"data":%b}' % (encode(channel), data)


def _stream(key: StreamKey) -> bytes:
    # Only topic names and the two fixed words come here: no character of theirs needs escaping.
    return b'"%b"' % wire_name(key.name).encode()
