"""
Streams: ordered, durable logs, one for each audience inside a tenant.

In the store a stream is named `user:<id>`, `tenant` or `topic:<name>`. On the wire it is named as
one person sees it: their own is `user`. A channel of the WebSocket protocol is the `<name>` of a topic.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TENANT = "tenant"
OWN = "user"

_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}\Z")
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}\Z")


class StreamKey(NamedTuple):
    """The name of one stream in the store."""

    tenant_id: str
    name: str


def user_stream(user_id: str) -> str:
    return f"user:{user_id}"


def topic_stream(topic: str) -> str:
    return f"topic:{topic}"


def wire_name(name: str) -> str:
    """What the person to whom the stream belongs, or who listens to it, calls it."""
    return OWN if name.startswith("user:") else name


def store_name(wire: str, user_id: str) -> str | None:
    """The stored name of what `user_id` calls `wire`; None when that is no stream of theirs."""
    if wire == OWN:
        return user_stream(user_id)
    if wire == TENANT:
        return TENANT
    if wire.startswith("topic:") and is_topic(wire[6:]):
        return wire
    return None


def is_topic(name: str) -> bool:
    """Whether a topic or channel may be called so: 1-127 of A-Z a-z 0-9 . _ : / -, the first a letter or digit."""
    return _TOPIC.match(name) is not None


def is_channel(name: str) -> bool:
    """
    Whether a connection may subscribe to a channel of that name. What names a stream as a client sees it names
    no channel: whoever subscribes to `tenant` or `user:anna` means something else than a topic called so.
    """
    return is_topic(name) and name not in (OWN, TENANT) and not name.startswith(("user:", "topic:"))


def is_tenant_id(name: str) -> bool:
    return _TENANT_ID.match(name) is not None
