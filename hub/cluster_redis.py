"""Which master of a Redis Cluster holds which slots (Redis Cluster specification)."""

from __future__ import annotations

from binascii import crc_hqx

from hub.link_redis import Refused, Reply
from hub.target_redis import Address

SLOTS = 1 << 14


def slot(name: bytes) -> int:
    """The slot of a key or channel: CRC16 of the part in braces, or of all of it."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def shards(reply: Reply, seed: Address) -> dict[Address, list[tuple[int, int]]]:
    """
    The slot ranges (both ends included) of each master, from the reply to CLUSTER SLOTS.

    seed: who answered; a server that does not know its own address means this one. Raises Refused when no slot is held.
    """
    ranges: dict[Address, list[tuple[int, int]]] = {}
    if isinstance(reply, list):
        for first, last, master, *_replicas in reply:
            host = master[0].decode() if master[0] else seed.host
            ranges.setdefault(Address(host, master[1]), []).append((first, last))
    if not ranges:
        raise Refused("CLUSTERDOWN no slot has a master")
    return ranges
