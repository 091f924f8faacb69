"""
A client as docs/protocol.md describes it, without a socket: a snapshot and the frames after it in, the inbox out.

Pure. What it shows must be what a fresh snapshot shows: *old snapshot + events = new snapshot*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class Item:
    """One notification in the list."""

    id: str
    stream: str  # wire name
    seq: int
    title: str
    read: bool = False
    seen: bool = False
    archived: bool = False
    snoozed_until: datetime | None = None
    expires_at: datetime | None = None

    def state(self) -> tuple[bool, bool, bool, bool]:
        return self.read, self.seen, self.archived, self.snoozed_until is not None


class Client:
    """Keeps everything it was ever given; a real one drops what is far from the top."""

    def __init__(
        self, listed: Iterable[Mapping[str, Any]], streams: Iterable[str], muted: Iterable[str] = ()
    ) -> None:
        """
        listed: as the list of notifications shows them, of any state. streams: wire names of what the
        person listens to. muted: topics.
        """
        self.items: dict[str, Item] = {}
        self._said: list[Mapping[str, Any]] = []  # changes of state, for notifications that arrive after them
        self.streams = set(streams)
        self.muted = {f"topic:{topic}" for topic in muted}
        for one in listed:
            item = Item(str(one["id"]), one["stream"], one["seq"], one["title"])
            item.read, item.seen, item.archived = one["read"], one["seen"], one["archived"]
            item.snoozed_until, item.expires_at = one["snoozed_until"], one["expires_at"]
            self.items[item.id] = item

    def unread(self, now: datetime) -> int:
        return sum(self._counts(item, now) and not item.read for item in self.items.values())

    def _counts(self, item: Item, now: datetime) -> bool:
        gone = item.expires_at is not None and item.expires_at <= now
        return not (gone or item.archived or item.snoozed_until is not None or item.stream in self.muted)

    def apply(self, frame: Mapping[str, Any]) -> None:
        """One frame; those of one stream come in the order of their seqs, streams among each other in any order."""
        match frame["type"]:
            case "notification":
                self._arrive(frame)
            case "updated":
                data = frame["data"]
                if item := self.items.get(data["id"]):
                    item.title, item.expires_at = data["title"], _moment(data["expires_at"])
            case "recalled":
                self.items.pop(frame["notification_id"], None)
            case "followed" | "unfollowed" | "muted" | "unmuted":
                self._change_topic(frame)
            case _:
                self._said.append(frame)
                for item in self.items.values():
                    change(item, frame)

    def _arrive(self, frame: Mapping[str, Any]) -> None:
        data = frame["data"]
        item = Item(data["id"], frame["stream"], frame["seq"], data["title"])
        item.expires_at = _moment(data["expires_at"])
        for said in self._said:  # another device may have been quicker than the stream
            change(item, said)
        self.items[item.id] = item

    def _change_topic(self, frame: Mapping[str, Any]) -> None:
        stream = f"topic:{frame['topic']}"
        self.streams.discard(stream)
        self.muted.discard(stream)
        match frame["type"]:
            case "followed":
                self.streams.add(stream)
            case "unfollowed":
                self.items = {key: item for key, item in self.items.items() if item.stream != stream}
            case "muted":
                self.muted.add(stream)
            case "unmuted":
                self.streams.add(stream)
                read = {"type": "read_all", "positions": {stream: frame["joined_seq"]}}
                self._said.append(read)
                for item in self.items.values():
                    change(item, read)


def change(item: Item, frame: Mapping[str, Any]) -> None:
    """What a change of state means for one notification (see delivery/inbox.py)."""
    if frame["type"] == "read_all":
        if item.seq <= frame["positions"].get(item.stream, -1) and item.snoozed_until is None:
            item.read = item.seen = True
        return
    if item.id not in frame["notification_ids"]:
        return
    match frame["type"]:
        case "read":
            item.read, item.seen, item.snoozed_until = True, True, None
        case "unread":
            item.read, item.seen, item.snoozed_until = False, True, None
        case "seen":
            item.seen = True
        case "archived":
            item.archived, item.snoozed_until = True, None
        case "unarchived":
            item.archived = False
        case "snoozed":
            item.read, item.seen, item.archived = False, True, False
            item.snoozed_until = _moment(frame["until"])
        case kind:
            raise AssertionError(f"no such kind: {kind}")


def _moment(value: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
