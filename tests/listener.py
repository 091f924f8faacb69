"""A member of streams that keeps what it is handed: the smallest client there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


class Listener:
    """Takes payloads, keeps them in order."""

    def __init__(self) -> None:
        self.wire = None
        self.frames: list[dict[str, Any]] = []
        self.batches = 0
        self.resyncs = 0
        self.membership: list[str] = []

    def deliver(self, payloads: Sequence[bytes]) -> None:
        self.batches += 1
        self.frames += [json.loads(payload) for payload in payloads]

    def on_membership(self, kind: str, payload: bytes) -> None:
        self.membership.append(kind)

    def on_resync(self) -> None:
        self.resyncs += 1

    async def drained(self) -> None:
        return

    def seqs(self, stream: str = "user") -> list[int]:
        """The seqs of one stream's entries, in the order they came."""
        return [
            frame["seq"]
            for frame in self.frames
            if frame.get("stream") == stream and frame["type"] != "position"
        ]
