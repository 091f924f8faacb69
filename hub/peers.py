"""What the nodes of a cluster tell each other about themselves; for people who look after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec

from core.clock import Clock
from hub.envelope import Envelope

#: The name of the announcement between nodes.
STATUS = "status"

INTERVAL = timedelta(seconds=5)
#: A node that has said nothing for so long is not counted any more.
LIFE = timedelta(seconds=15)


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node, counted."""

    node: str
    connections: int
    users: int
    streams: int
    in_doubt: int  # streams that are being compared with the store
    live: bool  # publications of other nodes arrive at once


_decoder = msgspec.json.Decoder(NodeStatus)


class Peers:
    """Says how this node is, remembers how the others are."""

    def __init__(
        self, own: Callable[[], NodeStatus], announce: Callable[[str, str, bytes], None], clock: Clock
    ) -> None:
        """announce: tenant, name and payload to all nodes."""
        self._own = own
        self._announce = announce
        self._clock = clock
        self._heard: dict[str, tuple[float, NodeStatus]] = {}

    async def run(self) -> None:
        """Announce, until cancelled."""
        while True:
            self._announce("", STATUS, msgspec.json.encode(self._own()))
            await self._clock.sleep(INTERVAL.total_seconds())

    def on_control(self, envelope: Envelope) -> None:
        if envelope.name == STATUS:
            self._heard[envelope.origin] = (self._clock.monotonic(), _decoder.decode(envelope.payload))

    def status(self) -> NodeStatus:
        """This node, now."""
        return self._own()

    def nodes(self) -> Sequence[NodeStatus]:
        """This node and every other that has spoken lately."""
        own = self._own()
        oldest = self._clock.monotonic() - LIFE.total_seconds()
        self._heard = {name: heard for name, heard in self._heard.items() if heard[0] >= oldest}
        return [own, *(status for name, (_, status) in self._heard.items() if name != own.node)]
