"""What is measured: how many listen, what is published, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

MARK = f"bench={0:08d}-{0:019d}"
"""Stands in every measured payload; the publisher stamps message number and time over it (wire.h)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table in README.md."""

    name: str
    title: str
    connections: int
    messages: int
    publishers: int
    payload_bytes: int  # of the JSON document that is published
    interval_ms: int = 0  # between two publications; 0: each publisher as soon as it has its answer
    in_flight: int = 40  # handshakes at a time, of all receivers together
    quiet_ms: int = 3_000  # of silence after the last publication: the rest counts as missing

    @property
    def deliveries(self) -> int:
        """Every connection receives every message."""
        return self.connections * self.messages

    def payload(self) -> dict[str, object]:
        """A JSON object with the mark, of exactly payload_bytes when written without spaces."""
        return padded({"mark": MARK, "text": ""}, "text", self.payload_bytes)


def padded(document: Mapping[str, object], member: str, size: int) -> dict[str, object]:
    """The document with one of its texts continued until its compact JSON has `size` bytes."""
    missing = size - len(compact(document))
    if missing < 0:
        raise ValueError(f"{size} bytes are too few for {document}")
    more = ("Carillon rings once and everyone hears it. " * (missing // 43 + 1))[:missing]
    return {**document, member: f"{document[member]}{more}"}


def compact(document: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


W1 = Workload(
    name="w1",
    title="W1: 1,000 connections on one channel, 500 messages of 200 bytes, 8 publishers that wait for their answer",
    connections=1_000,
    messages=500,
    publishers=8,
    payload_bytes=200,
)

WORKLOADS = {workload.name: workload for workload in (W1,)}
