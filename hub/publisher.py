"""What producers need of the hub: to say what has been committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hub.history import Entry


class Publisher(Protocol):
    """Tells this node and the others. Never blocks, never raises: what it loses, the streams repair."""

    def publish(self, entries: Sequence[Entry]) -> None:
        """Entries that are committed, in the order of their seqs per stream."""
        ...

    def publish_message(self, tenant_id: str, channel: str, data: bytes) -> None:
        """An ephemeral message to the listeners of a channel; `data` is JSON text."""
        ...
